"""Reading the marks of an SQLite store without opening it as a daemon does."""

from contextlib import closing

from tests.support.sqlitecase import BLOCK, MARK, StoreTestCase
from tezio_signer.watermarks.sqlite import reading
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

    def test_who_has_it(self) -> None:
        """It is told whether a daemon has a store."""
        sqlite.create(self.path)
        self.assertIs(reading.check_not_copied(self.path), False)
        store = self.open()
        self.assertIs(reading.check_not_copied(self.path), True)
        store.close()
        self.assertIs(reading.check_not_copied(self.path), False)
