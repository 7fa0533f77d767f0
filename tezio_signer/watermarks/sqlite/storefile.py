"""Holds the file of an open SQLite store against others, and sees whether it is still the same.

A store is a file, not a name. Its path may come to lead to another file while a daemon has it:
the file, or a directory above it, is moved, removed, replaced or mounted over. What is then
written into the file that is open is not what the next daemon reads. And one file may have
several names, by links and mounts, each with a `-wal` and a `.lock` of its own beside it.
"""

import fcntl
import os
import stat
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from errno import EADDRINUSE
from pathlib import Path
from socket import AF_UNIX, SOCK_STREAM, socket

from tezio_signer.host.filesystems import is_mount_point, mount_of
from tezio_signer.watermarks.sqlite.lockfile import in_use
from tezio_signer.watermarks.store import StoreError, StoreLostError

_LOGS = ("-wal", "-shm")
"""What SQLite has beside the file, behind the name of the file."""
_LOCKED_AT = 2**62
"""A byte that no file has, far from those that SQLite locks (its file format, 2.3.2)."""
_SHARED_FIRST, _SHARED_SIZE = 0x40000002, 510
"""The bytes that who reads a database has locked."""
_FLOCK = struct.Struct("hhqqi0q")
_COPIES = "\0tezio-signer-store-"
_SOCKETS = Path("/proc/net/unix")
"""Its last field is the name of a socket, which an `@` begins if it is no path (proc(5))."""


def check_kind(path: Path) -> None:
    """Raise StoreError for what is there and no file, such as a pipe, which would block us."""
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise StoreError(
            f"watermark store {path} is a directory: name a file in it, such as "
            f"{path / 'watermarks.sqlite'}"
        )
    if not stat.S_ISREG(mode):
        raise StoreError(f"watermark store {path} is no file on a disk; name one that is")


def check_name(path: Path) -> None:
    """Raise StoreError for a file that has, or easily gets, other names than this path."""
    links = path.stat().st_nlink
    if links > 1:
        raise StoreError(_linked(path, links))
    if is_mount_point(path):
        raise StoreError(
            f"watermark store {path} is mounted as a single file, so that the -wal and the .lock "
            "that belong to it would stay behind: mount the directory that it is in"
        )


def _linked(path: Path, links: int) -> str:
    return (
        f"watermark store {path} has {links} names (hard links), and by another one a second "
        f"daemon could use it without what lies beside it: delete all but one (`find "
        f"{mount_of(path).point} -xdev -samefile {path}` finds them), and name that one in "
        "watermarks.store"
    )


class StoreFile:
    """The file at a path, held against every other opener of it until it is closed.

    :ivar found: the size and the time of the file, as it was looked at last.

    SQLite's own locks go with any descriptor of the file that this process closes; those of
    this descriptor (of an "open file description") do not, and hold whatever the name is.

    :raises StoreError: if somebody has it, or if it has other names.
    :raises OSError: if it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._real = Path(os.path.realpath(path))
        self._named, self._there = str(path), str(self._real)  # looked at for every commit
        self._copies: socket | None = None
        self._file = os.open(path, os.O_RDWR)
        with ExitStack() as undoing:
            undoing.callback(self.close)
            status = os.fstat(self._file)
            self._identity = _identity(status)
            try:
                _lock(self._file, fcntl.F_WRLCK, _LOCKED_AT, 1)
            except (BlockingIOError, PermissionError) as error:
                raise in_use(path, by_name=False) from error
            check_name(path)
            self.look()
            undoing.pop_all()

    def hold_copies(self, store: str) -> None:
        """Keep out daemons that are started on a copy, on this machine; raises StoreError.

        An abstract Unix socket is a name that one process of a network namespace has, and that
        goes with the process. Where there are none, nothing is held.

        :param store: the id, which a copy has too.
        """
        try:
            held = socket(AF_UNIX, SOCK_STREAM)
        except OSError:
            return
        try:
            held.bind(f"{_COPIES}{store}")
        except OSError as error:
            held.close()
            if error.errno != EADDRINUSE:
                return
            raise _copy_in_use(self._path) from error
        self._copies = held

    def look(self) -> None:
        """Raise StoreLostError unless the path leads to this file, and this is its only name."""
        try:
            found = os.lstat(self._there)  # beside it is the log, wherever a link would lead
            named = found if self._there == self._named else os.stat(self._named)
        except FileNotFoundError as error:
            raise StoreLostError(
                f"watermark store {self._path} was removed or moved away under this signer: put "
                "the very file back, with -wal and .lock, and signing goes on; if it is gone for "
                "good, stop the signer, and raise high_water_marks above all that was signed "
                "before a new one is made"
            ) from error
        except OSError as error:
            raise StoreLostError(
                f"watermark store {self._path} cannot be looked at any more: {error.strerror}"
            ) from error
        if not _identity(found) == _identity(named) == self._identity:
            raise StoreLostError(
                f"watermark store {self._path} is another file than the one that this signer has "
                "opened: put that one back, with -wal and .lock, and signing goes on; or restart "
                "the signer if it is certain that this one knows all that was signed"
            )
        if found.st_nlink > 1:
            raise StoreLostError(_linked(self._path, found.st_nlink))
        self.found = (found.st_size, found.st_mtime_ns)

    def remember(self, found: tuple[int, int]) -> None:
        """Take what was there at a look for what is known."""
        self._content = found

    def remember_logs(self) -> None:
        """Take the files beside it for those that SQLite has open; raises OSError."""
        paths = [f"{self._real}{suffix}" for suffix in _LOGS]
        self._logs = {path: _identity(os.stat(path)) for path in paths}

    @property
    def was_written(self) -> bool:
        """Whether others have written into the file, as it was looked at last."""
        return self.found != self._content

    def log_is_gone(self) -> bool:
        """Say whether what SQLite writes into has no name any more.

        :raises StoreLostError: if the name is that of another file by now, one with content.
        """
        gone = False
        for path, identity in self._logs.items():
            try:
                status = os.stat(path)
            except FileNotFoundError:
                gone = True
                continue
            except OSError as error:
                raise StoreLostError(
                    f"watermark store {self._path}: {path}: {error.strerror}"
                ) from error
            if _identity(status) == identity:
                continue
            if status.st_size:
                raise StoreLostError(
                    f"watermark store {self._path}: {path} is another file than the one that "
                    "this signer writes into: move it away, and signing goes on"
                )
            gone = True
        return gone

    def keep_logs(self) -> None:
        """Have the closing of the database leave it, and what is beside it, as it is.

        SQLite deletes the log by its name, which may be that of another daemon's by now.
        """
        _seem_to_read(self._file)

    def give_logs(self) -> None:
        """Have the closing of the database end the log again: it is ours; raises OSError."""
        _lock(self._file, fcntl.F_UNLCK, _SHARED_FIRST, _SHARED_SIZE)

    def close(self) -> None:
        """Release the file for others. The database has to be closed before."""
        os.close(self._file)
        if self._copies is not None:
            self._copies.close()


def check_copies(path: Path, store: str) -> None:
    """Raise StoreError if a daemon has a copy of a store, and would keep others from this one.

    The kernel lists the sockets of this network namespace; holding one, even for a moment, could
    keep a daemon from starting.

    :param store: the id, which a copy has too.
    """
    try:
        listed = _SOCKETS.read_bytes()
    except OSError:
        return
    name = f"@{_COPIES[1:]}{store}".encode()
    if any(line.endswith(b" " + name) for line in listed.splitlines()):
        raise _copy_in_use(path)


def _copy_in_use(path: Path) -> StoreError:
    return StoreError(
        f"watermark store {path}: a daemon on this machine uses this store in another place, of "
        "which this is a copy, or from which it was moved; stop that one first. For other keys "
        "make a store of its own with: tezio-signer watermarks init"
    )


def is_held(path: Path) -> bool:
    """Say whether a daemon or a command has the store at a path; takes and changes nothing."""
    try:
        file = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, _LOCKED_AT, 1, 0)
        answer = fcntl.fcntl(file, fcntl.F_OFD_GETLK, asked)
    except OSError:
        return False
    finally:
        os.close(file)
    kind: int = _FLOCK.unpack(answer)[0]
    return kind != fcntl.F_UNLCK


@contextmanager
def logs_kept(path: Path) -> Iterator[None]:
    """Have the closing of a database leave the log beside it, which may not belong to it.

    It may not be used in a process that has the database open: SQLite's locks would be lost.
    """
    file = os.open(path, os.O_RDONLY)
    try:
        _seem_to_read(file)
        yield
    finally:
        os.close(file)


def _seem_to_read(file: int) -> None:
    """Keep who closes a database last from bringing its log into it, and deleting the log."""
    with suppress(OSError):
        _lock(file, fcntl.F_RDLCK, _SHARED_FIRST, _SHARED_SIZE)


def _lock(file: int, kind: int, start: int, length: int) -> None:
    asked = _FLOCK.pack(kind, os.SEEK_SET, start, length, 0)
    fcntl.fcntl(file, fcntl.F_OFD_SETLK, asked)


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
