"""The abilities of a reactor that the services need, as one type."""

from collections.abc import Callable
from threading import Thread
from time import monotonic
from typing import Any

from twisted.internet.interfaces import (
    IDelayedCall,
    IReactorCore,
    IReactorFDSet,
    IReactorThreads,
    IReactorTime,
)


class Reactor(IReactorCore, IReactorFDSet, IReactorThreads, IReactorTime):
    """What every reactor of Twisted for POSIX provides."""


def cancel(call: IDelayedCall | None) -> None:
    """Cancel a call that may have been made, or cancelled, already."""
    if call is not None and call.active():
        call.cancel()


class Alarm:
    """One call that is to be made later, set and put off several times for each request.

    Putting it off leaves the reactor's own call where it is, for the next time it is set.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._waiting: IDelayedCall | None = None
        self._call: Callable[[], object] | None = None

    def set(self, seconds: float, call: Callable[[], object]) -> None:
        """Make this call after so many seconds, and not the one that was to be made."""
        self._call = call
        if self._waiting is not None and self._waiting.active():
            self._waiting.reset(seconds)
        else:
            self._waiting = self._clock.callLater(seconds, self._ring)

    def put_off(self) -> None:
        """Make no call until it is set again, which is soon."""
        self._call = None

    def end(self) -> None:
        """Make no call, and leave nothing behind."""
        self._call = None
        cancel(self._waiting)

    def _ring(self) -> None:
        call, self._call = self._call, None
        if call is not None:
            call()


def keep_time_steady(reactor: Reactor) -> None:
    """Have a reactor count seconds that nobody sets forward or back.

    Twisted's reactors ask the wall clock: set back by an hour, it would hold up every
    time-out for that hour. Changes nothing if something is timed by that clock already.
    """
    if not reactor.getDelayedCalls():
        reactor.seconds = monotonic  # type: ignore[method-assign]


class _UnawaitedThread(Thread):
    """A thread that nobody waits for at the end, neither Python nor who joins it."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **{**options, "daemon": True})

    def join(self, timeout: float | None = None) -> None:
        """Leave it alone."""


def leave_threads_behind(reactor: Reactor) -> None:
    """Let nothing that hangs in a thread of the reactor hold up its end.

    What runs there is the resolver, which may take minutes for a name. Twisted waits for
    every thread of the pool when the reactor stops, and Python would wait for them again.
    """
    reactor.getThreadPool().threadFactory = _UnawaitedThread
