"""The file beside a store: what is noted in it, and what it tells of a disk."""

import errno
import fcntl
import os
from collections.abc import Callable
from pathlib import Path

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from tezio_signer.watermarks.sqlite import lockfile
from tezio_signer.watermarks.sqlite.lockfile import (
    LockFile,
    Progress,
    check_access,
    make,
    noted_beside,
    take,
)
from tezio_signer.watermarks.store import StoreError

FAR = Progress("0123456789abcdef" * 2, 2**63 - 1)
NEW = Progress("a", 0)


def taken(store: Path) -> LockFile:
    """The lock that is there, or a new one."""
    return take(store) or make(store, NEW)


class LockFileTests(SynchronousTestCase):
    """A file beside a store that is not there."""

    def setUp(self) -> None:
        self.store = Path(self.mktemp())
        self.lock = taken(self.store)
        self.addCleanup(lambda: self.lock.close())

    def again(self) -> LockFile:
        """The file of the next daemon."""
        self.lock.close()
        self.lock = taken(self.store)
        return self.lock

    def failing(self, number: int) -> None:
        """Have every writing fail."""

        def pwrite(*_: object) -> None:
            raise OSError(number, os.strerror(number))

        self.patch(os, "pwrite", pwrite)

    def test_locks(self) -> None:
        """Nobody else gets it until it is closed."""
        error = self.assertRaises(StoreError, take, self.store)
        self.assertIn(f"in use by a running signer (process {os.getpid()})", str(error))
        self.again()

    def test_locks_of_nobody_known(self) -> None:
        """Where the system does not tell who has it, nobody is named, nor another name."""
        self.patch(lockfile, "locker", lambda _: None)
        error = self.assertRaises(StoreError, take, self.store)
        self.assertIn("in use by a running signer; stop it first", str(error))

    def test_note(self) -> None:
        """What was noted last is read again."""
        self.assertEqual(self.lock.noted(), NEW)
        for progress in (Progress("a", 0), FAR, Progress("b", 7)):
            self.lock.note(progress)
            self.assertEqual(self.again().noted(), progress)
            self.lock.note_for_certain(NEW)
            self.assertEqual(self.lock.noted(), NEW)

    def test_older_form(self) -> None:
        """A note of the version before, without what fills it up, is read."""
        for rest in (b"", bytes(100)):
            self.lock.path.write_bytes(b"a 00000000000000000007\n" + rest)
            self.assertEqual(self.lock.noted(), Progress("a", 7))
            self.assertEqual(noted_beside(self.store), Progress("a", 7))

    def test_unreadable(self) -> None:
        """What is no note is not taken for none; what to do is told."""
        for data, what in [
            (b"", "is empty"),
            (b"\0", "holds only zeros"),
            (bytes(128), "holds only zeros"),
            (b"\xff\xfe 1\n", "holds no note"),
            (b"store\n", "holds no note"),
            (b"store many\n", "holds no note"),
            (b"a b 1\n", "holds no note"),
            (b"a 0000000000000000000\n", "holds no note"),
            (b"a 00000000000000000007", "holds no note"),
        ]:
            self.lock.path.write_bytes(data)
            for read in (self.lock.noted, lambda: noted_beside(self.store)):
                sentence = str(self.assertRaises(StoreError, read))
                for words in (what, f"delete {self.lock.path}", "raise high_water_marks"):
                    self.assertIn(words, sentence)
                self.assertNotIn("\n", sentence)

    def test_note_stays(self) -> None:
        """Trying out whether the disk can be written leaves the note, and takes no more room."""
        places: list[int] = []
        pwrite = os.pwrite

        def recorded(file: int, data: bytes, place: int) -> int:
            places.append(place)
            return pwrite(file, data, place)

        self.lock.note(FAR)
        self.patch(os, "pwrite", recorded)
        for _ in range(2):
            self.assertEqual(self.lock.why_not_written(), "")
            self.assertEqual(self.again().noted(), FAR)
        self.assertEqual(places, [4096, 4096])  # where the next block begins
        self.assertLess(self.lock.path.stat().st_size, 512)

    def test_full(self) -> None:
        """On a full disk noting is no error, and the reason is told."""
        self.lock.note(FAR)
        self.failing(errno.ENOSPC)
        self.lock.note(Progress("later", 1))
        self.assertEqual(self.lock.why_not_written(), "No space left on device")
        self.assertEqual(self.lock.noted(), FAR)

    def test_not_synced(self) -> None:
        """What a disk says only when it is to sync is told as well."""

        def fdatasync(_: int) -> None:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        self.patch(os, "fdatasync", fdatasync)
        self.assertEqual(self.lock.why_not_written(), "Input/output error")

    def test_noted_beside(self) -> None:
        """Others can read what is noted while the file is locked, and leave it locked."""
        self.assertEqual(noted_beside(self.store), NEW)
        self.lock.note(FAR)
        self.assertEqual(noted_beside(self.store), FAR)
        self.assertRaises(StoreError, take, self.store)
        self.lock.path.unlink()
        self.assertIsNone(noted_beside(self.store))

    def test_is_there(self) -> None:
        """Whether the file was removed or replaced is known."""
        self.assertIs(self.lock.is_there(), True)
        self.lock.path.rename(f"{self.lock.path}.old")
        self.assertIs(self.lock.is_there(), False)
        self.lock.path.touch()
        self.assertIs(self.lock.is_there(), False)
        Path(f"{self.lock.path}.old").rename(self.lock.path)
        self.assertIs(self.lock.is_there(), True)


class TakingTests(SynchronousTestCase):
    """How the file is made and taken."""

    def setUp(self) -> None:
        self.store = Path(self.mktemp()).absolute()
        self.path = Path(f"{self.store}.lock")

    def take(self) -> LockFile:
        """The lock, given free when the test ends."""
        lock = taken(self.store)
        self.addCleanup(lock.close)
        return lock

    def ahead_of_the_lock(self, act: Callable[[], object]) -> None:
        """Have something happen between the first opening and the lock."""
        flock, acts = fcntl.flock, iter([act])

        def locked(file: int, operation: int) -> None:
            for first in acts:
                first()
            flock(file, operation)

        self.patch(fcntl, "flock", locked)

    def test_none(self) -> None:
        """Taking makes no file."""
        self.assertIsNone(take(self.store))
        self.assertFalse(self.path.exists())

    def test_never_without_a_note(self) -> None:
        """A new file gets its name when its note is on the disk, and then the name is synced."""
        done: list[object] = []
        fsync, rename = os.fsync, Path.rename

        def synced(file: int) -> None:
            done.append(os.readlink(f"/proc/self/fd/{file}"))
            fsync(file)

        def renamed(made: Path, path: Path) -> Path:
            self.assertEqual(noted_beside(Path(str(made).removesuffix(".lock"))), None)
            self.assertEqual(len(made.read_bytes()), 128)
            done.append("renamed")
            return rename(made, path)

        self.patch(os, "fsync", synced)
        self.patch(Path, "rename", renamed)
        self.take()
        self.assertEqual(done[1:], ["renamed", str(self.path.parent)])
        self.assertIn(f"{self.path}.", str(done[0]))
        self.assertEqual(list(self.path.parent.glob(f"{self.path.name}*")), [self.path])

    def test_cannot_be_made(self) -> None:
        """Whichever step fails, there is no file then, not half of one either."""
        for name in ("pwrite", "fsync"):

            def full(*_: object) -> None:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

            before = getattr(os, name)
            self.patch(os, name, full)
            error = self.assertRaises(StoreError, make, self.store, NEW)
            self.assertIn("No space left on device", str(error))
            self.assertEqual(list(self.path.parent.glob(f"{self.path.name}*")), [])
            self.patch(os, name, before)

    def test_name_not_synced(self) -> None:
        """With a name that is not sure to be on the disk it is given free, and can be taken."""

        def full(_: Path) -> None:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        self.patch(lockfile, "sync_directory", full)
        error = self.assertRaises(StoreError, make, self.store, NEW)
        self.assertIn("Input/output error", str(error))
        lock = take(self.store)
        assert lock is not None
        self.addCleanup(lock.close)

    def test_mode(self) -> None:
        """Nobody else may read or write it."""
        self.addCleanup(os.umask, os.umask(0))
        self.take()
        self.assertEqual(self.path.stat().st_mode & 0o777, 0o600)

    def test_access(self) -> None:
        """Who only asks whether it may be taken needs none, and is told what `take` would say."""
        check_access(self.store)
        self.path.symlink_to("elsewhere")
        sentence = str(self.assertRaises(StoreError, check_access, self.store))
        self.assertIn("Too many levels of symbolic links", sentence)
        self.assertEqual(str(self.assertRaises(StoreError, take, self.store)), sentence)
        self.path.unlink()
        self.path.touch()
        open_ = os.open

        def read_only(path: Path, flags: int) -> int:
            if flags & os.O_RDWR:
                raise OSError(errno.EROFS, os.strerror(errno.EROFS))
            return open_(path, flags)

        self.patch(os, "open", read_only)
        sentence = str(self.assertRaises(StoreError, check_access, self.store))
        self.assertIn("Read-only file system", sentence)

    def test_owner(self) -> None:
        """A new file belongs to whom the store belongs, if that may be; root may have made it."""
        if os.geteuid() != 0:
            raise SkipTest("only root can do this")
        self.store.touch()
        os.chown(self.store, 65534, 65533)
        self.take()
        made = self.path.stat()
        self.assertEqual((made.st_uid, made.st_gid), (65534, 65533))

    def test_owner_not_permitted(self) -> None:
        """That the owner cannot be changed is no error, nor that there is no store yet."""

        def chown(*_: object, **__: object) -> None:
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

        self.patch(os, "chown", chown)
        self.patch(os, "geteuid", lambda: 12345)
        self.store.touch()
        self.assertEqual(self.take().noted(), NEW)

    def test_link(self) -> None:
        """A link in the place of the file is not followed, and what it leads to stays."""
        target = Path(f"{self.store}.target")
        self.path.symlink_to(target)
        for prepare in (lambda: None, target.touch):
            prepare()
            before = target.exists()
            error = self.assertRaises(StoreError, take, self.store)
            self.assertIn(f"{self.path}: Too many levels of symbolic links", str(error))
            self.assertEqual(target.exists(), before)

    def test_taken_away(self) -> None:
        """A file that is deleted ahead of the lock on it keeps nobody out, and is not taken."""
        make(self.store, NEW).close()
        self.ahead_of_the_lock(self.path.unlink)
        self.assertIsNone(take(self.store))

    def test_replaced(self) -> None:
        """A file in whose place another one comes ahead of the lock on it is not taken for it."""

        def replace(data: bytes = b"a 00000000000000000007\n") -> None:
            self.path.rename(f"{self.path}.old")
            self.path.write_bytes(data)

        self.path.touch()
        self.ahead_of_the_lock(replace)
        self.assertEqual(self.take().noted(), Progress("a", 7))
        self.assertIn("in use", str(self.assertRaises(StoreError, take, self.store)))

    def test_replaced_for_ever(self) -> None:
        """A file that is never the same twice ends in a refusal."""
        self.path.touch()
        self.patch(os.path, "samestat", lambda *_: False)
        error = self.assertRaises(StoreError, take, self.store)
        self.assertIn(f"{self.path} is replaced again and again", str(error))

    def test_made_by_another(self) -> None:
        """Who finds one that another has made meanwhile leaves it alone."""
        self.ahead_of_the_lock(self.path.touch)
        error = self.assertRaises(StoreError, make, self.store, NEW)
        self.assertIn("in use by a running signer", str(error))
        self.assertEqual(self.path.read_bytes(), b"")
