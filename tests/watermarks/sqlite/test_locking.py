"""Who may have a store in an SQLite file, and beside whom it is read."""

import os
import sqlite3
from contextlib import closing

from attrs import evolve
from twisted.trial.unittest import SkipTest

from tests.support.sqlitecase import BLOCK, MARK, SIGNATURE, StoreTestCase
from tezio_signer.watermarks.sqlite import reading
from tezio_signer.watermarks.sqlite import store as sqlite
from tezio_signer.watermarks.store import StoreError


class LockingTests(StoreTestCase):
    """One daemon at a time."""

    def setUp(self) -> None:
        super().setUp()
        sqlite.create(self.path)

    def test_second_opener(self) -> None:
        """An open store cannot be opened again until it is closed, and then it can."""
        store = self.open()
        who = f"is in use by a running signer (process {os.getpid()}); stop it first"
        self.assertIn(who, self.refused(self.path))
        store.close()
        store.close()
        self.open()

    def test_under_another_name(self) -> None:
        """The store is the same through a link and through another spelling of its path."""
        link = self.directory / "link"
        link.symlink_to(self.path)
        self.open()
        for path in (link, self.directory / ".." / self.directory.name / self.path.name):
            self.assertIn("is in use by a running signer", self.refused(path))

    def test_free_after_a_failure(self) -> None:
        """A store that could not be opened is not locked by the try."""
        self.execute(self.path, "PRAGMA user_version = 4")
        self.refused(self.path)
        self.execute(self.path, "PRAGMA user_version = 3")
        self.open()

    def test_free_after_a_late_failure(self) -> None:
        """Nor is one whose lock was already made, when its log could not be begun."""

        def fail(*_: object) -> None:
            raise OSError("disk full")

        patched = self.patch(sqlite, "use_log", fail)
        self.assertIn("disk full", self.refused(self.path))
        patched.restore()
        self.open()

    def test_reading_beside(self) -> None:
        """The marks of an open store can be read, as they are at that moment."""
        store = self.open()
        self.assertEqual(reading.read(self.path), {})
        store.keep([(BLOCK, MARK)])
        self.assertEqual(reading.read(self.path), {BLOCK: MARK})
        store.keep([(BLOCK, evolve(MARK, signature=SIGNATURE))])
        self.assertEqual(reading.read(self.path), {BLOCK: evolve(MARK, signature=SIGNATURE)})

    def test_reading_locks_nothing(self) -> None:
        """Reading leaves the store to the daemon, also when it fails."""
        reading.read(self.path)
        self.execute(self.path, "PRAGMA user_version = 4")
        self.assertRaises(StoreError, reading.read, self.path)
        self.execute(self.path, "PRAGMA user_version = 3")
        self.open()

    def test_reading_beside_a_write(self) -> None:
        """A write that is under way holds up no reader, and a reader no write."""
        store = self.open()
        with closing(sqlite3.connect(self.path, isolation_level=None)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT * FROM marks").fetchall()
            store.keep([(BLOCK, MARK)])
            self.assertEqual(reader.execute("SELECT * FROM marks").fetchall(), [])
        self.assertEqual(store.load(), {BLOCK: MARK})

    def test_opened_by_root(self) -> None:
        """What root makes beside a store belongs to whom the store belongs."""
        if os.geteuid() != 0:
            raise SkipTest("only root can do this")
        os.chown(self.path, 65534, 65533)
        store = self.open()
        store.keep([(BLOCK, MARK)])
        self.assertEqual(reading.read(self.path), {BLOCK: MARK})
        owners = {
            file.name.removeprefix(self.path.name): (file.stat().st_uid, file.stat().st_gid)
            for file in self.directory.iterdir()
        }
        self.assertEqual(owners, dict.fromkeys(("", "-wal", "-shm", ".lock"), (65534, 65533)))
