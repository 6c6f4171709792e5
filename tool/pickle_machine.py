"""A pickle machine without calls: it follows what a pickle builds but can neither import nor run anything."""

import os
import pickletools
from typing import IO, Any

_MARK = object()
_CONSTANTS = {"MARK": _MARK, "NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_LITERALS = {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"}
_LITERALS |= {"BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}

# What malformed input raises here and in the vocabularies below. Only ValueError carries a reason for the user.
MALFORMED = (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError)


class PickleMachine:
    """Reads one pickle of protocol 2 to 5 from `stream`, which is then behind its last byte.

    Subclasses are vocabularies: they say which names (`known`), calls (`reduce`), states (`build`) and outside references
    (`persistent`) a pickle may hold and what each becomes. What they do not know raises ValueError. Dicts, lists, tuples,
    strings, bytes, numbers, booleans and None need no vocabulary; keys of dicts are strings or integers below 2^31.

    Memory and time are bounded by the bytes that are there, whatever the lengths in them claim, and by `max_steps`
    opcodes, each good for about 150 bytes and 3 microseconds.
    """

    max_steps = 4_000_000  # the labels of 12031 images take 0.4 million

    def __init__(self, stream: IO[bytes]):
        self.stream = _Stream(stream)
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        """The object that the pickle describes. Raises one of MALFORMED."""
        for step, (opcode, argument, _) in enumerate(pickletools.genops(self.stream)):
            if step == self.max_steps:
                raise ValueError(f"more than {self.max_steps} pickle steps")
            self._step(opcode.name, argument)
        if len(self.stack) != 1:
            raise ValueError("its pickle holds more than one object")
        return self.stack[0]

    def known(self, module: str, name: str) -> Any:
        """What stands for a name that the pickle asks for."""
        raise ValueError(f"it asks for {module[:40]!r} {name[:40]!r}, which is refused because it could run code")

    def reduce(self, function: Any, arguments: tuple) -> Any:
        """The result of a call of something that `known` returned."""
        raise ValueError("it asks for a call that such a file does not need")

    def build(self, target: Any, state: Any) -> None:
        """Take in the state of an object that `reduce` returned."""
        raise ValueError("it holds a state for something that has none")

    def persistent(self, reference: Any) -> Any:
        """What stands for a reference to something outside the pickle."""
        raise ValueError("it refers to something outside of it")

    def _step(self, name: str, argument: Any) -> None:
        stack = self.stack
        if name in _LITERALS:
            stack.append(argument)
        elif name in ("BINPUT", "LONG_BINPUT"):
            self.memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(self.memo[argument])
        elif name in _TUPLES:
            stack[-_TUPLES[name] :] = [tuple(stack[-_TUPLES[name] :])]
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name == "EMPTY_LIST":
            stack.append([])
        elif name == "EMPTY_DICT":
            stack.append({})
        elif name == "TUPLE":
            stack.append(tuple(self._pop_to_mark()))
        elif name == "BUILD":
            state = stack.pop()
            self.build(stack[-1], state)
        elif name == "REDUCE":
            arguments = stack.pop()
            stack[-1] = self.reduce(stack[-1], arguments)
        elif name == "BINPERSID":
            stack[-1] = self.persistent(stack[-1])
        elif name == "SETITEM":
            self._set_items([stack.pop(-2), stack.pop()])
        elif name == "SETITEMS":
            self._set_items(self._pop_to_mark())
        elif name == "APPEND":
            self._append([stack.pop()])
        elif name == "APPENDS":
            self._append(self._pop_to_mark())
        elif name == "GLOBAL":
            stack.append(self.known(*argument.split(" ")))
        elif name == "STACK_GLOBAL":
            stack[-2:] = [self._stack_global(*stack[-2:])]
        elif name not in ("PROTO", "FRAME", "STOP"):
            raise ValueError(f"its pickle uses {name}, which such a file does not need")
        elif name == "PROTO" and not 2 <= argument <= 5:
            raise ValueError(f"its pickle has protocol {argument}, where 2 to 5 are read")

    def _stack_global(self, module: Any, name: Any) -> Any:
        if type(module) is not str or type(name) is not str:
            raise ValueError("it asks for something without a name")
        return self.known(module, name)

    def _pop_to_mark(self) -> list[Any]:
        at = len(self.stack) - 1
        while self.stack[at] is not _MARK:
            at -= 1
            if at < 0:
                raise ValueError("a mark is missing")
        items = self.stack[at + 1 :]
        del self.stack[at:]
        return items

    def _set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not dict or len(items) % 2:
            raise ValueError("items set on something that is not a dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            # Checked before it is hashed: nested tuples and chosen large integers make hashing take for ever.
            if type(key) is not str and not (type(key) is int and abs(key) < 2**31):
                raise ValueError("a key of the dict is neither an integer nor a string")
            target[key] = value

    def _append(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not list:
            raise ValueError("items appended to something that is not a list")
        self.stack[-1].extend(items)


class _Stream:
    """The reading end that pickletools needs. A claimed length allocates no more than the bytes that are left."""

    def __init__(self, stream: IO[bytes]):
        self.stream, self.tell = stream, stream.tell
        at = stream.tell()
        self.end = stream.seek(0, os.SEEK_END)
        stream.seek(at)

    def read(self, count: int) -> bytes:
        return self.stream.read(min(count, self.end - self.tell()))

    def readline(self) -> bytes:
        """Lines hold the names of modules and of what is in them, and these are short."""
        return self.stream.readline(200)
