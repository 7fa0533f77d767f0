"""The file beside an SQLite store: keeps others out, and knows how far the store had come."""

import fcntl
import os
from contextlib import ExitStack, suppress
from pathlib import Path

from attrs import frozen

from tezio_signer.watermarks.store import StoreError

_TRIAL_AT = 4096
"""Where writing is tried out: in another block than what is noted."""
_NOTE = 128
"""More bytes than a note has, fewer than a sector has: a power cut leaves no half of one."""

_TRIES = 10
"""To lock a file that others delete and make at the same time."""


@frozen
class Progress:
    """How far a store has come.

    :ivar store: which it is; drawn when it was made.
    :ivar writes: how often a mark was written in it, which never goes back.
    """

    store: str
    writes: int


def lock_beside(store: Path) -> Path:
    """Where the lock of a store is: one, whatever links lead to the store."""
    real = store.resolve()
    return real.with_name(f"{real.name}.lock")


def noted_beside(store: Path) -> Progress | None:
    """What was noted last about a store, also while a daemon has it; raises StoreError.

    The store itself is at least as far when it is read after this.
    """
    path = lock_beside(store)
    try:
        with path.open("rb") as file:
            return _progress(file.read(_NOTE))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unusable(store, path, error) from error


def _progress(note: bytes) -> Progress | None:
    line = note.partition(b"\n")[0]
    try:
        store, writes = line.decode("ascii").split()
        return Progress(store, int(writes))
    except ValueError:
        return None


def _unusable(store: Path, path: Path, error: OSError) -> StoreError:
    return StoreError(f"watermark store {store}: {path}: {error.strerror}")


class LockFile:
    """A lock on a store; SQLite's own locks would go with any descriptor that is closed.

    :ivar is_new: whether the file was not there before.
    :raises StoreError: if it cannot be had, or another daemon has it.
    """

    def __init__(self, store: Path) -> None:
        self.path = lock_beside(store)
        try:
            if any(self._taken(store) for _ in range(_TRIES)):
                return
        except BlockingIOError as error:
            raise StoreError(
                f"watermark store {store} is in use by another daemon; stop it first"
            ) from error
        except OSError as error:
            raise _unusable(store, self.path, error) from error
        raise StoreError(f"watermark store {store}: {self.path} is replaced again and again")

    def _taken(self, store: Path) -> bool:
        """Open the file and lock it; False if it was taken away or put there meanwhile."""
        try:
            self._file, self.is_new = _open(self.path, store)
        except FileExistsError:
            return False
        with ExitStack() as undoing:
            undoing.callback(self.close)
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # A lock on a file that is no longer there keeps nobody out.
            with suppress(FileNotFoundError):
                if os.path.samestat(os.stat(self.path), os.fstat(self._file)):
                    undoing.pop_all()
                    return True
        return False

    def noted(self) -> Progress | None:
        """What was noted last; None if nothing was, or nothing that can be read."""
        return _progress(os.pread(self._file, _NOTE, 0))

    def note(self, progress: Progress) -> None:
        """Note how far the store has come for certain.

        It is not synced, and no error if the disk is full: an older note is true as well.
        """
        with suppress(OSError):
            os.pwrite(self._file, f"{progress.store} {progress.writes:020}\n".encode("ascii"), 0)

    def why_not_written(self) -> str:
        """What keeps this disk from being written, in the system's words; "" if nothing does."""
        try:
            os.pwrite(self._file, b"\0", _TRIAL_AT)
            os.fdatasync(self._file)
            os.ftruncate(self._file, _NOTE)  # so that the next try needs space again
        except OSError as error:
            return str(error.strerror)
        return ""

    def remove(self) -> None:
        """Take the file away; what was noted is forgotten."""
        self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Let others have the store."""
        os.close(self._file)


def _open(path: Path, store: Path) -> tuple[int, bool]:
    """The file, and whether it is new; it then belongs to whom the store belongs.

    It may be root who made it: the daemon has to open it too. Links are not followed, so that
    nobody is given what is none of his.
    """
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(path, flags), False
    except FileNotFoundError:
        file = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o600)
    with suppress(OSError):
        owner = store.stat()
        os.fchown(file, owner.st_uid, owner.st_gid)
    return file, True
