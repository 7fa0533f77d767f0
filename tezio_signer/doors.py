"""Where the daemon listens: Twisted's endpoint strings, with limits and TLS of our choice."""

import resource
from typing import Any

from OpenSSL import SSL
from OpenSSL.crypto import X509
from OpenSSL.crypto import Error as CryptoError
from twisted.application.service import IService
from twisted.application.strports import service as listening_service
from twisted.internet.error import VerifyError
from twisted.internet.interfaces import IListeningPort, IProtocolFactory
from twisted.protocols.tls import TLSMemoryBIOFactory

from tezio_signer import ports
from tezio_signer.connections import Connections, LimitedFactory
from tezio_signer.endpoints import Endpoint
from tezio_signer.errors import StartupError
from tezio_signer.proxies import ProxiedFactory
from tezio_signer.reactors import Reactor
from tezio_signer.settings import ClientCa
from tezio_signer.tlsdirectory import check_directory, speak_sparingly

OTHER_FILES = 64
"""File descriptors for all that is no connection: log, devices, store, listening ports."""


def check_open_files(connections: Connections) -> None:
    """Raises StartupError if this process may not open enough files for its connections."""
    needed = connections.open_files + OTHER_FILES
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if allowed not in (resource.RLIM_INFINITY, -1) and allowed < needed:
        raise StartupError(
            f"limits.connections is {connections.limits.connections}, which may need {needed} open "
            f"files; this process may open {allowed} (ulimit -n)"
        )


def door(
    endpoint: str,
    factory: IProtocolFactory,
    reactor: Reactor,
    connections: Connections,
    client_ca: ClientCa | None = None,
) -> IService:
    """The service that listens on an endpoint; raises StartupError."""
    to_open = Endpoint.parse(endpoint)
    try:
        if to_open.kind == "tls" and "path" in to_open.arguments:
            check_directory(to_open.arguments["path"])
            speak_sparingly(reactor)
        listening: Any = _ListeningReactor(reactor, connections, client_ca, to_open.proxied)
        return listening_service(to_open.description, factory, listening)
    except (ValueError, TypeError, LookupError, AttributeError, OSError) as error:
        raise StartupError(f"{endpoint!r} is no endpoint to listen on: {error}") from error
    except (CryptoError, SSL.Error, VerifyError) as error:
        raise StartupError(
            f"{endpoint!r}: its files hold no certificate and its key in PEM: {_reason(error)}"
        ) from error


class _ListeningReactor:
    """A reactor whose ports are limited, and whose TLS is not older than 1.2."""

    def __init__(
        self,
        reactor: Reactor,
        connections: Connections,
        client_ca: ClientCa | None,
        proxied: bool,
    ) -> None:
        self._proxied = proxied
        self._reactor: Any = reactor
        self._connections = connections
        self._client_ca = client_ca

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)

    @property
    def _seconds(self) -> float:
        return self._connections.limits.request_seconds

    def _limited(self, factory: IProtocolFactory) -> LimitedFactory:
        if self._proxied:  # which speaks before TLS begins
            factory = ProxiedFactory(factory, self._connections)
        return LimitedFactory(factory, self._connections, self._proxied)

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

    def listenSSL(
        self,
        port: int,
        factory: IProtocolFactory,
        contextFactory: Any,  # noqa: N803
        backlog: int = ports.BACKLOG,
        interface: str = "",
    ) -> IListeningPort:
        try:
            _harden(contextFactory.getContext(), self._client_ca)
        except (CryptoError, SSL.Error, ValueError) as error:
            raise StartupError(f"HTTPS on port {port}: {_reason(error)}") from error
        return self.listenTCP(
            port, TLSMemoryBIOFactory(contextFactory, False, factory), backlog, interface
        )

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


def _harden(context: SSL.Context, client_ca: ClientCa | None) -> None:
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    if client_ca is None:
        return
    store = context.get_cert_store()
    assert store is not None
    for certificate in client_ca.certificates:
        authority = X509.from_cryptography(certificate)
        store.add_cert(authority)
        context.add_client_ca(authority)  # so that clients know which of theirs to show
    # Without a callback it is OpenSSL that decides. The handshake fails before a byte of HTTP
    # is read, in TLS 1.3 too, where the client may think that it is over.
    context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT)


def _reason(error: Exception) -> str:
    """OpenSSL's own words, without the list of tuples around them."""
    reasons = error.args[0] if error.args else None
    if isinstance(reasons, list):
        return "; ".join(str(reason[-1]) for reason in reasons if reason) or "not understood"
    return str(error)
