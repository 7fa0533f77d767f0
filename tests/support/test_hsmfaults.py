"""The faults of the simulated HSM: each does what it says, and nothing else goes wrong."""

import os
from random import Random

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.support.hsmdevice import KEYS
from tests.support.hsmfaults import Fault, FaultyHsm, Pace, at_random
from tezio_signer.hsm import framing
from tezio_signer.hsm.framing import FramingError, Slot, StatusReply
from tezio_signer.reactors import Reactor
from tezio_signer.simulator.firmware import Firmware
from tezio_signer.tezos.keys import Signature

ASK = framing.get_public_key(Slot.TZ1)
KEY_REPLY = framing.reply(KEYS[Slot.TZ1].data)
MESSAGE = b"\x03 a message"
SIGN = framing.sign(Slot.TZ1, MESSAGE)
PACE = Pace(late=3, away=0.5, gap=0.001, stuck=5)


class _Device(FaultyHsm):
    """A faulty device on a line of its own instead of a pseudo-terminal."""

    def __init__(self, clock: Clock, *faults: Fault | None, seed: int = 1) -> None:
        plan = iter(faults)
        super().__init__(
            _as_reactor(clock), Firmware(), lambda _: next(plan, None), Random(seed), 0, PACE
        )
        self.said = b""
        self.running = 1
        self.left = 0
        self.deaf = False
        self.line = self._make_line(self._say)

    def _say(self, data: bytes) -> None:
        self.said += data

    def leave(self) -> None:
        self.left += 1

    def get_stuck(self) -> None:
        self.deaf = True


def _as_reactor(clock: Clock) -> Reactor:
    return clock  # type: ignore[return-value]


class FaultTests(SynchronousTestCase):
    """One exchange with one fault."""

    def _after(self, fault: Fault, request: framing.Request = ASK, seed: int = 1) -> _Device:
        """A device that was asked while this fault happens, and given time to answer."""
        self.clock = Clock()
        device = _Device(self.clock, fault, seed=seed)
        device.line.received(request.frame())
        self.clock.pump([0.001] * 200)
        self.assertEqual(device.counts[fault], 1)
        return device

    def test_no_reply(self) -> None:
        """Silence is silence, also later; a stuck or pulled device does not even try."""
        for fault in (Fault.LOST, Fault.SILENCE, Fault.UNPLUGGED_BEFORE, Fault.STUCK):
            device = self._after(fault)
            self.clock.pump([1] * 10)
            self.assertEqual(device.said, b"", fault)
            self.assertEqual(device.left, fault is Fault.UNPLUGGED_BEFORE)
            self.assertEqual(device.deaf, fault is Fault.STUCK)

    def test_late(self) -> None:
        """A delayed reply comes whole, between once and twice the time of the pace."""
        device = self._after(Fault.DELAY)
        self.clock.advance(PACE.late - 0.3)
        self.assertEqual(device.said, b"")
        self.clock.advance(PACE.late + 0.3)
        self.assertEqual(device.said, KEY_REPLY)

    def test_spoilt(self) -> None:
        """What is cut, dropped or flipped can never be read as the reply."""
        for fault in (Fault.CUT, Fault.DROPPED, Fault.FLIPPED):
            for seed in range(50):
                said = self._after(fault, seed=seed).said
                self.assertNotEqual(said, KEY_REPLY)
                try:
                    split = framing.split_reply(said)
                except FramingError:
                    continue
                self.assertIsNone(split)

    def test_forged(self) -> None:
        """A forged reply frames, and is not what the device would have said."""
        for seed in range(20):
            split = framing.split_reply(self._after(Fault.FORGED, seed=seed).said)
            assert split is not None
            self.assertEqual((len(split[0]), split[1]), (32, b""))
            self.assertNotEqual(split[0], KEYS[Slot.TZ1].data)

    def test_whole(self) -> None:
        """The reply is there with these faults, and something else with it."""
        self.assertEqual(self._after(Fault.CHATTER).said, b"15\r\n" + KEY_REPLY)
        self.assertEqual(self._after(Fault.DOUBLED).said, 2 * KEY_REPLY)
        self.assertEqual(self._after(Fault.SLOW).said, KEY_REPLY)
        garbage = self._after(Fault.GARBAGE).said
        self.assertTrue(garbage.endswith(KEY_REPLY) and len(garbage) > len(KEY_REPLY))
        pulled = self._after(Fault.UNPLUGGED_AFTER)
        self.assertEqual((pulled.said, pulled.left), (KEY_REPLY, 1))

    def test_pulled_while_it_answers(self) -> None:
        """Of the reply of a device that is pulled out, the beginning came."""
        device = self._after(Fault.UNPLUGGED_DURING)
        self.assertEqual(device.left, 1)
        self.assertTrue(KEY_REPLY.startswith(device.said) and device.said != KEY_REPLY)

    def test_status(self) -> None:
        """A status of the table comes instead of the answer."""
        split = framing.split_reply(self._after(Fault.STATUS, SIGN).said)
        assert split is not None
        self.assertRaises(StatusReply, framing.signature_from, split[0])

    def test_previous(self) -> None:
        """The reply of the exchange before comes again."""
        clock = Clock()
        device = _Device(clock, None, Fault.PREVIOUS)
        device.line.received(ASK.frame())
        device.line.received(framing.get_public_key(Slot.TZ2).frame())
        self.assertEqual(device.said, 2 * KEY_REPLY)

    def test_other_key(self) -> None:
        """A signature of a key that is not the slot's; the next one is of the right key."""
        device = self._after(Fault.OTHER_KEY, SIGN)
        device.line.received(SIGN.frame())
        first, rest = framing.split_reply(device.said) or (b"", b"")
        second, _ = framing.split_reply(rest) or (b"", b"")
        key = KEYS[Slot.TZ1]
        self.assertFalse(key.verifies(MESSAGE, Signature(None, first)))
        self.assertTrue(key.verifies(MESSAGE, Signature(None, second)))

    def test_pulled_line_is_dead(self) -> None:
        """What a device still had to say when it was pulled out is said to nobody."""
        device = self._after(Fault.DELAY)
        device.line.stop()
        self.clock.advance(10)
        self.assertEqual(device.said, b"")


class AtRandomTests(SynchronousTestCase):
    """The plan of a campaign."""

    def test_share(self) -> None:
        """The same seed gives the same faults, in the share that was asked for."""
        plans = [at_random(Random(7), 0.2) for _ in range(2)]
        drawn = [[plan(b"") for _ in range(5000)] for plan in plans]
        self.assertEqual(drawn[0], drawn[1])
        self.assertTrue(900 < sum(fault is not None for fault in drawn[0]) < 1100)
        self.assertEqual(set(drawn[0]) - {None}, set(Fault))


class LeavingTests(SynchronousTestCase):
    """A device that is pulled out comes back under another name."""

    def test_comes_back(self) -> None:
        """It is back within the time of its pace; stopped meanwhile, it stays away."""
        from tests.support.harness import reactor

        clock = Clock()
        device = FaultyHsm(reactor, Firmware(), lambda _: None, Random(1), 0, PACE)
        self.patch(device, "later", clock.callLater)
        device.startService()
        first = device.port
        device.leave()
        self.assertEqual(device.boards(), [])
        other = os.openpty()  # takes the name that has become free
        self.addCleanup(os.close, other[0])
        self.addCleanup(os.close, other[1])
        clock.advance(PACE.away)
        self.assertNotIn(device.port, (None, first))
        device.stopService()
        self.assertIsNone(device.port)
