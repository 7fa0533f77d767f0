"""The daily ledger, on stores of its own."""

from collections.abc import Callable
from pathlib import Path

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.support.fakeetcd import FakeEtcd, FakeGateway, store_through
from tests.support.stores import HeldWriter, ImmediateWriter, RecordingStore
from tests.support.vectors import TZ1, TZ3
from tezio_signer.errors import TooMany, Unavailable
from tezio_signer.watermarks.entry import Entry, Standing
from tezio_signer.watermarks.ledger import PATIENCE, Ledger, Undo
from tezio_signer.watermarks.sqlite import store as sqlite
from tezio_signer.watermarks.sqlite.grouped import GroupedStore
from tezio_signer.watermarks.sqlite.store import SqliteStore
from tezio_signer.watermarks.store import StoreError, WatermarkStore

NOON = 1_790_000_000
LIMIT = 5


def digest(number: int) -> bytes:
    """Of a payload."""
    return number.to_bytes(32, "big")


class LedgerTestCase(SynchronousTestCase):
    """Ledgers whose keys may spend five mutez in a day."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.wall = float(NOON)

    def ledger(self, store: WatermarkStore) -> Ledger:
        """One on this store."""
        return Ledger(lambda: store, self.clock, lambda: self.wall)

    def reserve(self, ledger: Ledger, number: int, mutez: int) -> Deferred[Undo]:
        """Reserve some mutez with a payload."""
        return ledger.reserve(TZ1, digest(number), mutez, 1, LIMIT, None)

    def granted(self, ledger: Ledger, number: int, mutez: int) -> Undo:
        """What gives it back."""
        return self.successResultOf(self.reserve(ledger, number, mutez))

    def refused(self, ledger: Ledger, number: int, mutez: int) -> None:
        """It is too much."""
        self.failureResultOf(self.reserve(ledger, number, mutez), TooMany)


class BlockingTests(LedgerTestCase):
    """On a store that only this daemon writes, and that writes when the test says so."""

    def setUp(self) -> None:
        super().setUp()
        self.file = RecordingStore()
        self.writer = HeldWriter()
        self.on_it = self.ledger(GroupedStore(self.file, self.writer))

    def stored(self) -> dict[bytes, Entry]:
        """What is in the store."""
        return self.file.spending.get(TZ1, {})

    def test_stored_before_granted(self) -> None:
        """Nothing is granted before the store holds it."""
        waiting = self.reserve(self.on_it, 1, 5)
        self.assertNoResult(waiting)
        self.assertEqual(self.stored(), {})
        self.writer.write()
        self.successResultOf(waiting)
        self.assertEqual([e.mutez for e in self.stored().values()], [5])
        self.refused(self.on_it, 2, 1)

    def test_in_turn(self) -> None:
        """Those of one key wait for each other, those of another do not."""
        first, second = self.reserve(self.on_it, 1, 3), self.reserve(self.on_it, 2, 3)
        other = self.on_it.reserve(TZ3, digest(3), 3, 1, LIMIT, None)
        self.assertNoResult(second)
        self.writer.write()
        self.successResultOf(first)
        self.successResultOf(other)
        self.failureResultOf(second, TooMany)
        self.assertEqual(self.on_it.standing(TZ1).mutez, 3)

    def test_not_stored(self) -> None:
        """What cannot be stored is refused, counts nothing, and may be asked for again."""
        self.file.failing.add("spend")
        waiting = self.reserve(self.on_it, 1, 5)
        self.writer.write()
        failure = self.failureResultOf(waiting, Unavailable)
        self.assertEqual(str(failure.value), "no signature without stored spending: disk full")
        self.file.failing.clear()
        again = self.reserve(self.on_it, 2, 5)
        self.writer.write()
        self.successResultOf(again)
        self.assertEqual(self.stored()[digest(2)].mutez, 5)
        self.assertEqual(self.stored()[digest(1)].mutez, 0)

    def test_given_back_once(self) -> None:
        """What is undone counts nothing, is stored so, and cannot be undone twice."""
        waiting = [self.reserve(self.on_it, 1, 5)]
        self.writer.write()
        undo = self.successResultOf(waiting.pop())
        waiting += [self.reserve(self.on_it, 1, 5)]
        self.writer.write()
        undo()
        undo()
        self.writer.write()
        self.assertEqual(self.on_it.standing(TZ1).mutez, 5)
        self.successResultOf(waiting.pop())()
        self.writer.write()
        self.assertEqual(self.on_it.standing(TZ1), Standing())
        self.assertEqual([e.operations for e in self.stored().values()], [0])

    def test_given_back_while_the_disk_fails(self) -> None:
        """What was given back while nothing could be written is written with the next."""
        waiting = self.reserve(self.on_it, 1, 5)
        self.writer.write()
        self.file.failing.add("spend")
        self.successResultOf(waiting)()
        self.writer.write()
        self.assertEqual(self.stored()[digest(1)].mutez, 5)
        self.file.failing.clear()
        waiting = self.reserve(self.on_it, 2, 5)
        self.writer.write()
        self.successResultOf(waiting)
        self.assertEqual(self.stored()[digest(1)].mutez, 0)

    def test_in_vain(self) -> None:
        """Who leaves before it is stored has spent nothing when it is."""
        waiting = self.reserve(self.on_it, 1, 5)
        waiting.cancel()
        self.failureResultOf(waiting, CancelledError)
        behind = self.reserve(self.on_it, 2, 5)
        self.writer.write()
        self.assertEqual(self.on_it.standing(TZ1).mutez, 5)
        self.successResultOf(behind)
        self.assertEqual(self.stored()[digest(1)].mutez, 0)

    def test_left_in_the_queue(self) -> None:
        """Who leaves before its turn has come is not even judged."""
        first, second = self.reserve(self.on_it, 1, 2), self.reserve(self.on_it, 2, 3)
        second.cancel()
        self.failureResultOf(second, CancelledError)
        self.writer.write()
        self.successResultOf(first)
        self.assertEqual(self.stored().keys(), {digest(1)})

    def test_hangs(self) -> None:
        """A disk that hangs is waited for as long as for a mark; when it is back all goes on."""
        waiting, behind = self.reserve(self.on_it, 1, 5), self.reserve(self.on_it, 2, 5)
        self.clock.advance(PATIENCE)
        for refused in (waiting, behind):
            failure = self.failureResultOf(refused, Unavailable)
            self.assertEqual(str(failure.value), "the watermark store has not written within 6 s")
        self.writer.write()
        self.assertEqual(self.on_it.standing(TZ1), Standing())
        self.assertEqual(self.clock.getDelayedCalls(), [])
        again = self.reserve(self.on_it, 3, 5)
        self.writer.write()
        self.successResultOf(again)

    def test_baking(self) -> None:
        """A key that has spent nothing has no entry, and nothing was read for it."""
        self.assertEqual(self.on_it.standing(TZ3), Standing())
        self.assertEqual(self.writer.waiting, [])


class CrashTests(LedgerTestCase):
    """On SQLite files, with daemons one after the other."""

    def setUp(self) -> None:
        super().setUp()
        self.path = Path(self.mktemp())
        sqlite.create(self.path)
        self.open: list[GroupedStore] = []
        self.addCleanup(self.stop)

    def start(self) -> Ledger:
        """The next daemon."""
        self.stop()
        self.open = [GroupedStore(SqliteStore(self.path), ImmediateWriter())]
        return self.ledger(self.open[0])

    def stop(self) -> None:
        """End the one that runs."""
        for store in self.open:
            self.successResultOf(store.close())
        self.open = []

    def test_across_crashes(self) -> None:
        """What was granted counts for the next daemon, once for each payload."""
        self.granted(self.start(), 1, 3)
        second = self.start()
        self.refused(second, 2, 3)
        undo = self.granted(second, 1, 3)
        undo()  # the daemon before may have had it signed
        self.refused(second, 2, 3)
        self.granted(second, 2, 2)
        third = self.start()
        self.refused(third, 3, 1)
        self.wall += 25 * 3600
        self.granted(third, 3, 5)

    def test_clock_set_back(self) -> None:
        """A day back gives nothing twice, to this daemon or to the next."""
        ledger = self.start()
        self.granted(ledger, 1, 5)
        self.wall -= 24 * 3600
        self.refused(ledger, 2, 1)
        self.refused(self.start(), 2, 1)

    def test_clock_ahead_and_back(self) -> None:
        """A day ahead and back neither, whoever opens the store."""
        self.granted(self.start(), 1, 5)
        self.wall += 25 * 3600
        self.granted(self.start(), 2, 5)
        self.wall -= 25 * 3600
        self.refused(self.start(), 3, 1)
        self.assertEqual(
            self.successResultOf(self.open[0].spent(TZ1)).keys(), {digest(1), digest(2)}
        )


class TogetherTests(LedgerTestCase):
    """Daemons on one etcd."""

    def setUp(self) -> None:
        super().setUp()
        self.etcd = FakeEtcd()
        self.gateways: list[FakeGateway] = []
        self.daemon(read=False)
        self.successResultOf(store_through(self.gateways.pop()).create())

    def daemon(self, read: bool = True) -> Ledger:
        """Another one."""
        self.gateways.append(FakeGateway(self.etcd, self.clock))
        store = store_through(self.gateways[-1], self.clock)
        if read:
            self.successResultOf(store.load())
        return self.ledger(store)

    def test_together(self) -> None:
        """What one has reserved, the other has not: it learns of it when it reserves."""
        first, second = self.daemon(), self.daemon()
        self.granted(first, 1, 2)
        self.granted(second, 2, 2)
        self.refused(first, 3, 2)
        self.granted(first, 3, 1)
        self.refused(second, 4, 1)
        self.assertEqual(second.standing(TZ1).mutez, 5)

    def test_one_payload_at_both(self) -> None:
        """Both may have one payload signed, which counts once, and neither gives it back then."""
        first, second = self.daemon(), self.daemon()
        undo = self.granted(first, 1, 5)
        other_undo = self.granted(second, 1, 5)
        undo()
        other_undo()
        self.refused(first, 2, 1)
        self.refused(second, 2, 1)

    def test_one_payload_given_back_later(self) -> None:
        """It counts for who may have it signed, however long the other has tried in vain."""
        first, second = self.daemon(), self.daemon()
        undo = self.granted(first, 1, 5)
        self.granted(second, 1, 5)
        self.wall += 2
        undo()
        self.refused(self.daemon(), 2, 1)
        self.refused(second, 2, 1)
        self.refused(first, 2, 1)

    def test_given_back_by_the_other(self) -> None:
        """What one gives back, the other may spend."""
        first, second = self.daemon(), self.daemon()
        undo = self.granted(first, 1, 5)
        self.refused(second, 2, 5)
        undo()
        self.granted(second, 2, 5)

    def test_no_answer(self) -> None:
        """What may have been written counts for others until it is given back with the next."""
        first, second = self.daemon(), self.daemon()
        self.granted(first, 1, 1)
        self.gateways[0].lost = 1
        self.failureResultOf(self.reserve(first, 2, 4), Unavailable)
        self.refused(second, 3, 1)
        self.granted(first, 4, 1)
        self.granted(second, 3, 3)
        self.refused(second, 5, 1)

    def test_away(self) -> None:
        """While etcd does not answer nothing is granted; then all goes on, and nothing is lost."""
        first = self.daemon()
        self.granted(first, 1, 2)
        self.gateways[0].silent = True
        waiting = self.reserve(first, 2, 3)
        self.clock.advance(2)
        self.failureResultOf(waiting, Unavailable)
        self.gateways[0].silent = False
        self.granted(first, 2, 3)
        self.refused(self.daemon(), 3, 1)

    def test_restored(self) -> None:
        """After a backup was restored, what this daemon knows counts, and is written back."""
        first = self.daemon()
        self.granted(first, 1, 2)
        backup = self.etcd.snapshot()
        self.granted(first, 2, 2)
        self.etcd.restore(backup)
        self.refused(first, 3, 2)
        self.granted(first, 3, 1)
        self.refused(self.daemon(), 4, 1)

    def test_always_slower(self) -> None:
        """Who comes second again and again is told to come back, and has spent nothing."""
        first = self.daemon()
        self.granted(first, 1, 1)

        def meddle(store: Callable[..., object]) -> Callable[..., object]:
            def asked(path: str, question: dict[str, object], until: float | None = None) -> object:
                self.etcd.put(f"tezio-signer/spending-head/{TZ1}", str(self.etcd.revision))
                return store(path, question, until)

            return asked

        ask = self.gateways[0].ask
        self.patch(self.gateways[0], "ask", meddle(ask))
        failure = self.failureResultOf(self.reserve(first, 2, 1), Unavailable)
        self.assertIn("other signers", str(failure.value))
        self.patch(self.gateways[0], "ask", ask)
        self.granted(first, 3, 4)

    def test_damaged(self) -> None:
        """An entry that makes no sense is no reason to spend more."""
        first = self.daemon()
        self.granted(first, 1, 1)
        self.etcd.put(f"tezio-signer/spending/{TZ1}/{digest(1).hex()}", "{}")
        failure = self.failureResultOf(self.reserve(self.daemon(), 2, 1), Unavailable)
        self.assertIn("damaged", str(failure.value))


class ReadingTests(LedgerTestCase):
    """A store whose entries cannot be read."""

    def test_not_read(self) -> None:
        """Nothing is granted of a key whose entries could not be read; then they are read."""
        file = RecordingStore()
        file.spending[TZ1] = {digest(1): Entry(NOON, 5, 1)}
        ledger = self.ledger(GroupedStore(file, ImmediateWriter()))

        def away(_: object) -> dict[bytes, Entry]:
            raise StoreError("away")

        spent = file.spent
        self.patch(file, "spent", away)
        self.failureResultOf(self.reserve(ledger, 2, 1), Unavailable)
        self.patch(file, "spent", spent)
        self.refused(ledger, 2, 1)
