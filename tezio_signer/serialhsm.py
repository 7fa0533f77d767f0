"""The conversation with one Tezio HSM on a serial port.

The device answers commands in order and does not number its replies. So one command
is in flight at a time, and each reply has to prove that it belongs to it: by its
shape, and a signature by verifying. One that proves to be a late answer to an
earlier command is handed to whoever asked for that one. Anything else puts the
conversation out of step, and so does whatever comes while no command is in flight.
"""

import fcntl
import os
import termios
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from attrs import frozen
from serial import Serial
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionAborted
from twisted.internet.interfaces import IDelayedCall, IReactorFDSet, IReactorTime
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.serialport import SerialPort
from twisted.logger import Logger
from twisted.python.failure import Failure

from tezio_signer.hsm import framing
from tezio_signer.hsm.boards import Board
from tezio_signer.hsm.exchange import (
    DEFAULT_TIMING,
    FRAME_REFUSALS,
    Answer,
    Command,
    NoAnswer,
    Timing,
    WrongAnswer,
)
from tezio_signer.hsm.framing import FramingError, StatusReply
from tezio_signer.noop import do_nothing
from tezio_signer.reactors import cancel

BAUD_RATE = 57600
"""Of the sketch. Never 1200: that makes an Arduino enter its boot loader."""
_REMEMBERED = 8  # earlier commands, by which a late answer is recognised
_PSEUDO_TERMINALS = "/dev/pts/"


class ExclusiveSerialPort(SerialPort):
    """A serial port that no other program can open beside us."""

    class _serialFactory(Serial):  # noqa: N801
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **{**kwargs, "exclusive": True})

    def write(self, data: bytes) -> None:
        """Write now what the device takes; Twisted alone would wait for its next turn."""
        super().write(data)
        if self.connected and not self.disconnecting:
            self.doWrite()

    @property
    def unsent(self) -> bool:
        """Whether bytes are waiting that the device has not taken."""
        with suppress(OSError):  # the device may be gone
            return bool(self.dataBuffer or self._tempDataBuffer or self._serial.out_waiting)
        return True

    def forget_input(self) -> None:
        """Throw away what has come and was not read yet."""
        with suppress(OSError, termios.error):
            self.flushInput()

    def abort(self) -> None:
        """Close at once, whatever is still to be written; `loseConnection` would wait for it."""
        if not self.disconnected:
            with suppress(OSError, termios.error):  # the device may be gone
                self.flushOutput()
            self.connectionLost(Failure(ConnectionAborted()))


def open_port(reactor: IReactorFDSet, protocol: "HsmProtocol", port: str) -> ExclusiveSerialPort:
    """Open a port for a protocol; raises SerialException, OSError or termios.error."""
    opened = ExclusiveSerialPort(protocol, port, reactor, baudrate=BAUD_RATE)
    if not os.path.realpath(port).startswith(_PSEUDO_TERMINALS):
        # The lock of pyserial binds only programs that ask for it, this one binds all. The
        # kernel would keep it on a pseudo-terminal after we are gone, with nobody to lift it.
        try:
            fcntl.ioctl(opened.fileno(), termios.TIOCEXCL)
        except OSError:
            opened.abort()
            raise
    return opened


def _silent() -> bool:
    return False


class HsmProtocol(Protocol):
    """One command at a time to one device (`hsm.exchange.Conversation`).

    :param lost: called once when the port is gone.
    :param verbose: whether each command is logged.
    :ivar in_step: whether the next reply is sure to answer the next command.
    """

    _log = Logger()
    transport: ExclusiveSerialPort

    def __init__(
        self,
        clock: IReactorTime,
        lost: Callable[[], object],
        name: str,
        timing: Timing = DEFAULT_TIMING,
        verbose: Callable[[], bool] = _silent,
    ) -> None:
        self._clock = clock
        self._timing = timing
        self._lost = lost
        self._name = name
        self._verbose = verbose
        self._current: tuple[Command[Any], Deferred[Any]] | None = None
        self._earlier: deque[Command[Any]] = deque(maxlen=_REMEMBERED)
        self._received = b""
        self._quiet: Deferred[None] | None = None
        self._noise_until = 0.0
        self._timer: IDelayedCall | None = None
        self.in_step = True
        self.gone = False

    @property
    def busy(self) -> bool:
        """Whether a command is in flight."""
        return self._current is not None

    @property
    def unsent(self) -> bool:
        """Whether the device does not take what was written."""
        return not self.gone and self.transport.unsent

    def close(self) -> None:
        """Leave the port at once."""
        self.transport.abort()

    def exchange(self, command: Command[Answer]) -> Deferred[Answer]:
        """Send a command and read its answer; the last one has to be over.

        The Deferred fails with StatusReply, WrongAnswer or NoAnswer.
        """
        assert self._current is None
        result: Deferred[Answer] = Deferred()
        self._current = command, result
        if self.gone:
            self._finish(Failure(NoAnswer(f"the HSM {self._name} is unplugged")))
            return result
        self._received = b""
        self.transport.forget_input()  # what came since the last reply belongs to nobody
        frame = command.request.frame()
        self.transport.write(frame)
        self._timer = self._clock.callLater(self._timing.answer, self._timed_out)
        if self._verbose():
            self._log.debug(
                "HSM {name}: {count} bytes, opcode {opcode:02X}, slot {slot}",
                name=self._name,
                count=len(frame),
                opcode=command.request.opcode,
                slot=command.request.param1,
            )
        return result

    def dataReceived(self, data: bytes) -> None:
        self._received += data
        if self._quiet is not None:
            self._still_noisy()
        elif self._current is None:
            self._out_of_step(f"{len(data)} stray bytes")
        self._read_replies()

    def _read_replies(self) -> None:
        try:
            while self._received:
                split = framing.split_reply(self._received)
                if split is None:
                    return
                body, self._received = split
                self._replied(body)
        except FramingError as error:
            self._received = b""
            self._fail(f"sent {error}")

    def _replied(self, body: bytes) -> None:
        if self._current is None:
            self._is_late(body)
            self._out_of_step("a reply that nobody waits for")
            return
        try:
            answer: object = self._current[0].read(body)
        except StatusReply as status:
            if status.status in FRAME_REFUSALS:
                self._out_of_step(str(status))
            answer = Failure(status)
        except WrongAnswer as wrong:
            if self._is_late(body):
                return
            self._out_of_step(str(wrong))
            answer = Failure(wrong)
        except FramingError as error:
            if not self._is_late(body):
                self._fail(f"sent {error}")
            return
        if self._received:
            self._out_of_step(f"{len(self._received)} bytes behind a reply")
        self._finish(answer)

    def _is_late(self, body: bytes) -> bool:
        """Whether a reply proves to answer an earlier command; whoever asked may still want it."""
        for command in self._earlier:
            try:
                answer = command.read(body)
            except (StatusReply, WrongAnswer, FramingError):
                continue
            self._earlier.remove(command)
            command.late(answer)
            self._log.warn("HSM {name}: a late answer came, and is kept apart", name=self._name)
            return True
        return False

    def _timed_out(self) -> None:
        self._fail(f"did not answer within {self._timing.answer:g} s")

    def _fail(self, what: str) -> None:
        """End the exchange, if there is one, without knowing what the device did."""
        self._out_of_step(what)
        if self._current is not None:
            self._finish(Failure(NoAnswer(f"the HSM {self._name} {what}")))

    def _out_of_step(self, what: str) -> None:
        if self.in_step:
            self.in_step = False
            self._log.error("HSM {name} out of step: {what}", name=self._name, what=what)

    def _finish(self, answer: object) -> None:
        assert self._current is not None
        (command, result), self._current = self._current, None
        cancel(self._timer)
        self._earlier.append(command)
        result.callback(answer)

    def quiet(self) -> Deferred[None]:
        """Fires when the device has said nothing for a while, in step; fails with NoAnswer.

        Nothing may be sent meanwhile: a cut-off frame in the device would swallow it.
        """
        self._quiet = Deferred()
        self._timer = self._clock.callLater(self._timing.quiet, self._became_quiet)
        self._noise_until = self._clock.seconds() + self._timing.noise
        return self._quiet

    def _still_noisy(self) -> None:
        assert self._timer is not None
        if self._clock.seconds() < self._noise_until:
            self._timer.reset(self._timing.quiet)
        else:
            self._timer.cancel()
            self._end_quiet(Failure(NoAnswer(f"the HSM {self._name} does not become quiet")))

    def _became_quiet(self) -> None:
        self._received = b""
        self.in_step = True
        self._end_quiet(None)

    def _end_quiet(self, result: Failure | None) -> None:
        quiet, self._quiet = self._quiet, None
        if quiet is not None:
            quiet.callback(result)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.gone = True
        cancel(self._timer)
        gone = Failure(NoAnswer(f"the HSM {self._name} was unplugged"))
        self._lost()
        self._end_quiet(gone)
        if self._current is not None:
            self._finish(gone)


def _never(changed: Callable[[], object]) -> Callable[[], object]:  # noqa: ARG001
    """Nobody tells when something happens to the ports."""
    return do_nothing


@frozen
class SerialPorts:
    """The serial ports of this machine (`hsm.exchange.Ports`).

    :ivar boards: what is plugged in.
    :ivar watch: tells when that may have changed.
    :ivar clock: times the conversations.
    :ivar verbose: whether each command is logged.
    """

    reactor: IReactorFDSet
    clock: IReactorTime
    boards: Callable[[], list[Board]]
    watch: Callable[[Callable[[], object]], Callable[[], object]] = _never
    timing: Timing = DEFAULT_TIMING
    verbose: Callable[[], bool] = _silent

    def connect(self, board: Board, lost: Callable[[], object]) -> HsmProtocol:
        """Open the port of a board; raises SerialException, OSError or termios.error."""
        protocol = HsmProtocol(self.clock, lost, str(board), self.timing, self.verbose)
        open_port(self.reactor, protocol, board.port)
        return protocol
