"""A simulated Tezio HSM behind a real pseudo-terminal.

`SerialLine` is the reading loop of the firmware with its time limits;
`Simulator` is the service that gives it a pseudo-terminal to live on.
"""

import os
import tty
from collections.abc import Callable

from twisted.application.service import Service
from twisted.internet import fdesc
from twisted.internet.abstract import FileDescriptor
from twisted.internet.interfaces import IDelayedCall, IReactorFDSet, IReactorTime
from twisted.python.failure import Failure

from tezio_signer.hsm.boards import Board
from tezio_signer.hsm.framing import START
from tezio_signer.reactors import Reactor, cancel
from tezio_signer.simulator.firmware import Answer, Firmware

READ_LIMIT = 0.1
"""Seconds in which the two length bytes, and then the rest, have to come."""
SKIP_TIME = 0.001
"""Seconds that the device takes to skip a byte that is no start byte."""


class SerialLine:
    """The bytes between a host and the firmware, in the device's own time.

    :param write: called with the bytes of each answer.
    :param latency: seconds for every operation, or None for the device's own times.
    """

    def __init__(
        self,
        firmware: Firmware,
        clock: IReactorTime,
        write: Callable[[bytes], None],
        latency: float | None = None,
    ) -> None:
        self._firmware = firmware
        self._clock = clock
        self._write = write
        self._latency = latency
        self._waiting = bytearray()
        self._packet = bytearray()
        self._expected = 0
        self._timer: IDelayedCall | None = None
        self._step: Callable[[], bool] = self._find_start

    def received(self, data: bytes) -> None:
        """Take bytes from the host; what cannot be read yet waits in the port."""
        self._waiting += data
        self._advance()

    def stop(self) -> None:
        """Unplugged: nothing will be answered any more."""
        cancel(self._timer)
        self._step = self._busy
        self._waiting.clear()

    def _advance(self) -> None:
        while self._step():
            pass

    def _busy(self) -> bool:
        return False

    def _find_start(self) -> bool:
        if not self._waiting:
            return False
        start = self._waiting.find(START)
        skipped = start if start >= 0 else len(self._waiting)
        del self._waiting[:skipped]
        if skipped:
            self._pause(skipped * SKIP_TIME, self._find_start)
            return False
        del self._waiting[0]
        self._limit(self._take_length)
        return True

    def _take_length(self) -> bool:
        if len(self._waiting) < 2:
            return False
        self._expected = int.from_bytes(self._waiting[:2], "little")
        self._packet += self._waiting[:2]
        del self._waiting[:2]
        self._limit(self._take_rest)
        return True

    def _take_rest(self) -> bool:
        missing = max(0, self._expected - len(self._packet))
        self._packet += self._waiting[:missing]
        del self._waiting[:missing]
        if len(self._packet) < self._expected:
            return False
        self._execute()
        return False

    def _execute(self) -> None:
        cancel(self._timer)
        packet = bytes(self._packet)
        self._packet.clear()
        self._step = self._busy
        answer = self._perform(packet)
        if answer is None:
            self._listen()
            return
        seconds = answer.seconds if self._latency is None else self._latency

        def answer_now() -> None:
            self._deliver(answer.packet)
            self._listen()

        if seconds:
            self._timer = self._clock.callLater(seconds, answer_now)
        else:
            answer_now()

    def _perform(self, packet: bytes) -> Answer | None:
        return self._firmware.execute(packet)

    def _deliver(self, packet: bytes) -> None:
        self._write(packet)

    def _listen(self) -> None:
        self._step = self._find_start
        self._advance()

    def _limit(self, step: Callable[[], bool]) -> None:
        """Read on with `step`, and execute what has come when the time is over."""
        cancel(self._timer)
        self._step = step
        self._timer = self._clock.callLater(READ_LIMIT, self._execute)

    def _pause(self, seconds: float, then: Callable[[], bool]) -> None:
        def resume() -> None:
            self._step = then
            self._advance()

        self._step = self._busy
        self._timer = self._clock.callLater(seconds, resume)


class _Pty(FileDescriptor):
    """The device's side of a pseudo-terminal."""

    def __init__(
        self, reactor: IReactorFDSet, master: int, received: Callable[[bytes], None]
    ) -> None:
        super().__init__(reactor)
        self._master = master
        self._received = received
        fdesc.setNonBlocking(master)
        self.connected = 1
        self.startReading()

    def fileno(self) -> int:
        return self._master

    def doRead(self) -> Exception | None:
        lost: Exception | None = fdesc.readFromFD(self._master, self._received)
        return lost

    def writeSomeData(self, data: bytes) -> int | Exception:
        written: int | Exception = fdesc.writeToFD(self._master, data)
        return written

    def connectionLost(self, reason: Failure) -> None:
        super().connectionLost(reason)
        os.close(self._master)


class Simulator(Service):
    """A simulated HSM on a pseudo-terminal for as long as the service runs.

    :ivar port: the path of the pseudo-terminal while the service runs.
    :ivar observer: called with all bytes that the host writes, as they come.
    :param link: a symbolic link to keep pointing to the pseudo-terminal.
    """

    def __init__(
        self,
        reactor: Reactor,
        firmware: Firmware,
        latency: float | None = None,
        link: str | None = None,
        serial_number: str = "simulated",
    ) -> None:
        self.serial_number = serial_number
        self._reactor = reactor
        self.firmware = firmware
        self._latency = latency
        self._link = link
        self.port: str | None = None
        self.observer: Callable[[bytes], object] = bytes

    def startService(self) -> None:
        super().startService()
        self.plug_in()

    def stopService(self) -> None:
        super().stopService()
        self.unplug()
        if self._link is not None and os.path.islink(self._link):
            os.unlink(self._link)

    def plug_in(self) -> None:
        """Appear, under another name than before."""
        master, self._slave = os.openpty()
        tty.setraw(self._slave)
        self.port = os.ttyname(self._slave)
        self._pty = _Pty(self._reactor, master, self._received)
        self._line = self._make_line(self._pty.write)
        if self._link is not None:
            _replace_link(self.port, self._link)

    def unplug(self) -> None:
        """Vanish: the host gets a hang-up, and what was being done is not answered."""
        if self.port is None:
            return
        self._line.stop()
        self._pty.stopReading()
        self._pty.stopWriting()
        self._pty.connectionLost(Failure(ConnectionAbortedError()))
        # Held open until now, so that a host may close and open the port again.
        os.close(self._slave)
        self.port = None

    def boards(self) -> list[Board]:
        """Where this device is plugged in, if it is."""
        return [] if self.port is None else [Board(self.port, self.serial_number)]

    def _make_line(self, write: Callable[[bytes], None]) -> SerialLine:
        return SerialLine(self.firmware, self._reactor, write, self._latency)

    def _received(self, data: bytes) -> None:
        self.observer(data)
        self._line.received(data)


def _replace_link(target: str, link: str) -> None:
    """Point `link` to `target`; raises FileExistsError rather than replace a real file."""
    if os.path.islink(link):
        os.unlink(link)
    os.symlink(target, link)
