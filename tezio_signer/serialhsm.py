"""The conversation with one Tezio HSM on a serial port.

The device answers commands in order and does not number its replies. So one command
is in flight at a time, and each reply has to prove that it belongs to it: by its
shape, and a signature by verifying. One that proves to be a late answer to an
earlier command is thrown away; anything else puts the conversation out of step.
"""

import fcntl
import os
import termios
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

from attrs import define, field, frozen
from serial import Serial
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionAborted
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.serialport import SerialPort
from twisted.logger import Logger
from twisted.python.failure import Failure

from tezio_signer.errors import Unavailable
from tezio_signer.hsm import framing
from tezio_signer.hsm.framing import FramingError, Status, StatusReply
from tezio_signer.reactors import cancel

BAUD_RATE = 57600
"""Of the sketch. Never 1200: that makes an Arduino enter its boot loader."""
_REMEMBERED = 8  # earlier commands, by which a late answer is recognised
FRAME_REFUSALS = frozenset({Status.FRAME_TOO_SHORT, Status.WRONG_CRC, Status.WRONG_LENGTH})
"""What the device says of a frame that came to harm on the way: it has done nothing."""
_PSEUDO_TERMINALS = "/dev/pts/"

_Answer = TypeVar("_Answer")


@frozen
class Timing:
    """Seconds that a device is given.

    :ivar answer: for the answer to a command; the slowest operations take some hundred ms.
    :ivar quiet: without a byte, after which it is taken to have said all.
    :ivar noise: after which one that does not become quiet is given up.
    :ivar first_rest: until one that was given up is tried again, doubled each time.
    :ivar last_rest: until it is tried again at the most.
    """

    answer: float = 3.0
    quiet: float = 0.2
    noise: float = 2.0
    first_rest: float = 1.0
    last_rest: float = 30.0


DEFAULT_TIMING = Timing()


class NoAnswer(Unavailable):
    """A command was sent, and whether it took effect is not known."""


class WrongAnswer(NoAnswer):
    """A reply of the right shape that is not the answer: a signature that does not verify."""


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


def open_port(reactor: IReactorTime, protocol: "HsmProtocol", port: str) -> ExclusiveSerialPort:
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


@define(eq=False)
class _Exchange:
    """A command that was sent, how to read its reply, and who takes one that comes too late."""

    read: Callable[[bytes], object]
    late: Callable[[Any], object]
    result: Deferred[Any] = field(factory=Deferred)


class HsmProtocol(Protocol):
    """One command at a time to one device.

    :ivar in_step: whether the next reply is sure to answer the next command. When it is
        not, `quiet` has to be awaited, and the device asked something harmless.
    :param lost: called once when the port is gone.
    """

    _log = Logger()
    transport: ExclusiveSerialPort

    def __init__(
        self,
        clock: IReactorTime,
        lost: Callable[[], object],
        name: str,
        timing: Timing = DEFAULT_TIMING,
        verbose: bool = False,
    ) -> None:
        self._clock = clock
        self._timing = timing
        self._lost = lost
        self._name = name
        self._verbose = verbose
        self._current: _Exchange | None = None
        self._earlier: deque[_Exchange] = deque(maxlen=_REMEMBERED)
        self._received = b""
        self._timeout: IDelayedCall | None = None
        self._quiet: Deferred[None] | None = None
        self._quiet_timer: IDelayedCall | None = None
        self._noise_since = 0.0
        self.in_step = True
        self.gone = False

    def exchange(
        self,
        request: framing.Request,
        read: Callable[[bytes], _Answer],
        late: Callable[[_Answer], object] = bool,
    ) -> Deferred[_Answer]:
        """Send a command and read the body of its reply; the last one has to be over.

        :param read: raises StatusReply, WrongAnswer or FramingError if it is no answer.
        :param late: called with an answer that comes when the Deferred has failed.

        The Deferred fails with StatusReply, WrongAnswer or NoAnswer.
        """
        assert self._current is None
        exchange = self._current = _Exchange(read, late)
        if self.gone:
            self._finish(Failure(NoAnswer(f"the HSM {self._name} is unplugged")))
            return exchange.result
        self._received = b""
        self.transport.forget_input()  # what came since the last reply belongs to nobody
        frame = request.frame()
        self.transport.write(frame)
        self._timeout = self._clock.callLater(self._timing.answer, self._timed_out)
        if self._verbose:
            self._log.debug(
                "HSM {name}: {count} bytes, opcode {opcode:02X}, slot {slot}",
                name=self._name,
                count=len(frame),
                opcode=request.opcode,
                slot=request.param1,
            )
        return exchange.result

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
            answer: object = self._current.read(body)
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
        for exchange in self._earlier:
            try:
                answer = exchange.read(body)
            except (StatusReply, WrongAnswer, FramingError):
                continue
            self._earlier.remove(exchange)
            exchange.late(answer)
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

    def _finish(self, result: object) -> None:
        exchange, self._current = self._current, None
        assert exchange is not None
        cancel(self._timeout)
        self._earlier.append(exchange)
        exchange.result.callback(result)

    def quiet(self) -> Deferred[None]:
        """Fires when the device has said nothing for a while; fails with NoAnswer.

        Nothing may be sent meanwhile: a cut-off frame in the device would swallow it.
        """
        self._quiet = Deferred()
        self._quiet_timer = self._clock.callLater(self._timing.quiet, self._became_quiet)
        self._noise_since = self._clock.seconds()
        return self._quiet

    def _still_noisy(self) -> None:
        assert self._quiet is not None
        assert self._quiet_timer is not None
        if self._clock.seconds() - self._noise_since < self._timing.noise:
            self._quiet_timer.reset(self._timing.quiet)
            return
        self._quiet_timer.cancel()
        quiet, self._quiet = self._quiet, None
        quiet.errback(NoAnswer(f"the HSM {self._name} does not become quiet"))

    def _became_quiet(self) -> None:
        assert self._quiet is not None
        quiet, self._quiet = self._quiet, None
        self._received = b""
        quiet.callback(None)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.gone = True
        cancel(self._timeout)
        cancel(self._quiet_timer)
        gone = NoAnswer(f"the HSM {self._name} was unplugged")
        self._lost()
        quiet, self._quiet = self._quiet, None
        if quiet is not None:
            quiet.errback(gone)
        if self._current is not None:
            self._finish(Failure(gone))
