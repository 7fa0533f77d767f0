"""Where stores of each kind are made, for the state machine."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar, cast

from treq.client import HTTPClient
from twisted.internet.defer import Deferred, execute
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import Clock
from twisted.web.client import Agent, HTTPConnectionPool
from zope.interface import implementer

from tests.support.etcdcluster import Gateway, GatewayError
from tests.support.fakeetcd import FakeEtcd, FakeGateway
from tests.support.fakeetcd import etcd_store as fake_store
from tests.support.harness import reactor
from tests.support.statemachine import Place
from tests.support.stores import Faults, FaultyGateway, FaultyStore, MemoryStore, faulty_commits
from tezio_signer.config.settings import EtcdAddress
from tezio_signer.watermarks.etcd.gateway import EtcdGateway
from tezio_signer.watermarks.etcd.store import EtcdStore
from tezio_signer.watermarks.rule import Mark, MarkId
from tezio_signer.watermarks.sqlite import reading
from tezio_signer.watermarks.sqlite import store as sqlite
from tezio_signer.watermarks.sqlite.grouped import GroupedStore, ThreadWriter
from tezio_signer.watermarks.sqlite.store import SqliteStore
from tezio_signer.watermarks.store import WatermarkStore

_Result = TypeVar("_Result")
_SLOWER = 20
_ATTEMPTS = 5


def memory(daemons: int = 1) -> Place:
    """In this process."""
    marks: dict[MarkId, Mark] = {}

    def opened(faults: Faults) -> WatermarkStore:
        return FaultyStore(MemoryStore(marks, shared=daemons > 1), faults)

    return Place(
        lambda: execute(marks.clear), opened, lambda: execute(lambda: dict(marks)), daemons
    )


def shared_memory() -> Place:
    """In this process, for two."""
    return memory(2)


def sqlite_file(new_path: Callable[[], str]) -> Place:
    """Files, a new one for each history; what fails are its commits."""
    paths: list[Path] = []

    def make() -> Deferred[None]:
        paths.append(Path(new_path()))
        return execute(sqlite.create, paths[-1])

    def opened(faults: Faults) -> WatermarkStore:
        with faulty_commits(faults):
            store = SqliteStore(paths[-1])
        return GroupedStore(store, ThreadWriter(reactor))

    return Place(make, opened, lambda: execute(reading.read, paths[-1]))


@implementer(IReactorTime)
class _SlowTime:
    """A clock that goes slowly: who waits by it is patient with a busy machine."""

    def seconds(self) -> float:
        return reactor.seconds() / _SLOWER

    def callLater(
        self,
        delay: float,
        callable: Callable[..., Any],  # noqa: A002 (the interface's word)
        *args: object,
        **kwargs: object,
    ) -> IDelayedCall:
        return reactor.callLater(delay * _SLOWER, callable, *args, **kwargs)

    def getDelayedCalls(self) -> Sequence[IDelayedCall]:
        return reactor.getDelayedCalls()


def etcd_cluster(address: EtcdAddress, gateway: Gateway) -> Place:
    """In etcd, emptied through a member's gateway for each history; for two.

    What fails is the way to it, beneath the store; etcd itself gets all the time that it needs.
    """
    clock = _SlowTime()

    def opened(faults: Faults) -> EtcdStore:
        pool = HTTPConnectionPool(reactor)
        pool.retryAutomatically = False
        client = HTTPClient(Agent(reactor, pool=pool))
        way = FaultyGateway(EtcdGateway(address.endpoints, client, pool, clock), faults)
        return EtcdStore(cast(EtcdGateway, way), clock)

    async def make() -> None:
        for _ in range(_ATTEMPTS):
            with suppress(GatewayError):
                await gateway.call("kv/deleterange", {"key": "AA==", "range_end": "AA=="})
                break
        await _with(opened(Faults()), EtcdStore.create)

    return Place(
        lambda: Deferred.fromCoroutine(make()),
        opened,
        lambda: Deferred.fromCoroutine(_with(opened(Faults()), EtcdStore.load)),
        daemons=2,
    )


async def _with(store: EtcdStore, do: Callable[[EtcdStore], Deferred[_Result]]) -> _Result:
    try:
        return await do(store)
    finally:
        await store.close()


def fake_etcd() -> Place:
    """An etcd in memory, for two; a new one for each history. What fails is the way to it."""
    etcds: list[FakeEtcd] = []

    def make() -> Deferred[None]:
        etcds.append(FakeEtcd())
        return fake_store(etcds[-1]).create()

    def opened(faults: Faults) -> EtcdStore:
        clock = Clock()
        way = FaultyGateway(FakeGateway(etcds[-1], clock), faults)
        return EtcdStore(cast(EtcdGateway, way), clock)

    return Place(make, opened, lambda: fake_store(etcds[-1]).load(), daemons=2)
