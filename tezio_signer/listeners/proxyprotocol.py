"""Listeners behind a proxy that says of each connection whose it is: HAProxy's PROXY protocol.

Both versions of https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt. Twisted's own
reading of it lets pass for the proxy whoever the proxy says nothing of, and takes some of
what is no header for a fault.
"""

import struct
from ipaddress import ip_address
from typing import Any, cast

from attrs import frozen
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import (
    IAddress,
    IHalfCloseableProtocol,
    IProtocol,
    IProtocolFactory,
    ITransport,
)
from twisted.protocols.policies import WrappingFactory
from twisted.python.failure import Failure
from zope.interface import directlyProvides

from tezio_signer.errors import NotAdmitted
from tezio_signer.listeners.limits import UNKNOWN, Connections, host_of
from tezio_signer.listeners.peers import UnsaidAddress, credentials_at
from tezio_signer.listeners.slots import slot_of
from tezio_signer.listeners.wrapping import HalfCloseableWrapper, listener_of, name_of

_NEWLINE = b"\r\n"
_LONGEST_LINE = 107
_FIRST = b"PROXY "
_SECOND = b"\r\n\r\n\0\r\nQUIT\n"
_SECOND_HEAD = struct.Struct("!12s2BH")
_IP = {
    0x11: (IPv4Address, struct.Struct("!4s4s2H")),
    0x21: (IPv6Address, struct.Struct("!16s16s2H")),
}
_UNIX = 0x31
_UNIX_PATHS = struct.Struct("!108s108s")


@frozen
class Header:
    """The header that a proxy sends ahead of what its client sends.

    :ivar client: whose connection it is; None for the proxy's own, such as a health check.
    :ivar length: of the header, in bytes.
    """

    client: IAddress | None
    length: int


def read_header(received: bytes) -> Header | None:
    """Return what a proxy has said, or None while some of it is missing; raises ValueError."""
    if received.startswith(_SECOND[: len(received)]):
        return _read_second(received)
    if received.startswith(_FIRST[: len(received)]):
        return _read_first(received)
    raise ValueError("does not begin with a PROXY header")


def _read_first(received: bytes) -> Header | None:
    line, newline, _ = received[:_LONGEST_LINE].partition(_NEWLINE)
    if not newline:
        if len(received) < _LONGEST_LINE:
            return None
        raise ValueError("the line of the PROXY header does not end")
    length = len(line) + len(newline)
    _, protocol, *said = line.decode("ascii").split(" ")
    if protocol == "UNKNOWN":
        return Header(UnsaidAddress(), length)
    kinds = {"TCP4": IPv4Address, "TCP6": IPv6Address}
    client, _, port, _ = said
    kind = kinds.get(protocol)
    if kind is None or ip_address(client).version != (4 if kind is IPv4Address else 6):
        raise ValueError("the PROXY header has an address of another kind than it says")
    return Header(kind("TCP", client, int(port)), length)


def _read_second(received: bytes) -> Header | None:
    if len(received) < _SECOND_HEAD.size:
        return None
    _, command, family, size = _SECOND_HEAD.unpack_from(received)
    length = _SECOND_HEAD.size + size
    if command not in (0x20, 0x21):
        raise ValueError("the PROXY header has another version or command")
    if len(received) < length:
        return None
    if command == 0x20:
        return Header(None, length)
    said = received[_SECOND_HEAD.size : length]
    try:
        if family == _UNIX:
            return Header(UNIXAddress(_UNIX_PATHS.unpack_from(said)[0].rstrip(b"\0")), length)
        if family not in _IP:
            return Header(UnsaidAddress(), length)
        kind, fields = _IP[family]
        client, _, port, _ = fields.unpack_from(said)
    except struct.error as error:
        raise ValueError("the PROXY header is too short for its addresses") from error
    return Header(kind("TCP", str(ip_address(client)), port), length)


class _Proxied(HalfCloseableWrapper):
    """A connection whose client is who the proxy says."""

    _received: bytes | None = b""
    _client: IAddress | None = None
    _muted = False

    def __init__(self, factory: Any, wrapped: IProtocol) -> None:
        super().__init__(factory, wrapped)
        if IHalfCloseableProtocol.providedBy(wrapped):
            directlyProvides(self, IHalfCloseableProtocol)

    def readConnectionLost(self) -> None:
        if self._received is None:
            super().readConnectionLost()
        else:  # there will be no header
            self.loseConnection()

    def dataReceived(self, data: bytes) -> None:
        if self._received is None:
            super().dataReceived(data)
            return
        if self.disconnecting:
            return
        self._received += data
        try:
            header = read_header(self._received)
        except ValueError:
            self._turn_away()
            return
        if header is not None:
            rest, self._received = self._received[header.length :], None
            self._client = header.client
            if self._client is not None and not self._goes_on(self._client):
                return
            if rest:
                super().dataReceived(rest)

    def write(self, data: bytes) -> None:
        if not self._muted:
            super().write(data)

    def loseConnection(self) -> None:
        if not self._muted:
            super().loseConnection()

    def _goes_on(self, client: IAddress) -> bool:
        """Return whether a client of the proxy is served, or told at least that it is not."""
        factory = cast(ProxiedFactory, self.factory)
        connections, slot = factory.connections, slot_of(self.transport)
        slot.client = host_of(client)
        admission = connections.admission(client, credentials_at(self.transport))
        slot.admission = admission
        if not isinstance(admission, NotAdmitted):
            return True
        slot.client = UNKNOWN
        name, listener = host_of(client, str(client)), listener_of(factory)
        told = connections.may_tell(name, admission, factory.tls, listener)
        if not told or factory.refusing is None:
            self.loseConnection()
            return False
        refusing = factory.refusing.buildProtocol(client)
        assert refusing is not None
        served, self.wrappedProtocol = self.wrappedProtocol, refusing
        self.unregisterProducer()
        self._muted = True  # TLS would say that there is an end
        served.connectionLost(Failure(ConnectionDone()))
        self._muted = False
        refusing.makeConnection(cast(ITransport, self))
        return True

    def _turn_away(self) -> None:
        factory = cast(ProxiedFactory, self.factory)
        peer = host_of(super().getPeer())
        factory.connections.log_cut(peer, "does not begin with a PROXY header")
        self._received = b""
        self.loseConnection()

    def getPeer(self) -> Any:
        return self._client or super().getPeer()


class ProxiedFactory(WrappingFactory):
    """Has a proxy say of each connection whose it is, before anything else.

    :param refusing: gets some of the connections of who may ask nothing; without one, they are
        all closed.
    :param tls: whether a handshake comes before anything can be told.
    """

    noisy = False
    protocol = _Proxied

    def __init__(
        self,
        wrapped: IProtocolFactory,
        connections: Connections,
        refusing: IProtocolFactory | None = None,
        tls: bool = False,
    ) -> None:
        super().__init__(wrapped)
        self.connections = connections
        self.refusing = refusing
        self.tls = tls

    def logPrefix(self) -> str:
        """The name of the factory that it wraps."""
        return f"{name_of(self.wrappedFactory)} (PROXY)"
