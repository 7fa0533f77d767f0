"""One HSM: its keys, its commands, and its way through unplugging and faults."""

import termios
from collections.abc import Sequence
from itertools import pairwise

from serial import SerialException
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import LogEvent, LogLevel, capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from tests.support.fakeboard import ANSWER, QUIET, FakeBoard, FakePorts
from tests.support.hsmdevice import KEYS, is_signature
from tests.support.vectors import AUTH, PAYLOADS, TZ1, TZ2, TZ3, block, noop
from tezio_signer.errors import Unavailable
from tezio_signer.hsm import framing
from tezio_signer.hsm.boards import Board
from tezio_signer.hsm.device import HsmDevice
from tezio_signer.hsm.exchange import NoAnswer, WrongAnswer
from tezio_signer.hsm.framing import FramingError, Opcode, Slot, StatusReply
from tezio_signer.simulator.firmware import Firmware
from tezio_signer.simulator.keys import TEST_KEYS, SoftKey
from tezio_signer.tezos import base58check
from tezio_signer.tezos.keys import Curve, Signature

KEY_FRAMES = [framing.get_public_key(slot).frame().hex() for slot in Slot]


class DeviceTestCase(SynchronousTestCase):
    """A device on a fake board."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.board = FakeBoard()
        self.changes = 0
        self.device = self.make()

    def make(self) -> HsmDevice:
        """A device that nobody has plugged in yet."""
        return HsmDevice(
            self.clock,
            Board("port", "board"),
            FakePorts(self.clock, list, self.board.open),
            self.on_change,
        )

    def on_change(self) -> None:
        """Count how often the device became ready or was lost."""
        self.changes += 1

    def plug_in(self) -> None:
        """Plug the device in, and let it say its keys."""
        self.device.plugged_in(self.device.board)
        self.board.serve()

    def sign(self, message: bytes, slot: Slot = Slot.TZ3) -> Deferred[Signature]:
        """Ask for a signature."""
        return self.device.sign(slot, message)

    def signed(self, asked: Deferred[Signature], message: bytes, slot: Slot = Slot.TZ3) -> None:
        """Check that the signature of a message has come."""
        signature = self.successResultOf(asked)
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

    def test_slot_that_fails_for_a_while(self) -> None:
        """A slot whose key is known is asked again when its chip fails, not forgotten."""
        self.plug_in()
        self.board.protocol.dataReceived(b"15\r\n")
        self.assertFalse(self.device.usable())
        self.clock.advance(QUIET)
        for _ in range(2):  # the two readings that a board has before it is left alone
            for frame in self.board.asked():
                self.board.protocol.dataReceived(framing.reply(b"\xb4"))
                self.assertIn("0011", frame)
        self.assertFalse(self.device.ready)
        self.clock.advance(1)
        self.plug_in()
        self.assertTrue(self.device.ready)
        self.assertEqual(self.device.keys, KEYS)

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
                "cannot be opened: another program has it; as root, fuser -v port names it",
                "cannot be opened: Input/output error; pull the board out, and plug it in again",
                "was unplugged",
                "cannot be opened: Permission denied",
            ],
        )

    def test_refused_again(self) -> None:
        """A port that may not be opened is told again when its board was away meanwhile."""
        self.board.refusal = SerialException("Permission denied")
        with capturedLogs() as events:
            for _ in range(2):
                self.device.plugged_in(self.device.board)
                self.device.unplugged()
                self.device.unplugged()
        self.assertEqual(
            [line.partition(": ")[2] for line in self.logged(events)],
            ["cannot be opened: Permission denied", "was unplugged"] * 2,
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

    def test_silent_device_plugged_in_again(self) -> None:
        """A device that rests is tried at once when its port was made anew meanwhile."""
        # Three times two commands of three seconds, with rests of one and two seconds.
        while self.clock.seconds() < 23:
            self.device.plugged_in(self.device.board)
            self.clock.advance(0.05)
        self.device.plugged_in(self.device.board)
        self.assertEqual(self.board.opened, 3)
        self.device.plugged_in(Board("port", "board", (2, 2)))
        self.assertEqual(self.board.opened, 4)

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

    def test_stray_bytes(self) -> None:
        """What comes unasked is waited out before the next command, which is no signature."""
        self.board.protocol.dataReceived(b"15\r\n")
        self.assertFalse(self.device.usable())
        self.assertEqual(self.board.asked(), [])
        self.clock.advance(QUIET)
        self.assertEqual(self.board.serve(), KEY_FRAMES)
        self.assertTrue(self.device.usable())

    def test_status(self) -> None:
        """A refusal of the device is passed on, and the device stays in use."""
        job = self.sign(block(0, 0))
        self.board.serve()
        self.assertEqual(self.failureResultOf(job, StatusReply).value.byte, 0xD4)
        self.assertTrue(self.device.usable())
        following = self.sign(PAYLOADS["noop"])
        self.board.serve()
        self.signed(following, PAYLOADS["noop"])

    def test_no_answer(self) -> None:
        """After a lost answer it is not used, and nothing is written for 200 ms."""
        job = self.sign(PAYLOADS["transfer"])
        self.board.asked()
        self.clock.advance(ANSWER)
        self.failureResultOf(job, NoAnswer)
        self.assertFalse(self.device.ready)
        self.assertEqual(self.device.trouble, "did not answer within 3 s")
        self.clock.advance(QUIET / 2)
        self.board.protocol.dataReceived(b"late")
        self.clock.advance(QUIET - 0.01)
        self.assertEqual(self.board.asked(), [])
        self.clock.advance(0.02)
        self.assertEqual(self.board.serve(), KEY_FRAMES)
        self.assertTrue(self.device.usable())

    def test_late_signature(self) -> None:
        """A signature that comes after its time is up still reaches who asked for it."""
        late: list[Signature] = []
        job = self.device.sign(Slot.TZ3, block(9, 0), late.append)
        (frame,) = self.board.asked()
        self.clock.advance(ANSWER)
        self.failureResultOf(job, NoAnswer)
        self.board.answer(frame)
        (signature,) = late
        self.assertTrue(is_signature(Slot.TZ3, 3, block(9, 0), signature.data))

    def test_late_at_every_moment(self) -> None:
        """Whenever a late answer comes, whole or in two pieces, it is never another's.

        The moments: while the device has to be quiet, between any two of the four commands
        for its keys, before, in front of and behind the answer to the next request.
        """
        for moment in range(12):
            for first_piece in (1, 2, 40, 68):
                with self.subTest(moment=moment, first_piece=first_piece):
                    self._late_at(moment, first_piece)

    def _late_at(self, moment: int, first_piece: int) -> None:
        self.setUp()
        self.plug_in()
        late: list[Signature] = []
        first, second = noop(1), noop(2)
        abandoned = self.device.sign(Slot.TZ3, first, late.append)
        (frame,) = self.board.asked()
        answer = self.board.firmware.execute(bytes.fromhex(frame)[1:])
        assert answer is not None
        pieces = [answer.packet[:first_piece], answer.packet[first_piece:]]
        self.clock.advance(ANSWER)
        self.failureResultOf(abandoned, NoAnswer)

        job: Deferred[Signature] | None = None
        for now in range(200):
            if job is None and self.device.usable():
                job = self.sign(second)
            if now >= moment and pieces:
                self.board.protocol.dataReceived(pieces.pop(0))
            for asked in self.board.asked():
                self.board.answer(asked)
            self.clock.advance(0.05)
            if job is not None and job.called and not pieces:
                break
        for signature in late:
            self.assertTrue(is_signature(Slot.TZ3, 3, first, signature.data))
        assert job is not None
        if not self._failed(job):
            self.signed(job, second)
        # Whatever that was, the device is itself again.
        for _ in range(20):
            self.clock.advance(1)
            self.board.serve()
        self.device.usable()
        self.clock.advance(QUIET)  # if something came unasked
        self.board.serve()
        once_more = self.sign(second)
        self.board.serve()
        self.signed(once_more, second)

    def _failed(self, asked: Deferred[Signature]) -> bool:
        """Whether it has failed, in a way that tells the caller to try again."""
        outcome: list[object] = []
        asked.addErrback(lambda failure: outcome.append(failure.trap(Unavailable)))
        return bool(outcome)

    def test_wrong_signature(self) -> None:
        """A signature that does not verify never leaves, and the device has to prove itself."""
        key = self.board.firmware.keys[Slot.TZ3]
        job = self.sign(PAYLOADS["transfer"])
        self.board.firmware.keys[Slot.TZ3] = self.board.firmware.keys[Slot.AUTH]
        (frame,) = self.board.asked()
        self.board.answer(frame)
        self.assertIn("does not verify", str(self.failureResultOf(job, WrongAnswer).value))
        self.assertFalse(self.device.ready)
        self.board.firmware.keys[Slot.TZ3] = key
        self.clock.advance(QUIET)
        self.board.serve()
        self.assertTrue(self.device.ready)

    def test_unplugged(self) -> None:
        """When the board is pulled out, it is known which command may have taken effect."""
        job = self.sign(PAYLOADS["transfer"])
        self.board.port.lose()
        self.failureResultOf(job, NoAnswer)
        self.assertEqual((self.device.ready, self.device.connection), (False, None))
        self.assertFalse(self.device.free)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_unplugged_while_asked_for_keys(self) -> None:
        """A board that is pulled out while it says its keys is used as soon as it is back."""
        self.board.port.lose()
        self.device.plugged_in(self.device.board)
        self.board.port.lose()
        self.assertFalse(self.device.ready)
        self.assertEqual(len(self.board.asked()), 1)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.plug_in()
        self.assertTrue(self.device.ready)

    def test_device_that_takes_nothing(self) -> None:
        """While a command still waits in the port, it must not be followed by another."""
        job = self.sign(PAYLOADS["transfer"])
        self.board.port.unsent = True
        self.clock.advance(ANSWER)
        self.failureResultOf(job, NoAnswer)
        self.assertIn("does not take what is written to it", self.device.trouble)
        self.assertEqual(self.board.port.take()[-1], "abort")
        self.assertFalse(self.device.ready)
