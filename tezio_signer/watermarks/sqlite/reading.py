"""Reads an SQLite store that others may have open, without locking or changing it."""

import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from attrs import frozen

from tezio_signer.watermarks.entry import Spending
from tezio_signer.watermarks.rule import Mark, MarkId
from tezio_signer.watermarks.sqlite import lockfile
from tezio_signer.watermarks.sqlite.access import what_is_denied
from tezio_signer.watermarks.sqlite.lockfile import Progress, lock_beside, noted_beside
from tezio_signer.watermarks.sqlite.rows import entries_in, marks_in, progress_in
from tezio_signer.watermarks.sqlite.schema import (
    INIT,
    check_filled,
    check_new,
    connect,
    errors,
    version_of,
)
from tezio_signer.watermarks.sqlite.storefile import (
    check_copies,
    check_kind,
    check_name,
    is_held,
    logs_kept,
)
from tezio_signer.watermarks.store import StoreError


@frozen
class Content:
    """What is in a store."""

    marks: Mapping[MarkId, Mark]
    spending: Spending


def read(path: Path) -> dict[MarkId, Mark]:
    """Read the marks of a store, also of one that a daemon is using; raises StoreError."""
    return dict(read_all(path).marks)


def read_all(path: Path) -> Content:
    """Read a store, also one that a daemon is using, or of version 2; raises StoreError."""
    check_there(path)
    with errors(path):
        check_name(path)
        before = noted_beside(path)  # ahead of the store, which a daemon may be writing
        with logs_kept(path), ExitStack() as undoing:  # what is refused is left as it is
            connection = connect(path)
            undoing.callback(connection.close)
            version_of(connection, path)
            with reading_once(connection):
                check_progress(path, before, progress_in(connection, path))
                content = Content(marks_in(connection, path), entries_in(connection, path))
            undoing.pop_all()
        connection.close()
        return content


@contextmanager
def reading_once(connection: sqlite3.Connection) -> Iterator[None]:
    """Have everything that is read meanwhile be of one moment."""
    connection.execute("BEGIN")
    try:
        yield
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def check_access(path: Path) -> None:
    """Raise what `SqliteStore` does for files that this process may not write; changes nothing.

    It may not be called in a process that has the store open: SQLite's locks would be lost.
    """
    check_there(path)
    with errors(path):
        os.close(os.open(path, os.O_RDWR))
        check_name(path)
    lockfile.check_access(path)
    check_denied(path)


def check_denied(path: Path) -> None:
    """Raise StoreError for files and a directory that SQLite would find it cannot write."""
    if denied := what_is_denied(path):
        raise StoreError(f"watermark store {path} cannot be written{denied}")


def check_not_copied(path: Path) -> bool:
    """Say whether a daemon has this store; raises StoreError if one has a copy of it instead."""
    if is_held(path):
        return True
    with errors(path), logs_kept(path), closing(connect(path)) as connection:
        check_copies(path, progress_in(connection, path).store)
    return False


def check_there(path: Path) -> None:
    """Raise StoreError unless a filled file of the right kind is there.

    One that was there before is not to be made anew: the sentence is that of `create` then.
    """
    with errors(path):
        try:
            path.stat()
        except (FileNotFoundError, NotADirectoryError):
            check_new(path)
            raise StoreError(
                f"watermark store {path} does not exist; create it with: {INIT}"
            ) from None
        check_kind(path)
        check_filled(path)  # SQLite would delete the log beside it


def check_progress(path: Path, before: Progress | None, now: Progress) -> None:
    """Raise StoreError for a store that was further when it was used last."""
    if before is not None and before.store == now.store and before.writes > now.writes:
        raise StoreError(
            f"watermark store {path} is an older copy: {now.writes} marks were written "
            f"in it, and {before.writes} when it was used here before; put its newest files "
            "back, -wal included; if they are lost, stop the signer, raise high_water_marks "
            f"above all that was signed, and delete {lock_beside(path)}"
        )
