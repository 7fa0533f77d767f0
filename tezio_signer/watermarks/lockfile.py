"""The file beside an SQLite store: keeps others out, and knows how far the store had come."""

import fcntl
import os
from contextlib import suppress
from pathlib import Path

from attrs import frozen

from tezio_signer.watermarks.store import StoreError

_TRIAL_AT = 4096
"""Where writing is tried out: in another block than what is noted."""
_NOTE = 128
"""More bytes than a note has, fewer than a sector has: a power cut leaves no half of one."""


@frozen
class Progress:
    """How far a store has come.

    :ivar store: which it is; drawn when it was made.
    :ivar writes: how often a mark was written in it, which never goes back.
    """

    store: str
    writes: int


class LockFile:
    """A lock on a store; SQLite's own locks would go with any descriptor that is closed.

    :raises StoreError: if it cannot be had, or another daemon has it.
    """

    def __init__(self, store: Path) -> None:
        real = store.resolve()  # one lock, whatever links lead here
        self.path = real.with_name(f"{real.name}.lock")
        try:
            self._file = os.open(self.path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StoreError(f"watermark store {store}: {self.path}: {error.strerror}") from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self.close()
            raise StoreError(
                f"watermark store {store} is in use by another daemon; stop it first"
            ) from error

    def noted(self) -> Progress | None:
        """What was noted last; None if nothing was, or nothing that can be read."""
        line = os.pread(self._file, _NOTE, 0).partition(b"\n")[0]
        try:
            store, writes = line.decode("ascii").split()
            return Progress(store, int(writes))
        except ValueError:
            return None

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

    def close(self) -> None:
        """Let others have the store."""
        os.close(self._file)
