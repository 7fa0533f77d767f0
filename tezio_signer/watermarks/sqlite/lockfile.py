"""Keeps the file beside an SQLite store, which keeps others out and notes how far the store is.

The file is never there without a whole note, since it gets its name when the note is on the disk.
So a note that cannot be read was damaged, and says nothing of whether the store is the newest.
"""

import fcntl
import os
import re
from contextlib import ExitStack, suppress
from pathlib import Path
from uuid import uuid4

from attrs import frozen

from tezio_signer.host.locks import locker
from tezio_signer.watermarks.sqlite.access import give_to_owner, sync_directory, what_is_denied
from tezio_signer.watermarks.store import StoreError

_TRIAL_AT = 4096
"""Where writing is tried out: in another block than the note."""
_NOTE = 128
"""Bytes of a note, fewer than a sector has: a power cut leaves no half of one."""
_FORM = re.compile(rb"([!-~]{1,64}) ([0-9]{20})\n")
_TRIES = 10
"""How often it is tried to lock a file that others delete and make at the same time."""


@frozen
class Progress:
    """How far a store has come.

    :ivar store: which it is; drawn when it was made.
    :ivar writes: how often a mark was written in it, which never goes back.
    """

    store: str
    writes: int


def lock_beside(store: Path) -> Path:
    """Return where the lock of a store is: one place, whatever links lead to the store."""
    real = Path(os.path.realpath(store))
    return real.with_name(f"{real.name}.lock")


def noted_beside(store: Path) -> Progress | None:
    """Read what was noted last about a store, also while a daemon has it; None without a file.

    The store itself is at least as far when it is read after this.

    :raises StoreError: if there is a file, but no note that can be read.
    """
    path = lock_beside(store)
    try:
        with path.open("rb") as file:
            return _progress(file.read(_NOTE), store, path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unusable(store, path, error) from error


def _progress(note: bytes, store: Path, path: Path) -> Progress:
    if form := _FORM.match(note):
        return Progress(form[1].decode("ascii"), int(form[2]))
    what = "is empty" if not note else "holds only zeros" if not any(note) else "holds no note"
    raise StoreError(
        f"watermark store {store}: {path} {what}, as after a power cut, so that nobody knows "
        "whether this store is the newest; if it was not restored or replaced since, delete "
        f"{path}; if that is not certain, raise high_water_marks above all that was signed first"
    )


def _note(progress: Progress) -> bytes:
    return f"{progress.store} {progress.writes:020}\n".encode("ascii").ljust(_NOTE)


def _unusable(store: Path, path: Path, error: OSError) -> StoreError:
    more = what_is_denied(store) if isinstance(error, PermissionError) else ""
    return StoreError(f"watermark store {store}: {path}: {error.strerror}{more}")


def in_use(store: Path, by_name: bool = True) -> StoreError:
    """Make the error for a store that somebody has; it names the process if that is known.

    :param by_name: whether that is certain to be by this path: only then is its lock locked too.
    """
    holder = None
    with suppress(OSError):
        holder = locker(lock_beside(store).stat())
    if holder is not None:
        more = f" (process {holder})"
    else:
        more = "" if by_name else ", it may be under another name"
    return StoreError(f"watermark store {store} is in use by a running signer{more}; stop it first")


def check_access(store: Path) -> None:
    """Raise what `take` does if there is a lock that this process may not write."""
    path = lock_beside(store)
    try:
        with suppress(FileNotFoundError):
            os.close(os.open(path, os.O_RDWR | os.O_NOFOLLOW))
    except OSError as error:
        raise _unusable(store, path, error) from error


class LockFile:
    """A lock on a store, held until it is closed; made by `take` or `make`."""

    def __init__(self, store: Path, path: Path, file: int) -> None:
        self.path = path
        self._store = store
        self._file = file
        self._there = str(path)  # looked at for every commit
        self._status = os.fstat(file)

    def noted(self) -> Progress:
        """Read what was noted last; raises StoreError if it is no note."""
        return _progress(os.pread(self._file, _NOTE, 0), self._store, self.path)

    def note(self, progress: Progress) -> None:
        """Note how far the store has come for certain.

        It is not synced, and a full disk is no error: an older note is true as well.
        """
        with suppress(OSError):
            os.pwrite(self._file, _note(progress), 0)

    def note_for_certain(self, progress: Progress) -> None:
        """Write a note over whatever is there, and sync it; raises OSError."""
        os.pwrite(self._file, _note(progress), 0)
        os.fsync(self._file)

    def is_there(self) -> bool:
        """Say whether its path still leads to this file; raises OSError if that is not known."""
        try:
            return os.path.samestat(os.lstat(self._there), self._status)
        except FileNotFoundError:
            return False

    def why_not_written(self) -> str:
        """Say in the system's words what keeps this disk from being written; "" if nothing does."""
        try:
            os.pwrite(self._file, b"\0", _TRIAL_AT)
            os.fdatasync(self._file)
            os.ftruncate(self._file, _NOTE)  # so that the next try needs space again
        except OSError as error:
            return str(error.strerror)
        return ""

    def close(self) -> None:
        """Release the store for others."""
        os.close(self._file)


def take(store: Path) -> LockFile | None:
    """Take the lock that is there; None if there is none.

    :raises StoreError: if it cannot be had, or another daemon has it.
    """
    path = lock_beside(store)
    try:
        for _ in range(_TRIES):
            if (lock := _taken(store, path)) is not None:
                return lock
            if not os.path.lexists(path):
                return None
    except BlockingIOError as error:
        raise in_use(store) from error
    except OSError as error:
        raise _unusable(store, path, error) from error
    raise StoreError(f"watermark store {store}: {path} is replaced again and again")


def _taken(store: Path, path: Path) -> LockFile | None:
    """Open the file and lock it; None if it is not there, or was removed meanwhile."""
    try:
        file = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    lock = LockFile(store, path, file)
    with ExitStack() as undoing:
        undoing.callback(lock.close)
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if lock.is_there():  # a lock on a file that is no longer there keeps nobody out
            undoing.pop_all()
            return lock
    return None


def make(store: Path, progress: Progress) -> LockFile:
    """Make a lock for a store that has none, with a note that is on the disk.

    It gets the owner of the store: root may make it, and the daemon has to open it too.

    :raises StoreError: if it cannot be made, or another daemon has made one meanwhile.
    """
    path = lock_beside(store)
    made = path.with_name(f"{path.name}.{uuid4().hex[:8]}")
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL
    try:
        with ExitStack() as undoing:
            lock = LockFile(store, path, os.open(made, flags, 0o600))
            undoing.callback(lock.close)
            undoing.callback(made.unlink, missing_ok=True)
            give_to_owner(made, store)
            fcntl.flock(lock._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            lock.note_for_certain(progress)
            if os.path.lexists(path):
                raise in_use(store)
            made.rename(path)
            sync_directory(path.parent)
            undoing.pop_all()
            return lock
    except OSError as error:
        raise _unusable(store, path, error) from error
