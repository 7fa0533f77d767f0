"""Keeps watermarks in one SQLite file, in WAL mode, with every mark synced to the disk."""

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from attrs import evolve
from twisted.logger import Logger

from tezio_signer.tezos.keys import PublicKeyHash
from tezio_signer.watermarks.entry import NOTHING_SPENT, Entries, Spending, merged
from tezio_signer.watermarks.rule import Mark, MarkId, settle
from tezio_signer.watermarks.sqlite import lockfile
from tezio_signer.watermarks.sqlite.carrying import carry_over
from tezio_signer.watermarks.sqlite.creating import create as create
from tezio_signer.watermarks.sqlite.lockfile import LockFile
from tezio_signer.watermarks.sqlite.reading import check_denied, check_progress, check_there
from tezio_signer.watermarks.sqlite.rows import (
    FIND,
    FORGET,
    KEEP,
    SPEND,
    Row,
    entries_in,
    mark_of,
    marks_in,
    progress_in,
    row_id,
    row_of,
)
from tezio_signer.watermarks.sqlite.schema import (
    SCHEMA_VERSION,
    check,
    connect,
    damaged,
    errors,
    lay_out,
    use_log,
    version_of,
)
from tezio_signer.watermarks.sqlite.storefile import (
    StoreFile,
)
from tezio_signer.watermarks.store import Kept, Spent, StoreError, StoreLostError


class SqliteStore:
    """An open store, locked against a second daemon.

    Before a mark is written, and before it is told that it is, the file at the path is looked
    at: it has to be the one that was opened, and nobody else may have written into it.

    :param path: an existing file; None for a store in memory that is gone when closed.
    :raises StoreError: if it is missing, in use, damaged or something else.
    """

    _log = Logger()
    _file: StoreFile | None = None
    _lock: LockFile | None = None

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._written: dict[MarkId, tuple[Row, Mark]] = {}
        self._open = True
        if path is None:
            self._connection = sqlite3.connect(
                ":memory:", isolation_level=None, check_same_thread=False
            )
            lay_out(self._connection)
            self._take(self._connection)
            return
        check_there(path)
        with errors(path), ExitStack() as undoing:
            file = StoreFile(path)
            undoing.callback(file.close)
            lock = lockfile.take(path)
            if lock is not None:
                undoing.callback(lock.close)
            before = None if lock is None else lock.noted()
            check_denied(path)
            file.keep_logs()  # what is refused is left as it is
            self._connection = connect(path)
            undoing.callback(self._connection.close)
            version = version_of(self._connection, path)
            self._take(self._connection)
            check_progress(path, before, self._progress)
            file.hold_copies(self._progress.store)
            if lock is None:
                lock = lockfile.make(path, self._progress)
                undoing.callback(lock.close)
            if version != SCHEMA_VERSION:
                carry_over(self._connection, path, version)
                check(self._connection, path)
            lock.note(self._progress)
            self._file, self._lock = file, lock
            self._begin_log(file, path)
            undoing.pop_all()

    def _begin_log(self, file: StoreFile, path: Path) -> None:
        """Begin an empty log; this may not come before the file has proved to be ours."""
        file.give_logs()
        use_log(self._connection, path)
        self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        file.remember_logs()
        file.look()
        file.remember(file.found)

    def _take(self, connection: sqlite3.Connection) -> None:
        """Take what a database says for what is known of the store."""
        self._progress = progress_in(connection, self._path)
        self._known = marks_in(connection, self._path)
        self._spending = entries_in(connection, self._path)
        self._version = _data_version(connection)

    def load(self) -> dict[MarkId, Mark]:
        """Return all marks of the store."""
        with errors(self._path):
            return marks_in(self._connection, self._path)

    def keep(self, marks: Sequence[tuple[MarkId, Mark]], spent: Sequence[Spent] = ()) -> list[Kept]:
        """Write marks, each if it is no step back, and spending; all is on the disk on return."""
        with self._transaction(spent) as written:
            for one in spent:
                self._spend(one)
            return [self._settle(mark_id, mark, written) for mark_id, mark in marks]

    def spent(self, key: PublicKeyHash) -> Entries:
        """Return the entries of a key, as they are known, without a look at the disk."""
        return dict(self._spending.get(key, {}))

    def spending(self) -> Spending:
        """Return all entries of the store."""
        with errors(self._path):
            return entries_in(self._connection, self._path)

    def _spend(self, spent: Spent) -> None:
        key = str(spent.key)
        for digest in spent.forgotten:
            self._connection.execute(FORGET, (key, digest))
        for digest, entry in spent.entries.items():
            self._progress = evolve(self._progress, writes=self._progress.writes + 1)
            row = (entry.at, entry.mutez, entry.operations, self._progress.writes)
            self._connection.execute(SPEND, (key, digest, *row))

    def _take_spent(self, spent: Spent) -> None:
        entries = self._spending.setdefault(spent.key, {})
        for digest in spent.forgotten:
            entries.pop(digest, None)
        entries.update(spent.entries)

    def _settle(self, mark_id: MarkId, mark: Mark, written: dict[MarkId, Mark]) -> Kept:
        before = self._standing(mark_id)
        now = settle(before, mark)
        if now != before:
            self._write(mark_id, now)
            written[mark_id] = now
        return Kept(before, now)

    def _standing(self, mark_id: MarkId) -> Mark | None:
        row = self._connection.execute(FIND, row_id(mark_id)).fetchone()
        written, mark = self._written.get(mark_id, (None, None))
        # Mostly it is what was written last, which need not be decoded once more.
        if row is None:
            return None
        try:
            return mark if row == written else mark_of(*row)
        except ValueError as error:
            raise damaged(self._path, error) from error

    def replace(self, marks: Mapping[MarkId, Mark], spending: Spending = NOTHING_SPENT) -> None:
        """Put these in the place of what is there, all or none; it is on the disk on return.

        This may lower a mark: it is for an operator who knows why, not for signing.
        """
        spent = [Spent(key, entries) for key, entries in spending.items()]
        with self._transaction(spent) as written:
            for one in spent:
                self._spend(one)
            for mark_id, mark in marks.items():
                self._write(mark_id, mark)
                written[mark_id] = mark

    def _write(self, mark_id: MarkId, mark: Mark) -> None:
        # Each has its number, so that a commit changes no other page than that of its mark.
        self._progress = evolve(self._progress, writes=self._progress.writes + 1)
        row = row_of(mark)
        self._connection.execute(KEEP, (*row_id(mark_id), *row, self._progress.writes))
        self._written[mark_id] = row, mark

    def tidy(self) -> None:
        """Bring the marks from the log beside the file into the file.

        Left alone, SQLite does so within one commit in many, which then takes longer.
        """
        with errors(self._path, self._lock):
            self._guard()
            self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
            if self._file is not None and self._path is not None:
                self._file.look()
                if self._file.was_written:  # by the checkpoint, if not by others as well
                    self._read_anew(self._file, self._path)

    def look(self) -> None:
        """Raise StoreLostError unless the store is as it was left here."""
        with errors(self._path, self._lock):
            self._guard()
            if _data_version(self._connection) != self._version:
                self._compare(self._connection)

    @contextmanager
    def _transaction(self, spent: Sequence[Spent] = ()) -> Iterator[dict[MarkId, Mark]]:
        """Commit what is written meanwhile, and noted in the mapping, or is this spending."""
        written: dict[MarkId, Mark] = {}
        with errors(self._path, self._lock):
            self._guard()
            before = self._progress
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                if _data_version(self._connection) != self._version:
                    self._compare(self._connection)
                yield written
                self._connection.execute("COMMIT")
            except BaseException:
                self._progress = before
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise
            self._known.update(written)
            for one in spent:
                self._take_spent(one)
            if self._lock is not None:
                self._lock.note(self._progress)
            if self._file is not None:
                # It may have been taken away since, and with it what was just written. What is
                # written by now, by SQLite or by others, is read before the next commit.
                self._file.look()
                if self._file.log_is_gone():
                    raise StoreLostError(f"{_log_removed(self._path)}, and is made anew")

    def _guard(self) -> None:
        """Raise StoreLostError unless the next daemon would read what is written here.

        A log or a lock that has lost its name is made anew, since that loses no mark.
        """
        file, path = self._file, self._path
        if file is None or path is None:
            return
        try:
            file.look()
        except StoreLostError:
            self._save()
            raise
        if not self._open or file.log_is_gone():
            self._open_anew(file, path)
        if file.was_written:
            self._read_anew(file, path)
        self._mind_lock(path)

    def _save(self) -> None:
        """Bring all marks into the file that is open, wherever it is now."""
        with suppress(sqlite3.Error):
            if self._open:
                self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)")

    def _open_anew(self, file: StoreFile, path: Path) -> None:
        """Begin a log that has a name again; what is in the old one is moved into the file."""
        try:
            if self._open:
                (busy, _, _) = self._connection.execute(
                    "PRAGMA wal_checkpoint(TRUNCATE)"
                ).fetchone()
                if busy:
                    raise StoreLostError(_log_removed(path))
                self._open = False
                self._connection.close()
            file.keep_logs()
            connection = _connect_again(path)
        except sqlite3.Error as error:
            raise StoreLostError(f"{_log_removed(path)}: {error}") from error
        self._adopt(connection, path)
        self._open = True
        self._begin_log(file, path)
        self._log.warn("{sentence}, and is made anew; no mark is lost", sentence=_log_removed(path))

    def _read_anew(self, file: StoreFile, path: Path) -> None:
        """Read what others have written into the file, past all that SQLite remembers of it."""
        before, found = self._connection, file.found
        try:
            self._adopt(_connect_again(path), path)
        except sqlite3.Error as error:
            raise StoreLostError(_overwritten(path, error)) from error
        before.close()
        file.remember(found)  # what was written while it was read is read again

    def _adopt(self, connection: sqlite3.Connection, path: Path) -> None:
        """Use a new connection, if it sees what is known; raises StoreLostError."""
        with ExitStack() as undoing:
            undoing.callback(connection.close)
            try:
                check(connection, path)
                self._compare(connection)
            except StoreLostError:
                raise
            except (StoreError, sqlite3.Error) as error:
                raise StoreLostError(_overwritten(path, error)) from error
            undoing.pop_all()
        self._connection = connection

    def _compare(self, connection: sqlite3.Connection) -> None:
        """Raise StoreLostError for a database that holds less than is known here."""
        progress = progress_in(connection, self._path)
        marks = marks_in(connection, self._path)
        spending = entries_in(connection, self._path)
        what = None
        if progress.store != self._progress.store:
            what = "it is another store now"
        elif progress.writes < self._progress.writes:
            what = f"{progress.writes} marks were written in it, and {self._progress.writes} before"
        for mark_id, known in self._known.items():
            found = marks.get(mark_id)
            if found is None or settle(known, found) != found:  # nobody moves a mark like this
                what = what or f"the mark of {mark_id.key} for {mark_id.operation} went back"
        for key, entries in self._spending.items():
            there = spending.get(key, {})
            if any(
                merged(there.get(digest), entry) != there.get(digest)
                for digest, entry in entries.items()
            ):
                what = what or f"the spending of {key} went back"
        if what is not None:
            raise StoreLostError(_overwritten(self._path, what))
        self._progress, self._known, self._spending = progress, marks, spending
        self._version = _data_version(connection)

    def _mind_lock(self, path: Path) -> None:
        """Make the lock beside the file anew, if it was removed or replaced."""
        lock = self._lock
        if lock is None or lock.is_there():
            return
        try:
            with ExitStack() as undoing:
                there = lockfile.take(path) or lockfile.make(path, self._progress)
                undoing.callback(there.close)  # else it would keep us out the next time
                there.note_for_certain(self._progress)
                undoing.pop_all()
        except (StoreError, OSError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            raise StoreLostError(f"{lock.path} was removed or replaced: {why}") from error
        lock.close()
        self._lock = there
        self._log.warn(
            "{path} was removed or replaced, and is made anew: it keeps others out, and tells "
            "older copies of the store",
            path=lock.path,
        )

    def close(self) -> None:
        """Close the file and give up the lock."""
        if self._file is not None:
            try:
                self._file.look()
                self._file.log_is_gone()
            except StoreLostError:
                self._save()
                self._file.keep_logs()
        self._connection.close()
        if self._lock is not None:
            self._lock.close()
            self._lock = None
        if self._file is not None:
            self._file.close()
            self._file = None


def _connect_again(path: Path) -> sqlite3.Connection:
    """Connect to a file that others may have emptied: SQLite would delete the log beside it."""
    if path.stat().st_size == 0:
        raise StoreLostError(_overwritten(path, "it is empty"))
    return connect(path)


def _data_version(connection: sqlite3.Connection) -> int:
    """Return a number that changes when another connection commits something."""
    (version,) = connection.execute("PRAGMA data_version").fetchone()
    return int(version)


def _log_removed(path: Path | None) -> str:
    return f"the log of watermark store {path} (-wal, -shm) was removed under this signer"


def _overwritten(path: Path | None, what: object) -> str:
    return (
        f"watermark store {path} was written by another program: {what}; put its newest content "
        "back, and signing goes on; if that is lost, stop the signer, and raise high_water_marks "
        "above all that was signed before it is started again"
    )
