"""Where stores of each kind are made, for the state machine."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from twisted.internet.defer import Deferred, execute

from tests.etcdcluster import Gateway
from tests.stand import reactor
from tests.watermarks.conformance import MemoryStore
from tests.watermarks.fakeetcd import FakeEtcd
from tests.watermarks.fakeetcd import etcd_store as fake_store
from tests.watermarks.statemachine import Place
from tezio_signer.settings import EtcdAddress
from tezio_signer.watermarks import sqlite
from tezio_signer.watermarks.etcd import EtcdStore
from tezio_signer.watermarks.grouped import GroupedStore, ThreadWriter
from tezio_signer.watermarks.opening import etcd_store
from tezio_signer.watermarks.rule import Mark, MarkId
from tezio_signer.watermarks.sqlite import SqliteStore

_Result = TypeVar("_Result")


def memory(daemons: int = 1) -> Place:
    """In this process."""
    marks: dict[MarkId, Mark] = {}

    def opened() -> MemoryStore:
        return MemoryStore(marks, shared=daemons > 1)

    return Place(lambda: execute(marks.clear), opened, lambda: opened().load(), daemons)


def shared_memory() -> Place:
    """In this process, for two."""
    return memory(2)


def sqlite_file(new_path: Callable[[], str]) -> Place:
    """Files, a new one for each history."""
    paths: list[Path] = []

    def make() -> Deferred[None]:
        paths.append(Path(new_path()))
        return execute(sqlite.create, paths[-1])

    return Place(
        make,
        lambda: GroupedStore(SqliteStore(paths[-1]), ThreadWriter(reactor)),
        lambda: execute(sqlite.read, paths[-1]),
    )


def etcd_cluster(address: EtcdAddress, gateway: Gateway) -> Place:
    """In etcd, emptied through a member's gateway for each history; for two."""

    def opened() -> EtcdStore:
        return etcd_store(address, reactor)

    async def make() -> None:
        await gateway.call("kv/deleterange", {"key": "AA==", "range_end": "AA=="})
        await _with(opened(), EtcdStore.create)

    return Place(
        lambda: Deferred.fromCoroutine(make()),
        opened,
        lambda: Deferred.fromCoroutine(_with(opened(), EtcdStore.load)),
        daemons=2,
    )


async def _with(store: EtcdStore, do: Callable[[EtcdStore], Deferred[_Result]]) -> _Result:
    try:
        return await do(store)
    finally:
        await store.close()


def fake_etcd() -> Place:
    """An etcd in memory, for two; a new one for each history."""
    etcds: list[FakeEtcd] = []

    def make() -> Deferred[None]:
        etcds.append(FakeEtcd())
        return fake_store(etcds[-1]).create()

    return Place(
        make, lambda: fake_store(etcds[-1]), lambda: fake_store(etcds[-1]).load(), daemons=2
    )
