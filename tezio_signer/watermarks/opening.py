"""Opens stores by their address: for the daemon, and for the operator's commands."""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from treq.client import HTTPClient
from twisted.internet.defer import Deferred, execute, succeed
from twisted.web.client import Agent, HTTPConnectionPool, _HTTP11ClientFactory

from tezio_signer.config.hints import spelled_out
from tezio_signer.config.settings import EtcdAddress, StoreAddress
from tezio_signer.reactors import Reactor
from tezio_signer.watermarks.entry import Entries, Spending, merged
from tezio_signer.watermarks.etcd.gateway import EtcdGateway
from tezio_signer.watermarks.etcd.login import Login
from tezio_signer.watermarks.etcd.store import EtcdStore
from tezio_signer.watermarks.etcd.tls import read_file, tls_policy
from tezio_signer.watermarks.rule import Mark, MarkId
from tezio_signer.watermarks.sqlite import reading
from tezio_signer.watermarks.sqlite import store as sqlite
from tezio_signer.watermarks.sqlite.grouped import GroupedStore, ThreadWriter
from tezio_signer.watermarks.sqlite.store import SqliteStore
from tezio_signer.watermarks.store import StoreError, WatermarkStore

_CONNECT_TIMEOUT = 1.0


def open_store(
    address: StoreAddress | None, reactor: Reactor, config: str | None = None
) -> WatermarkStore:
    """Open the store of a daemon; the address None means one in memory.

    :param config: the configuration file as it was named, for the commands in sentences.
    :raises StoreError: if it cannot be opened; whoever is to run a command is told the whole.
    """
    if isinstance(address, EtcdAddress):
        return etcd_store(address, reactor)
    try:
        store = SqliteStore(address)
    except StoreError as error:
        raise StoreError(spelled_out(str(error), config, address)) from error
    return GroupedStore(store, ThreadWriter(reactor), reactor, store.look)


def etcd_store(address: EtcdAddress, reactor: Reactor) -> EtcdStore:
    """Make a store in etcd; raises StoreError if a file that it needs cannot be used."""
    pool = HTTPConnectionPool(reactor)
    pool._factory = _QuietFactory
    pool.retryAutomatically = False  # the gateway asks another member instead
    agent = Agent(reactor, tls_policy(address), _CONNECT_TIMEOUT, pool=pool)
    login = None
    if address.user is not None and address.password_file is not None:
        password = read_file(address.password_file).decode(errors="replace").partition("\n")[0]
        login = Login(address.user, password)
    gateway = EtcdGateway(address.endpoints, HTTPClient(agent), pool, reactor, login)
    return EtcdStore(gateway, reactor)


class _QuietFactory(_HTTP11ClientFactory):
    """Leaves every connection that begins or ends out of the log."""

    noisy = False


def _merged(there: Entries, brought: Entries) -> Entries:
    return {digest: merged(there.get(digest), entry) for digest, entry in brought.items()}


class OperatedStore(Protocol):
    """What an operator does to a store. Everything fails with StoreError."""

    def create(self) -> Deferred[None]:
        """Make it, empty; fails if it exists."""

    def read(self) -> Deferred[dict[MarkId, Mark]]:
        """Return all marks, also while a daemon uses the store."""

    def load(self) -> Deferred[dict[MarkId, Mark]]:
        """Return all marks, with the intention to replace some; comes before `replace`."""

    def replace(self, marks: Mapping[MarkId, Mark]) -> Deferred[None]:
        """Put these in the place of what is there; lowers marks too."""

    def read_spending(self) -> Deferred[Spending]:
        """Return all entries of the daily ledger, also while a daemon uses the store."""

    def load_spending(self) -> Deferred[Spending]:
        """Return all entries of the daily ledger; as `load` does it."""

    def take_over(self, marks: Mapping[MarkId, Mark], spending: Spending) -> Deferred[None]:
        """Put marks in the place of what is there, and have entries count that are brought.

        Of an entry that is there too, what counts more is kept.
        """

    def close(self) -> Deferred[None]:
        """Release it."""


class SqliteFile:
    """An `OperatedStore` in an SQLite file. It blocks, so no daemon may use it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._store: SqliteStore | None = None

    def create(self) -> Deferred[None]:
        """Make the file."""
        return execute(sqlite.create, self._path)

    def read(self) -> Deferred[dict[MarkId, Mark]]:
        """Return all marks; takes no lock."""
        return execute(reading.read, self._path)

    def load(self) -> Deferred[dict[MarkId, Mark]]:
        """Return all marks; locks the store until it is closed."""
        return execute(lambda: self._opened().load())

    def replace(self, marks: Mapping[MarkId, Mark]) -> Deferred[None]:
        """Replace all of these, or none."""
        return execute(lambda: self._opened().replace(marks))

    def read_spending(self) -> Deferred[Spending]:
        """Return all entries; takes no lock."""
        return execute(lambda: reading.read_all(self._path).spending)

    def load_spending(self) -> Deferred[Spending]:
        """Return all entries; locks the store until it is closed."""
        return execute(lambda: self._opened().spending())

    def take_over(self, marks: Mapping[MarkId, Mark], spending: Spending) -> Deferred[None]:
        """Take over all of these, or nothing."""
        return execute(self._take_over, marks, spending)

    def _take_over(self, marks: Mapping[MarkId, Mark], spending: Spending) -> None:
        store = self._opened()
        there = store.spending()
        store.replace(marks, {key: _merged(there.get(key, {}), e) for key, e in spending.items()})

    def _opened(self) -> SqliteStore:
        if self._store is None:
            self._store = SqliteStore(self._path)
        return self._store

    def close(self) -> Deferred[None]:
        """Close the file."""
        if self._store is not None:
            self._store.close()
        return succeed(None)
