"""Keeps the path of a Unix socket for one daemon at a time, and for none that has died."""

import fcntl
import os
import stat
from errno import EADDRINUSE, EAGAIN, ECONNREFUSED, EISDIR, ENOENT, EOPNOTSUPP
from socket import AF_UNIX, SOCK_STREAM, socket

from twisted.logger import Logger

from tezio_signer.errors import InUseError, StartupError

LOCK_SUFFIX = ".flock"
"""What the file beside a socket is called; Twisted's own locks end in .lock and are no files."""


class SocketPath:
    """A path to listen at, which may still have the socket of a daemon that was killed.

    A file beside it says that it is in use, by a lock of the kernel's, which goes with its
    process however that ends. The number of a process, as Twisted writes it down, may be
    another's after a power cut, and is always the same in a container.

    :param lock: without it there is no such file, and a path that exists is not taken over.
    """

    _log = Logger()

    def __init__(self, path: str, lock: bool) -> None:
        if not path or "\0" in path:
            raise StartupError("a unix: endpoint needs the path of a file")
        self._path = path  # as it was given: that of a socket may not be long
        self._absolute = os.path.abspath(path)
        self._wants_lock = lock
        self._lock: int | None = None
        self._bound: tuple[int, int] | None = None

    def __str__(self) -> str:
        return self._path

    def take(self) -> None:
        """Make the path free to bind; raises StartupError if another daemon has it."""
        if not self._wants_lock:
            return
        try:
            self._lock = self._locked()
            if self._has_dead():
                os.unlink(self._absolute)
        except OSError as error:
            self.release()
            raise self.refusal(error) from error
        except StartupError:
            self.release()
            raise

    def look(self) -> None:
        """Raise StartupError for what would keep a daemon from the path; changes nothing.

        :raises InUseError: if a daemon listens there now.
        """
        try:
            _try_to_make_file(os.path.dirname(self._absolute))
            if self._wants_lock:
                self._check_lock()
                self._has_dead()
            elif os.path.lexists(self._absolute):
                if stat.S_ISSOCK(os.lstat(self._absolute).st_mode):
                    self._has_dead()
                raise self.refusal(OSError(EADDRINUSE, os.strerror(EADDRINUSE)))
        except OSError as error:
            raise self.refusal(error) from error

    def refusal(self, error: OSError) -> StartupError:
        """Return what an operator is told of an error of the system."""
        directory = os.path.dirname(self._absolute)
        if error.errno == ENOENT and not os.path.isdir(directory):
            return StartupError(f"{self._path}: there is no directory {directory}; create it")
        if error.errno == EADDRINUSE:
            return StartupError(
                f"{self._path} exists, and with lockfile=0 it is not taken over: delete it, or "
                "leave lockfile out"
            )
        return StartupError(f"{self._path}: {error.strerror or error}")

    def bound(self) -> None:
        """Note that the socket that is there now is ours."""
        self._bound = _identity(os.lstat(self._absolute))

    def release(self) -> None:
        """Remove what is ours, so that another daemon may have the path."""
        try:
            if self._bound is not None and _identity(os.lstat(self._absolute)) == self._bound:
                os.unlink(self._absolute)
            if self._lock is not None:
                os.unlink(self._absolute + LOCK_SUFFIX)
        except FileNotFoundError:
            pass
        except OSError as error:  # the next start removes it, if it may
            self._log.warn("{path} stays: {error}", path=self._path, error=error.strerror)
        self._bound = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _locked(self) -> int:
        path = self._absolute + LOCK_SUFFIX
        while True:
            lock = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                status = os.fstat(lock)
                self._check_is_lock(status)
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if _identity(status) == _identity(os.lstat(path)):
                    return lock
            except BlockingIOError as error:
                os.close(lock)
                raise self._in_use() from error
            except FileNotFoundError:
                pass
            except BaseException:
                os.close(lock)
                raise
            os.close(lock)  # its owner has removed it meanwhile

    def _check_lock(self) -> None:
        """Raise StartupError for a file that is there, and that `_locked` could not use."""
        flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            lock = os.open(self._absolute + LOCK_SUFFIX, flags)
        except FileNotFoundError:
            return
        try:
            self._check_is_lock(os.fstat(lock))
        finally:
            os.close(lock)

    def _check_is_lock(self, status: os.stat_result) -> None:
        if not stat.S_ISREG(status.st_mode) or status.st_size:
            raise StartupError(
                f"{self._absolute}{LOCK_SUFFIX} is not a lock of this daemon: move it away, or "
                "use another path"
            )

    def _has_dead(self) -> bool:
        """Return whether the socket of a dead daemon is there; raises StartupError for all else."""
        try:
            status = os.lstat(self._absolute)
        except FileNotFoundError:
            return False
        if not stat.S_ISSOCK(status.st_mode):
            raise StartupError(
                f"{self._path} exists and is not a socket: move it away, or use another path"
            )
        with socket(AF_UNIX, SOCK_STREAM) as asking:
            asking.setblocking(False)
            answer = asking.connect_ex(self._path)
        if answer in (0, EAGAIN):  # the latter from one that has many waiting
            raise self._in_use()
        if answer not in (ECONNREFUSED, ENOENT):
            raise StartupError(f"{self._path}: {os.strerror(answer)}")
        return answer == ECONNREFUSED

    def _in_use(self) -> InUseError:
        return InUseError(f"{self._path} is in use by another daemon; stop it first")


def _try_to_make_file(directory: str) -> None:
    """Raise OSError if nothing can be made in a directory; leaves nothing there."""
    try:
        os.close(os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600))
    except OSError as error:
        # Not every file system has files without a name (open(2)).
        if error.errno not in (EISDIR, EOPNOTSUPP):
            raise


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
