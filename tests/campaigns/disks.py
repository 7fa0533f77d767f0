"""Stores on real disks that fill, fail and hang: `python -m tests.campaigns.disks`, as root.

Each disk is made and mounted for it: a small tmpfs, and ext4 in a file. A daemon signs on it,
then the disk goes bad under the running daemon, and later is well again, where that is possible.
"""

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from attrs import define, field
from twisted.internet.defer import Deferred, gatherResults

from tests.campaigns.rig import run
from tests.support.daemonprocess import FREE_PORT, TWISTD, Process, serving
from tests.support.harness import Answer, Client, reactor
from tests.support.octezclient import message_in, text_in
from tests.support.vectors import PAYLOADS, TZ3, block, consensus
from tezio_signer.simulator.firmware import Firmware
from tezio_signer.simulator.service import Simulator
from tezio_signer.watermarks.sqlite import reading
from tezio_signer.watermarks.sqlite import store as sqlite

CONFIG = """
policy:
    signing_keys:
        {key}: {{allowed_ops: [block, preattestation, attestation, generic], auth_req: False}}
allowed_ips: ["127.0.0.1"]
hsms: [{{port: "{port}"}}]
watermarks: {{store: "sqlite:{store}"}}
"""
_IMAGE_BYTES = 16 * 2**20
_TRIES = 20


def _do(*command: str | Path) -> str:
    done = subprocess.run([str(c) for c in command], check=True, capture_output=True, text=True)  # noqa: S603
    return done.stdout.strip()


@contextmanager
def tmpfs(directory: Path) -> Iterator[None]:
    """A file system in memory, of 256 KiB."""
    disk = directory / "disk"
    disk.mkdir()
    _do("mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", disk)
    try:
        yield
    finally:
        _do("umount", disk)


@contextmanager
def ext4(directory: Path) -> Iterator[None]:
    """Ext4 that becomes read-only at the first error, as is usual."""
    disk, image = directory / "disk", directory / "image"
    disk.mkdir(exist_ok=True)
    if not image.exists():
        image.write_bytes(b"")
        os.truncate(image, _IMAGE_BYTES)
        _do("mkfs.ext4", "-q", "-m", "0", image)
    _do("mount", "-o", "loop,errors=remount-ro", image, disk)
    try:
        yield
    finally:
        _do("umount", disk)


@define
class Trial:
    """One disk, one daemon at a time, and what is said of it.

    :ivar wrong: what must not be.
    """

    directory: Path
    port: str
    level: int = 100
    released: dict[bytes, str] = field(factory=dict)
    wrong: list[str] = field(factory=list)

    @property
    def disk(self) -> Path:
        """Where it is mounted."""
        return self.directory / "disk"

    @property
    def store(self) -> Path:
        """Where the store is."""
        return self.disk / "watermarks.sqlite"

    def expect(self, right: bool, otherwise: str) -> None:
        """Note what is not right."""
        if not right:
            self.wrong.append(otherwise)

    @asynccontextmanager
    async def daemon(self) -> AsyncIterator[tuple[Process, Client]]:
        """A daemon that is killed in the end, if it still runs."""
        config = CONFIG.format(key=TZ3, port=self.port, store=self.store)
        (self.directory / "config.yaml").write_text(config, "utf-8")
        process = Process()
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        arguments = ["-n", "--pidfile=", "tezio-signer", "--http", FREE_PORT]
        reactor.spawnProcess(  # type: ignore[attr-defined]
            process,
            sys.executable,
            [sys.executable, "-c", TWISTD, *arguments],
            environment,
            str(self.directory),
        )
        try:
            yield process, await serving(process)
        finally:
            await process.kill()
            self.expect("Traceback" not in process.log, process.log)

    async def ask(self, client: Client, payload: bytes, status: int) -> tuple[Answer, float]:
        """One request that should get this status; the answer, and the seconds it took."""
        began = reactor.seconds()
        answer = await client.sign(TZ3, payload)
        self.expect(answer.status == status, f"{answer.status} {answer.body!r}, not {status}")
        if answer.status == 200:
            signature = text_in(answer.body, "signature")
            first = self.released.setdefault(payload, signature)
            if payload[0] != 3:
                self.expect(first == signature, f"a second signature for {payload.hex()}")
        return answer, reactor.seconds() - began

    async def well(self, client: Client) -> None:
        """Everything is signed, one after the other."""
        self.level += 1
        for payload in (
            block(self.level, 0),
            consensus("preatt", self.level, 0),
            consensus("att_dal_5", self.level, 0),
        ):
            await self.ask(client, payload, 200)

    async def bad(self, client: Client, *words: str) -> float:
        """Nothing that needs a mark is signed, all else is; the longest time of an answer."""
        self.level += 1
        slowest = 0.0
        for payload in (block(self.level, 0), consensus("preatt", self.level, 0)):
            asking = [Deferred.fromCoroutine(self.ask(client, payload, 502)) for _ in range(2)]
            _, quick = await self.ask(client, PAYLOADS["noop"], 200)
            self.expect(quick < 0.5, f"a transfer took {quick:.1f} s")
            for answer, seconds in await gatherResults(asking):
                slowest = max(slowest, seconds)
                for word in words:
                    self.expect(word in message_in(answer.body), f"{answer.body!r}, not {word}")
            print(f"    502 in {seconds:.3f} s: {message_in(answer.body)}")
        await self.ask(client, block(self.level, 0, 0x41), 409)
        return slowest

    async def back(self, client: Client) -> None:
        """What was refused is signed now; what conflicts with it is not."""
        await self.ask(client, block(self.level, 0, 0x41), 409)
        await self.ask(client, block(self.level, 0), 200)
        await self.ask(client, consensus("preatt", self.level, 0), 200)
        await self.well(client)

    def compare(self) -> None:
        """The store covers everything that was released.

        A copy is read: on a full disk SQLite may find no room for the `-shm` that it maps, of
        which the system tells with a signal that nothing survives.
        """
        copy = self.directory / "copy"
        copy.mkdir()
        for file in self.disk.glob(f"{self.store.name}*"):
            if file.suffix != ".sqlite-shm":
                shutil.copy(file, copy)
        stored = reading.read(copy / self.store.name)
        shutil.rmtree(copy)
        marks = {mark_id.operation.value: mark for mark_id, mark in stored.items()}
        for payload, signature in self.released.items():
            if payload[0] in marks:
                mark, at = marks[payload[0]], 5 if payload[0] == 0x11 else 40
                level = int.from_bytes(payload[at : at + 4], "big")
                right = mark.level > level or str(mark.signature) == signature
                self.expect(right, f"level {level} was released, the mark is {mark}")


def _fill(disk: Path) -> int:
    """Take all that is free, to the last byte."""
    with (disk / "filler").open("wb", buffering=0) as filler, suppress(OSError):
        for size in (2**16, 512, 1):
            with suppress(OSError):
                while True:
                    filler.write(bytes(size))
    return (disk / "filler").stat().st_size


async def fills(trial: Trial) -> None:
    """A full disk that is freed again; then daemons that are killed on a full disk."""
    for number in range(_TRIES):
        async with trial.daemon() as (_, client):
            await trial.well(client)
            taken = _fill(trial.disk)
            if number == 0:
                print(f"    full with {taken} bytes of others")
                await trial.bad(client, str(trial.store), "disk is full")
                (trial.disk / "filler").unlink()
                await trial.back(client)
            else:  # killed while it is full
                trial.level += 1
                await trial.ask(client, block(trial.level, 0), 502)
        trial.compare()
        (trial.disk / "filler").unlink(missing_ok=True)


async def fails(trial: Trial) -> None:
    """An error makes the disk read-only, for good; the next daemon is on the repaired one."""
    async with trial.daemon() as (_, client):
        await trial.well(client)
        device = Path(_do("findmnt", "-no", "SOURCE", trial.disk)).name
        Path(f"/sys/fs/ext4/{device}/trigger_fs_error").write_text("on purpose", "ascii")
        await trial.bad(client, str(trial.store), "Read-only")
    trial.compare()


async def repaired(trial: Trial) -> None:
    """What could not be written is refused or signed as before."""
    async with trial.daemon() as (_, client):
        await trial.ask(client, block(trial.level - 1, 0, 0x41), 409)
        trial.level += 1
        await trial.well(client)
    trial.compare()


async def hangs(trial: Trial) -> None:
    """A frozen disk: no write to it comes back until it is thawed."""
    async with trial.daemon() as (process, client):
        await trial.well(client)
        _do("fsfreeze", "--freeze", trial.disk)
        frozen = True
        try:
            slowest = await trial.bad(client, "watermark store")
            trial.expect(slowest < 6.5, f"an answer took {slowest:.1f} s")
            _do("fsfreeze", "--unfreeze", trial.disk)
            frozen = False
            await trial.back(client)
            _do("fsfreeze", "--freeze", trial.disk)
            frozen = True
            trial.level += 1
            lost = Deferred.fromCoroutine(trial.ask(client, block(trial.level, 0), 502))
            await trial.ask(client, PAYLOADS["noop"], 200)
            began = reactor.seconds()
            process.send("TERM")
            await lost
            await process.says("Server Shut Down")
            took = reactor.seconds() - began
            trial.expect(took < 5.5, f"stopping took {took:.1f} s")
            print(f"    stopped in {took:.1f} s while a write hung")
        finally:
            if frozen:
                _do("fsfreeze", "--unfreeze", trial.disk)
        await process.exits()
    trial.compare()


async def campaign() -> list[str]:
    """All disks; what was wrong."""
    wrong = []
    for name, make, *stories in (
        ("a full tmpfs", tmpfs, fills),
        ("a full ext4", ext4, fills),
        ("ext4 that an error makes read-only", ext4, fails, repaired),
        ("ext4 that hangs", ext4, hangs),
    ):
        print(name)
        with TemporaryDirectory() as made:
            directory = Path(made)
            simulator = Simulator(reactor, Firmware(), 0, str(directory / "hsm"))
            simulator.startService()
            trial = Trial(directory, str(directory / "hsm"))
            for story in stories:
                with make(directory):
                    if not trial.store.exists():
                        sqlite.create(trial.store)
                    await story(trial)
            simulator.stopService()
        print(f"    {len(trial.released)} signatures released, {len(trial.wrong)} wrong")
        wrong += [f"{name}: {what}" for what in trial.wrong]
    return wrong


def main() -> None:
    """Run it, and exit with 1 if something was wrong."""
    argparse.ArgumentParser(
        prog="python -m tests.campaigns.disks", description=__doc__
    ).parse_args()
    if os.geteuid() != 0:
        sys.exit("this makes and mounts disks, and needs root")
    wrong = run(campaign)
    for what in wrong:
        print(what)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
