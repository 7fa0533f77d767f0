"""The daily ledger: what keys may spend in any 24 hours, decided in memory, stored before signing.

What is known of each entry, and how it changes, is written in `book`. This module brings entries
to the store, for one key one after the other.

A reservation is

- *waiting* for those of the same key that came before;
- *judged*: its entry is taken in the book, and counts from now on; or it is refused;
- *granted* when its entry is durable in the store. Only then is an HSM asked;
- *undone* when it is certain that it has brought no signature: it has failed before it was
  granted, or nobody waited for it any more, or its exchange ended without any board being asked.

A granted reservation that is not undone is spent, whatever became of it: an HSM that was asked may
have signed.

Between daemons: the store tells a daemon whose view of a key's entries is not the newest what is
there instead of writing. The reservation is then judged again, so that all daemons together stay
within the limits of each. An entry that another daemon has written, or that was there before this
one started, is never given back by this one. A write without an answer may have been done: its
entry then counts for everybody until it is found, and given back, with the next reservation.

Invariants, each with a test of its name in `tests/watermarks/test_ledger.py`:

1. *Stored before granted*: nothing is granted of which the store does not hold the entry.
2. *Together*: what daemons on one store grant in any 24 hours is within the limit.
3. *Across crashes*: what was granted counts for whoever opens the store next.
4. *Given back once*: an undo that is called twice gives back once.
5. *In vain*: a reservation that nobody waits for any more is undone when it is granted.
"""

from collections.abc import Callable
from typing import Protocol
from uuid import uuid4

from attrs import define, field
from twisted.internet.defer import Deferred, DeferredLock
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from tezio_signer.errors import TooMany, Unavailable
from tezio_signer.noop import do_nothing
from tezio_signer.tezos.keys import PublicKeyHash
from tezio_signer.watermarks.book import Book, Limits
from tezio_signer.watermarks.entry import Entries, Standing
from tezio_signer.watermarks.store import Spent, StoreError

PATIENCE = 6.0
"""Seconds after which a client is told that the store has not written, as for a watermark."""
_ATTEMPTS = 10
"""How often a reservation is judged again because other daemons were faster."""
Undo = Callable[[], object]


class SpendingStore(Protocol):
    """What the ledger needs of a store; `WatermarkStore` says what each of these does."""

    @property
    def shared(self) -> bool: ...
    def spent(self, key: PublicKeyHash) -> Deferred[Entries]: ...
    def spend(self, spent: Spent) -> Deferred[Entries | None]: ...


@define(eq=False)
class _Account:
    """The book of a key, and whose turn it is."""

    book: Book
    is_read: bool = False
    turn: DeferredLock = field(factory=DeferredLock)


@define
class _Asked:
    """What is to be reserved."""

    digest: bytes
    mutez: int
    operations: int
    limits: Limits


class Ledger:
    """The spending of all keys; the only place where it is counted.

    :param store: gives the store that is open now.
    :param now: the wall clock, in Unix seconds.
    """

    _log = Logger()

    def __init__(
        self, store: Callable[[], SpendingStore], clock: IReactorTime, now: Callable[[], float]
    ) -> None:
        self._store = store
        self._clock = clock
        self._now = now
        self._by = uuid4().hex
        self._accounts: dict[PublicKeyHash, _Account] = {}

    def reserve(
        self,
        key: PublicKeyHash,
        digest: bytes,
        mutez: int,
        operations: int,
        most_mutez: int | None,
        most_operations: int | None,
    ) -> Deferred[Undo]:
        """Count a payload of a key, if it is within its limits; fires when that is durable.

        The result is to be called once it is certain that nothing was signed for it.

        :param digest: of the payload; one that counts already is not counted once more.
        :param mutez: all that may leave the account with it.
        :param most_mutez: what may in 24 hours; None for any amount.
        :param most_operations: how many may be signed in 24 hours; None for any number.

        Fails with TooMany, or with Unavailable if it cannot be stored. Cancelling it means that
        the client has gone.
        """
        asked = _Asked(digest, mutez, operations, Limits(most_mutez, most_operations))
        waiting: Deferred[Undo] = Deferred()

        def end(result: Undo | Failure) -> None:
            if not waiting.called:
                waiting.callback(result)

        Deferred.fromCoroutine(self._reserve(key, asked, waiting)).addBoth(end)
        return waiting.addTimeout(PATIENCE, self._clock, _too_late)

    def standing(self, key: PublicKeyHash) -> Standing:
        """What counts of a key now, as far as this daemon knows; nothing before it has signed."""
        account = self._accounts.get(key)
        return Standing() if account is None else account.book.standing(self._now())

    async def _reserve(self, key: PublicKeyHash, asked: _Asked, waiting: Deferred[Undo]) -> Undo:
        account = self._accounts.setdefault(key, _Account(Book(key, self._by, self._clock.seconds)))
        book = account.book
        await account.turn.acquire()
        try:
            if waiting.called:
                return do_nothing
            is_new = await self._take(key, account, asked)
            try:
                await self._bring(key, book, asked, is_new)
            except BaseException:
                book.give_back(asked.digest, self._now())
                raise
            undo = self._undo(key, account, asked.digest)
            if waiting.called:  # the next one need not know
                undo()
        except StoreError as error:
            raise Unavailable(f"no signature without stored spending: {error}") from error
        finally:
            account.turn.release()
        return undo

    async def _take(self, key: PublicKeyHash, account: _Account, asked: _Asked) -> bool:
        """Judge it, by what is known, and then by what is there; whether it was not counted yet.

        Raises TooMany, StoreError.
        """
        book, store = account.book, self._store()
        what = asked.digest, asked.mutez, asked.operations, asked.limits
        if account.is_read:
            try:
                return book.take(*what, self._now())
            except TooMany:
                if not store.shared:
                    raise
        book.learn(await store.spent(key))  # what others have given back is free
        account.is_read = True
        return book.take(*what, self._now())

    async def _bring(
        self, key: PublicKeyHash, book: Book, asked: _Asked | None, is_new: bool = False
    ) -> None:
        """Have the store hold what the book says; raises StoreError, TooMany."""
        for _ in range(_ATTEMPTS):
            first = None if asked is None else asked.digest
            entries, forgotten = book.changes(first, self._now())
            if not entries:
                return
            there = await self._store().spend(Spent(key, entries, tuple(forgotten)))
            if there is None:
                book.written(entries, forgotten)
                return
            book.learn(there)
            if asked is not None and is_new:
                book.check_again(asked.digest, asked.limits, self._now())
        raise Unavailable("other signers reserve for the same key all the time; try again")

    def _undo(self, key: PublicKeyHash, account: _Account, digest: bytes) -> Undo:
        left = [digest]

        def undo() -> None:
            if left and account.book.give_back(left.pop(), self._now()):
                Deferred.fromCoroutine(self._write_back(key, account)).addErrback(self._not_written)

        return undo

    async def _write_back(self, key: PublicKeyHash, account: _Account) -> None:
        await account.turn.acquire()
        try:
            await self._bring(key, account.book, None)
        finally:
            account.turn.release()

    def _not_written(self, failure: Failure) -> None:
        """What was given back counts in the store until the next reservation brings it there."""
        if not failure.check(StoreError, Unavailable):
            self._log.failure("spending that was given back cannot be stored", failure)


def _too_late(result: object, seconds: float) -> Undo:  # noqa: ARG001
    raise Unavailable(f"the watermark store has not written within {seconds:g} s")
