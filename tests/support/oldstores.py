"""Stores of version 2, as versions of this program before the daily ledger have made them."""

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from uuid import uuid4

from tezio_signer.watermarks.rule import Mark, MarkId

# The statements of that version, letter for letter.
_STATEMENTS = (
    "PRAGMA application_id = 1413831241",
    "BEGIN IMMEDIATE",
    """CREATE TABLE marks (
    chain_id TEXT NOT NULL,
    key TEXT NOT NULL,
    operation TEXT NOT NULL,
    level INTEGER NOT NULL,
    round INTEGER NOT NULL,
    payload_hash BLOB NOT NULL,
    signature TEXT,
    written INTEGER NOT NULL,
    PRIMARY KEY (chain_id, key, operation)
) STRICT, WITHOUT ROWID""",
    "CREATE TABLE store (id TEXT NOT NULL) STRICT",
    "PRAGMA user_version = 2",
    "COMMIT",
    "PRAGMA journal_mode = WAL",
)


def create_version_2(path: Path, marks: Mapping[MarkId, Mark]) -> None:
    """Make one with these marks, each written once."""
    path.touch(0o600)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in _STATEMENTS:
            connection.execute(statement)
        connection.execute("INSERT INTO store VALUES (?)", (uuid4().hex,))
        for number, (mark_id, mark) in enumerate(marks.items(), 1):
            connection.execute(
                "INSERT INTO marks VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    mark_id.chain_id,
                    str(mark_id.key),
                    str(mark_id.operation),
                    mark.level,
                    mark.round,
                    mark.payload_hash,
                    mark.signature and str(mark.signature),
                    number,
                ),
            )
