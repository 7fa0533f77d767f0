"""A store in memory, filled with a copy of another one: nothing that is kept in it lasts."""

from twisted.internet.defer import Deferred, fail, succeed

from tezio_signer.tezos.keys import PublicKeyHash
from tezio_signer.watermarks.entry import Entries, Entry
from tezio_signer.watermarks.rule import Mark, MarkId, settle
from tezio_signer.watermarks.sqlite.reading import Content
from tezio_signer.watermarks.store import Kept, Spent, StoreError


class CopiedStore:
    """A `WatermarkStore`, for decisions that are to change nothing.

    :param content: what it begins with; or why the store of which it is a copy does not answer.
    """

    shared = False

    def __init__(self, content: Content | StoreError) -> None:
        self._error = content if isinstance(content, StoreError) else None
        self._marks: dict[MarkId, Mark] = {}
        self._spending: dict[PublicKeyHash, dict[bytes, Entry]] = {}
        if isinstance(content, Content):
            self._marks.update(content.marks)
            self._spending.update((key, dict(its)) for key, its in content.spending.items())

    def load(self) -> Deferred[dict[MarkId, Mark]]:
        """Return all marks; fails where there was no answer."""
        return fail(self._error) if self._error is not None else succeed(dict(self._marks))

    def keep(self, mark_id: MarkId, mark: Mark) -> Deferred[Kept]:
        """Keep a mark for as long as this object is there."""
        assert self._error is None  # nothing is claimed before it was read
        before = self._marks.get(mark_id)
        now = self._marks[mark_id] = settle(before, mark)
        return succeed(Kept(before, now))

    def spent(self, key: PublicKeyHash) -> Deferred[Entries]:
        """Return all entries of a key; fails where there was no answer."""
        if self._error is not None:
            return fail(self._error)
        return succeed(dict(self._spending.get(key, {})))

    def spend(self, spent: Spent) -> Deferred[Entries | None]:
        """Write entries for as long as this object is there."""
        entries = self._spending.setdefault(spent.key, {})
        entries.update(spent.entries)
        for digest in spent.forgotten:
            entries.pop(digest, None)
        return succeed(None)

    def close(self) -> Deferred[None]:
        """Do nothing."""
        return succeed(None)
