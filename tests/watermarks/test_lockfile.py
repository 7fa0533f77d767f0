"""The file beside a store: what is noted in it, and what it tells of a disk."""

import errno
import os
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tezio_signer.watermarks.lockfile import LockFile, Progress
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
