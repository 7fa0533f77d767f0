"""Lays out the file of an SQLite store, connects to it, and checks what is in it."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from tezio_signer.host.filesystems import file_system
from tezio_signer.watermarks.sqlite.access import what_is_denied
from tezio_signer.watermarks.sqlite.lockfile import LockFile, lock_beside
from tezio_signer.watermarks.sqlite.logfile import pages_in_log
from tezio_signer.watermarks.store import StoreError

APPLICATION_ID = 0x54455A49
"""Written into the file's header, so that no other program's database is taken for ours."""
SCHEMA_VERSION = 3
"""Of the stores that are made and used; version 2 had no table of spending."""
INIT = "tezio-signer watermarks init"
RESCUE = (
    "; set high_water_marks to a level above the last that was signed, move the file away, "
    f"with the -wal and .lock beside it, and run: {INIT}"
)
_MARKS = """CREATE TABLE marks (
    chain_id TEXT NOT NULL,
    key TEXT NOT NULL,
    operation TEXT NOT NULL,
    level INTEGER NOT NULL,
    round INTEGER NOT NULL,
    payload_hash BLOB NOT NULL,
    signature TEXT,
    written INTEGER NOT NULL,
    PRIMARY KEY (chain_id, key, operation)
) STRICT, WITHOUT ROWID"""
_STORE = "CREATE TABLE store (id TEXT NOT NULL) STRICT"
_SPENDING = """CREATE TABLE spending (
    key TEXT NOT NULL,
    payload_hash BLOB NOT NULL,
    at INTEGER NOT NULL,
    mutez INTEGER NOT NULL,
    operations INTEGER NOT NULL,
    written INTEGER NOT NULL,
    PRIMARY KEY (key, payload_hash)
) STRICT, WITHOUT ROWID"""
_TABLES = {
    2: {"marks": _MARKS, "store": _STORE},
    3: {"marks": _MARKS, "store": _STORE, "spending": _SPENDING},
}
_DAMAGE = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_DENIED = {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM}
_FULL = 2
"""What `PRAGMA synchronous` answers for FULL."""


@contextmanager
def errors(path: Path | None, beside: LockFile | None = None) -> Iterator[None]:
    """Turn the errors of SQLite and of the system into a StoreError.

    :param beside: a file on the same disk, which tells why SQLite cannot write.
    """
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        code = getattr(error, "sqlite_errorcode", 0)
        more = RESCUE if code in _DAMAGE else ""
        # The system's word for it: SQLite calls all but a full disk `disk I/O error`.
        if code & 0xFF == sqlite3.SQLITE_IOERR and beside and (why := beside.why_not_written()):
            more = f": {why}"
        if path and (code & 0xFF in _DENIED or isinstance(error, PermissionError)):
            more = what_is_denied(path)
        said = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise StoreError(f"watermark store {path or 'in memory'}: {said}{more}") from error


def connect(path: Path) -> sqlite3.Connection:
    """Connect to a file that is there, with every commit synced; raises StoreError."""
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=rw",
        uri=True,
        isolation_level=None,
        check_same_thread=False,  # opened in one thread, used by one writer thread
    )
    try:
        connection.text_factory = lambda text: text.decode("utf-8", "replace")
        connection.execute("PRAGMA synchronous = FULL")
        (synchronous,) = connection.execute("PRAGMA synchronous").fetchone()
        if synchronous != _FULL:
            raise StoreError(
                f"watermark store {path}: SQLite syncs less than it was told to (synchronous is "
                f"{synchronous!r}, not {_FULL}): use another build of SQLite"
            )
    except BaseException:
        connection.close()  # now, not when nobody refers to the error any more
        raise
    return connection


def use_log(connection: sqlite3.Connection, path: Path) -> None:
    """Have SQLite write ahead into a log beside the file; raises StoreError if it does not."""
    (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        kind = file_system(path)
        where = f" on this file system ({kind})" if kind else " here"
        raise StoreError(
            f"watermark store {path}: SQLite keeps no log{where} (journal_mode is {mode!r}, not "
            "'wal'), without which marks are not safe: name a path on a disk of this machine, such "
            "as one with ext4"
        )


def lay_out(connection: sqlite3.Connection) -> None:
    """Make the tables of an empty store."""
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute("BEGIN IMMEDIATE")
    connection.execute(_MARKS)
    connection.execute(_STORE)
    connection.execute(_SPENDING)
    connection.execute("INSERT INTO store VALUES (?)", (uuid4().hex,))
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    connection.execute("COMMIT")


def add_spending(connection: sqlite3.Connection) -> None:
    """Make a store of version 2 one of version 3, all at once."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        connection.execute(_SPENDING)
        connection.execute("PRAGMA user_version = 3")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def check_filled(path: Path) -> None:
    """Raise StoreError for an empty file."""
    if path.is_file() and path.stat().st_size == 0:
        raise StoreError(
            f"watermark store {path} is empty: it was not made to the end, or its content is lost; "
            "if anything was signed with it, set high_water_marks above that; then delete it and "
            f"run: {INIT}"
        )


def check_new(path: Path) -> None:
    """Raise StoreError if a store was here: its successor would know nothing of its marks.

    SQLite, too, would take what is left of it for a part of the new one.
    """
    real = Path(os.path.realpath(path))
    left = [real.with_name(f"{real.name}{suffix}") for suffix in ("-wal", "-journal")]
    left = [file for file in left if file.exists() and file.stat().st_size]
    if os.path.lexists(lock_beside(path)):  # whatever is in it
        left.append(lock_beside(path))
    if left:
        names = " and ".join(map(str, left))
        raise StoreError(
            f"watermark store {path} was here before, as {names} shows; put it back, -wal "
            "included; if it is lost, set high_water_marks above all that was signed, delete "
            f"{names}, and run: {INIT}"
        )


def version_of(connection: sqlite3.Connection, path: Path) -> int:
    """Check that this is a whole store of a version that is known; raises StoreError."""
    (application_id,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if application_id != APPLICATION_ID:
        raise StoreError(
            f"{path} is not a watermark store of Tezio Signer; name another in watermarks.store"
        )
    if version not in _TABLES:
        raise _other_version(path, version)
    (page_size,) = connection.execute("PRAGMA page_size").fetchone()
    (found,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
    whole, more = divmod(path.stat().st_size, page_size)
    if more and whole + 1 not in pages_in_log(path):  # SQLite would read the rest of it as zeros
        found = "it is cut off"
    elif found == "ok" and _tables(connection) != _TABLES[version]:
        found = f"its tables are not those of schema version {version}"
    if found != "ok":
        raise damaged(path, found)
    return int(version)


def check(connection: sqlite3.Connection, path: Path) -> None:
    """Raise StoreError unless this is a whole store, of this version."""
    version = version_of(connection, path)
    if version != SCHEMA_VERSION:
        raise _other_version(path, version)


def _other_version(path: Path, version: int) -> StoreError:
    return StoreError(
        f"watermark store {path} has schema version {version}, not {SCHEMA_VERSION}; "
        "use the version of Tezio Signer that wrote it"
    )


def _tables(connection: sqlite3.Connection) -> dict[str, str]:
    """Return the SQL of all that is in a store, as it was written, by name."""
    return {
        name: sql
        for name, sql in connection.execute("SELECT name, sql FROM sqlite_schema")
        if not name.startswith("sqlite_")
    }


def damaged(path: Path | None, found: object) -> StoreError:
    """Make the error for a store in which something makes no sense."""
    return StoreError(f"watermark store {path} is damaged: {' '.join(str(found).split())}{RESCUE}")
