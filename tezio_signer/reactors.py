"""The abilities of a reactor that the services need, as one type."""

from twisted.internet.interfaces import (
    IReactorCore,
    IReactorFDSet,
    IReactorFromThreads,
    IReactorTime,
)


class Reactor(IReactorCore, IReactorFDSet, IReactorFromThreads, IReactorTime):
    """What every reactor of Twisted for POSIX provides."""
