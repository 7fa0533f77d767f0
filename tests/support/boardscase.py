"""A pool of HSMs on boards in this process, which come and go as a test says."""

from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.support.fakeboard import ANSWER, QUIET, FakeBoard, FakePorts
from tests.support.hsmdevice import is_signature
from tests.support.vectors import TZ3
from tezio_signer.hsm.boards import Board, BoardSelector
from tezio_signer.hsm.discovery import Expected
from tezio_signer.hsm.framing import Slot
from tezio_signer.hsm.pool import HsmOptions, HsmPool
from tezio_signer.hsm.signing import Priority, Signing
from tezio_signer.noop import do_nothing
from tezio_signer.tezos.keys import PublicKeyHash, Signature

_STEP = 1 / 256  # of a second, by which the clock moves on


class BoardsTestCase(SynchronousTestCase):
    """A pool of boards that are plugged in and pulled out by the test.

    :ivar looks: when it was looked for boards.
    """

    def setUp(self) -> None:
        self.clock = Clock()
        self.looks: list[float] = []
        self.plugged: dict[Board, FakeBoard] = {}
        self.late: list[Signature] = []
        self.pool = self.made()

    def made(
        self,
        wanted: tuple[PublicKeyHash, ...] = (),
        selectors: tuple[BoardSelector, ...] = (),
        auth_key: PublicKeyHash | None = None,
    ) -> HsmPool:
        """A pool that is not started yet."""
        return HsmPool(
            self.clock,
            FakePorts(
                self.clock,
                self.find,
                lambda protocol, port: self.at(port).open(protocol, port),
                self.watch,
            ),
            HsmOptions(expected=Expected(wanted, auth_key, selectors)),
        )

    def watch(self, tell: Callable[[], object]) -> Callable[[], object]:
        """Have `tell` say that something has happened to the ports."""
        self.tell = tell
        return do_nothing

    def find(self) -> list[Board]:
        """The boards that are plugged in, in the order of their ports."""
        self.looks.append(self.clock.seconds())
        return sorted(self.plugged, key=lambda board: board.port)

    def at(self, port: str) -> FakeBoard:
        """The board at a port."""
        return next(board for where, board in self.plugged.items() if where.port == port)

    def plug_in(self, name: str, serial_number: str | None = "") -> FakeBoard:
        """A new board; its serial number is its name, unless another is given, or None."""
        board = FakeBoard()
        self.plugged[Board(name, name if serial_number == "" else serial_number)] = board
        return board

    def pull(self, board: FakeBoard) -> None:
        """Pull a board out; its port is lost at once."""
        (where,) = (where for where, other in self.plugged.items() if other is board)
        del self.plugged[where]
        board.port.lose()

    def start(self, *names: str) -> list[FakeBoard]:
        """Start the pool with these boards, which say their keys."""
        boards = [self.plug_in(name) for name in names]
        self.run_pool(boards)
        return boards

    def run_pool(self, boards: list[FakeBoard]) -> None:
        """Start the pool, and let the boards say their keys."""
        self.pool.startService()
        self.addCleanup(lambda: self.pool.stopService() if self.pool.running else None)
        for board in boards:
            board.serve()

    def sign(self, message: bytes, priority: Priority = Priority.OTHER) -> Signing:
        """Ask for a signature of tz3."""
        return self.pool.sign(TZ3, message, priority, self.late.append)

    def signed(self, result: Deferred[Signature], message: bytes) -> None:
        """Check that the signature of a message has come."""
        signature = self.successResultOf(result)
        self.assertTrue(is_signature(Slot.TZ3, 3, message, signature.data))

    def looked(self, seconds: float) -> list[float]:
        """When it is looked for boards within the next seconds, counted from now."""
        began = self.clock.seconds()
        self.looks.clear()
        self.clock.pump([_STEP] * round(seconds / _STEP))
        return [look - began for look in self.looks]

    def assert_times(self, looks: list[float], expected: list[float]) -> None:
        """Check when it was looked for boards, but for the steps of the clock."""
        self.assertEqual(len(looks), len(expected), looks)
        for number, (look, when) in enumerate(zip(looks, expected, strict=True), 1):
            self.assertLessEqual(when, look + 1e-6)
            self.assertLess(look, when + number * _STEP)

    def stay_silent(self, board: FakeBoard) -> str:
        """Leave a command without an answer, and let the board come to itself again."""
        (frame,) = board.asked()
        self.clock.advance(ANSWER)
        self.clock.advance(QUIET)
        return frame


class TwoBoardsTestCase(SynchronousTestCase):
    """A pool of one board or two, which stay plugged in."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.boards = {"port1": FakeBoard(), "port2": FakeBoard()}
        self.first, self.second = self.boards.values()

    def start(self, count: int) -> None:
        """Start a pool with so many boards, and let them say their keys."""
        boards = [Board(port, f"serial of {port}") for port in list(self.boards)[:count]]
        self.pool = HsmPool(
            self.clock,
            FakePorts(
                self.clock,
                lambda: boards,
                lambda protocol, port: self.boards[port].open(protocol, port),
            ),
        )
        self.pool.startService()
        self.addCleanup(self.pool.stopService)
        for board in list(self.boards.values())[:count]:
            board.serve()
