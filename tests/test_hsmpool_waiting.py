"""All HSMs together, on boards in this process: when they are looked for, and what waits."""

from collections.abc import Callable, Sequence
from itertools import pairwise

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import LogEvent, LogLevel, capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from tests.hsm.device import is_signature
from tests.test_hsmdevice import FakeBoard
from tests.test_serialhsm import ANSWER, QUIET
from tests.vectors import OCTEZ, TZ1, TZ3, block, transfer
from tezio_signer.errors import Forbidden, Unavailable
from tezio_signer.hsm.boards import Board
from tezio_signer.hsm.firmware import Firmware
from tezio_signer.hsm.framing import Slot, StatusReply
from tezio_signer.hsm.softkeys import TEST_KEYS, SoftKey
from tezio_signer.hsmdevice import Priority
from tezio_signer.hsmpool import HsmPool
from tezio_signer.hsmsigning import Signing
from tezio_signer.serialhsm import NoAnswer
from tezio_signer.tezos import base58check
from tezio_signer.tezos.keys import Curve, PublicKeyHash, Signature

PATIENCE = 2.0
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

    def made(self, wanted: tuple[PublicKeyHash, ...] = ()) -> HsmPool:
        """A pool that is not started yet."""
        return HsmPool(
            self.clock,
            self.find,
            lambda protocol, port: self.at(port).open(protocol, port),
            wanted=wanted,
        )

    def find(self) -> list[Board]:
        """The boards that are plugged in."""
        self.looks.append(self.clock.seconds())
        return list(self.plugged)

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


class LookingTests(BoardsTestCase):
    """How often it is looked for boards."""

    def test_all_there(self) -> None:
        """While all are in use, every two seconds."""
        self.start("one", "two")
        self.looked(1)
        self.assert_times(self.looked(7.5), [1.05, 3.05, 5.05, 7.05])

    def test_one_is_gone(self) -> None:
        """As long as one of two is gone, soon and then twice a second; then calmly again."""
        first, _ = self.start("one", "two")
        self.looked(3)
        self.pull(first)
        self.assert_times(self.looked(2), [0.05, 0.1, 0.2, 0.4, 0.8, 1.3, 1.8])
        self.plugged[Board("one", "one")] = first
        self.looked(0.5)
        first.serve()
        self.looked(2)
        self.assertEqual(len(self.looked(4)), 2)

    def test_gone_again(self) -> None:
        """When it is gone once more, it is looked for as soon as the first time."""
        first, second = self.start("one", "two")
        self.looked(3)
        for name, board in (("one", first), ("two", second)):
            self.pull(board)
            self.assert_times(self.looked(0.3), [0.05, 0.1, 0.2])
            self.plugged[Board(name, name)] = board
            self.looked(1)
            board.serve()
            self.looked(1)

    def test_none_at_all(self) -> None:
        """Where there was no board yet, it is looked for calmly: none is missing."""
        self.run_pool([])
        self.assertEqual(self.looks, [0])
        self.assert_times(self.looked(5), [2, 4])

    def test_told_again_and_again(self) -> None:
        """However often something happens to the ports, it is looked for boards soon."""
        tell: list[Callable[[], object]] = []

        def watch(told: Callable[[], object]) -> Callable[[], object]:
            tell.append(told)
            return bool

        self.pool = HsmPool(self.clock, self.find, lambda *_: self.fail("a port"), watch)
        self.run_pool([])
        self.looks.clear()
        for _ in range(10):
            tell[0]()
            self.clock.advance(0.03)
        self.assertGreaterEqual(len(self.looks), 4)

    def test_not_found_any_more(self) -> None:
        """A board that is found no more is left, though its port may still be open."""
        first, second = self.start("one", "two")
        del self.plugged[Board("one", "one")]
        self.looked(3)
        self.assertIn("abort", first.port.take())
        self.assertEqual([d.ready for d in self.pool.devices.values()], [False, True])
        self.assertNotIn("abort", second.port.take())
        self.assertTrue(all(b - a < 0.6 for a, b in pairwise(self.looks[2:])))

    def test_stopped(self) -> None:
        """After the end it is looked for no more, whatever becomes of the boards."""
        self.start("one", "two")
        self.pool.stopService()
        self.assertEqual(self.looked(5), [])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_stopped_while_one_waits(self) -> None:
        """Who waits for a board when it stops is refused at once."""
        self.run_pool([])
        waiting = self.sign(transfer(1)).result
        key = Deferred.fromCoroutine(self.pool.public_key(TZ3))
        self.assertNoResult(waiting)
        self.pool.stopService()
        self.failureResultOf(waiting, Unavailable)
        self.failureResultOf(key, Unavailable)
        self.assertEqual(self.clock.getDelayedCalls(), [])


class NamelessTests(BoardsTestCase):
    """Boards of which nothing is known but their ports."""

    def test_two_without_serial_numbers(self) -> None:
        """They are two, and both sign."""
        boards = [self.plug_in(name, None) for name in ("one", "two")]
        self.run_pool(boards)
        requests = [self.sign(transfer(number)).result for number in range(2)]
        for board in boards:
            self.assertEqual(len(board.serve()), 1)
        for number, request in enumerate(requests):
            self.signed(request, transfer(number))

    def test_another_port(self) -> None:
        """A board with a serial number is the same one at another port."""
        (board,) = self.start("one")
        self.pull(board)
        self.plugged[Board("elsewhere", "one")] = board
        self.looked(1)
        board.serve()
        self.assertEqual(len(self.pool.devices), 1)
        signing = self.sign(transfer(1)).result
        board.serve()
        self.signed(signing, transfer(1))

    def test_clone_that_moves(self) -> None:
        """Of two boards that say one serial number, the one that moved is known again."""
        boards = [FakeBoard() for _ in range(2)]
        for port, board in zip(("one", "two"), boards, strict=True):
            self.plugged[Board(port, "clone")] = board
        self.run_pool(boards)
        self.pull(boards[1])
        self.plugged[Board("three", "clone")] = boards[1]
        self.looked(1)
        boards[1].serve()
        places = [(d.board.port, d.ready) for d in self.pool.devices.values()]
        self.assertEqual(places, [("one", True), ("three", True)])


class MissingKeysTests(BoardsTestCase):
    """The keys that no board holds."""

    def missing(self, events: Sequence[LogEvent]) -> list[str]:
        """What is said about them."""
        said = [formatEvent(e) for e in events if e["log_level"] is LogLevel.error]
        return [line.partition("holds: ")[2] for line in said if "no connected HSM holds" in line]

    def test_named(self) -> None:
        """They are named when all boards have said theirs, and again when others are missing."""
        other = PublicKeyHash.parse(OCTEZ["keys"][3]["pkh"])
        self.pool = self.made((TZ1, TZ3, other))
        with capturedLogs() as events:
            boards = [self.plug_in(name) for name in ("one", "two")]
            self.run_pool([])
            self.assertEqual(self.missing(events), [])
            boards[0].serve()
            self.assertEqual(self.missing(events), [])
            boards[1].serve()
            self.looked(5)
        self.assertEqual(self.missing(events), [str(other)])

    def test_several(self) -> None:
        """All of them in one line."""
        keys = tuple(PublicKeyHash.parse(OCTEZ["keys"][number]["pkh"]) for number in (1, 3))
        self.pool = self.made(keys)
        with capturedLogs() as events:
            self.start("one")
        self.assertEqual(self.missing(events), [", ".join(map(str, keys))])

    def test_found(self) -> None:
        """When they are there, nothing is said."""
        self.pool = self.made((TZ1, TZ3))
        with capturedLogs() as events:
            self.start("one")
            self.looked(5)
        self.assertEqual(self.missing(events), [])


class WaitingTests(BoardsTestCase):
    """Requests that wait for a board."""

    def test_queued_when_it_is_pulled(self) -> None:
        """One that was not sent waits for its board from when that was pulled out."""
        (board,) = self.start("one")
        busy, queued = self.sign(transfer(1)).result, self.sign(transfer(2)).result
        busy.addErrback(lambda _: None)
        self.clock.advance(PATIENCE + 0.5)
        self.pull(board)
        self.assertNoResult(queued)
        self.clock.advance(PATIENCE - 0.5)
        self.plugged[Board("one", "one")] = board
        self.clock.advance(0.4)
        board.serve()
        self.signed(queued, transfer(2))

    def test_sent_when_it_is_pulled(self) -> None:
        """So does one that may be sent twice; a transfer has no watermark."""
        (board,) = self.start("one")
        sent = self.sign(transfer(1)).result
        self.clock.advance(PATIENCE + 0.5)
        self.pull(board)
        self.assertNoResult(sent)
        self.clock.advance(PATIENCE - 0.5)
        self.plugged[Board("one", "one")] = board
        self.clock.advance(0.4)
        board.serve()
        self.signed(sent, transfer(1))

    def test_same_payload_twice(self) -> None:
        """Two requests for one payload are each answered."""
        (board,) = self.start("one")
        requests = [self.sign(transfer(1)).result for _ in range(2)]
        board.serve()
        for request in requests:
            self.signed(request, transfer(1))
        again = self.sign(transfer(1)).result
        board.serve()
        self.signed(again, transfer(1))

    def test_changed(self) -> None:
        """Who waits for a change is told whether there was one in time."""
        (board,) = self.start("one")
        in_time = Deferred.fromCoroutine(self.pool.changed(1))
        self.pull(board)
        self.assertIs(self.successResultOf(in_time), True)
        too_late = Deferred.fromCoroutine(self.pool.changed(1))
        self.clock.advance(1)
        self.assertIs(self.successResultOf(too_late), False)

    def test_patience(self) -> None:
        """Nobody waits longer than that."""
        self.run_pool([])
        request = self.sign(transfer(1)).result
        self.clock.advance(PATIENCE - 0.01)
        self.assertNoResult(request)
        self.clock.advance(0.01)
        self.assertEqual(
            str(self.failureResultOf(request, Unavailable).value), f"no connected HSM holds {TZ3}"
        )

    def test_withdrawn_while_it_waits(self) -> None:
        """One that nobody wants any more is not sent when its board is back."""
        (board,) = self.start("one")
        self.pull(board)
        signing = self.sign(transfer(1))
        self.assertTrue(signing.withdraw())
        self.plugged[Board("one", "one")] = board
        self.clock.advance(0.5)
        self.assertEqual([frame for frame in board.serve() if transfer(1).hex() in frame], [])
        self.failureResultOf(signing.result, Unavailable)

    def test_withdrawn_from_the_queue(self) -> None:
        """One that has reached no board is dropped, and fails at once."""
        (board,) = self.start("one")
        busy, queued = self.sign(transfer(1)), self.sign(transfer(2))
        self.assertFalse(busy.withdraw())
        self.assertTrue(queued.withdraw())
        self.failureResultOf(queued.result, Unavailable)
        self.assertEqual(len(board.serve()), 1)
        self.signed(busy.result, transfer(1))

    def test_withdrawn_after_it_was_sent(self) -> None:
        """One that a board may have signed is taken out of the queue of another, but told apart."""
        first, second = self.start("one", "two")
        signing = self.sign(block(9, 0), Priority.BLOCK)
        self.clock.advance(1.5)
        busy = self.sign(transfer(1)).result
        first.asked()
        self.clock.advance(ANSWER - 1.5)  # and now it waits behind the other
        self.assertNoResult(signing.result)
        self.assertFalse(signing.withdraw())
        (frame,) = second.serve()
        self.assertIn(transfer(1).hex(), frame)
        self.signed(busy, transfer(1))
        self.failureResultOf(signing.result, Unavailable)


class UnclearTests(BoardsTestCase):
    """Blocks of which a board has not said whether it has signed them."""

    def test_only_so_many(self) -> None:
        """Of the last 64 payloads it is known that a board was asked for them before."""
        (board,) = self.start("one")
        for number in range(65):
            asked = self.sign(block(9 + number, 0), Priority.BLOCK).result
            for _ in range(2):
                self.stay_silent(board)
                for _ in Slot:  # the board says its keys, and is asked once more
                    board.answer(board.asked()[0])
            self.failureResultOf(asked, NoAnswer)
        for number, remembered in ((64, True), (1, True), (0, False)):
            again = self.sign(block(9 + number, 0), Priority.BLOCK)
            board.serve()
            self.signed(again.result, block(9 + number, 0))
            board.firmware.power_cycle()
            self.assertIs(again.asked_before, remembered, number)

    def test_refused_twice(self) -> None:
        """A board that said no is not asked again for the same request."""
        (board,) = self.start("one")
        board.firmware = Firmware(enabled=dict.fromkeys(Slot, ()))
        asked = self.sign(transfer(1)).result
        self.assertEqual(len(board.serve()), 1)
        self.failureResultOf(asked, StatusReply)


class NonceTests(BoardsTestCase):
    """A nonce that comes twice, in an answer that came too late."""

    def test_late(self) -> None:
        """The late signature is given to nobody, and the key signs no more."""
        (board,) = self.start("one")
        board.firmware.failing.add("nonce")
        first = self.sign(block(9, 0), Priority.BLOCK).result
        board.serve()
        self.signed(first, block(9, 0))
        second = self.sign(block(10, 0), Priority.BLOCK).result
        (frame,) = board.asked()
        self.clock.advance(ANSWER)
        with capturedLogs() as events:
            board.answer(frame)
        self.assertEqual(self.late, [])
        (critical,) = [e for e in events if e["log_level"] is LogLevel.critical]
        self.assertIn(f"two messages of {TZ3} with one nonce", formatEvent(critical))
        self.clock.advance(QUIET)
        board.serve()
        for refused in (second, self.sign(transfer(1)).result):
            self.assertIn("repeated a nonce", str(self.failureResultOf(refused, Forbidden).value))
        other = self.pool.sign(TZ1, transfer(1)).result
        board.serve()
        self.successResultOf(other)

    def given_up(self, board: FakeBoard, number: int) -> str:
        """A block that a board does not answer twice; the frame that asks for it."""
        asked = self.sign(block(number, 0), Priority.BLOCK).result
        frame = self.stay_silent(board)
        for _ in Slot:
            board.answer(board.asked()[0])
        self.stay_silent(board)
        self.failureResultOf(asked, NoAnswer)
        return frame

    def test_later_than_the_failure(self) -> None:
        """A signature that comes when nobody waits any more is given away in the same way."""
        (board,) = self.start("one")
        frame = self.given_up(board, 9)
        board.answer(frame)
        (signature,) = self.late
        self.assertTrue(is_signature(Slot.TZ3, 3, block(9, 0), signature.data))

    def test_later_than_the_failure_with_a_nonce(self) -> None:
        """But not if it repeats a nonce."""
        (board,) = self.start("one")
        board.firmware.failing.add("nonce")
        first = self.sign(block(8, 0), Priority.BLOCK).result
        board.serve()
        self.signed(first, block(8, 0))
        frame = self.given_up(board, 9)
        with capturedLogs() as events:
            board.answer(frame)
        self.assertEqual(self.late, [])
        self.assertIn(LogLevel.critical, [event["log_level"] for event in events])

    def test_kept_in_mind(self) -> None:
        """The last 4,096 nonces of a key are."""
        (board,) = self.start("one")
        secret = base58check.decode(TEST_KEYS[Slot.TZ3])[1]
        made = iter(range(1, 10_000))

        class Counting(SoftKey):
            def sign(self, hashed: bytes, nonce: int | None = None) -> bytes:
                return super().sign(hashed, next(made))

        board.firmware.keys[Slot.TZ3] = Counting(Curve.P256, secret)
        for number in range(4097):
            asked = self.sign(transfer(number)).result
            board.serve()
            self.successResultOf(asked)
        made = iter([2, 1])
        asked = self.sign(transfer(5000)).result
        board.serve()
        self.failureResultOf(asked, Forbidden)
