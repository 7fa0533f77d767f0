"""Limits the connections of a factory; it lies between a port and a protocol.

What is received is given on in slices, when it is the turn of the connection's address.
"""

from socket import MSG_DONTWAIT, MSG_PEEK
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
from tezio_signer.listeners.slots import Slot
from tezio_signer.request import Admitted, Credentials, Listener

SLICE = 4096
"""Bytes that are worked on at a time, before others may have their turn."""


class HalfCloseableWrapper(ProtocolWrapper):
    """Tells the protocol that it wraps when one side of the connection is closed."""

    def readConnectionLost(self) -> None:
        cast(IHalfCloseableProtocol, self.wrappedProtocol).readConnectionLost()

    def writeConnectionLost(self) -> None:
        cast(IHalfCloseableProtocol, self.wrappedProtocol).writeConnectionLost()


@frozen
class _Arrival:
    """A connection that is going to be accepted.

    :ivar peer: the address that it counts for.
    :ivar speaks: whether bytes of it are here already.
    :ivar admission: what was decided on who is connected, if it is known already who that is.
    """

    peer: str
    speaks: bool
    admission: Admitted | NotAdmitted | None = None


@implementer(IConsumer, IPushProducer)
class _LimitedProtocol(HalfCloseableWrapper):
    """The transport of a listener's protocol.

    Bytes that were received wait here until they are given on, a slice in each turn of the
    connection's address, and until the protocol wants them. While any wait, and while it wants
    none, nothing more is read; so one connection holds no more than one reading of its socket.
    """

    _log = Logger()
    transport: Any
    slot: Slot
    _received = b""
    _waits_for_turn = False
    _paused = False  # by the protocol

    def __init__(self, factory: "LimitedFactory", wrapped: Any, arrival: _Arrival) -> None:
        super().__init__(cast(Any, factory), wrapped)
        self._connections = factory.connections
        self._arrival = arrival

    def makeConnection(self, transport: Any) -> None:
        name = host_of(transport.getPeer())
        self.slot = self._connections.enter(self._arrival.peer, name, self, self._arrival.speaks)
        self.slot.admission = self._arrival.admission
        # Not all that the transport provides: Twisted's TLS declares each of it anew.
        provided: list[Any] = [ITCPTransport] if ITCPTransport.providedBy(transport) else []
        if IHalfCloseableProtocol.providedBy(self.wrappedProtocol):
            provided.append(IHalfCloseableProtocol)
        directlyProvides(self, *provided)
        Protocol.makeConnection(self, transport)
        self.factory.registerProtocol(self)
        self.wrappedProtocol.makeConnection(cast(ITransport, self))

    def dataReceived(self, data: bytes) -> None:
        self.slot.heard()
        if not self.slot.gone:
            self._received += data
            self._ask()

    def pauseProducing(self) -> None:
        """Give on nothing more for now."""
        self._paused = True
        self._read_or_not()

    def resumeProducing(self) -> None:
        """Give on more, but not before the protocol has come to the end of what it is at."""
        self._paused = False
        self._ask(at_once=False)

    def _ask(self, at_once: bool = True) -> None:
        """Ask for a turn, if there is something to give on."""
        if self._received and not self._waits_for_turn and not self._paused:
            self._waits_for_turn = True
            self._connections.turns.ask(self.slot.client, self._give_on, at_once)
        self._read_or_not()

    def _give_on(self) -> bool:
        """Give on a slice; return whether another one waits for a turn."""
        if not self._paused and not self.slot.gone:
            data, self._received = self._received[:SLICE], self._received[SLICE:]
            self.slot.unread = bool(self._received)
            try:
                self.wrappedProtocol.dataReceived(data)
            except Exception:
                self._log.failure("fault while reading from {peer}", peer=self.slot.name)
                self.slot.abort()
        more = bool(self._received) and not self._paused and not self.slot.gone
        self._waits_for_turn = more
        self._read_or_not()
        return more

    def _read_or_not(self) -> None:
        if self.slot.gone or self.transport.disconnecting:
            return
        if self._received or self._paused:
            self.transport.pauseProducing()
        else:
            self.transport.resumeProducing()

    def bytes_wait(self) -> bool:
        """Return whether the system has bytes that were not read yet."""
        try:
            return bool(self.transport.getHandle().recv(1, MSG_PEEK | MSG_DONTWAIT))
        except (AttributeError, OSError):  # no connection of the system's, or nothing there
            return False

    def finish(self) -> None:
        """Have the innermost protocol serve what has come, and close, in its own way.

        That is its method `finish`; one without it is closed when everything is written.
        """
        inner: Any = self
        while isinstance(inner, ProtocolWrapper):
            inner = inner.wrappedProtocol
        finish = getattr(inner, "finish", None) or inner.transport.loseConnection
        finish()

    def abortConnection(self) -> None:
        """Close at once."""
        self.transport.abortConnection()

    def loseConnection(self) -> None:
        self.slot.closing()
        super().loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.slot.left()
        self._received = b""
        super().connectionLost(reason)


class LimitedFactory(WrappingFactory):
    """A factory that gives connections to another one, as far as there is room for them.

    It wants to be the outermost, around TLS and the like: what it refuses costs nothing more.

    :param refusing: gets some of the connections of who may ask nothing; without one, they are
        all closed.
    :param proxied: whether its connections come from a proxy that speaks the PROXY protocol,
        which tells later on whose behalf it asks.
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
        """Return whether a connection is to be accepted, which is then the next that is built.

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
        """The name of the factory that it wraps."""
        return name_of(self.wrappedFactory)


def name_of(factory: IProtocolFactory) -> str:
    """Return what the connections of a factory are called in the log."""
    prefix = getattr(factory, "logPrefix", None)
    return prefix() if prefix else type(factory).__name__


def listener_of(factory: object) -> Listener | None:
    """The protocol that a factory speaks, however it is wrapped."""
    while isinstance(factory, WrappingFactory):
        factory = factory.wrappedFactory
    return getattr(factory, "listener", None)
