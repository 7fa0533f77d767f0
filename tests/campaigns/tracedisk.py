"""A disk as a power cut leaves it, from the system calls that have written to it."""

import re
from collections.abc import Iterator
from pathlib import Path
from random import Random

from attrs import define, field, frozen

SECTOR = 512
"""Bytes that a disk writes as one."""
_UNFINISHED = " <unfinished ...>"
_CALL = re.compile(r"(\w+)\((.*)\) += (-?\d+)")
_FILE = re.compile(r"\d+<([^>]*)>")
SYNCS = ("fsync", "fdatasync")


@frozen
class Call:
    """A system call of the daemon: its name, its arguments as strace writes them, its result."""

    name: str
    arguments: str
    result: int

    @property
    def file(self) -> Path:
        """The file behind the descriptor that comes first."""
        found = _FILE.match(self.arguments)
        return Path(_text(found[1])) if found else Path()

    @property
    def strings(self) -> list[bytes]:
        """The strings among the arguments."""
        return [_bytes(text) for text in re.findall(r'"([^"]*)"', self.arguments)]

    @property
    def last_number(self) -> int:
        """The last argument."""
        return int(self.arguments.rsplit(",", 1)[1])


def _bytes(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", ""))


def _text(path: str) -> str:
    return _bytes(path).decode() if path.startswith("\\x") else path


def calls(trace: str) -> Iterator[Call]:
    """The calls in a trace: what sends when it began, all others when they had ended."""
    begun: dict[str, str] = {}
    for line in trace.splitlines():
        thread, _, text = line.partition(" ")
        text = text.lstrip()
        if text.endswith(_UNFINISHED):
            begun[thread] = text.removesuffix(_UNFINISHED)
            name, _, arguments = begun[thread].partition("(")
            if name.startswith(("send", "write")):
                yield Call(name, arguments, 0)
                del begun[thread]
            continue
        if text.startswith("<... "):
            if thread not in begun:
                continue
            text = begun.pop(thread) + text.partition("resumed>")[2]
        if (found := _CALL.match(text)) and int(found[3]) >= 0:
            yield Call(found[1], found[2], int(found[3]))


@define(eq=False)
class File:
    """What was written to a file, and what of it is sure to be on the disk."""

    data: bytearray
    synced: bytes
    pending: list[tuple[int, bytes | None]] = field(factory=list)
    """Offsets and what was written there since; None cuts the file off."""

    def write(self, offset: int, data: bytes | None) -> None:
        """Change it in memory only."""
        self.pending.append((offset, data))
        _apply(self.data, offset, data)

    def sync(self) -> None:
        """Bring it to the disk."""
        self.synced, self.pending = bytes(self.data), []

    def torn(self, random: Random) -> bytes:
        """With some of the sectors that were not synced."""
        data = bytearray(self.synced)
        for offset, written in self.pending:
            if written is None:
                if random.random() < 0.5:
                    _apply(data, offset, None)
                continue
            end = offset + len(written)
            for sector in range(offset // SECTOR * SECTOR, end, SECTOR):
                start, stop = max(sector, offset), min(sector + SECTOR, end)
                if random.random() < 0.5:
                    _apply(data, start, written[start - offset : stop - offset])
        return bytes(data)


def _apply(data: bytearray, offset: int, written: bytes | None) -> None:
    if len(data) < offset:
        data.extend(bytes(offset - len(data)))
    if written is None:
        del data[offset:]
    else:
        data[offset : offset + len(written)] = written


class Disk:
    """A directory whose files and names are lost unless they were synced."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._names = {
            path.name: File(bytearray(path.read_bytes()), path.read_bytes())
            for path in directory.iterdir()
        }
        self._synced_names = dict(self._names)

    def play(self, call: Call) -> bool:
        """Do what a call did; whether it concerns this directory."""
        if call.name == "openat":
            path = Path(call.strings[0].decode())
            created = path.parent == self._directory and path.name not in self._names
            if created:
                self._names[path.name] = File(bytearray(), b"")
            return created
        if call.name.startswith("unlink"):
            path = Path(call.strings[0].decode())
            return path.parent == self._directory and self._names.pop(path.name) is not None
        if call.name.startswith("rename"):
            old, new = (Path(text.decode()) for text in call.strings)
            if old.parent != self._directory:
                return False
            self._names[new.name] = self._names.pop(old.name)
            return True
        if call.file == self._directory and call.name in SYNCS:
            self._synced_names = dict(self._names)
            return True
        if call.file.parent != self._directory:
            return False
        file = self._names[call.file.name]
        if call.name == "pwrite64":
            file.write(call.last_number, call.strings[-1])
        elif call.name == "ftruncate":
            file.write(call.last_number, None)
        elif call.name in SYNCS:
            file.sync()
        else:
            raise ValueError(f"{call.name} in the store's directory")
        return True

    def left(self, random: Random | None = None) -> dict[str, bytes]:
        """The files after a power cut: only what was synced, or some of the rest as well."""
        if random is None:
            return {name: file.synced for name, file in self._synced_names.items()}
        names = self._names if random.random() < 0.5 else self._synced_names
        return {name: file.torn(random) for name, file in names.items()}
