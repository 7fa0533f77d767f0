"""The path of a request when the HSM refuses, is late or wrong."""

from typing import Any

from attrs import evolve
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import TestCase

from tests.support.harness import (
    FAULT,
    Harness,
    HeldHarness,
    failure_of,
    reactor,
    settings_with,
    submission,
)
from tests.support.octezclient import HSM_KEYS, good, message_in, text_in
from tests.support.stores import FailingStore
from tests.support.vectors import OCTEZ, PAYLOADS, TZ3, block, noop
from tezio_signer.errors import Conflict, Unavailable
from tezio_signer.hsm.framing import Opcode, Slot
from tezio_signer.simulator.firmware import SKETCH_POLICY, Firmware
from tezio_signer.simulator.keys import SoftKey
from tezio_signer.tezos.keys import PublicKeyHash, Signature, digest
from tezio_signer.tezos.payload import Operation
from tezio_signer.watermarks.rule import Mark, MarkId
from tezio_signer.watermarks.store import StoreError

NOOP = PAYLOADS["noop"]
ANOTHER = noop(2)


class LateTests(TestCase):
    """Answers of the device that come when it was given up."""

    async def _given_up(self, harness: HeldHarness, clock: Clock, payload: bytes) -> BaseException:
        request = failure_of(harness.signer.submit(submission(payload)))
        await harness.asked()
        while not request.called:
            self.assertLess(clock.seconds(), 10)
            clock.advance(0.1)
        return await request

    async def test_late_signature_is_kept(self) -> None:
        """A signature that comes after the request has failed is there when it is repeated."""
        store, clock = FailingStore(), Clock()
        harness = HeldHarness(store=lambda: store, clock=clock)
        await harness.start(self)
        failure = await self._given_up(harness, clock, block(7, 0))
        self.assertIsInstance(failure, Unavailable)
        self.assertIn("did not answer within", str(failure))
        harness.answer()
        await store.signed.get()
        again = await harness.signer.submit(submission(block(7, 0)))
        self.assertTrue(good(TZ3, block(7, 0), again))
        self.assertEqual(harness.messages(), [block(7, 0)])

    async def test_late_and_without_a_mark(self) -> None:
        """A signature whose mark could not be stored brings it along when it comes late."""
        store, clock = FailingStore(), Clock()
        harness = HeldHarness(store=lambda: store, clock=clock)
        await harness.start(self)
        store.error = StoreError("disk full")
        failure = await self._given_up(harness, clock, block(7, 0))
        self.assertEqual(str(failure), "no signature without a stored watermark: disk full")
        store.error = None
        harness.answer()
        stored = await store.signed.get()
        self.assertEqual((stored.level, stored.round), (7, 0))
        again = await harness.signer.submit(submission(block(7, 0)))
        self.assertEqual(again, stored.signature)


class OwnMarkTests(TestCase):
    """What the device refuses by its own watermark, which knows no chain."""

    async def test_other_chain(self) -> None:
        """The refusal says what that mark is, for which chain it matters, and what to do."""
        harness = Harness(settings_with(), Firmware(marks={(Slot.TZ3, 0x11): (2**31 - 1, 0)}))
        await harness.start(self)
        answer = await harness.sign(TZ3, block(7, 1))
        self.assertEqual(answer.status, 409)
        self.assertEqual(
            message_in(answer.body),
            "the HSM answered D4: the device's own watermark refuses this level and round; that "
            "mark is kept for each key and operation since the board was plugged in, and knows no "
            "chain: another chain, or another program, may have moved it; if block at level 7 "
            "round 1 is right for NetXdQprcVkpaWU, unplug the board and plug it in again, which "
            "clears its mark and leaves the watermarks of this signer as they are",
        )
        harness.firmware._initial_marks.clear()
        harness.firmware.power_cycle()
        self.assertEqual((await harness.sign(TZ3, block(7, 1))).status, 200)

    async def test_asked_before(self) -> None:
        """What it was asked for before, and did not sign, is said to be that."""
        harness = Harness(settings_with())
        await harness.start(self)
        harness.firmware.failing.add("sign")
        self.assertEqual((await harness.sign(TZ3, block(7, 0))).status, 502)
        harness.firmware.failing.clear()
        answer = await harness.sign(TZ3, block(7, 0))
        self.assertEqual(answer.status, 409)
        self.assertIn(
            "it was asked for this before and may have signed it, but its signature was lost; if",
            message_in(answer.body),
        )


class LostFrameTests(TestCase):
    """A frame that is lost on the way to the device."""

    async def test_signed_all_the_same(self) -> None:
        """The request is served when the device is in step again, by a second frame."""
        clock = Clock()
        harness = HeldHarness(clock=clock)
        await harness.start(self)
        lost: list[bytes] = []
        genuine = harness.simulator._line.received

        def lose(data: bytes) -> None:
            if data[3] == Opcode.SIGN and not lost:
                lost.append(data)
                reactor.callLater(0, clock.advance, 3)
                reactor.callLater(0, clock.advance, 0.2)
            else:
                genuine(data)

        self.patch(harness.simulator._line, "received", lose)
        request = harness.signer.submit(submission(block(7, 0)))
        await harness.asked()
        harness.answer()
        self.assertTrue(good(TZ3, block(7, 0), await request))
        self.assertEqual(harness.messages(), [block(7, 0)] * 2)

    async def test_silent_board_is_named(self) -> None:
        """While a board hangs, each refusal says that it does not answer, not that it is gone."""
        clock = Clock()
        harness = HeldHarness(clock=clock)
        await harness.start(self)
        self.patch(harness.simulator._line, "received", lambda _: None)
        requests = []
        for level in (7, 8, 9):
            requests.append(failure_of(harness.signer.submit(submission(block(level, 0)))))
            clock.pump([0.1] * 51)
        for request in requests:
            self.assertRegex(
                str(await request),
                rf"\Athe HSM simulated at \S+(, which holds {TZ3},)? did not answer within 3 s\Z",
            )


class ConflictTests(TestCase):
    """A claim that another daemon was first with."""

    async def test_withdrawn(self) -> None:
        """What waits for the HSM then never reaches it: it would be signed for nobody."""
        store = FailingStore()
        harness = HeldHarness(store=lambda: store)
        await harness.start(self)
        first = harness.signer.submit(submission(NOOP))
        await harness.asked()
        other = MarkId("NetXdQprcVkpaWU", TZ3, Operation.BLOCK)
        store.keep([(other, Mark(7, 0, digest(block(7, 0, 9))))])
        error = await failure_of(harness.signer.submit(submission(block(7, 0))))
        self.assertIsInstance(error, Conflict)
        following = harness.signer.submit(submission(ANOTHER))
        harness.answer()
        await first
        await harness.asked()
        self.assertEqual(harness.messages(), [NOOP, ANOTHER])
        harness.answer()
        await following
        await harness.signer.drained()


class DeviceTests(TestCase):
    """What a device answers instead of a signature."""

    async def test_statuses(self) -> None:
        """Statuses of the device become those of the API, and are named."""
        cases: list[tuple[str, int, Firmware, str]] = [
            ("D4", 409, Firmware(marks={(Slot.TZ3, 0x11): (2**31 - 1, 0)}), ""),
            ("B8", 403, Firmware(enabled={**SKETCH_POLICY, Slot.TZ3: (0x03,)}), ""),
            ("B0", 403, Firmware(disabled=[(Slot.TZ3, Opcode.SIGN)]), ""),
            ("AF", 502, Firmware(), "sign"),
            ("A1", 502, Firmware(), "begin"),
        ]
        for status, code, firmware, failing in cases:
            harness = Harness(settings_with(), firmware)
            await harness.start(self)
            firmware.failing |= {failing}
            answer = await harness.sign(TZ3, block(7, 0))
            self.assertEqual((status, answer.status), (status, code))
            self.assertIn(f"the HSM answered {status}: ", message_in(answer.body))

    async def test_chip_comes_to_itself(self) -> None:
        """A secure element that failed once signs the next time."""
        harness = Harness()
        await harness.start(self)
        harness.firmware.failing.add("sign")
        self.assertEqual((await harness.sign(TZ3, NOOP)).status, 502)
        harness.firmware.failing.clear()
        answer = await harness.sign(TZ3, NOOP)
        self.assertTrue(good(TZ3, NOOP, text_in(answer.body, "signature")))

    async def test_signature_that_does_not_verify(self) -> None:
        """A signature by another key is not released."""
        for payload in (NOOP, block(7, 0)):
            harness = Harness(settings_with())
            await harness.start(self)
            harness.be_impatient()
            harness.firmware.keys[Slot.TZ3] = SoftKey.parse(OCTEZ["keys"][3]["sk"])
            answer = await harness.sign(TZ3, payload)
            self.assertEqual(answer.status, 502)
            self.assertIn("does not verify", message_in(answer.body))
            self.assertIn(payload, harness.written)

    async def test_pool_is_not_believed(self) -> None:
        """Whatever says that it is the signature, the signer verifies it itself."""
        harness = Harness(settings_with())
        await harness.start(self)
        answer = await harness.sign(TZ3, block(7, 0))
        other = Signature.parse(text_in(answer.body, "signature"))
        genuine = harness.hsms.sign

        def lie(*args: Any) -> object:
            signing = genuine(*args)
            signing.result.addCallback(lambda _: other)
            return signing

        self.patch(harness.hsms, "sign", lie)
        for payload in (block(8, 0), NOOP):
            answer = await harness.sign(TZ3, payload)
            self.assertEqual(answer.status, 502)
            self.assertIn("does not verify", message_in(answer.body))
        self.patch(harness.hsms, "sign", genuine)
        self.assertEqual((await harness.sign(TZ3, NOOP)).status, 200)

    async def test_no_hsm(self) -> None:
        """A key that no connected HSM holds is a 502, to sign and to read."""
        key = PublicKeyHash.parse(OCTEZ["keys"][3]["pkh"])
        settings = settings_with()
        keys = {**settings.signing_keys, key: evolve(settings.signing_keys[TZ3], key=key)}
        harness = Harness(evolve(settings, signing_keys=keys))
        await harness.start(self)
        harness.be_impatient()
        for payload in (NOOP, block(7, 0)):
            answer = await harness.sign(key, payload)
            self.assertEqual(answer.status, 502)
            self.assertEqual(message_in(answer.body), f"no connected HSM holds {key}")
        answer = await harness.request("GET", f"/keys/{key}")
        self.assertEqual(answer.status, 502)
        self.assertEqual(message_in(answer.body), f"no connected HSM holds {key}")
        self.assertEqual(harness.written, b"")

    async def test_unplugged(self) -> None:
        """An HSM that is pulled out is a 502, for who waits for it and for who comes then."""
        harness = HeldHarness()
        await harness.start(self)
        harness.be_impatient()
        waiting = Deferred.fromCoroutine(harness.sign(TZ3, NOOP))
        await harness.asked()
        harness.simulator.unplug()
        self.assertEqual((await waiting).status, 502)
        self.assertEqual((await harness.sign(TZ3, ANOTHER)).status, 502)
        # Its public key is known by now.
        answer = await harness.request("GET", f"/keys/{TZ3}")
        self.assertEqual(text_in(answer.body, "public_key"), HSM_KEYS[2].public_key)

    async def test_fault_of_a_route(self) -> None:
        """A fault outside of signing is a 500 without a traceback, too."""
        harness = Harness()
        await harness.start(self)

        def broken(key: PublicKeyHash) -> Deferred[object]:
            raise RuntimeError(f"a detail about {key}")

        self.patch(harness.hsms, "public_key", broken)
        answer = await harness.request("GET", f"/keys/{TZ3}")
        self.assertEqual((answer.status, message_in(answer.body)), (500, FAULT))
        self.assertEqual(answer.headers["content-type"], "application/json")
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
