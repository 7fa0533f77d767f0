"""The serial port itself, on pseudo-terminals: its speed, its lock, and how it is left."""

import fcntl
import os
import termios
import tty
from functools import partial
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.support.fakeboard import ASK_KEY
from tests.support.harness import reactor
from tezio_signer import serialhsm
from tezio_signer.hsm.exchange import NoAnswer
from tezio_signer.serialhsm import HsmProtocol, open_port


class PortTestCase(SynchronousTestCase):
    """A port whose other end is the test's.

    :ivar lost: how often a protocol was told that its port is gone.
    """

    def setUp(self) -> None:
        self.master, slave = os.openpty()
        self.addCleanup(os.close, self.master)
        tty.setraw(slave)
        os.set_blocking(self.master, False)
        self.name = os.ttyname(slave)
        self.addCleanup(os.close, slave)
        self.lost = 0
        self.protocol = HsmProtocol(Clock(), self.on_lost, "board")

    def on_lost(self) -> None:
        """Count."""
        self.lost += 1

    def arrived(self) -> bytes:
        """What has come at the other end."""
        try:
            return os.read(self.master, 4096)
        except BlockingIOError:
            return b""


class OpeningTests(PortTestCase):
    """How a port is opened."""

    def test_speed(self) -> None:
        """It has the speed of the sketch; at 1200 an Arduino would enter its boot loader."""
        port = open_port(reactor, self.protocol, self.name)
        self.addCleanup(port.abort)
        self.assertEqual(port._serial.baudrate, 57600)
        speeds = termios.tcgetattr(port.fileno())[4:6]
        self.assertEqual(speeds, [termios.B57600, termios.B57600])

    def test_for_itself(self) -> None:
        """Another program that asks for the lock does not get it."""
        port = open_port(reactor, self.protocol, self.name)
        other = os.open(self.name, os.O_RDWR | os.O_NOCTTY)
        self.addCleanup(os.close, other)
        lock = fcntl.LOCK_EX | fcntl.LOCK_NB
        self.assertRaises(BlockingIOError, fcntl.flock, other, lock)
        port.abort()
        fcntl.flock(other, lock)

    def test_cannot_be_locked(self) -> None:
        """A port that the kernel does not lock is left again, and the reason is told."""

        def ioctl(descriptor: int, request: int, *rest: Any) -> Any:
            if request == termios.TIOCEXCL:
                asked.append(descriptor)
                raise OSError(25, "Inappropriate ioctl for device")
            return genuine(descriptor, request, *rest)

        asked: list[int] = []
        genuine = fcntl.ioctl
        self.patch(fcntl, "ioctl", ioctl)
        self.patch(serialhsm, "_PSEUDO_TERMINALS", "/none")
        error = self.assertRaises(OSError, open_port, reactor, self.protocol, self.name)
        self.assertIn("Inappropriate ioctl", str(error))
        self.assertEqual(self.lost, 1)
        (descriptor,) = asked
        self.assertRaises(OSError, os.fstat, descriptor)
        self.failureResultOf(self.protocol.exchange(ASK_KEY), NoAnswer)


class LeavingTests(PortTestCase):
    """How a port is left."""

    def test_unsent_bytes(self) -> None:
        """What the device has not taken is thrown away: nobody waits for its answer."""
        # A pseudo-terminal keeps nothing back, and so is asked only whether it was told to.
        port = open_port(reactor, self.protocol, self.name)
        port.write(b"for nobody" * 10_000)
        done: list[tuple[str, int]] = []
        self.patch(
            port._serial, "reset_output_buffer", lambda: done.append(("thrown away", self.lost))
        )
        port.abort()
        self.assertEqual((done, self.lost), ([("thrown away", 0)], 1))

    def test_in_the_midst(self) -> None:
        """A command that is under way fails, and its port is closed and left by the reactor."""
        port = open_port(reactor, self.protocol, self.name)
        descriptor = port.fileno()
        asked = self.protocol.exchange(ASK_KEY)
        port.abort()
        self.failureResultOf(asked, NoAnswer)
        self.assertRaises(OSError, os.fstat, descriptor)
        self.assertNotIn(port, reactor.getReaders())
        self.assertNotIn(port, reactor.getWriters())

    def test_flush_that_fails(self) -> None:
        """A device that is gone fails whatever is asked of it, and is left all the same."""

        def fail(error: Exception) -> None:
            raise error

        for error in (OSError(5, "Input/output error"), termios.error(5, "Input/output error")):
            self.lost = 0
            port = open_port(reactor, self.protocol, self.name)
            self.patch(port._serial, "reset_output_buffer", partial(fail, error))
            self.patch(port._serial, "reset_input_buffer", partial(fail, error))
            port.forget_input()
            port.abort()
            self.assertEqual(self.lost, 1)

    def test_written_after_it(self) -> None:
        """Nothing is written to a port that was left."""
        port = open_port(reactor, self.protocol, self.name)
        port.abort()
        port.write(b"too late")
        self.assertEqual(self.arrived(), b"")


class InputTests(PortTestCase):
    """What has come before anybody asked."""

    def test_forgotten(self) -> None:
        """It is thrown away when a command is sent, though the reactor has not read it yet."""
        port = open_port(reactor, self.protocol, self.name)
        self.addCleanup(port.abort)
        os.write(self.master, b"from before")
        self.protocol.exchange(ASK_KEY).addErrback(lambda _: None)
        self.assertEqual(self.arrived(), ASK_KEY.request.frame())
        self.assertEqual(port._serial.in_waiting, 0)

    def test_unsent(self) -> None:
        """Bytes that the reactor still holds count as unsent, and those of the system."""
        port = open_port(reactor, self.protocol, self.name)
        self.addCleanup(port.abort)
        self.assertFalse(port.unsent)
        port.write(b"x" * 100_000)
        self.assertTrue(port.unsent)
