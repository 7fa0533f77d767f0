"""All stores that need no other program keep what stores promise."""

from pathlib import Path

from twisted.internet.defer import Deferred, execute
from twisted.trial.unittest import TestCase

from tests.support.fakeetcd import FakeEtcd, etcd_store
from tests.support.harness import reactor
from tests.support.storeconformance import StorePromises
from tests.support.stores import ImmediateWriter, MemoryStore
from tezio_signer.tezos.keys import PublicKeyHash
from tezio_signer.watermarks.entry import Entry
from tezio_signer.watermarks.rule import Mark, MarkId
from tezio_signer.watermarks.sqlite import store as sqlite
from tezio_signer.watermarks.sqlite.grouped import GroupedStore, ThreadWriter
from tezio_signer.watermarks.sqlite.store import SqliteStore
from tezio_signer.watermarks.store import StoreError, WatermarkStore


class MemoryTests(StorePromises, TestCase):
    """The model that the others are compared with."""

    def setUp(self) -> None:
        self.marks: dict[MarkId, Mark] | None = None
        self.spending: dict[PublicKeyHash, dict[bytes, Entry]] = {}

    def make(self) -> Deferred[None]:
        def make() -> None:
            self.marks = {}

        return execute(make)

    def open_store(self) -> WatermarkStore:
        if self.marks is None:
            raise StoreError("made by: tezio-signer watermarks init")
        store = MemoryStore(self.marks)
        store.spending = self.spending
        return store


class SqliteTests(StorePromises, TestCase):
    """An SQLite file, written in this thread."""

    def setUp(self) -> None:
        self.path = Path(self.mktemp())

    def make(self) -> Deferred[None]:
        return execute(sqlite.create, self.path)

    def open_store(self) -> WatermarkStore:
        return GroupedStore(SqliteStore(self.path), ImmediateWriter())


class SqliteInAThreadTests(SqliteTests):
    """An SQLite file, written in a thread as the daemon does."""

    def open_store(self) -> WatermarkStore:
        return GroupedStore(SqliteStore(self.path), ThreadWriter(reactor))


class EtcdTests(StorePromises, TestCase):
    """An etcd in memory."""

    def setUp(self) -> None:
        self.etcd = FakeEtcd()

    def make(self) -> Deferred[None]:
        return etcd_store(self.etcd).create()

    def open_store(self) -> WatermarkStore:
        return etcd_store(self.etcd)
