"""A signer with any number of simulated HSMs, for the campaigns."""

import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from resource import getpagesize
from tempfile import TemporaryDirectory
from typing import NoReturn, Protocol, TypeVar

from twisted.application.service import IService
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IProtocolFactory
from twisted.internet.task import react

from tests.support.harness import Client, opened, reactor, settings_with
from tests.support.stores import watermarks_on
from tests.support.vectors import TZ1, TZ2, TZ3
from tezio_signer.hsm.boards import Board
from tezio_signer.hsm.exchange import Timing
from tezio_signer.hsm.pool import HsmOptions, HsmPool
from tezio_signer.listeners.httpsite import SignerSite
from tezio_signer.listeners.limits import Connections
from tezio_signer.listeners.service import listener
from tezio_signer.octezsocket import OctezSocketFactory
from tezio_signer.resource import SignerResource
from tezio_signer.serialhsm import SerialPorts
from tezio_signer.signer import Signer
from tezio_signer.simulator.service import Simulator

_Result = TypeVar("_Result")


class Rig:
    """Simulated HSMs on pseudo-terminals, and a signer on loopback that uses them all."""

    def __init__(
        self, hsms: Sequence[Simulator], timing: Timing | None = None, patience: float = 2.0
    ) -> None:
        self.hsms = hsms
        self.pool = HsmPool(
            reactor,
            SerialPorts(reactor, reactor, self._boards, timing=timing or Timing()),
            HsmOptions(patience),
        )
        settings = settings_with()
        watermarks = watermarks_on(floors=settings.floors)
        self._services = [*hsms, watermarks, self.pool]
        self.signer = Signer(settings, self.pool, watermarks, reactor)
        self._connections = Connections(settings.limits, reactor, self.signer.admit)
        self._listeners: list[IService] = []

    def _boards(self) -> list[Board]:
        return [board for hsm in self.hsms for board in hsm.boards()]

    async def start(self) -> Client:
        """Start everything; a client of it."""
        for service in self._services:
            service.startService()
        site = SignerSite(SignerResource(self.signer).app.resource())
        port = self._open("tcp:0:interface=127.0.0.1", site)
        self.public_keys = {key: str(await self.pool.public_key(key)) for key in (TZ1, TZ2, TZ3)}
        await self.all_ready()
        return Client(int(port))

    def open(self, path: str | None = None) -> str:
        """Open a listener of the socket protocol; the endpoint of its clients."""
        sockets = OctezSocketFactory(self.signer, reactor)
        if path:
            self._open(f"unix:{path}", sockets)
            return f"unix:{path}"
        return f"tcp:127.0.0.1:{self._open('tcp:0:interface=127.0.0.1', sockets)}"

    def _open(self, endpoint: str, factory: IProtocolFactory) -> str:
        self._listeners.append(listener(endpoint, factory, reactor, self._connections))
        return opened(self._listeners[-1])

    async def all_ready(self, seconds: float = 5.0) -> bool:
        """Wait until all HSMs are in use; False if they are not in this time."""
        until = reactor.seconds() + seconds
        while len(self.pool.devices) < len(self.hsms) or not all(
            device.ready for device in self.pool.devices.values()
        ):
            if reactor.seconds() > until:
                return False
            await self.pool.changed(0.1)
        return True

    async def stop(self) -> None:
        """Stop everything."""
        self._connections.stopService()
        for opened_listener in self._listeners:
            await maybeDeferred(opened_listener.stopService)
        for service in reversed(self._services):
            service.stopService()


def resident_memory() -> int:
    """Bytes of this process in memory."""
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * getpagesize()


def percentile(values: Sequence[float], share: float) -> float:
    """The value that this share of all values does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def run(campaign: Callable[[], Awaitable[_Result]]) -> _Result:
    """Run a campaign in the reactor."""
    results: list[_Result] = []

    async def collect() -> None:
        results.append(await campaign())

    try:
        react(lambda _: Deferred.fromCoroutine(collect()))
    except SystemExit as ended:
        if not results:
            sys.exit(ended.code)
    return results[0]


class Shown(Protocol):
    """What a campaign has found."""

    @property
    def passed(self) -> bool:
        """Whether nothing happened that must not."""

    def show(self, seed: int) -> None:
        """Print everything."""


def carry_out(campaign: Callable[[Path], Awaitable[Shown]], seed: int) -> NoReturn:
    """Run a campaign in a directory of its own, print what it found; exit with 1 if it failed."""
    with TemporaryDirectory() as directory:
        report = run(lambda: campaign(Path(directory)))
    report.show(seed)
    sys.exit(0 if report.passed else 1)
