"""The conversation with an HSM, the device behind it, and all of them together."""

import fcntl
import termios
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

from serial import SerialException
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.error import ConnectionAborted, ConnectionDone
from twisted.internet.task import Clock
from twisted.logger import LogEvent, LogLevel, capturedLogs, formatEvent
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase

from tests.hsm.device import KEYS, is_signature
from tests.stand import reactor
from tests.vectors import AUTH, EXCHANGES, PAYLOADS, TZ1, TZ2, TZ3, block, consensus, transfer
from tezio_signer import serialhsm
from tezio_signer.errors import Forbidden, Unavailable
from tezio_signer.hsm import framing
from tezio_signer.hsm.boards import Board
from tezio_signer.hsm.firmware import Firmware
from tezio_signer.hsm.framing import FramingError, Opcode, Request, Slot, StatusReply
from tezio_signer.hsm.simulator import Simulator
from tezio_signer.hsm.softkeys import TEST_KEYS, SoftKey
from tezio_signer.hsmdevice import MAX_WAITING, HsmDevice, Job, NotSent, Priority
from tezio_signer.hsmpool import HsmPool
from tezio_signer.serialhsm import (
    ExclusiveSerialPort,
    HsmProtocol,
    NoAnswer,
    WrongAnswer,
    open_port,
)
from tezio_signer.tezos import base58check
from tezio_signer.tezos.keys import Curve, Signature

QUIET = 0.2
"""Seconds without a byte that the device needs after an error (its description, 2)."""
ANSWER = 3.0
_RECORDED = {e["what"]: (e["request_hex"], e["reply_hex"]) for e in EXCHANGES}
KEY_FRAME, KEY_REPLY = map(bytes.fromhex, _RECORDED["get_pk key 3 (tz3) mode 2"])
SIGN_FRAME, SIGN_REPLY = map(
    bytes.fromhex, _RECORDED["sign key 1 (tz1) mode 3 75-byte message starting 03"]
)
ASK_KEY = framing.get_public_key(Slot.TZ3)
ASK_SIGNATURE = framing.sign(Slot.TZ1, SIGN_FRAME[8:-2])
WATERMARK_REPLY = bytes.fromhex("0500d4bc02")
read_key = partial(framing.key_from, Slot.TZ3)


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

    def ask(self, read: Callable[[bytes], bytes] = read_key) -> Deferred[bytes]:
        """Ask for a key."""
        return self.protocol.exchange(ASK_KEY, read, self.late.append)

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
            second = self.protocol.exchange(ASK_SIGNATURE, read)
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
        following = self.protocol.exchange(ASK_SIGNATURE, framing.signature_from)
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

    def test_too_long(self) -> None:
        """What cannot be framed is refused before anything is written."""
        request = Request(Opcode.SIGN, Slot.TZ3, 3, 0, b"\x03" * 1016)
        self.assertRaises(FramingError, self.protocol.exchange, request, read_key)
        self.assertEqual(self.port.take(), [])
        self.successResultOf(self.exchange_works())

    def exchange_works(self) -> Deferred[bytes]:
        """An exchange without trouble."""
        asked = self.ask()
        self.protocol.dataReceived(KEY_REPLY)
        return asked

    def test_verbose(self) -> None:
        """Verbosely, commands are logged for developers, without what is signed."""
        protocol = HsmProtocol(self.clock, self.on_lost, "board", verbose=True)
        FakePort(protocol)
        with capturedLogs() as events:
            self.exchange_works()
            self.assertEqual(events, [])
            protocol.exchange(ASK_SIGNATURE, framing.signature_from).addErrback(lambda _: None)
        self.assertEqual([event["log_level"] for event in events], [LogLevel.debug])
        self.assertEqual(formatEvent(events[0]), "HSM board: 85 bytes, opcode 21, slot 1")
        protocol.connectionLost()


class FakeBoard:
    """A board in this process: a port for each time that it is opened, answered by the test."""

    def __init__(self, firmware: Firmware | None = None) -> None:
        self.firmware = firmware or Firmware(enabled=dict.fromkeys(Slot, (0x03, 0x11, 0x12, 0x13)))
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


class DeviceTestCase(SynchronousTestCase):
    """A device on a fake board."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.board = FakeBoard()
        self.changes = 0
        self.device = self.make()

    def make(self) -> HsmDevice:
        """A device that nobody has plugged in yet."""
        return HsmDevice(self.clock, Board("port", "board"), self.board.open, self.on_change)

    def on_change(self) -> None:
        """Count how often the device became ready or was lost."""
        self.changes += 1

    def plug_in(self) -> None:
        """Plug the device in, and let it say its keys."""
        self.device.plugged_in(self.device.board)
        self.board.serve()

    def sign(self, message: bytes, slot: Slot = Slot.TZ3, priority: int = 2) -> Job:
        """Ask for a signature."""
        return self.device.sign(slot, message, Priority(priority))

    def signed(self, job: Job, message: bytes, slot: Slot = Slot.TZ3) -> None:
        """Check that the signature of a message has come."""
        signature = self.successResultOf(job.result)
        self.assertTrue(is_signature(slot, 3, message, signature.data))

    def logged(self, events: Sequence[LogEvent], level: object = LogLevel.error) -> list[str]:
        """The sentences that were logged at a level."""
        return [formatEvent(event) for event in events if event["log_level"] is level]


class ConnectingTests(DeviceTestCase):
    """How a device comes to be used."""

    def test_ready(self) -> None:
        """It is used when it has said the keys of all its slots twice in the same way."""
        self.device.plugged_in(self.device.board)
        self.assertFalse(self.device.ready)
        asked = self.board.serve()
        self.assertEqual(asked, [framing.get_public_key(slot).frame().hex() for slot in Slot] * 2)
        self.assertTrue(self.device.ready)
        self.assertEqual(self.device.keys, KEYS)
        self.assertEqual((self.changes, self.device.trouble), (1, ""))

    def test_slots(self) -> None:
        """An address is signed for by its slot; the authentication key signs nothing."""
        self.assertIsNone(self.device.slot_of(TZ3))
        self.plug_in()
        self.assertEqual(
            {key: self.device.slot_of(key) for key in (TZ1, TZ2, TZ3, AUTH)},
            {TZ1: Slot.TZ1, TZ2: Slot.TZ2, TZ3: Slot.TZ3, AUTH: None},
        )

    def test_disabled_slot(self) -> None:
        """A slot that does not say its key is left out, and the others are used."""
        self.board.firmware = Firmware(disabled=[(Slot.TZ2, Opcode.GET_PK)])
        with capturedLogs() as events:
            self.plug_in()
        self.assertTrue(self.device.ready)
        self.assertEqual(self.device.keys, {s: key for s, key in KEYS.items() if s != Slot.TZ2})
        self.assertIsNone(self.device.slot_of(TZ2))
        warnings = self.logged(events, LogLevel.warn)
        self.assertTrue(warnings)
        self.assertTrue(all("B0" in sentence and "slot 2" in sentence for sentence in warnings))

    def test_no_key_at_all(self) -> None:
        """A device that says no key is not used."""
        self.board.firmware = Firmware(disabled=[(slot, Opcode.GET_PK) for slot in Slot])
        self.plug_in()
        self.clock.advance(QUIET)
        self.board.serve()
        self.assertFalse(self.device.ready)
        self.assertIn("gives no public keys", self.device.trouble)

    def test_junk_keys(self) -> None:
        """What is no point of its curve is no key, and its device is not used."""
        self.board.firmware.failing.add("read_slot")  # which the firmware does not notice
        with capturedLogs() as events:
            self.plug_in()
            for _ in range(9):
                self.clock.advance(QUIET)
                self.board.serve()
        self.assertFalse(self.device.ready)
        self.assertNotEqual(self.device.trouble, "")
        self.assertTrue(any("no point of its curve" in line for line in self.logged(events)))

    def test_keys_that_differ(self) -> None:
        """A device that says other keys each time is not used."""
        number = 0

        def fickle(slot: Slot) -> None:
            nonlocal number
            number += 1
            secret = base58check.decode(TEST_KEYS[slot])[1][:-1] + bytes([number])
            self.board.firmware.keys[slot] = SoftKey(Curve.ED25519, secret)

        self.device.plugged_in(self.device.board)
        for _ in range(40):
            for frame in self.board.asked():
                fickle(Slot.TZ1)
                self.board.answer(frame)
        self.assertFalse(self.device.ready)
        self.assertIn("gives other public keys each time", self.device.trouble)

    def test_port_that_cannot_be_opened(self) -> None:
        """The reason is reported once until it is another, or until it has worked."""
        reasons = [
            SerialException("Permission denied"),
            SerialException("Permission denied"),
            OSError(16, "Device or resource busy"),
            termios.error(5, "Input/output error"),
        ]
        with capturedLogs() as events:
            for reason in reasons:
                self.board.refusal = reason
                self.device.plugged_in(self.device.board)
            self.board.refusal = None
            self.plug_in()
            self.board.port.lose()
            self.board.refusal = reasons[0]
            self.device.plugged_in(self.device.board)
        self.assertEqual(
            [line.partition(": ")[2] for line in self.logged(events)],
            [
                "cannot be opened: Permission denied",
                "cannot be opened: [Errno 16] Device or resource busy",
                "cannot be opened: (5, 'Input/output error')",
                "was unplugged",
                "cannot be opened: Permission denied",
            ],
        )

    def test_silent_device(self) -> None:
        """A device that does not answer is left alone for longer and longer, then tried again."""
        self.device.plugged_in(self.device.board)
        tried: list[float] = []
        while self.clock.seconds() < 140:
            if self.board.asked() and self.board.opened > len(tried):
                tried.append(self.clock.seconds())
            self.clock.advance(0.05)
            self.device.plugged_in(self.device.board)
        # Two commands of three seconds with 200 ms between them, and then a rest.
        rests = [after - before - 6.2 for before, after in pairwise(tried)]
        self.assertEqual(list(map(round, rests)), [1, 2, 4, 8, 16, 30, 30])
        self.assertIn("did not answer", self.device.trouble)
        self.assertFalse(self.device.ready)

    def test_other_port(self) -> None:
        """A board that appears at another port is used there."""
        self.plug_in()
        before = self.board.port
        self.device.plugged_in(Board("other", "board"))
        self.assertEqual(before.take()[-1], "abort")
        self.board.serve()
        self.assertEqual((self.board.opened, self.device.ready), (2, True))
        self.assertEqual(self.device.board.port, "other")

    def test_other_keys(self) -> None:
        """A board that holds other keys than before is a critical matter."""
        self.plug_in()
        self.board.port.lose()
        self.board.firmware.keys[Slot.TZ3] = self.board.firmware.keys[Slot.AUTH]
        with capturedLogs() as events:
            self.plug_in()
        (line,) = self.logged(events, LogLevel.critical)
        self.assertIn(f"the key of slot 3 has changed from {TZ3} to {AUTH}", line)

    def test_silent_reconnection(self) -> None:
        """A board that is back with the same keys is ready again, and known to have been away."""
        self.plug_in()
        with capturedLogs() as events:
            self.board.port.lose()
            self.assertFalse(self.device.ready)
            self.assertEqual(self.device.slot_of(TZ3), Slot.TZ3)
            self.plug_in()
        self.assertTrue(self.device.ready)
        self.assertEqual(self.logged(events), ["HSM board at port: was unplugged"])
        self.assertEqual(len(self.logged(events, LogLevel.info)), 1)

    def test_closed(self) -> None:
        """A device that is closed on purpose is no trouble."""
        self.plug_in()
        with capturedLogs() as events:
            self.device.close()
            self.device.close()
        self.assertEqual(self.logged(events), [])
        self.assertFalse(self.device.ready)
        self.assertEqual(self.board.port.take()[-1], "abort")
        self.assertEqual(self.clock.getDelayedCalls(), [])


class CommandTests(DeviceTestCase):
    """What is asked of a device that is ready."""

    def setUp(self) -> None:
        super().setUp()
        self.plug_in()

    def test_signatures(self) -> None:
        """Each slot signs, and the signature is verified."""
        for slot in (Slot.TZ1, Slot.TZ2, Slot.TZ3):
            job = self.sign(PAYLOADS["transfer"], slot)
            self.board.serve()
            self.signed(job, PAYLOADS["transfer"], slot)

    def test_auth_slot(self) -> None:
        """The authentication slot signs nothing."""
        self.assertRaises(FramingError, self.sign, PAYLOADS["transfer"], Slot.AUTH)
        self.assertEqual(self.board.asked(), [])

    def test_verify(self) -> None:
        """The device says whether a signature is good."""
        job = self.sign(PAYLOADS["transfer"])
        self.board.serve()
        signature = self.successResultOf(job.result)
        for message, verdict in [(PAYLOADS["transfer"], True), (PAYLOADS["noop"], False)]:
            job = self.device.verify(Slot.TZ3, message, signature)
            self.board.serve()
            self.assertIs(self.successResultOf(job.result), verdict)

    def test_one_at_a_time(self) -> None:
        """There is one command in flight; others wait for its reply, in order."""
        jobs = [self.sign(transfer(number)) for number in range(3)]
        self.assertEqual(self.device.load, 3)
        for number, job in enumerate(jobs):
            (frame,) = self.board.asked()
            self.assertEqual(frame, framing.sign(Slot.TZ3, transfer(number)).frame().hex())
            self.clock.advance(1)
            self.assertEqual(self.board.asked(), [])
            self.assertNoResult(job.result)
            self.board.answer(frame)
            self.signed(job, transfer(number))
        self.assertEqual(self.device.load, 0)

    def test_urgent_first(self) -> None:
        """Of those that wait, blocks go first, then attestations, then all others."""
        messages = [transfer(0), transfer(1), consensus("att", 9, 0), block(9, 0), transfer(2)]
        jobs = [self.sign(m, priority=p) for m, p in zip(messages, (2, 2, 1, 0, 2), strict=True)]
        order = [messages[at] for at in (0, 3, 2, 1, 4)]
        expected = [framing.sign(Slot.TZ3, message).frame().hex() for message in order]
        self.assertEqual(self.board.serve(), expected)
        for job, message in zip(jobs, messages, strict=True):
            self.signed(job, message)

    def test_withdrawn(self) -> None:
        """A caller that waits is dropped; one whose command is in flight cannot take it back."""
        first, second, third = (self.sign(transfer(number)) for number in range(3))
        self.assertTrue(self.device.withdraw(second))
        self.failureResultOf(second.result, NotSent)
        self.assertFalse(self.device.withdraw(first))
        self.assertFalse(self.device.withdraw(second))
        frames = [framing.sign(Slot.TZ3, transfer(number)).frame().hex() for number in (0, 2)]
        self.assertEqual(self.board.serve(), frames)
        self.signed(first, transfer(0))
        self.signed(third, transfer(2))

    def test_too_many(self) -> None:
        """Only so many commands wait; one more is refused at once."""
        jobs = [self.sign(transfer(number)) for number in range(MAX_WAITING)]
        error = self.assertRaises(Unavailable, self.sign, transfer(MAX_WAITING))
        self.assertIn("64 requests wait", str(error))
        self.board.serve()
        for number, job in enumerate(jobs):
            self.signed(job, transfer(number))

    def test_status(self) -> None:
        """A refusal of the device is passed on, and the device stays in use."""
        job = self.sign(block(0, 0))
        following = self.sign(PAYLOADS["noop"])
        self.board.serve()
        self.assertEqual(self.failureResultOf(job.result, StatusReply).value.byte, 0xD4)
        self.signed(following, PAYLOADS["noop"])
        self.assertTrue(self.device.ready)

    def test_no_answer(self) -> None:
        """After a lost answer others are sent elsewhere, and nothing is written for 200 ms."""
        job, waiting = self.sign(PAYLOADS["transfer"]), self.sign(PAYLOADS["noop"])
        (frame,) = self.board.asked()
        self.clock.advance(ANSWER)
        self.failureResultOf(job.result, NoAnswer)
        self.failureResultOf(waiting.result, NotSent)
        self.assertFalse(self.device.ready)
        self.clock.advance(QUIET / 2)
        self.board.protocol.dataReceived(b"late")
        self.clock.advance(QUIET - 0.01)
        queued = self.sign(transfer(1))
        self.assertEqual(self.board.asked(), [])
        self.clock.advance(0.02)
        asked = self.board.serve()
        keys = [framing.get_public_key(slot).frame().hex() for slot in Slot]
        self.assertEqual(asked, [*keys, framing.sign(Slot.TZ3, transfer(1)).frame().hex()])
        self.signed(queued, transfer(1))
        self.assertNotIn(frame, asked)

    def test_late_signature(self) -> None:
        """A signature that comes after its time is up still reaches who asked for it."""
        late: list[Signature] = []
        job = self.device.sign(Slot.TZ3, block(9, 0), Priority.BLOCK, late.append)
        (frame,) = self.board.asked()
        self.clock.advance(ANSWER)
        self.failureResultOf(job.result, NoAnswer)
        self.board.answer(frame)
        (signature,) = late
        self.assertTrue(is_signature(Slot.TZ3, 3, block(9, 0), signature.data))

    def test_wrong_signature(self) -> None:
        """A signature that does not verify never leaves, and the device has to prove itself."""
        key = self.board.firmware.keys[Slot.TZ3]
        job, waiting = self.sign(PAYLOADS["transfer"]), self.sign(PAYLOADS["noop"])
        self.board.firmware.keys[Slot.TZ3] = self.board.firmware.keys[Slot.AUTH]
        (frame,) = self.board.asked()
        self.board.answer(frame)
        self.assertIn("does not verify", str(self.failureResultOf(job.result, WrongAnswer).value))
        self.failureResultOf(waiting.result, NotSent)
        self.assertFalse(self.device.ready)
        self.board.firmware.keys[Slot.TZ3] = key
        self.clock.advance(QUIET)
        self.board.serve()
        self.assertTrue(self.device.ready)

    def test_unplugged(self) -> None:
        """When the board is pulled out, it is known which command may have taken effect."""
        job, waiting = self.sign(PAYLOADS["transfer"]), self.sign(PAYLOADS["noop"])
        self.board.port.lose()
        self.failureResultOf(job.result, NoAnswer)
        self.failureResultOf(waiting.result, NotSent)
        self.assertEqual((self.device.ready, self.device.connection), (False, None))
        self.assertEqual(self.device.load, 0)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_unplugged_while_asked_for_keys(self) -> None:
        """A board that is pulled out while it says its keys is not asked any further."""
        self.board.port.lose()
        self.device.plugged_in(self.device.board)
        self.board.port.lose()
        self.assertFalse(self.device.ready)
        self.assertEqual(len(self.board.asked()), 1)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.clock.advance(1)
        self.plug_in()
        self.assertTrue(self.device.ready)

    def test_device_that_takes_nothing(self) -> None:
        """While a command still waits in the port, it must not be followed by another."""
        job = self.sign(PAYLOADS["transfer"])
        self.board.port.unsent = True
        self.clock.advance(ANSWER)
        self.failureResultOf(job.result, NoAnswer)
        self.assertIn("does not take what is written to it", self.device.trouble)
        self.assertEqual(self.board.port.take()[-1], "abort")
        self.assertFalse(self.device.ready)


class ChoosingTests(SynchronousTestCase):
    """Which board is asked, and which one next when something goes wrong."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.boards = {"port1": FakeBoard(), "port2": FakeBoard()}
        self.first, self.second = self.boards.values()

    def start(self, count: int) -> None:
        """Start a pool with so many boards, and let them say their keys."""
        boards = [Board(port, f"serial of {port}") for port in list(self.boards)[:count]]
        self.pool = HsmPool(
            self.clock,
            lambda: boards,
            lambda protocol, port: self.boards[port].open(protocol, port),
        )
        self.pool.startService()
        self.addCleanup(self.pool.stopService)
        for board in list(self.boards.values())[:count]:
            board.serve()

    def sign(self, message: bytes, priority: int = 2) -> Deferred[Signature]:
        """Ask for a signature."""
        self.late: list[Signature] = []
        return self.pool.sign(TZ3, message, Priority(priority), self.late.append).result

    def signed(self, result: Deferred[Signature], message: bytes) -> None:
        """Check that the signature of a message has come."""
        signature = self.successResultOf(result)
        self.assertTrue(is_signature(Slot.TZ3, 3, message, signature.data))

    def stay_silent(self, board: FakeBoard) -> str:
        """Leave a command without an answer, and let the board come to itself again."""
        (frame,) = board.asked()
        self.clock.advance(ANSWER)
        self.clock.advance(QUIET)
        return frame

    def test_once_more(self) -> None:
        """What may be signed twice is asked for once more when its answer is lost, not thrice."""
        self.start(1)
        asked = self.sign(transfer(1))
        frame = self.stay_silent(self.first)
        self.assertEqual(self.first.serve()[-1], frame)
        self.signed(asked, transfer(1))
        asked = self.sign(transfer(2))
        self.stay_silent(self.first)
        for _ in Slot:
            self.first.answer(self.first.asked()[0])
        self.assertNoResult(asked)
        self.stay_silent(self.first)
        self.failureResultOf(asked, NoAnswer)

    def test_never_twice(self) -> None:
        """A board that may have signed a block is not asked for it again: it would refuse."""
        self.start(1)
        asked = self.sign(block(9, 0), 0)
        frame = self.stay_silent(self.first)
        self.assertIn("did not answer", str(self.failureResultOf(asked, NoAnswer).value))
        self.assertNotIn(frame, self.first.serve())

    def test_late_signature(self) -> None:
        """The signature of a block that comes too late still reaches who asked for it."""
        self.start(1)
        asked = self.sign(block(9, 0), 0)
        (frame,) = self.first.asked()
        self.clock.advance(ANSWER)
        self.failureResultOf(asked, NoAnswer)
        self.first.answer(frame)
        (signature,) = self.late
        self.assertTrue(is_signature(Slot.TZ3, 3, block(9, 0), signature.data))

    def test_silent_board(self) -> None:
        """Another board is asked for what a silent one does not answer, also for a block."""
        self.start(2)
        asked = self.sign(block(9, 0), 0)
        self.stay_silent(self.first)
        self.second.serve()
        self.signed(asked, block(9, 0))

    def test_wrong_signature(self) -> None:
        """A signature that does not verify is a critical matter, and another board is asked."""
        self.start(2)
        self.first.firmware.keys[Slot.TZ3] = self.first.firmware.keys[Slot.AUTH]
        asked = self.sign(transfer(1))
        with capturedLogs() as events:
            self.first.answer(self.first.asked()[0])
        self.assertIn(LogLevel.critical, [event["log_level"] for event in events])
        self.second.serve()
        self.signed(asked, transfer(1))

    def test_refusing_board(self) -> None:
        """Another board is asked for what one refuses; when all refuse, that is the answer."""
        self.start(2)
        self.first.firmware = Firmware(enabled=dict.fromkeys(Slot, ()))
        asked = self.sign(transfer(1))
        self.first.serve()
        self.second.serve()
        self.signed(asked, transfer(1))
        self.second.firmware = self.first.firmware
        asked = self.sign(transfer(2))
        self.first.serve()
        self.second.serve()
        self.assertEqual(self.failureResultOf(asked, StatusReply).value.byte, 0xB8)

    def test_least_busy(self) -> None:
        """Requests are shared out; as many wait as the boards together can take."""
        self.start(2)
        results = [self.sign(transfer(number)) for number in range(2 * MAX_WAITING)]
        self.failureResultOf(self.sign(transfer(2 * MAX_WAITING)), Unavailable)
        for board in (self.first, self.second):
            self.assertEqual(len(board.serve()), MAX_WAITING)
        for number, result in enumerate(results):
            self.signed(result, transfer(number))


class PoolTestCase(TestCase):
    """Simulated boards on real pseudo-terminals; the pool's own time is the test's."""

    timeout = 20

    def setUp(self) -> None:
        self.clock = Clock()
        self.hsm = self.board()
        self.pool = HsmPool(self.clock, lambda: self.hsm.boards(), partial(open_port, reactor))

    def board(self, serial_number: str = "first", link: str | None = None) -> Simulator:
        """A board that is plugged in."""
        firmware = Firmware(enabled=dict.fromkeys(Slot, (0x03, 0x11, 0x12, 0x13)))
        hsm = Simulator(reactor, firmware, 0, link, serial_number)
        hsm.startService()
        self.addCleanup(hsm.stopService)
        return hsm

    def start(self, pool: HsmPool | None = None) -> None:
        """Start a pool that ends with the test."""
        running = pool or self.pool
        running.startService()
        self.addCleanup(lambda: running.stopService() if running.running else None)

    async def pull(self) -> None:
        """Pull the board out, and wait until the pool has noticed."""
        noticed = Deferred.fromCoroutine(self.pool.changed(60))
        self.hsm.unplug()
        await noticed

    async def signed(self, message: bytes = PAYLOADS["transfer"]) -> None:
        """Check that messages are signed."""
        signature = await self.pool.sign(TZ3, message).result
        self.assertTrue(is_signature(Slot.TZ3, 3, message, signature.data))

    async def refused(self, message: bytes = PAYLOADS["transfer"]) -> str:
        """Why a message is not signed now, nor for as long as a request has patience."""
        asked: Deferred[Any] = self.pool.sign(TZ3, message).result
        self.clock.advance(2)
        return str(await self.assertFailure(asked, Unavailable))


class PoolTests(PoolTestCase):
    """Boards that are found, lost, and found again."""

    async def test_signs(self) -> None:
        """A board is found and opened, and signs for each of its addresses with its slot."""
        self.start()
        for key, slot in [(TZ1, Slot.TZ1), (TZ2, Slot.TZ2), (TZ3, Slot.TZ3)]:
            self.assertEqual(await self.pool.public_key(key), KEYS[slot])
            signature = await self.pool.sign(key, PAYLOADS["transfer"]).result
            self.assertTrue(is_signature(slot, 3, PAYLOADS["transfer"], signature.data))
        (device,) = self.pool.devices.values()
        self.assertEqual(await device.verify(Slot.TZ2, b"\x03a", signature).result, False)

    async def test_no_board(self) -> None:
        """Without a board a request has patience for two seconds, and is refused then."""
        self.hsm.unplug()
        self.start()
        self.assertEqual(await self.refused(), f"no connected HSM holds {TZ3}")
        self.assertIsNone(self.pool.known_key(TZ3))
        asked = Deferred.fromCoroutine(self.pool.public_key(TZ3))
        self.clock.advance(1.9)
        self.assertNoResult(asked)
        self.clock.advance(0.1)
        self.failureResultOf(asked, Unavailable)

    async def test_gone_and_back(self) -> None:
        """A board that was pulled out is known further on, and used again when it is back."""
        self.start()
        await self.pool.public_key(TZ3)
        await self.pull()
        self.assertEqual(await self.pool.public_key(TZ3), KEYS[Slot.TZ3])
        self.assertEqual(self.pool.known_key(TZ3), KEYS[Slot.TZ3])
        self.assertIn(f"no connected HSM holds {TZ3}", await self.refused())
        self.hsm.plug_in()
        back = Deferred.fromCoroutine(self.pool.changed(60))
        self.clock.advance(2)
        await back
        await self.signed()

    async def test_request_outlasts_replugging(self) -> None:
        """A request that comes while the board is away is signed when it is back in time."""
        self.start()
        await self.pool.public_key(TZ3)
        await self.pull()
        asked = self.pool.sign(TZ3, PAYLOADS["transfer"])
        self.clock.advance(1)
        self.hsm.plug_in()
        self.clock.advance(0.5)
        signature = await asked.result
        self.assertTrue(is_signature(Slot.TZ3, 3, PAYLOADS["transfer"], signature.data))

    async def test_unplugged_but_not_noticed(self) -> None:
        """A request in the moment of unplugging fails as any without a board."""
        self.start()
        await self.pool.public_key(TZ3)
        self.hsm.unplug()
        self.pool.sign(TZ1, PAYLOADS["transfer"]).result.addErrback(lambda _: None)
        asked = self.pool.sign(TZ3, block(9, 0), Priority.BLOCK).result
        noticed = Deferred.fromCoroutine(self.pool.changed(60))
        noticed.addCallback(lambda _: self.clock.pump([0.5] * 10))
        await self.assertFailure(asked, Unavailable)
        await noticed

    async def test_withdrawn(self) -> None:
        """A request that has not reached a board can be withdrawn, one that has cannot."""
        self.hsm.unplug()
        self.start()
        waiting = self.pool.sign(TZ3, PAYLOADS["transfer"])
        waiting.withdraw()
        self.clock.advance(2)
        await self.assertFailure(waiting.result, Unavailable)
        self.hsm.plug_in()
        self.clock.advance(2)
        await self.pool.public_key(TZ3)
        sent = self.pool.sign(TZ3, PAYLOADS["transfer"])
        sent.withdraw()
        await sent.result

    async def test_told_of_a_change(self) -> None:
        """When something happens to the ports, the pool does not wait for its next look."""
        tell: list[Callable[[], object]] = []
        ended: list[bool] = []

        def watch(callback: Callable[[], object]) -> Callable[[], object]:
            tell.append(callback)
            return lambda: ended.append(True)

        self.hsm.unplug()
        self.pool = HsmPool(self.clock, self.hsm.boards, partial(open_port, reactor), watch)
        self.start()
        self.clock.pump([0.5] * 10)
        self.hsm.plug_in()
        tell[0]()
        self.clock.advance(0.06)
        await self.pool.public_key(TZ3)
        self.pool.stopService()
        self.assertEqual(ended, [True])

    async def test_search_goes_on(self) -> None:
        """A look for boards that fails does not end the search."""

        def find() -> list[Board]:
            if self.clock.seconds() < 1:
                raise OSError(5, "a board vanished while it was looked at")
            return self.hsm.boards()

        self.pool = HsmPool(self.clock, find, partial(open_port, reactor))
        self.start()
        self.clock.pump([0.25] * 12)
        await self.pool.public_key(TZ3)
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 2)

    async def test_two_boards(self) -> None:
        """Of two boards with one key, the other takes over when one is pulled out."""
        other = self.board("second")
        self.pool = HsmPool(
            self.clock, lambda: self.hsm.boards() + other.boards(), partial(open_port, reactor)
        )
        self.start()
        while sum(device.ready for device in self.pool.devices.values()) < 2:
            await self.pool.changed(60)
        used: list[str] = []
        self.hsm.observer = lambda _: used.append("first")
        other.observer = lambda _: used.append("second")
        await gatherResults([self.pool.sign(TZ3, transfer(n)).result for n in range(4)])
        self.assertEqual(set(used), {"first", "second"})
        await self.pull()
        used.clear()
        await self.signed()
        self.assertEqual(set(used), {"second"})

    async def test_stop(self) -> None:
        """When the pool stops, its ports are free, and nothing is left to happen."""
        self.start()
        await self.pool.public_key(TZ3)
        self.pool.stopService()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.pool = HsmPool(self.clock, self.hsm.boards, partial(open_port, reactor))
        self.start()
        await self.pool.public_key(TZ3)


class PortTests(PoolTestCase):
    """Who may have a port open."""

    async def test_exclusive(self) -> None:
        """A port that one pool has open is refused to a second, which harms the first in no way."""
        self.start()
        await self.pool.public_key(TZ3)
        second = HsmPool(self.clock, self.hsm.boards, partial(open_port, reactor))
        with capturedLogs() as events:
            self.start(second)
            self.clock.pump([0.5] * 10)
        errors = [formatEvent(e) for e in events if e["log_level"] is LogLevel.error]
        self.assertEqual(len(errors), 1)
        self.assertIn(f"first at {self.hsm.port}: cannot be opened: ", errors[0])
        await self.signed()
        self.pool.stopService()
        self.clock.pump([0.5] * 10)
        self.assertEqual(await second.public_key(TZ3), KEYS[Slot.TZ3])

    async def test_missing_port(self) -> None:
        """A port of the configuration that is not there is reported once, and found later."""
        link = Path(self.mktemp()).absolute()
        self.pool = HsmPool(self.clock, lambda: [Board(str(link))], partial(open_port, reactor))
        with capturedLogs() as events:
            self.start()
            self.clock.pump([0.5] * 20)
        errors = [formatEvent(e) for e in events if e["log_level"] is LogLevel.error]
        self.assertEqual(len(errors), 1)
        self.assertIn(f"{link}: cannot be opened: ", errors[0])
        self.assertIn("No such file or directory", errors[0])
        link.symlink_to(str(self.hsm.port))
        self.clock.advance(1)
        await self.pool.public_key(TZ3)

    async def test_no_serial_port(self) -> None:
        """What is no terminal is refused, not a fault."""
        file = Path(self.mktemp())
        file.write_text("no port")
        self.pool = HsmPool(self.clock, lambda: [Board(str(file))], partial(open_port, reactor))
        with capturedLogs() as events:
            self.start()
            self.clock.advance(1)
        self.assertIn("cannot be opened", str([formatEvent(event) for event in events]))
        self.assertEqual(file.read_text(), "no port")

    def locked_by_the_kernel(self, link: str | None) -> bool:
        """Whether the kernel refuses the port to everybody while it is open here."""
        hsm = self.board("other", link)
        protocol = HsmProtocol(self.clock, bool, "other")
        port = open_port(reactor, protocol, link or str(hsm.port))
        flag = fcntl.ioctl(port.fileno(), 0x80045440, bytes(4))  # TIOCGEXCL, which Python has not
        port.abort()
        return any(flag)

    async def test_kernel_lock(self) -> None:
        """A serial port is locked for all programs; a pseudo-terminal would stay so for ever."""
        self.assertFalse(self.locked_by_the_kernel(None))
        self.assertFalse(self.locked_by_the_kernel(str(Path(self.mktemp()).absolute())))
        self.patch(serialhsm, "_PSEUDO_TERMINALS", "/none")
        self.assertTrue(self.locked_by_the_kernel(None))

    async def test_abort(self) -> None:
        """A port is left at once, also when its device is gone or takes nothing, and only once."""
        for gone in (False, True):
            lost: list[bool] = []
            hsm = self.board("other")
            protocol = HsmProtocol(self.clock, lambda lost=lost: lost.append(True), "x")  # type: ignore[misc]
            port = open_port(reactor, protocol, str(hsm.port))
            self.assertFalse(port.unsent)
            if gone:
                hsm.unplug()
                port.forget_input()
                self.assertTrue(port.unsent)
            else:
                protocol.exchange(ASK_KEY, read_key).addErrback(lambda _: None)
                self.assertTrue(port.unsent)
            port.abort()
            port.abort()
            self.assertEqual(lost, [True])


class NonceTests(PoolTestCase):
    """A nonce that comes twice exposes the secret key."""

    async def test_repeated_nonce(self) -> None:
        """The second message with one r is not signed, nor any after it, and the log cries out."""
        self.hsm.firmware.failing.add("nonce")
        self.start()
        await self.pool.public_key(TZ3)
        await self.signed(transfer(1))
        await self.signed(transfer(1))
        with capturedLogs() as events:
            asked = self.pool.sign(TZ3, transfer(2))
            error = await self.assertFailure(asked.result, Forbidden)
        self.assertIn("exposes the secret key", str(error))
        (critical,) = [e for e in events if e["log_level"] is LogLevel.critical]
        self.assertIn(str(TZ3), formatEvent(critical))
        self.hsm.observer = lambda data: self.fail(data.hex())
        await self.assertFailure(self.pool.sign(TZ3, transfer(1)).result, Forbidden)
        self.hsm.observer = bytes
        await self.pool.sign(TZ1, transfer(2)).result
