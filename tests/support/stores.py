"""Stores of watermarks for tests, and what writes them.

- Writers, as `GroupedStore` wants one: `ImmediateWriter`, and `HeldWriter` for a test that says
  when. `watermarks_on` puts real watermarks upon them.
- Blocking stores, as `GroupedStore` writes to: `RecordingStore` and `FailingStore`.
- Whole stores: `MemoryStore`, which is the `Model` of the rule, and `SharedStore`, to which
  others write and whose writes arrive when the test says so. `WatchedStore` notes what another
  store answers.
- Faults beneath any store: `Faults` says what becomes of a question, and `FaultyStore`,
  `FaultyGateway` and `faulty_commits` bring it to a store in the way that each kind meets it.
"""

import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import Enum
from functools import partial
from time import time
from typing import Any, TypeVar, cast
from unittest.mock import patch

from attrs import define, evolve
from twisted.internet.defer import Deferred, DeferredQueue, succeed
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from tezio_signer.tezos.keys import PublicKeyHash
from tezio_signer.tezos.payload import Operation
from tezio_signer.watermarks.claims import Watermarks
from tezio_signer.watermarks.entry import Entries, Entry
from tezio_signer.watermarks.rule import Mark, MarkId, settle
from tezio_signer.watermarks.sqlite.grouped import BlockingStore, GroupedStore, Writer
from tezio_signer.watermarks.sqlite.store import SqliteStore
from tezio_signer.watermarks.store import Kept, Spent, StoreAwayError, StoreError, WatermarkStore

_Result = TypeVar("_Result")


class ImmediateWriter:
    """Does the work of a watermark store at once, in this thread."""

    def run(self, work: Callable[[], _Result]) -> Deferred[_Result]:
        return succeed(None).addCallback(lambda _: work())

    def stop(self) -> bool:
        """Nothing to wait for."""
        return True


class HeldWriter:
    """Does the work of a watermark store when the test says so.

    :ivar waiting: the work that was given and not done.
    """

    def __init__(self) -> None:
        self.waiting: list[Callable[[], object]] = []

    def run(self, work: Callable[[], _Result]) -> Deferred[_Result]:
        done: Deferred[None] = Deferred()
        self.waiting.append(lambda: done.callback(None))
        return done.addCallback(lambda _: work())

    def write_one(self) -> None:
        """Do what has waited longest."""
        self.waiting.pop(0)()

    def write(self) -> int:
        """Do all that waits, also what comes up meanwhile, and say how much it was."""
        done = 0
        while self.waiting:
            self.write_one()
            done += 1
        return done

    def stop(self) -> bool:
        """Do what was given."""
        self.write()
        return True


def watermarks_on(
    store: Callable[[], BlockingStore] | None = None,
    make_writer: Callable[[], Writer] = ImmediateWriter,
    floors: Mapping[Operation, tuple[int, int]] | None = None,
    now: Callable[[], float] = time,
    steady: Callable[[], float] | None = None,
) -> Watermarks:
    """Watermarks on a store of this kind, in memory if none is given.

    :param steady: what tells how much time has passed; else none passes.
    """
    clock = Clock()
    if steady is not None:
        clock.seconds = steady  # type: ignore[method-assign]

    def opened() -> GroupedStore:
        return GroupedStore(SqliteStore(None) if store is None else store(), make_writer())

    return Watermarks(opened, floors or {}, clock, now=now)


class RecordingStore:
    """A store in memory that tells what is written, and fails when it is told to."""

    def __init__(self) -> None:
        self.marks: dict[MarkId, Mark] = {}
        self.written: list[tuple[str, int]] = []
        self.failing: set[str] = set()
        self.closed = False
        self.spending: dict[PublicKeyHash, dict[bytes, Entry]] = {}

    def load(self) -> dict[MarkId, Mark]:
        if "load" in self.failing:
            raise StoreError("store is damaged")
        return dict(self.marks)

    def keep(self, marks: Sequence[tuple[MarkId, Mark]], spent: Sequence[Spent] = ()) -> list[Kept]:
        if spent and "spend" in self.failing:
            raise StoreError("disk full")
        for one in spent:
            self.written.append(("spend", len(one.entries)))
            put_spent(self.spending, one)
        return [self._keep(mark_id, mark) for mark_id, mark in marks]

    def spent(self, key: PublicKeyHash) -> Entries:
        return dict(self.spending.get(key, {}))

    def _keep(self, mark_id: MarkId, mark: Mark) -> Kept:
        what = "keep" if mark.signature is None else "signature"
        if what in self.failing:
            raise StoreError("disk full")
        before = self.marks.get(mark_id)
        if before is not None and before.position > mark.position:
            return Kept(before, before)
        self.written.append((what, mark.level))
        self.marks[mark_id] = mark
        return Kept(before, mark)

    def tidy(self) -> None:
        """Nothing to tidy."""

    def close(self) -> None:
        self.closed = True


class FailingStore:
    """A store in memory that can be told to fail.

    :ivar signed: has an item for each signature that was stored.
    """

    def __init__(self) -> None:
        self.signed: DeferredQueue[Mark] = DeferredQueue()
        self._store = SqliteStore(None)
        self.error: Exception | None = None
        self.signature_error: Exception | None = None

    def load(self) -> dict[MarkId, Mark]:
        return self._store.load()

    def keep(self, marks: Sequence[tuple[MarkId, Mark]], spent: Sequence[Spent] = ()) -> list[Kept]:
        if spent and self.error is not None:
            raise self.error
        for _, mark in marks:
            error = self.error if mark.signature is None else self.signature_error
            if error is not None:
                raise error
        kept = self._store.keep(marks, spent)
        for _, mark in marks:
            if mark.signature is not None:
                self.signed.put(mark)
        return kept

    def spent(self, key: PublicKeyHash) -> Entries:
        return self._store.spent(key)

    def tidy(self) -> None:
        """Nothing to tidy."""

    def close(self) -> None:
        self._store.close()


class Model:
    """The rule in words of its own: a mark moves up, or gets its first signature, or stays."""

    def __init__(self, marks: dict[MarkId, Mark]) -> None:
        self.marks = marks

    def bring(self, mark_id: MarkId, mark: Mark) -> Mark:
        """The mark that is there then."""
        at = self.marks.get(mark_id)
        higher = at is None or (mark.level, mark.round) > (at.level, at.round)
        if higher or at == evolve(mark, signature=None):
            self.marks[mark_id] = mark
        return self.marks[mark_id]


def put_spent(spending: dict[PublicKeyHash, dict[bytes, Entry]], spent: Spent) -> None:
    """Write entries, and forget others, as any store does."""
    entries = spending.setdefault(spent.key, {})
    entries.update(spent.entries)
    for digest in spent.forgotten:
        entries.pop(digest, None)


class MemoryStore:
    """The model as a store.

    :ivar spending: its entries; it notices no other daemon that writes them.
    """

    def __init__(self, marks: dict[MarkId, Mark], shared: bool = False) -> None:
        self._model = Model(marks)
        self.shared = shared
        self.spending: dict[PublicKeyHash, dict[bytes, Entry]] = {}

    def spent(self, key: PublicKeyHash) -> Deferred[Entries]:
        """A copy of those of a key."""
        return succeed(dict(self.spending.get(key, {})))

    def spend(self, spent: Spent) -> Deferred[Entries | None]:
        """Written at once."""
        put_spent(self.spending, spent)
        return succeed(None)

    def load(self) -> Deferred[dict[MarkId, Mark]]:
        """A copy of all."""
        return succeed(dict(self._model.marks))

    def keep(self, mark_id: MarkId, mark: Mark) -> Deferred[Kept]:
        """What the rule says."""
        return succeed(Kept(self._model.marks.get(mark_id), self._model.bring(mark_id, mark)))

    def close(self) -> Deferred[None]:
        """Nothing to close."""
        return succeed(None)


class SharedStore:
    """A store that several daemons use, whose writes arrive when the test says so.

    :ivar shared: whether it is one that others write to.
    :ivar marks: what is in it.
    :ivar loads: how often all marks were asked for.
    :ivar brought: the marks that were brought to it, in order.
    :ivar error: why it cannot be read, if it cannot.
    :ivar slow: readings wait for `show`.
    """

    def __init__(self) -> None:
        self.shared = True
        self.marks: dict[MarkId, Mark] = {}
        self.loads = 0
        self.brought: list[Mark] = []
        self.error: StoreError | None = None
        self.slow = False
        self._reading: Deferred[dict[MarkId, Mark]] = Deferred()
        self._waiting: list[tuple[MarkId, Mark, Deferred[Kept]]] = []

    def load(self) -> Deferred[dict[MarkId, Mark]]:
        self.loads += 1
        self._reading = Deferred()
        reading = self._reading
        if not self.slow:
            self.show()
        return reading

    def show(self) -> None:
        """Answer the reading."""
        if self.error is not None:
            self._reading.errback(self.error)
        else:
            self._reading.callback(dict(self.marks))

    def keep(self, mark_id: MarkId, mark: Mark) -> Deferred[Kept]:
        kept: Deferred[Kept] = Deferred()
        self.brought.append(mark)
        self._waiting.append((mark_id, mark, kept))
        return kept

    def write(self) -> None:
        """Write all that waits, as any store does."""
        while self._waiting:
            mark_id, mark, kept = self._waiting.pop(0)
            before = self.marks.get(mark_id)
            self.marks[mark_id] = settle(before, mark)
            kept.callback(Kept(before, self.marks[mark_id]))

    def spent(self, key: PublicKeyHash) -> Deferred[Entries]:
        raise AssertionError(f"no test has {key} spend anything here")

    def spend(self, spent: Spent) -> Deferred[Entries | None]:
        raise AssertionError(f"no test has {spent.key} spend anything here")

    def fail(self) -> None:
        """Leave what waits unwritten."""
        while self._waiting:
            self._waiting.pop(0)[2].errback(StoreAwayError("etcd is away"))

    def close(self) -> Deferred[None]:
        """Answer nothing any more, as a store does whose connections are closed."""
        if not self._reading.called:
            self._reading.cancel()
        return succeed(None)


class WatchedStore:
    """A store whose answers are noted as they pass.

    :ivar shown: the last mark that it has shown for each id.
    :ivar kept: what has become of the marks that were brought to it since it was emptied.
    :ivar loaded: fires after whoever asked for all marks, with whether they were read.
    """

    def __init__(self, store: WatermarkStore) -> None:
        self._store = store
        self.shared = store.shared
        self.shown: dict[MarkId, Mark] = {}
        self.kept: list[tuple[MarkId, Kept]] = []
        self.loaded: Deferred[bool] = Deferred()

    def load(self) -> Deferred[dict[MarkId, Mark]]:
        """All marks."""
        loading = self._store.load()
        loaded = self.loaded = Deferred()
        passing: Deferred[dict[MarkId, Mark]] = Deferred()

        def done(result: Any) -> None:
            failed = isinstance(result, Failure)
            if not failed:
                self.shown.update(result)
            passing.callback(result)
            # A reading that failed has shown nothing, and the model must not believe it has.
            loaded.callback(not failed)

        loading.addBoth(done)
        return passing

    def keep(self, mark_id: MarkId, mark: Mark) -> Deferred[Kept]:
        """Write, or not."""

        def note(kept: Kept) -> Kept:
            self.shown[mark_id] = kept.now
            self.kept.append((mark_id, kept))
            return kept

        return self._store.keep(mark_id, mark).addCallback(note)

    def spent(self, key: PublicKeyHash) -> Deferred[Entries]:
        """What is beneath."""
        return self._store.spent(key)

    def spend(self, spent: Spent) -> Deferred[Entries | None]:
        """Write beneath."""
        return self._store.spend(spent)

    def close(self) -> Deferred[None]:
        """Close what is beneath."""
        return self._store.close()


class Disk(Enum):
    """What happens to what is written, or asked for."""

    WELL = "it is done"
    FULL = "it is not done"
    LOST = "it is done, but nobody hears of it"


@define
class Faults:
    """What strikes a store from now on.

    :ivar spared: how many questions are answered well before.
    :ivar struck: whether anything has failed since it was set.
    """

    disk: Disk = Disk.WELL
    spared: int = 0
    struck: bool = False

    def set(self, disk: Disk, spared: int = 0) -> None:
        """Let what comes fail in this way."""
        self.disk, self.spared, self.struck = disk, spared, False

    def take(self) -> Disk:
        """What becomes of the question that is asked now."""
        if self.disk is Disk.WELL or self.spared > 0:
            self.spared -= 1
            return Disk.WELL
        self.struck = True
        return self.disk

    async def suffer(self, ask: "partial[Deferred[_Result]]") -> _Result:
        """Ask, unless it is not done; the answer, unless nobody hears of it."""
        disk = self.take()
        if disk is Disk.FULL:
            raise StoreAwayError("not done")
        answer = await ask()
        if disk is Disk.LOST:
            raise StoreAwayError("no answer")
        return answer


class FaultyStore:
    """A store that is faulty itself; for one that has nothing beneath."""

    def __init__(self, store: WatermarkStore, faults: Faults) -> None:
        self._store = store
        self._faults = faults
        self.shared = store.shared

    def load(self) -> Deferred[dict[MarkId, Mark]]:
        """All marks."""
        return Deferred.fromCoroutine(self._faults.suffer(partial(self._store.load)))

    def keep(self, mark_id: MarkId, mark: Mark) -> Deferred[Kept]:
        """Write, or not."""
        return Deferred.fromCoroutine(self._faults.suffer(partial(self._store.keep, mark_id, mark)))

    def spent(self, key: PublicKeyHash) -> Deferred[Entries]:
        """All entries of a key."""
        return Deferred.fromCoroutine(self._faults.suffer(partial(self._store.spent, key)))

    def spend(self, spent: Spent) -> Deferred[Entries | None]:
        """Write, or not."""
        return Deferred.fromCoroutine(self._faults.suffer(partial(self._store.spend, spent)))

    def close(self) -> Deferred[None]:
        """Close what is beneath."""
        return self._store.close()


class FaultyGateway:
    """The way to an etcd, real or not, on which questions and answers get lost."""

    def __init__(self, gateway: Any, faults: Faults) -> None:
        self._gateway = gateway
        self._faults = faults

    async def ask(
        self, path: str, question: dict[str, Any], until: float | None = None
    ) -> dict[str, Any]:
        """Like `EtcdGateway.ask`."""
        asking = partial(self._ask, path, question, until)
        return await self._faults.suffer(cast("partial[Deferred[dict[str, Any]]]", asking))

    async def _ask(
        self, path: str, question: dict[str, Any], until: float | None
    ) -> dict[str, Any]:
        return cast("dict[str, Any]", await self._gateway.ask(path, question, until))

    def close(self) -> Deferred[None]:
        """Close what is beneath."""
        return cast("Deferred[None]", self._gateway.close())


class _FaultyConnection(sqlite3.Connection):
    faults: Faults

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        disk = self.faults.take() if sql == "COMMIT" else Disk.WELL
        if disk is Disk.FULL:
            raise sqlite3.OperationalError("database or disk is full")
        done = super().execute(sql, parameters)
        if disk is Disk.LOST:
            raise sqlite3.OperationalError("disk I/O error")
        return done


@contextmanager
def faulty_commits(faults: Faults) -> Iterator[None]:
    """Every connection of SQLite that is made meanwhile commits as these faults will have it."""

    class Connection(_FaultyConnection):
        pass

    Connection.faults = faults
    with patch.object(sqlite3, "connect", partial(sqlite3.connect, factory=Connection)):
        yield
