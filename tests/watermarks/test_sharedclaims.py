"""Claims on a store that other daemons write to as well: what is learnt, doubted, forgotten."""

from collections.abc import Callable
from typing import cast

from attrs import evolve
from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from tests.support.stores import SharedStore
from tests.support.vectors import TZ3, block, consensus
from tezio_signer.errors import Conflict, StartupError, Unavailable
from tezio_signer.tezos.keys import Curve, Signature, digest
from tezio_signer.tezos.payload import Baking, Operation, decode
from tezio_signer.watermarks.claims import Claim, Watermarks
from tezio_signer.watermarks.rule import Mark, MarkId
from tezio_signer.watermarks.store import StoreAwayError, StoreError

BLOCK = MarkId("NetXdQprcVkpaWU", TZ3, Operation.BLOCK)
OURS, THEIRS = block(100, 0, 0x40), block(100, 0, 0x41)
FIRST = Signature(Curve.P256, b"\x01" * 64)
SECOND = Signature(Curve.P256, b"\x02" * 64)


def mark_of(data: bytes, signature: Signature | None = None) -> Mark:
    """The mark of a payload."""
    payload = cast(Baking, decode(data))
    return Mark(payload.level, payload.round, digest(data), signature)


class SharedTestCase(SynchronousTestCase):
    """Watermarks on a shared store, started."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.store = SharedStore()
        self.ended: list[StartupError] = []
        self.watermarks = self.made()
        self.watermarks.startService()
        self.addCleanup(lambda: self.watermarks.running and self.watermarks.stopService())

    def made(self) -> Watermarks:
        """Watermarks that are not started yet."""
        return Watermarks(lambda: self.store, {}, self.clock, self.ended.append)

    def claim(self, data: bytes) -> Claim:
        """Claim the position of a payload."""
        return self.watermarks.claim(TZ3, cast(Baking, decode(data)), data)

    def stored(self, data: bytes, signature: Signature | None = None) -> Claim:
        """A claim that is in the store."""
        claim = self.claim(data)
        self.store.write()
        self.successResultOf(claim.durable)
        if signature is not None:
            completed = claim.complete(signature)
            self.store.write()
            self.assertEqual(self.successResultOf(completed), signature)
        return claim

    def failed(self, data: bytes) -> None:
        """A claim that does not reach the store."""
        claim = self.claim(data)
        self.store.fail()
        self.failureResultOf(claim.durable, Unavailable)

    def readings(self, advance: Callable[[], object]) -> int:
        """How often the store is read meanwhile."""
        before = self.store.loads
        advance()
        return self.store.loads - before


class LearningTests(SharedTestCase):
    """What a reading changes at the very position that was claimed here."""

    def test_another_payload(self) -> None:
        """Who came first in the store has the position, whatever was claimed here."""
        self.failed(OURS)
        self.store.marks[BLOCK] = mark_of(THEIRS, SECOND)
        self.clock.advance(1)
        self.assertIn("different data", str(self.assertRaises(Conflict, self.claim, OURS)))
        self.assertEqual(self.claim(THEIRS).signature, SECOND)

    def test_same_payload(self) -> None:
        """A signature that another daemon has stored is the one that leaves."""
        self.failed(OURS)
        self.store.marks[BLOCK] = mark_of(OURS, SECOND)
        self.clock.advance(1)
        claim = self.claim(OURS)
        self.assertEqual(claim.signature, SECOND)
        self.assertEqual(self.successResultOf(claim.durable), SECOND)

    def test_our_signature_is_not_forgotten(self) -> None:
        """One that is known here only is kept when the store shows its mark without any."""
        claim = self.stored(OURS)
        completed = claim.complete(FIRST)
        self.store.fail()
        self.failureResultOf(completed, Unavailable)
        self.clock.advance(1)
        again = self.claim(OURS)
        self.assertEqual(again.signature, FIRST)
        self.store.write()
        self.assertEqual(self.successResultOf(again.durable), FIRST)
        self.assertEqual(self.store.marks[BLOCK].signature, FIRST)

    def test_lower_one(self) -> None:
        """A lower mark in the store, also a signed one, moves none back here."""
        self.stored(OURS, FIRST)
        self.failed(block(101, 0))
        self.clock.advance(1)
        self.assertRaises(Conflict, self.claim, OURS)
        self.assertRaises(Conflict, self.claim, block(101, 0, 0x41))


class DoubtTests(SharedTestCase):
    """After a write that has failed: what is in the store is not known."""

    def test_conflict_is_not_sure(self) -> None:
        """What forbids a claim may be nothing but our own, which was never written."""
        self.failed(OURS)
        error = self.assertRaises(Unavailable, self.claim, THEIRS)
        self.assertIn("not known until the watermark store answers", str(error))
        self.assertIn("different data", str(error))
        self.clock.advance(1)
        self.assertRaises(Conflict, self.claim, THEIRS)

    def test_other_marks_are_sure(self) -> None:
        """The doubt is about one mark: another kind's conflict is one."""
        self.stored(consensus("att", 7, 0))
        self.failed(OURS)
        self.assertRaises(Conflict, self.claim, consensus("att_dal_5", 7, 0))

    def test_fails_while_it_is_read(self) -> None:
        """A reading that was under way when a write failed has cleared up nothing."""
        self.store.slow = True
        self.clock.advance(5)
        self.failed(OURS)
        self.store.show()
        self.assertRaises(Unavailable, self.claim, THEIRS)
        self.clock.advance(1)
        self.store.show()
        self.assertRaises(Conflict, self.claim, THEIRS)


class ReadingTests(SharedTestCase):
    """When the store is read again."""

    def test_every_five_seconds(self) -> None:
        """Others may move marks at any time."""
        self.assertEqual(self.readings(lambda: self.clock.advance(4.99)), 0)
        self.assertEqual(self.readings(lambda: self.clock.advance(0.01)), 1)
        self.assertEqual(self.readings(lambda: self.clock.pump([0.5] * 20)), 2)

    def test_soon_after_a_failure(self) -> None:
        """A write that failed is cleared up a second later, however many fail meanwhile."""
        self.clock.advance(5)
        self.failed(OURS)

        def second() -> None:
            for number in range(3):
                self.clock.advance(0.33)
                self.failed(consensus("att", 7 + number, 0))

        self.assertEqual(self.readings(second), 0)
        self.assertEqual(self.readings(lambda: self.clock.advance(0.01)), 1)
        # Nothing is in doubt any more, and there is time again: five seconds from the failure.
        self.assertEqual(self.readings(lambda: self.clock.pump([0.39] * 10)), 0)
        self.assertEqual(self.readings(lambda: self.clock.advance(0.2)), 1)

    def test_while_it_is_away(self) -> None:
        """A store that does not answer is asked every second; it is told when it is well again."""
        self.store.error = StoreAwayError("etcd is away")
        with capturedLogs() as events:
            self.clock.advance(5)
            self.assertEqual(self.readings(lambda: self.clock.pump([0.5] * 6)), 3)
        self.assertEqual(list(map(formatEvent, events)), [])  # what was read before still holds
        self.store.error = StoreError("no store any more")
        with capturedLogs() as events:
            self.clock.pump([1, 1])
        self.assertEqual(list(map(formatEvent, events)), ["no store any more"])
        self.store.error = None
        with capturedLogs() as events:
            self.clock.pump([1] * 20)
        self.assertEqual(list(map(formatEvent, events)), ["the watermark store is well again"])

    def test_not_read_yet(self) -> None:
        """Nothing can be claimed before the marks are known."""
        self.watermarks.stopService()
        self.store.slow = True
        self.watermarks = self.made()
        self.watermarks.startService()
        error = self.assertRaises(Unavailable, self.claim, OURS)
        self.assertEqual(str(error), "the watermark store has not been read yet")
        with capturedLogs() as events:
            self.store.show()
        self.assertEqual(list(map(formatEvent, events)), [])
        self.stored(OURS)


class ServiceTests(SharedTestCase):
    """Starting and stopping beside a store that answers late."""

    def test_running(self) -> None:
        """It runs from its start to its end, and nothing is left to happen then."""
        self.assertTrue(self.watermarks.running)
        self.watermarks.stopService()
        self.assertFalse(self.watermarks.running)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_no_store_at_the_start(self) -> None:
        """Who starts it is told that there is no store, and nobody else."""
        self.watermarks.stopService()
        self.store.error = StoreError("it is none")
        self.watermarks = self.made()
        error = self.assertRaises(StartupError, self.watermarks.startService)
        self.assertEqual((str(error), self.ended), ("it is none", []))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_no_store_after_the_start(self) -> None:
        """When it turns out later, the daemon is told to end."""
        self.watermarks.stopService()
        self.store.error = StoreAwayError("etcd is away")
        self.watermarks = self.made()
        with capturedLogs():
            self.watermarks.startService()
            self.store.error = StoreError("it is none")
        with capturedLogs() as events:
            self.clock.pump([1] * 10)
        self.assertEqual(list(map(str, self.ended)), ["it is none"])
        self.assertEqual((list(events), self.clock.getDelayedCalls()), ([], []))

    def test_stop_while_it_is_read(self) -> None:
        """A reading that its store gives up then is no fault."""
        self.store.slow = True
        self.clock.advance(5)
        with capturedLogs() as events:
            self.watermarks.stopService()
        self.assertEqual((list(events), self.ended), ([], []))

    def test_store_of_our_own(self) -> None:
        """One that nobody else writes to is read once."""
        self.watermarks.stopService()
        self.store.shared = False
        self.watermarks = self.made()
        self.assertEqual(self.readings(self.watermarks.startService), 1)
        self.failed(OURS)
        self.assertEqual(self.readings(lambda: self.clock.pump([1] * 10)), 0)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_failure_after_the_stop(self) -> None:
        """A write that fails when it is stopped is no fault, and brings no reading."""
        claim = self.claim(OURS)
        self.watermarks.stopService()
        self.store.fail()
        self.failureResultOf(claim.durable, Unavailable)
        self.assertEqual(self.clock.getDelayedCalls(), [])


class LostTests(SharedTestCase):
    """A mark that was in the store, and is there no more."""

    def setUp(self) -> None:
        super().setUp()
        self.stored(OURS, FIRST)
        self.store.marks.clear()
        self.store.brought.clear()
        with capturedLogs() as events:
            self.clock.advance(5)
        self.said = list(map(formatEvent, events))

    def test_written_back(self) -> None:
        """It is told which, and written back once."""
        self.assertEqual(
            self.said,
            [
                f"the mark of {TZ3} for block on NetXdQprcVkpaWU is written back to the "
                "watermark store: level 100 round 0"
            ],
        )
        self.assertEqual(self.store.brought, [mark_of(OURS, FIRST)])
        self.store.write()
        self.clock.pump([5] * 3)
        self.assertEqual(self.store.brought, [mark_of(OURS, FIRST)])

    def test_durable_again(self) -> None:
        """When it is back, its signature may leave without another write."""
        self.assertNoResult(self.claim(OURS).durable)
        self.store.write()
        self.store.brought.clear()
        self.assertEqual(self.successResultOf(self.claim(OURS).durable), FIRST)
        self.assertEqual(self.store.brought, [])

    def test_moved_meanwhile(self) -> None:
        """What another daemon has put there holds here, too."""
        self.store.marks[BLOCK] = mark_of(block(102, 0), SECOND)
        self.store.write()
        self.assertRaises(Conflict, self.claim, block(101, 0))
        self.assertEqual(self.claim(block(102, 0)).signature, SECOND)


class RestoredTests(SharedTestCase):
    """A backup was restored, and a write is the first to meet it."""

    def test_written_back(self) -> None:
        """What the answer to a late signature shows hides from no reading that a mark is lost."""
        claim = self.stored(OURS)
        self.stored(block(101, 0), SECOND)
        self.store.marks[BLOCK] = mark_of(OURS)
        completed = claim.complete(FIRST)
        self.store.write()
        self.assertEqual(self.successResultOf(completed), FIRST)
        with capturedLogs():
            self.clock.advance(5)
        self.store.write()
        self.assertEqual(self.store.marks, {BLOCK: mark_of(block(101, 0), SECOND)})


class PassedTests(SharedTestCase):
    """Payloads above which a mark has moved before their signature was stored."""

    def test_late_signature(self) -> None:
        """It may leave if it is ours that moved the mark: no other can be stored for it."""
        claim = self.stored(OURS)
        self.stored(block(101, 0))
        completed = claim.complete(FIRST)
        self.store.write()
        self.assertEqual(self.successResultOf(completed), FIRST)

    def test_moved_by_another(self) -> None:
        """It may not if another daemon moved it, which may have stored another signature."""
        claim = self.stored(OURS)
        self.store.marks[BLOCK] = mark_of(block(101, 0))
        completed = claim.complete(FIRST)
        self.store.write()
        error = self.failureResultOf(completed, Conflict).value
        self.assertIn("another signer has moved the high watermark to level 101", str(error))

    def test_only_so_many(self) -> None:
        """The last 1,024 are remembered; a signature that comes later than that is refused."""
        claims = [self.stored(block(100 + number, 0)) for number in range(1026)]
        for claim, remembered in ((claims[0], False), (claims[1], True), (claims[-2], True)):
            completed = claim.complete(FIRST)
            self.store.write()
            if remembered:
                self.assertEqual(self.successResultOf(completed), FIRST)
            else:
                self.failureResultOf(completed, Conflict)

    def test_signature_of_the_store(self) -> None:
        """The signature that a payload had when it was passed is the only one that leaves."""
        claim = self.stored(OURS)
        self.store.marks[BLOCK] = evolve(self.store.marks[BLOCK], signature=SECOND)
        self.stored(block(101, 0))
        completed = claim.complete(FIRST)
        self.store.write()
        self.assertEqual(self.successResultOf(completed), SECOND)


class FirstMarkTests(SharedTestCase):
    """What is said of the first mark of a key."""

    def said(self, level: int, round_: int) -> bool:
        """Whether a first block above this floor is told."""
        floors = {Operation.BLOCK: (level, round_)}
        watermarks = Watermarks(lambda: self.store, floors, self.clock, bool)
        watermarks.startService()
        self.addCleanup(watermarks.stopService)
        with capturedLogs() as events:
            watermarks.claim(TZ3, cast(Baking, decode(OURS)), OURS)
        return any("could not be compared with anything" in formatEvent(event) for event in events)

    def test_floors(self) -> None:
        """It is told unless a floor has a level: a round alone holds it to nothing."""
        told = {floor: self.said(*floor) for floor in ((0, 0), (0, 5), (99, 0), (99, 5))}
        self.assertEqual(told, {(0, 0): True, (0, 5): True, (99, 0): False, (99, 5): False})
