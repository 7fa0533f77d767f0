"""Three etcd members and two signer daemons, and everything that may go wrong between them.

All are real processes; the HSMs are simulated here. What they say to each other goes through
proxies of this process, so that it can be held, slowed down and broken.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import partial
from glob import glob
from pathlib import Path
from random import Random
from signal import SIGCONT

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import LoopingCall

from tests.campaigns.signing import ForgetfulFirmware, configuration
from tests.support.daemonprocess import FREE_PORT, Process, serving, spawn_command, spawn_daemon
from tests.support.etcdcluster import PATIENCE, Cluster, Member
from tests.support.harness import Client, reactor
from tests.support.tcpproxy import Link, Proxy, Way
from tezio_signer.simulator.service import Simulator
from tezio_signer.watermarks import transfer
from tezio_signer.watermarks.rule import Mark, MarkId

MEMBERS = 3
DAEMONS = 2
LATENCY = 0.005
"""Seconds that an HSM takes; about as long as a commit, so that either may come first."""
RESET_EVERY = 0.05
"""Seconds between two resets of a connection that is reset again and again."""
_BAD_WORDS = ("Traceback", "Unhandled")
_ALARM = " critical "


class SignerDaemon:
    """A daemon with its HSM, and the links over which it reaches the members.

    :ivar client: a client of it, while it runs.
    :ivar disturbed: when it was paused, resumed or killed for the last time: what was asked
        before cannot be answered as it should.
    """

    def __init__(self, directory: Path, members: Sequence[Member]) -> None:
        directory.mkdir(parents=True)
        self._directory = directory
        self._time = directory / "time"
        self._offset = 0.0
        self._hsm = Simulator(
            reactor, ForgetfulFirmware(lambda *_: None), LATENCY, str(directory / "hsm")
        )
        self.links = [Link() for _ in members]
        self._proxies = [
            Proxy(member.client_port, lambda _, link=link: link)  # type: ignore[misc]
            for member, link in zip(members, self.links, strict=True)
        ]
        urls = ",".join(f"http://127.0.0.1:{proxy.port}" for proxy in self._proxies)
        config = configuration(directory / "hsm", f"etcd:{urls}")
        (directory / "config.yaml").write_text(config, "utf-8")
        self.step_clock(0.0)
        self.client: Client | None = None
        self.disturbed = 0.0
        self.paused = False
        self._process: Process | None = None
        self._logs: list[str] = []

    async def start(self) -> None:
        """Start it with its HSM; it can be asked when this returns."""
        if not self._hsm.running:
            self._hsm.startService()
        self._process = spawn_daemon(self._directory, "--http", FREE_PORT, **self._environment())
        serving_now = Deferred.fromCoroutine(serving(self._process))
        self.client = await serving_now.addTimeout(PATIENCE, reactor)

    def _environment(self) -> dict[str, str]:
        if (library := faketime()) is None:
            return {}
        # Its name for this has changed; a monotonic clock does not jump on real machines.
        monotonic = dict.fromkeys(("DONT_FAKE_MONOTONIC", "FAKETIME_DONT_FAKE_MONOTONIC"), "1")
        return monotonic | {
            # Without, threads that wait for each other do not sleep, and eat up the processors.
            "FAKETIME_FORCE_MONOTONIC_FIX": "0",
            "LD_PRELOAD": library,
            "FAKETIME_TIMESTAMP_FILE": str(self._time),
            "FAKETIME_CACHE_DURATION": "1",  # without, it reads that file for every line logged
        }

    def step_clock(self, seconds: float) -> None:
        """Set its clock forward, or back."""
        self._offset += seconds
        new = self._time.with_suffix(".new")
        new.write_text(f"{self._offset:+f}\n", "ascii")
        new.replace(self._time)

    @property
    def able(self) -> bool:
        """Whether it runs and is not paused."""
        return self.client is not None and not self.paused

    def pause(self) -> None:
        """Stop it where it is."""
        self.paused = True
        self._send("STOP")

    async def heal(self) -> None:
        """Have it go on after a pause; start it again if it was killed."""
        if self.paused:
            self.paused = False
            self._send(SIGCONT)
        if self.client is None:
            await self.start()

    def kill(self) -> Deferred[int]:
        """End it at once."""
        assert self._process is not None
        self.client, self.paused = None, False
        self.disturbed = reactor.seconds()
        self._logs.append(self._process.log)
        return self._process.kill()

    async def stop(self) -> str:
        """End it in good order; what is wrong with the end, or else nothing."""
        process = self._process
        assert process is not None
        process.send("TERM")
        code = await process.exits().addTimeout(PATIENCE, reactor)
        self.client = None
        return "" if code == 0 else f"it ended with {code}:\n{process.log[-2000:]}"

    async def marks(self) -> dict[MarkId, Mark]:
        """What is in its store, by `tezio-signer watermarks export`."""
        exporting = spawn_command(self._directory, "watermarks", "export")
        code = await exporting.exits().addTimeout(PATIENCE, reactor)
        assert code == 0, exporting.log
        return dict(transfer.load("export", exporting.out).marks)

    async def create_store(self) -> None:
        """Make the store, by `tezio-signer watermarks init`."""
        creating = spawn_command(self._directory, "watermarks", "init")
        code = await creating.exits().addTimeout(PATIENCE, reactor)
        assert code == 0, creating.log

    def complaints(self, alarmed: bool = False) -> list[str]:
        """Lines of its logs that must not be there, with what follows them.

        :param alarmed: whether it had to raise an alarm.
        """
        words = _BAD_WORDS if alarmed else (*_BAD_WORDS, _ALARM)
        logs = [*self._logs, self._process.log if self._process else ""]
        found = ((log, log.find(word)) for log in logs for word in words)
        return [log[max(0, at - 300) : at + 1500] for log, at in found if at >= 0]

    async def close(self) -> None:
        """End whatever is left of it."""
        if self._process is not None:
            await self._process.kill()
        if self._hsm.running:
            self._hsm.stopService()
        for link in self.links:
            link.reset()
        for proxy in self._proxies:
            await proxy.stop()

    def _send(self, signal: str | int) -> None:
        assert self._process is not None
        self.disturbed = reactor.seconds()
        self._process.send(signal)


def faketime() -> str | None:
    """Debian's libfaketime, by which a process sees another time; None where it is missing."""
    return next(iter(glob("/usr/lib/*/faketime/libfaketimeMT.so.1")), None)


class Network:
    """Members and daemons, and the links between them; `heal` undoes every fault."""

    def __init__(self, directory: Path, random: Random) -> None:
        self.random = random
        self.cluster = Cluster(directory / "etcd", MEMBERS)
        self._between_members: defaultdict[tuple[int, int], Link] = defaultdict(Link)
        self._proxies = [
            Proxy(member.peer_port, partial(self._member_link, n))
            for n, member in enumerate(self.cluster.members)
        ]
        for member, proxy in zip(self.cluster.members, self._proxies, strict=True):
            member.advertised_port = proxy.port
        self.daemons = [
            SignerDaemon(directory / f"daemon-{n}", self.cluster.members) for n in range(DAEMONS)
        ]
        self._backup = directory / "backup"
        self._resetting = LoopingCall(lambda: None)

    def _member_link(self, target: int, port: int) -> Link | None:
        """The link from whichever member has connected from this port to another one.

        What a member sends tells it not: on one connection, some requests name their sender.
        """
        for number, member in enumerate(self.cluster.members):
            if number != target and member.owns(port, self._proxies[target].port):
                return self._between_members[number, target]
        return None

    async def start(self) -> None:
        """Start everything, with a new store."""
        await self.cluster.start()
        await self.daemons[0].create_store()
        await gatherResults([Deferred.fromCoroutine(daemon.start()) for daemon in self.daemons])

    async def close(self) -> None:
        """End everything, whatever has become of it."""
        self._stop_resetting()
        for daemon in self.daemons:
            await daemon.close()
        await self.cluster.stop()
        for link in self.links:
            link.reset()
        for proxy in self._proxies:
            await proxy.stop()

    # -- what can be broken ------------------------------------------------------------

    def between(self, one: int, other: int) -> list[Link]:
        """Both links between two members."""
        return [self._between_members[one, other], self._between_members[other, one]]

    def around(self, member: int) -> list[Link]:
        """All links between a member and the others."""
        others = (other for other in range(MEMBERS) if other != member)
        return [link for other in others for link in self.between(member, other)]

    def hold_words(self, speaker: int, listener: int) -> None:
        """Nothing that a member says gets to another, whoever has made the connection."""
        self._between_members[speaker, listener].hold(Way.REQUESTS)
        self._between_members[listener, speaker].hold(Way.ANSWERS)

    @property
    def links(self) -> list[Link]:
        """All of them."""
        own = [link for daemon in self.daemons for link in daemon.links]
        return own + list(self._between_members.values())

    async def leader(self) -> int:
        """Which member leads; any, when none does because of another fault."""
        leader = await self.cluster.leader()
        return self.member() if leader is None else self.cluster.members.index(leader)

    def member(self) -> int:
        """Any member."""
        return self.random.randrange(MEMBERS)

    def daemon(self) -> SignerDaemon:
        """Any daemon."""
        return self.random.choice(self.daemons)

    def cut(self, links: Iterable[Link]) -> None:
        """Nothing gets through these: it waits, or connections are broken and refused."""
        refused = self.random.random() < 0.5
        for link in links:
            if refused:
                link.refuse()
            else:
                link.hold()

    def reset_often(self, links: Sequence[Link]) -> None:
        """Break the connections of these again and again."""

        def reset() -> None:
            for link in links:
                link.reset()

        self._stop_resetting()
        self._resetting = LoopingCall(reset)
        self._resetting.start(RESET_EVERY)

    async def turn_back(self) -> None:
        """End all members; with the data of a backup, or, the first time, after taking one."""
        members = self.cluster.members
        await gatherResults([member.kill() for member in members])
        taken = self._backup.exists()
        for number, member in enumerate(members):
            copy = self._backup / str(number)
            if taken:
                member.restore_data(copy)
            else:
                member.copy_data(copy)

    async def heal(self) -> None:
        """Undo everything; what was held arrives now, or is lost for ever.

        Nothing is wrong any more when this is called, but for what has been started again;
        all of that is ready when this returns.
        """
        self._stop_resetting()
        lost = self.random.random() < 0.5
        for link in self.links:
            if lost and link.disturbed:
                link.reset()
            link.open()
        for member in self.cluster.members:
            if member.paused and member.running:
                member.resume()
        starting = [self.cluster.start(), *(daemon.heal() for daemon in self.daemons)]
        await gatherResults([Deferred.fromCoroutine(each) for each in starting])

    def _stop_resetting(self) -> None:
        if self._resetting.running:
            self._resetting.stop()
