"""The whole service tree, started and stopped in the right order."""

import signal
from collections.abc import Iterable
from functools import partial
from typing import Any

from twisted.application.service import IService, IServiceCollection, MultiService, Service
from twisted.internet import defer
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import ILogObserver, Logger
from twisted.python.components import Componentized

from tezio_signer.errors import StartupError
from tezio_signer.logs.foreground import as_observer
from tezio_signer.logs.lines import LineObserver
from tezio_signer.reactors import Reactor
from tezio_signer.signer import Signer

STOP_TIMEOUT = 2.5
"""Seconds that requests in progress get when the daemon stops; then they are refused."""
_FLUSH_TIME = 0.05
_STOPPING = "the signer is stopping"
_TO_STOP = (signal.SIGINT, signal.SIGTERM)


_log = Logger()


def obey_one_signal(reactor: Reactor) -> None:
    """Let a second signal to stop change nothing, for which Twisted logs a traceback.

    It may come before the reactor gets to the first one, of which its handler only takes note.
    """
    reactor.callWhenRunning(_obey_the_next)
    reactor.addSystemEventTrigger("before", "shutdown", _obey_no_other)


def _obey_the_next() -> None:
    for number in _TO_STOP:
        handler = signal.getsignal(number)
        if callable(handler):  # else it is ignored, as Ctrl-C is behind a shell's &
            signal.signal(number, partial(_obey, handler))


def _obey(handler: Any, number: int, frame: object) -> None:
    _obey_no_other()
    handler(number, frame)


def _obey_no_other() -> None:
    for number in _TO_STOP:
        signal.signal(number, _stops_already)


def _stops_already(number: int, frame: object) -> None:  # noqa: ARG001
    _log.info("{name}: the signer is stopping already", name=signal.Signals(number).name)


class Daemon(MultiService):
    """Inner services first, then the listeners; on the way down the listeners close first.

    :param inner: what requests are served with, in the order of starting.
    :param listeners: where requests come in.
    :param banner: what is logged when it has started.
    :param log: where this daemon logs to, if it is not said otherwise; see `sets_log`.
    :ivar sets_log: whether the log of this daemon is that of its application.
    :ivar exit_code: of the process, when the daemon has stopped.
    """

    sets_log = False
    exit_code = 0

    def __init__(
        self,
        clock: IReactorTime,
        signer: Signer,
        inner: Iterable[IService],
        listeners: Iterable[IService],
        banner: str = "",
        log: LineObserver | None = None,
    ) -> None:
        super().__init__()
        self.log = log
        self._banner = banner
        self._clock = clock
        self._signer = signer
        self._inner, self._listeners = MultiService(), MultiService()
        for group, services in ((self._inner, inner), (self._listeners, listeners)):
            group.setServiceParent(self)
            for service in services:
                service.setServiceParent(group)

    def setServiceParent(self, parent: IServiceCollection) -> None:
        """Be part of an application, and have it log where this daemon does, if that is so."""
        super().setServiceParent(parent)
        if self.sets_log and isinstance(parent, Componentized):
            parent.setComponent(ILogObserver, as_observer(self.log))

    def privilegedStartService(self) -> None:
        """Open the listeners' ports; raises StartupError."""
        try:
            super().privilegedStartService()
        except (CannotListenError, OSError, OverflowError) as error:  # a port above 65535
            raise StartupError(str(error)) from error

    def startService(self) -> None:
        """Start, and say so."""
        super().startService()
        if self._banner:
            _log.info("{banner}", banner=self._banner)

    def give_up(self, error: StartupError) -> None:
        """Say why it turns out, only when it runs, not to be able to do its work."""
        _log.critical("tezio-signer: {sentence}", sentence=error)
        self.exit_code = 1

    def stopService(self) -> Deferred[None]:
        """Take no more requests, finish those in progress, then stop the rest."""
        Service.stopService(self)
        return Deferred.fromCoroutine(self._stop())

    def finish_log(self) -> None:
        """Have the log written to its end, as far as somebody reads it."""
        if self.log is not None:
            self.log.finish()

    async def _stop(self) -> None:
        ends = self._clock.seconds() + STOP_TIMEOUT
        # Until they are stopped, which takes as long as requests are half sent, these are served.
        await maybeDeferred(self._listeners.stopService)
        self._signer.close(_STOPPING)
        left = max(0.0, ends - self._clock.seconds())
        try:
            await self._signer.drained().addTimeout(left, self._clock)
        except defer.TimeoutError:
            self._signer.refuse_all(_STOPPING)
        # The last answers are with their connections, which write in the next rounds.
        await deferLater(self._clock, _FLUSH_TIME)
        await maybeDeferred(self._inner.stopService)
