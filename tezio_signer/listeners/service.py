"""Where the daemon listens: Twisted's endpoint strings, with limits and TLS of our choice."""

import resource
from collections.abc import Callable
from functools import partial
from typing import Any

from twisted.application.service import IService
from twisted.application.strports import service as listening_service
from twisted.internet.interfaces import IListeningPort, IProtocolFactory
from twisted.internet.protocol import Factory

from tezio_signer.config.settings import ClientCa
from tezio_signer.errors import StartupError
from tezio_signer.listeners import ports
from tezio_signer.listeners.endpoints import Endpoint
from tezio_signer.listeners.limits import Connections
from tezio_signer.listeners.portcheck import try_tcp
from tezio_signer.listeners.proxyprotocol import ProxiedFactory
from tezio_signer.listeners.tls.certificates import ServedCertificates
from tezio_signer.listeners.tls.directory import speak_sparingly
from tezio_signer.listeners.tls.handshakes import TlsFactory
from tezio_signer.listeners.unixpath import SocketPath
from tezio_signer.listeners.unknownaddress import RefusingFactory
from tezio_signer.listeners.wrapping import LimitedFactory
from tezio_signer.reactors import Reactor

OTHER_FILES = 64
"""File descriptors for all that is no connection: log, devices, store, listening ports."""


def check_open_files(connections: Connections) -> None:
    """Raises StartupError if this process may not open enough files for its connections."""
    needed = connections.open_files + OTHER_FILES
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if allowed not in (resource.RLIM_INFINITY, -1) and allowed < needed:
        raise StartupError(
            f"limits.connections is {connections.limits.connections}, which may need {needed} open "
            f"files; this process may open {allowed}: lower it, or raise `ulimit -n` (LimitNOFILE "
            "in the unit of systemd)"
        )


def listener(
    endpoint: str,
    factory: IProtocolFactory,
    reactor: Reactor,
    connections: Connections,
    client_ca: ClientCa | None = None,
) -> IService:
    """The service that listens on an endpoint; raises StartupError.

    :param factory: may have a method `refusal`, the bytes that tell a client in its protocol
        of a `NotAdmitted`.
    """
    to_open = Endpoint.parse(endpoint)
    try:
        source = to_open.certificates(client_ca)
        certificates = None if source is None else ServedCertificates(source, reactor)
        if to_open.kind == "tls":
            speak_sparingly(reactor)
        limit = partial(
            _limited,
            connections=connections,
            reactor=reactor,
            certificates=certificates,
            proxied=to_open.proxied,
        )
        listening: Any = _ListeningReactor(reactor, connections, limit)
        return listening_service(to_open.transport, factory, listening)
    except (ValueError, TypeError, LookupError, AttributeError, OSError) as error:
        raise StartupError(f"{endpoint!r} is not an endpoint to listen on: {error}") from error


def try_listener(endpoint: str, reactor: Reactor, connections: Connections) -> None:
    """Raises StartupError for what would keep the daemon from an endpoint; opens nothing.

    A socket of systemd is handed to the daemon itself only, and what a plugin opens is not known.

    :raises InUseError: if somebody listens there now, who may be the daemon.
    """
    to_open = Endpoint.parse(endpoint)
    if to_open.kind == "systemd":
        return
    listener(endpoint, Factory(), reactor, connections)
    if to_open.is_known:
        trying: Any = _TryingReactor(reactor)
        listening: Any = listening_service(to_open.transport, Factory(), trying)
        listening.privilegedStartService()


def _limited(
    factory: IProtocolFactory,
    *,
    connections: Connections,
    reactor: Reactor,
    certificates: ServedCertificates | None,
    proxied: bool,
) -> LimitedFactory:
    """A factory with all that lies between it and a port: limits, the proxy, TLS."""
    tls = certificates is not None
    answer = getattr(factory, "refusal", None)
    refusing: IProtocolFactory | None = None
    if answer is not None:
        refusing = RefusingFactory(factory, answer, reactor, not tls)
    if certificates is not None:
        factory = TlsFactory(certificates, factory, reactor)
        refusing = refusing and TlsFactory(certificates, refusing, reactor)
    if proxied:  # which speaks before TLS begins
        factory = ProxiedFactory(factory, connections, refusing, tls)
    return LimitedFactory(factory, connections, refusing, proxied, tls)


class _ListeningReactor:
    """A reactor whose ports are limited."""

    def __init__(
        self,
        reactor: Reactor,
        connections: Connections,
        limit: Callable[[IProtocolFactory], LimitedFactory],
    ) -> None:
        self._reactor: Any = reactor
        self._connections = connections
        self._limited = limit

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)

    @property
    def _seconds(self) -> float:
        return self._connections.limits.request_seconds

    def listenTCP(
        self,
        port: int,
        factory: IProtocolFactory,
        backlog: int = ports.BACKLOG,
        interface: str = "",
    ) -> IListeningPort:
        opened: IListeningPort = ports.listen_tcp(
            port, self._limited(factory), backlog, interface, self._reactor, self._seconds
        )
        return opened

    def listenUNIX(
        self,
        address: str,
        factory: IProtocolFactory,
        backlog: int = ports.BACKLOG,
        mode: int = 0o600,
        wantPID: bool = True,  # noqa: N803
    ) -> IListeningPort:
        opened: IListeningPort = ports.listen_unix(
            address, self._limited(factory), backlog, mode, self._reactor, lock=wantPID
        )
        return opened

    def adoptStreamPort(
        self, descriptor: int, family: int, factory: IProtocolFactory
    ) -> IListeningPort:
        opened: IListeningPort = ports.adopt(
            descriptor, family, self._limited(factory), self._reactor, self._seconds
        )
        return opened


class _TryingReactor:
    """A reactor that finds out whether it could listen, and does not."""

    def __init__(self, reactor: Reactor) -> None:
        self._reactor: Any = reactor

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)

    def listenTCP(self, port: int, factory: object, backlog: int = 0, interface: str = "") -> None:
        try_tcp(port, interface, self._reactor)

    def listenUNIX(
        self,
        address: str,
        factory: object,
        backlog: int = 0,
        mode: int = 0,
        wantPID: bool = True,  # noqa: N803
    ) -> None:
        SocketPath(address, wantPID).look()
