"""Says what every store of watermarks does, and how it fails."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from attrs import frozen

from tezio_signer.errors import OperatorError
from tezio_signer.tezos.keys import PublicKeyHash
from tezio_signer.watermarks.entry import Entries
from tezio_signer.watermarks.rule import Mark, MarkId

if TYPE_CHECKING:  # `check` reads an SQLite file without Twisted
    from twisted.internet.defer import Deferred


class StoreError(OperatorError):
    """The store cannot be opened, read or written; `str()` says why and what to do."""


class StoreAwayError(StoreError):
    """The store does not answer for the time being; trying again may help."""


class StoreLostError(StoreError):
    """What lies at the store's path is not what was opened, or was written by others.

    It may come back as it was; until then nothing that is kept can be told to anybody.
    """


@frozen
class Kept:
    """What became of a mark that was brought to a store.

    :ivar before: the mark that it found, if it is known to be the one that `now` has
        replaced; equal to `now` if it has replaced nothing.
    :ivar now: the mark that is there then: the one that was brought, or one that it may not move.
    """

    before: Mark | None
    now: Mark


@frozen
class Spent:
    """What is to become of the entries of a key, all of it or nothing.

    :ivar forgotten: the digests of entries that are deleted.
    """

    key: PublicKeyHash
    entries: Entries
    forgotten: tuple[bytes, ...] = ()


class WatermarkStore(Protocol):
    """Keeps marks, and the entries of the daily ledger, where they survive a crash.

    What is kept for one mark is written in the order in which it was brought.

    :ivar shared: whether other daemons may move its marks too.
    """

    shared: bool

    def load(self) -> Deferred[dict[MarkId, Mark]]:
        """Return all marks of the store; fails with StoreError."""

    def keep(self, mark_id: MarkId, mark: Mark) -> Deferred[Kept]:
        """Write a mark, if it is no step back (`rule.settle`).

        The mark that is there then survives a power cut when this fires. Fails with StoreError;
        whether the mark was written is then not known.
        """

    def spent(self, key: PublicKeyHash) -> Deferred[Entries]:
        """Return all entries of a key; fails with StoreError."""

    def spend(self, spent: Spent) -> Deferred[Entries | None]:
        """Write entries of a key, and delete others.

        Fires with None when that survives a power cut. If others have changed entries of the key
        since this store has shown them, or has written them, or if it has not shown them yet, it
        may write nothing, and fires with all that are there. Fails with StoreError; whether it was
        done is then not known.
        """

    def close(self) -> Deferred[None]:
        """Release the store for others, when all that was brought is written."""
