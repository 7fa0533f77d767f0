"""Limits how many connections there may be, and for how long, over all listeners together.

A listener wraps its factory in `LimitedFactory`, all of them with one `Connections`. Its
protocols say through `slots.slot_of(self.transport)` what they do; one that says nothing has
`request_seconds` in all.

Who may ask is known by the address, before a byte is read. Unknown addresses are refused in
few connections at a time, by a factory that reads nothing; the others are closed at once.

The order of eviction, when there is no more room: a connection that has sent nothing goes first,
and then, only for one that has sent something, one that waits for its next request, for the rest
of one, or for its client to take what is written; among these first one of an unknown address,
then one of the address with most connections, and of these the one that has been in its state for
longest; but never one that is being served or on which bytes wait to be read, and not for another
of its own address one that came into its state just now (`test_any_history`).

Invariants (each with its test in `tests/listeners/test_limits.py`):

1. There is never more than one connection above the limit, which had sent nothing when it came;
   what is aborted, and not closed by the system yet, is limited too (`test_flood`,
   `test_any_history`). Where a limit was lowered, nobody is cut for that, and for each that comes
   another one goes (`test_other_limits`).
2. No number of silent connections costs one that has sent something
   (`test_cut_none_that_has_sent`), and none that is served is ever cut for another
   (`test_nobody_who_is_served_goes`).
3. Connections of unknown addresses cost no other (`test_no_room_of_others`).
4. A slot is given back once, however its connection ends (`test_slots_are_given_back`).
5. When the daemon stops, what is served or half sent gets its answer, and no connection has
   another request (`test_stop`, `test_half_sent`).
"""

from collections.abc import Callable, Iterable, Iterator
from functools import partial

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from tezio_signer.config.settings import Limits
from tezio_signer.decision import Decision, Decisions
from tezio_signer.errors import NotAdmitted
from tezio_signer.listeners.peers import peer_at
from tezio_signer.listeners.slots import Connection, Slot, State
from tezio_signer.listeners.turns import Turns
from tezio_signer.rates import Rate
from tezio_signer.reactors import Alarm
from tezio_signer.request import Admitted, Credentials, Listener, Peer
from tezio_signer.sparinglog import SparingLog

MOST_UNKNOWN = 16
"""Connections at once of all unknown addresses together."""
TOLD_PER_SECOND = 50
"""Connections of unknown addresses that are told why they are refused; others are closed."""
HANDSHAKES_PER_SECOND = 4
"""Those of them under TLS, of which each takes a signature before anything can be told."""
FINISH_SECONDS = 1.5
"""How long a request of which a part has come may go on to come when the daemon stops."""
UNKNOWN = "unknown addresses"
"""The peer that connections of all addresses count for that may ask nothing."""
_LOCAL = "a local socket"
YOUNG_SECONDS = 0.05
"""How long a connection that came into its state is not evicted for another of its address."""
_EVICTED_FOR_BYTES = (State.RECEIVING, State.IDLE, State.CLOSING)
"""What a connection does that may be evicted for another on which bytes wait."""
_REMEMBERED = 1024


class Connections(Service):
    """Keeps all connections of all listeners; once it is stopped, none has another request.

    :param admit: raises NotAdmitted for who may ask nothing at all; without it, that is decided
        at the first request.
    :param decisions: is told of who is refused.
    :ivar limits: what connections are held to.
    :ivar turns: shares out the reactor's time among their addresses.
    """

    _log = Logger()

    def __init__(
        self,
        limits: Limits,
        clock: IReactorTime,
        admit: Callable[[Peer], Admitted] | None = None,
        decisions: Decisions | None = None,
    ) -> None:
        self.limits = limits
        self.clock = clock
        self.turns = Turns(clock)
        self._admit = admit
        self._decisions = decisions or Decisions(clock)
        self._cuts = SparingLog(self._log, clock)
        self._told = {
            False: Rate(TOLD_PER_SECOND, clock, 1.0),
            True: Rate(HANDSHAKES_PER_SECOND, clock, 1.0),
        }
        self._known: dict[str, Admitted | NotAdmitted] = {}
        # For each peer its slots, those that have been in their state for longest first.
        self._slots: dict[str, dict[Slot, None]] = {}
        self._aborted = 0
        self._finished: Deferred[None] | None = None
        self._finishing = Alarm(clock)

    def go_by(self, limits: Limits) -> None:
        """Hold connections to these limits; who may ask is decided anew at their next request.

        Called in the turn in which what admits them goes by another configuration. One of which it
        was decided that it may ask nothing is being closed already.
        """
        self.limits = limits
        self._known.clear()
        for slots in self._slots.values():
            for slot in slots:
                if not isinstance(slot.admission, NotAdmitted):
                    slot.admission = None

    @property
    def stopping(self) -> bool:
        """Whether it has been stopped."""
        return self._finished is not None

    def admission(
        self, address: object, credentials: Credentials | None = None
    ) -> Admitted | NotAdmitted | None:
        """Return who connects, or why that client may ask nothing; an unknown address may not.

        :param credentials: of who has connected to a Unix socket.
        :return: None if it is not decided here.
        """
        if self._admit is None:
            return None
        host = None if credentials else getattr(address, "host", None)
        if host in self._known:
            return self._known[host]
        admission: Admitted | NotAdmitted
        try:
            admission = self._admit(peer_at(address, credentials))
        except NotAdmitted as refused:
            admission = refused.with_traceback(None)
        if host is not None:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            self._known[host] = admission
        return admission

    def may_tell(
        self, name: str, refused: NotAdmitted, tls: bool, listener: Listener | None = None
    ) -> bool:
        """Record that a client may ask nothing; return whether there is time to tell it, too."""
        self._decisions.record(Decision("a connection", name, listener).refused(refused))
        return self._told[tls].take(None)

    def make_room(self, peer: str, name: str, speaks: bool = False) -> bool:
        """Return whether a peer may have another connection; one may be evicted for it.

        :param name: what it is called in the log.
        :param speaks: whether bytes of it are here already.
        """
        if self.stopping:
            return False
        full = self._full(peer, 0)
        if full is None:
            return True
        if peer != UNKNOWN:
            if self._evict(full, peer, speaks):
                return True
            if not speaks and self._may_be_silent(full):
                return True
        self.log_cut(name, "was refused, since there are too many")
        return False

    def _full(self, peer: str, more: int) -> list[str] | None:
        """Return the peers of which one has to make room, in the order of eviction, if so.

        :param more: how many connections there may be more than the limit says.
        """
        most = MOST_UNKNOWN if peer == UNKNOWN else self.limits.connections_per_peer
        if len(self._slots.get(peer, ())) >= most + more:
            return [peer]
        # What is aborted is not closed yet. Up to a limit, it costs no other its slot.
        closing = max(0, self._aborted - self.limits.most_aborted)
        if closing + sum(map(len, self._slots.values())) >= self.limits.connections + more:
            return sorted(self._slots, key=self._eviction_rank, reverse=True)
        return None

    def _eviction_rank(self, peer: str) -> tuple[bool, int, float]:
        slots = self._slots[peer]
        return peer == UNKNOWN, len(slots), -next(iter(slots)).since

    def _eviction_order(self, peers: Iterable[str], newest: float, speaks: bool) -> Iterator[Slot]:
        """Yield the connections that may be evicted, in the order at the top of this module.

        :param newest: those that came into their state later may not.
        :param speaks: whether it is for one on which bytes wait.
        """
        for silent in (True, False) if speaks else (True,):
            for peer in peers:
                for slot in list(self._slots.get(peer, ())):
                    if slot.since > newest and not (speaks and silent):
                        break  # but the kernel hands silent ones over all at once
                    if slot.state is State.SILENT if silent else slot.state in _EVICTED_FOR_BYTES:
                        yield slot

    def _evict(self, full: list[str], peer: str, speaks: bool, spared: Slot | None = None) -> bool:
        """Evict a connection for one of a peer; return whether there was one to evict."""
        if self._aborted >= self.limits.most_aborted:
            return False
        # What a flood from one address makes of its own connections must stay cheap.
        newest = self.clock.seconds() - (YOUNG_SECONDS if full == [peer] else 0)
        for slot in self._eviction_order(full, newest, speaks):
            if slot is not spared and not slot.look():
                self.cut(slot, "was closed to make room for another")
                return True
        return False

    def _may_be_silent(self, full: list[str]) -> bool:
        """Return whether one silent connection more than the limit may stay until it has spoken.

        There is one at most, and only while there is another that could go for it.
        """
        states = {slot.state for peer in full for slot in self._slots.get(peer, ())}
        if State.SILENT in states or states <= {State.SERVING}:
            return False
        return self._full(full[0], 1) is None

    def spoke(self, slot: Slot) -> None:
        """Evict another connection, or else this one, if it was one more than the limit."""
        full = self._full(slot.peer, 1)
        if full is not None and not self._evict(full, slot.peer, True, slot):
            self.cut(slot, "was refused, since there are too many")

    def enter(self, peer: str, name: str, connection: Connection, speaks: bool = False) -> Slot:
        """Return the slot of a connection that there is room for."""
        return Slot(self, peer, name, connection, speaks)

    def changed(self, slot: Slot) -> None:
        """Put a connection behind all of its peer that came into their state before it."""
        slots = self._slots.setdefault(slot.peer, {})
        slots.pop(slot, None)
        slots[slot] = None
        self._tell_if_finished()

    def cut(self, slot: Slot, why: str) -> None:
        """Abort a connection, and say so in the log."""
        self.log_cut(slot.name, why)
        slot.abort()

    def log_cut(self, name: str, why: str) -> None:
        """Log that a connection was cut or refused, but not every one of a flood."""
        self._cuts.warn("a connection from {peer} {why}", peer=name, why=why)

    def aborted(self, slot: Slot) -> None:
        """Give back the slot of a connection that is going to be lost."""
        self._aborted += 1
        self._forget(slot)

    def left(self, slot: Slot) -> None:
        """Give back the slot of a connection that is lost, unless that was done before."""
        if slot in self._slots.get(slot.peer, ()):
            self._forget(slot)
        else:
            self._aborted -= 1

    def _forget(self, slot: Slot) -> None:
        slots = self._slots[slot.peer]
        del slots[slot]
        if not slots:
            del self._slots[slot.peer]
        self._tell_if_finished()

    def stopService(self) -> Deferred[None]:
        """Close what is not being served, and the rest when it has its answer.

        :return: fires when no request is half sent any more: those that are have a little
            time to come to their end.
        """
        super().stopService()
        finished = self._finished = Deferred()
        for slot in self._in_state(State.SILENT, State.IDLE):
            slot.look()
        for slot in self._in_state(State.SILENT, State.IDLE, State.CLOSING):
            slot.close()
        if self._in_state(State.RECEIVING):
            self._finishing.set(FINISH_SECONDS, self._finish)
        else:
            self._finishing.end()
            finished.callback(None)
        return finished

    def _in_state(self, *states: State) -> list[Slot]:
        return [slot for slots in self._slots.values() for slot in slots if slot.state in states]

    def _finish(self) -> None:
        for slot in self._in_state(State.RECEIVING):
            slot.close()

    def _tell_if_finished(self) -> None:
        finished = self._finished
        if finished is not None and not finished.called and not self._in_state(State.RECEIVING):
            # In the next turn: a request that has just come has then been handed on.
            self._finishing.set(0, partial(finished.callback, None))


def host_of(address: object, otherwise: str = _LOCAL) -> str:
    """Return who is connected: the IP address, or that it is a local socket."""
    host = getattr(address, "host", None)
    return otherwise if host is None else str(host).removeprefix("::ffff:")
