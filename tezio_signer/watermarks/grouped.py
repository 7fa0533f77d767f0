"""A store that blocks, used from the reactor: written in one thread, many marks at a time."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol, TypeVar

from twisted.internet.defer import Deferred, execute, succeed
from twisted.internet.interfaces import IReactorFromThreads
from twisted.internet.threads import deferToThreadPool
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool

from tezio_signer.watermarks.rule import Mark, MarkId
from tezio_signer.watermarks.store import Kept

_Result = TypeVar("_Result")
_Waiting = tuple[MarkId, Mark, Deferred[Kept]]


class BlockingStore(Protocol):
    """A store whose methods may block; they raise StoreError."""

    def load(self) -> dict[MarkId, Mark]:
        """All marks of the store."""

    def keep(self, marks: Sequence[tuple[MarkId, Mark]]) -> list[Kept]:
        """Write these, each if it is no step back; they survive a power cut on return."""

    def close(self) -> None:
        """Give the store free for others."""


class Writer(Protocol):
    """Runs what blocks, in order, one after the other."""

    def run(self, work: Callable[[], _Result]) -> Deferred[_Result]:
        """The result of the work, when its turn has come and it is done."""

    def stop(self) -> None:
        """Finish the work that was given, and end."""


class ThreadWriter:
    """A single thread, so that a slow disk stops no reactor and writes keep their order."""

    def __init__(self, reactor: IReactorFromThreads) -> None:
        self._reactor = reactor
        self._thread = ThreadPool(1, 1, "watermarks")
        self._thread.start()

    def run(self, work: Callable[[], _Result]) -> Deferred[_Result]:
        """The result of the work, delivered in the reactor's thread."""
        return deferToThreadPool(self._reactor, self._thread, work)

    def stop(self) -> None:
        """Wait for the work that was given."""
        self._thread.stop()


class GroupedStore:
    """A `WatermarkStore` on a blocking one.

    While one group of marks is being written, the next one gathers: a disk that takes its
    time for a sync is asked for one sync, not for one after the other.
    """

    shared = False

    def __init__(self, store: BlockingStore, writer: Writer) -> None:
        self._store = store
        self._writer = writer
        self._gathered: list[_Waiting] = []
        self._writing = False

    def load(self) -> Deferred[dict[MarkId, Mark]]:
        """All marks of the store, read at once."""
        return execute(self._store.load)

    def keep(self, mark_id: MarkId, mark: Mark) -> Deferred[Kept]:
        """Write a mark with the next group."""
        kept: Deferred[Kept] = Deferred()
        self._gathered.append((mark_id, mark, kept))
        if not self._writing:
            self._write()
        return kept

    def _write(self) -> None:
        group, self._gathered = self._gathered, []
        self._writing = bool(group)
        if group:
            marks = [(mark_id, mark) for mark_id, mark, _ in group]
            self._writer.run(partial(self._store.keep, marks)).addBoth(self._written, group)

    def _written(self, result: list[Kept] | Failure, group: list[_Waiting]) -> None:
        self._write()
        for number, (_, _, kept) in enumerate(group):
            if isinstance(result, Failure):
                kept.errback(result)
            else:
                kept.callback(result[number])

    def close(self) -> Deferred[None]:
        """Write what has gathered, and close the store."""
        self._write()
        self._writer.stop()
        self._store.close()
        return succeed(None)
