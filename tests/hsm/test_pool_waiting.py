"""All HSMs together: what waits for a board, what is unclear, and what comes too late."""

from twisted.internet.defer import Deferred
from twisted.logger import LogLevel, capturedLogs, formatEvent

from tests.support.boardscase import BoardsTestCase
from tests.support.fakeboard import ANSWER, QUIET, FakeBoard
from tests.support.hsmdevice import is_signature
from tests.support.vectors import TZ1, TZ3, block, noop
from tezio_signer.errors import Forbidden, Unavailable
from tezio_signer.hsm.boards import Board
from tezio_signer.hsm.exchange import NoAnswer
from tezio_signer.hsm.framing import Opcode, Slot, StatusReply
from tezio_signer.hsm.signing import Priority
from tezio_signer.simulator.firmware import Firmware
from tezio_signer.simulator.keys import TEST_KEYS, SoftKey
from tezio_signer.tezos import base58check
from tezio_signer.tezos.keys import Curve, Signature

PATIENCE = 2.0


class WaitingTests(BoardsTestCase):
    """Requests that wait for a board."""

    def pull_for_a_while(self, board: FakeBoard, waiting: Deferred[Signature]) -> None:
        """Pull a board, and plug it in again just before patience with a request is over."""
        self.pull(board)
        self.assertNoResult(waiting)
        self.clock.advance(PATIENCE - 0.5)
        self.plugged[Board("one", "one")] = board
        self.clock.advance(0.4)
        board.serve()

    def test_queued_when_it_is_pulled(self) -> None:
        """One that was not sent waits for its board from when that was pulled out."""
        (board,) = self.start("one")
        busy, queued = self.sign(noop(1)).result, self.sign(noop(2)).result
        busy.addErrback(lambda _: None)
        self.clock.advance(PATIENCE + 0.5)
        self.pull_for_a_while(board, queued)
        self.signed(queued, noop(2))

    def test_sent_when_it_is_pulled(self) -> None:
        """So does one that may be sent twice; a transfer has no watermark."""
        (board,) = self.start("one")
        sent = self.sign(noop(1)).result
        self.clock.advance(PATIENCE + 0.5)
        self.pull_for_a_while(board, sent)
        self.signed(sent, noop(1))

    def test_same_payload_twice(self) -> None:
        """Two requests for one payload are each answered."""
        (board,) = self.start("one")
        requests = [self.sign(noop(1)).result for _ in range(2)]
        board.serve()
        for request in requests:
            self.signed(request, noop(1))
        again = self.sign(noop(1)).result
        board.serve()
        self.signed(again, noop(1))

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
        request = self.sign(noop(1)).result
        self.clock.advance(PATIENCE - 0.01)
        self.assertNoResult(request)
        self.clock.advance(0.01)
        self.assertEqual(
            str(self.failureResultOf(request, Unavailable).value), f"no connected HSM holds {TZ3}"
        )

    def test_patience_is_over_when_it_is_back(self) -> None:
        """Once the board is back, what it is asked waits for its answer, and others behind that."""
        (board,) = self.start("one")
        self.pull(board)
        requests = [self.sign(noop(number)).result for number in range(2)]
        self.clock.advance(PATIENCE - 0.5)
        self.plugged[Board("one", "one")] = board
        self.clock.advance(0.4)
        for _ in Slot:
            board.answer(board.asked()[0])
        (frame,) = board.asked()
        self.clock.advance(ANSWER - 0.1)
        board.answer(frame)
        board.serve()
        for number, request in enumerate(requests):
            self.signed(request, noop(number))

    def test_moved_and_silent(self) -> None:
        """A board that was put elsewhere, and does not say its keys yet, is said to be asked."""
        (board,) = self.start("one")
        del self.plugged[Board("one", "one")]
        self.plugged[Board("elsewhere", "one")] = board
        self.tell()
        self.looked(0.25)
        request = self.sign(noop(1)).result
        self.clock.advance(PATIENCE)
        self.assertEqual(
            str(self.failureResultOf(request, Unavailable).value),
            f"the HSM one at elsewhere, which holds {TZ3}, has been asked for its keys, and has "
            "not said them yet",
        )

    def test_other_board_comes_first(self) -> None:
        """Patience lasts to its end, though a board comes meanwhile that does not hold the key."""
        self.run_pool([])
        request = self.sign(noop(1)).result
        self.clock.advance(PATIENCE - 0.75)
        other = self.plug_in("other")
        other.firmware = Firmware(disabled=[(Slot.TZ3, Opcode.GET_PK)])
        self.tell()
        self.looked(0.25)
        other.serve()
        self.assertNoResult(request)
        board = self.plug_in("one")
        self.tell()
        self.looked(0.25)
        board.serve()
        self.signed(request, noop(1))

    def test_public_key(self) -> None:
        """So is a public key waited for, while other boards come and go."""
        self.run_pool([])
        waiting = Deferred.fromCoroutine(self.pool.public_key(TZ3))
        self.clock.advance(PATIENCE - 0.75)
        other = self.plug_in("other")
        other.firmware = Firmware(disabled=[(Slot.TZ3, Opcode.GET_PK)])
        self.tell()
        self.looked(0.25)
        other.serve()
        self.assertNoResult(waiting)
        board = self.plug_in("one")
        self.tell()
        self.looked(0.25)
        board.serve()
        self.assertEqual(self.successResultOf(waiting).hash, TZ3)

    def test_withdrawn_while_it_waits(self) -> None:
        """One that nobody wants any more is not sent when its board is back."""
        (board,) = self.start("one")
        self.pull(board)
        signing = self.sign(noop(1))
        self.assertTrue(signing.withdraw())
        self.plugged[Board("one", "one")] = board
        self.clock.advance(0.5)
        self.assertEqual([frame for frame in board.serve() if noop(1).hex() in frame], [])
        self.failureResultOf(signing.result, Unavailable)

    def test_withdrawn_from_the_queue(self) -> None:
        """One that has reached no board is dropped, and fails at once."""
        (board,) = self.start("one")
        busy, queued = self.sign(noop(1)), self.sign(noop(2))
        self.assertFalse(busy.withdraw())
        self.assertTrue(queued.withdraw())
        self.failureResultOf(queued.result, Unavailable)
        self.assertEqual(len(board.serve()), 1)
        self.signed(busy.result, noop(1))

    def test_withdrawn_after_it_was_sent(self) -> None:
        """One that a board may have signed is taken out of the queue of another, but told apart."""
        first, second = self.start("one", "two")
        signing = self.sign(block(9, 0), Priority.BLOCK)
        self.clock.advance(1.5)
        busy = self.sign(noop(1)).result
        first.asked()
        self.clock.advance(ANSWER - 1.5)  # and now it waits behind the other
        self.assertNoResult(signing.result)
        self.assertFalse(signing.withdraw())
        (frame,) = second.serve()
        self.assertIn(noop(1).hex(), frame)
        self.signed(busy, noop(1))
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
        asked = self.sign(noop(1)).result
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
        for refused in (second, self.sign(noop(1)).result):
            self.assertIn("repeated a nonce", str(self.failureResultOf(refused, Forbidden).value))
        other = self.pool.sign(TZ1, noop(1)).result
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
            asked = self.sign(noop(number)).result
            board.serve()
            self.successResultOf(asked)
        made = iter([2, 1])
        asked = self.sign(noop(5000)).result
        board.serve()
        self.failureResultOf(asked, Forbidden)
