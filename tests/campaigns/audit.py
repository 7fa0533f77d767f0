"""Daemons killed while they write their audit log: `python -m tests.campaigns.audit`.

Clients ask for signatures as fast as they can, while the daemon is killed with SIGKILL and started
again: at random moments, and when the log or the store is written. Now and then the log is moved
away as by logrotate, also under a running daemon, or its last line is cut off behind a kill, as
a power cut could. After each kill the chain is verified, and every signature that a client has
received has to be in the log. Where the log is not required, those that were received in the
second before the kill may be in the store in its place.
"""

import argparse
import json
import shutil
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from random import Random

from attrs import define, field
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.error import ConnectError
from twisted.internet.inotify import IN_MODIFY, INotify
from twisted.internet.interfaces import IDelayedCall
from twisted.python.filepath import FilePath

from tests.campaigns.findings import Findings, tell
from tests.campaigns.rig import carry_out
from tests.campaigns.signing import CHAINS, Asked, ForgetfulFirmware, is_right, signature_in
from tests.support.daemonprocess import FREE_PORT, Process, serving, spawn_daemon
from tests.support.harness import Answer, Client, reactor
from tests.support.octezclient import to_base58check
from tests.support.vectors import TZ1, TZ3, block, consensus, noop
from tezio_signer.audit.chain import link_of
from tezio_signer.audit.files import older_files, opened
from tezio_signer.audit.verifying import Report as ChainReport
from tezio_signer.audit.verifying import verify
from tezio_signer.reactors import cancel
from tezio_signer.simulator.service import Simulator
from tezio_signer.tezos.payload import Operation
from tezio_signer.watermarks.rule import Mark, MarkId
from tezio_signer.watermarks.sqlite import reading
from tezio_signer.watermarks.sqlite import store as sqlite

DAEMONS = 2
"""That run side by side, each with a store, an HSM and a log of its own; one requires its log."""
LATENCY = 0.001
LIFE = 0.5
"""Seconds, at most, from being ready to being killed."""
RECENT = 1.0
"""Seconds before a kill in which a signature need not be in the log, unless that is required."""
KEPT_FILES = 5
"""Moved away and looked at, before they are verified together and deleted."""
_EVERYTHING = (0x03, 0x11, 0x12, 0x13)
_CHAIN = to_base58check(bytes.fromhex("575200"), CHAINS[0])
_CONFIG = """
policy:
    signing_keys:
        {tz1}: {{allowed_ops: [generic], auth_req: False}}
        {tz3}: {{allowed_ops: [block, attestation], auth_req: False}}
hsms: [{{port: "{hsm}"}}]
watermarks: {{store: "sqlite:{store}"}}
audit: {{file: log/audit.jsonl, required: {required}}}
"""
MOMENTS = ("at any time", "when the log is written", "when the store is written")


@define
class Report:
    """What a run has found."""

    kills: Counter[str] = field(factory=Counter)
    signatures: int = 0
    lines: int = 0
    torn: int = 0
    """Lines that were cut off, and closed by the next daemon."""
    rotations: int = 0
    in_the_store: int = 0
    """Signatures that were received just before a kill, and are in the store only."""
    broken: list[str] = field(factory=list)
    missing: list[str] = field(factory=list)
    unverified: list[str] = field(factory=list)
    unexplained: list[str] = field(factory=list)

    @property
    def findings(self) -> Findings:
        """What must not be there."""
        return {
            "chains that are broken": self.broken,
            "signatures that are not in the log": self.missing,
            "unverified": self.unverified,
            "unexplained": self.unexplained,
        }

    @property
    def passed(self) -> bool:
        """Whether nothing happened that must not."""
        return not any(self.findings.values())

    def show(self, seed: int) -> None:
        """Print everything."""
        print(f"{self.kills.total()} kills, seed {seed}: {dict(self.kills)}")
        print(f"{self.signatures} signatures, {self.lines} lines verified, {self.torn} torn lines")
        print(f"{self.rotations} rotations, {self.in_the_store} signatures in the store only")
        tell(self.findings)


@define
class _Received:
    """A signature that a client has, and when it came."""

    asked: Asked
    at: float


class Lane:
    """One store, one HSM and one log, and the daemons that have them one after the other."""

    def __init__(self, directory: Path, random: Random, report: Report, required: bool) -> None:
        self._directory = directory
        self._store = directory / "store" / "watermarks.sqlite"
        self._log = directory / "log" / "audit.jsonl"
        self._random = random
        self._report = report
        self._required = required
        firmware = ForgetfulFirmware(lambda _slot, _payload: None, _EVERYTHING)
        self._hsm = Simulator(reactor, firmware, LATENCY, str(directory / "hsm"))
        self._notify = INotify(reactor)
        self._level = 0
        self._number = 0
        self._received: list[_Received] = []
        self._killed = True
        self._moment = MOMENTS[0]
        self._events_left = 0
        self._due: list[IDelayedCall] = []

    def start(self) -> None:
        """Create the store, and plug in the HSM."""
        self._store.parent.mkdir(parents=True)
        self._log.parent.mkdir()
        sqlite.create(self._store)
        config = _CONFIG.format(
            tz1=TZ1,
            tz3=TZ3,
            hsm=self._directory / "hsm",
            store=self._store,
            required=self._required,
        )
        (self._directory / "config.yaml").write_text(config, "utf-8")
        self._hsm.startService()
        self._notify.startReading()
        for path in (self._log.parent, self._store.parent):
            self._notify.watch(FilePath(str(path)), IN_MODIFY, callbacks=[self._written])

    def stop(self) -> None:
        """Verify what is left, and unplug the HSM."""
        self._verify_all()
        self._notify.loseConnection()
        self._hsm.stopService()

    async def crash(self) -> None:
        """Run a daemon until it is killed; then see what is left."""
        self._moment = self._random.choice(MOMENTS)
        self._events_left = self._random.randint(1, 60)
        self._received = []
        self._killed = False
        daemon = self._daemon = spawn_daemon(self._directory, "--http", FREE_PORT)
        await self._talk(daemon)
        code = await daemon.exits()
        self._expect(code == -9, f"the daemon ended by itself with {code}:\n{daemon.log}")
        for word in ("Traceback", "Unhandled", " critical "):
            self._expect(word not in daemon.log, f"{word} in the log:\n{daemon.log}")
        self._report.kills[self._moment] += 1
        self._compare(reactor.seconds())
        self._disturb()

    async def _talk(self, daemon: Process) -> None:
        client = await serving(daemon)
        self._later(self._random.uniform(0.01, LIFE), self._kill)
        if self._random.random() < 0.2:
            self._later(self._random.uniform(0, LIFE), self._rotate)
        workers = [self._ask_for_votes(client), self._ask_for_blocks(client)]
        if self._required:
            workers += [self._ask_for_transfers(client) for _ in range(2)]
        await gatherResults([Deferred.fromCoroutine(worker) for worker in workers])

    async def _ask_for_blocks(self, client: Client) -> None:
        while not self._killed:
            self._level += 1
            await self._ask(client, self._asked(Operation.BLOCK, block(self._level, 0)))

    async def _ask_for_votes(self, client: Client) -> None:
        while not self._killed:
            self._level += 1
            data = consensus("att", self._level, 0)
            await self._ask(client, self._asked(Operation.ATTESTATION, data))

    async def _ask_for_transfers(self, client: Client) -> None:
        while not self._killed:
            self._number += 1
            mark_id = MarkId("", TZ1, Operation.GENERIC)
            await self._ask(client, Asked(mark_id, self._number, 0, noop(self._number)))

    def _asked(self, operation: Operation, data: bytes) -> Asked:
        data = data[:1] + CHAINS[0] + data[5:]
        return Asked(MarkId(_CHAIN, TZ3, operation), self._level, 0, data)

    async def _ask(self, client: Client, asked: Asked) -> None:
        answer: Answer | None = None
        with suppress(ConnectError, HTTPException):
            answer = await client.sign(asked.mark_id.key, asked.data)
        if answer is None:
            self._expect(self._killed, f"no answer of a living daemon for {asked}")
        elif answer.status != 200:
            self._expect(False, f"{answer.status} {answer.body!r} for {asked}")
        else:
            self._report.signatures += 1
            self._received.append(_Received(asked, reactor.seconds()))
            if not is_right(asked, signature_in(answer)):
                self._report.unverified.append(str(asked))

    # -- the moments -------------------------------------------------------------------

    def _written(self, _: object, path: FilePath[bytes], mask: int) -> None:
        of_the_log = path.basename().startswith(b"audit.jsonl")
        if self._killed or self._moment != MOMENTS[1 if of_the_log else 2] or not self._received:
            return
        self._events_left -= 1
        if self._events_left <= 0:
            self._kill()

    def _later(self, seconds: float, call: Callable[[], None]) -> None:
        self._due.append(reactor.callLater(seconds, call))

    def _kill(self) -> None:
        for due in self._due:
            cancel(due)
        self._due.clear()
        if not self._killed:
            self._killed = True
            self._daemon.kill()

    def _rotate(self) -> None:
        """Move the files away, as logrotate does."""
        if not self._log.exists():
            return
        self._report.rotations += 1
        for path in older_files(self._log):
            path.rename(path.with_suffix(f".{int(path.suffix[1:]) + 1}x"))
        for path in self._log.parent.glob("*x"):
            path.rename(path.with_suffix(path.suffix[:-1]))
        self._log.rename(self._log.with_suffix(".jsonl.1"))

    def _disturb(self) -> None:
        """Do what may happen between two daemons."""
        if self._random.random() < 0.3:
            with suppress(FileNotFoundError):
                self._tear()
        if self._random.random() < 0.1:
            self._rotate()
        if len(older_files(self._log)) > KEPT_FILES:
            self._verify_all()
            for path in older_files(self._log)[:-1]:
                path.unlink()

    def _tear(self) -> None:
        """Cut off a part of the last line."""
        data = self._log.read_bytes()
        last = data.rstrip(b"\n").rfind(b"\n") + 1
        if link_of(data[last:]) is not None and last:
            self._log.write_bytes(data[: self._random.randint(last + 1, len(data) - 2)])
            self._report.torn += 1

    # -- what is left ------------------------------------------------------------------

    def _verified(self, paths: list[Path]) -> ChainReport:
        streams = [(path.name, opened(path)) for path in paths]
        try:
            report = verify(streams)
        finally:
            for _, stream in streams:
                stream.close()
        self._report.broken += map(str, report.wrong)
        return report

    def _verify_all(self) -> None:
        self._report.lines += self._verified(self._files()).lines

    def _files(self) -> list[Path]:
        return [*older_files(self._log), *([self._log] if self._log.exists() else [])]

    def _compare(self, killed: float) -> None:
        """Hold what clients have received against the log, and against the store."""
        files = self._files()[-3:]
        self._verified(files)
        logged = set()
        for path in files:
            for line in path.read_bytes().splitlines(keepends=True):
                if link_of(line) is not None:
                    said = json.loads(line)
                    if said.get("outcome") == "signed":
                        logged.add(said["digest"])
        missing = [each for each in self._received if each.asked.hash.hex() not in logged]
        if not missing:
            return
        marks = self._stored()
        for received in missing:
            mark = marks.get(received.asked.mark_id)
            in_flight = not self._required and killed - received.at < RECENT
            if in_flight and mark is not None and _covers(mark, received.asked):
                self._report.in_the_store += 1
            else:
                since = f"{killed - received.at:.3f} s before the kill"
                self._report.missing.append(f"{received.asked}, {since}; the store has {mark}")

    def _stored(self) -> dict[MarkId, Mark]:
        """Of a copy: to recover what the killed one left is for the next daemon."""
        copy = self._directory / "copy"
        shutil.copytree(self._store.parent, copy)
        try:
            return reading.read(copy / self._store.name)
        finally:
            shutil.rmtree(copy)

    def _expect(self, right: bool, otherwise: str) -> None:
        if not right:
            self._report.unexplained.append(otherwise)


def _covers(mark: Mark, asked: Asked) -> bool:
    if mark.position == asked.position:
        return mark.payload_hash == asked.hash
    return mark.position > asked.position


async def campaign(kills: int, seed: int, directory: Path, daemons: int = DAEMONS) -> Report:
    """Kill daemons so many times, a few side by side, and verify all of each log at the end."""
    report = Report()
    left = iter(range(kills))

    async def stay(lane: Lane) -> None:
        lane.start()
        for _ in left:
            await lane.crash()
        lane.stop()

    lanes = [
        Lane(directory / str(n), Random(seed * 1000 + n), report, required=n % 2 == 0)
        for n in range(daemons)
    ]
    await gatherResults([Deferred.fromCoroutine(stay(lane)) for lane in lanes])
    return report


def main() -> None:
    """Run a campaign, print what it found, and exit with 1 if that must not be."""
    parser = argparse.ArgumentParser(prog="python -m tests.campaigns.audit", description=__doc__)
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--daemons", type=int, default=DAEMONS, help="that run side by side")
    options = parser.parse_args()
    carry_out(lambda at: campaign(options.kills, options.seed, at, options.daemons), options.seed)


if __name__ == "__main__":
    main()
