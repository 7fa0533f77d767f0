"""How many may be connected, and how long for: the same for every door.

A door wraps its factory in `LimitedFactory`, all of them with one `Connections`. Its
protocols say through `places.place_of(self.transport)` what they are doing; one that says nothing
has `request_seconds` in all.

Who may ask is known by the address, before a byte is read. Unknown addresses are refused in
few connections at a time, by a factory that reads nothing; the others are closed at once.

Nobody is kept out by connections on which nothing happens: when there is no more room, one on
which nothing has come yet has to go, the oldest first. Only for a connection with bytes waiting,
one has to go that waits for its next request, or for the rest of one. So no number of silent
connections ever costs one that has sent something; what waits to be read counts as sent.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import partial

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from tezio_signer.config.settings import Limits
from tezio_signer.errors import NotAdmitted
from tezio_signer.listeners.peers import peer_at
from tezio_signer.listeners.slots import Closable, Place, State
from tezio_signer.listeners.turns import Turns
from tezio_signer.policy import Credentials, Peer
from tezio_signer.rates import Rate
from tezio_signer.reactors import Alarm
from tezio_signer.sparinglog import SparingLog

MOST_UNKNOWN = 16
"""Connections at once of all addresses together that are not allowed to ask."""
TOLD_PER_SECOND = 50
"""Connections of unknown addresses that are told why they are refused; others are closed."""
HANDSHAKES_PER_SECOND = 4
"""Those of them under TLS, of which each takes a signature before anything can be told."""
FINISH_SECONDS = 1.5
"""How long a request of which a part has come may go on to come when the daemon stops."""
UNKNOWN = "unknown addresses"
"""By what connections of addresses that may ask nothing are counted."""
_LOCAL = "a local socket"
YOUNG_SECONDS = 0.05
"""For how long a connection is not cut for another of the same peer."""
_REMEMBERED = 1024


class Connections(Service):
    """All connections of all doors. Stopping it lets no connection have another request.

    :param admit: raises NotAdmitted for who may ask nothing at all.
    :ivar limits: what it holds them to.
    :ivar turns: shares out the reactor's time among their addresses.
    :ivar stopping: whether it has been stopped.
    """

    _log = Logger()

    def __init__(
        self,
        limits: Limits,
        clock: IReactorTime,
        admit: Callable[[Peer], object] = lambda _: None,
    ) -> None:
        self.limits = limits
        self.clock = clock
        self.turns = Turns(clock)
        self.stopping = False
        self.admit = admit
        self._strangers = SparingLog(self._log, clock)
        self._unknown = SparingLog(self._log, clock)
        self._told = {
            False: Rate(TOLD_PER_SECOND, clock, 1.0),
            True: Rate(HANDSHAKES_PER_SECOND, clock, 1.0),
        }
        self._refusals: dict[str, NotAdmitted | None] = {}
        # For each peer its connections, those that have done the same for longest first.
        self._places: dict[str, dict[Place, None]] = {}
        self._open = 0
        self._leaving = 0
        self._finished: Deferred[None] | None = None
        self._finishing = Alarm(clock)

    def refusal(
        self, address: object, credentials: Credentials | None = None
    ) -> NotAdmitted | None:
        """Why who connects may ask nothing, if so; whose address is not known may not.

        :param credentials: of who has connected to a Unix socket.
        """
        host = None if credentials else getattr(address, "host", None)
        if host in self._refusals:
            return self._refusals[host]
        refused = None
        try:
            self.admit(peer_at(address, credentials))
        except NotAdmitted as error:
            refused = error.with_traceback(None)
        if host is not None:
            if len(self._refusals) >= _REMEMBERED:
                self._refusals.clear()
            self._refusals[host] = refused
        return refused

    def may_tell(self, name: str, refused: NotAdmitted, tls: bool) -> bool:
        """Whether there is time to tell somebody that he may ask nothing; logged either way."""
        self._unknown.warn(
            "refused a connection from {peer}: {status} {sentence}",
            peer=name,
            status=refused.status,
            sentence=str(refused),
            reason=refused.reason,
        )
        return self._told[tls].take(None)

    def make_room(self, peer: str, name: str, speaks: bool = False) -> bool:
        """Whether a peer may have another connection, for which an older one may be cut.

        :param name: what it is called in the log.
        :param speaks: whether bytes of it are here already.
        """
        if self.stopping:
            return False
        full = self._full(peer, 0)
        if full is None:
            return True
        may_cut = peer != UNKNOWN
        if may_cut and self._cut_one(full, peer, speaks):
            return True
        if may_cut and not speaks and self._may_be_silent(full):
            return True
        self.turned_away(name, "found no room")
        return False

    def _full(self, peer: str, more: int) -> list[str] | None:
        """The peers of which one has to make room; None if there is room.

        :param more: how many there may be more than the limit says.
        """
        most = MOST_UNKNOWN if peer == UNKNOWN else self.limits.connections_per_peer
        if len(self._places.get(peer, ())) >= most + more:
            return [peer]
        if self._open >= self.limits.connections + more:
            return sorted(self._places, key=self._crowd, reverse=True)
        return None

    def _cut_one(
        self, crowds: list[str], peer: str, speaks: bool, but: Place | None = None
    ) -> bool:
        if self._leaving >= self.limits.leaving:
            return False
        # What a flood from one address makes of its own connections must stay cheap.
        young = self.clock.seconds() - (YOUNG_SECONDS if crowds == [peer] else 0)
        for place in self._dispensable(crowds, young, speaks):
            if place is not but and not place.look():
                self._cut(place, "had to make room for another")
                return True
        return False

    def _cut(self, place: Place, why: str) -> None:
        self.turned_away(place.name, why)
        self._forget(place)
        self._leaving += 1
        place.cut()

    def _dispensable(self, crowds: Iterable[str], young: float, speaks: bool) -> Iterator[Place]:
        """Connections that may be cut for one which has sent something, or has not."""
        lasting = (State.SILENT, State.SERVING)
        for silent in (True, False) if speaks else (True,):
            for crowd in crowds:
                for place in list(self._places.get(crowd, ())):
                    if place.since > young and not (speaks and silent):
                        break  # but the kernel hands silent ones over all at once
                    if place.state is State.SILENT if silent else place.state not in lasting:
                        yield place

    def _may_be_silent(self, crowds: list[str]) -> bool:
        """Whether one silent connection more than the limit may stay until it has spoken.

        There is one at most, and only while there is another that could go for it.
        """
        states = {place.state for crowd in crowds for place in self._places.get(crowd, ())}
        if State.SILENT in states or states == {State.SERVING}:
            return False
        return self._full(crowds[0], 1) is None

    def spoke(self, place: Place) -> None:
        """A connection has sent its first bytes: it is not there on sufferance any more."""
        full = self._full(place.peer, 1)
        if full is not None and not self._cut_one(full, place.peer, True, place):
            self._cut(place, "found no room")

    def _crowd(self, peer: str) -> tuple[bool, int, float]:
        places = self._places[peer]
        return peer == UNKNOWN, len(places), -next(iter(places)).since

    def enter(self, peer: str, name: str, transport: Closable, speaks: bool = False) -> Place:
        """The place of a connection that there is room for."""
        self._open += 1
        return Place(self, peer, name, transport, speaks)

    def moved(self, place: Place) -> None:
        """A place does something else than before."""
        places = self._places.setdefault(place.peer, {})
        places.pop(place, None)
        places[place] = None
        self._tell_if_finished()

    def left(self, place: Place) -> None:
        """The connection of a place is closed."""
        if place in self._places.get(place.peer, ()):
            self._forget(place)
        else:
            self._leaving -= 1
        self._tell_if_finished()

    def _forget(self, place: Place) -> None:
        self._open -= 1
        places = self._places[place.peer]
        del places[place]
        if not places:
            del self._places[place.peer]

    def turned_away(self, name: str, why: str) -> None:
        """Log that a connection was cut or refused, but not every one of a flood."""
        self._strangers.warn("a connection from {peer} {why}", peer=name, why=why)

    def stopService(self) -> Deferred[None]:
        """Close what is not being served, and the rest when it has its answer.

        :return: fires when no request is half sent any more: those that are have a little
            time to come to their end.
        """
        super().stopService()
        self.stopping = True
        finished: Deferred[None] = Deferred()
        for place in self._all():
            if place.state is not State.SERVING and not self._half_sent(place):
                self._close(place)
        if not self._receiving():
            finished.callback(None)
            return finished
        self._finished = finished
        self._finishing.set(FINISH_SECONDS, self._finish)
        return finished

    def _all(self) -> list[Place]:
        return [place for places in self._places.values() for place in places]

    def _receiving(self) -> list[Place]:
        return [place for place in self._all() if place.state is State.RECEIVING]

    def _half_sent(self, place: Place) -> bool:
        if place.state in (State.SILENT, State.IDLE):
            place.look()
        return place.state is State.RECEIVING

    def _finish(self) -> None:
        for place in self._receiving():
            self._close(place)
        self._tell_if_finished()

    def _close(self, place: Place) -> None:
        place.close()
        place.closing()

    def _tell_if_finished(self) -> None:
        finished = self._finished
        if finished is None or self._receiving():
            return
        self._finished = None
        # In the next turn: a request that has just come has then been handed on.
        self._finishing.set(0, partial(finished.callback, None))


def host_of(address: object, otherwise: str = _LOCAL) -> str:
    """Who is connected: the IP address, or that it is a local socket."""
    host = getattr(address, "host", None)
    return otherwise if host is None else str(host).removeprefix("::ffff:")
