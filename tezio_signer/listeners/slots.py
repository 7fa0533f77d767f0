"""The slot of one connection knows what the connection does, and until when it may.

Its protocol says what it does. `limits.py` keeps all slots, is told of each change, and may evict
the connection for another one. This module knows time only as a clock that it is given.

States and their transitions; from each, a connection that is lost or aborted is GONE:

- SILENT: nothing has come yet. To RECEIVING with the first byte.
- RECEIVING: a part of a request, or of a TLS handshake, has come. To SERVING when it is whole.
- SERVING: it is answered. To IDLE when the answer is written.
- IDLE: no byte of a next request has come. To RECEIVING with its first byte, or to SERVING.
- CLOSING: the client has to take what is written. From every other state, and to GONE only.
- GONE: the end.

Invariants (each with its test in `tests/listeners/test_slots.py`):

1. In every state but SERVING and GONE a time is set at which it ends (`test_ends_in_time`).
2. That time is set when a request begins, and no further byte of it moves it (`test_drip`).
3. CLOSING is left for GONE only, and GONE never; then nothing is timed (`test_closing`,
   `test_gone`).
4. Bytes that wait to be read count as sent: for want of a next request no connection is closed
   on which one waits (`test_bytes_wait`).
"""

from enum import Enum
from typing import Protocol, cast

from twisted.internet.interfaces import IReactorTime

from tezio_signer.config.settings import Limits
from tezio_signer.errors import NotAdmitted
from tezio_signer.reactors import Alarm
from tezio_signer.request import Admitted


class State(Enum):
    """What a connection does; the value tells what it has failed to do when its time is over."""

    SILENT = "did not send anything in time"
    RECEIVING = "did not send a whole request in time"
    SERVING = "is being served"
    IDLE = "had no other request"
    CLOSING = "did not take its answer in time"
    GONE = "is closed"


class Connection(Protocol):
    """What a connection has to be able to do."""

    def finish(self) -> object:
        """Serve what has come, and close when everything is written."""

    def abortConnection(self) -> object:
        """Close at once."""

    def bytes_wait(self) -> bool:
        """Whether the system has bytes that were not read yet."""


class Keeper(Protocol):
    """Who keeps all slots.

    :ivar limits: what connections are held to.
    """

    limits: Limits
    clock: IReactorTime

    @property
    def stopping(self) -> bool:
        """Whether there may be no other request."""

    def changed(self, slot: "Slot") -> None:
        """A connection does something else than before."""

    def spoke(self, slot: "Slot") -> None:
        """A connection has sent its first bytes."""

    def cut(self, slot: "Slot", why: str) -> None:
        """Abort a connection, and say so in the log."""

    def aborted(self, slot: "Slot") -> None:
        """A connection is aborted, and will be lost."""

    def left(self, slot: "Slot") -> None:
        """A connection is lost."""


class Slot:
    """The slot of one connection.

    :ivar peer: the address that its connection counts for.
    :ivar client: the address that its time counts for; a proxy says later which that is.
    :ivar name: the address as the log says it.
    :ivar since: when it came into its state.
    :ivar unread: whether there are bytes that no protocol has seen yet.
    :ivar admission: what was decided on who is connected; None if it was not decided yet by the
        configuration that is in force.
    """

    def __init__(
        self, keeper: Keeper, peer: str, name: str, connection: Connection, speaks: bool = False
    ) -> None:
        self.peer = self.client = peer
        self.name = name
        self.unread = speaks
        self.admission: Admitted | NotAdmitted | None = None
        self._connection = connection
        self._keeper = keeper
        self._alarm = Alarm(keeper.clock)
        self._enter(State.RECEIVING if speaks else State.SILENT)
        self._alarm.set(keeper.limits.request_seconds, self._time_is_over)

    @property
    def gone(self) -> bool:
        """Whether the connection is lost, or was aborted."""
        return self.state is State.GONE

    def heard(self) -> None:
        """Note that bytes have come."""
        self.unread = True
        if self.state is State.SILENT:
            self._enter(State.RECEIVING)  # its time has begun already
            self._keeper.spoke(self)

    def look(self) -> bool:
        """Return whether there are bytes that were not read yet; the state changes with that."""
        if not self.unread and self._connection.bytes_wait():
            self.unread = True
            if self.state is State.SILENT:
                self._enter(State.RECEIVING)
            self.receiving()
        return self.unread

    def receiving(self) -> None:
        """Note that a part of a request is here; its time begins with the first one."""
        if self.state is State.IDLE:
            self._enter(State.RECEIVING)
            self._alarm.set(self._keeper.limits.request_seconds, self._time_is_over)

    def serving(self) -> None:
        """Note that a whole request is here: from now on it takes as long as it takes."""
        if self.state not in (State.CLOSING, State.GONE):
            self._enter(State.SERVING)
            self._alarm.put_off()

    def answered(self) -> bool:
        """Note that the answer is written; return whether there may be another request."""
        if self.state in (State.CLOSING, State.GONE):
            return False
        self._enter(State.IDLE)
        self._alarm.set(self._keeper.limits.idle_seconds, self._time_is_over)
        return not self._keeper.stopping

    def closing(self) -> None:
        """Note that the connection is being closed; its client has some time left to read."""
        if self.state not in (State.CLOSING, State.GONE):
            self._enter(State.CLOSING)
            self._alarm.set(self._keeper.limits.request_seconds, self._time_is_over)

    def close(self) -> None:
        """Have the connection serve what has come, and close."""
        self._connection.finish()
        self.closing()

    def abort(self) -> None:
        """Close the connection at once, whatever is still to be written or read."""
        if self.state is not State.GONE:
            self._end()
            self._keeper.aborted(self)
            self._connection.abortConnection()

    def left(self) -> None:
        """Note that the connection is lost."""
        self._end()
        self._keeper.left(self)

    def _enter(self, state: State) -> None:
        self.state = state
        self.since = self._keeper.clock.seconds()
        self._keeper.changed(self)

    def _end(self) -> None:
        self.state = State.GONE
        self._alarm.end()

    def _time_is_over(self) -> None:
        if self.state is not State.IDLE:
            self._keeper.cut(self, self.state.value)
        elif self.look():
            self.receiving()  # of the next request, which has come while others were worked for
        else:
            self.close()


def slot_of(transport: object) -> Slot:
    """Return the slot of a connection, through whatever lies between its transport and the port.

    Raises AttributeError if the factory of the connection is not limited: nothing is served then.
    """
    return cast("_HasSlot", transport).slot


class _HasSlot(Protocol):
    slot: Slot
