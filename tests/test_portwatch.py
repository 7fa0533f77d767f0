"""Being told by the kernel that a port has come or gone."""

import os
from unittest.mock import patch

from twisted.internet import inotify
from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase

from tests.stand import reactor
from tezio_signer.hsm.boards import BoardSelector
from tezio_signer.portwatch import watch_ports


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

    def test_stops(self) -> None:
        """Stopped, it reads nothing more and leaves no descriptor open."""
        before = len(os.listdir("/proc/self/fd"))
        stop = watch_ports(reactor, [], bool)
        self.assertGreater(len(os.listdir("/proc/self/fd")), before)
        stop()
        self.assertEqual(len(os.listdir("/proc/self/fd")), before)

    def test_without_inotify(self) -> None:
        """Where the kernel gives no inotify, nothing is watched and nothing fails."""
        with patch.object(inotify, "INotify", side_effect=OSError(24, "Too many open files")):
            stop = watch_ports(reactor, [], bool)
        stop()
