"""A store in memory, filled with a copy of another one: nothing that is kept in it lasts."""

from collections.abc import Mapping

from twisted.internet.defer import Deferred, fail, succeed

from tezio_signer.watermarks.rule import Mark, MarkId, settle
from tezio_signer.watermarks.store import Kept, StoreError


class CopiedStore:
    """A `WatermarkStore`, for decisions that are to change nothing.

    :param marks: what it begins with; or why the store of which it is a copy does not answer.
    """

    shared = False

    def __init__(self, marks: Mapping[MarkId, Mark] | StoreError) -> None:
        self._marks = marks if isinstance(marks, StoreError) else dict(marks)

    def load(self) -> Deferred[dict[MarkId, Mark]]:
        """Return all marks; fails where there was no answer."""
        if isinstance(self._marks, StoreError):
            return fail(self._marks)
        return succeed(dict(self._marks))

    def keep(self, mark_id: MarkId, mark: Mark) -> Deferred[Kept]:
        """Keep a mark for as long as this object is there."""
        assert not isinstance(self._marks, StoreError)  # nothing is claimed before it was read
        before = self._marks.get(mark_id)
        now = self._marks[mark_id] = settle(before, mark)
        return succeed(Kept(before, now))

    def close(self) -> Deferred[None]:
        """Do nothing."""
        return succeed(None)
