"""The path of a request when the watermark store fails, is slow or knows better."""

from typing import cast

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import Clock
from twisted.trial.unittest import TestCase

from tests.support.harness import FAULT, Harness, HeldHarness, reactor, settings_with, submission
from tests.support.octezclient import good, message_in, text_in
from tests.support.stores import FailingStore, HeldWriter, watermarks_on
from tests.support.vectors import PAYLOADS, TZ2, TZ3, block
from tezio_signer.errors import Unavailable
from tezio_signer.signer import Signer
from tezio_signer.tezos.keys import Curve, Signature, digest
from tezio_signer.tezos.payload import Baking, decode
from tezio_signer.watermarks.rule import Mark, MarkId
from tezio_signer.watermarks.store import StoreError

NOOP = PAYLOADS["noop"]
DEADLINE = 6.0


class StoreTests(TestCase):
    """No signature leaves without a watermark that lasts."""

    def setUp(self) -> None:
        self.store = FailingStore()
        self.harness = Harness(settings_with(), store=lambda: self.store)

    async def test_failing_store(self) -> None:
        """Without a stored mark there is no signature, and everything else is signed."""
        await self.harness.start(self)
        self.store.error = StoreError("disk full")
        answers = await gatherResults(
            [Deferred.fromCoroutine(self.harness.sign(TZ3, block(7, 0))) for _ in range(2)]
        )
        for answer in answers:
            self.assertEqual(answer.status, 502)
            self.assertEqual(
                message_in(answer.body), "no signature without a stored watermark: disk full"
            )
        # What needs no watermark is signed, and so is what comes when the disk is well again.
        self.assertEqual((await self.harness.sign(TZ3, NOOP)).status, 200)
        self.store.error = None
        answer = await self.harness.sign(TZ3, block(8, 0))
        self.assertTrue(good(TZ3, block(8, 0), text_in(answer.body, "signature")))
        self.assertEqual((await self.harness.sign(TZ3, block(7, 0, 9))).status, 409)

    async def test_same_payload_when_the_disk_is_back(self) -> None:
        """What the HSM signed while the disk was full leaves when it can be stored.

        The HSM would refuse to sign it a second time.
        """
        await self.harness.start(self)
        self.store.error = self.store.signature_error = StoreError("disk full")
        for _ in range(2):
            self.assertEqual((await self.harness.sign(TZ3, block(7, 0))).status, 502)
        self.store.error = self.store.signature_error = None
        answer = await self.harness.sign(TZ3, block(7, 0))
        self.assertEqual(answer.status, 200, answer.body)
        self.assertTrue(good(TZ3, block(7, 0), text_in(answer.body, "signature")))

    async def test_said_at_once(self) -> None:
        """That the mark is not stored is said before the HSM has signed, whose answer is kept."""
        harness = HeldHarness(store=lambda: self.store)
        await harness.start(self)
        self.store.error = self.store.signature_error = StoreError("disk full")
        answering = Deferred.fromCoroutine(harness.sign(TZ3, block(7, 0)))
        await harness.asked()
        self.assertEqual((await answering).status, 502)
        self.store.error = self.store.signature_error = None
        harness.answer()
        stored = await self.store.signed.get()
        assert stored.signature is not None
        answer = await harness.sign(TZ3, block(7, 0))
        self.assertEqual(text_in(answer.body, "signature"), str(stored.signature))
        self.assertEqual(harness.messages(), [block(7, 0)])

    async def test_not_stored_while_the_hsm_is_busy(self) -> None:
        """What waits for the HSM when its mark is not stored does not reach it."""
        harness = HeldHarness(store=lambda: self.store)
        await harness.start(self)
        first = Deferred.fromCoroutine(harness.sign(TZ3, NOOP))
        await harness.asked()
        self.store.error = StoreError("disk full")
        for _ in range(3):
            self.assertEqual((await harness.sign(TZ3, block(7, 0))).status, 502)
        harness.answer()
        self.assertEqual((await first).status, 200)
        await harness.signer.drained()
        self.assertEqual(harness.messages(), [NOOP])

    async def test_signature_not_stored(self) -> None:
        """A signature that is not stored does not leave; the same one does when it is.

        Otherwise the block might be signed anew after a restart: with another signature
        it has another hash, and two blocks at one level and round are punished.
        """
        await self.harness.start(self)
        self.store.signature_error = StoreError("disk full")
        for _ in range(2):
            answer = await self.harness.sign(TZ3, block(7, 0))
            self.assertEqual(answer.status, 502)
        self.store.signature_error = None
        answer = await self.harness.sign(TZ3, block(7, 0))
        self.assertTrue(good(TZ3, block(7, 0), text_in(answer.body, "signature")))

    async def test_stored_signature_is_verified(self) -> None:
        """A stored signature that does not verify, as of a damaged import, is not released."""
        data = block(7, 0)
        mark_id = MarkId.of(TZ3, cast(Baking, decode(data)))
        self.store.keep([(mark_id, Mark(7, 0, digest(data), Signature(Curve.P256, bytes(64))))])
        await self.harness.start(self)
        answer = await self.harness.sign(TZ3, data)
        self.assertEqual(answer.status, 502)
        self.assertIn("does not verify", message_in(answer.body))

    async def test_fault(self) -> None:
        """What nobody expected is a 500 that gives nothing away; the log has the traceback."""
        await self.harness.start(self)
        self.store.error = RuntimeError("a detail from inside")
        answer = await self.harness.sign(TZ3, block(7, 0))
        self.assertEqual((answer.status, message_in(answer.body)), (500, FAULT))
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
        self.assertEqual((await self.harness.sign(TZ3, NOOP)).status, 200)

    async def test_hanging_disk(self) -> None:
        """Whoever waits for a disk that hangs is told so in time, for the first and again.

        What needs no watermark is signed meanwhile.
        """
        await self.harness.start(self)
        disk, clock = HeldWriter(), Clock()
        watermarks = watermarks_on(make_writer=lambda: disk)
        watermarks.startService()
        self.addCleanup(watermarks.stopService)
        signer = Signer(self.harness.settings, self.harness.hsms, watermarks, clock)
        told = "the watermark store has not written within 6 s"
        late = signer.submit(submission(block(7, 0)))
        await signer.submit(submission(NOOP))  # behind it at the HSM
        clock.advance(DEADLINE)
        self.assertEqual(self.failureResultOf(late, Unavailable).getErrorMessage(), told)
        disk.write_one()  # the mark; now the signature hangs
        for _ in range(2):
            late = signer.submit(submission(block(7, 0)))
            self.assertNoResult(late)
            clock.advance(DEADLINE)
            self.assertEqual(self.failureResultOf(late, Unavailable).getErrorMessage(), told)
        last = signer.submit(submission(block(7, 0)))
        signer.refuse_all("the signer is stopping")
        self.failureResultOf(last, Unavailable)
        drained = signer.drained()
        self.assertNoResult(drained)
        disk.write()
        self.successResultOf(drained)
        again = self.successResultOf(signer.submit(submission(block(7, 0))))
        self.assertTrue(good(TZ3, block(7, 0), again))

    async def test_waits_for_the_disk(self) -> None:
        """The signature is made while its mark is written, and leaves after that."""
        held = HeldHarness()
        await held.start(self)
        disk = HeldWriter()
        watermarks = watermarks_on(make_writer=lambda: disk)
        watermarks.startService()
        self.addCleanup(watermarks.stopService)
        signer = Signer(held.settings, held.hsms, watermarks, reactor)
        # The disk first, then the HSM; the signature itself is written as well.
        request = signer.submit(submission(block(7, 0)))
        await held.asked()
        self.assertEqual(disk.write(), 1)
        self.assertNoResult(request)
        held.answer()
        # The HSM first: that its answer was read shows in the next command.
        second = signer.submit(submission(block(8, 0), TZ2))
        await held.asked()
        self.assertNoResult(request)
        self.assertEqual(disk.write(), 2)
        self.assertTrue(good(TZ3, block(7, 0), self.successResultOf(request)))
        held.answer()
        third = signer.submit(submission(NOOP))
        await held.asked()
        self.assertEqual(disk.write(), 1)
        self.assertTrue(good(TZ2, block(8, 0), self.successResultOf(second)))
        held.answer()
        await third
