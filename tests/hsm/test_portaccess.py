"""The words for a port that cannot be opened."""

import errno
import grp
import os
import pwd
import subprocess
import sys
import termios
from pathlib import Path
from unittest import SkipTest

from serial import SerialException
from twisted.trial.unittest import SynchronousTestCase

from tezio_signer.host.accounts import group_name
from tezio_signer.hsm import portaccess
from tezio_signer.hsm.portaccess import holder_of, is_absent, why_not_opened

_HOLDER = """
import fcntl, sys
port = open(sys.argv[1], "rb+", buffering=0)
if sys.argv[2] == "lock":
    fcntl.flock(port, fcntl.LOCK_EX)
print("open", flush=True)
sys.stdin.read()
"""


class ReasonTests(SynchronousTestCase):
    """Each error of opening a port, and what is to be done."""

    def setUp(self) -> None:
        # Other processes run these tests at the same time: the name is this one's alone.
        self.port = Path(self.mktemp()).with_name(f"port-{os.getpid()}").absolute()
        self.port.write_bytes(b"")

    def why(self, number: int) -> str:
        """What is said of an error of this number, as pyserial raises it."""
        return why_not_opened(str(self.port), SerialException(number, "could not open port"))

    def test_each(self) -> None:
        """Errors are told apart; one that is not known is passed on as it is."""
        for number, words in [
            (errno.ENOENT, "cannot be opened: there is no such port; is the board plugged in?"),
            (errno.ENOTTY, "cannot be opened: this is no serial port"),
            (errno.ENXIO, "No such device or address; pull the board out, and plug it in again"),
            (errno.ENOSPC, "could not open port"),
        ]:
            self.assertIn(words, self.why(number))
        self.assertIn("plug it in again", why_not_opened("x", termios.error(errno.EIO, "I/O")))
        self.assertEqual(
            why_not_opened("x", SerialException("no number")), "cannot be opened: no number"
        )

    def test_absent(self) -> None:
        """Some errors mean that nothing is plugged in, others do not."""
        self.assertTrue(is_absent(OSError(errno.ENOENT, "x")))
        self.assertTrue(is_absent(termios.error(errno.EIO, "x")))
        self.assertFalse(is_absent(OSError(errno.EACCES, "x")))
        self.assertFalse(is_absent(SerialException("no number")))

    def as_user(self, user: str, groups: list[int], mode: int, group: int) -> str:
        """What a user in these groups is told of a port of this mode and group."""
        owner = os.stat(self.port)
        status = os.stat_result((mode, 0, 0, 1, owner.st_uid, group, 0, 0, 0, 0))
        self.patch(os, "stat", lambda _: status)
        self.patch(os, "geteuid", lambda: pwd.getpwnam(user).pw_uid)
        self.patch(os, "getegid", lambda: 65534)
        self.patch(os, "getgroups", lambda: groups)
        return self.why(errno.EACCES)

    def test_not_in_the_group(self) -> None:
        """Who is not in the group of the port is told which it is, and the command."""
        dialout = _group("dialout")
        said = self.as_user("nobody", [65534], 0o20660, dialout)
        self.assertEqual(
            said,
            "cannot be opened: user nobody is not in the group dialout, to which it belongs: run, "
            "as root, usermod -a -G dialout nobody, then log in again or restart the service",
        )

    def test_in_the_group_since(self) -> None:
        """Who was put into the group after the program was started has to start it again."""
        self.patch(portaccess, "_is_member", lambda *_: True)
        said = self.as_user("nobody", [65534], 0o20660, _group("dialout"))
        self.assertIn("user nobody is in the group dialout only since it was started", said)

    def test_other_reasons(self) -> None:
        """A port that no group may use, and one that is kept away all the same."""
        dialout = _group("dialout")
        self.assertIn("mode 0600", self.as_user("nobody", [65534], 0o20600, dialout))
        self.assertIn("a container or", self.as_user("nobody", [dialout], 0o20660, dialout))
        self.patch(os, "stat", _refuse)
        self.assertIn("may not look at it: Permission denied", self.why(errno.EPERM))

    def test_no_names(self) -> None:
        """Users and groups without a name are told by number."""
        self.patch(os, "geteuid", lambda: 54321)
        self.assertIn("user 54321", self.why(errno.EACCES))
        self.assertEqual(group_name(54321), "54321")
        self.assertFalse(portaccess._is_member("nobody", 54321))


class HolderTests(SynchronousTestCase):
    """Who has a port, found by what the kernel tells."""

    def setUp(self) -> None:
        self.port = Path(self.mktemp()).absolute()
        self.port.write_bytes(b"")

    def hold(self, how: str) -> int:
        """Have another process open the port; its number."""
        process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-c", _HOLDER, str(self.port), how],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self.addCleanup(process.communicate)
        assert process.stdout is not None
        self.assertEqual(process.stdout.readline(), b"open\n")
        return process.pid

    def test_locked(self) -> None:
        """Who locked it is named by the list of locks, which everybody may read."""
        self.patch(portaccess, "_opener", lambda *_: None)
        self.assertIsNone(holder_of(str(self.port)))
        process = self.hold("lock")
        self.assertEqual(holder_of(str(self.port)), process)
        said = why_not_opened(str(self.port), OSError(errno.EAGAIN, "locked"))
        self.assertRegex(said, rf"another program has it: python\S*, process {process}; if that is")

    def test_open(self) -> None:
        """Who has it open without a lock is found among the processes that we may look at."""
        process = self.hold("only open it")
        self.assertEqual(holder_of(str(self.port)), process)

    def test_hanging(self) -> None:
        """No other open file is looked at: on a file system that hangs, that takes for ever."""
        process = self.hold("only open it")
        stat = os.stat

        def checked(path: str | Path) -> os.stat_result:
            if "/fd/" in str(path):
                self.assertEqual(os.readlink(path), str(self.port))
            return stat(path)

        self.patch(os, "stat", checked)
        self.assertEqual(holder_of(str(self.port)), process)

    def test_unknown(self) -> None:
        """When nobody is to be seen, a command says who it is."""
        self.assertIsNone(holder_of(str(self.port)))
        self.assertIsNone(holder_of("/dev/none"))
        self.assertIn(f"fuser -v {self.port}", why_not_opened(str(self.port), OSError(16, "busy")))

    def test_bounded(self) -> None:
        """A machine with very many open files is not searched to its end."""
        self.hold("only open it")
        self.patch(portaccess, "_MOST_DESCRIPTORS", 0)
        self.assertIsNone(holder_of(str(self.port)))


def _group(name: str) -> int:
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise SkipTest(f"this machine has no group {name}") from None


def _refuse(_: object) -> None:
    raise PermissionError(errno.EACCES, "Permission denied")
