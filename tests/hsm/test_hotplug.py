"""Being told by the kernel that a port has come or gone."""

import contextlib
import os
import shutil
import sys
from unittest.mock import patch

from twisted.internet.defer import Deferred, DeferredQueue
from twisted.logger import LogLevel, capturedLogs, formatEvent
from twisted.python import _inotify
from twisted.trial.unittest import TestCase

from tests.support.harness import reactor
from tezio_signer.hsm.boards import BoardSelector
from tezio_signer.hsm.hotplug import PortWatch, watch_ports
from twisted import internet


def _descriptors() -> int:
    """How many inotify descriptors this process has open."""
    opened = 0
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the listing itself
            opened += "inotify" in os.readlink(f"/proc/self/fd/{number}")
    return opened


class WatchPortsTests(TestCase):
    """A directory of ports, in which something happens."""

    timeout = 10

    def _watch(self) -> tuple[str, list[Deferred[None]]]:
        """A port in a directory that is watched, and who waits for the next news."""
        directory = self.mktemp()
        os.mkdir(directory)
        port = os.path.join(directory, "ttyACM0")
        waiting: list[Deferred[None]] = []

        def told() -> None:
            while waiting:
                waiting.pop().callback(None)

        self.addCleanup(watch_ports(reactor, [BoardSelector(port=port)], told))
        return port, waiting

    async def test_comes_and_goes(self) -> None:
        """A port that appears, gets its rights, and vanishes is noticed each time."""
        port, waiting = self._watch()
        for happen in (
            lambda: os.symlink("/dev/null", port),
            lambda: os.utime(port, follow_symlinks=False),
            lambda: os.unlink(port),
        ):
            news: Deferred[None] = Deferred()
            waiting.append(news)
            happen()
            await news

    async def test_directory_comes_and_goes(self) -> None:
        """A directory that vanishes with its last port, as /dev/serial/by-id, is watched again.

        The others are watched further on, and no descriptor is closed twice.
        """
        root = os.path.abspath(self.mktemp())
        os.mkdir(root)
        by_id = os.path.join(root, "serial", "by-id")
        news: DeferredQueue[None] = DeferredQueue()
        watch = PortWatch(reactor, [root, by_id], lambda: news.put(None))
        watch.start()
        self.addCleanup(watch.stop)
        for _ in range(3):
            os.makedirs(by_id)
            await news.get()
            os.symlink("/dev/null", os.path.join(by_id, "board"))
            await self._watched(watch, {root, by_id}, news)
            shutil.rmtree(os.path.join(root, "serial"))
            await self._watched(watch, {root}, news)
        os.makedirs(by_id)
        await self._watched(watch, {root, by_id}, news)
        os.rename(os.path.join(root, "serial"), os.path.join(root, "moved"))
        await self._watched(watch, {root}, news)
        watch.stop()
        opened = os.open("/dev/null", os.O_RDONLY)  # takes the number that is free now
        watch.stop()
        os.close(opened)
        self.assertEqual(_descriptors(), 0)

    async def _watched(
        self, watch: PortWatch, directories: set[str], news: "DeferredQueue[None]"
    ) -> None:
        """Wait until just these are watched."""
        while set(watch._notifiers) != directories:
            await news.get()

    def test_stops(self) -> None:
        """Stopped, it reads nothing more and leaves no descriptor open."""
        stop = watch_ports(reactor, [], bool)
        self.assertEqual(_descriptors(), 1)
        stop()
        self.assertEqual(_descriptors(), 0)

    def _cannot(self, *directories: str) -> str:
        """Watch where this cannot be done; the one warning, with all descriptors closed."""
        watch = PortWatch(reactor, directories, bool)
        with capturedLogs() as events:
            watch.start()
        self.assertEqual(_descriptors(), 0)
        watch.stop()
        (event,) = events
        self.assertIs(event["log_level"], LogLevel.warn)
        return formatEvent(event)

    def test_without_instances(self) -> None:
        """Where the kernel gives no inotify, nothing is watched, and that is one warning."""
        with patch.object(_inotify.libc, "inotify_init", lambda: -1):
            said = self._cannot("/dev", "/")
        self.assertIn("INotify initialization error", said)
        self.assertIn("found by looking", said)

    def test_without_watches(self) -> None:
        """So it is where it takes no watch, and where a directory may not be read."""
        with patch.object(_inotify.libc, "inotify_add_watch", lambda *_: -1):
            self.assertIn("Failed to add watch on", self._cannot("/dev", "/"))

    async def test_said_once(self) -> None:
        """One directory of two cannot be watched: what happens in the other repeats no warning."""
        root = os.path.abspath(self.mktemp())
        watched, other = f"{root}/watched", f"{root}/other"
        os.makedirs(watched)
        os.mkdir(other)
        add_watch, news = _inotify.libc.inotify_add_watch, DeferredQueue[None]()

        def add(descriptor: int, path: bytes, mask: int) -> int:
            return -1 if path.endswith(b"/other") else int(add_watch(descriptor, path, mask))

        watch = PortWatch(reactor, [watched, other], lambda: news.put(None))
        with patch.object(_inotify.libc, "inotify_add_watch", add), capturedLogs() as events:
            watch.start()
            for number in range(3):
                os.mkdir(f"{watched}/{number}")
                await news.get()
        watch.stop()
        self.assertEqual([event["log_level"] for event in events], [LogLevel.warn])

    def test_without_inotify(self) -> None:
        """A system without it is no fault either."""
        from twisted.internet import inotify

        del internet.inotify
        self.addCleanup(setattr, internet, "inotify", inotify)
        with patch.dict(sys.modules, {"twisted.internet.inotify": None}):
            self.assertIn("inotify", self._cannot("/dev"))

    async def test_vanished_in_the_moment(self) -> None:
        """A directory that vanishes while it is about to be watched is no trouble."""
        root = os.path.abspath(self.mktemp())
        os.mkdir(root)
        watch = PortWatch(reactor, [root], bool)
        with capturedLogs() as events:
            os.rmdir(root)
            watch._watch(root)
        self.assertEqual((events, watch._notifiers), ([], {}))
