"""A board and its serial port in this process; the test answers for the board."""

from collections.abc import Callable
from functools import partial
from typing import cast

from attrs import frozen
from twisted.internet.error import ConnectionAborted, ConnectionDone
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from tests.support.harness import EVERY_MAGIC_BYTE
from tezio_signer.hsm import framing
from tezio_signer.hsm.boards import Board
from tezio_signer.hsm.exchange import DEFAULT_TIMING, Command, Timing
from tezio_signer.hsm.framing import Slot
from tezio_signer.noop import do_nothing
from tezio_signer.serialhsm import (
    ExclusiveSerialPort,
    HsmProtocol,
)
from tezio_signer.simulator.firmware import Firmware

QUIET = 0.2
"""Seconds without a byte that the device needs after an error (its description, 2)."""
ANSWER = 3.0
"""Seconds in which the device answers, or has failed."""
ASK_KEY = Command(framing.get_public_key(Slot.TZ3), partial(framing.key_from, Slot.TZ3))


OpenFake = Callable[[HsmProtocol, str], object]


def no_board(_: HsmProtocol, port: str) -> object:
    """Open a port behind which there is nothing; raises OSError."""
    raise FileNotFoundError(2, "No such file or directory", port)


@frozen
class FakePorts:
    """Ports of fake boards, which conversations are opened on for the pool.

    :ivar open: opens one for a protocol, by its name.
    """

    clock: IReactorTime
    boards: Callable[[], list[Board]]
    open: OpenFake = no_board
    watch: Callable[[Callable[[], object]], Callable[[], object]] = lambda _: do_nothing
    timing: Timing = DEFAULT_TIMING

    def connect(self, board: Board, lost: Callable[[], object]) -> HsmProtocol:
        """Open the port of a board; raises what `open` raises."""
        protocol = HsmProtocol(self.clock, lost, str(board), self.timing)
        self.open(protocol, board.port)
        return protocol


class FakePort:
    """A port that tells what is done with it."""

    def __init__(self, protocol: HsmProtocol) -> None:
        self.done: list[str] = []
        self.unsent = False
        self._protocol = protocol
        protocol.makeConnection(cast(ExclusiveSerialPort, self))

    def forget_input(self) -> None:
        self.done.append("flush")

    def write(self, frame: bytes) -> None:
        self.done.append(frame.hex())

    def abort(self) -> None:
        self.done.append("abort")
        self.lose(ConnectionAborted())

    def lose(self, reason: Exception | None = None) -> None:
        """Lose the connection."""
        self._protocol.connectionLost(Failure(reason or ConnectionDone()))

    def take(self) -> list[str]:
        """What was done since the last time."""
        done, self.done = self.done, []
        return done


class FakeBoard:
    """A board in this process: a port for each time that it is opened, answered by the test."""

    def __init__(self, firmware: Firmware | None = None) -> None:
        self.firmware = firmware or Firmware(enabled=EVERY_MAGIC_BYTE)
        self.refusal: Exception | None = None
        self.opened = 0

    def open(self, protocol: HsmProtocol, _: str) -> ExclusiveSerialPort:
        """Open the port."""
        if self.refusal is not None:
            raise self.refusal
        self.opened += 1
        self.protocol = protocol
        self.port = FakePort(protocol)
        return cast(ExclusiveSerialPort, self.port)

    def asked(self) -> list[str]:
        """The frames that were written and not yet answered."""
        return [what for what in self.port.take() if what not in ("flush", "abort")]

    def answer(self, frame: str) -> bytes:
        """Answer a frame."""
        answer = self.firmware.execute(bytes.fromhex(frame)[1:])
        assert answer is not None
        self.protocol.dataReceived(answer.packet)
        return answer.packet

    def serve(self) -> list[str]:
        """Answer until nothing more is asked; what was asked."""
        served: list[str] = []
        while asked := self.asked():
            served += asked
            for frame in asked:
                self.answer(frame)
        return served
