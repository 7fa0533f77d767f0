"""Watermarks in one SQLite file: WAL mode, every mark synced to the disk."""

import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import uuid4

from attrs import evolve

from tezio_signer.tezos.keys import Signature
from tezio_signer.watermarks.lockfile import LockFile, Progress, lock_beside, noted_beside
from tezio_signer.watermarks.markjson import TransferError, read_row
from tezio_signer.watermarks.rule import Mark, MarkId, settle
from tezio_signer.watermarks.store import Kept, StoreError

APPLICATION_ID = 0x54455A49
"""Written into the file's header, so that no other program's database is taken for ours."""
SCHEMA_VERSION = 2
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
_KEEP = "INSERT OR REPLACE INTO marks VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
_ALL = "SELECT chain_id, key, operation, level, round, payload_hash, signature FROM marks"
_FIND = (
    "SELECT level, round, payload_hash, signature FROM marks "
    "WHERE chain_id = ? AND key = ? AND operation = ?"
)
_PROGRESS = "SELECT id, (SELECT coalesce(max(written), 0) FROM marks) FROM store"

_Row = tuple[int, int, bytes, str | None]
_DAMAGE = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_INIT = "tezio-signer watermarks init"
_RESCUE = (
    "; set high_water_marks to a level above the last that was signed, move the file away, "
    f"with the -wal and .lock beside it, and run: {_INIT}"
)


@contextmanager
def _errors(path: Path | None, beside: LockFile | None = None) -> Iterator[None]:
    """Make what fails a StoreError.

    :param beside: a file on the same disk, which tells why SQLite cannot write.
    """
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        code = getattr(error, "sqlite_errorcode", 0)
        more = _RESCUE if code in _DAMAGE else ""
        # The system's word for it: SQLite calls all but a full disk `disk I/O error`.
        if code & 0xFF == sqlite3.SQLITE_IOERR and beside and (why := beside.why_not_written()):
            more = f": {why}"
        raise StoreError(f"watermark store {path or 'in memory'}: {error}{more}") from error


def create(path: Path) -> None:
    """Make an empty store in a new file.

    :raises StoreError: if there is a file already or was a store before, or if it cannot be
        made; nothing is left of it then.
    """
    if os.path.lexists(path):
        _check_filled(path)
        raise _exists_already(path)
    lock = LockFile(path)  # a daemon may have it, whose file was moved away
    try:
        _check_new(path, lock)
        with (
            _errors(path, lock),
            TemporaryDirectory(dir=path.parent, prefix=f"{path.name}.") as directory,
        ):
            made = Path(directory) / path.name
            _make(made)
            _put(made, path)
    finally:
        if lock.is_new:
            lock.remove()  # the daemon, which may be another user, makes its own
        lock.close()


def _exists_already(path: Path) -> StoreError:
    return StoreError(f"watermark store {path} exists already, and is left as it is")


def _check_filled(path: Path) -> None:
    if path.is_file() and path.stat().st_size == 0:
        raise StoreError(
            f"watermark store {path} is empty: it was not made to the end, or its content is lost; "
            "if anything was signed with it, set high_water_marks above that; then delete it and "
            f"run: {_INIT}"
        )


def _check_new(path: Path, lock: LockFile) -> None:
    """Raises StoreError if a store was here: its successor would know nothing of its marks.

    SQLite, too, would take what is left of it for a part of the new one.
    """
    left = [path.with_name(f"{path.name}{suffix}") for suffix in ("-wal", "-journal")]
    left = [file for file in left if file.exists() and file.stat().st_size]
    if lock.noted() is not None:
        left.append(lock.path)
    if left:
        names = " and ".join(map(str, left))
        raise StoreError(
            f"watermark store {path} was here before, as {names} shows; put it back, -wal "
            "included; if it is lost, set high_water_marks above all that was signed, delete "
            f"{names}, and run: {_INIT}"
        )


def _make(path: Path) -> None:
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    with closing(_connect(path)) as connection:
        _lay_out(connection)
        connection.execute("PRAGMA journal_mode = WAL")  # last: all is in the file itself


def _put(made: Path, path: Path) -> None:
    """Give a complete file its name, which is never that of a part of it."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError as error:
        raise _exists_already(path) from error
    with ExitStack() as undoing:
        undoing.callback(path.unlink)
        made.rename(path)
        _sync(path.parent)
        undoing.pop_all()


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=rw",
        uri=True,
        isolation_level=None,
        check_same_thread=False,  # opened in one thread, used by one writer thread
    )
    connection.text_factory = lambda text: text.decode("utf-8", "replace")
    connection.execute("PRAGMA synchronous = FULL")
    return connection


def _lay_out(connection: sqlite3.Connection) -> None:
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute("BEGIN IMMEDIATE")
    connection.execute(_MARKS)
    connection.execute(_STORE)
    connection.execute("INSERT INTO store VALUES (?)", (uuid4().hex,))
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    connection.execute("COMMIT")


def _check(connection: sqlite3.Connection, path: Path) -> None:
    (application_id,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if application_id != APPLICATION_ID:
        raise StoreError(
            f"{path} is not a watermark store of Tezio Signer; name another in watermarks.store"
        )
    if version != SCHEMA_VERSION:
        raise StoreError(
            f"watermark store {path} has schema version {version}, not {SCHEMA_VERSION}; "
            "use the version of Tezio Signer that wrote it"
        )
    (page_size,) = connection.execute("PRAGMA page_size").fetchone()
    (found,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
    if path.stat().st_size % page_size:  # SQLite would read a last page that is cut as zeros
        found = "it is cut off"
    elif found == "ok" and _tables(connection) != {"marks": _MARKS, "store": _STORE}:
        found = f"its tables are not those of schema version {SCHEMA_VERSION}"
    if found != "ok":
        raise _damaged(path, found)


def _tables(connection: sqlite3.Connection) -> dict[str, str]:
    """The SQL of all that is in a store, as it was written, by name."""
    return {
        name: sql
        for name, sql in connection.execute("SELECT name, sql FROM sqlite_schema")
        if not name.startswith("sqlite_")
    }


def _damaged(path: Path | None, found: object) -> StoreError:
    return StoreError(f"watermark store {path} is damaged: {' '.join(str(found).split())}{_RESCUE}")


def read(path: Path) -> dict[MarkId, Mark]:
    """The marks of a store, also of one that a daemon is using; raises StoreError."""
    store = SqliteStore(path, shared=True)
    try:
        return store.load()
    finally:
        store.close()


class SqliteStore:
    """An open store, locked against a second daemon.

    :param path: an existing file; None for a store in memory that is gone when closed.
    :param shared: take no lock; for reading only.
    :raises StoreError: if it is missing, in use, damaged or something else.
    """

    def __init__(self, path: Path | None, shared: bool = False) -> None:
        self._path = path
        self._lock: LockFile | None = None
        self._written: dict[MarkId, tuple[_Row, Mark]] = {}
        if path is None:
            self._connection = sqlite3.connect(
                ":memory:", isolation_level=None, check_same_thread=False
            )
            _lay_out(self._connection)
            self._progress = self._read_progress()
            return
        with _errors(path):
            if not path.exists():
                raise StoreError(f"watermark store {path} does not exist; create it with: {_INIT}")
            _check_filled(path)  # SQLite would delete the log beside it
        self._lock = None if shared else LockFile(path)
        with ExitStack() as undoing, _errors(path, self._lock):
            if self._lock is not None:
                undoing.callback(self._lock.close)
            before = noted_beside(path)  # ahead of the store, which a daemon may be writing
            self._connection = _connect(path)
            undoing.callback(self._connection.close)
            _check(self._connection, path)
            self._progress = self._read_progress()
            self._check_progress(before)
            if self._lock is not None:
                self._lock.note(self._progress)
                self._connection.execute("PRAGMA journal_mode = WAL")  # not before it proved ours
                self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            undoing.pop_all()

    def _check_progress(self, before: Progress | None) -> None:
        """Raises StoreError for a store that was further when it was used last."""
        now = self._progress
        if self._path is None or before is None:
            return
        if before.store == now.store and before.writes > now.writes:
            raise StoreError(
                f"watermark store {self._path} is an older copy: {now.writes} marks were written "
                f"in it, and {before.writes} when it was used here before; put its newest files "
                "back, -wal included; if they are lost, stop the signer, raise high_water_marks "
                f"above all that was signed, and delete {lock_beside(self._path)}"
            )

    def _read_progress(self) -> Progress:
        rows = self._connection.execute(_PROGRESS).fetchall()
        if len(rows) != 1:
            raise _damaged(self._path, f"it has {len(rows)} ids, not 1")
        return Progress(*rows[0])

    def load(self) -> dict[MarkId, Mark]:
        """All marks of the store."""
        with self._reading():
            return dict(_checked(*row) for row in self._connection.execute(_ALL))

    def keep(self, marks: Sequence[tuple[MarkId, Mark]]) -> list[Kept]:
        """Write marks where they are no step back, together; on the disk on return."""
        with self._transaction():
            return [self._settle(mark_id, mark) for mark_id, mark in marks]

    def _settle(self, mark_id: MarkId, mark: Mark) -> Kept:
        before = self._standing(mark_id)
        now = settle(before, mark)
        if now != before:
            self._write(mark_id, now)
        return Kept(before, now)

    def _standing(self, mark_id: MarkId) -> Mark | None:
        with self._reading():
            row = self._connection.execute(_FIND, _row_id(mark_id)).fetchone()
            written, mark = self._written.get(mark_id, (None, None))
            # Mostly it is what was written last, which need not be decoded once more.
            if row is None:
                return None
            return mark if row == written else _mark(*row)

    def replace(self, marks: Mapping[MarkId, Mark]) -> None:
        """Put these in the place of what stands, all or none; it is on the disk on return.

        This may lower a mark: it is for an operator who knows why, not for signing.
        """
        with self._transaction():
            for mark_id, mark in marks.items():
                self._write(mark_id, mark)

    def _write(self, mark_id: MarkId, mark: Mark) -> None:
        # Each has its number, so that a commit changes no other page than that of its mark.
        self._progress = evolve(self._progress, writes=self._progress.writes + 1)
        row = _row(mark)
        self._connection.execute(_KEEP, (*_row_id(mark_id), *row, self._progress.writes))
        self._written[mark_id] = row, mark

    def tidy(self) -> None:
        """Bring the marks from the log beside the file into the file.

        Left alone, SQLite does so within one commit in many, which then takes longer.
        """
        with _errors(self._path, self._lock):
            self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)")

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with _errors(self._path, self._lock):
            before = self._progress
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                self._progress = before
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise
            if self._lock is not None:
                self._lock.note(self._progress)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        with _errors(self._path):
            try:
                yield
            except (ValueError, TransferError) as error:
                raise _damaged(self._path, error) from error

    def close(self) -> None:
        """Close the file and give up the lock."""
        self._connection.close()
        if self._lock is not None:
            self._lock.close()
            self._lock = None


def _checked(
    chain_id: str,
    key: str,
    operation: str,
    level: int,
    round_: int,
    payload_hash: bytes,
    signature: str | None,
) -> tuple[MarkId, Mark]:
    """A row of a file that anybody may have written; raises TransferError."""
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


def _mark(level: int, round_: int, payload_hash: bytes, signature: str | None) -> Mark:
    return Mark(level, round_, payload_hash, Signature.parse(signature) if signature else None)


def _row_id(mark_id: MarkId) -> tuple[str, str, str]:
    return mark_id.chain_id, str(mark_id.key), str(mark_id.operation)


def _row(mark: Mark) -> _Row:
    return (
        mark.level,
        mark.round,
        mark.payload_hash,
        None if mark.signature is None else str(mark.signature),
    )
