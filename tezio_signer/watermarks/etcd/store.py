"""Watermarks in an etcd cluster, for several signers: moved by compare-and-swap.

There is one key for each mark, `tezio-signer/marks/<chain>/<key>/<operation>`, with the mark as
JSON, and one marker, which says that this is a store, and which.

States. Of each key the store remembers what it has seen there last (`_Seen`): no mark, or a mark
with its very text; and the revision of etcd at which it was so. Keys of which it remembers
nothing were not there at the revision of its newest reading. The store as a whole is unread until
it has seen a marker, and belongs to that marker from then on.

Transitions. All of them are answers of etcd to transactions, and each shows some keys as they
were at one revision. Everything that is shown passes through `_observe`:

- a reading shows all marks, and by that also which are gone;
- a swap that was done shows the mark that it has written;
- a swap that failed shows what is there instead.

Transactions are linearizable: the revision of an answer is at least any that was seen before it
was asked for. If it is not, etcd has gone back in time, as when a backup is restored: what is
remembered then counts as older than any answer. A question without an answer changes nothing,
though it may have been carried out; what is seen next tells.

Invariants, each with the test in `tests/watermarks/etcd` that shows it:

1. A mark is written only in the place of the very text that is remembered, so that of two
   daemons one comes first (`test_first_comes_first`). Texts and not revisions are compared: after
   a backup was restored, one may come twice (`test_revision_that_comes_twice`).
2. A mark is written only beside the marker that was read first (`test_another_when_keeping`).
3. What is written is no step back from what it replaces (`test_never_down`, of all stores).
4. An older answer never replaces what was seen later, whichever member gives it, and whenever
   (`test_any_order`, `test_answer_that_is_older_than_a_swap`, `test_page_of_before_a_swap`).
5. A mark of which `keep` says that it is there has been in etcd (`test_keeping`).
6. A mark that is seen to be lower, or gone, is reported (`test_lowered`, `test_not_in_the_backup`).
7. A reading shows all marks, or fails: with one that is damaged (`test_values`), with one that is
   none (`test_keys`), or with too many (`test_too_many`).
8. Swaps of one mark are made one after the other, as they were brought; other marks do not wait
   (`test_one_at_a_time`).

There are at most MOST_MARKS marks, so that all of them fit into one answer.

The entries of the daily ledger are kept beside, by `etcd/spending.py`.
"""

import json
from collections.abc import Mapping
from typing import Any
from uuid import uuid4

from attrs import evolve, frozen
from twisted.internet.defer import Deferred, DeferredLock, TimeoutError  # noqa: A004
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from tezio_signer.tezos.keys import PublicKeyHash
from tezio_signer.watermarks.entry import Entries, Spending
from tezio_signer.watermarks.etcd.answers import Answer, read_answer
from tezio_signer.watermarks.etcd.gateway import PATIENCE, EtcdGateway
from tezio_signer.watermarks.etcd.member import legible, text
from tezio_signer.watermarks.etcd.questions import MARKER, PREFIX, get, holds, put
from tezio_signer.watermarks.etcd.spending import EtcdSpending
from tezio_signer.watermarks.markjson import TransferError, order, read_id, read_row, row
from tezio_signer.watermarks.rule import Mark, MarkId, settle
from tezio_signer.watermarks.store import Kept, Spent, StoreAwayError, StoreError

MARKS = f"{PREFIX}marks/"
_BEHIND_MARKS = f"{MARKS[:-1]}0"  # "0" comes right after "/"
FORMAT = 1
MOST_MARKS = 4800
"""Marks of 100 keys with 16 chains and 3 operations each. The JSON gateway needs up to 750 bytes
for one, 3.6 MB for all."""
_RAISE = "set high_water_marks to a level above all that was signed"
_SIGNATURE_PATIENCE = 0.6
_AT_ONCE = 100
"""Marks in one transaction; etcd takes 128 operations unless it is told otherwise."""


@frozen
class _Seen:
    """What was under the key of a mark.

    :ivar read_at: etcd's revision at that time; 0 if any answer is newer.
    :ivar value: the text of the mark, None if there was none.
    """

    mark_id: MarkId
    read_at: int
    mark: Mark | None = None
    value: str | None = None


class EtcdStore:
    """A `WatermarkStore` that other daemons may use at the same time."""

    _log = Logger()
    shared = True

    def __init__(self, gateway: EtcdGateway, clock: IReactorTime) -> None:
        self._gateway = gateway
        self._clock = clock
        self._marker: str | None = None
        self._seen: dict[str, _Seen] = {}
        self._read_at = 0
        self._locks: dict[str, DeferredLock] = {}
        self._spending = EtcdSpending(self._transaction, self._compare_marker, self._check_marker)

    def create(self) -> Deferred[None]:
        """Make an empty store; fails with StoreError if there is one."""
        return Deferred.fromCoroutine(self._create())

    async def _create(self) -> None:
        marker = json.dumps({"format": FORMAT, "id": uuid4().hex})
        absent = [holds(MARKER, None)]
        answer = await self._transaction(absent, [put(MARKER, marker)], [get(MARKER)])
        # A first attempt without an answer may have made it.
        if not answer.succeeded and answer.value(0) != marker:
            raise StoreError("this etcd has a watermark store already, and it is left as it is")

    def load(self) -> Deferred[dict[MarkId, Mark]]:
        """All marks; fails with StoreError."""
        return Deferred.fromCoroutine(self._load())

    async def _load(self) -> dict[MarkId, Mark]:
        # One more than there may be shows that there are too many.
        marks = {"key": text(MARKS), "range_end": text(_BEHIND_MARKS), "limit": str(MOST_MARKS + 1)}
        answer = await self._transaction([], [get(MARKER), {"request_range": marks}], [])
        self._check_marker(answer.value(0))
        shown = answer.shown[1]
        if len(shown) > MOST_MARKS:
            raise StoreError(
                f"there are more than {MOST_MARKS} watermarks in etcd, too many to be read; "
                f"delete those of keys that are no longer used (etcdctl del {MARKS}…)"
            )
        gone = self._seen.keys() - shown.keys()
        for key, value in (*shown.items(), *((key, None) for key in gone)):
            self._observe(key, value, answer.revision)
        self._read_at = max(self._read_at, answer.revision)
        return {seen.mark_id: seen.mark for seen in self._seen.values() if seen.mark}

    read = load

    def _check_marker(self, found: str | None) -> None:
        """Only the store that was read first is ours; raises StoreError."""
        marker = _known_marker(found)
        if self._marker not in (None, marker):
            raise StoreError(
                "the store in etcd is another than at the start of this signer, and is not used; "
                f"if it is to be used, stop all signers, {_RAISE}, and start them again"
            )
        self._marker = marker

    def _observe(self, key: str, value: str | None, read_at: int) -> None:
        """Remember what was under a mark's key at a revision, unless a later one was seen.

        :raises StoreError: if it is no mark; what was seen before is then still remembered.
        """
        before = self._known(key)
        if read_at < before.read_at:
            return
        mark = before.mark
        if value != before.value:
            mark = None if value is None else _mark(key, before.mark_id, value)
            if before.mark and (mark is None or settle(mark, before.mark) != mark):
                self._log.critical(
                    "the mark of {key} for {operation} on {chain} was lowered in etcd, or is gone",
                    key=before.mark_id.key,
                    operation=before.mark_id.operation,
                    chain=before.mark_id.chain_id,
                )
        self._seen[key] = _Seen(before.mark_id, read_at, mark, value)

    def _known(self, key: str) -> _Seen:
        """What is remembered; raises StoreError if the key is none of a mark."""
        # A key of which nothing is remembered was not there when all marks were read.
        return self._seen.get(key) or _Seen(_mark_id(key), self._read_at)

    def keep(self, mark_id: MarkId, mark: Mark) -> Deferred[Kept]:
        """Swap the mark, if it is no step back.

        Fails with StoreError; the mark may have been written all the same.
        """
        return Deferred.fromCoroutine(self._keep(mark_id, mark))

    async def _keep(self, mark_id: MarkId, mark: Mark) -> Kept:
        # A client waits for two commits, that of its claim and that of the signature.
        patience = PATIENCE if mark.signature is None else _SIGNATURE_PATIENCE
        until = self._clock.seconds() + patience
        key = _key(mark_id)
        lock = self._locks.setdefault(key, DeferredLock())
        try:
            await lock.acquire().addTimeout(patience, self._clock)
        except TimeoutError:
            raise StoreAwayError("etcd is still busy with an earlier claim") from None
        try:
            while True:
                seen = self._known(key)
                now = settle(seen.mark, mark)
                if now == seen.mark:
                    return Kept(now, now)
                if await self._swap(key, seen.value, _json(mark_id, now), until):
                    return Kept(seen.mark, now)
        finally:
            lock.release()

    async def _swap(self, key: str, seen: str | None, value: str, until: float) -> bool:
        """Put a mark in the place of what was seen, or see what is there instead."""
        marker = self._compare_marker()
        if seen is None:
            self._check_room(key)
        answer = await self._transaction(
            [marker, holds(key, seen)],
            [put(key, value)],
            [get(MARKER), get(key)],
            until,
        )
        if not answer.succeeded:
            self._check_marker(answer.value(0))
        self._observe(key, value if answer.succeeded else answer.value(1), answer.revision)
        return answer.succeeded

    def replace(self, marks: Mapping[MarkId, Mark]) -> Deferred[None]:
        """Put these in the place of what was seen when loading.

        This may lower a mark: it is for an operator who knows why, not for signing. Fails
        with StoreError if a daemon has moved one meanwhile; the marks before it, in groups
        of a hundred, are then replaced. What is replaced is seen by the next `load`.
        """
        return Deferred.fromCoroutine(self._replace(marks))

    async def _replace(self, marks: Mapping[MarkId, Mark]) -> None:
        values = {_key(mark_id): _json(mark_id, mark) for mark_id, mark in marks.items()}
        self._check_room(*values)
        keys = list(values)
        for start in range(0, len(keys), _AT_ONCE):
            group = keys[start : start + _AT_ONCE]
            seen = {key: self._seen[key].value for key in group if key in self._seen}
            answer = await self._transaction(
                [holds(key, seen.get(key)) for key in group],
                [put(key, values[key]) for key in group],
                [get(key) for key in group],
            )
            # A first attempt without an answer may have put them.
            there = [answer.value(number) for number in range(len(group))]
            if not answer.succeeded and there != [values[key] for key in group]:
                raise StoreError("a signer has moved the marks meanwhile; try again")

    def _check_room(self, *keys: str) -> None:
        """Not more marks than can be read; raises StoreError."""
        standing = {key for key, seen in self._seen.items() if seen.mark}
        if len(standing.union(keys)) > MOST_MARKS:
            raise StoreError(f"etcd may hold {MOST_MARKS} watermarks, and there would be more")

    def spent(self, key: PublicKeyHash) -> Deferred[Entries]:
        """All entries of a key; fails with StoreError."""
        return Deferred.fromCoroutine(self._spending.spent(key))

    def spend(self, spent: Spent) -> Deferred[Entries | None]:
        """Write entries, unless other daemons were faster; fails with StoreError."""
        return Deferred.fromCoroutine(self._spending.spend(spent))

    def read_spending(self) -> Deferred[Spending]:
        """All entries of all keys; fails with StoreError."""
        return Deferred.fromCoroutine(self._spending.load())

    load_spending = read_spending

    def take_over(self, marks: Mapping[MarkId, Mark], spending: Spending) -> Deferred[None]:
        """Replace marks, as `replace` does, then have these entries count too."""
        return Deferred.fromCoroutine(self._take_over(marks, spending))

    async def _take_over(self, marks: Mapping[MarkId, Mark], spending: Spending) -> None:
        await self._replace(marks)
        await self._spending.take_over(spending)

    def _compare_marker(self) -> dict[str, Any]:
        """What a transaction compares; raises StoreAwayError before the marker is known."""
        if self._marker is None:
            raise StoreAwayError("the store has not been read yet")
        return holds(MARKER, self._marker)

    def close(self) -> Deferred[None]:
        """Close the connections."""
        return self._gateway.close()

    async def _transaction(
        self,
        compare: list[dict[str, Any]],
        success: list[dict[str, Any]],
        failure: list[dict[str, Any]],
        until: float | None = None,
    ) -> Answer:
        """Ask etcd; raises StoreError. What is shown is for the caller to observe."""
        before = self._seen
        newest = max([self._read_at, *(seen.read_at for seen in before.values())])
        question = {"compare": compare, "success": success, "failure": failure}
        found = await self._gateway.ask("/v3/kv/txn", question, until)
        answer = read_answer(found, compare, success, failure)
        # Questions from before it was noticed say nothing new about it.
        if answer.revision < newest and self._seen is before:
            self._log.critical("etcd has gone back in time: was a backup restored?")
            self._seen = {key: evolve(seen, read_at=0) for key, seen in before.items()}
            self._read_at = 0
        return answer


def _known_marker(found: str | None) -> str:
    """The marker as it is written; raises StoreError if it is missing, or none of ours."""
    if found is None:
        raise StoreError(
            "this etcd holds no watermark store; if it never held one, create it with: "
            f"tezio-signer watermarks init; if it was lost, {_RAISE} as well"
        )
    try:
        version = json.loads(found)["format"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise StoreError(f"{MARKER} in etcd is not the marker of a watermark store") from error
    if type(version) is not int:
        raise StoreError(f"{MARKER} in etcd is not the marker of a watermark store")
    if version != FORMAT:
        raise StoreError(
            f"the watermark store in etcd has format {version!s:.20}, not {FORMAT}; use the "
            "version of Tezio Signer that wrote it"
        )
    return found


def _key(mark_id: MarkId) -> str:
    return MARKS + "/".join(order(mark_id))


def _mark_id(key: str) -> MarkId:
    """What mark a key is of; raises StoreError."""
    try:
        chain, address, operation = key.removeprefix(MARKS).split("/")
        return read_id(key, chain, address, operation)
    except (ValueError, TransferError) as error:
        raise StoreError(f"{legible(key)} in etcd is no key of a watermark") from error


def _json(mark_id: MarkId, mark: Mark) -> str:
    return json.dumps(row(mark_id, mark))


def _mark(key: str, mark_id: MarkId, value: str) -> Mark:
    """A mark as it is written under its key; raises StoreError."""
    try:
        its_id, mark = read_row(key, json.loads(value))
    except (ValueError, RecursionError, TransferError) as error:
        raise StoreError(f"a watermark in etcd is damaged: {legible(str(error))}") from error
    if its_id != mark_id:
        raise StoreError(f"{key} in etcd holds the watermark of another key")
    return mark
