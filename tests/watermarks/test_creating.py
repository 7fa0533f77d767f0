"""Making a store in an SQLite file."""

import sqlite3

from tests.watermarks.sqlitecase import StoreTestCase
from tezio_signer.watermarks import sqlite
from tezio_signer.watermarks.store import StoreError


class CreatingTests(StoreTestCase):
    """Where a store may be made."""

    def test_refuses_what_exists(self) -> None:
        """A file that is there already is left as it is, store or not, or a dangling link."""
        sqlite.create(self.path)
        foreign, empty, link = (self.directory / name for name in ("foreign", "empty", "link"))
        foreign.write_text("not a database")
        empty.touch()
        link.symlink_to(self.directory / "nowhere")
        for path in (self.path, foreign, empty, link, self.directory):
            error = self.assertRaises(StoreError, sqlite.create, path)
            self.assertIn(f"{path} exists already, and is left as it is", str(error))
        self.assertEqual(foreign.read_text(), "not a database")
        self.assertEqual(empty.stat().st_size, 0)
        self.assertFalse((self.directory / "nowhere").exists())

    def test_impossible_places(self) -> None:
        """A store in no directory is refused with the reason of the system."""
        self.path.touch()
        for path, reason in [
            (self.directory / "missing" / "a", "No such file or directory"),
            (self.path / "a", "Not a directory"),
        ]:
            error = self.assertRaises(StoreError, sqlite.create, path)
            self.assertEqual(str(error), f"watermark store {path} cannot be created: {reason}")

    def test_disk_full(self) -> None:
        """A store that cannot be written is an error of the store."""

        def failing(*_: object, **__: object) -> None:
            raise sqlite3.OperationalError("database or disk is full")

        self.patch(sqlite3, "connect", failing)
        error = self.assertRaises(StoreError, sqlite.create, self.path)
        self.assertEqual(str(error), f"watermark store {self.path}: database or disk is full")
