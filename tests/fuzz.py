"""Deterministic mutations of small files, for the tests of what strangers may send."""

import random
from collections.abc import Iterator, Sequence

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
