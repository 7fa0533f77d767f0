"""Opens stores by their address: for the daemon, and for the operator's commands."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

from attrs import frozen
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from OpenSSL.crypto import Error as PemError
from treq.client import HTTPClient
from twisted.internet.defer import Deferred, execute, succeed
from twisted.internet.ssl import (
    Certificate,
    PrivateCertificate,
    TLSVersion,
    optionsForClientTLS,
    platformTrust,
    trustRootFromCertificates,
)
from twisted.web.client import Agent, HTTPConnectionPool, _HTTP11ClientFactory
from twisted.web.iweb import IPolicyForHTTPS
from zope.interface import implementer

from tezio_signer.config.hints import encrypted, spelled_out
from tezio_signer.config.settings import EtcdAddress, StoreAddress
from tezio_signer.reactors import Reactor
from tezio_signer.watermarks.etcd.gateway import EtcdGateway, Login
from tezio_signer.watermarks.etcd.store import EtcdStore
from tezio_signer.watermarks.rule import Mark, MarkId
from tezio_signer.watermarks.sqlite import reading
from tezio_signer.watermarks.sqlite import store as sqlite
from tezio_signer.watermarks.sqlite.grouped import GroupedStore, ThreadWriter
from tezio_signer.watermarks.sqlite.store import SqliteStore
from tezio_signer.watermarks.store import StoreError, WatermarkStore

_CONNECT_TIMEOUT = 1.0
_END = b"-----END CERTIFICATE-----"
_Value = TypeVar("_Value")


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
    agent = Agent(reactor, _tls_policy(address), _CONNECT_TIMEOUT, pool=pool)
    login = None
    if address.user is not None and address.password_file is not None:
        password = _read(address.password_file).decode(errors="replace").partition("\n")[0]
        login = Login(address.user, password)
    gateway = EtcdGateway(address.endpoints, HTTPClient(agent), pool, reactor, login)
    return EtcdStore(gateway, reactor)


class _QuietFactory(_HTTP11ClientFactory):
    """Leaves every connection that begins or ends out of the log."""

    noisy = False


@implementer(IPolicyForHTTPS)
@frozen
class _TlsPolicy:
    """Tells Twisted which servers are trusted, and which certificate is shown to them."""

    trust: Any
    identity: PrivateCertificate | None
    chain: list[Any]

    def creatorForNetloc(self, hostname: bytes, port: int) -> Any:
        options: dict[str, Any] = {"raiseMinimumTo": TLSVersion.TLSv1_2}
        if self.chain:
            options["extraCertChain"] = self.chain
        return optionsForClientTLS(
            hostname.decode("ascii"),
            trustRoot=self.trust,
            clientCertificate=self.identity,
            extraCertificateOptions=options,
        )


def _tls_policy(address: EtcdAddress) -> _TlsPolicy:
    trust = platformTrust()
    if address.ca is not None:
        trust = trustRootFromCertificates(_certificates(address.ca))
    identity, chain = None, []
    if address.certificate is not None and address.private_key is not None:
        chain = [link.original for link in _certificates(address.certificate)[1:]]
        _check_not_encrypted(address.private_key)
        pem = _read(address.certificate) + b"\n" + _read(address.private_key)
        identity = _loaded(address.private_key, PrivateCertificate.loadPEM, pem)
    return _TlsPolicy(trust, identity, chain)


def _check_not_encrypted(path: Path) -> None:
    """Raises StoreError for a key for whose password OpenSSL would ask at the terminal."""
    try:
        load_pem_private_key(_read(path), None)
    except TypeError as error:
        raise StoreError(f"{path}: {encrypted(path)}") from error
    except (ValueError, UnsupportedAlgorithm):
        pass  # is said in other words where it is used


def _certificates(path: Path) -> list[Certificate]:
    blocks = _read(path).split(_END)[:-1]
    if not blocks:
        raise StoreError(f"{path}: holds no certificate in PEM")
    return [_loaded(path, Certificate.loadPEM, block + _END) for block in blocks]


def _loaded(path: Path, load: Callable[[bytes], _Value], pem: bytes) -> _Value:
    try:
        return load(pem)
    except (PemError, ValueError, TypeError) as error:
        raise StoreError(f"{path}: cannot be used: not PEM, or not what belongs here") from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise StoreError(f"{path}: cannot be read: {error.strerror}") from error


class OperatedStore(Protocol):
    """What an operator does to a store. Everything fails with StoreError."""

    def create(self) -> Deferred[None]:
        """Make it, empty; fails if it exists."""

    def read(self) -> Deferred[dict[MarkId, Mark]]:
        """Return all marks, also while a daemon uses the store."""

    def load(self) -> Deferred[dict[MarkId, Mark]]:
        """Return all marks, with the intention to replace some; comes before `replace`."""

    def replace(self, marks: Mapping[MarkId, Mark]) -> Deferred[None]:
        """Put these in the place of what stands; lowers marks too."""

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

    def _opened(self) -> SqliteStore:
        if self._store is None:
            self._store = SqliteStore(self._path)
        return self._store

    def close(self) -> Deferred[None]:
        """Close the file."""
        if self._store is not None:
            self._store.close()
        return succeed(None)
