"""What may have left an account with one payload: an entry of the daily ledger, as a value.

Pure, and without Twisted: `check` and the listings read entries too.
"""

from collections.abc import Mapping
from typing import Any

from attrs import evolve, frozen

from tezio_signer.tezos.keys import PublicKeyHash
from tezio_signer.watermarks.markjson import (
    TransferError,
    hash_of_payload,
    json_object,
    json_text,
    key_hash,
)

DAY = 24 * 60 * 60
"""Seconds for which the limits are."""
GRACE = 60
"""Seconds for which it counts on: a signature leaves a few seconds after its reservation."""
COUNTED = DAY + GRACE
REMEMBERED = 2 * DAY
"""Seconds after which an entry is forgotten: a clock that leapt ahead may come back."""
MOST_ENTRIES = 4000
"""Entries of one key: 1.6 MB in one answer of etcd, which are read within a tenth of a second."""
MOST_MUTEZ = 2**63 - 1
"""More than there is; what adds up to more counts as this, which a column of SQLite can hold."""
_LAST_SECOND = 2**33
_MOST_KNOWN = 1000
_known: dict[str, PublicKeyHash] = {}  # thousands of entries have the same key
_FIELDS = ("key", "payload_hash", "at", "mutez", "operations")


@frozen
class Entry:
    """What may have left an account with one payload.

    :ivar at: when it was reserved last, in Unix seconds.
    :ivar mutez: amounts, fees, and what storage can burn.
    :ivar operations: how many there are in it; none if it was given back, and then no mutez.
    :ivar by: the run of a daemon that has written it last, in a shared store; "" in others.
    """

    at: int
    mutez: int
    operations: int
    by: str = ""

    def counts(self, now: float) -> bool:
        """Whether it counts. One of the future does: the clock was set back."""
        return self.operations > 0 and now < self.at + COUNTED

    def is_old(self, now: float) -> bool:
        """Whether it may be forgotten."""
        return now >= self.at + REMEMBERED


Entries = Mapping[bytes, Entry]
"""The entries of a key, by the digest of their payload."""
Spending = Mapping[PublicKeyHash, Entries]
NOTHING_SPENT: Spending = {}


@frozen
class Standing:
    """What counts at a moment.

    :ivar until: the Unix second from which nothing of it counts; None if nothing does.
    """

    mutez: int = 0
    operations: int = 0
    until: int | None = None

    @classmethod
    def of(cls, entries: Entries, now: float) -> "Standing":
        """The sum of those that count."""
        counted = [entry for entry in entries.values() if entry.counts(now)]
        return cls(
            sum(entry.mutez for entry in counted),
            sum(entry.operations for entry in counted),
            max((entry.at + COUNTED for entry in counted), default=None),
        )


def merged(standing: Entry | None, brought: Entry) -> Entry:
    """The entry that counts at least as much, and as long, as either."""
    if standing is None:
        return brought
    return evolve(
        standing,
        at=max(standing.at, brought.at),
        mutez=max(standing.mutez, brought.mutez),
        operations=max(standing.operations, brought.operations),
    )


def entry_row(key: PublicKeyHash, payload_hash: bytes, entry: Entry) -> dict[str, Any]:
    """Return an entry under the names that `docs/watermarks.md` documents."""
    return {
        "key": str(key),
        "payload_hash": payload_hash.hex(),
        "at": entry.at,
        "mutez": entry.mutez,
        "operations": entry.operations,
    }


def read_entry(where: str, value: object) -> tuple[PublicKeyHash, bytes, Entry]:
    """Read an entry that `entry_row` has made; raises TransferError, which begins with `where`.

    It may have `by` besides, which only etcd has.
    """
    row = json_object(where, value)
    for unknown in sorted(row.keys() - {*_FIELDS, "by"}):
        raise TransferError(f"{where}: {unknown!a:.40} is unknown")
    for missing in (field for field in _FIELDS if field not in row):
        raise TransferError(f"{where}: {missing} is missing")
    if row["payload_hash"] is None:
        raise TransferError(f"{where}: the payload hash is not 64 hexadecimal digits")
    entry = Entry(
        _number(f"{where}.at", row["at"], _LAST_SECOND),
        _number(f"{where}.mutez", row["mutez"], MOST_MUTEZ),
        _number(f"{where}.operations", row["operations"], 2**31 - 1),
        json_text(f"{where}.by", row.get("by", "")),
    )
    if entry.mutez and not entry.operations:
        raise TransferError(f"{where}: there are mutez, but no operations")
    payload_hash = hash_of_payload(where, row["payload_hash"])
    key = _known.get(row["key"]) if isinstance(row["key"], str) else None
    if key is None:
        key = key_hash(f"{where}.key", row["key"])
        if len(_known) < _MOST_KNOWN:
            _known[row["key"]] = key
    return key, payload_hash, entry


def _number(where: str, value: object, most: int) -> int:
    if type(value) is not int or not 0 <= value <= most:
        raise TransferError(f"{where}: a number from 0 to {most} is expected, not {value!r:.40}")
    return value
