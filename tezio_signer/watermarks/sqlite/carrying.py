"""Carries a store of an older version over to this one, with a copy of it beside.

The steps, each of which is on the disk before the next begins:

1. a copy of the store is made under another name, complete, in one file;
2. it is given its own name, `watermarks.sqlite.version-2`; one that is there is replaced: it is of
   a start that got no further;
3. one transaction changes the tables, and the version.

Until the end of the third the store is one of the older version, which the next start carries
over from the beginning. Nothing is ever missing: the store itself is changed by SQLite only.
"""

import os
import sqlite3
from contextlib import closing
from pathlib import Path

from twisted.logger import Logger

from tezio_signer.watermarks.sqlite.access import give_to_owner, sync_directory
from tezio_signer.watermarks.sqlite.schema import SCHEMA_VERSION, add_spending

_log = Logger()


def copy_beside(path: Path, version: int) -> Path:
    """Return where the copy of a store of an older version is."""
    real = Path(os.path.realpath(path))
    return real.with_name(f"{real.name}.version-{version}")


def carry_over(connection: sqlite3.Connection, path: Path, version: int) -> None:
    """Make the store of version 2 that is open here one of this version; raises sqlite3.Error.

    The store has to be held against all others.
    """
    copy = copy_beside(path, version)
    _copy(connection, copy, path)
    add_spending(connection)
    _log.info(
        "watermark store {path} was carried over from schema version {before} to {now}; "
        "{copy} is as it was before, and is not needed any more when all is well",
        path=path,
        before=version,
        now=SCHEMA_VERSION,
        copy=copy,
    )


def _copy(connection: sqlite3.Connection, copy: Path, store: Path) -> None:
    made = copy.with_name(f"{copy.name}.new")
    made.unlink(missing_ok=True)  # of a start that was cut off
    made.touch(0o600)
    try:
        with closing(sqlite3.connect(made, isolation_level=None)) as target:
            connection.backup(target)
            target.execute("PRAGMA journal_mode = DELETE").fetchone()  # all of it in one file
        file = os.open(made, os.O_RDWR)
        try:
            os.fsync(file)
        finally:
            os.close(file)
        give_to_owner(made, store)
        made.rename(copy)
    except BaseException:
        made.unlink(missing_ok=True)
        raise
    sync_directory(copy.parent)
