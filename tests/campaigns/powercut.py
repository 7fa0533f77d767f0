"""The power fails behind every step of the store: `python -m tests.campaigns.powercut`.

A daemon signs under strace, which records in order what it writes to its store, what it syncs,
and when it sends a signature. From this the disk is rebuilt as a power cut at each of these
moments could have left it: with nothing but what was synced, and with some of the rest, sector
by sector. The store found there has to cover every signature that had been sent by then.
"""

import argparse
import os
import re
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

from attrs import define, field, frozen
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater

from tests.campaigns.rig import run
from tests.campaigns.signing import (
    CHAINS,
    Asked,
    ForgetfulFirmware,
    Ledger,
    Track,
    configuration,
    signature_in,
)
from tests.daemonprocess import FREE_PORT, TWISTD, Process, serving, spawn
from tests.stand import Client, reactor
from tests.vectors import TZ1, TZ3
from tezio_signer.hsm.simulator import Simulator
from tezio_signer.watermarks import sqlite
from tezio_signer.watermarks.grouped import REST
from tezio_signer.watermarks.sqlite import SqliteStore
from tezio_signer.watermarks.store import StoreError

STORE = "watermarks.sqlite"
SECTOR = 512
"""Bytes that a disk writes as one."""
TRACED = (
    "openat,write,writev,pwrite64,pwritev,pwritev2,sendto,sendmsg,fsync,fdatasync,sync,"
    "sync_file_range,ftruncate,truncate,fallocate,rename,renameat,renameat2,unlink,unlinkat"
)
_STRACE = [
    "-f",
    "--seccomp-bpf",
    "-qq",
    "-y",
    "-xx",
    "-s",
    "100000",
    "-e",
    f"trace={TRACED}",
]
_UNFINISHED = " <unfinished ...>"
_CALL = re.compile(r"(\w+)\((.*)\) += (-?\d+)")
_FILE = re.compile(r"\d+<([^>]*)>")
_SIGNATURE = re.compile(rb'"signature":"(\w+)"')
_SYNCS = ("fsync", "fdatasync")


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
        if call.file == self._directory and call.name in _SYNCS:
            self._synced_names = dict(self._names)
            return True
        if call.file.parent != self._directory:
            return False
        file = self._names[call.file.name]
        if call.name == "pwrite64":
            file.write(call.last_number, call.strings[-1])
        elif call.name == "ftruncate":
            file.write(call.last_number, None)
        elif call.name in _SYNCS:
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


@define
class Report:
    """What a run has found."""

    signatures: int = 0
    syncs: int = 0
    sent: int = 0
    cuts: int = 0
    conflicts: set[str] = field(factory=set)
    above: set[str] = field(factory=set)
    unreadable: set[str] = field(factory=set)

    @property
    def passed(self) -> bool:
        """Whether nothing happened that must not, and all that was signed was seen."""
        wrong = self.conflicts or self.above or self.unreadable
        return not wrong and self.sent == self.signatures


async def record(
    wanted: int, directory: Path, random: Random
) -> tuple[list[str], dict[str, Asked]]:
    """Have a daemon sign, stop it, and again; the traces, and the payload of each signature."""
    store, hsm = directory / "store" / STORE, str(directory / "hsm")
    (directory / "config.yaml").write_text(configuration(hsm, f"sqlite:{store}"), "utf-8")
    simulator = Simulator(reactor, ForgetfulFirmware(lambda *_: None), 0, hsm)
    simulator.startService()
    tracks = [Track(TZ1, CHAINS[0]), *(Track(TZ3, chain) for chain in CHAINS)]
    signed: dict[str, Asked] = {}

    async def compete(client: Client, track: Track, until: int) -> None:
        while len(signed) < until:
            asking = track.competing()
            random.shuffle(asking)
            for asked, answer in zip(
                asking,
                await gatherResults(
                    [Deferred.fromCoroutine(client.sign(track.key, a.data)) for a in asking]
                ),
                strict=True,
            ):
                if answer.status == 200:
                    signed[signature_in(answer)] = asked
            track.advance(random)

    traces = []
    for shares in ((0.25, 0.5), (0.75, 1)):
        daemon, trace = _spawn(directory), directory / "trace"
        client = await serving(daemon)
        for share in shares:
            until = int(wanted * share)
            await gatherResults([Deferred.fromCoroutine(compete(client, t, until)) for t in tracks])
            await deferLater(reactor, 1.5 * REST)  # the store tidies up, and begins its log anew
        os.kill(int(trace.read_text("ascii").split(maxsplit=1)[0]), signal.SIGTERM)
        await daemon.exits()
        traces.append(trace.read_text("ascii"))
    simulator.stopService()
    return traces, signed


def _spawn(directory: Path) -> Process:
    arguments = ["-n", "--pidfile=", "tezio-signer", "--http", FREE_PORT]
    strace = shutil.which("strace")
    assert strace is not None, "strace has to be installed"
    command = [strace, *_STRACE, "-o", "trace", sys.executable, "-c", TWISTD, *arguments]
    return spawn(command, directory, {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})


def replay(disk: Disk, trace: list[Call], signed: dict[str, Asked], scratch: Path) -> Report:
    """Cut the power behind every call, and hold what is left against what had been sent."""
    report, ledger, random = Report(), Ledger(), Random(1)
    report.signatures = len(signed)
    for call in trace:
        if call.name.startswith(("send", "write")):
            found = [text for data in call.strings for text in _SIGNATURE.findall(data)]
            for text in found:
                ledger.enter(signed[text.decode()], text.decode())
            if not found:
                continue
        elif disk.play(call):
            report.syncs += call.name in _SYNCS
        else:
            continue
        for left in (disk.left(), disk.left(random)):
            _compare(left, ledger, report, scratch)
            report.cuts += 1
    report.sent = len({text for s in ledger.released.values() for t in s.values() for text in t})
    report.conflicts = ledger.conflicts()
    return report


def _compare(left: dict[str, bytes], ledger: Ledger, report: Report, scratch: Path) -> None:
    scratch.mkdir()
    for name, data in left.items():
        if not name.endswith("-shm"):
            (scratch / name).write_bytes(data)
    try:
        with closing(SqliteStore(scratch / STORE)) as store:  # as the next daemon opens it
            report.above |= ledger.above(store.load())
    except StoreError as error:
        report.unreadable.add(str(error))
    shutil.rmtree(scratch)


async def campaign(signatures: int, seed: int, directory: Path) -> Report:
    """Record so many signatures, and cut the power behind each step of them."""
    random = Random(seed)
    (directory / "store").mkdir(parents=True)
    sqlite.create(directory / "store" / STORE)
    disk = Disk(directory / "store")
    traces, signed = await record(signatures, directory, random)
    every = [call for trace in traces for call in calls(trace)]
    return replay(disk, every, signed, directory / "scratch")


def main() -> None:
    """Run it, print what it found, and exit with 1 if that must not be."""
    parser = argparse.ArgumentParser(prog="python -m tests.campaigns.powercut", description=__doc__)
    parser.add_argument("--signatures", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with TemporaryDirectory() as directory:
        report = run(lambda: campaign(options.signatures, options.seed, Path(directory)))
    print(f"{report.signatures} signatures, {report.sent} of them seen as they were sent")
    print(f"{report.syncs} syncs, {report.cuts} power cuts")
    print(
        f"conflicts: {len(report.conflicts)}, above the mark: {len(report.above)}, "
        f"unreadable: {len(report.unreadable)}"
    )
    for found in (report.conflicts, report.above, report.unreadable):
        for finding in sorted(found)[:5]:
            print(f"  {finding}")
    sys.exit(0 if report.passed else 1)


if __name__ == "__main__":
    main()
