"""Listens where Twisted's endpoint strings say, with ports, limits and TLS of our choice."""

from collections.abc import Callable
from functools import partial
from typing import Any

from twisted.application.service import IService
from twisted.application.strports import service as listening_service
from twisted.internet.interfaces import IListeningPort, IProtocolFactory

from tezio_signer.config.endpoints import Endpoint
from tezio_signer.config.settings import ClientCa
from tezio_signer.errors import StartupError
from tezio_signer.listeners import ports
from tezio_signer.listeners.limits import Connections
from tezio_signer.listeners.proxyprotocol import ProxiedFactory
from tezio_signer.listeners.tls.certificates import ServedCertificates, certificates_of
from tezio_signer.listeners.tls.directory import speak_sparingly
from tezio_signer.listeners.tls.handshakes import TlsFactory
from tezio_signer.listeners.unknownaddress import RefusingFactory
from tezio_signer.listeners.wrapping import LimitedFactory
from tezio_signer.reactors import Reactor


def listener(
    endpoint: str,
    factory: IProtocolFactory,
    reactor: Reactor,
    connections: Connections,
    client_ca: ClientCa | None = None,
) -> IService:
    """Return the service that listens on an endpoint; raises StartupError.

    :param factory: may have a method `refusal`, the bytes that tell a client in its protocol
        of a `NotAdmitted`.
    """
    to_open = Endpoint.parse(endpoint)
    try:
        source = certificates_of(to_open, client_ca)
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


def _limited(
    factory: IProtocolFactory,
    *,
    connections: Connections,
    reactor: Reactor,
    certificates: ServedCertificates | None,
    proxied: bool,
) -> LimitedFactory:
    """Wrap a factory in all that lies between it and a port: limits, the proxy, TLS."""
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
    """A reactor whose ports are those of `ports.py`, with limits around every factory.

    Twisted's endpoints know nothing of limits, and of no port but the reactor's own. They listen
    through the methods of the reactor that they are given, so this one takes its place: no kind
    of endpoint, and no plugin's, can then be opened without limits, and Twisted alone goes on
    deciding what an endpoint string means.
    """

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
