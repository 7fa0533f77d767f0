"""All HSMs together: in which order signatures are asked for, and how many may wait."""

import gc
from collections.abc import Sequence
from weakref import ref

from twisted.internet.defer import Deferred
from twisted.logger import LogLevel, capturedLogs, formatEvent

from tests.support.boardscase import BoardsTestCase
from tests.support.fakeboard import ANSWER, QUIET, FakeBoard
from tests.support.vectors import TZ1, TZ3, block, consensus, noop
from tezio_signer.errors import Unavailable
from tezio_signer.hsm import framing
from tezio_signer.hsm.exchange import NotSent
from tezio_signer.hsm.framing import Opcode, Slot, StatusReply
from tezio_signer.hsm.pool import HsmOptions
from tezio_signer.hsm.signing import Priority, Signing
from tezio_signer.simulator.firmware import Firmware
from tezio_signer.tezos.keys import Curve, Signature

MOST = HsmOptions().most_waiting


def frames(*messages: bytes) -> list[str]:
    """The frames that ask for these."""
    return [framing.sign(Slot.TZ3, message).frame().hex() for message in messages]


class OrderTests(BoardsTestCase):
    """One queue for all boards, by priority."""

    def test_one_at_a_time(self) -> None:
        """There is one command in flight; others wait for its reply, in order."""
        (board,) = self.start("one")
        asked = [self.sign(noop(number)) for number in range(3)]
        for number, signing in enumerate(asked):
            self.assertEqual(board.asked(), frames(noop(number)))
            self.clock.advance(1)
            self.assertEqual(board.asked(), [])
            self.assertNoResult(signing.result)
            board.answer(*frames(noop(number)))
            self.signed(signing.result, noop(number))

    def test_urgent_first(self) -> None:
        """Of those that wait, blocks go first, then attestations, then all others."""
        (board,) = self.start("one")
        messages = [noop(0), noop(1), consensus("att", 9, 0), block(9, 0), noop(2)]
        asked = [self.sign(m, Priority(p)) for m, p in zip(messages, (2, 2, 1, 0, 2), strict=True)]
        order = [messages[at] for at in (0, 3, 2, 1, 4)]
        self.assertEqual(board.serve(), frames(*order))
        for signing, message in zip(asked, messages, strict=True):
            self.signed(signing.result, message)

    def test_next_before_the_result(self) -> None:
        """The next command is written before anybody is told what the last one brought."""
        (board,) = self.start("one")
        first, second = self.sign(noop(1)), self.sign(noop(2))
        written: list[list[str]] = []
        first.result.addCallback(lambda _: written.append(board.asked()))
        (frame,) = board.asked()
        board.answer(frame)
        self.assertEqual(written, [frames(noop(2))])
        board.answer(*written[0])
        self.signed(second.result, noop(2))

    def test_next_when_one_is_lost(self) -> None:
        """After a lost answer the urgent goes before what is asked for again."""
        (board,) = self.start("one")
        lost, urgent = self.sign(noop(1)), self.sign(block(9, 0), Priority.BLOCK)
        self.assertEqual(board.asked(), frames(noop(1)))
        self.clock.advance(ANSWER)
        self.clock.advance(QUIET)
        self.assertEqual(board.serve()[len(Slot) :], frames(block(9, 0), noop(1)))
        self.signed(lost.result, noop(1))
        self.signed(urgent.result, block(9, 0))

    def test_freed_board(self) -> None:
        """What waits goes to whichever board is free first, and past what that has not."""
        first, second = self.start("one", "two")
        asked = [self.sign(noop(number)) for number in range(3)]
        (kept,) = first.asked()
        self.assertEqual(second.serve(), frames(noop(1), noop(2)))
        self.signed(asked[2].result, noop(2))
        self.assertNoResult(asked[0].result)
        first.answer(kept)
        self.signed(asked[0].result, noop(0))

    def test_unasked_bytes(self) -> None:
        """A board that says something unasked gets nothing until it is in step; another does."""
        first, second = self.start("one", "two")
        first.protocol.dataReceived(b"15\r\n")
        signing = self.sign(noop(1))
        self.assertEqual(first.asked(), [])
        self.assertEqual(second.serve(), frames(noop(1)))
        self.signed(signing.result, noop(1))

    def test_unasked_bytes_of_the_only_one(self) -> None:
        """It is asked when it has said its keys."""
        (board,) = self.start("one")
        board.protocol.dataReceived(b"15\r\n")
        signing = self.sign(noop(1))
        self.assertEqual(board.asked(), [])
        self.clock.advance(QUIET)
        self.assertEqual(board.serve()[len(Slot) :], frames(noop(1)))
        self.signed(signing.result, noop(1))

    def test_found_lost(self) -> None:
        """A board that turns out to be lost, while boards are looked through, asks nobody twice."""
        first, second, third = self.start("1", "2", "3")
        third.protocol.dataReceived(b"15\r\n")
        third.port.unsent = True  # it is left at once when it is to come into step
        signing = self.sign(noop(1))
        self.assertEqual(first.serve(), frames(noop(1)))
        self.assertEqual((second.asked(), third.asked()), ([], []))
        self.signed(signing.result, noop(1))


class FaultTests(BoardsTestCase):
    """A fault of ours while a board is asked."""

    def sign_with_fault(self, ended: bool) -> Signing:
        """Have asking the board fail, before or after a late signature has ended it all."""
        self.start("one")
        (device,) = self.pool.devices.values()
        asking: Deferred[Signature] = Deferred()
        self.patch(device, "sign", lambda *_: asking)
        signing = self.sign(noop(1))
        if ended:
            signing.end(Signature(Curve.P256, bytes(64)))
        asking.errback(ZeroDivisionError())
        return signing

    def test_told(self) -> None:
        """Whoever waits is told, and decides what to do with it."""
        self.failureResultOf(self.sign_with_fault(False).result, ZeroDivisionError)

    def test_nobody_waits(self) -> None:
        """When nobody waits any more, it is in the log."""
        with capturedLogs() as events:
            self.successResultOf(self.sign_with_fault(True).result)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        (fault,) = (event for event in events if event["log_level"] is LogLevel.critical)
        self.assertEqual(formatEvent(fault), f"fault while signing for {TZ3}")


class ForgottenTests(BoardsTestCase):
    """What has ended."""

    def test_forgotten(self) -> None:
        """Nothing is kept of it but by its board, of the last ones, for answers that are late."""
        (board,) = self.start("one")
        signed, withdrawn = self.sign(noop(0)), self.sign(noop(1))
        withdrawn.withdraw()
        self.failureResultOf(withdrawn.result, NotSent)
        board.serve()
        self.signed(signed.result, noop(0))
        board.firmware = Firmware(enabled=dict.fromkeys(Slot, ()))
        refused = self.sign(noop(2))
        board.serve()
        self.failureResultOf(refused.result, StatusReply)
        for number in range(10):
            another = self.sign(noop(3 + number)).result
            board.serve()
            self.failureResultOf(another, StatusReply)
        left = [ref(signing) for signing in (signed, withdrawn, refused)]
        del signed, withdrawn, refused
        gc.collect()
        self.assertEqual([signing() for signing in left], [None] * 3)


class WithdrawnTests(BoardsTestCase):
    """Nobody wants it any more."""

    def test_withdrawn(self) -> None:
        """One that waits is dropped; one whose command is in flight cannot be taken back."""
        (board,) = self.start("one")
        first, second, third = (self.sign(noop(number)) for number in range(3))
        self.assertTrue(second.withdraw())
        self.failureResultOf(second.result, NotSent)
        self.assertFalse(first.withdraw())
        self.assertFalse(second.withdraw())
        self.assertEqual(board.serve(), frames(noop(0), noop(2)))
        self.signed(first.result, noop(0))
        self.signed(third.result, noop(2))


class LimitTests(BoardsTestCase):
    """How many may wait."""

    def requests(self, count: int) -> list[Signing]:
        """Ask for so many transfers."""
        return [self.sign(noop(number)) for number in range(count)]

    def refused(self, signing: Signing) -> str:
        """Why it was refused at once."""
        return str(self.failureResultOf(signing.result, Unavailable).value)

    def serve(self, board: FakeBoard, asked: Sequence[Signing]) -> None:
        """Let a board sign all transfers."""
        board.serve()
        for number, signing in enumerate(asked):
            self.signed(signing.result, noop(number))

    def test_too_many(self) -> None:
        """Only so many of a kind wait; one more is refused at once, a block is not."""
        (board,) = self.start("one")
        asked = self.requests(MOST + 1)
        self.assertEqual(
            self.refused(self.sign(noop(MOST + 1))),
            "64 requests wait for the HSM one at one already",
        )
        urgent = self.sign(block(9, 0), Priority.BLOCK)
        self.serve(board, asked)
        self.signed(urgent.result, block(9, 0))

    def test_while_it_is_away(self) -> None:
        """As many wait for a board to come back."""
        (board,) = self.start("one")
        where = next(iter(self.plugged))
        self.pull(board)
        asked = self.requests(MOST)
        self.assertIn("64 requests wait for the HSM one", self.refused(self.sign(noop(MOST))))
        self.plugged[where] = board
        self.tell()
        self.looked(0.25)
        self.serve(board, asked)

    def test_lost_and_waiting(self) -> None:
        """One that was asked for and has to wait again is refused never for that."""
        (board,) = self.start("one")
        asked = self.requests(MOST + 1)
        board.asked()
        self.clock.advance(ANSWER)
        self.clock.advance(QUIET)
        self.serve(board, asked)

    def test_other_key(self) -> None:
        """What waits for another board leaves room for a key that this one does not hold."""
        first, second = self.plug_in("one"), self.plug_in("two")
        first.firmware = Firmware(disabled=[(Slot.TZ1, Opcode.GET_PK)])
        second.firmware = Firmware(disabled=[(Slot.TZ3, Opcode.GET_PK)])
        self.run_pool([first, second])
        asked = self.requests(MOST + 1)
        others = [self.pool.sign(TZ1, noop(number)) for number in range(2)]
        second.serve()
        for signing in others:
            self.successResultOf(signing.result)
        self.serve(first, asked)

    def test_shared_key(self) -> None:
        """What another board may sign as well leaves room for a key that only this one holds."""
        first, second = self.plug_in("one"), self.plug_in("two")
        second.firmware = Firmware(disabled=[(Slot.TZ1, Opcode.GET_PK)])
        self.run_pool([first, second])
        asked = self.requests(MOST + 2)
        only_one = self.pool.sign(TZ1, noop(0))
        self.assertTrue(only_one.waits)
        while any(signing.waits for signing in [*asked, only_one]):
            first.serve()
            second.serve()
        self.successResultOf(only_one.result)
