"""Factories whose connections are limited: what lies between a port and a protocol.

What is received is given on in slices, when it is the turn of the connection's address.
"""

from typing import Any, cast

from attrs import frozen
from twisted.internet.interfaces import (
    IAddress,
    IConsumer,
    IHalfCloseableProtocol,
    IProtocolFactory,
    IPushProducer,
    ITCPTransport,
    ITransport,
)
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.python.failure import Failure
from zope.interface import directlyProvides, implementer

from tezio_signer.errors import NotAdmitted
from tezio_signer.listeners.limits import UNKNOWN, Connections, host_of
from tezio_signer.listeners.slots import Place
from tezio_signer.request import Admitted, Credentials, Listener

SLICE = 4096
"""Bytes that are worked on at a time, before others may have their turn."""


class HalfCloseableWrapper(ProtocolWrapper):
    """Tells the protocol that it wraps when one side is closed, if that wants to know."""

    def readConnectionLost(self) -> None:
        cast(IHalfCloseableProtocol, self.wrappedProtocol).readConnectionLost()

    def writeConnectionLost(self) -> None:
        cast(IHalfCloseableProtocol, self.wrappedProtocol).writeConnectionLost()


@frozen
class _Arrival:
    """A connection that is to be accepted.

    :ivar peer: by what it is counted.
    :ivar speaks: whether bytes of it are here already.
    :ivar admission: what was decided on who is connected, if it is known already who that is.
    """

    peer: str
    speaks: bool
    admission: Admitted | NotAdmitted | None = None


@implementer(IConsumer, IPushProducer)
class _LimitedProtocol(HalfCloseableWrapper):
    """What the protocol of a door takes for its transport.

    It gives on what is received in slices, when it is the turn of the connection's address;
    meanwhile nothing more is read.
    """

    _log = Logger()
    transport: Any
    place: Place
    _received = b""
    _asked = False
    _wants_none = False
    _reads = True

    def __init__(self, factory: Any, wrapped: Any, arrival: _Arrival) -> None:
        super().__init__(factory, wrapped)
        self._arrival = arrival

    def makeConnection(self, transport: Any) -> None:
        connections = cast(LimitedFactory, self.factory).connections
        arrival = self._arrival
        name = host_of(transport.getPeer())
        self.place = connections.enter(arrival.peer, name, transport, arrival.speaks)
        self.place.admission = arrival.admission
        # Not all that the transport provides: Twisted's TLS declares each of it anew.
        provided: list[Any] = [ITCPTransport] if ITCPTransport.providedBy(transport) else []
        if IHalfCloseableProtocol.providedBy(self.wrappedProtocol):
            provided.append(IHalfCloseableProtocol)
        directlyProvides(self, *provided)
        Protocol.makeConnection(self, transport)
        self.factory.registerProtocol(self)
        self.wrappedProtocol.makeConnection(cast(ITransport, self))

    def dataReceived(self, data: bytes) -> None:
        self.place.heard()
        if not self.place.gone:
            self._received += data
            self._ask()

    def pauseProducing(self) -> None:
        """The protocol wants nothing more for now."""
        self._wants_none = True
        self._read_or_not()

    def resumeProducing(self) -> None:
        """The protocol wants more, but not before it has come to the end of what it is at."""
        self._wants_none = False
        self._ask(at_once=False)

    def _ask(self, at_once: bool = True) -> None:
        """Ask for a turn, if there is something to give on."""
        if self._received and not self._asked and not self._wants_none:
            self._asked = True
            turns = cast(LimitedFactory, self.factory).connections.turns
            turns.ask(self.place.client, self._give_on, at_once)
        self._read_or_not()

    def _give_on(self) -> bool:
        if self._wants_none:  # since it has asked
            self._asked = False
            return False
        data, self._received = self._received[:SLICE], self._received[SLICE:]
        self.place.unread = bool(self._received)
        if data and not self.place.gone:
            try:
                self.wrappedProtocol.dataReceived(data)
            except Exception:
                self._log.failure("fault while reading from {peer}", peer=self.place.name)
                self.place.cut()
        self._asked = bool(self._received) and not self._wants_none and not self.place.gone
        self._read_or_not()
        return self._asked

    def _read_or_not(self) -> None:
        if self.place.gone or self.transport.disconnecting:
            return
        reads = not self._received and not self._wants_none
        if reads is not self._reads:
            self._reads = reads
            if reads:
                self.transport.resumeProducing()
            else:
                self.transport.pauseProducing()

    def loseConnection(self) -> None:
        self.place.closing()
        super().loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.place.left()
        self._received = b""
        super().connectionLost(reason)


class LimitedFactory(WrappingFactory):
    """Gives connections to another factory, as far as there is room for them.

    It wants to be the outermost, around TLS and the like: what it refuses costs nothing more.

    :param refusing: gets some of the connections of who may ask nothing; without one, they are
        all closed.
    :param proxied: whether its connections come from a proxy that speaks the PROXY protocol,
        which tells later whom it stands for.
    :param tls: whether a handshake comes before anything can be told.
    """

    noisy = False

    def __init__(
        self,
        wrapped: IProtocolFactory,
        connections: Connections,
        refusing: IProtocolFactory | None = None,
        proxied: bool = False,
        tls: bool = False,
    ) -> None:
        super().__init__(wrapped)
        self.connections = connections
        self._refusing = refusing
        self._proxied = proxied
        self._tls = tls
        self._arrival: _Arrival | None = None

    def arrives(
        self, address: object, credentials: Credentials | None = None, speaks: bool = False
    ) -> bool:
        """Whether a connection is to be accepted, which is then the next that is built.

        :param credentials: of who has connected to a Unix socket.
        :param speaks: whether bytes of it are here already.
        """
        connections, name = self.connections, host_of(address)
        peer = name
        admission: Admitted | NotAdmitted | None = None
        # Who is at a Unix socket that is not one of ports.py is found out with the first request.
        known = credentials is not None or getattr(address, "host", None) is not None
        if known and not self._proxied:
            admission = connections.admission(address, credentials)
            if isinstance(admission, NotAdmitted):
                peer = UNKNOWN
                told = connections.may_tell(name, admission, self._tls, listener_of(self))
                if not told or self._refusing is None:
                    return False
        if not connections.make_room(peer, name, speaks):
            return False
        self._arrival = _Arrival(peer, speaks, admission)
        return True

    def buildProtocol(self, addr: IAddress | None) -> Any:
        if self._arrival is None and not self.arrives(addr):
            return None
        arrival, self._arrival = cast(_Arrival, self._arrival), None
        factory = self.wrappedFactory
        if arrival.peer == UNKNOWN:
            factory = cast(IProtocolFactory, self._refusing)
        built = factory.buildProtocol(cast(IAddress, addr))
        return None if built is None else _LimitedProtocol(self, built, arrival)

    def logPrefix(self) -> str:
        """The name of the door."""
        return name_of(self.wrappedFactory)


def name_of(factory: IProtocolFactory) -> str:
    """What the connections of a factory are called in the log."""
    prefix = getattr(factory, "logPrefix", None)
    return prefix() if prefix else type(factory).__name__


def listener_of(factory: object) -> Listener | None:
    """The protocol that a factory speaks, however it is wrapped."""
    while isinstance(factory, WrappingFactory):
        factory = factory.wrappedFactory
    return getattr(factory, "listener", None)
