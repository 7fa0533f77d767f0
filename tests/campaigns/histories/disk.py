"""The disk of a daemon whose store is a file: it writes when the history says so, or fails."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from tests.campaigns.histories.network import Message, Network
from tezio_signer.tezos.keys import PublicKeyHash
from tezio_signer.watermarks.entry import Entries
from tezio_signer.watermarks.rule import Mark, MarkId, settle
from tezio_signer.watermarks.sqlite.grouped import GroupedStore
from tezio_signer.watermarks.store import Kept, Spent, StoreError

_Result = TypeVar("_Result")


class Disk:
    """What is on it survives its daemon.

    :ivar stored: the marks.
    :ivar missing: the store was moved away; a daemon that runs still has it open.
    :ivar failing: how the next write fails, if it does: before the marks are written, or behind.
    """

    def __init__(self, network: Network) -> None:
        self.network = network
        self.stored: dict[MarkId, Mark] = {}
        self.missing = False
        self.failing: str | None = None

    def marks(self) -> dict[MarkId, Mark]:
        """All marks."""
        return dict(self.stored)

    def raise_mark(self, mark_id: MarkId, mark: Mark) -> None:
        """Do what `tezio-signer watermarks set` does, if the mark is higher than what is there."""
        standing = self.stored.get(mark_id)
        if standing is None or mark.position > standing.position:
            self.stored = {**self.stored, mark_id: mark}

    def lower(self, mark_id: MarkId, payload_hash: bytes) -> None:
        """Remove a mark, if it is for this payload: what nothing but a bug does."""
        standing = self.stored.get(mark_id)
        if standing is not None and standing.payload_hash == payload_hash:
            self.stored = {other: mark for other, mark in self.stored.items() if other != mark_id}

    def open(self, daemon: str, clock: IReactorTime, alive: Callable[[], bool]) -> GroupedStore:
        """Open the store; raises StoreError if it is not there."""
        if self.missing:
            raise StoreError("the watermark store does not exist")
        writer = _Writer(self.network, f"{daemon}>disk", f"disk>{daemon}", alive)
        return GroupedStore(MarkFile(self), writer, clock)


class MarkFile:
    """The blocking store: the rule, and a commit that may fail."""

    def __init__(self, disk: Disk) -> None:
        self.disk = disk

    def load(self) -> dict[MarkId, Mark]:
        return self.disk.marks()

    def keep(self, marks: Sequence[tuple[MarkId, Mark]], spent: Sequence[Spent] = ()) -> list[Kept]:
        assert not spent, "no history spends anything"
        failing, self.disk.failing = self.disk.failing, None
        if failing == "before":
            raise StoreError("disk I/O error")
        written = dict(self.disk.stored)
        kept = []
        for mark_id, mark in marks:
            before = written.get(mark_id)
            written[mark_id] = settle(before, mark)
            kept.append(Kept(before, written[mark_id]))
        self.disk.stored = written
        if failing == "behind":
            raise StoreError("disk I/O error")
        return kept

    def spent(self, key: PublicKeyHash) -> Entries:
        return {}

    def tidy(self) -> None:
        """Nothing to tidy."""

    def close(self) -> None:
        """Nothing to close."""


class _Writer:
    """A thread whose work is a message to the disk, and whose result is one back."""

    def __init__(
        self, network: Network, outward: str, inward: str, alive: Callable[[], bool]
    ) -> None:
        self._network = network
        self._outward, self._inward = outward, inward
        self._alive = alive

    def run(self, work: Callable[[], _Result]) -> Deferred[_Result]:
        """Do it when the message arrives."""
        done: Deferred[_Result] = Deferred()
        if self._alive():
            self._network.send(self._outward, Message("a write", lambda: self._work(work, done)))
        return done

    def _work(self, work: Callable[[], _Result], done: Deferred[_Result]) -> None:
        if not self._alive():  # the process is gone, and its thread with it
            return
        try:
            result: _Result | Failure = work()
        except Exception:
            result = Failure()
        self._network.send(
            self._inward,
            Message("written", lambda: done.callback(result), void=lambda: not self._alive()),
        )

    def stop(self) -> bool:
        """Finish what was given."""
        while (message := self._network.take(self._outward, 0)) is not None:
            message.arrive()
        while (message := self._network.take(self._inward, 0)) is not None:
            message.arrive()
        return True
