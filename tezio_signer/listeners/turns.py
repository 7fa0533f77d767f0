"""Decides whose bytes are worked on next, so that no client takes all of the reactor's time.

What a connection has received is worked on in small pieces, and the time that each piece
takes is counted for its address. When the pieces of one turn of the reactor have taken long
enough, all others wait for the next turn, in which the address comes first that has used
least time lately. However a client cuts up what it sends, and whatever that costs (a
signature of a TLS handshake, thousands of chunks of a byte each), it delays another address
by about one of its pieces in each turn.
"""

from collections import deque
from collections.abc import Callable

from attrs import define
from twisted.internet.interfaces import IReactorTime

TURN_SECONDS = 0.002
"""For how long pieces are worked on in one turn of the reactor; the last may take longer."""
HALF_LIFE = 1.0
"""Seconds after which half of the time that an address has used is forgotten."""
REMEMBERED = 1024
"""Addresses whose time is counted, besides those that wait."""

Piece = Callable[[], bool]
"""Does a small piece of work, and returns whether there is another."""


@define
class _Used:
    seconds: float = 0.0
    at: float = 0.0

    def by(self, now: float) -> float:
        return self.seconds * float(0.5 ** ((now - self.at) / HALF_LIFE))


class Turns:
    """Shares out the time of the reactor among addresses.

    :param clock: also measures how long a piece takes.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._used: dict[str, _Used] = {}
        self._waiting: dict[str, deque[Piece]] = {}
        self._spent = 0.0
        self._next_turn_comes = False
        self._working = False

    def ask(self, who: str, piece: Piece, at_once: bool = True) -> None:
        """Let pieces of work be done, the first at once if there is time.

        :param at_once: False if the caller is not ready for it before the next turn.
        """
        self._waiting.setdefault(who, deque()).append(piece)
        if not at_once:
            self._come_again()
        elif not self._working:
            self._work()

    def _work(self) -> None:
        self._working = True
        try:
            while self._waiting and self._spent < TURN_SECONDS:
                self._do_one(self._first())
        finally:
            self._working = False
            if self._waiting or self._spent:
                self._come_again()

    def _come_again(self) -> None:
        if not self._next_turn_comes:
            self._next_turn_comes = True
            self._clock.callLater(0, self._turn)

    def _turn(self) -> None:
        self._next_turn_comes = False
        self._spent = 0.0
        self._work()

    def _first(self) -> str:
        if len(self._waiting) == 1:
            return next(iter(self._waiting))
        now = self._clock.seconds()
        return min(self._waiting, key=lambda who: self._used.get(who, _Used()).by(now))

    def _do_one(self, who: str) -> None:
        pieces = self._waiting[who]
        piece = pieces.popleft()
        began = self._clock.seconds()
        more = False
        try:
            more = piece()
        finally:
            now = self._clock.seconds()
            self._count(who, now, now - began)
            if more:
                pieces.append(piece)
            if not pieces:
                del self._waiting[who]

    def _count(self, who: str, now: float, seconds: float) -> None:
        self._spent += seconds
        used = self._used.pop(who, None) or _Used()
        self._used[who] = _Used(used.by(now) + seconds, now)
        if len(self._used) > REMEMBERED:
            del self._used[next(iter(self._used))]  # who has been away for longest
