"""Bytes made of other bytes, at random but repeatable."""

from collections.abc import Sequence
from itertools import pairwise
from random import Random
from zlib import crc32

_EDGES = [0, 1, 2, 0x3F, 0x40, 0x7F, 0x80, 0xBF, 0xFF]
_NUMBERS = [0, 1, 0x7FFF, 0x8000, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1]


def mutated(random: Random, data: bytes, others: Sequence[bytes], tokens: Sequence[bytes]) -> bytes:
    """Some changes to `data`, which may take parts of the others and whole tokens."""
    result = bytearray(data)
    for _ in range(1 << random.randrange(4)):
        _change(random, result, others, tokens)
    return bytes(result)


def _change(
    random: Random, data: bytearray, others: Sequence[bytes], tokens: Sequence[bytes]
) -> None:
    at = random.randrange(len(data) + 1)
    end = at + random.randrange(1, 33)
    match random.randrange(9):
        case 0:
            data[at : at + 1] = bytes([random.randrange(256)])
        case 1 if at < len(data):
            data[at] ^= 1 << random.randrange(8)
        case 2 if at < len(data):
            data[at] = random.choice(_EDGES)
        case 3:
            size = random.choice((1, 2, 4))
            number = random.choice(_NUMBERS) & (256**size - 1)
            data[at : at + size] = number.to_bytes(size, "big")
        case 4:
            del data[at:end]
        case 5:
            data[at:at] = data[at:end] * random.choice((1, 1, 2, 30))
        case 6:
            del data[at:]
        case 7 if tokens:
            data[at : at + random.choice((0, 0, 1, 8))] = random.choice(tokens)
        case 8 if others:
            other = random.choice(others)
            start = random.randrange(len(other) + 1)
            data[at : random.choice((at, end, len(data)))] = other[start : start + end]
        case _:
            data[at:at] = bytes([random.randrange(256)])


def pieces(data: bytes) -> list[bytes]:
    """The same bytes as a network may deliver them; the same data is always cut alike."""
    random = Random(crc32(data))
    count = min(random.choice((0, 0, 1, 2, 8, 64)), len(data))
    cuts = [0, *sorted(random.randrange(len(data)) for _ in range(count)), len(data)]
    return [data[a:b] for a, b in pairwise(cuts) if a < b]
