"""What befalls an open store seldom: at the worst moment, or in ways of the system's own."""

import fcntl
import os
import shutil
import sqlite3
from contextlib import closing
from functools import partial
from pathlib import Path
from socket import AF_UNIX, SOCK_STREAM, socket

from attrs import evolve

from tests.support.sqlitecase import BLOCK, MARK, StoreTestCase
from tezio_signer.watermarks.rule import Mark, MarkId
from tezio_signer.watermarks.sqlite import reading, schema, storefile
from tezio_signer.watermarks.sqlite import store as sqlite
from tezio_signer.watermarks.sqlite.rows import marks_in
from tezio_signer.watermarks.sqlite.storefile import StoreFile, is_held, logs_kept
from tezio_signer.watermarks.store import StoreError, StoreLostError


class OpenCase(StoreTestCase):
    """Has a store open, with a mark in its log."""

    def setUp(self) -> None:
        super().setUp()
        self.home = self.directory / "home"
        self.home.mkdir()
        self.path, self.away = self.home / "marks.sqlite", self.directory / "away"
        self.log = Path(f"{self.path}-wal")
        sqlite.create(self.path)
        self.store = self.open()
        self.store.keep([(BLOCK, MARK)])
        self.level = MARK.level

    def keep(self) -> None:
        """A mark of the next level."""
        self.level += 1
        self.store.keep([(BLOCK, evolve(MARK, level=self.level))])

    def lost(self, *words: str) -> None:
        """Nothing is kept, which is said with these words."""
        sentence = str(self.assertRaises(StoreLostError, self.store.look))
        for word in (str(self.path), *words):
            self.assertIn(word, sentence)

    def well(self) -> None:
        """Marks are kept, and others read them."""
        self.keep()
        self.assertEqual(reading.read(self.path)[BLOCK].level, self.level)

    def alone(self, path: Path) -> int:
        """The level in a file without the files beside it."""
        copy = self.directory / "copy"
        shutil.copy(path, copy)
        return reading.read(copy)[BLOCK].level

    def count_readings(self) -> list[object]:
        """One for each time that all marks are read."""
        read: list[object] = []

        def counted(connection: sqlite3.Connection, path: Path | None) -> dict[MarkId, Mark]:
            read.append(path)
            return marks_in(connection, path)

        self.patch(sqlite, "marks_in", counted)
        return read


class BeneathTests(OpenCase):
    """The files."""

    def test_saved_when_moved(self) -> None:
        """Where a file was moved away, all marks are brought into it: it may come back alone."""
        self.path.rename(self.away)
        self.lost("was removed or moved away")
        self.assertEqual(self.alone(self.away), self.level)

    def test_saved_when_closed(self) -> None:
        """Also when that is seen only when the store is closed; the log is left as it is."""
        self.path.rename(self.away)
        log = self.log.read_bytes()
        self.store.close()
        self.assertEqual(self.alone(self.away), self.level)
        self.assertEqual(self.log.read_bytes(), log)

    def test_not_saved(self) -> None:
        """That they cannot be brought into it is not what is said: that it is lost is."""
        self.path.rename(self.away)
        self.store._connection.close()
        self.lost("was removed or moved away")

    def test_no_directory(self) -> None:
        """Where a directory is none any more, the reason of the system is told."""
        self.home.rename(self.away)
        self.home.touch()
        self.lost("cannot be looked at any more: Not a directory")
        self.home.unlink()
        self.away.rename(self.home)
        self.well()

    def test_log_not_looked_at(self) -> None:
        """So is that of a log that cannot be looked at."""
        self.log.rename(self.away)
        self.log.symlink_to(self.log)
        self.lost("-wal: Too many levels of symbolic links")
        self.log.unlink()
        self.away.rename(self.log)
        self.well()

    def test_log_emptied_by_replacing(self) -> None:
        """An empty file in the place of the log is as none: the log is made anew."""
        self.log.unlink()
        self.log.touch()
        self.well()

    def test_one_removed_one_replaced(self) -> None:
        """That one part of the log is gone does not hide that the other is somebody else's."""
        index = Path(f"{self.path}-shm")
        self.log.rename(self.away)
        index.rename(f"{self.away}-shm")
        index.write_text("somebody else's")
        self.lost("-shm is another file")
        Path(f"{self.away}-shm").rename(index)
        self.away.rename(self.log)
        self.well()

    def test_removed_beside_a_reader(self) -> None:
        """A log without a name is not given up while a reader keeps it from being saved."""
        self.store._connection.execute("PRAGMA busy_timeout = 0")
        with closing(sqlite3.connect(self.path, isolation_level=None)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT * FROM marks").fetchall()
            self.keep()
            self.log.unlink()
            self.lost("was removed under this signer")
        self.well()

    def test_strange_log_at_the_last_moment(self) -> None:
        """When the log is made anew, what lies in its place by then stays if it is not ours."""
        stranger = self.log.read_bytes()
        connect_again = sqlite._connect_again

        def appears(path: Path) -> sqlite3.Connection:
            self.log.write_bytes(stranger)
            return connect_again(path)

        def other(*_: object) -> None:
            raise StoreError("it is not ours")

        self.keep()
        self.log.unlink()
        self.patch(sqlite, "_connect_again", appears)
        self.patch(sqlite, "check", other)
        self.lost("it is not ours")
        self.assertEqual(self.log.read_bytes(), stranger)

    def test_another_version(self) -> None:
        """What is read anew is looked at as when it was opened."""
        self.execute(self.path, "PRAGMA user_version = 4")
        os.utime(self.path)
        self.lost("schema version 4")
        self.execute(self.path, "PRAGMA user_version = 3")
        self.well()

    def test_said_once(self) -> None:
        """Of a file with older content it is said once that it was written by others."""
        content = self.path.read_bytes()
        self.store.close()
        self.store = self.open()
        self.path.write_bytes(content)
        sentence = str(self.assertRaises(StoreLostError, self.store.look))
        self.assertEqual(sentence.count("was written by another program"), 1)

    def test_connections(self) -> None:
        """No connection stays behind: neither one that is replaced nor one that is refused."""
        made = [self.store._connection]

        def recorded(path: Path) -> sqlite3.Connection:
            made.append(connect(path))
            return made[-1]

        connect = schema.connect
        self.patch(sqlite, "connect", recorded)
        os.utime(self.path)
        self.keep()
        self.execute(self.path, "PRAGMA user_version = 4")
        os.utime(self.path)
        self.lost()
        self.assertEqual(len(made), 3)
        self.assertIs(self.store._connection, made[1])
        for connection in (made[0], made[2]):
            self.assertRaises(sqlite3.ProgrammingError, connection.execute, "SELECT 1")

    def test_lock_given_free(self) -> None:
        """A lock that was moved away, and made anew, is no longer held."""
        lock = Path(f"{self.path}.lock")
        lock.rename(self.away)
        self.well()
        with self.away.open("rb") as moved:
            fcntl.flock(moved, fcntl.LOCK_EX | fcntl.LOCK_NB)


class KnownTests(OpenCase):
    """What is known of the content of the file."""

    def test_lowered_here(self) -> None:
        """What was lowered here is not missed when the file is read anew."""
        self.store.replace({BLOCK: evolve(MARK, level=7)})
        os.utime(self.path)
        self.store.look()
        self.assertEqual(self.store.load()[BLOCK].level, 7)

    def test_raised_and_lowered_by_others(self) -> None:
        """What others have raised may not be lowered either, once it was seen; it is read once."""
        read = self.count_readings()
        self.execute(self.path, "UPDATE marks SET level = level + 9")
        for _ in range(2):
            self.store.look()
        self.assertEqual(len(read), 1)
        self.execute(self.path, "UPDATE marks SET level = level - 1")
        self.lost("went back")

    def test_not_read_again_when_opened(self) -> None:
        """What was read when it was opened is not read again for the first mark."""
        copy = self.directory / "killed"
        for suffix in ("", "-wal"):
            shutil.copy(f"{self.path}{suffix}", f"{copy}{suffix}")
        self.store.close()
        store = self.open(copy)
        read = self.count_readings()
        store.keep([(BLOCK, evolve(MARK, level=MARK.level + 1))])
        self.assertEqual(read, [])


class HoldingTests(StoreTestCase):
    """What the system does for a store."""

    def setUp(self) -> None:
        super().setUp()
        sqlite.create(self.path)

    def failing(self, *_: object) -> None:
        """What the system may say to anything."""
        raise PermissionError(1, "Operation not permitted")

    def test_replaced_when_opened(self) -> None:
        """A file that is moved while it is being opened is not held."""
        self.patch(storefile, "check_name", lambda path: path.rename(self.directory / "away"))
        self.assertRaises(StoreLostError, StoreFile, self.path)

    def test_no_names(self) -> None:
        """Where a socket gets no name, copies are not known, and all else works."""
        held: list[socket] = []

        class Nameless(socket):
            bind = partial(self.failing)

        def nameless(*_: object) -> socket:
            held.append(Nameless(AF_UNIX, SOCK_STREAM))
            return held[0]

        self.patch(storefile, "socket", nameless)
        self.open().keep([(BLOCK, MARK)])
        self.assertEqual([each.fileno() for each in held], [-1])

    def test_sockets_not_listed(self) -> None:
        """Where the system lists no sockets, no copy is seen."""
        self.patch(storefile, "_SOCKETS", self.directory / "missing")
        self.assertIs(reading.check_not_copied(self.path), False)

    def test_is_held(self) -> None:
        """What is not there is not held, nor what cannot be asked; and nothing stays open."""
        self.assertIs(is_held(self.directory / "missing"), False)
        before = len(os.listdir("/proc/self/fd"))
        self.assertIs(is_held(self.path), False)
        self.assertEqual(len(os.listdir("/proc/self/fd")), before)
        self.open()
        self.assertIs(is_held(self.path), True)
        self.patch(fcntl, "fcntl", self.failing)
        self.assertIs(is_held(self.path), False)

    def locked(self, path: Path) -> tuple[int, int]:
        """Where, and over how many bytes, somebody has locked a file."""
        file = os.open(path, os.O_RDWR)
        try:
            asked = storefile._FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
            answer = fcntl.fcntl(file, fcntl.F_OFD_GETLK, asked)
        finally:
            os.close(file)
        _, _, start, length, _ = storefile._FLOCK.unpack(answer)
        return start, length

    def test_as_a_reader(self) -> None:
        """A log is kept by the very lock that SQLite has while it reads."""
        with logs_kept(self.path):
            kept = self.locked(self.path)
        other = self.directory / "other"
        with closing(sqlite3.connect(other, isolation_level=None)) as reader:
            reader.execute("CREATE TABLE a (b)")
            reader.execute("BEGIN")
            reader.execute("SELECT * FROM a").fetchall()
            self.assertEqual(kept, self.locked(other))

    def test_log_of_another_who_closes(self) -> None:
        """While another one has the file to itself, its log is left to it."""
        with self.path.open("r+b") as file:
            storefile._lock(
                file.fileno(), fcntl.F_WRLCK, storefile._SHARED_FIRST, storefile._SHARED_SIZE
            )
            with logs_kept(self.path):
                pass
