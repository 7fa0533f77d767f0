"""Making a store in an SQLite file."""

import errno
import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import Any

from tests.support.sqlitecase import BLOCK, MARK, StoreTestCase
from tezio_signer.watermarks.sqlite import creating
from tezio_signer.watermarks.sqlite import store as sqlite
from tezio_signer.watermarks.sqlite.store import SqliteStore
from tezio_signer.watermarks.store import StoreError

_connect = sqlite3.connect


class CreatingTestCase(StoreTestCase):
    """Sees what is in the directory."""

    def create_refused(self, path: Path) -> str:
        """Why a store cannot be made."""
        error = str(self.assertRaises(StoreError, sqlite.create, path))
        self.assertIn(str(path), error)
        self.assertNotIn("\n", error)
        return error

    @property
    def names(self) -> set[str]:
        """The names of all files."""
        return {file.name for file in self.directory.iterdir()}


class CreatingTests(CreatingTestCase):
    """Where a store may be made, and what is left if it cannot be made."""

    def test_one_file(self) -> None:
        """A store is one file, until it is used."""
        sqlite.create(self.path)
        self.assertEqual(self.names, {self.path.name})

    def test_refuses_what_exists(self) -> None:
        """A file that is there already is left as it is, store or not, or a dangling link."""
        sqlite.create(self.path)
        self.open().close()  # which leaves a lock, as it would be left of a store that is gone
        foreign, link = (self.directory / name for name in ("foreign", "link"))
        foreign.write_text("not a database")
        link.symlink_to(self.directory / "nowhere")
        for path in (self.path, foreign, link, self.directory):
            error = self.create_refused(path)
            self.assertIn(f"{path} exists already, and is left as it is", error)
        self.assertEqual(foreign.read_text(), "not a database")
        names = {self.path.name, f"{self.path.name}.lock", "foreign", "link"}
        self.assertEqual(self.names, names)

    def test_comes_into_being_meanwhile(self) -> None:
        """A file that somebody else makes at the last moment is left as it is, too."""

        def meanwhile(path: Path) -> None:
            self.path.write_text("mine")
            make(path)

        make = creating._make
        self.patch(creating, "_make", meanwhile)
        self.assertIn("exists already", self.create_refused(self.path))
        self.assertEqual(self.path.read_text(), "mine")
        self.assertEqual(self.names, {self.path.name})

    def test_empty_file(self) -> None:
        """What to do about an empty file is told, and it stays, and what lies beside it."""
        self.path.touch()
        log = Path(f"{self.path}-wal")
        log.write_text("the last marks")
        for sentence in (self.create_refused(self.path), self.refused(self.path)):
            self.assertIn("is empty", sentence)
            for words in ("high_water_marks", "delete it", "tezio-signer watermarks init"):
                self.assertIn(words, sentence)
        self.assertEqual(log.read_text(), "the last marks")
        self.assertEqual(self.names, {self.path.name, log.name})

    def test_impossible_places(self) -> None:
        """A store in no directory is refused with the reason of the system."""
        self.path.touch()
        for path, reason in [
            (self.directory / "missing" / "a", "No such file or directory"),
            (self.path / "a", "Not a directory"),
        ]:
            self.assertTrue(self.create_refused(path).endswith(f": {reason}"))

    def test_disk_full(self) -> None:
        """Whichever step fails, the reason is told, nothing is left, and the next try works."""
        for steps in count():
            self.patch(sqlite3, "connect", failing_behind(steps))
            try:
                sqlite.create(self.path)
            except StoreError as error:
                self.assertEqual(
                    str(error), f"watermark store {self.path}: database or disk is full"
                )
                self.assertEqual(self.names, set(), f"{steps} steps")
            else:
                break
        self.assertGreater(steps, 5)
        self.patch(sqlite3, "connect", _connect)
        self.assertEqual(self.open().load(), {})

    def test_not_synced(self) -> None:
        """A store whose name is not sure to be on the disk is none."""

        def fsync(_: int) -> None:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        self.patch(os, "fsync", fsync)
        self.assertIn("Input/output error", self.create_refused(self.path))
        self.assertEqual(self.names, set())

    def test_whole_or_not_at_all(self) -> None:
        """What gets the name of the store is complete, in one file: init may be interrupted."""
        copy = self.directory / "copy"

        def looked_at(made: Path, path: Path) -> None:
            self.assertEqual(list(made.parent.iterdir()), [made])
            shutil.copy(made, copy)
            put(made, path)

        put = creating._put
        self.patch(creating, "_put", looked_at)
        sqlite.create(self.path)
        self.assertEqual(self.open(copy).load(), {})

    def test_after_an_interruption(self) -> None:
        """What an interrupted init leaves keeps the next from nothing."""

        def interrupted(*_: object) -> None:
            raise KeyboardInterrupt

        (self.directory / f"{self.path.name}.abc").mkdir()
        with self.assertRaises(KeyboardInterrupt):
            self.patch(creating, "_make", interrupted)
            sqlite.create(self.path)
        self.patch(creating, "_make", make)
        sqlite.create(self.path)
        self.assertEqual(self.open().load(), {})


make = creating._make


def failing_behind(steps: int) -> Callable[..., sqlite3.Connection]:
    """Makes connections on which so many statements can be executed, and then no more."""
    left = iter(range(steps))

    class Failing(sqlite3.Connection):
        """Finds the disk full."""

        def execute(self, *arguments: Any) -> sqlite3.Cursor:
            if next(left, None) is None:
                raise sqlite3.OperationalError("database or disk is full")
            return super().execute(*arguments)

    def connect(*arguments: Any, **options: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = _connect(*arguments, factory=Failing, **options)
        return connection

    return connect


class SuccessorTests(CreatingTestCase):
    """A new store where another one was knows nothing of its marks."""

    def setUp(self) -> None:
        super().setUp()
        sqlite.create(self.path)
        self.moved = self.directory / "moved"
        self.lock = self.directory / f"{self.path.name}.lock"

    def test_beside_a_daemon(self) -> None:
        """Where the file of a running daemon was moved away, none is made."""
        store = self.open()
        store.keep([(BLOCK, MARK)])
        self.path.rename(self.moved)
        before = self.names
        self.assertIn(
            f"in use by a running signer (process {os.getpid()}); stop it first",
            self.create_refused(self.path),
        )
        self.assertEqual(self.names, before)

    def test_moved_away(self) -> None:
        """Where a store was, none is made; the sentence says what to do, and either helps."""
        with closing(SqliteStore(self.path)) as store:
            store.keep([(BLOCK, MARK)])
        self.path.rename(self.moved)
        for _ in range(2):
            sentence = self.create_refused(self.path)
            for words in ("put it back", "high_water_marks", f"delete {self.lock}, and run"):
                self.assertIn(words, sentence)
        self.assertEqual(self.names, {self.moved.name, self.lock.name})
        self.moved.rename(self.path)
        with closing(SqliteStore(self.path)) as store:
            self.assertEqual(store.load(), {BLOCK: MARK})
        self.path.unlink()
        self.lock.unlink()
        sqlite.create(self.path)
        self.assertEqual(self.open().load(), {})

    def test_log_is_left(self) -> None:
        """The log of another store is not taken for one of the new store, nor deleted."""
        self.open().keep([(BLOCK, MARK)])
        other = self.directory / "other"
        log = Path(f"{other}-wal")
        shutil.copy(f"{self.path}-wal", log)
        before = log.read_bytes()
        self.assertIn(f"delete {log}, and run", self.create_refused(other))
        self.assertEqual(log.read_bytes(), before)
        log.write_bytes(b"")  # as one who reads may leave it
        sqlite.create(other)
        self.assertEqual(self.open(other).load(), {})


class PlaceTests(CreatingTestCase):
    """Where a store is made before it gets its name."""

    def test_beside_it(self) -> None:
        """In its own directory: from another disk it could not be renamed in one step."""

        def looked_at(made: Path, path: Path) -> None:
            beside.append(made.parent)
            put(made, path)

        beside: list[Path] = []
        put = creating._put
        self.patch(creating, "_put", looked_at)
        sqlite.create(self.path)
        (directory,) = beside
        self.assertEqual(directory.parent, self.directory)
        self.assertTrue(directory.name.startswith(f"{self.path.name}."), directory)
        self.assertFalse(directory.exists())

    def test_modes(self) -> None:
        """Nobody else may read or write it, from its first moment on."""
        modes: list[int] = []
        rename = Path.rename

        def looked_at(made: Path, path: Path) -> Path:
            modes.extend(file.stat().st_mode & 0o777 for file in (made, path))
            return rename(made, path)

        self.addCleanup(os.umask, os.umask(0))
        self.patch(Path, "rename", looked_at)
        sqlite.create(self.path)
        self.assertEqual(modes, [0o600, 0o600])
        self.assertEqual(self.path.stat().st_mode & 0o777, 0o600)

    def test_owner(self) -> None:
        """It belongs to whom the directory belongs before it has its name; root may make it."""
        given: list[tuple[str, int, int]] = []

        def chown(made: Path, user: int, group: int, *, follow_symlinks: bool) -> None:
            self.assertFalse(follow_symlinks or self.path.exists())
            given.append((made.name, user, group))

        status = self.directory.stat()
        self.patch(os, "geteuid", lambda: status.st_uid + 1)
        self.patch(os, "chown", chown)
        sqlite.create(self.path)
        self.assertEqual(given, [(self.path.name, status.st_uid, status.st_gid)])
