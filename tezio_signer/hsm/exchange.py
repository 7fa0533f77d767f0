"""What a conversation with a Tezio HSM is: for who asks, and for who carries it on.

Who asks (`device.py`) knows no serial port. `serialhsm.py` is the only one that opens some,
and hands in a `Ports`; tests hand in others.
"""

from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from attrs import frozen
from twisted.internet.defer import Deferred

from tezio_signer.errors import Unavailable
from tezio_signer.hsm.boards import Board
from tezio_signer.hsm.framing import Request, Status
from tezio_signer.noop import do_nothing

FRAME_REFUSALS = frozenset({Status.FRAME_TOO_SHORT, Status.WRONG_CRC, Status.WRONG_LENGTH})
"""What the device says of a frame that came to harm on the way: it has done nothing."""

Answer = TypeVar("Answer")


class NotSent(Unavailable):
    """A command did not reach the device, and has no effect."""


class NoAnswer(Unavailable):
    """A command was sent, and whether it took effect is not known."""


class WrongAnswer(NoAnswer):
    """A reply of the right shape that is not the answer: a signature that does not verify."""


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


@frozen(eq=False)
class Command(Generic[Answer]):
    """What a device is asked, and how its answer is known.

    :ivar read: the answer in the body of a reply; raises StatusReply, WrongAnswer or
        FramingError if it is none.
    :ivar late: called with an answer that comes when the exchange has failed.
    """

    request: Request
    read: Callable[[bytes], Answer]
    late: Callable[[Answer], object] = do_nothing


class Conversation(Protocol):
    """An open port with a device behind it. One command is in flight at a time."""

    @property
    def in_step(self) -> bool:
        """Whether the next reply is sure to answer the next command.

        If it is not, `quiet` has to be awaited, and the device asked something harmless.
        """

    @property
    def busy(self) -> bool:
        """Whether a command is in flight."""

    @property
    def unsent(self) -> bool:
        """Whether the device does not take what was written."""

    @property
    def gone(self) -> bool:
        """Whether the port is closed."""

    def exchange(self, command: Command[Answer]) -> Deferred[Answer]:
        """Send a command and read its answer; none may be in flight.

        The Deferred fails with StatusReply, WrongAnswer or NoAnswer. Who cancels it leaves,
        and the exchange goes on to its end.
        """

    def quiet(self) -> Deferred[None]:
        """Fires when the device has been silent, and is in step; fails with NoAnswer."""

    def close(self) -> None:
        """Leave the port at once, whatever the device is doing."""


class Ports(Protocol):
    """Where boards are plugged in."""

    @property
    def timing(self) -> Timing:
        """What time boards are given."""

    def boards(self) -> list[Board]:
        """The boards that are plugged in now; may raise anything that pyserial does."""

    def connect(self, board: Board, lost: Callable[[], object]) -> Conversation:
        """Open the port of a board.

        :param lost: called once when the port is closed, by whomever.
        :raises SerialException, OSError, termios.error: if it cannot be opened.
        """

    def watch(self, changed: Callable[[], object]) -> Callable[[], object]:
        """Call back whenever boards may have come or gone; returns how to end that."""
