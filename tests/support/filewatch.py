"""Being told when other processes write their files, instead of asking again and again."""

from collections.abc import Callable
from pathlib import Path

from twisted.internet.defer import DeferredQueue
from twisted.internet.error import ConnectionDone
from twisted.internet.inotify import IN_CREATE, IN_MODIFY, INotify
from twisted.python.failure import Failure
from twisted.python.filepath import FilePath
from twisted.trial.unittest import TestCase

from tests.support.harness import reactor


class FileWatch:
    """A directory in which something will be written, watched until the test ends."""

    def __init__(self, test: TestCase, directory: Path) -> None:
        self._written: DeferredQueue[None] = DeferredQueue()
        notifier = INotify(reactor)
        notifier.startReading()
        test.addCleanup(notifier.connectionLost, Failure(ConnectionDone()))
        told = [lambda *_: self._written.put(None)]
        notifier.watch(FilePath(str(directory)), IN_CREATE | IN_MODIFY, callbacks=told)

    async def until(self, happened: Callable[[], bool], patience: float = 30.0) -> None:
        """Wait until something is the case that shows in these files; fails after a while."""
        while not happened():
            await self._written.get().addTimeout(patience, reactor)
