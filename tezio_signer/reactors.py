"""The abilities of a reactor that the services need, as one type."""

from time import monotonic

from twisted.internet.interfaces import (
    IDelayedCall,
    IReactorCore,
    IReactorFDSet,
    IReactorFromThreads,
    IReactorTime,
)


class Reactor(IReactorCore, IReactorFDSet, IReactorFromThreads, IReactorTime):
    """What every reactor of Twisted for POSIX provides."""


def cancel(call: IDelayedCall | None) -> None:
    """Cancel a call that may have been made, or cancelled, already."""
    if call is not None and call.active():
        call.cancel()


def keep_time_steady(reactor: Reactor) -> None:
    """Have a reactor count seconds that nobody sets forward or back.

    Twisted's reactors ask the wall clock: set back by an hour, it would hold up every
    time-out for that hour. Changes nothing if something is timed by that clock already.
    """
    if not reactor.getDelayedCalls():
        reactor.seconds = monotonic  # type: ignore[method-assign]
