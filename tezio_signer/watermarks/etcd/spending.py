"""Entries of the daily ledger in etcd, which several daemons write: one comes first.

There is one key for each entry, `tezio-signer/spending/<key>/<digest>`, with the entry as JSON,
and one head for each signing key, `tezio-signer/spending-head/<key>`: a text that nobody has
written before, and everybody who writes an entry replaces.

States. Of each signing key the store remembers the head as it was when all entries were shown, or
as it has written it since. Who asked for the entries has then seen all that were there at this
head.

Transitions. A reading shows head and entries of one revision. A write is one transaction: if the
head is the one that is remembered, it is replaced, and entries are written and deleted; else head
and entries are shown instead.

Invariants, each with the test in `tests/watermarks/etcd/test_spending.py` that shows it:

1. Entries are written only by who has seen all others (`test_second_sees_the_first`), also when a
   backup is restored (`test_restored`): no head comes twice.
2. What is written is written beside the marker (`test_another_store`).
3. Of a write whose answer was lost, the next one learns (`test_answer_lost`). If the gateway has
   asked a second time by itself, it is known to be done (`test_asked_twice`).
4. A write that comes late, behind one that was made after it, is not done (`test_late`).
5. All entries of a key are shown, or it fails (`test_damaged`, `test_too_many`).
"""

import json
from collections.abc import Awaitable, Callable
from typing import Any, Protocol
from uuid import uuid4

from tezio_signer.tezos.keys import PublicKeyHash
from tezio_signer.watermarks.entry import (
    MOST_ENTRIES,
    Entries,
    Entry,
    Spending,
    entry_row,
    merged,
    read_entry,
)
from tezio_signer.watermarks.etcd.answers import Answer
from tezio_signer.watermarks.etcd.member import legible
from tezio_signer.watermarks.etcd.questions import (
    MARKER,
    PREFIX,
    delete,
    get,
    get_some,
    holds,
    put,
)
from tezio_signer.watermarks.markjson import TransferError
from tezio_signer.watermarks.store import Spent, StoreError

SPENDING = f"{PREFIX}spending/"
HEADS = f"{PREFIX}spending-head/"
_BEHIND_SPENDING = f"{SPENDING[:-1]}0"  # "0" comes right after "/"
_MOST_SHOWN = MOST_ENTRIES + 1000
"""Entries of a key that are read; more are not written by any daemon."""
_PAGE = 4000
_AT_ONCE = 100
_ATTEMPTS = 10
_Question = list[dict[str, Any]]


class _Transact(Protocol):
    def __call__(
        self, compare: _Question, success: _Question, failure: _Question
    ) -> Awaitable[Answer]: ...


class EtcdSpending:
    """The entries of a store.

    :param transact: asks etcd; raises StoreError.
    :param marker: compares the marker; raises StoreError before it is known.
    :param check_marker: raises StoreError for one that is another, or none.
    """

    def __init__(
        self,
        transact: _Transact,
        marker: Callable[[], dict[str, Any]],
        check_marker: Callable[[str | None], None],
    ) -> None:
        self._transact = transact
        self._marker = marker
        self._check_marker = check_marker
        self._heads: dict[PublicKeyHash, str | None] = {}

    async def spent(self, key: PublicKeyHash) -> Entries:
        """All entries of a key."""
        answer = await self._transact([], _reading(key), [])
        return self._seen(key, answer)

    async def spend(self, spent: Spent) -> Entries | None:
        """Write entries, if the head is known; else all that are there."""
        key = spent.key
        if key not in self._heads:
            return await self.spent(key)
        head = uuid4().hex
        answer = await self._transact(
            [self._marker(), holds(_head(key), self._heads[key])],
            [
                put(_head(key), head),
                *(put(_name(key, d), _text(key, d, e)) for d, e in spent.entries.items()),
                *(delete(_name(key, digest)) for digest in spent.forgotten),
            ],
            _reading(key),
        )
        # The gateway may have asked a second member after the first had done it.
        if answer.succeeded or answer.value(1) == head:
            self._heads[key] = head
            return None
        return self._seen(key, answer)

    async def load(self) -> Spending:
        """All entries of all keys, page by page: not of one moment."""
        spending: dict[PublicKeyHash, dict[bytes, Entry]] = {}
        first = SPENDING
        while True:
            page = [get(MARKER), get_some(first, _BEHIND_SPENDING, _PAGE)]
            answer = await self._transact([], page, [])
            self._check_marker(answer.value(0))
            for name, value in answer.shown[1].items():
                key, digest, entry = _read(name, value)
                spending.setdefault(key, {})[digest] = entry
                first = f"{name}\0"
            if len(answer.shown[1]) < _PAGE:
                return spending

    async def take_over(self, spending: Spending) -> None:
        """Have these entries count, besides those that are there."""
        for key, brought in spending.items():
            there = dict(await self.spent(key))
            digests = list(brought)
            for start in range(0, len(digests), _AT_ONCE):
                await self._take_over(key, digests[start : start + _AT_ONCE], brought, there)

    async def _take_over(
        self, key: PublicKeyHash, digests: list[bytes], brought: Entries, there: dict[bytes, Entry]
    ) -> None:
        by = uuid4().hex
        for _ in range(_ATTEMPTS):
            entries = {d: merged(there.get(d), brought[d]) for d in digests}
            entries = {d: _by(by, entry) for d, entry in entries.items()}
            found = await self.spend(Spent(key, entries))
            if found is None:
                return
            there.clear()
            there.update(found)
        raise StoreError("a signer writes entries all the time; try again")

    def _seen(self, key: PublicKeyHash, answer: Answer) -> Entries:
        """Take over what is shown; raises StoreError."""
        self._check_marker(answer.value(0))
        shown = answer.shown[2]
        if len(shown) > _MOST_SHOWN:
            raise StoreError(
                f"there are more than {_MOST_SHOWN} entries of {key} in etcd, too many to be read; "
                f"delete those that are older than two days (etcdctl del {SPENDING}{key}/…)"
            )
        entries = {}
        for name, value in shown.items():
            _, digest, entries[digest] = _read(name, value)
        self._heads[key] = answer.value(1)
        return entries


def _by(by: str, entry: Entry) -> Entry:
    return Entry(entry.at, entry.mutez, entry.operations, by)


def _reading(key: PublicKeyHash) -> _Question:
    entries = get_some(f"{SPENDING}{key}/", f"{SPENDING}{key}0", _MOST_SHOWN + 1)
    return [get(MARKER), get(_head(key)), entries]


def _head(key: PublicKeyHash) -> str:
    return f"{HEADS}{key}"


def _name(key: PublicKeyHash, digest: bytes) -> str:
    return f"{SPENDING}{key}/{digest.hex()}"


def _text(key: PublicKeyHash, digest: bytes, entry: Entry) -> str:
    return json.dumps({**entry_row(key, digest, entry), "by": entry.by})


def _read(name: str, value: str) -> tuple[PublicKeyHash, bytes, Entry]:
    """An entry as it is written under its name; raises StoreError."""
    try:
        key, digest, entry = read_entry(name, json.loads(value))
    except (ValueError, RecursionError, TransferError) as error:
        raise StoreError(
            f"an entry of spending in etcd is damaged: {legible(str(error))}"
        ) from error
    if _name(key, digest) != name:
        raise StoreError(f"{legible(name)} in etcd holds the entry of another payload")
    return key, digest, entry
