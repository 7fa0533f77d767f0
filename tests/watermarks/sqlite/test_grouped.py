"""A blocking store behind the reactor: one thread, and commits in groups."""

import gc
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase, TestCase

from tests.support.harness import reactor
from tests.support.stores import HeldWriter, watermarks_on
from tests.support.vectors import TZ1, TZ3, block
from tezio_signer.tezos.keys import Curve, Signature
from tezio_signer.tezos.payload import Baking, Operation, decode
from tezio_signer.watermarks.entry import Entry
from tezio_signer.watermarks.rule import Mark, MarkId
from tezio_signer.watermarks.sqlite import reading
from tezio_signer.watermarks.sqlite import store as sqlite
from tezio_signer.watermarks.sqlite.grouped import LOOK_INTERVAL, REST, GroupedStore, ThreadWriter
from tezio_signer.watermarks.sqlite.store import SqliteStore
from tezio_signer.watermarks.store import Kept, Spent, StoreError, StoreLostError

BLOCK = MarkId("NetXdQprcVkpaWU", TZ3, Operation.BLOCK)
FIRST = Signature(Curve.P256, b"\x01" * 64)


class GroupingTests(SynchronousTestCase):
    """Which marks are committed together."""

    def setUp(self) -> None:
        self.writer = HeldWriter()
        self.file = SqliteStore(None)
        self.groups: list[list[int]] = []
        self.spent: list[list[Spent]] = []
        keep = self.file.keep

        def recorded(marks: Any, spent: Any) -> list[Kept]:
            self.groups.append([mark.level for _, mark in marks])
            self.spent.append(list(spent))
            return keep(marks, spent)

        self.patch(self.file, "keep", recorded)
        self.store = GroupedStore(self.file, self.writer)

    def keep(self, level: int) -> Deferred[Kept]:
        """Bring a mark of a key of its own."""
        return self.store.keep(
            MarkId("NetXdQprcVkpaWU", TZ1, tuple(Operation)[level % 3]), Mark(level, 0, bytes(32))
        )

    def test_groups(self) -> None:
        """What comes while a commit is on its way is committed together, in order, after it."""
        kept = [self.keep(level) for level in (1, 2, 3, 4)]
        self.assertEqual(len(self.writer.waiting), 1)
        self.writer.waiting.pop()()
        self.assertEqual(self.successResultOf(kept[0]).now.level, 1)
        for waiting in kept[1:]:
            self.assertNoResult(waiting)
        kept.append(self.keep(5))
        self.writer.waiting.pop()()
        self.assertEqual([self.successResultOf(k).now.level for k in kept[1:4]], [2, 3, 4])
        self.assertNoResult(kept[4])
        self.writer.waiting.pop()()
        self.successResultOf(kept[4])
        self.assertEqual(self.groups, [[1], [2, 3, 4], [5]])
        self.assertEqual(self.writer.waiting, [])

    def test_turn(self) -> None:
        """What comes in one turn of the reactor is committed together, when the turn is over."""
        clock = Clock()
        self.store = GroupedStore(self.file, self.writer, clock)
        kept = [self.keep(level) for level in (1, 2, 3)]
        self.assertEqual(self.writer.waiting, [])
        self.assertEqual([call.getTime() for call in clock.getDelayedCalls()], [0.0])
        clock.advance(0)
        kept.append(self.keep(4))
        self.writer.stop()
        for written in kept:
            self.successResultOf(written)
        self.assertEqual(self.groups, [[1, 2, 3], [4]])
        self.successResultOf(self.store.close())
        self.assertEqual(clock.getDelayedCalls(), [])

    def test_failing_group(self) -> None:
        """A group that cannot be committed fails, and the next one is tried."""

        def full(*_: object) -> list[Kept]:
            raise StoreError("disk full")

        keep = self.file.keep
        self.patch(self.file, "keep", full)
        failing = [self.keep(1)]
        following = [self.keep(2), self.keep(3)]
        self.patch(self.file, "keep", keep)
        self.writer.stop()
        for failed in failing:
            self.failureResultOf(failed, StoreError)
        for kept in following:
            self.successResultOf(kept)

    def test_spending(self) -> None:
        """What is spent is committed in one group with the marks of the same turn."""
        clock = Clock()
        self.store = GroupedStore(self.file, self.writer, clock)
        spent = Spent(TZ3, {bytes(32): Entry(1, 2, 3)})
        waiting: list[Deferred[Any]] = [self.keep(1), self.store.spend(spent), self.keep(2)]
        clock.advance(0)
        self.assertEqual(len(self.writer.waiting), 1)
        self.writer.write()
        for written in waiting:
            self.successResultOf(written)
        self.assertEqual((self.groups, self.spent), ([[1, 2]], [[spent]]))
        self.assertEqual(self.successResultOf(self.store.spent(TZ3)), spent.entries)
        self.successResultOf(self.store.close())

    def test_spending_fails(self) -> None:
        """What is spent fails with its group; nothing of it is known to be there."""

        def full(*_: object) -> list[Kept]:
            raise StoreError("disk full")

        self.patch(self.file, "keep", full)
        failing = self.store.spend(Spent(TZ3, {bytes(32): Entry(1, 2, 3)}))
        self.writer.write()
        self.failureResultOf(failing, StoreError)
        self.assertEqual(self.successResultOf(self.store.spent(TZ3)), {})

    def test_close(self) -> None:
        """What has gathered is written before the store is closed."""
        kept = [self.keep(level) for level in (1, 2, 3)]
        self.successResultOf(self.store.close())
        for written in kept:
            self.successResultOf(written)
        self.assertRaises(StoreError, self.file.load)

    def test_not_shared(self) -> None:
        """No other signer writes into the store."""
        self.assertIs(self.store.shared, False)

    def test_close_fails(self) -> None:
        """That the store could not be closed is said."""

        def full() -> None:
            raise StoreError("disk full")

        self.patch(self.file, "close", full)
        with capturedLogs() as logged:
            self.successResultOf(self.store.close())
        self.assertEqual([formatEvent(e) for e in logged], ["closing the store failed"])
        self.assertEqual(len(self.flushLoggedErrors(StoreError)), 1)


class TidyingTests(SynchronousTestCase):
    """When the store tidies up."""

    def setUp(self) -> None:
        self.clock, self.writer = Clock(), HeldWriter()
        self.path = Path(self.mktemp())
        sqlite.create(self.path)
        self.file = SqliteStore(self.path)
        self.store = GroupedStore(self.file, self.writer, self.clock)
        self.addCleanup(self.store.close)

    def keep(self, level: int) -> None:
        """Write a mark."""
        kept = self.store.keep(BLOCK, Mark(level, 0, bytes(32)))
        self.clock.advance(0)
        self.writer.stop()
        self.successResultOf(kept)

    def alone(self) -> dict[MarkId, Mark]:
        """What the main file says without the files beside it."""
        copy = Path(self.mktemp())
        copy.write_bytes(self.path.read_bytes())
        return reading.read(copy)

    def test_rest(self) -> None:
        """When nothing was written for a while, the main file alone holds all marks."""
        self.keep(1)
        self.clock.advance(REST - 0.01)
        self.keep(2)
        self.clock.advance(REST - 0.01)
        self.assertEqual((self.alone(), self.writer.waiting), ({}, []))
        self.clock.advance(0.01)
        self.assertEqual(len(self.writer.waiting), 1)
        self.writer.stop()
        self.assertEqual(self.alone(), {BLOCK: Mark(2, 0, bytes(32))})
        self.clock.advance(10 * REST)
        self.assertEqual(self.writer.waiting, [])

    def test_not_before_a_mark(self) -> None:
        """While a mark is being written, nothing is tidied; behind it there is a rest again."""
        self.keep(1)
        kept = self.store.keep(BLOCK, Mark(2, 0, bytes(32)))
        self.clock.advance(2 * REST)
        self.assertEqual(len(self.writer.waiting), 1)
        self.writer.stop()
        self.successResultOf(kept)
        self.clock.advance(REST)
        self.writer.stop()
        self.assertEqual(self.alone(), {BLOCK: Mark(2, 0, bytes(32))})

    def test_failing(self) -> None:
        """That a disk does not let the store tidy up is said, and harms nothing."""

        def full() -> None:
            raise StoreError("disk full")

        self.patch(self.file, "tidy", full)
        self.keep(1)
        with capturedLogs() as logged:
            self.clock.advance(REST)
            self.writer.stop()
        self.assertEqual([formatEvent(e) for e in logged], ["disk full; no mark is lost"])
        self.keep(2)

    def test_fault(self) -> None:
        """What fails in a way of its own is no full disk, but an error in the log."""

        def fail() -> None:
            raise ZeroDivisionError

        self.patch(self.file, "tidy", fail)
        self.keep(1)
        self.clock.advance(REST)
        self.writer.stop()
        gc.collect()
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_lost(self) -> None:
        """A loss is said by whatever shows it first, tidying or writing, and once."""
        self.keep(1)
        self.path.rename(f"{self.path}.away")
        with capturedLogs() as logged:
            self.clock.advance(REST)
            self.writer.stop()
        self.assertEqual([e["log_level"].name for e in logged], ["critical"])
        Path(f"{self.path}.away").rename(self.path)
        with capturedLogs() as logged:
            self.keep(2)
        self.assertEqual([e["log_level"].name for e in logged], ["info"])

    def test_closed(self) -> None:
        """A closed store is left alone."""
        self.keep(1)
        self.store.keep(BLOCK, Mark(2, 0, bytes(32)))
        self.store.close()
        self.assertEqual(self.clock.getDelayedCalls(), [])


class LookingTests(SynchronousTestCase):
    """A store that is looked at although nobody asks for anything."""

    def setUp(self) -> None:
        self.clock, self.writer = Clock(), HeldWriter()
        self.home = Path(self.mktemp())
        self.home.mkdir()
        self.path, self.away = self.home / "store", self.home / "away"
        sqlite.create(self.path)
        self.file = SqliteStore(self.path)
        self.store = GroupedStore(self.file, self.writer, self.clock, self.file.look)
        self.addCleanup(self.store.close)

    def said(self, seconds: float, act: Callable[[], object] = bool) -> list[tuple[str, str]]:
        """What is said in this time, and how loud."""
        with capturedLogs() as logged:
            act()
            for _ in range(int(seconds / LOOK_INTERVAL)):
                self.clock.advance(LOOK_INTERVAL)
                self.writer.stop()
        return [(e["log_level"].name, str(formatEvent(e))) for e in logged]

    def keep(self, level: int) -> Deferred[Kept]:
        """Bring a mark."""
        kept = self.store.keep(BLOCK, Mark(level, 0, bytes(32)))
        self.clock.advance(0)
        self.writer.stop()
        return kept

    def test_lost_and_back(self) -> None:
        """A store that is gone is said to be once, within a second; so is that it is back."""
        self.assertEqual(self.said(10), [])
        ((level, sentence),) = self.said(1, lambda: self.path.rename(self.away))
        self.assertEqual(level, "critical")
        for words in (f"{self.path} was removed or moved away", "nothing that needs a watermark"):
            self.assertIn(words, sentence)
        self.assertEqual(self.said(10), [])
        failing = self.said(1, lambda: self.failureResultOf(self.keep(1), StoreLostError))
        self.assertEqual(failing, [])
        ((level, sentence),) = self.said(1, lambda: self.away.rename(self.path))
        self.assertEqual((level, "is there again" in sentence), ("info", True))
        self.assertEqual(self.said(2, lambda: self.successResultOf(self.keep(1))), [])

    def test_request_first(self) -> None:
        """What a request has shown is not said again, neither a loss nor that it is over."""
        self.path.rename(self.away)
        ((level, _),) = self.said(5, lambda: self.failureResultOf(self.keep(1), StoreLostError))
        self.assertEqual(level, "critical")
        self.away.rename(self.path)
        ((level, _),) = self.said(5, lambda: self.successResultOf(self.keep(1)))
        self.assertEqual(level, "info")

    def test_one_at_a_time(self) -> None:
        """A look that hangs is not followed by others, nor does one wait behind a commit."""
        for _ in range(5):
            self.clock.advance(LOOK_INTERVAL)
        self.assertEqual(len(self.writer.waiting), 1)
        self.writer.stop()
        kept = self.store.keep(BLOCK, Mark(1, 0, bytes(32)))
        for _ in range(5):
            self.clock.advance(LOOK_INTERVAL)
        self.assertEqual(len(self.writer.waiting), 1)
        self.writer.stop()
        self.successResultOf(kept)
        self.said(2)  # and tidied
        self.assertEqual(len(self.said(1, lambda: self.path.rename(self.away))), 1)

    def test_fault(self) -> None:
        """A look that fails in a way of its own is logged, and the next one comes."""
        looks: list[None] = []

        def look() -> None:
            looks.append(None)
            raise ZeroDivisionError

        self.store.close()
        self.store = GroupedStore(SqliteStore(self.path), self.writer, self.clock, look)
        self.said(3)
        self.assertEqual(len(looks), 3)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 3)

    def test_closed(self) -> None:
        """A closed store is not looked at."""
        self.successResultOf(self.store.close())
        self.assertEqual(self.clock.getDelayedCalls(), [])


class HangingTests(TestCase):
    """A disk that does not come to an end."""

    async def test_stop(self) -> None:
        """Stopping does not wait for ever, says so, and leaves the store to the hanging thread."""
        disk_is_back, file = threading.Event(), SqliteStore(None)
        keep = file.keep
        self.patch(file, "keep", lambda *brought: disk_is_back.wait() and keep(*brought))
        store = GroupedStore(file, ThreadWriter(reactor, patience=0.01))
        kept = store.keep(BLOCK, Mark(1, 0, bytes(32)))
        with capturedLogs() as logged:
            await store.close()
        self.assertIn("is not waited for", str(formatEvent(logged[-1])))
        self.assertEqual(file.load(), {})  # not closed
        thread = next(t for t in threading.enumerate() if t.name == "watermarks")
        self.assertTrue(thread.daemon, "Python would wait for it when the process ends")
        disk_is_back.set()
        await kept
        file.close()


class ThreadWriterTests(TestCase):
    """The thread beside the reactor."""

    def setUp(self) -> None:
        self.writer = ThreadWriter(reactor)
        self.stopped = False
        self.addCleanup(self.stop)

    def stop(self) -> None:
        """Stop the thread, once."""
        if not self.stopped:
            self.stopped = True
            self.writer.stop()

    async def test_thread_and_order(self) -> None:
        """Work is done one after the other in one other thread, its results come back in ours."""
        here = threading.current_thread()
        order: list[int] = []
        threads: set[threading.Thread] = set()

        def work(number: int) -> int:
            threads.add(threading.current_thread())
            order.append(number)
            return number

        results = [self.writer.run(lambda n=n: work(n)) for n in range(50)]  # type: ignore[misc]
        for result in results:
            result.addCallback(lambda number: (number, threading.current_thread() is here))
        self.assertEqual(await gatherResults(results), [(n, True) for n in range(50)])
        self.assertEqual(order, list(range(50)))
        self.assertEqual(len(threads), 1)
        self.assertNotIn(here, threads)

    async def test_errors_come_back(self) -> None:
        """An error of the work is its result, and the next work is done."""

        def fail() -> None:
            raise StoreError("disk full")

        failing = self.writer.run(fail)
        self.assertEqual(await self.writer.run(lambda: 7), 7)
        await self.assertFailure(failing, StoreError)

    async def test_stop_waits(self) -> None:
        """What was given before stopping is done when stopping returns."""
        done: list[int] = []
        results = [self.writer.run(lambda n=n: done.append(n)) for n in range(20)]  # type: ignore[misc]
        self.stopped = True
        self.assertIs(self.writer.stop(), True)
        self.assertEqual(done, list(range(20)))
        await gatherResults(results)

    async def test_watermarks_on_a_file(self) -> None:
        """A claim through the thread is in the file when it is durable."""
        path = Path(self.mktemp())
        sqlite.create(path)
        watermarks = watermarks_on(lambda: SqliteStore(path), lambda: self.writer)
        watermarks.startService()
        data = block(100, 0)
        claim = watermarks.claim(TZ3, cast(Baking, decode(data)), data)
        await claim.durable
        self.assertEqual(reading.read(path)[BLOCK].position, (100, 0))
        await claim.complete(FIRST)
        self.stopped = True
        watermarks.stopService()
        self.assertEqual(reading.read(path)[BLOCK].signature, FIRST)
