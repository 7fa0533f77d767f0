"""Claims: decided in memory at once, and on the disk before a signature may leave."""

from collections.abc import Callable
from typing import Any, cast

from twisted.internet.defer import Deferred, gatherResults
from twisted.logger import LogLevel, capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from tests.support.stores import HeldWriter, ImmediateWriter, RecordingStore, watermarks_on
from tests.support.vectors import TZ1, TZ3, block, consensus
from tezio_signer.errors import Conflict, StartupError, Unavailable
from tezio_signer.tezos.keys import Curve, PublicKeyHash, Signature
from tezio_signer.tezos.payload import Baking, Operation, decode
from tezio_signer.watermarks.claims import Claim, Watermarks
from tezio_signer.watermarks.rule import Mark, MarkId
from tezio_signer.watermarks.sqlite.grouped import Writer
from tezio_signer.watermarks.sqlite.store import SqliteStore
from tezio_signer.watermarks.store import StoreError

BLOCK = MarkId("NetXdQprcVkpaWU", TZ3, Operation.BLOCK)
FIRST = Signature(Curve.P256, b"\x01" * 64)
SECOND = Signature(Curve.P256, b"\x02" * 64)


def on_chain(number: int, data: bytes) -> bytes:
    """A baking payload on another chain."""
    return data[:1] + number.to_bytes(4, "big") + data[5:]


class ClaimsTestCase(SynchronousTestCase):
    """Has watermarks on a recording store."""

    floors: dict[Operation, tuple[int, int]] = {}

    def setUp(self) -> None:
        self.store = RecordingStore()
        self.watermarks = self.started()

    def started(self, make_writer: Callable[[], Writer] = ImmediateWriter) -> Watermarks:
        """Running watermarks on the store, as after a restart."""
        watermarks = watermarks_on(lambda: self.store, make_writer, self.floors)
        watermarks.startService()
        return watermarks

    def claim(self, data: bytes, key: PublicKeyHash = TZ3) -> Claim:
        """Claim the position of a payload."""
        return self.watermarks.claim(key, cast(Baking, decode(data)), data)

    def conflict(self, data: bytes, key: PublicKeyHash = TZ3) -> str:
        """Why a payload cannot be claimed."""
        return str(self.assertRaises(Conflict, self.claim, data, key))


class ClaimTests(ClaimsTestCase):
    """What a claim does to memory and disk."""

    def test_claim(self) -> None:
        """A claim writes position and payload hash, and is durable when that is done."""
        claim = self.claim(block(5_000_000, 1))
        self.assertIsNone(self.successResultOf(claim.durable))
        self.assertIsNone(claim.signature)
        recorded = "5b7b7652af6627fba54ac4bece77e357bcd355e27c9f5981a5c722b468bbc872"
        self.assertEqual(self.store.marks, {BLOCK: Mark(5_000_000, 1, bytes.fromhex(recorded))})

    def test_memory_before_disk(self) -> None:
        """A position is taken before anything is written."""
        writer = HeldWriter()
        self.watermarks = self.started(lambda: writer)
        claim = self.claim(block(100, 0))
        self.assertIn("different data", self.conflict(block(100, 0, 0x41)))
        self.assertIn("not above", self.conflict(block(99, 0)))
        self.assertNoResult(claim.durable)
        self.assertEqual(self.store.written, [])
        writer.write()
        self.successResultOf(claim.durable)
        self.assertEqual(self.store.written, [("keep", 100)])

    def test_order_of_writes(self) -> None:
        """Marks and signatures are written in the order in which they came about."""
        writer = HeldWriter()
        self.watermarks = self.started(lambda: writer)
        first = self.claim(block(100, 0))
        kept = first.complete(FIRST)
        second = self.claim(block(101, 0))
        third = self.claim(block(102, 0))
        done = gatherResults(list[Deferred[Any]]((kept, second.durable, third.durable)))
        writer.write()
        self.successResultOf(done)
        self.assertEqual(
            self.store.written, [("keep", 100), ("signature", 100), ("keep", 101), ("keep", 102)]
        )

    def test_again_after_the_signature(self) -> None:
        """The same payload again has the stored signature, and writes nothing."""
        self.successResultOf(self.claim(block(100, 0)).complete(FIRST))
        self.store.written.clear()
        again = self.claim(block(100, 0))
        self.assertEqual(again.signature, FIRST)
        self.successResultOf(again.durable)
        self.assertEqual(self.store.written, [])

    def test_again_before_the_signature(self) -> None:
        """The same payload without a signature is claimed again; its mark is on the disk."""
        self.claim(block(100, 0))
        again = self.claim(block(100, 0))
        self.assertIsNone(again.signature)
        self.successResultOf(again.durable)
        self.assertEqual(self.store.written, [("keep", 100)])

    def test_again_before_the_commit(self) -> None:
        """The same payload whose mark is not on the disk yet is durable when it is."""
        writer = HeldWriter()
        self.watermarks = self.started(lambda: writer)
        claims = [self.claim(block(100, 0)) for _ in range(2)]
        for claim in claims:
            self.assertNoResult(claim.durable)
        writer.write()
        for claim in claims:
            self.successResultOf(claim.durable)

    def test_again_before_the_signature_is_written(self) -> None:
        """A signature that is not on the disk yet is not given out before it is."""
        writer = HeldWriter()
        self.watermarks = self.started(lambda: writer)
        claim = self.claim(block(100, 0))
        writer.write()
        kept = claim.complete(FIRST)
        again = self.claim(block(100, 0))
        self.assertEqual(again.signature, FIRST)
        self.assertNoResult(again.durable)
        self.assertNoResult(kept)
        writer.write()
        self.successResultOf(again.durable)
        self.assertEqual(self.successResultOf(kept), FIRST)

    def test_invented_chains(self) -> None:
        """A key has marks on a few chains only; the others are refused, and known ones are not."""
        blocks = [
            block(100, 0).replace(bytes.fromhex("7a06a770"), bytes([number]) * 4)
            for number in range(17)
        ]
        for data in blocks[:16]:
            self.successResultOf(self.claim(data).durable)
        self.assertIn("16 chains", self.conflict(blocks[16]))
        self.successResultOf(self.claim(blocks[16], TZ1).durable)
        self.successResultOf(self.claim(blocks[3]).durable)

    def test_marks_are_independent(self) -> None:
        """Kinds of operation, keys and chains do not hinder each other."""
        other_chain = block(100, 0).replace(bytes.fromhex("7a06a770"), bytes(4))
        for data in (block(100, 0), other_chain, consensus("preatt", 100, 0)):
            for key in (TZ1, TZ3):
                self.successResultOf(self.claim(data, key).durable)
        self.successResultOf(self.claim(consensus("att", 100, 0)).durable)
        self.assertIn("different data", self.conflict(consensus("att_dal_5", 100, 0)))
        self.assertEqual(len(self.store.marks), 7)


class FloorTests(ClaimsTestCase):
    """The floors of the configuration."""

    floors = {Operation.BLOCK: (100, 2)}

    def test_floor(self) -> None:
        """A floor holds for its operation only, and nothing below it is written."""
        self.assertIn("floor", self.conflict(block(100, 2)))
        self.successResultOf(self.claim(consensus("att", 0, 1)).durable)
        self.successResultOf(self.claim(block(100, 3)).durable)
        self.assertEqual(self.store.written, [("keep", 0), ("keep", 100)])


class JumpTests(ClaimsTestCase):
    """How far a mark may move, and what is said of the first."""

    floors = {Operation.ATTESTATION: (100, 0)}

    def jump(self, data: bytes, most: int) -> None:
        """Claim a position that is at most this many levels ahead."""
        self.watermarks.claim(TZ3, cast(Baking, decode(data)), data, most)

    def test_jump(self) -> None:
        """A claim too far ahead is refused, moves no mark and writes nothing."""
        self.jump(block(100, 0), 5)
        error = self.assertRaises(Conflict, self.jump, block(106, 0), 5)
        self.assertIn("6 levels above the high watermark, level 100 round 0", str(error))
        self.jump(block(105, 0), 5)
        self.jump(block(111, 0), 6)
        self.assertEqual(self.store.written, [("keep", 100), ("keep", 105), ("keep", 111)])

    def test_floor(self) -> None:
        """A first mark too far above its floor is refused."""
        error = self.assertRaises(Conflict, self.jump, consensus("att", 106, 0), 5)
        self.assertIn("6 levels above the configured floor, level 100 round 0", str(error))
        self.jump(consensus("att", 105, 0), 5)

    def test_first_on_another_chain(self) -> None:
        """The first mark on a chain is held to the key's highest on any, of any operation."""
        self.jump(consensus("preatt", 50, 0), 5)
        self.jump(block(53, 0), 5)
        for data in (consensus("preatt", 60, 0), block(60, 0)):
            error = self.assertRaises(Conflict, self.jump, on_chain(1, data), 5)
            self.assertIn(
                "7 levels above the highest watermark of the key, on any chain, level 53 round 0",
                str(error),
            )
            self.assertIn("--chain NetXH12AexHqTQa", str(error))
        with capturedLogs() as events:
            self.jump(on_chain(1, block(58, 0)), 5)
            self.jump(on_chain(2, block(1, 0)), 5)
        self.assertEqual(events, [])  # they are held to something
        self.watermarks.claim(TZ1, cast(Baking, decode(block(9999, 0))), block(9999, 0), 5)
        self.assertEqual(self.store.written, [("keep", level) for level in (50, 53, 58, 1, 9999)])

    def test_first_of_any_level(self) -> None:
        """Without max_level_jump a first mark on another chain is taken, and told."""
        self.claim(block(53, 0))
        with capturedLogs() as events:
            self.claim(on_chain(1, block(2**31 - 1, 0)))
        self.assertEqual([event["log_level"] for event in events], [LogLevel.warn])

    def test_first_mark_is_told(self) -> None:
        """A first mark without a floor is a warning; further ones, and one above a floor, none."""
        with capturedLogs() as events:
            for data in (block(2**31 - 2, 3), block(2**31 - 1, 0), consensus("att", 101, 0)):
                self.jump(data, 5)
        self.assertEqual([event["log_level"] for event in events], [LogLevel.warn])
        said = formatEvent(events[0])
        for word in ("block", str(TZ3), "NetXdQprcVkpaWU", "level 2147483646", "round 3"):
            self.assertIn(word, said)


class FailingStoreTests(ClaimsTestCase):
    """When the store fails, no signature leaves, and no position is given away twice."""

    def test_failed_commit(self) -> None:
        """A claim that cannot be written fails as unavailable, and stays."""
        self.store.failing = {"keep"}
        failure = self.failureResultOf(self.claim(block(100, 0)).durable, Unavailable)
        self.assertEqual(failure.value.status, 502)
        self.assertIn("disk full", str(failure.value))
        self.assertIn("different data", self.conflict(block(100, 0, 0x41)))
        self.assertIn("not above", self.conflict(block(99, 9)))

    def test_commit_again(self) -> None:
        """When the store works again, the same payload can be claimed, and is written."""
        self.store.failing = {"keep"}
        self.failureResultOf(self.claim(block(100, 0)).durable, Unavailable)
        self.failureResultOf(self.claim(block(100, 0)).durable, Unavailable)
        self.store.failing = set()
        again = self.claim(block(100, 0))
        self.successResultOf(again.durable)
        self.successResultOf(again.complete(FIRST))
        self.assertEqual(self.store.marks[BLOCK].level, 100)
        self.assertEqual(self.store.marks[BLOCK].signature, FIRST)

    def test_failed_signature_write(self) -> None:
        """A signature that cannot be written may not leave, until it can."""
        claim = self.claim(block(100, 0))
        self.store.failing = {"signature"}
        failure = self.failureResultOf(claim.complete(FIRST), Unavailable)
        self.assertIn("disk full", str(failure.value))
        again = self.claim(block(100, 0))
        self.assertEqual(again.signature, FIRST)
        self.failureResultOf(again.durable, Unavailable)
        self.store.failing = set()
        again = self.claim(block(100, 0))
        self.assertEqual(again.signature, FIRST)
        self.successResultOf(again.durable)
        self.assertEqual(self.store.marks[BLOCK].signature, FIRST)

    def test_faults_are_not_swallowed(self) -> None:
        """What is no error of the store is passed on as it is."""

        def keep(*_: object) -> None:
            raise ZeroDivisionError

        self.patch(self.store, "keep", keep)
        self.failureResultOf(self.claim(block(100, 0)).durable, ZeroDivisionError)


class ServiceTests(ClaimsTestCase):
    """Starting and stopping."""

    def test_restart(self) -> None:
        """The marks and signatures of the store hold after a restart."""
        self.successResultOf(self.claim(block(100, 0)).complete(FIRST))
        self.claim(consensus("att", 7, 0))
        self.watermarks.stopService()
        self.watermarks = self.started()
        self.assertEqual(self.claim(block(100, 0)).signature, FIRST)
        self.assertIsNone(self.claim(consensus("att", 7, 0)).signature)
        self.assertIn("different data", self.conflict(consensus("att_dal_5", 7, 0)))

    def test_no_store(self) -> None:
        """A store that cannot be opened or read ends start-up with its sentence."""

        def missing() -> RecordingStore:
            raise StoreError("the store does not exist")

        watermarks = watermarks_on(missing)
        error = self.assertRaises(StartupError, watermarks.startService)
        self.assertEqual(str(error), "the store does not exist")
        self.store.failing = {"load"}
        error = self.assertRaises(StartupError, self.started)
        self.assertEqual(str(error), "store is damaged")

    def test_stop(self) -> None:
        """The writer closes the store, since a disk that hangs is waited for there only."""
        order = []

        class Writing(ImmediateWriter):
            def stop(writer) -> bool:  # noqa: N805
                order.append(("stopped", self.store.closed))
                return True

        self.watermarks = self.started(Writing)
        self.watermarks.stopService()
        self.assertEqual(order, [("stopped", True)])


class SignatureTests(SynchronousTestCase):
    """Which signature is kept in memory and in the SQLite store."""

    def setUp(self) -> None:
        self.store = SqliteStore(None)
        self.watermarks = watermarks_on(lambda: self.store)
        self.watermarks.startService()
        self.addCleanup(self.watermarks.stopService)

    def claim(self, data: bytes) -> Claim:
        """Claim the position of a block."""
        return self.watermarks.claim(TZ3, cast(Baking, decode(data)), data)

    def test_late_signature(self) -> None:
        """The signature of a lower mark that comes late never replaces a higher mark."""
        low, high = self.claim(block(100, 0)), self.claim(block(100, 1))
        self.successResultOf(low.complete(FIRST))
        self.assertEqual(self.store.load()[BLOCK].position, (100, 1))
        self.assertIsNone(self.store.load()[BLOCK].signature)
        self.assertIsNone(self.claim(block(100, 1)).signature)
        self.successResultOf(high.complete(SECOND))
        self.successResultOf(low.complete(FIRST))
        self.assertEqual(self.store.load()[BLOCK].signature, SECOND)
        self.assertEqual(self.claim(block(100, 1)).signature, SECOND)
        self.assertRaises(Conflict, self.claim, block(100, 0))

    def test_first_signature_stays(self) -> None:
        """Of two signatures of one payload the first is kept, in memory and on the disk."""
        first, second = self.claim(block(100, 0)), self.claim(block(100, 0))
        self.assertEqual(self.successResultOf(first.complete(FIRST)), FIRST)
        self.assertEqual(self.successResultOf(second.complete(SECOND)), FIRST)
        self.assertEqual(self.claim(block(100, 0)).signature, FIRST)
        self.assertEqual(self.store.load()[BLOCK].signature, FIRST)

    def test_first_signature_stays_behind_a_later_mark(self) -> None:
        """Also when another payload has moved the mark, only the first signature may leave."""
        first, second = self.claim(block(100, 0)), self.claim(block(100, 0))
        self.assertEqual(self.successResultOf(first.complete(FIRST)), FIRST)
        self.claim(block(101, 0))
        self.assertEqual(self.successResultOf(second.complete(SECOND)), FIRST)
