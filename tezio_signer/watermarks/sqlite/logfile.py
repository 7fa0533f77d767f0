"""Reads which pages of a database are in the log beside it (SQLite's file format, 4.1 and 4.2).

A power cut while the log is brought into the file can leave the file with a part of its last
page. Nothing is lost then, since that page is in the log, from which SQLite reads it.
"""

import os
from pathlib import Path
from struct import Struct, unpack

_HEADER = Struct(">8I")
"""Magic number, version, page size, sequence number, two salts, two sums."""
_FRAME = Struct(">6I")
"""Page, size of the database after a commit or 0, two salts, two sums."""
_MAGIC = {0x377F0682: "<", 0x377F0683: ">"}
_Sums = tuple[int, int]


def pages_in_log(path: Path) -> set[int]:
    """Return the numbers of the pages that the log has for certain; raises OSError.

    :param path: of the database.
    """
    try:
        log = Path(f"{os.path.realpath(path)}-wal").read_bytes()
    except FileNotFoundError:
        return set()
    if len(log) < _HEADER.size:
        return set()
    magic, _, page_size, _, *salts_and_sums = _HEADER.unpack_from(log)
    salts, written = salts_and_sums[:2], tuple(salts_and_sums[2:])
    if magic not in _MAGIC:
        return set()
    sums = _summed(log[:24], _MAGIC[magic], (0, 0))
    committed: set[int] = set()
    waiting: set[int] = set()
    start = _HEADER.size
    while sums == written and start + _FRAME.size + page_size <= len(log):
        page, commits, *rest = _FRAME.unpack_from(log, start)
        behind = start + _FRAME.size + page_size
        written = tuple(rest[2:])
        sums = _summed(log[start : start + 8], _MAGIC[magic], sums)
        sums = _summed(log[start + _FRAME.size : behind], _MAGIC[magic], sums)
        if rest[:2] != salts or sums != written:
            break
        waiting.add(page)
        if commits:
            committed |= waiting
        start = behind
    return committed


def _summed(data: bytes, order: str, sums: _Sums) -> _Sums:
    first, second = sums
    words = iter(unpack(f"{order}{len(data) // 4}I", data))
    for one, other in zip(words, words, strict=True):
        first = (first + one + second) & 0xFFFFFFFF
        second = (second + other + first) & 0xFFFFFFFF
    return first, second
