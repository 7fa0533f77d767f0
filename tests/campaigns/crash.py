"""Daemons killed while they sign: `python -m tests.campaigns.crash`.

Clients ask for conflicting blocks and attestations as fast as they can, while the daemon is
killed with SIGKILL and started again: at random moments, and in those that matter, when the
HSM has its command, when the store is written, and just behind. Whatever a client received
is written in a ledger, which is held against itself and against the store after every kill. The
HSM forgets its own watermarks ahead of every command, so that those of the daemon alone protect.
"""

import argparse
import fcntl
import shutil
from collections import defaultdict
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from random import Random
from typing import BinaryIO

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.error import ConnectError
from twisted.internet.inotify import IN_MODIFY, INotify
from twisted.internet.interfaces import IDelayedCall
from twisted.python.filepath import FilePath

from tests.campaigns.crashreport import Moment, Report
from tests.campaigns.rig import carry_out, percentile
from tests.campaigns.signing import (
    CHAINS,
    KEYS,
    Asked,
    ForgetfulFirmware,
    Ledger,
    Track,
    configuration,
    is_right,
    signature_in,
)
from tests.support.daemonprocess import FREE_PORT, Process, serving, spawn_daemon
from tests.support.harness import Answer, Client, reactor
from tests.support.vectors import TZ1, TZ3
from tezio_signer.hsm.framing import Slot
from tezio_signer.reactors import cancel
from tezio_signer.simulator.service import Simulator
from tezio_signer.tezos.keys import PublicKeyHash
from tezio_signer.watermarks.rule import Mark, MarkId
from tezio_signer.watermarks.sqlite import reading
from tezio_signer.watermarks.sqlite import store as sqlite

DAEMONS = 2
"""That run side by side, each with a store and an HSM of its own."""
LATENCY = 0.001
"""Seconds that the HSM takes; about as long as a commit, so that either may come first."""
LIFE = 0.4
"""Seconds, at most, from being ready to being killed at any time."""
LONGEST = 1.2
"""Seconds after which one is killed although its moment has not come."""
_CONFLICT = "already signed with different data"
_BELOW = "not above the high watermark"


_DELAYS = {Moment.AFTER_COMMAND: 0.005, Moment.AFTER_WRITE: 0.005, Moment.HELD_UP: 0.500}
_EVENTS = {Moment.HELD_UP: 6}
"""At most so many of them happen until one is taken; of others 40."""
_WRITE_LOCK = 120
"""Where SQLite locks the -shm file to write to the WAL (its file format, 2.3.2)."""


class Lane:
    """One store and one HSM, and the daemons that have them one after the other."""

    def __init__(self, directory: Path, random: Random, report: Report) -> None:
        self._directory = directory
        self._store = directory / "store" / "watermarks.sqlite"
        self._random = random
        self._report = report
        self._ledger = Ledger()
        self._tracks = [Track(TZ1, CHAINS[0]), *(Track(TZ3, chain) for chain in CHAINS)]
        port = str(directory / "hsm")
        self._hsm = Simulator(reactor, ForgetfulFirmware(self._commanded), LATENCY, port)
        self._notify = INotify(reactor)
        self._marks: dict[MarkId, Mark] = {}
        self._asked: dict[tuple[PublicKeyHash, bytes], Asked] = {}
        self._commands: set[tuple[PublicKeyHash, bytes]] = set()
        self._moment: Moment | None = None
        self._lock: BinaryIO | None = None
        self._killed = self._serving = False
        self._due: list[IDelayedCall] = []

    def start(self) -> None:
        """Create the store, and plug in the HSM."""
        self._store.parent.mkdir(parents=True)
        sqlite.create(self._store)
        config = configuration(self._directory / "hsm", f"sqlite:{self._store}")
        (self._directory / "config.yaml").write_text(config, "utf-8")
        self._hsm.startService()
        self._notify.startReading()
        self._notify.watch(FilePath(str(self._store.parent)), IN_MODIFY, callbacks=[self._written])

    def stop(self) -> None:
        """Unplug the HSM."""
        self._notify.loseConnection()
        self._hsm.stopService()

    async def crash(self) -> None:
        """Run a daemon until it is killed; then see what is left."""
        self._moment = self._random.choice(list(Moment))
        self._events_left = self._random.randint(1, _EVENTS.get(self._moment, 40))
        await self._live()

    async def end(self) -> None:
        """Run a daemon that is stopped properly when it has answered all that was cut off."""
        self._moment = None
        await self._live()

    async def _live(self) -> None:
        self._commands.clear()
        self._killed = self._serving = False
        daemon = self._daemon = spawn_daemon(self._directory, "--http", FREE_PORT)
        if self._moment is Moment.STARTING:
            self._later(self._random.uniform(0, self._usual_start()), self._kill)
        talking = Deferred.fromCoroutine(self._talk(daemon))
        code = await daemon.exits()
        await talking
        self._serving = False
        if self._lock is not None:
            self._lock.close()
            self._lock = None
        if self._moment is None:
            self._expect(code == 0, f"the daemon ended with {code}:\n{daemon.log}")
        else:
            self._expect(code == -9, f"the daemon ended by itself with {code}:\n{daemon.log}")
            self._report.kills[self._moment] += 1
        for word in ("Traceback", "Unhandled", " critical "):
            self._expect(word not in daemon.log, f"{word} in the log:\n{daemon.log}")
        self._compare()

    def _usual_start(self) -> float:
        return percentile(self._report.restarts or [1.0], 0.5)

    # -- the clients -------------------------------------------------------------------

    async def _talk(self, daemon: Process) -> None:
        began = reactor.seconds()
        try:
            client = await serving(daemon)
        except AssertionError as ended:
            self._expect(self._killed, str(ended))
            return
        self._report.restarts.append(reactor.seconds() - began)
        self._serving = True
        if self._moment is not None:
            latest = self._random.uniform(0, LIFE) if self._moment is Moment.ANY else LONGEST
            self._later(latest, self._kill_if, daemon)
        await self._repeat(client)
        if self._moment is None:
            daemon.send("TERM")
            return
        await gatherResults(
            [Deferred.fromCoroutine(self._compete(client, track)) for track in self._tracks]
        )

    async def _repeat(self, client: Client) -> None:
        """Ask again what was asked before the crash; the store says what has to come of it."""
        before, self._asked = list(self._asked.values()), {}
        marks = dict(self._marks)
        for asked in self._random.sample(before, min(len(before), 12)):
            mark = marks.get(asked.mark_id)
            answer = await self._ask(client, asked)
            if answer is None:
                self._asked = {each.request: each for each in before} | self._asked
                return
            self._report.repeated[answer.status] += 1
            if mark is None or asked.position > mark.position:
                right = answer.status == 200
                marks[asked.mark_id] = Mark(asked.level, asked.round, asked.hash)
            elif asked.position < mark.position:
                right = answer.status == 409 and _BELOW in answer.body.decode()
            elif asked.hash != mark.payload_hash:
                right = answer.status == 409 and _CONFLICT in answer.body.decode()
            else:
                right = answer.status == 200 and (
                    mark.signature is None or str(mark.signature) == signature_in(answer)
                )
            self._expect(right, f"{answer.status} {answer.body!r} with {mark} for {asked}")

    async def _compete(self, client: Client, track: Track) -> None:
        """Ask for everything at one position at once, then at the next."""
        previous: list[Asked] = []
        while not self._killed:
            competing = track.competing()
            self._random.shuffle(competing)
            again = self._random.sample(competing, 3)
            late = self._random.sample(previous, min(len(previous), 2))
            asking = competing + again
            self._happened(Moment.HELD_UP)
            answers = await gatherResults(
                [Deferred.fromCoroutine(self._ask(client, asked)) for asked in asking + late]
            )
            signed: dict[MarkId, set[bytes]] = defaultdict(set)
            for asked, answer in zip(asking, answers, strict=False):
                if answer is None:
                    return
                if answer.status == 200:
                    signed[asked.mark_id].add(asked.data)
                elif _CONFLICT not in answer.body.decode():
                    self._expect(False, f"{answer.status} {answer.body!r} for {asked}")
            one_each = len(signed) == 3 and all(len(data) == 1 for data in signed.values())
            self._expect(one_each, f"not one signed payload of each operation: {signed}")
            previous = competing
            track.advance(self._random)

    async def _ask(self, client: Client, asked: Asked) -> Answer | None:
        """One request; None if the daemon has gone meanwhile."""
        self._asked[asked.request] = asked
        try:
            answer = await client.sign(asked.mark_id.key, asked.data)
        except (ConnectError, HTTPException) as error:
            self._expect(self._killed, f"no answer of a living daemon: {error!r}")
            return None
        if answer.status == 200:
            self._received(asked, signature_in(answer))
        self._expect(answer.status in (200, 409), f"{answer.status} {answer.body!r} for {asked}")
        self._report.answers[str(answer.status)] += 1
        return answer

    def _received(self, asked: Asked, signature: str) -> None:
        self._report.signatures += 1
        self._commands.discard(asked.request)
        self._ledger.enter(asked, signature)
        if not is_right(asked, signature):
            self._report.unverified.add(f"{asked} {signature}")
        self._happened(Moment.ANSWER)

    # -- the moments -------------------------------------------------------------------

    def _commanded(self, slot: Slot, payload: bytes) -> None:
        if not self._serving:
            return  # the last command of the daemon before
        self._commands.add((KEYS[slot], payload))
        self._happened(Moment.COMMAND, Moment.AFTER_COMMAND)

    def _written(self, _: object, path: FilePath[bytes], mask: int) -> None:
        if path.basename().endswith(b"-wal"):
            self._happened(Moment.WRITE, Moment.AFTER_WRITE)

    def _happened(self, *moments: Moment) -> None:
        if self._moment not in moments or self._killed or self._lock is not None:
            return
        self._events_left -= 1
        if self._moment is Moment.HELD_UP and self._events_left <= 0:
            self._events_left = 0 if self._hold_up() else 1
        if self._events_left == 0:
            delay = self._random.uniform(0, _DELAYS.get(self._moment, 0))
            if delay:
                self._later(delay, self._kill_if, self._daemon)
            else:
                self._kill()

    def _hold_up(self) -> bool:
        """Keep the daemon from committing, if it is not about to; its claims then wait.

        Not through SQLite, which would tidy up behind the daemon when it closes the file.
        """
        lock = open(f"{self._store}-shm", "r+b")  # noqa: SIM115 (held until the kill)
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _WRITE_LOCK)
        except BlockingIOError:
            lock.close()
            return False
        self._lock = lock
        return True

    def _kill_if(self, daemon: Process) -> None:
        if daemon is self._daemon and not self._killed:
            self._kill()

    def _later(self, seconds: float, call: Callable[..., None], *arguments: object) -> None:
        """Do something later, unless the daemon is killed before."""
        self._due = [due for due in self._due if due.active()]
        self._due.append(reactor.callLater(seconds, call, *arguments))

    def _kill(self) -> None:
        self._killed = True
        for due in self._due:
            cancel(due)
        self._daemon.kill()

    # -- what is left ------------------------------------------------------------------

    def _compare(self) -> None:
        """Hold what clients have received against the store as it lies there."""
        self._marks = self._stored()
        report = self._report
        report.conflicts |= self._ledger.conflicts()
        report.changed |= self._ledger.changed()
        report.above |= self._ledger.above(self._marks)
        if self._commands:
            report.cut += 1
        for request in self._commands:
            report.cut_when[self._known(self._asked[request])] += 1

    def _stored(self) -> dict[MarkId, Mark]:
        """Of a copy: to recover what the killed one left is for the next daemon."""
        copy = self._directory / "copy"
        shutil.copytree(self._store.parent, copy)
        try:
            return reading.read(copy / self._store.name)
        finally:
            shutil.rmtree(copy)

    def _known(self, asked: Asked) -> str:
        mark = self._marks.get(asked.mark_id)
        if mark is None or mark.position < asked.position:
            return "before the commit"
        if mark.payload_hash != asked.hash:
            return "with a later mark"
        return "before the signature was stored" if mark.signature is None else "before the answer"

    def _expect(self, right: bool, otherwise: str) -> None:
        if not right:
            self._report.unexplained.append(otherwise)


async def campaign(runs: int, seed: int, directory: Path, daemons: int = DAEMONS) -> Report:
    """Kill daemons so many times, a few side by side, and compare all again at the end."""
    report = Report()
    left = iter(range(runs))

    async def stay(lane: Lane) -> None:
        lane.start()
        for _ in left:
            await lane.crash()
        await lane.end()
        lane.stop()

    lanes = [Lane(directory / str(n), Random(seed * 1000 + n), report) for n in range(daemons)]
    await gatherResults([Deferred.fromCoroutine(stay(lane)) for lane in lanes])
    return report


def main() -> None:
    """Run a campaign, print what it found, and exit with 1 if that must not be."""
    parser = argparse.ArgumentParser(prog="python -m tests.campaigns.crash", description=__doc__)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--daemons", type=int, default=DAEMONS, help="that run side by side")
    options = parser.parse_args()
    carry_out(lambda at: campaign(options.runs, options.seed, at, options.daemons), options.seed)


if __name__ == "__main__":
    main()
