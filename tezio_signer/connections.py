"""How many may be connected, and how long for: the same for every door.

A door wraps its factory in `LimitedFactory`, all of them with one `Connections`. Its
protocols say through `place_of(self.transport)` what they are doing; one that says nothing
has `request_seconds` in all. Nobody is kept out by connections on which nothing happens: when
there is no more room, the one that has been waiting longest has to go. Strangers, who will be
told only that they may ask nothing, have little room, all of them together.
"""

from collections.abc import Callable
from enum import Enum
from typing import Any, cast
from typing import Protocol as Abilities

from twisted.application.service import Service
from twisted.internet.interfaces import (
    IAddress,
    IConsumer,
    IHalfCloseableProtocol,
    IProtocolFactory,
    IPushProducer,
    IReactorTime,
    ITCPTransport,
    ITransport,
)
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.python.failure import Failure
from zope.interface import directlyProvides, implementer

from tezio_signer.reactors import Alarm
from tezio_signer.settings import Limits
from tezio_signer.sparinglog import SparingLog

MOST_STRANGERS = 16
"""Connections at once of all addresses together that are not allowed to ask."""
_STRANGERS = "strangers"
_LOCAL = "a local socket"
YOUNG_SECONDS = 0.05
"""For how long a connection is not cut for another of the same peer."""
YOUNG_STRANGER_SECONDS = 1.0
"""For how long that of a stranger is not cut for another stranger's: coming again is no gain."""


class Closable(Abilities):
    """What a transport has to be able to do."""

    def loseConnection(self) -> object:
        """Close when everything is written."""

    def abortConnection(self) -> object:
        """Close at once."""


class State(Enum):
    """What a connection is doing."""

    RECEIVING = "did not send a whole request in time"
    SERVING = "is being served"
    IDLE = "had no other request"
    CLOSING = "did not take its answer in time"


class Place:
    """The place of one connection: what it is doing, and until when it may.

    It begins with receiving a request, which includes a TLS handshake.

    :ivar peer: by what it is counted.
    :ivar close: closes it when all is written; the transport's own, unless a protocol knows better.
    """

    def __init__(
        self, connections: "Connections", peer: str, name: str, transport: Closable
    ) -> None:
        self.peer = peer
        self.name = name
        self.state = State.RECEIVING
        self.since = 0.0
        self.close: Callable[[], object] = transport.loseConnection
        self._abort = transport.abortConnection
        self._connections = connections
        self._alarm = Alarm(connections.clock)
        self._gone = False
        self._enter(State.RECEIVING, connections.limits.request_seconds)

    def receiving(self) -> None:
        """Something of a request is here; its time does not begin anew with every byte."""
        if self.state is State.IDLE:
            self._enter(State.RECEIVING, self._connections.limits.request_seconds)

    def serving(self) -> None:
        """A whole request is here: from now on it takes as long as it takes."""
        if self.state is not State.CLOSING:
            self._enter(State.SERVING, None)

    def answered(self) -> bool:
        """The answer is written; False if there may be no other request after it."""
        if self.state is not State.CLOSING:
            self._enter(State.IDLE, self._connections.limits.idle_seconds)
        return self.state is not State.CLOSING and not self._connections.stopping

    def closing(self) -> None:
        """It is being closed, which takes until its client has taken what is written."""
        if self.state is not State.CLOSING:
            self._enter(State.CLOSING, self._connections.limits.request_seconds)

    def left(self) -> None:
        """It is closed."""
        self._gone = True
        self._alarm.end()
        self._connections.left(self)

    def cut(self) -> None:
        """Close it at once, whatever is still to be written or read."""
        self._gone = True
        self._alarm.end()
        self._abort()

    def _enter(self, state: State, seconds: float | None) -> None:
        if self._gone:
            return
        self.state = state
        self.since = self._connections.clock.seconds()
        self._connections.moved(self)
        if seconds is None:
            self._alarm.put_off()
        else:
            self._alarm.set(seconds, self._time_is_over)

    def _time_is_over(self) -> None:
        if self.state is State.IDLE:
            self.close()
            self.closing()
        else:
            self._connections.turned_away(self.name, self.state.value)
            self.cut()


class Connections(Service):
    """All connections of all doors. Stopping it lets no connection have another request.

    :param admits: whether an IP address may ask at all; None stands for a local socket.
    :ivar limits: what it holds them to.
    :ivar stopping: whether it has been stopped.
    """

    _log = Logger()

    def __init__(
        self,
        limits: Limits,
        clock: IReactorTime,
        admits: Callable[[str | None], bool] = lambda _: True,
    ) -> None:
        self.limits = limits
        self.clock = clock
        self.stopping = False
        self._admits = admits
        self._strangers = SparingLog(self._log, clock)
        # For each peer its connections, those that have done the same for longest first.
        self._places: dict[str, dict[Place, None]] = {}
        self._open = 0
        self._leaving = 0

    @property
    def open_files(self) -> int:
        """The most file descriptors that connections can take."""
        return self.limits.connections + self._most_leaving

    @property
    def _most_leaving(self) -> int:
        # Twisted closes them in its next round only, after it has accepted others.
        return max(1, self.limits.connections // 2)

    def counted_as(self, address: object, proxied: bool) -> str:
        """By what connections from an address are counted.

        :param proxied: the address is that of a proxy, which tells later whom it stands for.
        """
        peer = peer_of(address)
        admitted = proxied or self._admits(None if peer == _LOCAL else peer)
        return peer if admitted else _STRANGERS

    def make_room(self, peer: str, name: str) -> bool:
        """Whether a peer may have another connection, for which an older one may be cut.

        :param name: what it is called in the log.
        """
        if self.stopping:
            return False
        most = MOST_STRANGERS if peer == _STRANGERS else self.limits.connections_per_peer
        if len(self._places.get(peer, ())) >= most:
            crowds = [peer]
        elif self._open >= self.limits.connections:
            crowds = sorted(self._places, key=self._crowd, reverse=True)
        else:
            return True
        # What a flood from one address makes of its own connections must stay cheap.
        young = self.clock.seconds()
        if crowds == [peer]:
            young -= YOUNG_STRANGER_SECONDS if peer == _STRANGERS else YOUNG_SECONDS
        if self._leaving < self._most_leaving:
            for crowd in crowds:
                for place in self._places[crowd]:
                    if place.since > young:
                        break
                    if place.state is not State.SERVING:
                        self.turned_away(place.name, "had to make room for another")
                        self._forget(place)
                        self._leaving += 1
                        place.cut()
                        return True
        self.turned_away(name, "found no room")
        return False

    def _crowd(self, peer: str) -> tuple[bool, int, float]:
        places = self._places[peer]
        return peer == _STRANGERS, len(places), -next(iter(places)).since

    def enter(self, peer: str, name: str, transport: Closable) -> Place:
        """The place of a connection that there is room for."""
        self._open += 1
        return Place(self, peer, name, transport)

    def moved(self, place: Place) -> None:
        """A place does something else than before."""
        places = self._places.setdefault(place.peer, {})
        places.pop(place, None)
        places[place] = None

    def left(self, place: Place) -> None:
        """The connection of a place is closed."""
        if place in self._places.get(place.peer, ()):
            self._forget(place)
        else:
            self._leaving -= 1

    def _forget(self, place: Place) -> None:
        self._open -= 1
        places = self._places[place.peer]
        del places[place]
        if not places:
            del self._places[place.peer]

    def turned_away(self, name: str, why: str) -> None:
        """Log that a connection was cut or refused, but not every one of a flood."""
        self._strangers.warn("a connection from {peer} {why}", peer=name, why=why)

    def stopService(self) -> None:
        """Close what is not being served, and the rest when it has its answer."""
        super().stopService()
        self.stopping = True
        for places in list(self._places.values()):
            for place in list(places):
                if place.state is not State.SERVING:
                    place.close()
                    place.closing()


class HalfCloseableWrapper(ProtocolWrapper):
    """Tells the protocol that it wraps when one side is closed, if that wants to know."""

    def readConnectionLost(self) -> None:
        cast(IHalfCloseableProtocol, self.wrappedProtocol).readConnectionLost()

    def writeConnectionLost(self) -> None:
        cast(IHalfCloseableProtocol, self.wrappedProtocol).writeConnectionLost()


@implementer(IConsumer, IPushProducer)
class _LimitedProtocol(HalfCloseableWrapper):
    """What the protocol of a door takes for its transport."""

    transport: Any
    place: Place

    def makeConnection(self, transport: Any) -> None:
        factory = cast(LimitedFactory, self.factory)
        address = transport.getPeer()
        peer = factory.counted_as(address)
        self.place = factory.connections.enter(peer, peer_of(address), transport)
        # Not all that the transport provides: Twisted's TLS takes half a millisecond to repeat it.
        provided: list[Any] = [ITCPTransport] if ITCPTransport.providedBy(transport) else []
        if IHalfCloseableProtocol.providedBy(self.wrappedProtocol):
            provided.append(IHalfCloseableProtocol)
        directlyProvides(self, *provided)
        Protocol.makeConnection(self, transport)
        self.factory.registerProtocol(self)
        self.wrappedProtocol.makeConnection(cast(ITransport, self))

    def loseConnection(self) -> None:
        self.place.closing()
        super().loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.place.left()
        super().connectionLost(reason)


class LimitedFactory(WrappingFactory):
    """Gives connections to another factory, as far as there is room for them.

    It wants to be the outermost, around TLS and the like: what it refuses costs nothing more.

    :param proxied: whether its connections come from a proxy that speaks the PROXY protocol.
    """

    noisy = False
    protocol = _LimitedProtocol

    def __init__(
        self, wrapped: IProtocolFactory, connections: Connections, proxied: bool = False
    ) -> None:
        super().__init__(wrapped)
        self.connections = connections
        self._proxied = proxied

    def counted_as(self, address: object) -> str:
        """By what connections from an address are counted at this door."""
        return self.connections.counted_as(address, self._proxied)

    def buildProtocol(self, addr: IAddress | None) -> Any:
        if not self.connections.make_room(self.counted_as(addr), peer_of(addr)):
            return None
        return super().buildProtocol(addr)

    def logPrefix(self) -> str:
        """The name of the door."""
        return name_of(self.wrappedFactory)


def name_of(factory: IProtocolFactory) -> str:
    """What the connections of a factory are called in the log."""
    prefix = getattr(factory, "logPrefix", None)
    return prefix() if prefix else type(factory).__name__


def peer_of(address: object) -> str:
    """Who is connected: the IP address, or that it is a local socket."""
    host = getattr(address, "host", None)
    return _LOCAL if host is None else str(host).removeprefix("::ffff:")


def place_of(transport: object) -> Place | None:
    """The place of a connection whose factory is limited, through whatever lies between."""
    return cast("Place | None", getattr(transport, "place", None))
