"""A store is a file, not a name: what happens to its files while a daemon has it."""

import contextlib
import errno
import gc
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path

from attrs import evolve
from twisted.logger import LogLevel, capturedLogs, formatEvent
from twisted.trial.unittest import SkipTest

from tests.support.sqlitecase import BLOCK, MARK, SIGNATURE, StoreTestCase
from tezio_signer.host import filesystems
from tezio_signer.host.filesystems import Mount
from tezio_signer.watermarks.rule import Mark, MarkId
from tezio_signer.watermarks.sqlite import reading, storefile
from tezio_signer.watermarks.sqlite import schema as sqliteschema
from tezio_signer.watermarks.sqlite import store as sqlite
from tezio_signer.watermarks.sqlite.lockfile import Progress
from tezio_signer.watermarks.sqlite.rows import marks_in
from tezio_signer.watermarks.sqlite.store import SqliteStore
from tezio_signer.watermarks.store import StoreError, StoreLostError


class OtherNamesTests(StoreTestCase):
    """One file under several names."""

    def setUp(self) -> None:
        super().setUp()
        sqlite.create(self.path)
        self.other = self.directory / "other"
        self.other.mkdir()
        self.link = self.other / "link.sqlite"

    def test_hard_link(self) -> None:
        """A store with two names is refused by either, for reading too; with one it opens."""
        self.link.hardlink_to(self.path)
        for path in (self.path, self.link):
            for words in ("has 2 names (hard links)", "-xdev -samefile", "name that one"):
                self.assertIn(words, self.refused(path))
            self.assertIn("2 names", str(self.assertRaises(StoreError, reading.read, path)))
        self.assertEqual(list(self.other.iterdir()), [self.link])
        self.link.unlink()
        self.open()

    def test_linked_later(self) -> None:
        """A link that is made under a daemon keeps both from the store until it is gone."""
        store = self.open()
        store.keep([(BLOCK, MARK)])
        self.link.hardlink_to(self.path)
        error = self.assertRaises(StoreLostError, store.keep, [(BLOCK, evolve(MARK, round=3))])
        self.assertIn("has 2 names", str(error))
        self.assertIn("in use by a running signer", self.refused(self.link))
        self.link.unlink()
        store.keep([(BLOCK, evolve(MARK, round=3))])

    def test_renamed(self) -> None:
        """A store under a new name is still that of the daemon which has it."""
        store = self.open()
        store.keep([(BLOCK, MARK)])
        self.path.rename(self.link)
        said = "in use by a running signer, it may be under another name; stop it first"
        self.assertIn(said, self.refused(self.link))
        self.assertRaises(StoreLostError, store.keep, [(BLOCK, evolve(MARK, round=3))])
        store.close()
        self.assertEqual(self.open(self.link).load(), {BLOCK: MARK})

    def test_without_a_lock_beside(self) -> None:
        """The file itself is locked: deleting what lies beside lets nobody in."""
        self.open()
        Path(f"{self.path}.lock").unlink()
        self.assertIn("in use by a running signer", self.refused(self.path))
        self.assertFalse(Path(f"{self.path}.lock").exists())

    def test_locks_of_sqlite(self) -> None:
        """That this process opens and closes the file elsewhere does not give it free."""
        self.open()
        self.path.read_bytes()
        Path(f"{self.path}.lock").unlink()
        code = (
            "import sys, pathlib; from tezio_signer.watermarks.sqlite.store import SqliteStore; "
            "SqliteStore(pathlib.Path(sys.argv[1]))"
        )
        ended = subprocess.run(  # noqa: S603
            [sys.executable, "-c", code, str(self.path)],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        self.assertIn("in use by a running signer", ended.stderr)

    def test_mounted_file(self) -> None:
        """A file that is mounted by itself is refused: mount the directory."""
        self.patch(filesystems, "mounts", lambda: [Mount(self.path, "ext4")])
        for word in ("mounted as a single file", "mount the directory"):
            self.assertIn(word, self.refused(self.path))
        self.assertRaises(StoreError, reading.read, self.path)

    def mount(self, source: Path, target: Path) -> None:
        """Mount one over the other until the test ends, if that may be."""
        if subprocess.run(["mount", "--bind", source, target], check=False, stderr=-3).returncode:  # noqa: S603, S607
            raise SkipTest("only root can mount")
        unmount = ["umount", "--lazy", str(target)]
        self.addCleanup(lambda: subprocess.run(unmount, check=False, stderr=-3))  # noqa: S603

    def test_mounted_really(self) -> None:
        """A second daemon on a mount of the file is refused, also where it sees no mounts."""
        self.link.touch()
        self.mount(self.path, self.link)
        self.assertIn("mounted as a single file", self.refused(self.link))
        store = self.open()
        self.assertIn("in use by a running signer", self.refused(self.link))
        store.close()
        self.patch(filesystems, "mounts", list)
        self.open()
        self.assertIn("in use by a running signer", self.refused(self.link))

    def test_mounted_directory(self) -> None:
        """A directory may be mounted: what belongs to the store is in both."""
        self.mount(self.directory, self.other)
        self.open(self.other / self.path.name).keep([(BLOCK, MARK)])
        self.assertIn("in use by a running signer", self.refused(self.path))
        self.assertEqual(reading.read(self.path), {BLOCK: MARK})

    def test_mounted_over(self) -> None:
        """Under a mount the store is lost, and is there again when that is gone."""
        store = self.open()
        copy = self.other / self.path.name
        shutil.copy(self.path, copy)
        self.mount(self.other, self.directory)
        self.assertRaises(StoreLostError, store.keep, [(BLOCK, MARK)])
        subprocess.run(["umount", self.directory], check=True)  # noqa: S603, S607
        store.keep([(BLOCK, MARK)])

    def test_copy(self) -> None:
        """A second daemon on a copy is refused while the first one runs."""
        store = self.open()
        shutil.copy(self.path, self.link)
        sentence = self.refused(self.link)
        self.assertIn("of which this is a copy", sentence)
        self.assertIs(reading.check_not_copied(self.path), True)
        error = self.assertRaises(StoreError, reading.check_not_copied, self.link)
        self.assertEqual(str(error), sentence)
        self.assertEqual(reading.read(self.link), {})
        store.close()
        self.open(self.link)

    def test_no_sockets(self) -> None:
        """Where abstract sockets cannot be had, copies are not known, and all else works."""

        def denied(*_: object) -> None:
            raise PermissionError

        self.patch(storefile, "socket", denied)
        self.open().keep([(BLOCK, MARK)])

    def test_link_that_leads_elsewhere(self) -> None:
        """A symbolic link that comes to lead to another store is another store."""
        link = self.directory / "symbolic"
        link.symlink_to(self.path)
        store = self.open(link)
        store.keep([(BLOCK, MARK)])
        sqlite.create(self.link)
        link.unlink()
        link.symlink_to(self.link)
        error = self.assertRaises(StoreLostError, store.keep, [(BLOCK, evolve(MARK, round=3))])
        self.assertIn("another file than the one", str(error))
        link.unlink()
        link.symlink_to(self.path)
        store.keep([(BLOCK, evolve(MARK, round=3))])


class LostTests(StoreTestCase):
    """What befalls the files of a store that is open: nothing is kept meanwhile."""

    def setUp(self) -> None:
        super().setUp()
        self.home = self.directory / "home"
        self.home.mkdir()
        self.path = self.home / "marks.sqlite"
        sqlite.create(self.path)
        self.store = self.open()
        self.store.keep([(BLOCK, MARK)])
        self.level = MARK.level

    def keep(self) -> None:
        """A mark of the next level, and its signature."""
        self.level += 1
        mark = evolve(MARK, level=self.level)
        self.store.keep([(BLOCK, mark)])
        self.store.keep([(BLOCK, evolve(mark, signature=SIGNATURE))])

    def lost(self, *words: str) -> None:
        """Nothing is kept, which is said with these words, and is seen without asking."""
        for act in (self.keep, self.store.look, self.store.tidy):
            sentence = str(self.assertRaises(StoreLostError, act))
            for word in (str(self.path), *words):
                self.assertIn(word, sentence)
            self.assertNotIn("\n", sentence)

    def well(self) -> None:
        """Marks are kept, and the next daemon reads all of them."""
        self.keep()
        self.keep()
        self.store.look()
        there = reading.read(self.path)
        self.assertEqual(there, self.store.load())
        self.assertEqual(there[BLOCK].level, self.level)

    def copies(self, *suffixes: str) -> dict[str, bytes]:
        """What is in the files of the store."""
        return {suffix: Path(f"{self.path}{suffix}").read_bytes() for suffix in suffixes}

    def test_well(self) -> None:
        """A store that nobody touches is looked at, and tidied, without an end."""
        for _ in range(3):
            self.well()
            self.store.tidy()
            self.well()

    def test_removed(self) -> None:
        """A removed file is missing at once; nothing is made in its place."""
        self.path.unlink()
        self.lost("was removed or moved away", "put the very file back")
        self.assertFalse(self.path.exists())

    def test_moved_and_back(self) -> None:
        """A file that was moved away and comes back is used again."""
        away = self.home / "away"
        self.path.rename(away)
        self.lost("was removed or moved away")
        away.rename(self.path)
        self.well()

    def test_directory_moved_and_back(self) -> None:
        """So is one whose directory was moved."""
        self.home.rename(self.directory / "away")
        self.lost("was removed or moved away")
        (self.directory / "away").rename(self.home)
        self.well()

    def test_copied_in_its_place(self) -> None:
        """A copy is not the store, however equal; the very file is."""
        away = self.home / "away"
        self.path.rename(away)
        shutil.copy2(away, self.path)
        self.lost("is another file than the one that this signer has opened")
        away.replace(self.path)
        self.well()

    def test_link_to_where_it_was_moved(self) -> None:
        """A file that was moved, and is linked to, has its log elsewhere until it is moved back."""
        away = self.directory / "away"
        self.path.rename(away)
        self.path.symlink_to(away)
        self.lost("is another file")
        away.replace(self.path)
        self.well()

    def test_everything_removed_and_made_anew(self) -> None:
        """Who removes the directory and makes a new store has two, of which one is used."""
        shutil.rmtree(self.home)
        self.home.mkdir()
        sqlite.create(self.path)
        self.lost("another file")
        with closing(SqliteStore(self.path)) as second:
            second.keep([(BLOCK, evolve(MARK, level=9_000_000))])
            self.lost("another file")
            before = self.copies("", "-wal", ".lock")
            self.store.close()
            self.assertEqual(self.copies("", "-wal", ".lock"), before)
            second.keep([(BLOCK, evolve(MARK, level=9_000_001))])

    def test_log_removed(self) -> None:
        """A log without a name is made anew with all that was in the old one."""
        for suffixes in (["-wal"], ["-shm"], ["-wal", "-shm"]):
            self.well()
            for suffix in suffixes:
                Path(f"{self.path}{suffix}").unlink()
            with capturedLogs() as logged:
                self.well()
            said = [formatEvent(e) or "" for e in logged if e["log_level"] is LogLevel.warn]
            self.assertEqual(
                said,
                [
                    f"the log of watermark store {self.path} (-wal, -shm) was removed under this "
                    "signer, and is made anew; no mark is lost"
                ],
            )

    def test_log_removed_and_killed(self) -> None:
        """What was kept since is in the files of the name, as a crash would leave them."""
        Path(f"{self.path}-wal").unlink()
        self.keep()
        copy = self.directory / "copy"
        for suffix, content in self.copies("", "-wal").items():
            Path(f"{copy}{suffix}").write_bytes(content)
        self.assertEqual(reading.read(copy), self.store.load())

    def test_destroyed_and_killed(self) -> None:
        """A file that is no database any more takes no log with it: there are the newest marks."""
        copy = self.directory / "copy"
        files = self.copies("", "-wal", ".lock")
        files[""] = bytes(len(files[""]))
        for read in (SqliteStore, reading.read):
            for suffix, content in files.items():
                Path(f"{copy}{suffix}").write_bytes(content)
            self.assertIn("not a database", str(self.assertRaises(StoreError, read, copy)))
            gc.collect()  # a connection that nobody has closed
            for suffix, content in files.items():
                self.assertEqual(Path(f"{copy}{suffix}").read_bytes(), content, suffix)

    def test_log_replaced(self) -> None:
        """A log of another time is not read, nor deleted; without it the own one is made anew."""
        log, other = Path(f"{self.path}-wal"), self.home / "other"
        shutil.copy(log, other)
        self.keep()
        log.rename(self.home / "own")
        other.rename(log)
        self.lost("-wal is another file than the one", "move it away")
        log.rename(other)
        self.well()

    def test_closed_beside_another_log(self) -> None:
        """SQLite deletes its log by the name: that of somebody else stays, and fools nobody."""
        log = Path(f"{self.path}-wal")
        other = log.read_bytes()
        self.keep()
        log.unlink()
        log.write_bytes(other)
        self.store.close()
        self.assertEqual(log.read_bytes(), other)
        newest = self.path.read_bytes()
        for read in (SqliteStore, reading.read):
            error = self.assertRaises(StoreError, read, self.path)
            self.assertIn("older copy", str(error))
            self.assertEqual((self.path.read_bytes(), log.read_bytes()), (newest, other))
        log.unlink()
        self.assertEqual(self.open().load()[BLOCK].level, self.level)

    def test_log_moved_and_back(self) -> None:
        """A log that comes back before it is missed is as it was."""
        log, away = Path(f"{self.path}-wal"), self.home / "away"
        log.rename(away)
        away.rename(log)
        self.well()

    def test_lock_removed(self) -> None:
        """A lock that was removed is made anew, and says how far the store is."""
        lock = Path(f"{self.path}.lock")
        backup = self.copies("")[""]
        lock.unlink()
        with capturedLogs() as logged:
            self.well()
        self.assertIn(f"{lock} was removed or replaced", str(formatEvent(logged[0])))
        self.store.close()
        self.path.write_bytes(backup)
        self.assertIn("older copy", self.refused(self.path))

    def test_lock_replaced(self) -> None:
        """A lock that is another file is taken over, whatever is in it, unless it is held."""
        lock = Path(f"{self.path}.lock")
        for content in (b"", bytes(128), b"a 00000000000000000001\n"):
            lock.unlink()
            lock.write_bytes(content)
            self.well()
            self.assertIn(b"\n", lock.read_bytes())
        lock.unlink()
        lock.mkdir()
        self.lost(f"{lock} was removed or replaced", "Is a directory")
        lock.rmdir()
        self.well()

    def test_lock_replaced_on_a_full_disk(self) -> None:
        """A lock in which nothing can be noted is not kept: with space again, it is taken over."""
        lock = Path(f"{self.path}.lock")

        def full(_: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        for replace in (lock.touch, bool):
            lock.unlink()
            replace()
            patched = self.patch(os, "fsync", full)
            self.lost(f"{lock} was removed or replaced", "No space left on device")
            patched.restore()
            self.level += 1
            self.well()

    def test_overwritten(self) -> None:
        """Older content in the very file is found; the newest is taken back."""
        self.store.tidy()
        old = self.copies("")[""]
        self.well()
        self.store.tidy()
        new = self.copies("")[""]
        self.path.write_bytes(old)
        self.lost("was written by another program")
        self.path.write_bytes(new)
        self.well()

    def test_overwritten_beneath_the_log(self) -> None:
        """Older content beneath all that is in the log is no loss: the log is read."""
        old = self.copies("")[""]
        self.keep()
        self.path.write_bytes(old)
        self.well()

    def test_overwritten_behind_the_log(self) -> None:
        """With an empty log nothing hides older content."""
        old = self.copies("")[""]
        self.store.tidy()
        self.store.close()
        self.store = self.open()
        new = self.copies("")[""]
        self.path.write_bytes(old)
        self.lost("was written by another program", "raise high_water_marks")
        self.path.write_bytes(new)
        self.well()

    def test_overwritten_meanwhile(self) -> None:
        """Older content that comes while marks are written, or the file is read, is found too."""
        old, path = self.copies("")[""], self.path
        pending: list[str] = []

        class Overwriting(sqlite3.Connection):
            def execute(self, sql: str, parameters: object = (), /) -> sqlite3.Cursor:
                done = super().execute(sql, parameters)  # type: ignore[arg-type]
                if pending and sql.startswith(pending[0]):
                    pending.clear()
                    path.write_bytes(old)
                return done

        self.patch(sqlite3, "connect", partial(sqlite3.connect, factory=Overwriting))
        self.keep()
        for statement, act in (
            ("COMMIT", lambda: self.store.replace({})),
            ("PRAGMA wal_checkpoint", lambda: self.store.tidy()),
            ("PRAGMA data_version", lambda: self.store.look()),
        ):
            self.store.close()  # so that no log hides what is in the file
            self.store = self.open()
            new = self.copies("")[""]
            os.utime(self.path)
            pending.append(statement)
            with contextlib.suppress(StoreLostError):
                act()
            self.assertEqual((pending, self.copies("")), ([], {"": old}), statement)
            self.lost("was written by another program")
            self.path.write_bytes(new)
            self.well()

    def test_truncated(self) -> None:
        """A file that was cut off is found, and used again when its content is back."""
        self.store.close()
        self.store = self.open()
        content = self.copies("")[""]
        for size in (0, 100, 4096, len(content) - 1, len(content) - 4096):
            os.truncate(self.path, size)
            self.lost("was written by another program")
            with self.path.open("r+b") as file:  # the very file
                file.write(content)
            self.store.look()
        self.well()

    def test_emptied(self) -> None:
        """The log of a file that was emptied is left alone: it holds the newest marks."""
        self.keep()
        before = self.copies("", "-wal")
        os.truncate(self.path, 0)
        self.lost("was written by another program", "it is empty")
        self.assertEqual(self.copies("-wal"), {"-wal": before["-wal"]})
        self.path.write_bytes(before[""])
        self.level -= 1
        self.well()

    def test_touched(self) -> None:
        """Only the time of the file is another: it is read anew, and goes on."""
        os.utime(self.path)
        self.well()

    def test_mode(self) -> None:
        """A daemon has the file open, whatever mode it gets."""
        self.path.chmod(0)
        self.keep()
        self.store.look()
        self.path.chmod(0o600)  # who reads it anew, unless it is root, needs that
        self.well()

    def behind_its_back(self, *statements: str) -> None:
        """Another program writes, with the locks of SQLite."""
        self.execute(self.path, *statements)

    def test_lowered_by_others(self) -> None:
        """Marks that another program has lowered, deleted or replaced are missed at once."""
        self.keep()
        for statement in (
            "UPDATE marks SET level = level - 1",
            "UPDATE marks SET payload_hash = x'" + "07" * 32 + "'",
            "UPDATE marks SET signature = NULL",
            "UPDATE marks SET written = 0",
            "DELETE FROM marks",
            "UPDATE store SET id = '" + "0" * 32 + "'",
            "DELETE FROM store",
        ):
            before = self.copies("", "-wal")
            self.behind_its_back(
                "CREATE TEMP TABLE m AS SELECT * FROM marks",
                "CREATE TEMP TABLE s AS SELECT * FROM store",
                statement,
            )
            self.assertRaises(StoreError, self.store.look)
            self.assertRaises(StoreError, self.keep)
            self.assertNotEqual(self.copies("", "-wal"), before)
            self.level -= 1
            self.restore_rows()
            self.well()

    def test_lowered_in_the_log(self) -> None:
        """A mark that another program has lowered in the log, and not in the file, is missed."""
        with closing(sqlite3.connect(self.path, isolation_level=None)) as other:
            other.execute("PRAGMA wal_autocheckpoint = 0")
            other.execute("UPDATE marks SET level = level - 1")
            self.assertRaises(StoreLostError, self.store.look)

    def test_log_made_anew_later(self) -> None:
        """A log that cannot be made anew for the time being is made when it can be."""

        def fail(_: Path) -> sqlite3.Connection:
            raise sqlite3.OperationalError("disk I/O error")

        Path(f"{self.path}-wal").unlink()
        connect_again = sqlite._connect_again
        self.patch(sqlite, "_connect_again", fail)
        for _ in range(2):
            self.assertRaises(StoreLostError, self.store.look)
        self.patch(sqlite, "_connect_again", connect_again)
        self.well()

    def test_read_when_tidied(self) -> None:
        """What is brought into the file is read again at once, and not within the next commit."""
        read: list[object] = []

        def counted(connection: sqlite3.Connection, path: Path | None) -> dict[MarkId, Mark]:
            read.append(path)
            return marks_in(connection, path)

        self.patch(sqlite, "marks_in", counted)
        self.store.tidy()
        self.assertEqual(len(read), 1)
        self.keep()
        self.assertEqual(len(read), 1)

    def restore_rows(self) -> None:
        """Have the rows of the daemon in the file again."""
        known = self.store._known[BLOCK]
        signature = f"'{known.signature}'" if known.signature else "NULL"
        self.behind_its_back(
            "DELETE FROM marks",
            "DELETE FROM store",
            f"INSERT INTO store VALUES ('{self.store._progress.store}')",  # noqa: S608
            f"INSERT INTO marks VALUES ('{BLOCK.chain_id}', '{BLOCK.key}', 'block', "  # noqa: S608
            f"{known.level}, {known.round}, x'{known.payload_hash.hex()}', {signature}, "
            f"{self.store._progress.writes})",
        )

    def test_restored_by_sqlite(self) -> None:
        """`sqlite3 s .restore older` is noticed too."""
        backup = self.directory / "backup"
        with closing(sqlite3.connect(self.path)) as from_, closing(sqlite3.connect(backup)) as to:
            from_.backup(to)
        self.keep()
        with closing(sqlite3.connect(backup)) as from_, closing(sqlite3.connect(self.path)) as to:
            from_.backup(to)
        sentence = str(self.assertRaises(StoreLostError, self.keep))
        self.assertIn("was written by another program", sentence)

    def test_raised_by_others(self) -> None:
        """A higher mark of another program holds here too."""
        self.behind_its_back("UPDATE marks SET level = 6000000, written = written + 1")
        (kept,) = self.store.keep([(BLOCK, evolve(MARK, round=7))])
        self.assertEqual(kept.now.level, 6_000_000)

    def behind_the_next_commit(self, act: Callable[[], object]) -> None:
        """Have something happen between a commit and the answer."""
        lock, acts = self.store._lock, iter([act])
        assert lock is not None
        note = lock.note

        def noted(progress: Progress) -> None:
            note(progress)
            for once in acts:
                once()

        self.patch(lock, "note", noted)

    def test_lost_behind_the_commit(self) -> None:
        """What was committed into a file that is gone by then is not told to be kept."""
        away = self.home / "away"
        self.behind_the_next_commit(lambda: self.path.rename(away))
        marks = [(BLOCK, evolve(MARK, level=self.level + 1))]
        self.assertRaises(StoreLostError, self.store.keep, marks)
        away.rename(self.path)
        self.well()

    def test_log_lost_behind_the_commit(self) -> None:
        """Nor what was committed into a log that is gone by then."""
        self.behind_the_next_commit(Path(f"{self.path}-wal").unlink)
        self.assertRaises(StoreLostError, self.keep)
        self.level -= 1
        self.well()


class UnreadableNoteTests(StoreTestCase):
    """A note that a power cut has destroyed says nothing of the store, least of all good."""

    def setUp(self) -> None:
        super().setUp()
        sqlite.create(self.path)
        with closing(self.open()) as store:
            store.keep([(BLOCK, MARK)])
        self.lock = Path(f"{self.path}.lock")

    def test_refused(self) -> None:
        """Neither a daemon nor a command takes the store; nor does `init` make another one."""
        for content in (b"", bytes(128), bytes(4097), b"garbage"):
            self.lock.write_bytes(content)
            for words in (f"{self.lock} ", f"delete {self.lock}", "high_water_marks"):
                self.assertIn(words, self.refused(self.path))
            self.assertRaises(StoreError, reading.read, self.path)
            self.path.rename(f"{self.path}.away")
            error = self.assertRaises(StoreError, sqlite.create, self.path)
            self.assertIn(f"as {self.lock} shows", str(error))
            Path(f"{self.path}.away").rename(self.path)
            self.assertEqual(self.lock.read_bytes(), content)
        self.lock.unlink()
        self.assertEqual(self.open().load(), {BLOCK: MARK})
        self.assertEqual(self.lock.stat().st_size, 128)


class PragmaTests(StoreTestCase):
    """What SQLite answers is looked at."""

    def answering(self, pragma: str, answer: object) -> None:
        """Have one pragma answer so, whatever it is told."""
        connect_ = sqlite3.connect

        class Other(sqlite3.Connection):
            def execute(self, sql: str, parameters: object = (), /) -> sqlite3.Cursor:
                if sql.startswith(f"PRAGMA {pragma}"):
                    return super().execute("SELECT ?", (answer,))
                return super().execute(sql, parameters)  # type: ignore[arg-type]

        def connect(*arguments: object, **options: object) -> sqlite3.Connection:
            made: sqlite3.Connection = connect_(*arguments, factory=Other, **options)  # type: ignore[call-overload]
            return made

        self.patch(sqlite3, "connect", connect)

    def test_no_log(self) -> None:
        """Where there is no log, no store is made or opened, and the file system is named."""
        sqlite.create(self.path)
        self.patch(sqliteschema, "file_system", lambda _: "nfs4")
        self.answering("journal_mode", "delete")
        other = self.directory / "other"
        for sentence in (
            self.refused(self.path),
            str(self.assertRaises(StoreError, sqlite.create, other)),
        ):
            for words in ("journal_mode is 'delete'", "(nfs4)", "name a path on a disk"):
                self.assertIn(words, sentence)
        self.assertFalse(other.exists())

    def test_not_synced(self) -> None:
        """With less than `synchronous = FULL` no store is opened."""
        sqlite.create(self.path)
        self.answering("synchronous", 1)
        self.assertIn("synchronous is 1, not 2", self.refused(self.path))
