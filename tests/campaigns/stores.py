"""Stores that are moved under daemons: `python -m tests.campaigns.stores`.

A daemon signs; then its store, or what lies beside it, is moved, copied, linked, mounted,
truncated, restored or removed, in one of some thirty ways, and a second daemon with the same keys
is started on what has come of it. Both are asked for conflicting blocks and attestations. Then
all is put in order again, as far as that is possible, and the first daemon has to go on by itself.
Whatever clients received is written in a ledger: there must be no conflict in it.

The HSMs forget their own watermarks ahead of every command, so that those of the daemons alone
protect.
"""

import argparse
import os
import shutil
from collections import Counter
from collections.abc import Sequence
from http.client import HTTPException
from pathlib import Path
from random import Random

from attrs import define, field
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.error import ConnectError
from twisted.internet.task import deferLater

from tests.campaigns.findings import Findings, tell
from tests.campaigns.rig import carry_out
from tests.campaigns.signing import (
    CHAINS,
    Asked,
    ForgetfulFirmware,
    Ledger,
    Track,
    configuration,
    is_right,
    signature_in,
)
from tests.campaigns.storeways import NAME, WAYS, Place, Way
from tests.support.daemonprocess import FREE_PORT, Process, serving, spawn_daemon
from tests.support.harness import Client, reactor
from tests.support.octezclient import message_in
from tests.support.vectors import TZ3
from tezio_signer.simulator.service import Simulator
from tezio_signer.watermarks.sqlite import store as sqlite

LANES = 2
"""Pairs of daemons side by side."""
AT_ONCE = 2.5
"""Seconds within which a daemon has to say that its store is lost, if nobody asks it."""
_RESUMES = 1.0
_KINDS = 4
"""Payloads of each side at a position."""
_SIDES = ("first", "second")


@define
class Report:
    """What a run has found."""

    ways: Counter[str] = field(factory=Counter)
    answers: Counter[str] = field(factory=Counter)
    refused: Counter[str] = field(factory=Counter)
    """Starts of a second daemon that were refused, by the way."""
    lost: int = 0
    """Stores that a first daemon has missed, and said so."""
    resumed: int = 0
    """First daemons that went on by themselves after that."""
    signatures: int = 0
    by_second: int = 0
    skipped: set[str] = field(factory=set)
    conflicts: set[str] = field(factory=set)
    unverified: set[str] = field(factory=set)
    unexplained: list[str] = field(factory=list)

    @property
    def findings(self) -> Findings:
        """What must not be there."""
        return {
            "conflicts": self.conflicts,
            "unverified": self.unverified,
            "unexplained": self.unexplained,
        }

    @property
    def passed(self) -> bool:
        """Whether nothing happened that must not, and something of all that has to."""
        seen = self.lost and self.resumed and self.refused and self.signatures > self.by_second > 0
        return bool(seen) and not any(self.findings.values())

    def show(self, seed: int) -> None:
        """Print everything."""
        print(f"{self.ways.total()} runs, seed {seed}")
        for way, times in sorted(self.ways.items()):
            print(f"  {times} {way}: the second daemon was refused {self.refused[way]} times")
        for way in sorted(self.skipped):
            print(f"  skipped, as only root can do it: {way}")
        print(f"{self.signatures} signatures, {self.by_second} of them by a second daemon")
        print(f"answers {dict(sorted(self.answers.items()))}")
        print(f"{self.lost} stores missed at once, {self.resumed} daemons went on by themselves")
        tell(self.findings)


class Lane:
    """Two HSMs with the same keys, a daemon at the first, and seconds that come and go."""

    def __init__(self, directory: Path, random: Random, report: Report) -> None:
        self._directory = directory
        self._random = random
        self._report = report
        self._ledger = Ledger()
        self._track = Track(TZ3, CHAINS[0])
        self._stores = 0
        self._first: tuple[Process, Client] | None = None
        for side in _SIDES:
            (directory / side).mkdir(parents=True)
        self._hsms = [
            Simulator(reactor, ForgetfulFirmware(lambda *_: None), 0, str(directory / side / "hsm"))
            for side in _SIDES
        ]

    def start(self) -> None:
        """Plug in the HSMs."""
        for hsm in self._hsms:
            hsm.startService()

    async def stop(self) -> None:
        """End everything."""
        await self._retire()
        for hsm in self._hsms:
            hsm.stopService()

    def _expect(self, right: bool, otherwise: str) -> None:
        if not right:
            self._report.unexplained.append(otherwise)

    def _spawn(self, side: str, store: Path, *before: str) -> Process:
        directory = self._directory / side
        config = configuration(directory / "hsm", f"sqlite:{store}")
        (directory / "config.yaml").write_text(config, "utf-8")
        return spawn_daemon(directory, "--http", FREE_PORT, before=before)

    async def _ready(self) -> tuple[Process, Client]:
        """The first daemon, on a store of its own."""
        if self._first is None:
            self._stores += 1
            root = self._directory / str(self._stores)
            self._place = Place(root / "home", root / "other", root / "backup")
            for directory in (self._place.home, self._place.other):
                directory.mkdir(parents=True)
            sqlite.create(self._place.store)
            process = self._spawn("first", self._place.store)
            self._first = process, await serving(process)
        return self._first

    async def _retire(self) -> None:
        """Stop the first daemon; its store is left."""
        if self._first is None:
            return
        process, _ = self._first
        process.send("TERM")
        code = await process.exits()
        self._expect(code == 0, f"the daemon ended with {code}:\n{process.log}")
        for word in ("Traceback", "Unhandled"):
            self._expect(word not in process.log, f"{word} in the log:\n{process.log}")
        self._first = None

    # -- one run -----------------------------------------------------------------------

    async def befall(self, way: Way) -> None:
        """Let one thing happen to the store of a daemon."""
        process, client = await self._ready()
        place = self._place
        await self._signs(client, f"before: {way.name}")
        shutil.rmtree(place.backup, ignore_errors=True)
        shutil.copytree(place.home, place.backup)
        await self._signs(client, f"before: {way.name}")
        if self._random.random() < 0.5:  # with an empty log, or with one that holds marks
            await deferLater(reactor, 1.2)
        self._report.ways[way.name] += 1
        criticals = process.log.count(" critical ")
        happening = way.happens(place)
        second = next(happening)
        if way.signs is False:
            await self._missed(process, criticals, way)
        await self._second(client, way, second)
        told = process.log.count(" critical ") - criticals
        if way.signs is not None:
            expected = 0 if way.signs else 1
            self._expect(told == expected, f"{way.name}: {told} critical lines\n{process.log}")
        next(happening, None)
        for left in place.other.iterdir():
            left.unlink()
        if way.returns:
            await self._resumes(client, way, told)
        else:
            await self._retire()
        self._report.conflicts |= self._ledger.conflicts()

    async def _missed(self, process: Process, criticals: int, way: Way) -> None:
        """A lost store is said although nobody asks."""
        until = reactor.seconds() + AT_ONCE
        while process.log.count(" critical ") == criticals:
            if reactor.seconds() > until:
                self._expect(False, f"{way.name}: nothing was said\n{process.log}")
                return
            await deferLater(reactor, 0.05)
        self._report.lost += 1

    async def _second(self, first: Client, way: Way, store: Path) -> None:
        """Start a second daemon, and ask both for what contradicts each other."""
        # What was signed before must not be signed by the second either, unless its store was made
        # by an operator, who is told to set floors: it knows nothing of it.
        if way.new or self._random.random() < 0.5:
            self._track.advance(self._random)
        process = self._spawn("second", store, *way.apart(self._place))
        asking = Deferred.fromCoroutine(self._ask_side(first, 0))
        try:
            second = await serving(process)
        except AssertionError:
            self._report.refused[way.name] += 1
            await asking
            line = process.log.strip().splitlines()[-1]
            self._expect("tezio-signer: " in line, f"{way.name}: ended so:\n{process.log}")
            self._expect("Traceback" not in process.log, f"{way.name}: ended so:\n{process.log}")
            self._expect(not way.new, f"{way.name}: a new store was refused:\n{process.log}")
        else:
            self._expect(way.new, f"{way.name}: a second daemon runs:\n{process.log}")
            await asking
            statuses = await self._ask_side(second, 1)
            self._report.by_second += statuses.count(200)
            self._expect(200 in statuses, f"{way.name}: the second signs nothing: {statuses}")
            self._track.advance(self._random)
            await gatherResults(
                [
                    Deferred.fromCoroutine(self._ask_side(each, side))
                    for side, each in enumerate((first, second))
                ]
            )
        finally:
            await process.kill()
        self._track.advance(self._random)
        statuses = await self._ask_side(first, 0)
        if way.signs is not None:
            right = set(statuses) == ({200} if way.signs else {502})
            self._expect(right, f"{way.name}: the first daemon answers {statuses}")

    async def _resumes(self, client: Client, way: Way, told: int) -> None:
        """All is in order again: so is the first daemon, by itself."""
        until = reactor.seconds() + _RESUMES
        statuses = await self._ask_side(client, 0)
        while set(statuses) != {200} and reactor.seconds() < until:
            await deferLater(reactor, 0.1)
            statuses = await self._ask_side(client, 0)
        if set(statuses) == {200}:
            self._report.resumed += bool(told)
            return
        assert self._first is not None
        self._expect(False, f"{way.name}: does not go on: {statuses}\n{self._first[0].log}")
        await self._retire()

    # -- the clients -------------------------------------------------------------------

    async def _signs(self, client: Client, when: str) -> None:
        self._track.advance(self._random)
        statuses = await self._ask_side(client, 0)
        self._expect(set(statuses) == {200}, f"{when}: {statuses}")

    async def _ask_side(self, client: Client, side: int) -> list[int]:
        """Ask for all of a side at the position; what becomes of it."""
        # Of the two forms of an attestation, one is enough.
        asked = self._track.competing()[side * _KINDS : side * _KINDS + _KINDS - 1]
        return await gatherResults(
            [Deferred.fromCoroutine(self._ask(client, each)) for each in asked]
        )

    async def _ask(self, client: Client, asked: Asked) -> int:
        try:
            answer = await client.sign(asked.mark_id.key, asked.data)
        except (ConnectError, HTTPException) as error:
            self._expect(False, f"no answer: {error!r}")
            return 0
        if answer.status == 200:
            signature = signature_in(answer)
            self._report.signatures += 1
            self._ledger.enter(asked, signature)
            if not is_right(asked, signature):
                self._report.unverified.add(f"{asked} {signature}")
        else:
            words = message_in(answer.body)
            right = answer.status == 409 or (answer.status == 502 and NAME in words)
            self._expect(right, f"{answer.status} {words}")
        self._report.answers[str(answer.status)] += 1
        return answer.status


async def campaign(
    runs: int, seed: int, directory: Path, ways: Sequence[Way] = WAYS, lanes: int = LANES
) -> Report:
    """Let so many things happen: each way once in every round, in a new order."""
    report = Report()
    random = Random(seed)
    possible = [way for way in ways if os.geteuid() == 0 or not way.root]
    report.skipped = {way.name for way in ways} - {way.name for way in possible}
    order = [
        way
        for _ in range(runs // len(possible) + 1)
        for way in random.sample(possible, len(possible))
    ]
    left = iter(order[:runs])

    async def stay(lane: Lane) -> None:
        lane.start()
        for way in left:
            await lane.befall(way)
        await lane.stop()

    made = [Lane(directory / str(n), Random(seed * 1000 + n), report) for n in range(lanes)]
    await gatherResults([Deferred.fromCoroutine(stay(lane)) for lane in made])
    return report


def main() -> None:
    """Run a campaign, print what it found, and exit with 1 if that must not be."""
    parser = argparse.ArgumentParser(prog="python -m tests.campaigns.stores", description=__doc__)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--lanes", type=int, default=LANES, help="pairs of daemons side by side")
    options = parser.parse_args()
    carry_out(
        lambda at: campaign(options.runs, options.seed, at, WAYS, options.lanes), options.seed
    )


if __name__ == "__main__":
    main()
