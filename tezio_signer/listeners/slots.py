"""What one connection is doing, and until when it may.

Its protocol says so; who keeps all of them (`listeners/limits.py`) is told of each change, and cuts
one if another needs its room.
"""

from collections.abc import Callable
from enum import Enum
from socket import MSG_DONTWAIT, MSG_PEEK
from typing import Any, Protocol, cast

from twisted.internet.interfaces import IReactorTime

from tezio_signer.config.settings import Limits
from tezio_signer.errors import NotAdmitted
from tezio_signer.reactors import Alarm
from tezio_signer.request import Admitted


class Closable(Protocol):
    """What a transport has to be able to do."""

    def loseConnection(self) -> object:
        """Close when everything is written."""

    def abortConnection(self) -> object:
        """Close at once."""


class State(Enum):
    """What a connection is doing."""

    SILENT = "did not send anything in time"
    RECEIVING = "did not send a whole request in time"
    SERVING = "is being served"
    IDLE = "had no other request"
    CLOSING = "did not take its answer in time"


class Keeper(Protocol):
    """Who keeps all connections.

    :ivar limits: what they are held to.
    :ivar stopping: whether there may be no other request.
    """

    limits: Limits
    clock: IReactorTime
    stopping: bool

    def moved(self, place: "Place") -> None:
        """A place does something else than before."""

    def spoke(self, place: "Place") -> None:
        """A connection has sent its first bytes."""

    def left(self, place: "Place") -> None:
        """The connection of a place is closed."""

    def turned_away(self, name: str, why: str) -> None:
        """A connection is cut."""


class Place:
    """The place of one connection: what it is doing, and until when it may.

    It begins with receiving a request, which includes a TLS handshake.

    :ivar peer: by what it is counted.
    :ivar client: for whom time is spent; a proxy tells later who that is.
    :ivar close: closes it when all is written; the transport's own, unless a protocol knows better.
    :ivar unread: whether there are bytes that no protocol has seen yet.
    :ivar admission: what was decided on who is connected; None if it was not decided yet.
    """

    def __init__(
        self,
        connections: Keeper,
        peer: str,
        name: str,
        transport: Closable,
        speaks: bool = False,
    ) -> None:
        self.peer = self.client = peer
        self.name = name
        self.state = State.SILENT
        self.since = 0.0
        self.close: Callable[[], object] = transport.loseConnection
        self.unread = speaks
        self.admission: Admitted | NotAdmitted | None = None
        self._transport = transport
        self._connections = connections
        self._alarm = Alarm(connections.clock)
        self._gone = False
        self._become(State.RECEIVING if speaks else State.SILENT)
        self._alarm.set(connections.limits.request_seconds, self._time_is_over)

    @property
    def gone(self) -> bool:
        """Whether it is closed, or was cut."""
        return self._gone

    def heard(self) -> None:
        """Bytes have come; it may have to go for that, if it was there on sufferance."""
        self.unread = True
        if self.state is State.SILENT:
            self._become(State.RECEIVING)  # its time has begun already
            self._connections.spoke(self)

    def look(self) -> bool:
        """Whether bytes are there that were not read yet; what it is doing changes with that."""
        if not self.unread and _bytes_wait(self._transport):
            self.unread = True
            if self.state is State.SILENT:
                self._become(State.RECEIVING)
            self.receiving()
        return self.unread

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
        self._transport.abortConnection()

    def _enter(self, state: State, seconds: float | None) -> None:
        if self._gone:
            return
        self._become(state)
        if seconds is None:
            self._alarm.put_off()
        else:
            self._alarm.set(seconds, self._time_is_over)

    def _become(self, state: State) -> None:
        if not self._gone:
            self.state = state
            self.since = self._connections.clock.seconds()
            self._connections.moved(self)

    def _time_is_over(self) -> None:
        if self.state is State.IDLE and self.look():
            self.receiving()  # of the next request, which has come while others were worked for
        elif self.state is State.IDLE:
            self.close()
            self.closing()
        else:
            self._connections.turned_away(self.name, self.state.value)
            self.cut()


def _bytes_wait(transport: object) -> bool:
    """Whether the system has bytes of a connection that were not read yet."""
    try:
        handle: Any = cast(Any, transport).getHandle()
        return bool(handle.recv(1, MSG_PEEK | MSG_DONTWAIT))
    except (AttributeError, OSError):  # no connection of the system's, or nothing there
        return False


def place_of(transport: object) -> Place | None:
    """The place of a connection whose factory is limited, through whatever lies between."""
    return cast("Place | None", getattr(transport, "place", None))
