"""Reading the marks of an SQLite store without opening it as a daemon does."""

import contextlib
import errno
import os
import sqlite3
from contextlib import closing
from pathlib import Path

from attrs import evolve

from tests.support.sqlitecase import BLOCK, MARK, StoreTestCase
from tezio_signer.watermarks.rule import Mark, MarkId
from tezio_signer.watermarks.sqlite import reading, rows
from tezio_signer.watermarks.sqlite import store as sqlite
from tezio_signer.watermarks.sqlite.store import SqliteStore
from tezio_signer.watermarks.store import StoreError


class ReadingTests(StoreTestCase):
    """What a command sees that only looks."""

    def test_missing(self) -> None:
        """A store that is not there is not made, and the sentence says how to make one."""
        error = str(self.assertRaises(StoreError, reading.read, self.path))
        self.assertIn(f"watermark store {self.path} does not exist; create it with: ", error)
        self.assertEqual(list(self.directory.iterdir()), [])

    def test_was_there(self) -> None:
        """Where one was, no command says to make another: what `create` says is said."""
        sqlite.create(self.path)
        with closing(SqliteStore(self.path)) as store:
            store.keep([(BLOCK, MARK)])
        self.path.unlink()
        sentence = str(self.assertRaises(StoreError, sqlite.create, self.path))
        self.assertIn(f"was here before, as {self.path}.lock shows; put it back", sentence)
        link = self.directory / "link"
        link.symlink_to(self.path)
        for act in (reading.read, reading.check_access, SqliteStore):
            self.assertEqual(str(self.assertRaises(StoreError, act, self.path)), sentence)
            said = str(self.assertRaises(StoreError, act, link))
            self.assertIn(f"{link} was here before, as {self.path}.lock shows", said)

    def test_beside_a_daemon(self) -> None:
        """The marks of a store that a daemon has open are those that it has stored last."""
        sqlite.create(self.path)
        self.assertEqual(reading.read(self.path), {})
        self.open().keep([(BLOCK, MARK)])
        self.assertEqual(reading.read(self.path), {BLOCK: MARK})

    def test_one_moment(self) -> None:
        """What a daemon stores while it is read is not half of it."""
        sqlite.create(self.path)
        store = self.open()
        store.keep([(BLOCK, MARK)])

        def meanwhile(connection: sqlite3.Connection, path: Path | None) -> dict[MarkId, Mark]:
            store.keep([(BLOCK, evolve(MARK, level=MARK.level + 1))])
            return rows.marks_in(connection, path)

        self.patch(reading, "marks_in", meanwhile)
        self.assertEqual(reading.read(self.path), {BLOCK: MARK})
        self.patch(reading, "marks_in", rows.marks_in)
        self.assertEqual(reading.read(self.path)[BLOCK].level, MARK.level + 1)

    def test_moment_is_over(self) -> None:
        """What is read afterwards is newer, also if something has failed meanwhile."""
        with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
            for failing in (False, True):
                with contextlib.suppress(StoreError), reading.reading_once(connection):
                    self.assertTrue(connection.in_transaction)
                    if failing:
                        raise StoreError("damaged")
                self.assertFalse(connection.in_transaction)
            with reading.reading_once(connection):
                connection.execute("ROLLBACK")  # as SQLite does by itself when a disk fails

    def test_leaves_nothing(self) -> None:
        """Beside a store that nobody has nothing is left by who has read it."""
        sqlite.create(self.path)
        reading.read(self.path)
        self.assertEqual(list(self.directory.iterdir()), [self.path])

    def test_who_has_it(self) -> None:
        """It is told whether a daemon has a store."""
        sqlite.create(self.path)
        self.assertIs(reading.check_not_copied(self.path), False)
        store = self.open()
        self.assertIs(reading.check_not_copied(self.path), True)
        store.close()
        self.assertIs(reading.check_not_copied(self.path), False)


class AccessTests(StoreTestCase):
    """What keeps a daemon from a store is told to a command that only asks."""

    def setUp(self) -> None:
        super().setUp()
        sqlite.create(self.path)

    def same(self, words: str) -> None:
        """A daemon and a command are refused with the same sentence."""
        sentence = self.refused(self.path)
        self.assertIn(words, sentence)
        self.assertEqual(
            str(self.assertRaises(StoreError, reading.check_access, self.path)), sentence
        )

    def test_well(self) -> None:
        """A store that nothing keeps from is no error, nor is anything made beside it."""
        reading.check_access(self.path)
        self.assertEqual(list(self.directory.iterdir()), [self.path])

    def test_denied(self) -> None:
        """What belongs to others is told, with whose it is."""
        self.patch(reading, "what_is_denied", lambda path: f"; {path} belongs to another user")
        self.same(f"{self.path} cannot be written; {self.path} belongs to another user")

    def test_names(self) -> None:
        """So is a second name."""
        (self.directory / "other").hardlink_to(self.path)
        self.same("has 2 names")

    def test_lock(self) -> None:
        """So is a lock that is none."""
        Path(f"{self.path}.lock").symlink_to("elsewhere")
        self.same("Too many levels of symbolic links")

    def test_read_only(self) -> None:
        """So is what the system says to who would write."""
        open_ = os.open

        def read_only(path: Path, flags: int, mode: int = 0o777) -> int:
            if flags & os.O_RDWR:
                raise OSError(errno.EROFS, os.strerror(errno.EROFS))
            return open_(path, flags, mode)

        self.patch(os, "open", read_only)
        self.same("Read-only file system")
