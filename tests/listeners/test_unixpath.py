"""Unix sockets that outlive their daemons, at paths that others want too."""

import fcntl
import os
import stat
from pathlib import Path
from socket import AF_UNIX, SOCK_DGRAM, SOCK_STREAM, socket

from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from tests.support.daemonprocess import Process
from tests.support.octezclient import HSM_KEYS, verifies
from tests.support.octezsocketclient import OctezSocketClient
from tests.support.processcase import ProcessTestCase
from tests.support.vectors import PAYLOADS, TZ1
from tezio_signer.errors import InUseError, StartupError
from tezio_signer.listeners.unixpath import LOCK_SUFFIX, SocketPath


class PathTests(SynchronousTestCase):
    """Who may have a path."""

    def setUp(self) -> None:
        self.path = os.path.relpath(self.mktemp())  # that of a Unix socket may not be long
        self.lock = self.path + LOCK_SUFFIX

    def listen(self, backlog: int = 1) -> socket:
        """Another program's socket at the path."""
        listening = socket(AF_UNIX, SOCK_STREAM)
        self.addCleanup(listening.close)
        listening.bind(self.path)
        listening.listen(backlog)
        return listening

    def taken(self) -> SocketPath:
        """The path, until the test ends."""
        path = SocketPath(self.path, lock=True)
        path.take()
        self.addCleanup(path.release)
        return path

    def refused(self, is_seen: bool = True) -> str:
        """Why the path cannot be had; nothing is changed by trying.

        :param is_seen: whether that can be told without trying, in the same words.
        """
        before = os.path.lexists(self.path)
        sentence = str(self.assertRaises(StartupError, SocketPath(self.path, lock=True).take))
        self.assertEqual(os.path.lexists(self.path), before)
        self.assertIn(self.path, sentence)
        self.assertNotIn("\n", sentence)
        if is_seen:
            error = self.assertRaises(StartupError, SocketPath(self.path, lock=True).look)
            self.assertEqual(str(error), sentence)
        return sentence

    def test_free(self) -> None:
        """A path that nobody has used is had, and given back without a trace."""
        path = self.taken()
        self.assertEqual(stat.S_IMODE(os.lstat(self.lock).st_mode), 0o600)
        self.listen()
        path.bound()
        path.release()
        self.assertFalse(os.path.lexists(self.path) or os.path.lexists(self.lock))

    def test_dead(self) -> None:
        """A socket on which nobody listens any more makes room, and so does its lock."""
        Path(self.lock).touch()
        self.listen().close()
        self.taken()
        self.assertFalse(os.path.lexists(self.path))

    def test_looked_at(self) -> None:
        """Looking says nothing of a path that could be had, and leaves all as it is."""
        SocketPath(self.path, lock=True).look()
        self.assertFalse(os.path.lexists(self.path) or os.path.lexists(self.lock))
        self.listen().close()
        Path(self.lock).touch()
        SocketPath(self.path, lock=True).look()
        self.assertTrue(os.path.lexists(self.path) and os.path.lexists(self.lock))
        error = self.assertRaises(StartupError, SocketPath(self.path, lock=False).look)
        self.assertIn("with lockfile=0 it is not taken over", str(error))

    def test_looked_at_in_use(self) -> None:
        """What is in use is told apart from what is wrong, with a lock and without."""
        self.listen()
        for lock in (True, False):
            self.assertRaises(InUseError, SocketPath(self.path, lock=lock).look)

    def test_locked(self) -> None:
        """The path of another daemon is not had, even before it listens, until it gives it back."""
        path = self.taken()
        self.assertIn("is in use by another daemon", self.refused(is_seen=False))
        self.assertTrue(os.path.lexists(self.lock))
        path.release()
        self.taken()

    def test_alive(self) -> None:
        """A socket on which somebody listens is not taken, with a lock or without, busy or idle."""
        listening = self.listen(0)
        self.assertIn("is in use by another daemon", self.refused())
        self.assertIn("is in use by another daemon", self.refused())  # nobody was accepted
        self.assertFalse(os.path.lexists(self.lock))
        listening.close()
        self.taken()

    def test_no_socket(self) -> None:
        """What is no socket stays as it is."""
        Path(self.path).write_text("precious")
        self.assertIn(
            "exists and is not a socket: move it away, or use another path", self.refused()
        )
        self.assertEqual(Path(self.path).read_text(), "precious")
        os.unlink(self.path)
        os.symlink("elsewhere", self.path)
        self.assertIn("is not a socket", self.refused())
        os.unlink(self.path)
        os.mkdir(self.path)
        self.assertIn("is not a socket", self.refused())

    def test_datagrams(self) -> None:
        """A socket of another kind is nobody's to take."""
        other = socket(AF_UNIX, SOCK_DGRAM)
        self.addCleanup(other.close)
        other.bind(self.path)
        self.assertIn("wrong type for socket", self.refused())

    def test_no_lock(self) -> None:
        """What is where the lock belongs and is none of ours stays as it is."""
        Path(self.lock).write_text("precious")
        self.assertIn("is not a lock of this daemon", self.refused())
        self.assertEqual(Path(self.lock).read_text(), "precious")
        os.unlink(self.lock)
        os.symlink("1", self.lock)
        self.assertIn("Too many levels of symbolic links", self.refused())
        self.path = "none/socket"
        self.assertIn("socket: there is no directory ", self.refused())

    def test_removed_meanwhile(self) -> None:
        """A lock whose file has gone when it is got, with the daemon that had it, is none."""
        flock = fcntl.flock

        def remove_first(lock: int, operation: int) -> None:
            self.patch(fcntl, "flock", flock)
            os.unlink(self.lock)
            flock(lock, operation)

        self.patch(fcntl, "flock", remove_first)
        self.taken()
        self.assertIn("is in use", self.refused(is_seen=False))

    def test_of_somebody_else(self) -> None:
        """A path that has become another's while we listened is not removed."""
        path = self.taken()
        self.listen()
        path.bound()
        os.unlink(self.path)
        Path(self.path).write_text("precious")
        path.release()
        self.assertEqual(Path(self.path).read_text(), "precious")

    def test_not_removable(self) -> None:
        """A path that cannot be removed at the end is said, and keeps nobody from stopping."""
        path = self.taken()
        listening = self.listen()
        path.bound()

        def refuse(_: str) -> None:
            raise PermissionError(13, "Permission denied")

        patch = self.patch(os, "unlink", refuse)
        with capturedLogs() as events:
            path.release()
        patch.restore()
        listening.close()
        (event,) = events
        self.assertEqual(formatEvent(event), f"{self.path} stays: Permission denied")
        self.taken()

    def test_without_lock(self) -> None:
        """Without a lock nothing is made beside the socket, and nothing is taken over."""
        self.listen().close()
        path = SocketPath(self.path, lock=False)
        path.take()
        path.release()
        self.assertTrue(os.path.lexists(self.path))
        self.assertFalse(os.path.lexists(self.lock))

    def test_no_path(self) -> None:
        """A name that is no path, where modes do not count, is refused."""
        for name in ("", "\0name"):
            self.assertRaises(StartupError, SocketPath, name, lock=True)


class DaemonTests(ProcessTestCase):
    """Daemons that are killed, and followed by others."""

    def setUp(self) -> None:
        super().setUp()
        self.path = Path(os.path.relpath(self.directory / "signer.sock"))

    def start_at(self, endpoint: str) -> Process:
        """Start a daemon with a socket."""
        return self.start("--simulate", "--octez-socket", endpoint)

    async def assert_signs(self, daemon: Process) -> None:
        """Check that somebody who may open the socket gets a signature."""
        await daemon.says(r"HSM .* is ready: .*\n")
        signature = await OctezSocketClient(f"unix:{self.path}").sign(str(TZ1), PAYLOADS["noop"])
        self.assertTrue(verifies(HSM_KEYS[0].public_key, PAYLOADS["noop"], signature))

    async def refused(self, daemon: Process, *words: str) -> None:
        """Check that a daemon ends with one line to the point."""
        self.assertEqual(await daemon.exits(), 1, daemon.log)
        (said,) = [line for line in daemon.log.splitlines() if "tezio-signer: " in line]
        for word in words:
            self.assertIn(word, said)
        self.assert_quiet(daemon)

    async def test_killed(self) -> None:
        """After `kill -9` the next daemon has the socket, whatever else has its process number.

        A second one beside it is refused, and harms it in no way.
        """
        # As a daemon of Twisted's leaves it whose number is now of a process that lives.
        os.symlink(str(os.getpid()), f"{self.path}.lock")
        daemon = self.start_at("unix:signer.sock")
        await self.assert_signs(daemon)
        await daemon.kill()
        self.assertTrue(stat.S_ISSOCK(self.path.lstat().st_mode))
        daemon = self.start_at("unix:signer.sock")
        await self.assert_signs(daemon)
        await self.refused(self.start_at("unix:signer.sock"), "signer.sock is in use by another")
        await self.assert_signs(daemon)
        daemon.send("TERM")
        self.assertEqual(await daemon.exits(), 0)
        self.assert_quiet(daemon)
        self.assertEqual(os.listdir(self.directory), ["signer.sock.lock"])

    async def test_without_lock(self) -> None:
        """With `lockfile=0` a path that is there is never taken over."""
        daemon = self.start_at("unix:signer.sock:lockfile=0")
        await self.assert_signs(daemon)
        self.assertEqual(os.listdir(self.directory), ["signer.sock"])
        await daemon.kill()
        daemon = self.start_at("unix:signer.sock:lockfile=0")
        await self.refused(daemon, "signer.sock exists, and with lockfile=0 it is not taken over")
        self.assertTrue(self.path.exists())

    async def test_mode(self) -> None:
        """A socket is its user's own unless a mode is given, whatever Twisted would make of it."""
        for option, mode in (("", 0o600), (":mode=666", 0o666), (":660", 0o660)):
            daemon = self.start_at(f"unix:signer.sock{option}")
            await self.assert_signs(daemon)
            self.assertEqual(stat.S_IMODE(self.path.stat().st_mode), mode)
            daemon.send("TERM")
            await daemon.exits()
            self.assertEqual(os.listdir(self.directory), [])
