"""Daemons killed while they spend: `python -m tests.campaigns.spending`.

Clients ask for transfers around the limits of a day, new ones and the same again, while daemons
are killed with SIGKILL at random moments and started again, the board is unplugged, and the
clock on the wall goes on by hours, is set back by a day, or leaps ahead, and is right again, also
while a daemon runs. With --etcd two daemons spend together, from one etcd, which is paused and
killed as well. Whatever a client received is held against the limits, for every 24 hours of true
time; but what was received while the clock was behind, for those from the time that the store may
have for it, unless the daemon could store it again.
"""

import argparse
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from http.client import HTTPException
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from time import time
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.error import ConnectError
from twisted.internet.task import deferLater

from tests.campaigns.findings import Findings, tell
from tests.campaigns.rig import run
from tests.campaigns.signing import signature_in
from tests.support.daemonprocess import COMMAND, FREE_PORT, Process, serving, spawn, spawn_command
from tests.support.etcdcluster import Cluster
from tests.support.genericpayloads import OTHER, payload, transaction_of
from tests.support.harness import Answer as HttpAnswer
from tests.support.harness import Client, reactor
from tests.support.octezclient import good
from tests.support.vectors import TZ3
from tezio_signer.hsm.framing import Opcode
from tezio_signer.noop import do_nothing
from tezio_signer.simulator.firmware import Answer, Firmware
from tezio_signer.simulator.service import Simulator

TEZ = 1_000_000
LIMIT = 100 * TEZ
MOST = 40
"""Operations in a day."""
DAY = 24 * 3600
HOUR = 3600
LATENCY = 0.003
"""Seconds that the board takes; about as long as a commit."""
LIFE = 0.5
"""Seconds, at most, from being ready to being killed."""
CLIENTS = 3
REST = 0.06
"""Seconds, at most, between two transfers of a client: kills are to be many, too."""
_BEHIND = 0.005
"""Seconds, at most, from the command to the board to being killed, if it is killed for that."""
_FEE = 289
_STATUSES = (200, 429, 502)
_CONFIG = """
policy:
    signing_keys:
        {key}:
            allowed_ops: [generic]
            auth_req: False
            operations: {{max_amount_per_day: "100 tez", max_operations_per_day: 40}}
hsms: [{{port: "{hsm}"}}]
hsm_wait_seconds: 0
watermarks: {{store: "{store}"}}
"""
# The daemon with a clock on the wall that is set from here; no other clock is touched.
_PROGRAM = (
    """
import time
from pathlib import Path
right = time.time
time.time = lambda: right() + float(Path("clock").read_text())
"""
    + COMMAND
)


@define
class Report:
    """What a run has found."""

    asked: int = 0
    kills: int = 0
    answers: Counter[int] = field(factory=Counter)
    received: list[tuple[float, bytes, int]] = field(factory=list)
    """Moments of true time, payloads, and what leaves with them."""
    while_ahead: int = 0
    while_behind: int = 0
    above: set[str] = field(factory=set)
    unverified: set[str] = field(factory=set)
    unexplained: set[str] = field(factory=set)
    lost: set[str] = field(factory=set)
    """Money that nobody can have spent, and that was not given."""

    @property
    def findings(self) -> Findings:
        """What must not be there."""
        return {
            "above a limit": self.above,
            "unverified": self.unverified,
            "unexplained": self.unexplained,
            "lost": self.lost,
        }

    @property
    def passed(self) -> bool:
        """Whether nothing happened that must not, and both kinds of answers were seen."""
        return not any(self.findings.values()) and min(self.answers[200], self.answers[429]) > 0

    def judge(self) -> None:
        """Hold what was received against the limits, for the 24 hours up to each signature."""
        for moment, _, _ in self.received:
            day = {what: mutez for at, what, mutez in self.received if moment - DAY < at <= moment}
            if sum(day.values()) > LIMIT or len(day) > MOST:
                self.above.add(f"{sum(day.values())} mutez, {len(day)} operations at {moment:.1f}")


class WatchedFirmware(Firmware):
    """A board that tells of every command to sign, before it carries it out.

    :ivar commanded: is called then.
    """

    commanded: Callable[[], object] = do_nothing

    def execute(self, packet: bytes) -> Answer | None:
        if packet[2:3] == bytes([Opcode.SIGN]):
            self.commanded()
        return super().execute(packet)


class Daemon:
    """A daemon with its board."""

    def __init__(self, directory: Path, store: str) -> None:
        directory.mkdir(parents=True)
        self._directory = directory
        config = _CONFIG.format(key=TZ3, hsm=directory / "hsm", store=store)
        (directory / "config.yaml").write_text(config, "utf-8")
        self.firmware = WatchedFirmware()
        self.hsm = Simulator(reactor, self.firmware, LATENCY, str(directory / "hsm"))
        self.hsm.startService()
        self.set_clock(0)
        self.client: Client | None = None
        self._process: Process | None = None

    def set_clock(self, seconds: float) -> None:
        """Have its clock be ahead of that of this machine."""
        new = self._directory / "clock.new"
        new.write_text(f"{seconds}\n", "ascii")
        new.replace(self._directory / "clock")

    async def start(self) -> None:
        """Start it; it can be asked when this returns."""
        arguments = [sys.executable, "-c", _PROGRAM, "run", "--http", FREE_PORT]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        self._process = spawn(arguments, self._directory, environment)
        self.client = await serving(self._process)

    async def init(self) -> None:
        """Make the store."""
        assert await spawn_command(self._directory, "watermarks", "init").exits() == 0

    def kill(self) -> Deferred[int]:
        """End it at once, if it runs."""
        assert self._process is not None
        self.client = None
        self.firmware.commanded = do_nothing
        return self._process.kill()

    def kill_at_command(self, number: int, seconds: float) -> None:
        """End it that long after the board has its command of this number, from now on."""
        left = [number]

        def commanded() -> None:
            left[0] -= 1
            if left[0] == 0:
                reactor.callLater(seconds, self.kill)

        self.firmware.commanded = commanded

    async def close(self) -> None:
        """End whatever is left of it."""
        if self._process is not None:
            await self.kill()
        if self.hsm.running:
            self.hsm.stopService()


class Campaign:
    """The clients, the clock, and who is killed."""

    def __init__(self, transfers: int, seed: int, directory: Path, cluster: Cluster | None) -> None:
        self._transfers = transfers
        self._random = Random(seed)
        self._cluster = cluster
        self._true = self._error = 0.0  # seconds: by which true time is ahead of that here
        store = f"sqlite:{directory / 'store.sqlite'}"
        if cluster is not None:
            store = f"etcd:{','.join(cluster.urls)}"
        daemons = 1 if cluster is None else 2
        self._daemons = [Daemon(directory / f"daemon-{n}", store) for n in range(daemons)]
        self._numbers = iter(range(1, 2**31))
        self._payloads: list[tuple[bytes, int]] = []
        self._behind: list[tuple[Daemon, int, float]] = []
        self.report = Report()

    async def run(self) -> Report:
        """Run to the end."""
        try:
            await self._daemons[0].init()
            while self.report.asked < self._transfers:
                await self._live()
                self._turn_clock()
            await self._spend_all()
        finally:
            for daemon in self._daemons:
                await daemon.close()
        self.report.judge()
        return self.report

    # -- one life ----------------------------------------------------------------------

    async def _live(self) -> None:
        """Start the daemons, have them asked, and kill them one by one."""
        if self._cluster is not None:
            await self._cluster.start()
        unplugged = self._random.random() < 0.1
        await gatherResults([Deferred.fromCoroutine(each.start()) for each in self._daemons])
        if unplugged:
            self._daemons[0].hsm.stopService()
        ends = [self._random.uniform(0, LIFE) for _ in self._daemons]
        for daemon in self._daemons:
            if self._random.random() < 0.5:
                delay = self._random.uniform(0, _BEHIND)
                daemon.kill_at_command(self._random.randint(1, 6), delay)
        asking = [
            Deferred.fromCoroutine(self._ask_until_it_ends(daemon))
            for daemon in self._daemons
            for _ in range(CLIENTS)
        ]
        disturbing = [
            Deferred.fromCoroutine(self._disturb(min(ends))),
            Deferred.fromCoroutine(self._set_right(min(ends))),
        ]
        killing = [
            deferLater(reactor, end, daemon.kill)
            for end, daemon in zip(ends, self._daemons, strict=True)
        ]
        everything: list[Deferred[Any]] = [*asking, *killing, *disturbing]
        await gatherResults(everything)
        self.report.kills += len(self._daemons)
        self._behind.clear()
        if unplugged:
            self._daemons[0].hsm.startService()

    async def _disturb(self, seconds: float) -> None:
        """Pause etcd for a moment, or kill it, now and then."""
        if self._cluster is None or self._random.random() < 0.6:
            return
        (member,) = self._cluster.members
        await deferLater(reactor, self._random.uniform(0, seconds))
        if self._random.random() < 0.3:
            await member.kill()
            return
        member.pause()
        await deferLater(reactor, self._random.uniform(0, 2))
        member.resume()

    async def _ask_until_it_ends(self, daemon: Daemon) -> None:
        while (client := daemon.client) is not None:
            await self._ask(daemon, client, *self._wanted())
            await deferLater(reactor, self._random.uniform(0, REST))

    def _wanted(self) -> tuple[bytes, int]:
        """A transfer, mostly a new one; and all that leaves with it."""
        if self._payloads and self._random.random() < 0.25:
            return self._random.choice(self._payloads[-20:])
        amount = self._random.choice((0, 1, 3, 10, 33)) * TEZ + self._random.randrange(1000)
        self._payloads.append(transfer(next(self._numbers), amount))
        return self._payloads[-1]

    async def _ask(
        self, daemon: Daemon, client: Client, data: bytes, mutez: int
    ) -> HttpAnswer | None:
        self.report.asked += 1
        wrong_by = self._error
        try:
            answer = await client.sign(TZ3, data)
        except (HTTPException, ConnectError) as error:
            if daemon.client is client:
                self.report.unexplained.add(f"no answer of a living daemon: {error!r}")
            return None
        self.report.answers[answer.status] += 1
        if answer.status not in _STATUSES:
            self.report.unexplained.add(f"{answer.status} {answer.body!r}")
        if answer.status == 200:
            self._received(data, mutez, answer, daemon, wrong_by)
        return answer

    def _received(
        self, data: bytes, mutez: int, answer: HttpAnswer, daemon: Daemon, wrong_by: float
    ) -> None:
        """Note what was received; asked for when the clock was wrong by so much."""
        report, moment = self.report, time() + self._true
        if not good(TZ3, data, signature_in(answer)):
            report.unverified.add(data.hex())
        if wrong_by > 0:  # a clock that is ahead gives some away: the documents say so
            report.while_ahead += 1
            return
        if wrong_by < 0:  # the next run may know this time only: the documents say so, too
            report.while_behind += 1
            self._behind.append((daemon, len(report.received), moment))
            latest = max((at for at, _, _ in report.received), default=0.0)
            moment = max(latest, moment + wrong_by)
        else:  # with this, it is stored when those were really reserved
            for its, number, at in self._behind:
                if its is daemon:
                    report.received[number] = (at, *report.received[number][1:])
            self._behind = [one for one in self._behind if one[0] is not daemon]
        report.received.append((moment, data, mutez))

    # -- the clock ---------------------------------------------------------------------

    async def _set_right(self, seconds: float) -> None:
        """Set a clock right that is wrong, now and then, while the daemons run."""
        await deferLater(reactor, self._random.uniform(0, seconds))
        if self._error and self._random.random() < 0.5:
            self._error = 0.0
            for daemon in self._daemons:
                daemon.set_clock(self._true)

    def _turn_clock(self) -> None:
        """Let hours go by, or have the clock be wrong, or right again."""
        what = self._random.random()
        if self._error:
            self._error = 0.0
        elif what < 0.15:
            self._error = -self._random.uniform(0, DAY)
        elif what < 0.25:
            self._error = self._random.uniform(0, DAY)
        elif what < 0.6:
            self._true += self._random.uniform(0, 9 * HOUR)
        for daemon in self._daemons:
            daemon.set_clock(self._true + self._error)

    # -- the end -----------------------------------------------------------------------

    async def _spend_all(self) -> None:
        """Three days later all of it can be spent, to the last mutez, and no more."""
        self._true, self._error = self._true + 3 * DAY, 0.0
        for daemon in self._daemons:
            daemon.set_clock(self._true)
        if self._cluster is not None:
            await self._cluster.start()
        for daemon in self._daemons:
            await daemon.start()
        for number, (daemon, client) in enumerate(self._in_turns()):
            data, mutez = transfer(next(self._numbers), LIMIT // 10 - _FEE)
            answer = await self._ask(daemon, client, data, mutez)
            right = 200 if number < 10 else 429
            if answer is None or answer.status != right:
                self.report.lost.add(f"{answer} in the place of {right} for transfer {number}")

    def _in_turns(self) -> Iterator[tuple[Daemon, Client]]:
        for number in range(12):
            daemon = self._daemons[number % len(self._daemons)]
            assert daemon.client is not None
            yield daemon, daemon.client


def transfer(number: int, amount: int) -> tuple[bytes, int]:
    """A transfer like no other, and all that leaves with it."""
    branch = number.to_bytes(32, "big")
    operation = transaction_of(str(TZ3), amount, OTHER, fee=_FEE, storage_limit=0)
    return payload(operation, branch=branch), amount + _FEE


async def campaign(transfers: int, seed: int, directory: Path, etcd: bool = False) -> Report:
    """Ask for so many transfers, of one daemon, or of two with one etcd."""
    if not etcd:
        return await Campaign(transfers, seed, directory, None).run()
    cluster = Cluster(directory / "etcd")
    await cluster.start()
    try:
        return await Campaign(transfers, seed, directory, cluster).run()
    finally:
        await cluster.stop()


def main() -> None:
    """Run it, print what it found, and exit with 1 if that must not be."""
    parser = argparse.ArgumentParser(prog="python -m tests.campaigns.spending", description=__doc__)
    parser.add_argument("--transfers", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--etcd", action="store_true", help="two daemons with one etcd")
    options = parser.parse_args()
    with TemporaryDirectory() as directory:
        report = run(
            lambda: campaign(options.transfers, options.seed, Path(directory), options.etcd)
        )
    print(f"seed {options.seed}: {report.asked} transfers asked for, {report.kills} kills")
    print(
        f"answers: {dict(report.answers)}; {report.while_ahead} while the clock was ahead, "
        f"{report.while_behind} while it was behind"
    )
    tell(report.findings)
    sys.exit(0 if report.passed else 1)


if __name__ == "__main__":
    main()
