"""One signature under way: which board is asked when, and what a lost frame comes to."""

from tests.support.boardscase import TwoBoardsTestCase
from tests.support.fakeboard import ANSWER, QUIET, FakeBoard
from tests.support.harness import EVERY_MAGIC_BYTE
from tests.support.hsmdevice import is_signature
from tests.support.vectors import TZ3, block, noop
from tezio_signer.errors import Unavailable
from tezio_signer.hsm import framing
from tezio_signer.hsm.exchange import NoAnswer, NotSent, WrongAnswer
from tezio_signer.hsm.framing import Slot, StatusReply
from tezio_signer.hsm.signing import Priority, Signing, State
from tezio_signer.simulator.firmware import Firmware
from tezio_signer.tezos.keys import Signature

PATIENCE = 2.0
BLOCK = block(9, 0)
KEY_FRAMES = [framing.get_public_key(slot).frame().hex() for slot in Slot]
WRONG = framing.reply(bytes(range(64)))
"""A signature, of nothing."""


def sign_frame(message: bytes) -> str:
    """The frame that asks to sign a message with the tz3 key."""
    return framing.sign(Slot.TZ3, message).frame().hex()


class SigningTestCase(TwoBoardsTestCase):
    """A pool with one or two boards of the same keys."""

    def setUp(self) -> None:
        super().setUp()
        self.late: list[Signature] = []

    def sign(self, message: bytes = BLOCK) -> Signing:
        """Ask for a signature."""
        priority = Priority.OTHER if message[0] == 3 else Priority.BLOCK
        return self.pool.sign(TZ3, message, priority, self.late.append)

    def signed(self, signing: Signing, message: bytes = BLOCK) -> Signature:
        """Check that the signature of a message has come."""
        signature: Signature = self.successResultOf(signing.result)
        self.assertTrue(is_signature(Slot.TZ3, 3, message, signature.data))
        return signature

    def lose_frame(self, board: FakeBoard) -> str:
        """A board is asked, never gets it, and its time is up; the frame."""
        (frame,) = board.asked()
        self.clock.advance(ANSWER)
        return frame

    def lose_answer(self, board: FakeBoard) -> bytes:
        """A board is asked, does it, and its answer does not come in time; the answer."""
        (frame,) = board.asked()
        answer = board.firmware.execute(bytes.fromhex(frame)[1:])
        assert answer is not None
        self.clock.advance(ANSWER)
        return answer.packet

    def come_into_step(self, board: FakeBoard) -> list[str]:
        """Let a board be quiet and say its keys; what it is asked then, and serve it."""
        self.assertEqual(board.asked(), [])
        self.clock.advance(QUIET)
        served = board.serve()
        self.assertEqual(served[: len(KEY_FRAMES)], KEY_FRAMES)
        return served[len(KEY_FRAMES) :]


class LostFrameTests(SigningTestCase):
    """A command that did not reach the board, or whose answer did not reach us."""

    def test_lost_frame(self) -> None:
        """A block whose frame was lost is asked once more when the board is in step, and signed."""
        self.start(1)
        asked = self.sign()
        frame = self.lose_frame(self.first)
        self.assertNoResult(asked.result)
        self.assertEqual(self.come_into_step(self.first), [frame])
        self.signed(asked)
        self.assertTrue(asked.asked_before)

    def test_lost_answer(self) -> None:
        """A block whose answer was lost is asked once more, and the board's D4 is the result."""
        self.start(1)
        asked = self.sign()
        self.lose_answer(self.first)
        self.assertEqual(self.come_into_step(self.first), [sign_frame(BLOCK)])
        self.assertEqual(self.failureResultOf(asked.result, StatusReply).value.byte, 0xD4)
        self.assertTrue(asked.asked_before)
        self.assertEqual(self.first.asked(), [])

    def test_damaged_frame(self) -> None:
        """A frame that came to harm on the way was not carried out, and is asked once more."""
        for message in (BLOCK, noop(1)):
            self.setUp()
            self.start(1)
            asked = self.sign(message)
            (frame,) = self.first.asked()
            self.first.protocol.dataReceived(framing.reply(b"\xa7"))
            self.assertEqual(self.come_into_step(self.first), [frame])
            self.signed(asked, message)

    def test_not_thrice(self) -> None:
        """One request asks a board twice at most; a repeated one asks it again."""
        self.start(1)
        asked = self.sign()
        self.lose_frame(self.first)
        self.clock.advance(QUIET)
        for _ in Slot:
            self.first.answer(self.first.asked()[0])
        self.lose_frame(self.first)
        self.assertIn("did not answer", str(self.failureResultOf(asked.result, NoAnswer).value))
        self.assertEqual(self.come_into_step(self.first), [])
        repeated = self.sign()
        self.assertEqual(self.first.serve(), [sign_frame(BLOCK)])
        self.signed(repeated)

    def test_not_before_it_is_in_step(self) -> None:
        """A board that does not come into step is not asked again, by a repeated request either."""
        self.start(1)
        asked = self.sign()
        self.lose_frame(self.first)
        self.clock.pump([0.1] * 21)
        self.failureResultOf(asked.result, NoAnswer)
        repeated = self.sign()
        self.assertEqual(self.first.asked(), KEY_FRAMES[:1])
        self.clock.pump([0.1] * 80)
        self.assertNotIn(sign_frame(BLOCK), self.first.asked())
        error = self.failureResultOf(repeated.result, Unavailable).value
        self.assertEqual(
            str(error),
            f"the HSM serial of port1 at port1, which holds {TZ3}, did not answer within 3 s",
        )

    def test_pulled_out(self) -> None:
        """A board that was pulled out meanwhile is asked when it is back."""
        self.start(1)
        asked = self.sign()
        self.first.asked()
        self.first.port.lose()
        self.assertNoResult(asked.result)
        self.clock.advance(0.1)
        self.assertEqual(self.first.serve()[-1], sign_frame(BLOCK))
        self.signed(asked)


class LateTests(SigningTestCase):
    """A signature that comes when its command was given up."""

    def test_used(self) -> None:
        """A late signature is the result of who still waits, and the board is not asked again."""
        self.start(1)
        asked = self.sign()
        self.first.protocol.dataReceived(self.lose_answer(self.first))
        self.signed(asked)
        self.assertEqual(self.come_into_step(self.first), [])
        self.assertEqual(self.late, [])

    def test_of_an_earlier_request(self) -> None:
        """It is the result of a repeated request too, and who asked first is told as well."""
        self.start(1)
        first = self.sign()
        answer = self.lose_answer(self.first)
        self.clock.pump([0.1] * 21)  # it is silent while it is asked for its keys
        self.failureResultOf(first.result, NoAnswer)
        repeated, other = self.sign(), self.sign(block(10, 0))
        (key_frame,) = self.first.asked()
        self.first.protocol.dataReceived(answer)
        self.assertEqual(self.late, [self.signed(repeated)])
        self.assertIsNone(first.board)
        self.assertEqual(repeated.board, next(iter(self.pool.devices.values())).board)
        self.assertNoResult(other.result)
        self.first.answer(key_frame)
        served = self.first.serve()
        self.assertNotIn(sign_frame(BLOCK), served)
        self.assertIn(sign_frame(block(10, 0)), served)
        self.signed(other, block(10, 0))

    def test_while_another_is_asked(self) -> None:
        """Of two boards that sign it, the signature that comes first is the only result."""
        self.start(2)
        asked = self.sign()
        answer = self.lose_answer(self.first)
        (frame,) = self.second.asked()
        self.first.protocol.dataReceived(answer)
        came: list[Signature] = []
        asked.result.addCallback(came.append)
        self.second.answer(frame)
        (signature,) = came
        self.assertTrue(is_signature(Slot.TZ3, 3, BLOCK, signature.data))
        split = framing.split_reply(answer)
        assert split is not None
        self.assertEqual(signature.data, split[0])
        self.assertEqual(self.late, [])

    def test_while_another_is_silent(self) -> None:
        """It stays the result when the other board, which is still being asked, gives none."""
        self.start(2)
        asked = self.sign()
        answer = self.lose_answer(self.first)
        self.assertEqual(self.second.asked(), [sign_frame(BLOCK)])
        self.first.protocol.dataReceived(answer)
        self.clock.advance(ANSWER)
        self.signed(asked)
        self.assertIs(asked.state, State.DONE)
        self.assertNotIn(sign_frame(BLOCK), self.come_into_step(self.second))

    def test_taken_back(self) -> None:
        """A command that is queued at another board is taken back, and never written."""
        self.start(2)
        asked = self.sign()
        busy = self.sign(noop(1))  # at the second board, for as long as this test lasts
        (kept,) = self.second.asked()
        answer = self.lose_answer_of_first_only(asked)
        self.assertIs(asked.state, State.UNCLEAR)
        self.first.protocol.dataReceived(answer)
        self.signed(asked)
        self.second.answer(kept)
        self.signed(busy, noop(1))
        self.assertEqual(self.second.asked(), [])

    def lose_answer_of_first_only(self, asked: Signing) -> bytes:
        """The first board sends something that is no reply instead of its answer, which follows."""
        (frame,) = self.first.asked()
        answer = self.first.firmware.execute(bytes.fromhex(frame)[1:])
        assert answer is not None
        self.first.protocol.dataReceived(b"15\r\n")
        self.assertNoResult(asked.result)
        return answer.packet


class TwoBoardsTests(SigningTestCase):
    """Two boards with the same keys replace each other."""

    def test_other_first(self) -> None:
        """Another board is asked before the one that has not answered is asked again."""
        self.start(2)
        asked = self.sign()
        self.lose_frame(self.first)
        self.assertEqual(self.second.serve(), [sign_frame(BLOCK)])
        self.signed(asked)
        self.assertEqual(self.come_into_step(self.first), [])

    def test_other_first_when_repeated(self) -> None:
        """So it is for a repeated request, which begins with the board that was not asked."""
        self.start(2)
        self.boards["port2"].port.lose()
        asked = self.sign()
        asked.want()
        self.lose_frame(self.first)
        asked.withdraw()
        self.failureResultOf(asked.result, NoAnswer)
        self.clock.advance(QUIET)
        self.first.serve()
        self.second.serve()
        repeated = self.sign()
        self.assertEqual(self.first.asked(), [])
        self.assertEqual(self.second.serve(), [sign_frame(BLOCK)])
        self.signed(repeated)

    def test_other_refuses(self) -> None:
        """When the other refuses, the one whose frame was lost is asked again, and signs."""
        self.start(2)
        self.second.firmware = Firmware(
            enabled=EVERY_MAGIC_BYTE, marks={(Slot.TZ3, 0x11): (100, 0)}
        )
        asked = self.sign()
        self.lose_frame(self.first)
        self.second.serve()
        self.assertNoResult(asked.result)
        self.assertEqual(self.come_into_step(self.first), [sign_frame(BLOCK)])
        self.signed(asked)

    def test_both_lost(self) -> None:
        """When neither frame arrives, each is asked once more at most, one at a time."""
        self.start(2)
        asked = self.sign()
        written = 0
        for _ in range(200):
            signs = 0
            for board in (self.first, self.second):
                for frame in board.asked():
                    if frame in KEY_FRAMES:
                        board.answer(frame)
                    else:
                        signs += 1
            self.assertLessEqual(signs, 1)
            written += signs
            self.clock.advance(0.1)
        self.assertEqual(written, 4)
        self.failureResultOf(asked.result, NoAnswer)


class WrongSignatureTests(SigningTestCase):
    """A board that gives a signature that does not verify, and would do so again."""

    def test_not_asked_again(self) -> None:
        """One request asks it once, and fails at once; a repeated one begins anew."""
        self.start(1)
        asked = self.sign()
        self.assertEqual(self.first.asked(), [sign_frame(BLOCK)])
        self.first.protocol.dataReceived(WRONG)
        self.failureResultOf(asked.result, WrongAnswer)
        self.assertEqual(self.come_into_step(self.first), [])
        repeated = self.sign()
        self.assertEqual(self.first.serve(), [sign_frame(BLOCK)])
        self.signed(repeated)

    def test_other_refuses(self) -> None:
        """When another refuses as well, that is the result, although the first is in step again."""
        self.start(2)
        self.second.firmware = Firmware(
            enabled=EVERY_MAGIC_BYTE, marks={(Slot.TZ3, 0x11): (100, 0)}
        )
        asked = self.sign()
        self.first.asked()
        self.first.protocol.dataReceived(WRONG)
        (frame,) = self.second.asked()
        self.assertEqual(self.come_into_step(self.first), [])
        self.second.answer(frame)
        self.assertEqual(self.failureResultOf(asked.result, StatusReply).value.byte, 0xD4)
        self.assertEqual(self.first.asked(), [])


class WithdrawnTests(SigningTestCase):
    """Nobody wants it any more."""

    def test_queued_elsewhere(self) -> None:
        """What one board was sent, and waits at another, is taken back for good."""
        self.start(2)
        asked = self.sign()
        busy = self.sign(noop(1))
        (kept,) = self.second.asked()
        self.first.asked()
        self.first.protocol.dataReceived(b"15\r\n")  # no answer; it goes to the other's queue
        self.assertFalse(asked.withdraw())
        self.assertTrue(asked.was_sent)
        self.failureResultOf(asked.result, NoAnswer)
        self.second.answer(kept)
        self.signed(busy, noop(1))
        self.assertEqual(self.second.asked(), [])
        self.assertEqual(self.come_into_step(self.first), [])
        self.assertFalse(asked.withdraw())

    def test_in_flight(self) -> None:
        """A command in flight goes on to its end, and is not asked again if that fails."""
        self.start(1)
        asked = self.sign()
        self.assertFalse(asked.withdraw())
        self.assertNoResult(asked.result)
        self.lose_frame(self.first)
        self.failureResultOf(asked.result, NoAnswer)
        self.assertEqual(self.come_into_step(self.first), [])

    def test_wanted_again(self) -> None:
        """Who asks for it again before that end has it asked once more."""
        self.start(1)
        asked = self.sign()
        asked.withdraw()
        asked.want()
        self.lose_frame(self.first)
        self.assertEqual(self.come_into_step(self.first), [sign_frame(BLOCK)])
        self.signed(asked)

    def test_signed(self) -> None:
        """Once it is signed it is not withdrawn: what is waited for then is the store."""
        self.start(1)
        asked = self.sign()
        self.first.serve()
        self.signed(asked)
        self.assertFalse(asked.withdraw())
        self.assertTrue(asked.wanted)

    def test_between_two_commands(self) -> None:
        """While it waits for a board to come into step it ends at once."""
        self.start(1)
        asked = self.sign()
        self.lose_frame(self.first)
        self.assertFalse(asked.withdraw())
        self.failureResultOf(asked.result, NoAnswer)
        self.assertEqual(self.come_into_step(self.first), [])

    def test_never_sent(self) -> None:
        """What no board was sent ends at once, too, and is said to be so."""
        self.start(1)
        self.first.port.lose()
        asked = self.sign()
        self.assertTrue(asked.withdraw())
        self.assertFalse(asked.was_sent)
        self.assertFalse(asked.asked_before)
        self.failureResultOf(asked.result, NotSent)
        self.clock.advance(PATIENCE)
        self.assertNotIn(sign_frame(BLOCK), self.first.serve())
