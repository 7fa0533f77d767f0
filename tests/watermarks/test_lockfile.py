"""The file beside a store: what is noted in it, and what it tells of a disk."""

import errno
import fcntl
import os
from collections.abc import Callable
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tezio_signer.watermarks.lockfile import LockFile, Progress, noted_beside
from tezio_signer.watermarks.store import StoreError

FAR = Progress("0123456789abcdef" * 2, 2**63 - 1)


class LockFileTests(SynchronousTestCase):
    """A file beside a store that is not there."""

    def setUp(self) -> None:
        self.store = Path(self.mktemp())
        self.lock = LockFile(self.store)
        self.addCleanup(lambda: self.lock.close())

    def again(self) -> LockFile:
        """The file of the next daemon."""
        self.lock.close()
        self.lock = LockFile(self.store)
        return self.lock

    def failing(self, number: int) -> None:
        """Have every writing fail."""

        def pwrite(*_: object) -> None:
            raise OSError(number, os.strerror(number))

        self.patch(os, "pwrite", pwrite)

    def test_locks(self) -> None:
        """Nobody else gets it until it is closed."""
        error = self.assertRaises(StoreError, LockFile, self.store)
        self.assertIn("in use by another daemon", str(error))
        self.again()

    def test_note(self) -> None:
        """What was noted last is read again."""
        self.assertIsNone(self.lock.noted())
        for progress in (Progress("a", 0), FAR, Progress("b", 7)):
            self.lock.note(progress)
            self.assertEqual(self.again().noted(), progress)

    def test_unreadable(self) -> None:
        """What is no note is none."""
        for data in (b"\0", b"\0" * 128, b"\xff\xfe 1\n", b"store\n", b"store many\n", b"a b 1\n"):
            self.lock.path.write_bytes(data)
            self.assertIsNone(self.lock.noted(), data)

    def test_note_stays(self) -> None:
        """Trying out whether the disk can be written leaves the note, and takes no more room."""
        self.lock.note(FAR)
        for _ in range(2):
            self.assertEqual(self.lock.why_not_written(), "")
            self.assertEqual(self.again().noted(), FAR)
        self.assertLess(self.lock.path.stat().st_size, 512)

    def test_full(self) -> None:
        """On a full disk noting is no error, and the reason is told."""
        self.lock.note(FAR)
        self.failing(errno.ENOSPC)
        self.lock.note(Progress("later", 1))
        self.assertEqual(self.lock.why_not_written(), "No space left on device")
        self.assertEqual(self.lock.noted(), FAR)

    def test_noted_beside(self) -> None:
        """Others can read what is noted while the file is locked, and leave it locked."""
        self.assertIsNone(noted_beside(self.store))
        self.lock.note(FAR)
        self.assertEqual(noted_beside(self.store), FAR)
        self.assertRaises(StoreError, LockFile, self.store)
        self.lock.path.unlink()
        self.assertIsNone(noted_beside(self.store))


class TakingTests(SynchronousTestCase):
    """How the file is made and taken."""

    def setUp(self) -> None:
        self.store = Path(self.mktemp()).absolute()
        self.path = Path(f"{self.store}.lock")

    def take(self) -> LockFile:
        """The lock, given free when the test ends."""
        lock = LockFile(self.store)
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

    def test_new(self) -> None:
        """Whether the file was there before is known."""
        lock = LockFile(self.store)
        self.assertTrue(lock.is_new)
        lock.close()
        lock = self.take()
        self.assertFalse(lock.is_new)
        lock.remove()
        self.assertFalse(self.path.exists())

    def test_owner(self) -> None:
        """A new file belongs to whom the store belongs, if that may be; root may have made it."""
        owners: list[tuple[int, int]] = []
        self.patch(os, "fchown", lambda _, user, group: owners.append((user, group)))
        self.store.touch()
        owner = self.store.stat()
        for _ in range(2):
            LockFile(self.store).close()
        self.assertEqual(owners, [(owner.st_uid, owner.st_gid)])

    def test_owner_not_permitted(self) -> None:
        """That the owner cannot be changed is no error, nor that there is no store yet."""

        def fchown(*_: object) -> None:
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

        LockFile(self.store).remove()
        self.patch(os, "fchown", fchown)
        self.store.touch()
        self.assertTrue(LockFile(self.store).is_new)

    def test_link(self) -> None:
        """A link in the place of the file is not followed, and what it leads to stays."""
        target = Path(f"{self.store}.target")
        self.path.symlink_to(target)
        for make in (lambda: None, target.touch):
            make()
            before = target.exists()
            error = self.assertRaises(StoreError, LockFile, self.store)
            self.assertIn(f"{self.path}: Too many levels of symbolic links", str(error))
            self.assertEqual(target.exists(), before)

    def test_taken_away(self) -> None:
        """A file that is deleted ahead of the lock on it is made again, so that it keeps out."""
        self.path.touch()
        self.ahead_of_the_lock(self.path.unlink)
        self.take()
        self.assertIn("in use", str(self.assertRaises(StoreError, LockFile, self.store)))

    def test_replaced(self) -> None:
        """A file in whose place another one comes ahead of the lock on it is not taken for it."""

        def replace(data: bytes = b"a 00000000000000000007\n") -> None:
            self.path.rename(f"{self.path}.old")
            self.path.write_bytes(data)

        self.path.touch()
        self.ahead_of_the_lock(replace)
        self.assertEqual(self.take().noted(), Progress("a", 7))
        self.assertIn("in use", str(self.assertRaises(StoreError, LockFile, self.store)))

    def test_replaced_for_ever(self) -> None:
        """A file that is never the same twice ends in a refusal."""
        self.patch(os.path, "samestat", lambda *_: False)
        error = self.assertRaises(StoreError, LockFile, self.store)
        self.assertIn(f"{self.path} is replaced again and again", str(error))

    def test_made_by_another(self) -> None:
        """Who finds no file, and then one that another has made, takes that one."""
        open_ = os.open

        def opened(path: Path, flags: int, mode: int = 0o777) -> int:
            if flags & os.O_EXCL:
                self.path.touch()
            return open_(path, flags, mode)

        self.patch(os, "open", opened)
        self.assertFalse(self.take().is_new)
