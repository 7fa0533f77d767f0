"""A store in an SQLite file that was further when it was used before."""

import shutil
from contextlib import closing
from pathlib import Path

from attrs import evolve

from tests.support.sqlitecase import BLOCK, MARK, StoreTestCase
from tezio_signer.watermarks.sqlite import reading
from tezio_signer.watermarks.sqlite import store as sqlite
from tezio_signer.watermarks.sqlite.lockfile import Progress, noted_beside
from tezio_signer.watermarks.sqlite.store import SqliteStore
from tezio_signer.watermarks.store import StoreError


class OlderCopyTests(StoreTestCase):
    """A backup that was restored, or a file without what belongs to it."""

    def setUp(self) -> None:
        super().setUp()
        sqlite.create(self.path)
        self.lock = Path(f"{self.path}.lock")

    def write(self, store: SqliteStore, *levels: int) -> None:
        """Have marks of these levels written."""
        for level in levels:
            store.keep([(BLOCK, evolve(MARK, level=level))])

    def copy(self, name: str, *suffixes: str) -> Path:
        """Copy files of the store."""
        copy = self.directory / name
        for suffix in suffixes:
            shutil.copy(f"{self.path}{suffix}", f"{copy}{suffix}")
        return copy

    def test_restored(self) -> None:
        """A backup is refused once more was written; the sentence says what to do, and it helps."""
        with closing(self.open()) as store:
            self.write(store, 1, 2)
        backup = self.copy("backup", "")
        with closing(self.open()) as store:
            self.write(store, 3, 4, 5)
        shutil.copy(backup, self.path)
        for _ in range(2):
            sentence = self.refused(self.path)
            for words in (
                "2 marks were written in it, and 5",
                "stop the signer",
                "high_water_marks",
                f"delete {self.lock}",
            ):
                self.assertIn(words, sentence)
        self.lock.unlink()
        self.assertEqual(self.open().load(), {BLOCK: evolve(MARK, level=2)})

    def test_noted_when_opened(self) -> None:
        """A store that comes without a note is known as soon as it was opened once."""
        backup = self.copy("backup", "")
        with closing(self.open()) as store:
            self.write(store, 1)
        self.lock.unlink()
        self.open().close()
        shutil.copy(backup, self.path)
        self.assertIn("0 marks were written in it, and 1", self.refused(self.path))

    def test_noted_again_when_opened(self) -> None:
        """A note that was not synced before a power cut is made up for by the next daemon."""
        with closing(self.open()) as store:
            older = self.lock.read_bytes()
            self.write(store, 1, 2)
        newest = self.lock.read_bytes()
        self.lock.write_bytes(older)
        self.open().close()
        self.assertEqual(self.lock.read_bytes(), newest)

    def test_nothing_was_written_since(self) -> None:
        """A backup of the present state is as good as the store."""
        with closing(self.open()) as store:
            self.write(store, 1)
            store.tidy()
            backup = self.copy("backup", "")
        shutil.copy(backup, self.path)
        self.open()

    def test_of_a_killed_daemon(self) -> None:
        """What a killed daemon leaves opens with its log, and is an older copy without it."""
        store = self.open()
        self.write(store, 1, 2)
        whole = self.copy("whole", "", "-wal", ".lock")
        without_log = self.copy("without_log", "", ".lock")
        store.close()
        with closing(self.open(whole)) as opened:
            self.assertEqual(opened.load(), {BLOCK: evolve(MARK, level=2)})
            self.assertEqual(Path(f"{whole}-wal").stat().st_size, 0)  # it is in the file
        self.assertIn("older copy", self.refused(without_log))

    def test_replaced(self) -> None:
        """What an operator has changed counts as written."""
        with closing(self.open()) as store:
            backup = self.copy("backup", "")
            store.replace({BLOCK: MARK})
        shutil.copy(backup, self.path)
        self.assertIn("0 marks were written in it, and 1", self.refused(self.path))

    def test_another_store(self) -> None:
        """Another store in the place of one is no copy of it."""
        other = self.directory / "other"
        sqlite.create(other)
        with closing(self.open()) as store:
            self.write(store, 1)
        other.rename(self.path)
        self.assertEqual(reading.read(self.path), {})
        self.open()

    def test_reading(self) -> None:
        """Who only reads is refused with the same sentence, and changes no note."""
        with closing(self.open()) as store:
            backup = self.copy("backup", "")
            self.write(store, 1)
        shutil.copy(backup, self.path)
        sentence = str(self.assertRaises(StoreError, reading.read, self.path))
        self.assertIn("is an older copy", sentence)
        self.assertEqual(self.refused(self.path), sentence)
        self.lock.unlink()
        self.assertEqual(reading.read(self.path), {})
        self.assertFalse(self.lock.exists())

    def test_reading_beside_a_daemon(self) -> None:
        """Marks that are written while somebody begins to read make no older copy."""
        store = self.open()
        levels = iter((1, 2))

        def written_behind(path: Path) -> Progress | None:
            self.write(store, next(levels))
            noted = noted_beside(path)
            self.write(store, next(levels))
            return noted

        self.patch(reading, "noted_beside", written_behind)
        self.assertEqual(reading.read(self.path), {BLOCK: evolve(MARK, level=2)})

    def test_unreadable_note(self) -> None:
        """Without a look at the note nothing is read, and the file is named."""
        self.lock.mkdir()
        sentence = str(self.assertRaises(StoreError, reading.read, self.path))
        self.assertIn(str(self.lock), sentence)
        self.assertIn("Is a directory", sentence)

    def test_nothing_to_write(self) -> None:
        """A mark that is brought again is not counted, nor is one that could not be written."""
        store = self.open()
        self.write(store, 7, 7, 6)
        self.execute(
            self.path,
            "CREATE TRIGGER full BEFORE INSERT ON marks "
            "BEGIN SELECT RAISE(ABORT, 'disk full'); END",
        )
        self.assertRaises(StoreError, self.write, store, 8)
        self.assertIn(b" 00000000000000000001\n", self.lock.read_bytes())
