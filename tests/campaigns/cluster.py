"""Two daemons on one etcd cluster while all goes wrong: `python -m tests.campaigns.cluster`.

Three etcd members and two signer daemons with the same keys, all real processes. Links between
them are held, broken and slowed down, and they are paused, killed and started again, while
clients ask both daemons at the same time for conflicting payloads, and for the same. Whatever a
client received is written in one ledger, which is held against itself and, at the end, against the
store. After each fault, both daemons have to sign again soon. The HSMs forget their own
watermarks ahead of every command, so that those in etcd alone protect.
"""

import argparse
import json
import re
import sys
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from http.client import HTTPException
from pathlib import Path
from random import Random
from shutil import which
from tempfile import TemporaryDirectory

from twisted.internet.defer import Deferred, TimeoutError, gatherResults  # noqa: A004
from twisted.internet.error import ConnectError
from twisted.internet.task import LoopingCall, deferLater

from tests.campaigns.clusterfaults import ALONE, Fault, all_faults
from tests.campaigns.clusterreport import IN_TIME, RECOVERY, Report, show
from tests.campaigns.clusterrig import DAEMONS, Network, SignerDaemon, faketime
from tests.campaigns.rig import run
from tests.campaigns.signing import CHAINS, Asked, Ledger, Track, is_right, signature_in
from tests.support.harness import Answer, reactor
from tests.support.vectors import TZ1, TZ3
from tezio_signer.watermarks.rule import MarkId

GIVEN_UP = 20.0
"""Seconds after which that, or the answer to a request, is waited for no longer."""
FAULT = (0.3, 4.0)
"""Seconds that faults last."""
REST = (0.3, 1.5)
"""Seconds without a fault, after both daemons have signed again."""
AGAIN = 0.1
"""Seconds after which a client repeats what got a 502; octez-client does it in this order."""
TWICE = 0.3
"""The share of faults that come with another one."""
SETTLED = 0.5
"""The share of positions in doubt at which clients stay until they know; others they leave."""
LONGEST_DOUBT = 60.0
"""Seconds for which they stay at most; faults may come meanwhile."""
PROBE_CHAINS = tuple(bytes.fromhex(f"0000000{n}") for n in range(1, DAEMONS + 1))
_TURN = 0.05


class Campaign:
    """The clients, and what disturbs them, of one run.

    :param requests: at least so many are made, spread evenly over the time.
    :param seconds: for which there are faults, at least.
    :param backups: whether older backups of the members are restored meanwhile.
    """

    def __init__(
        self, requests: int, seconds: float, seed: int, directory: Path, backups: bool = False
    ) -> None:
        self._backups = backups
        self._requests = requests
        self._seconds = seconds
        self._random = Random(seed)
        self._network = Network(directory, Random(seed + 1))
        self._ledger = Ledger()
        self._tracks = [Track(TZ1, CHAINS[0]), *(Track(TZ3, chain) for chain in CHAINS)]
        self._probes = [Track(TZ3, chain) for chain in PROBE_CHAINS]
        self._faults: list[str] = []
        self._healed: list[Deferred[None]] = []
        self._disturbing = True
        self._began = self._last_turn = 0.0
        self._stalls: deque[tuple[float, float]] = deque(maxlen=int(GIVEN_UP / _TURN))
        self.report = Report()

    async def run(self) -> Report:
        """Run to the end."""
        watching = LoopingCall(self._turn)
        try:
            await self._network.start()
            self._began = self._last_turn = reactor.seconds()
            watching.start(_TURN)
            await gatherResults(
                [
                    Deferred.fromCoroutine(self._disturb()),
                    *(Deferred.fromCoroutine(self._compete(track)) for track in self._tracks),
                ],
                consumeErrors=True,
            )
            self.report.seconds = reactor.seconds() - self._began
            await self._end()
        finally:
            self._disturbing = False
            if watching.running:
                watching.stop()
            await self._network.close()
        return self.report

    def _turn(self) -> None:
        now = reactor.seconds()
        self.report.stall = max(self.report.stall, now - self._last_turn - _TURN)
        self._stalls.append((now, now - self._last_turn - _TURN))
        self._last_turn = now

    def _stall(self, began: float) -> float:
        """Seconds that this process has been late at once since then, at most."""
        now = reactor.seconds()
        stalls = [now - self._last_turn - _TURN]
        for ended, late in reversed(self._stalls):
            if ended < began:
                break
            stalls.append(late)
        return max(0.0, *stalls)

    # -- what goes wrong ---------------------------------------------------------------

    async def _disturb(self) -> None:
        """One fault after the other, now and then two at once, until it is enough."""
        faults = all_faults(self._backups)
        waiting: list[str] = []
        try:
            while not self._is_enough():
                if not waiting:  # every fault has its turn before one comes again
                    waiting = self._random.sample(sorted(faults), len(faults))
                names = [waiting.pop()]
                if self._random.random() < TWICE:
                    names.append(self._random.choice(sorted(faults)))
                if ALONE in names:
                    names = [ALONE]
                await self._suffer({name: faults[name] for name in names})
        finally:
            self._disturbing = False

    def _is_enough(self) -> bool:
        over = reactor.seconds() - self._began >= self._seconds
        return over and self.report.requests >= self._requests

    async def _suffer(self, faults: Mapping[str, Fault]) -> None:
        self._faults = list(faults)
        for name, fault in faults.items():
            self.report.faults[name] += 1
            await fault(self._network)
        await deferLater(reactor, self._random.uniform(*FAULT))
        lifted = reactor.seconds()
        healing = Deferred.fromCoroutine(self._network.heal())
        after, self._faults = " + ".join(faults), []
        healed, self._healed = self._healed, []
        for waiting in healed:
            waiting.callback(None)
        recovering = [self._recover(number, after, lifted) for number in range(DAEMONS)]
        await gatherResults([healing, *map(Deferred.fromCoroutine, recovering)])
        await deferLater(reactor, self._random.uniform(*REST))

    async def _recover(self, number: int, after: str, lifted: float) -> None:
        """See when a daemon signs something that nobody else asks for, from that time on."""
        track = self._probes[number]
        track.advance(self._random)
        asked = track.competing()[0]
        seconds = 0.0
        while seconds < GIVEN_UP:
            answer = await self._ask(self._network.daemons[number], asked)
            seconds = reactor.seconds() - lifted
            if answer is not None and answer.status == 200:
                break
            if answer is not None and answer.status == 409:
                self._expect(False, f"after {after!r}: {answer.body!r} for {asked}")
                return
            await deferLater(reactor, AGAIN)
        self.report.recoveries[number].append(seconds)
        if seconds > RECOVERY:
            self.report.slow.append(f"{seconds:.1f} s by daemon {number} after {after!r}")

    async def _calm(self) -> None:
        """Wait until there is no fault."""
        if self._faults:
            waiting: Deferred[None] = Deferred()
            self._healed.append(waiting)
            await waiting

    # -- the clients -------------------------------------------------------------------

    async def _compete(self, track: Track) -> None:
        """Ask for much of what competes for one position at once, then for the next."""
        previous: list[Asked] = []
        while self._disturbing:
            competing = track.competing()
            everything = self._of_both(competing)
            asking = self._random.sample(everything, self._random.randint(2, len(everything)))
            late = self._random.sample(self._of_both(previous), min(len(previous), 2))
            answers = await self._ask_all(asking + late)
            doubtful = any(answer is None or answer.status == 502 for answer in answers)
            if doubtful and self._random.random() < SETTLED:
                await self._settle(competing)
            previous = competing
            track.advance(self._random)
            await self._pace()

    def _of_both(self, asked: Sequence[Asked]) -> list[tuple[SignerDaemon, Asked]]:
        return [(daemon, each) for each in asked for daemon in self._network.daemons]

    async def _pace(self) -> None:
        """Spread the requests over the time."""
        due = self._began + self.report.requests * self._seconds / self._requests
        await deferLater(reactor, max(0.0, due - reactor.seconds()))

    async def _settle(self, competing: Sequence[Asked]) -> None:
        """Ask for all of a position until there is no doubt what was signed there.

        Everything that may be there is asked for, of both daemons: one payload of each
        operation has to be signed, by both. One that has claimed another in vain says so
        until it has read what the other has signed.
        """
        until = reactor.seconds() + LONGEST_DOUBT
        while not await self._agree_on(competing):
            if reactor.seconds() > until:
                self._expect(False, f"in doubt for {LONGEST_DOUBT:g} s: {competing[0]}")
                return
            await deferLater(reactor, AGAIN)
        self.report.settled += 1

    async def _agree_on(self, competing: Sequence[Asked]) -> bool:
        """Whether each daemon has signed the same one payload of each operation."""
        await self._calm()
        everything = self._of_both(competing)
        signed: defaultdict[MarkId, list[bytes]] = defaultdict(list)
        answers = await self._ask_all(everything)
        for (_, asked), answer in zip(everything, answers, strict=True):
            if answer is not None and answer.status == 200:
                signed[asked.mark_id].append(asked.data)
        return all(
            len(signed[mark_id]) == DAEMONS and len(set(signed[mark_id])) == 1
            for mark_id in {asked.mark_id for asked in competing}
        )

    async def _ask_all(self, asking: Sequence[tuple[SignerDaemon, Asked]]) -> list[Answer | None]:
        asked = [Deferred.fromCoroutine(self._ask(daemon, each)) for daemon, each in asking]
        return await gatherResults(asked)

    async def _ask(self, daemon: SignerDaemon, asked: Asked) -> Answer | None:
        """One request; None if the daemon has gone meanwhile."""
        if daemon.client is None:
            return None
        began = reactor.seconds()
        during = self._faults[0] if self._faults else "no fault"
        self.report.requests += 1
        asking = Deferred.fromCoroutine(daemon.client.sign(asked.mark_id.key, asked.data))
        try:
            answer = await asking.addTimeout(GIVEN_UP, reactor)
        except (ConnectError, HTTPException, TimeoutError) as error:
            self.report.answers["none"] += 1
            self.report.during[during]["none"] += 1
            undisturbed = daemon.disturbed < began and not daemon.paused
            self._expect(not undisturbed, f"{error!r} after {self._faults} for {asked}")
            return None
        seconds, status = reactor.seconds() - began, str(answer.status)
        self.report.answers[status] += 1
        self.report.during[during][status] += 1
        what = f"{status} {answer.body!r} after {seconds:.2f} s in {during!r} for {asked}"
        self._expect(answer.status in (200, 409, 502), what)
        if answer.status == 200:
            self._ledger.enter(asked, signature_in(answer))
        if daemon.disturbed < began and not daemon.paused:
            self.report.slowest[status] = max(self.report.slowest[status], seconds)
            if answer.status == 502:
                stall = self._stall(began)
                self.report.refusals.append((seconds, stall))
                if seconds - stall > IN_TIME:
                    self.report.late.append(f"{what}; this process was late by {stall:.2f} s")
        if answer.status == 502:
            self.report.sentences[_sentence(answer)] += 1
        return answer

    def _expect(self, right: bool, otherwise: str) -> None:
        if not right:
            self.report.unexplained.append(otherwise)

    # -- what is left ------------------------------------------------------------------

    async def _end(self) -> None:
        """Stop the daemons, and hold what clients have received against the store."""
        for track in self._tracks:
            await self._settle(track.competing())
        for daemon in self._network.daemons:
            complaint = await daemon.stop()
            self._expect(not complaint, complaint)
            self.report.unexplained += daemon.complaints(alarmed=self._backups)
        marks = await self._network.daemons[0].marks()
        self.report.conflicts = self._ledger.conflicts()
        self.report.changed = self._ledger.changed()
        self.report.above = self._ledger.above(marks)
        self.report.unverified = self._unverified()

    def _unverified(self) -> list[str]:
        """Signatures that are not right; looked at in the end, for it takes much time."""
        return [
            f"{asked} {signature}"
            for signed in self._ledger.released.values()
            for asked, signatures in signed.items()
            for signature in signatures
            if not is_right(asked, signature)
        ]


def _sentence(answer: Answer) -> str:
    """What the answer says, the same for all addresses and times."""
    return re.sub(r"[\d.:]*\d", "…", json.loads(answer.body)[0]["msg"])[:160]


async def campaign(
    requests: int, seconds: float, seed: int, directory: Path, backups: bool = False
) -> Report:
    """Run one."""
    return await Campaign(requests, seconds, seed, directory, backups).run()


def main() -> None:
    """Run a campaign, print what it found, and exit with 1 if that must not be."""
    parser = argparse.ArgumentParser(prog="python -m tests.campaigns.cluster", description=__doc__)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--backups", action="store_true", help="restore older backups of etcd too")
    options = parser.parse_args()
    if which("etcd") is None:
        sys.exit("there is no etcd: run tests/interop/setup")
    with TemporaryDirectory() as directory:
        seconds = options.minutes * 60
        settings = (options.requests, seconds, options.seed, Path(directory), options.backups)
        report = run(lambda: campaign(*settings))
    show(report)
    print(f"seed {options.seed}" + ("" if faketime() else "; no clock was set: no libfaketime"))
    sys.exit(0 if report.passed else 1)


if __name__ == "__main__":
    main()
