"""The conversation with one HSM, on a port that is not there."""

from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import LogLevel, capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from tests.support.fakeboard import ANSWER, ASK_KEY, QUIET, FakePort
from tests.support.hsmdevice import KEYS
from tests.support.vectors import EXCHANGES
from tezio_signer.hsm import framing
from tezio_signer.hsm.exchange import Command, NoAnswer, WrongAnswer
from tezio_signer.hsm.framing import FramingError, Slot, StatusReply
from tezio_signer.noop import do_nothing
from tezio_signer.serialhsm import HsmProtocol, SerialPorts

_RECORDED = {e["what"]: (e["request_hex"], e["reply_hex"]) for e in EXCHANGES}
KEY_FRAME, KEY_REPLY = map(bytes.fromhex, _RECORDED["get_pk key 3 (tz3) mode 2"])
SIGN_FRAME, SIGN_REPLY = map(
    bytes.fromhex, _RECORDED["sign key 1 (tz1) mode 3 75-byte message starting 03"]
)
ASK_SIGNATURE = framing.sign(Slot.TZ1, SIGN_FRAME[8:-2])
WATERMARK_REPLY = bytes.fromhex("0500d4bc02")


class ProtocolTests(SynchronousTestCase):
    """One command at a time, and no reply taken for another's."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.lost = 0
        self.protocol = HsmProtocol(self.clock, self.on_lost, "board")
        self.port = FakePort(self.protocol)
        self.late: list[bytes] = []

    def on_lost(self) -> None:
        """Count how often the port was lost."""
        self.lost += 1

    def ask(self, read: Callable[[bytes], bytes] = ASK_KEY.read) -> Deferred[bytes]:
        """Ask for a key."""
        return self.protocol.exchange(Command(ASK_KEY.request, read, self.late.append))

    def exchange_works(self) -> Deferred[bytes]:
        """An exchange without trouble."""
        asked = self.ask()
        self.protocol.dataReceived(KEY_REPLY)
        return asked

    def failed(self, result: Deferred[bytes], words: str = "") -> None:
        """Check that an exchange failed without a usable answer, and left the step."""
        failure = self.failureResultOf(result, NoAnswer)
        self.assertIn(words, str(failure.value))
        self.assertEqual(failure.value.status, 502)
        self.assertFalse(self.protocol.in_step)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_exchange(self) -> None:
        """Old input is thrown away, the frame is written at once and whole, its reply is read."""
        asked = self.ask()
        self.assertEqual(self.port.take(), ["flush", KEY_FRAME.hex()])
        self.assertNoResult(asked)
        self.protocol.dataReceived(KEY_REPLY)
        self.assertEqual(self.successResultOf(asked), KEYS[Slot.TZ3].data)
        self.assertTrue(self.protocol.in_step)
        self.assertEqual(self.port.take(), [])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_byte_by_byte(self) -> None:
        """A reply may come in pieces of any size."""
        for size in (1, 2, 3, len(KEY_REPLY) - 1):
            asked = self.ask()
            for at in range(0, len(KEY_REPLY), size):
                self.assertNoResult(asked)
                self.protocol.dataReceived(KEY_REPLY[at : at + size])
            self.assertEqual(self.successResultOf(asked), KEYS[Slot.TZ3].data)

    def test_status(self) -> None:
        """A status is an answer as good as any."""
        asked = self.ask()
        self.protocol.dataReceived(WATERMARK_REPLY)
        self.assertEqual(self.failureResultOf(asked, StatusReply).value.byte, 0xD4)
        self.assertTrue(self.protocol.in_step)
        again = self.ask()
        self.protocol.dataReceived(KEY_REPLY)
        self.successResultOf(again)

    def test_refused_frame(self) -> None:
        """A status on the frame itself means that host and device are out of step."""
        for reply, status in [("0500a69003", 0xA6), ("0500a79583", 0xA7), ("0500a8b783", 0xA8)]:
            self.protocol.in_step = True
            asked = self.ask()
            self.protocol.dataReceived(bytes.fromhex(reply))
            self.assertEqual(self.failureResultOf(asked, StatusReply).value.byte, status)
            self.assertFalse(self.protocol.in_step)

    def test_time_out(self) -> None:
        """A command that is not answered in three seconds has failed."""
        asked = self.ask()
        self.clock.advance(ANSWER - 0.01)
        self.protocol.dataReceived(KEY_REPLY[:-1])
        self.assertNoResult(asked)
        self.clock.advance(0.01)
        self.failed(asked, "did not answer within 3 s")

    def test_garbage(self) -> None:
        """Bytes that are no reply end the exchange at once; nothing is searched inside them."""
        for garbage, words in [
            (b"15\r\n", "a reply that announces 13617 bytes"),
            (b"15\r\n" + KEY_REPLY, "announces 13617 bytes"),
            (b"\0" + KEY_REPLY, "announces"),
            (KEY_REPLY[:-1] + b"\0", "wrong CRC"),
            (b"\x04\x00" + KEY_REPLY, "announces 4 bytes"),
        ]:
            self.protocol.in_step = True
            asked = self.ask()
            self.protocol.dataReceived(garbage)
            self.failed(asked, words)

    def test_other_shape(self) -> None:
        """A good reply of another shape is no answer."""
        asked = self.ask()
        self.protocol.dataReceived(SIGN_REPLY)
        self.failed(asked, "a public key of 64 bytes")

    def test_two_replies(self) -> None:
        """Of two replies at once the first is the answer, and nothing more is believed."""
        for second in (KEY_REPLY, WATERMARK_REPLY, b"\r\n", KEY_REPLY[:5]):
            self.protocol.in_step = True
            asked = self.ask()
            self.protocol.dataReceived(KEY_REPLY + second)
            self.assertEqual(self.successResultOf(asked), KEYS[Slot.TZ3].data)
            self.assertFalse(self.protocol.in_step)

    def test_stray_bytes(self) -> None:
        """Bytes that come unasked mean that something is out of step, and are no answer."""
        for stray in (b"1", KEY_REPLY, WATERMARK_REPLY):
            self.protocol.in_step = True
            self.protocol.dataReceived(stray)
            self.assertFalse(self.protocol.in_step)
            asked = self.ask()
            self.assertNoResult(asked)
            self.protocol.dataReceived(KEY_REPLY)
            self.assertEqual(self.successResultOf(asked), KEYS[Slot.TZ3].data)

    def test_late_answer(self) -> None:
        """An answer that comes too late reaches who asked, and never who asks then."""

        def read_other(body: bytes) -> bytes:
            if len(body) != framing.SIGNATURE_LENGTH:
                raise FramingError("no signature")
            return body

        def wrong(body: bytes) -> bytes:
            raise WrongAnswer(f"not {body.hex()}")

        for read in (read_other, wrong):
            self.setUp()
            first = self.ask()
            self.clock.advance(ANSWER)
            self.failed(first)
            second = self.protocol.exchange(Command(ASK_SIGNATURE, read))
            self.protocol.dataReceived(KEY_REPLY)
            self.assertNoResult(second)
            self.assertEqual(self.late, [KEYS[Slot.TZ3].data])
            self.protocol.dataReceived(SIGN_REPLY)
            if read is read_other:
                self.assertEqual(self.successResultOf(second), SIGN_REPLY[2:-2])
            else:
                self.failureResultOf(second, WrongAnswer)
                self.assertFalse(self.protocol.in_step)

    def test_caller_leaves(self) -> None:
        """A command in flight goes on to its end without its caller; its reply is nobody else's."""
        asked = self.ask()
        asked.addErrback(lambda _: None)
        asked.cancel()
        self.protocol.dataReceived(KEY_REPLY)
        self.assertTrue(self.protocol.in_step)
        following = self.protocol.exchange(Command(ASK_SIGNATURE, framing.signature_from))
        self.assertNoResult(following)
        self.protocol.dataReceived(SIGN_REPLY)
        self.assertEqual(self.successResultOf(following), SIGN_REPLY[2:-2])

    def test_quiet(self) -> None:
        """Quiet is when nothing has come for 200 ms; every byte begins that time anew."""
        asked = self.ask()
        self.protocol.dataReceived(b"15\r\n")
        self.failed(asked)
        self.port.take()
        quiet = self.protocol.quiet()
        for _ in range(5):
            self.clock.advance(QUIET - 0.01)
            self.protocol.dataReceived(b"x")
            self.assertNoResult(quiet)
        self.clock.advance(QUIET - 0.01)
        self.assertNoResult(quiet)
        self.clock.advance(0.01)
        self.successResultOf(quiet)
        self.assertEqual(self.port.take(), [])

    def test_late_answer_in_the_quiet(self) -> None:
        """An answer that comes while it is quiet still reaches who asked."""
        self.failed_after_time_out()
        quiet = self.protocol.quiet()
        self.clock.advance(0.1)
        self.protocol.dataReceived(KEY_REPLY)
        self.assertEqual(self.late, [KEYS[Slot.TZ3].data])
        self.clock.advance(0.1)
        self.assertNoResult(quiet)
        self.clock.advance(0.1)
        self.successResultOf(quiet)

    def failed_after_time_out(self) -> None:
        """Let a command fail because its answer does not come."""
        asked = self.ask()
        self.clock.advance(ANSWER)
        self.failed(asked)

    def test_never_quiet(self) -> None:
        """A device that goes on and on is given up after two seconds."""
        quiet = self.protocol.quiet()
        for _ in range(20):
            self.assertNoResult(quiet)
            self.clock.advance(0.1)
            self.protocol.dataReceived(b"\xff")
        self.assertIn("quiet", str(self.failureResultOf(quiet, NoAnswer).value))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_lost(self) -> None:
        """When the port is lost, what was asked fails, and what is asked then fails at once."""
        asked = self.ask()
        self.port.take()
        self.port.lose()
        self.assertIn("unplugged", str(self.failureResultOf(asked, NoAnswer).value))
        self.assertIn("unplugged", str(self.failureResultOf(self.ask(), NoAnswer).value))
        self.assertEqual((self.lost, self.port.take()), (1, []))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_lost_in_the_quiet(self) -> None:
        """When the port is lost meanwhile, there is nothing to wait for."""
        quiet = self.protocol.quiet()
        self.port.lose()
        self.failureResultOf(quiet, NoAnswer)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_verbose(self) -> None:
        """Verbosely, commands are logged for developers, without what is signed."""
        protocol = HsmProtocol(self.clock, self.on_lost, "board", verbose=lambda: True)
        FakePort(protocol)
        with capturedLogs() as events:
            self.exchange_works()
            self.assertEqual(events, [])
            asked = protocol.exchange(Command(ASK_SIGNATURE, framing.signature_from))
            asked.addErrback(do_nothing)
        self.assertEqual([event["log_level"] for event in events], [LogLevel.debug])
        self.assertEqual(formatEvent(events[0]), "HSM board: 85 bytes, opcode 21, slot 1")
        protocol.connectionLost()


class LateSignatureTests(SynchronousTestCase):
    """Replies to commands whose answers prove by verifying whose they are."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.protocol = HsmProtocol(self.clock, do_nothing, "board")
        FakePort(self.protocol)
        self.late: list[tuple[str, bytes]] = []

    def ask(self, own: bytes) -> Deferred[bytes]:
        """Ask for the signature that consists of these bytes."""

        def read(body: bytes) -> bytes:
            if framing.signature_from(body) != own:
                raise WrongAnswer("it does not verify")
            return body

        late = self.late.append
        return self.protocol.exchange(
            Command(ASK_SIGNATURE, read, lambda body: late(("late", body)))
        )

    def answer(self, body: bytes) -> None:
        """A reply comes."""
        self.protocol.dataReceived(framing.reply(body))

    def given_up(self, own: bytes) -> None:
        """A command to which no reply comes in time."""
        asked = self.ask(own)
        self.clock.advance(ANSWER)
        self.failureResultOf(asked, NoAnswer)

    def test_for_neither(self) -> None:
        """A signature that verifies for no command is a wrong answer to the last one."""
        self.given_up(b"1" * 64)
        second = self.ask(b"2" * 64)
        self.answer(b"3" * 64)
        self.assertIn("does not verify", str(self.failureResultOf(second, WrongAnswer).value))
        self.assertFalse(self.protocol.in_step)
        self.assertEqual(self.late, [])

    def test_for_the_earlier(self) -> None:
        """One that verifies for an earlier command is that one's, once."""
        for own in (b"1" * 64, b"2" * 64):
            self.given_up(own)
        third = self.ask(b"3" * 64)
        self.answer(b"2" * 64)
        self.assertNoResult(third)
        self.answer(b"1" * 64)
        self.assertEqual(self.late, [("late", b"2" * 64), ("late", b"1" * 64)])
        self.answer(b"2" * 64)  # which is nobody's any more
        self.failureResultOf(third, WrongAnswer)
        self.assertEqual(len(self.late), 2)

    def test_so_many(self) -> None:
        """Eight commands are remembered; the answer to one before them is nobody's."""
        for number in range(9):
            self.given_up(bytes([number]) * 64)
        last = self.ask(b"x" * 64)
        self.answer(bytes([1]) * 64)
        self.assertEqual(self.late, [("late", bytes([1]) * 64)])
        self.assertNoResult(last)
        self.answer(bytes([0]) * 64)
        self.failureResultOf(last, WrongAnswer)
        self.assertEqual(len(self.late), 1)

    def test_told(self) -> None:
        """A late answer leaves a line, once."""
        self.given_up(b"1" * 64)
        self.ask(b"2" * 64).addErrback(lambda _: None)
        with capturedLogs() as events:
            self.answer(b"1" * 64)
        self.assertEqual(
            list(map(formatEvent, events)), ["HSM board: a late answer came, and is kept apart"]
        )

    def test_behind_garbage(self) -> None:
        """One that comes when garbage has ended its command is read from its own first byte."""
        asked = self.ask(b"1" * 64)
        self.protocol.dataReceived(b"15\r\n")
        self.failureResultOf(asked, NoAnswer)
        quiet = self.protocol.quiet()
        self.answer(b"1" * 64)
        self.assertEqual(self.late, [("late", b"1" * 64)])
        self.clock.advance(QUIET)
        self.successResultOf(quiet)

    def test_noise_to_the_moment(self) -> None:
        """A device that is not quiet after just two seconds is given up."""
        quiet = self.protocol.quiet()
        for _ in range(16):
            self.assertNoResult(quiet)
            self.clock.advance(0.125)
            self.protocol.dataReceived(b"\xff")
        self.failureResultOf(quiet, NoAnswer)

    def test_out_of_step_is_told(self) -> None:
        """That replies and commands do not belong together any more is told once, and why."""
        with capturedLogs() as events:
            self.protocol.dataReceived(b"x")
            self.protocol.dataReceived(b"yz")
        self.assertEqual(list(map(formatEvent, events)), ["HSM board out of step: 1 stray bytes"])
        self.assertEqual([event["log_level"] for event in events], [LogLevel.error])

    def test_behind_the_quiet(self) -> None:
        """Half a reply that was said before the quiet is not taken for the half of a later one."""
        self.given_up(b"1" * 64)
        quiet = self.protocol.quiet()
        self.protocol.dataReceived(b"\x44")
        self.clock.advance(QUIET)
        self.successResultOf(quiet)
        self.answer(b"1" * 64)
        self.assertEqual(self.late, [("late", b"1" * 64)])


class PortsTests(SynchronousTestCase):
    """What ports are that nobody has said more of."""

    def test_nobody_watches_and_nothing_is_logged(self) -> None:
        ports = SerialPorts(MemoryReactorClock(), Clock(), list)
        self.assertIsNone(ports.watch(self.fail)())
        self.assertFalse(ports.verbose())
