"""Kinds of values that command-line flags take, as argparse types: a wrong one is refused by name before anything starts."""

import argparse
import math
import re
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from tool.errors import leave_it_to_the_first
from tool.wording import nearest


class Help(argparse.RawDescriptionHelpFormatter):
    """Shows the description as it is written, and each flag's default where it has one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default is False or action.default in (None, "", argparse.SUPPRESS):  # 0 is shown
            return action.help
        if isinstance(action.default, list):
            return f"{action.help} (default: {' '.join(map(str, action.default))})"
        return f"{action.help} (default: %(default)s)"


class Parser(argparse.ArgumentParser):
    """A parser of flags: its help shows the description as it is written, its errors what a mistyped flag was meant to be."""

    def __init__(self, description: str | None) -> None:
        super().__init__(description=description, formatter_class=Help)
        self.given: list[str] = []

    def parse_known_args(self, args=None, namespace=None):
        self.given = list(sys.argv[1:] if args is None else args)
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        known = self._option_string_actions
        for name in (word.partition("=")[0] for word in self.given):
            if name.startswith("--") and not any(flag.startswith(name) for flag in known):
                message += f"; {name}{nearest(name, known)}" if nearest(name, known) else ""
        leave_it_to_the_first()
        super().error(message)


def number(kind: type, least: float = -math.inf, most: float = math.inf) -> Callable[[str], int | float]:
    """A finite number, `int` or `float`, in least..most."""

    def parse(text: str) -> int | float:
        value = kind(text)  # argparse words the error: "invalid int value"
        if not (least <= value <= most and math.isfinite(value)):
            wanted = f"at most {most}" if value > most else f"at least {least}" if math.isfinite(least) else "a number"
            raise argparse.ArgumentTypeError(f"{text}, where {wanted} was expected")
        return value

    parse.__name__ = kind.__name__
    return parse


def count(least: int = 0) -> Callable[[str], int | float]:
    """A whole number of at least `least`."""
    return number(int, least, 2**31 - 1)


def module_name(text: str) -> str:
    """Name of a Python module, such as package.module."""
    if not all(part.isidentifier() for part in text.split(".")):
        raise argparse.ArgumentTypeError(f"{text!r} names no Python module; write it as package.module")
    return text


def plain_name(text: str) -> str:
    """A name that can be part of a file name and leads out of no folder."""
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.+=,-]{0,99}", text):
        raise argparse.ArgumentTypeError(f"{text!r}, where letters, digits and _ . + = , - were expected")
    return text


def tell_idle(args: argparse.Namespace, parser: argparse.ArgumentParser, names: Sequence[str], when: str) -> None:
    """Say on stderr which of the flags `names` have other values than their defaults, and no effect `when`."""
    given = [f"--{name}" for name in names if getattr(args, name) != parser.get_default(name)]
    if given:
        print(f"note: {', '.join(given)} {'has' if len(given) == 1 else 'have'} no effect {when}", file=sys.stderr)
