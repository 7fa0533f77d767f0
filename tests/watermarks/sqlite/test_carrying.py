"""A store of version 2 that is carried over to version 3."""

import os
import shutil
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import FrameType
from typing import Any

from tests.support.oldstores import create_version_2
from tests.support.sqlitecase import BLOCK, MARK, StoreTestCase
from tests.support.vectors import TZ3
from tezio_signer.noop import do_nothing
from tezio_signer.watermarks.entry import Entry
from tezio_signer.watermarks.sqlite import carrying, reading, schema
from tezio_signer.watermarks.sqlite import store as sqlite
from tezio_signer.watermarks.sqlite.store import SqliteStore
from tezio_signer.watermarks.store import Spent, StoreError

_SPENT = Spent(TZ3, {bytes(32): Entry(1_790_000_000, 5, 1)})
_DIED = 9


def version_of(path: Path) -> int:
    """What a file says."""
    with closing(sqlite3.connect(path)) as connection:
        return int(connection.execute("PRAGMA user_version").fetchone()[0])


def open_and_die(path: Path, step: int) -> bool:
    """Open a store in a process that ends without a word before this line of the carrying over.

    Returns whether it has come to its end before.
    """
    child = os.fork()
    if child == 0:
        left = [step]

        def trace(frame: FrameType, event: str, _: Any) -> Any:
            code = frame.f_code
            if code.co_filename != carrying.__file__ and code != schema.add_spending.__code__:
                return None
            if event == "line":
                left[0] -= 1
                if left[0] == 0:
                    os._exit(_DIED)
            return trace

        code = 1
        try:
            sys.settrace(trace)
            SqliteStore(path).close()
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in (0, _DIED), code
    return code == 0


class CarryingTests(StoreTestCase):
    """What becomes of a store of the version before."""

    def setUp(self) -> None:
        super().setUp()
        create_version_2(self.path, {BLOCK: MARK})
        self.copy = Path(f"{self.path}.version-2")

    def test_carried_over(self) -> None:
        """Its marks are there, spending can be written, and it is of this version from then on."""
        with closing(self.open()) as store:
            self.assertEqual(store.load(), {BLOCK: MARK})
            store.keep([], [_SPENT])
        self.assertEqual(version_of(self.path), 3)
        with closing(self.open()) as store:
            self.assertEqual(store.load(), {BLOCK: MARK})
            self.assertEqual(store.spent(TZ3), _SPENT.entries)

    def test_copy(self) -> None:
        """Beside it is a copy of what it was, in one file, for its owner only."""
        self.open().close()
        self.assertEqual(version_of(self.copy), 2)
        self.assertEqual(reading.read(self.copy), {BLOCK: MARK})
        self.assertEqual(self.copy.stat().st_mode & 0o777, 0o600)
        names = {path.name for path in self.directory.iterdir()}
        self.assertEqual(names, {self.path.name, f"{self.path.name}.lock", self.copy.name})

    def test_log(self) -> None:
        """What a killed daemon has left in the log is carried over, and copied, too."""
        newer = self.directory / "newer"
        with closing(sqlite3.connect(self.path, isolation_level=None)) as connection:
            connection.execute("UPDATE marks SET level = level + 1, written = 2")
            for suffix in ("", "-wal"):
                shutil.copy(f"{self.path}{suffix}", f"{newer}{suffix}")
        for store in (newer, Path(f"{newer}.version-2")):
            with closing(SqliteStore(newer)) as opened:
                self.assertEqual(opened.load()[BLOCK].level, MARK.level + 1)
            self.assertEqual(reading.read(store)[BLOCK].level, MARK.level + 1)

    def test_going_back(self) -> None:
        """The copy in the place of the store is an older copy once anything was written."""
        with closing(self.open()) as store:
            store.keep([], [_SPENT])
        shutil.copy(self.copy, self.path)
        self.assertIn("is an older copy: 1 marks were written", self.refused(self.path))

    def test_not_carried_over(self) -> None:
        """It is looked at whether it has come to this version; what has not is refused."""
        self.patch(sqlite, "carry_over", do_nothing)
        self.assertIn("has schema version 2, not 3", self.refused(self.path))

    def test_only_looked_at(self) -> None:
        """Who only reads it leaves it as it is."""
        before = self.path.read_bytes()
        content = reading.read_all(self.path)
        self.assertEqual((content.marks, content.spending), ({BLOCK: MARK}, {}))
        self.assertEqual(self.path.read_bytes(), before)
        self.assertEqual(list(self.directory.iterdir()), [self.path])

    def test_older_copy(self) -> None:
        """What is refused is not carried over."""
        lock = Path(f"{self.path}.lock")
        with closing(sqlite3.connect(self.path)) as connection:
            ((store,),) = connection.execute("SELECT id FROM store").fetchall()
        lock.write_bytes(f"{store} {7:020}\n".encode().ljust(128))
        self.assertIn("older copy", self.refused(self.path))
        self.assertEqual(version_of(self.path), 2)
        self.assertFalse(self.copy.exists())

    def test_no_room(self) -> None:
        """If there is no room for the copy, the store stays as it was, and nothing is left."""

        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        for place, name in ((os, "fsync"), (carrying, "sync_directory")):
            self.patch(place, name, full)
            self.assertIn("No space left on device", self.refused(self.path))
            self.assertEqual(version_of(self.path), 2)
        self.assertEqual(list(self.directory.glob("*.new")), [])

    def test_next_version(self) -> None:
        """A store of a version that is not known is refused in words, and left alone."""
        self.execute(self.path, "PRAGMA user_version = 4")
        self.assertIn(
            "has schema version 4, not 3; use the version of Tezio Signer that wrote it",
            self.refused(self.path),
        )

    def test_half(self) -> None:
        """A store whose version says one thing, and its tables another, is damaged."""
        self.execute(self.path, "PRAGMA user_version = 3")
        self.assertIn("are not those of schema version 3", self.refused(self.path))

    def test_killed_anywhere(self) -> None:
        """Whichever line is the last that is carried out, the next start has all, and a copy."""
        fresh = self.directory / "fresh"
        shutil.copy(self.path, fresh)
        steps = 0
        ended = False
        while not ended:
            steps += 1
            store = self.directory / f"store-{steps}"
            shutil.copy(fresh, store)
            ended = open_and_die(store, steps)
            with closing(SqliteStore(store)) as opened:
                self.assertEqual(opened.load(), {BLOCK: MARK})
                opened.keep([], [_SPENT])
            self.assertEqual(version_of(store), 3)
            self.assertEqual(reading.read(Path(f"{store}.version-2")), {BLOCK: MARK})
            for path in self.directory.glob(f"store-{steps}*"):
                self.assertFalse(path.name.endswith(".new"), path)
                path.unlink()
        self.assertGreater(steps, 25)


class SpendingTests(StoreTestCase):
    """Entries in a store of this version."""

    def setUp(self) -> None:
        super().setUp()
        sqlite.create(self.path)

    def test_kept(self) -> None:
        """Entries outlive the process, each as it was written last; forgotten ones do not."""
        entries = {bytes([n]) * 32: Entry(2**33 - n, 2**63 - 1 - n, n + 1) for n in range(3)}
        with closing(self.open()) as store:
            store.keep([], [Spent(TZ3, entries)])
            store.keep([], [Spent(TZ3, {bytes(32): Entry(1, 0, 0)}, (b"\x01" * 32,))])
            expected = {bytes(32): Entry(1, 0, 0), b"\x02" * 32: entries[b"\x02" * 32]}
            self.assertEqual(store.spent(TZ3), expected)
        with closing(self.open()) as store:
            self.assertEqual(store.spent(TZ3), expected)
            self.assertEqual(store.spending(), {TZ3: expected})

    def test_together(self) -> None:
        """Marks and spending of one group are there together, or none of them."""
        store = self.open()
        fails: Callable[..., Any] = store._spend

        def failing(spent: Spent) -> None:
            fails(spent)
            raise sqlite3.OperationalError("database or disk is full")

        self.patch(store, "_spend", failing)
        self.assertRaises(StoreError, store.keep, [(BLOCK, MARK)], [_SPENT])
        self.assertEqual((store.load(), store.spent(TZ3), store.spending()), ({}, {}, {}))
        self.patch(store, "_spend", fails)
        store.keep([(BLOCK, MARK)], [_SPENT])
        self.assertEqual((store.load(), store.spent(TZ3)), ({BLOCK: MARK}, _SPENT.entries))

    def test_older_copy(self) -> None:
        """A backup is an older copy also if only spending was written since, or forgotten."""
        self.open().close()
        backup = self.directory / "backup"
        shutil.copy(self.path, backup)
        with closing(self.open()) as store:
            store.keep([], [_SPENT])
            other = {b"\x01" * 32: Entry(1, 1, 1)}
            store.keep([], [Spent(TZ3, other, tuple(_SPENT.entries))])
        self.open().close()
        shutil.copy(backup, self.path)
        self.assertIn("older copy: 0 marks were written in it, and 2", self.refused(self.path))

    def test_written_by_others(self) -> None:
        """A daemon notices when others take spending out of its store, and signs no more."""
        store = self.open()
        store.keep([], [_SPENT])
        for change in (
            "DELETE FROM spending",
            "UPDATE spending SET mutez = mutez - 1",
            "UPDATE spending SET at = at - 1",
        ):
            self.execute(self.path, "BEGIN", change, "COMMIT")
            error = str(self.assertRaises(StoreError, store.look))
            self.assertIn("written by another program", error)
            self.execute(self.path, "DELETE FROM spending")
            self.execute(
                self.path,
                f"INSERT INTO spending VALUES ('{TZ3}', x'{'00' * 32}', 1790000000, 5, 1, 1)",  # noqa: S608
            )
            store.look()

    def test_damaged(self) -> None:
        """An entry that makes no sense is no store."""
        self.open().close()
        for row in (
            f"'{TZ3}', x'00', 1, 1, 1, 1",
            f"'tz3', x'{'00' * 32}', 1, 1, 1, 1",
            f"'{TZ3}', x'{'00' * 32}', -1, 1, 1, 1",
            f"'{TZ3}', x'{'00' * 32}', 1, -1, 1, 1",
            f"'{TZ3}', x'{'00' * 32}', 1, 1, -1, 1",
            f"'{TZ3}', x'{'00' * 32}', 1, 1, 0, 1",
        ):
            self.execute(self.path, f"INSERT INTO spending VALUES ({row})")  # noqa: S608
            self.assertIn("is damaged: spending", self.refused(self.path))
            self.assertRaises(StoreError, reading.read, self.path)
            self.execute(self.path, "DELETE FROM spending")
