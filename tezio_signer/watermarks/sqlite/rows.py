"""Reads and writes marks as rows of an SQLite store, and reads how far the store has come."""

import sqlite3
from pathlib import Path

from tezio_signer.tezos.keys import PublicKeyHash, Signature
from tezio_signer.watermarks.entry import Entry, read_entry
from tezio_signer.watermarks.markjson import TransferError, read_row
from tezio_signer.watermarks.rule import Mark, MarkId
from tezio_signer.watermarks.sqlite.lockfile import Progress
from tezio_signer.watermarks.sqlite.schema import damaged

KEEP = "INSERT OR REPLACE INTO marks VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
_ALL = "SELECT chain_id, key, operation, level, round, payload_hash, signature FROM marks"
FIND = (
    "SELECT level, round, payload_hash, signature FROM marks "
    "WHERE chain_id = ? AND key = ? AND operation = ?"
)
SPEND = "INSERT OR REPLACE INTO spending VALUES (?, ?, ?, ?, ?, ?)"
FORGET = "DELETE FROM spending WHERE key = ? AND payload_hash = ?"
_ENTRIES = "SELECT key, payload_hash, at, mutez, operations FROM spending"
_HAS_SPENDING = "SELECT count(*) FROM sqlite_schema WHERE name = 'spending'"
_PROGRESS_2 = "SELECT id, (SELECT coalesce(max(written), 0) FROM marks) FROM store"
_PROGRESS = (
    "SELECT id, max((SELECT coalesce(max(written), 0) FROM marks), "
    "(SELECT coalesce(max(written), 0) FROM spending)) FROM store"
)
_ID = set("0123456789abcdef")

Row = tuple[int, int, bytes, str | None]


def progress_in(connection: sqlite3.Connection, path: Path | None) -> Progress:
    """Read how far a store has come; raises StoreError."""
    rows = connection.execute(_PROGRESS if _has_spending(connection) else _PROGRESS_2).fetchall()
    if len(rows) != 1:
        raise damaged(path, f"it has {len(rows)} ids, not 1")
    progress = Progress(*rows[0])
    if len(progress.store) != 32 or not _ID.issuperset(progress.store):
        raise damaged(path, "its id is none")
    return progress


def marks_in(connection: sqlite3.Connection, path: Path | None) -> dict[MarkId, Mark]:
    """Read all marks of a store; raises StoreError."""
    try:
        return dict(_checked(*row) for row in connection.execute(_ALL))
    except (ValueError, TransferError) as error:
        raise damaged(path, error) from error


def entries_in(
    connection: sqlite3.Connection, path: Path | None
) -> dict[PublicKeyHash, dict[bytes, Entry]]:
    """Read all entries of the daily ledger; raises StoreError. A store of version 2 has none."""
    spending: dict[PublicKeyHash, dict[bytes, Entry]] = {}
    if not _has_spending(connection):
        return spending
    try:
        for name, payload_hash, at, mutez, operations in connection.execute(_ENTRIES):
            row = {
                "key": name,
                "payload_hash": payload_hash.hex(),
                "at": at,
                "mutez": mutez,
                "operations": operations,
            }
            key, digest, entry = read_entry("spending", row)
            spending.setdefault(key, {})[digest] = entry
    except (ValueError, TransferError) as error:
        raise damaged(path, error) from error
    return spending


def _has_spending(connection: sqlite3.Connection) -> bool:
    ((there,),) = connection.execute(_HAS_SPENDING).fetchall()
    return bool(there)


def _checked(
    chain_id: str,
    key: str,
    operation: str,
    level: int,
    round_: int,
    payload_hash: bytes,
    signature: str | None,
) -> tuple[MarkId, Mark]:
    """Read a row of a file that anybody may have written; raises TransferError."""
    return read_row(
        "marks",
        {
            "chain": chain_id,
            "key": key,
            "operation": operation,
            "level": level,
            "round": round_,
            "payload_hash": payload_hash.hex(),
            "signature": signature,
        },
    )


def mark_of(level: int, round_: int, payload_hash: bytes, signature: str | None) -> Mark:
    """Read the mark of a row that was found; raises ValueError."""
    return Mark(level, round_, payload_hash, Signature.parse(signature) if signature else None)


def row_id(mark_id: MarkId) -> tuple[str, str, str]:
    """Return what a row is found by."""
    return mark_id.chain_id, str(mark_id.key), str(mark_id.operation)


def row_of(mark: Mark) -> Row:
    """Return the rest of a row."""
    return (
        mark.level,
        mark.round,
        mark.payload_hash,
        None if mark.signature is None else str(mark.signature),
    )
