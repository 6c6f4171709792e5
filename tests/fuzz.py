"""Deterministic mutations of small files, for the tests of what strangers may send."""

import contextlib
import random
import resource
from collections.abc import Iterator, Sequence
from pathlib import Path

_EXTREMES = [
    bytes(8),
    b"\xff" * 8,
    b"\xff" * 4,
    (2**60).to_bytes(8, "little"),
    (2**31).to_bytes(4, "little"),
    b"../..",
    b"\n",
]


def mutations(originals: Sequence[bytes], count: int, seed: int = 0) -> Iterator[bytes]:
    """`count` files, each an original with 1 to 3 changes: a bit, a byte or a word, or bytes cut, doubled or put in."""
    rng = random.Random(seed)
    for index in range(count):
        data = bytearray(originals[index % len(originals)])
        for _ in range(rng.randint(1, 3)):
            at = rng.randrange(len(data) + 1)
            length = min(rng.choice((1, 2, 4, 8, 40)), len(data) - at)
            kind = rng.randrange(6)
            if kind == 0 and length:
                data[at] ^= 1 << rng.randrange(8)
            elif kind == 1 and length:
                data[at] = rng.randrange(256)
            elif kind == 2:
                word = rng.choice(_EXTREMES)
                data[at : at + len(word)] = word
            elif kind == 3:
                del data[at : at + length]
            elif kind == 4:
                data[at:at] = data[at : at + length]
            else:
                data[at:at] = rng.choice(_EXTREMES)
        yield bytes(data)


@contextlib.contextmanager
def limited_memory(extra: int = 512 * 2**20) -> Iterator[None]:
    """Let this process allocate no more than `extra` bytes on top of what it has, as lengths in a file may claim any number."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    has = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (has + extra, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
