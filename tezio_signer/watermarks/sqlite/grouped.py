"""Uses a store that blocks from the reactor: writes in one thread, many marks at a time."""

from collections.abc import Callable, Sequence
from functools import partial
from queue import SimpleQueue
from threading import Thread
from typing import Protocol, TypeVar

from twisted.internet.defer import Deferred, execute, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorFromThreads, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from tezio_signer.reactors import cancel
from tezio_signer.tezos.keys import PublicKeyHash
from tezio_signer.watermarks.entry import Entries
from tezio_signer.watermarks.rule import Mark, MarkId
from tezio_signer.watermarks.store import Kept, Spent, StoreError, StoreLostError

STOP_PATIENCE = 2.0
"""Seconds that a disk gets for what it still has to write when the daemon stops."""
REST = 1.0
"""Seconds without a commit after which the store tidies up."""
LOOK_INTERVAL = 1.0
"""Seconds after which a store is looked at that nobody asks for anything."""
_Result = TypeVar("_Result")
_Waiting = tuple[MarkId, Mark, Deferred[Kept]]
_Spending = tuple[Spent, Deferred[Entries | None]]


class BlockingStore(Protocol):
    """A store whose methods may block; they raise StoreError."""

    def load(self) -> dict[MarkId, Mark]:
        """Return all marks of the store."""

    def keep(self, marks: Sequence[tuple[MarkId, Mark]], spent: Sequence[Spent] = ()) -> list[Kept]:
        """Write marks, each if it is no step back, and spending.

        All that survives a power cut on return; if it raises, nothing was written, as far as is
        known.
        """

    def spent(self, key: PublicKeyHash) -> Entries:
        """Return the entries of a key; does not block."""

    def tidy(self) -> None:
        """Do what can wait until nobody waits."""

    def close(self) -> None:
        """Release the store for others."""


class Writer(Protocol):
    """Runs what blocks, in order, one after the other."""

    def run(self, work: Callable[[], _Result]) -> Deferred[_Result]:
        """Do the work when its turn has come; fires with its result."""

    def stop(self) -> bool:
        """Finish the work that was given, and end; returns False if it takes too long."""


class ThreadWriter:
    """A single thread, so that a slow disk stops no reactor and writes keep their order.

    :param patience: seconds, at most, that stopping waits for a disk that hangs.
    """

    def __init__(self, reactor: IReactorFromThreads, patience: float = STOP_PATIENCE) -> None:
        self._reactor = reactor
        self._patience = patience
        self._given: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        # Not one that Python waits for at its end: a disk may hang for ever.
        self._thread = Thread(target=self._work, name="watermarks", daemon=True)
        self._thread.start()

    def run(self, work: Callable[[], _Result]) -> Deferred[_Result]:
        """Do the work in the thread; fires with its result in the reactor's thread."""
        done: Deferred[_Result] = Deferred()

        def do() -> None:
            try:
                result: _Result | Failure = work()
            except Exception:
                result = Failure()
            self._reactor.callFromThread(done.callback, result)

        self._given.put(do)
        return done

    def _work(self) -> None:
        while (do := self._given.get()) is not None:
            do()

    def stop(self) -> bool:
        """Wait for the work that was given, but not for ever; returns whether it is done."""
        self._given.put(None)
        self._thread.join(self._patience)
        return not self._thread.is_alive()


class GroupedStore:
    """A `WatermarkStore` on a blocking one.

    While one group of marks is being written, the next one gathers: a disk that takes its
    time for a sync is asked for one sync, not for one after the other.

    :param clock: tells when the store has had a rest and may tidy up; None: it never does.
    :param look: looks at the store, and raises StoreLostError if it is lost; called every now
        and then, so that this is said at once, and also when it is there again.
    """

    shared = False
    _log = Logger()

    def __init__(
        self,
        store: BlockingStore,
        writer: Writer,
        clock: IReactorTime | None = None,
        look: Callable[[], None] | None = None,
    ) -> None:
        self._store = store
        self._writer = writer
        self._clock = clock
        self._tidying: IDelayedCall | None = None
        self._beginning: IDelayedCall | None = None
        self._gathered: list[_Waiting] = []
        self._spending: list[_Spending] = []
        self._writing = False
        self._closed = False
        self._lost = False
        self._look = look
        self._looking: IDelayedCall | None = None
        self._look_later()

    def load(self) -> Deferred[dict[MarkId, Mark]]:
        """Read all marks of the store at once."""
        return execute(self._store.load)

    def keep(self, mark_id: MarkId, mark: Mark) -> Deferred[Kept]:
        """Write a mark with the next group."""
        kept: Deferred[Kept] = Deferred()
        self._gathered.append((mark_id, mark, kept))
        if not self._writing:
            self._begin()
        return kept

    def spent(self, key: PublicKeyHash) -> Deferred[Entries]:
        """Return the entries of a key at once."""
        return execute(self._store.spent, key)

    def spend(self, spent: Spent) -> Deferred[Entries | None]:
        """Write entries of a key with the next group; nobody else does."""
        written: Deferred[Entries | None] = Deferred()
        self._spending.append((spent, written))
        if not self._writing:
            self._begin()
        return written

    def _begin(self) -> None:
        """Write at the end of this turn of the reactor: first the HSM is to be asked.

        A working thread would slow that down; and what else comes in this turn is written
        together.
        """
        if self._clock is None:
            self._write()
        elif self._beginning is None:
            self._beginning = self._clock.callLater(0, self._write)

    def _write(self) -> None:
        cancel(self._beginning)
        self._beginning = None
        group, self._gathered = self._gathered, []
        spending, self._spending = self._spending, []
        self._writing = bool(group or spending)
        if self._writing:
            marks = [(mark_id, mark) for mark_id, mark, _ in group]
            keep = partial(self._store.keep, marks, [spent for spent, _ in spending])
            self._writer.run(keep).addBoth(self._written, group, spending)

    def _written(
        self, result: list[Kept] | Failure, group: list[_Waiting], spending: list[_Spending]
    ) -> None:
        self._notice(result)
        self._write()
        self._tidy_later()
        for number, (_, _, kept) in enumerate(group):
            if isinstance(result, Failure):
                kept.errback(result)
            else:
                kept.callback(result[number])
        for _, written in spending:
            written.callback(result if isinstance(result, Failure) else None)

    def _tidy_later(self) -> None:
        if self._tidying is not None and self._tidying.active():
            self._tidying.reset(REST)
        elif self._clock is not None and not self._closed:
            self._tidying = self._clock.callLater(REST, self._tidy)

    def _tidy(self) -> None:
        if self._writing:  # a slow disk; it will have its rest behind this
            return
        self._writer.run(self._store.tidy).addErrback(self._not_tidied)

    def _not_tidied(self, failure: Failure) -> None:
        failure.trap(StoreError)
        self._notice(failure)
        if not failure.check(StoreLostError):
            self._log.warn("{sentence}; no mark is lost", sentence=failure.value)

    def _look_later(self) -> None:
        if self._look is not None and self._clock is not None and not self._closed:
            self._looking = self._clock.callLater(LOOK_INTERVAL, self._look_now, self._look)

    def _look_now(self, look: Callable[[], None]) -> None:
        if self._writing:  # and looked at by who writes
            self._look_later()
            return
        looked = self._writer.run(look)
        looked.addBoth(self._looked)

    def _looked(self, result: Failure | None) -> None:
        self._notice(result)
        if isinstance(result, Failure) and not result.check(StoreError):
            self._log.failure("the watermark store cannot be looked at", result)
        self._look_later()

    def _notice(self, result: object) -> None:
        """Say once that the store is lost, and that it is there again."""
        if isinstance(result, Failure):
            if result.check(StoreLostError) and not self._lost:
                self._lost = True
                self._log.critical(
                    "{sentence}. Until then nothing that needs a watermark is signed",
                    sentence=result.value,
                )
        elif self._lost:
            self._lost = False
            self._log.info("the watermark store is there again, and marks are written to it")

    def close(self) -> Deferred[None]:
        """Write what has gathered, and close the store.

        A disk that hangs is left alone after a while: what it has not confirmed has not
        been told to anybody, and the store on it is one as after a crash.
        """
        self._closed = True
        cancel(self._tidying)
        cancel(self._looking)
        self._write()
        # Behind what is written, and in the same thread: closing, too, waits for the disk.
        closed = self._writer.run(self._store.close)
        closed.addErrback(lambda failure: self._log.failure("closing the store failed", failure))
        if not self._writer.stop():
            self._log.error("the watermark store does not finish writing, and is not waited for")
        return succeed(None)
