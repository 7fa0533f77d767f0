"""The files of an audit log: one that is written, and older ones that were moved out of its way.

What holds, and has a test each (`tests/audit/test_files.py`):

1. One process at most writes to a file: it has the lock of it (`test_one_writer`).
2. A line is written behind the whole of the one before, or behind bytes of which it says that
   they were torn (`test_crash_in_mid_line`, `test_full_disk`).
3. A file that was moved away is not written to any more; the first line of the one in its place
   goes on with the chain (`test_moved`).
4. A file without lines goes on with the chain of the newest older one (`test_moved_while_stopped`).
"""

import errno
import fcntl
import gzip
import os
import re
import stat
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import BinaryIO, cast

from attrs import define, frozen

from tezio_signer.audit.chain import Head, Torn, link_of, may_be_torn, seal, whole_line
from tezio_signer.audit.entries import first_entry
from tezio_signer.errors import StartupError
from tezio_signer.host.locks import locker

MODE = 0o600
"""Of a new file; one that takes the place of another gets the mode of that one."""
_FLAGS = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK
_TRIES = 10
_CHUNK = 64 * 1024
_MOST_TAIL = 4 * 1024 * 1024
"""Bytes at the end of a file in which a line has to be."""
_ROTATED = re.compile(r"[.-](?:[0-9]{1,9})(?:-[0-9]+)?(\.gz)?")
"""Behind the name of a file, when logrotate has moved it: `.1`, `-20261128`, `.2.gz`."""
_NUMBER = re.compile("[0-9]+")


@frozen
class Tail:
    """What is at the end of a file.

    :ivar head: its last line; None if there is none.
    :ivar torn: the bytes behind that, which are no line.
    :ivar unended: whether nothing but the line feed of the last line is missing.
    """

    head: Head | None
    torn: bytes = b""
    unended: bool = False


@frozen
class Written:
    """What became of lines.

    :ivar count: so many of them are in the file, from the first on.
    :ivar error: why the others are not, or why nobody knows whether those would survive a power
        cut.
    :ivar head: the last line that is in the file.
    """

    count: int
    error: str | None
    head: Head


@define
class _Place:
    """Where the next line goes.

    :ivar size: the bytes of the file, so far as this process knows.
    :ivar empty: whether there is no line in it.
    :ivar torn: bytes at its end that are no line.
    :ivar open_line: whether its last byte is no line feed.
    """

    size: int = 0
    empty: bool = True
    torn: bytes = b""
    open_line: bool = False


class AuditFile:
    """The file of an audit log that is written. It blocks, and belongs to one thread at a time.

    :param now: the time since 1970.
    :param say: is told what an operator should know.
    """

    def __init__(
        self, path: Path, now: Callable[[], float], say: Callable[[str], object] = print
    ) -> None:
        self.path = path
        self.head = Head()
        self._now = now
        self._say = say
        self._descriptor: int | None = None
        self._status: os.stat_result | None = None
        self._mode = MODE
        self._place = _Place()

    def open(self) -> None:
        """Take the file, or make it; raises StartupError."""
        try:
            self._take()
        except OSError as error:
            raise unusable(self.path, error) from error
        assert self._descriptor is not None
        tail = self._tail(self._descriptor)
        self._place.empty = tail.head is None
        self._place.open_line = tail.unended or bool(tail.torn)
        if tail.head is None and not tail.torn:
            tail = _tail_before(self.path, self._say)
        elif not all(may_be_torn(piece, tail.head) for piece in tail.torn.split(b"\n") if piece):
            self._say(
                f"the audit log {self.path} ends with {len(tail.torn)} bytes that are no lines, "
                "and not what a crash leaves: `tezio-signer audit verify` says where they are"
            )
        self.head = tail.head or Head()
        self._place.torn = tail.torn

    def close(self) -> None:
        """Let go of the file."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def append(self, entries: Sequence[bytes], sync: bool) -> Written:
        """Write a line for each entry; raises nothing that a disk can cause.

        :param sync: have them survive a power cut.
        """
        try:
            self._look()
        except OSError as error:
            return Written(0, error.strerror or str(error), self.head)
        place, lines, head = self._place, [], self.head
        torn = Torn.of(place.torn) if place.torn else None
        own = 1 if place.empty else 0
        for fields in [*([first_entry(self._now())] if own else []), *entries]:
            line, head = seal(head, fields, torn)
            torn = None
            lines.append((line, head))
        front = b"\n" if place.open_line else b""
        written, problem = self._write(front + b"".join(line for line, _ in lines))
        count = self._take_note(front, lines, written)
        if problem is None and sync:
            problem = self._sync()
        return Written(max(0, count - own), problem, self.head)

    def _write(self, data: bytes) -> tuple[int, str | None]:
        """Write as much as there is room for: how much it was, and what was in the way."""
        assert self._descriptor is not None
        written = 0
        try:
            while written < len(data):
                written += os.write(self._descriptor, data[written:])
        except OSError as error:
            return written, error.strerror
        return written, None

    def _take_note(self, front: bytes, lines: Sequence[tuple[bytes, Head]], written: int) -> int:
        """Remember what was written; the number of lines. What is no line is taken back."""
        place = self._place
        place.size += written
        data = (front + b"".join(line for line, _ in lines))[:written]
        count, end = 0, len(front)
        for line, head in lines:
            if end + len(line) > written:
                break
            end += len(line)
            count += 1
            self.head = head
        if count:
            place.empty, place.torn, place.open_line = False, b"", False
        rest = data[end if count else 0 :]
        if not rest or self._cut(place.size - len(rest)):
            return count
        if place.open_line and not place.torn:
            rest = rest[1:]  # that has ended a line
            place.open_line = False
        if count < len(lines) and data[end:] == lines[count][0][:-1]:
            # The line is there, but for its line feed.
            self.head = lines[count][1]
            place.empty, place.torn, place.open_line = False, b"", True
            return count + 1
        place.torn += rest
        place.open_line = bool(place.torn)
        return count

    def _cut(self, size: int) -> bool:
        """Take back what was written only in part; whether that was possible."""
        assert self._descriptor is not None
        try:
            os.ftruncate(self._descriptor, size)
        except OSError:  # a file that may only be appended to
            return False
        self._place.size = size
        return True

    def _sync(self) -> str | None:
        assert self._descriptor is not None
        try:
            os.fdatasync(self._descriptor)
        except OSError as error:
            return error.strerror
        return None

    def _look(self) -> None:
        """See whether the file is still the one, and as it was left; raises OSError."""
        there = None
        with suppress(FileNotFoundError):
            there = os.stat(self.path)
        status = self._status
        is_it = (
            self._descriptor is not None
            and there is not None
            and status is not None
            and (there.st_dev, there.st_ino) == (status.st_dev, status.st_ino)
        )
        if not is_it:
            self._change()
        elif there is not None and there.st_size != self._place.size:
            self._others_wrote(there.st_size)

    def _change(self) -> None:
        """Go on in the file that is in the place of the one that was moved away."""
        if self._descriptor is not None:
            with suppress(OSError):
                self._mode = stat.S_IMODE(os.fstat(self._descriptor).st_mode)
                os.fdatasync(self._descriptor)
            self.close()
        left = self._place.torn
        self._take()
        if self._place.size:
            self._say(
                f"the audit log {self.path} was moved away, and the file in its place is not "
                "empty: `tezio-signer audit verify` says what is wrong with it"
            )
            self._place.empty = False
            self._place.open_line = self._last_byte() != b"\n"
        else:
            self._place.torn = left  # at the end of the file before, and told in this one

    def _others_wrote(self, size: int) -> None:
        """Take note that somebody else has changed the file."""
        if size < self._place.size:
            self._say(
                f"the audit log {self.path} was cut by another program, from {self._place.size} to "
                f"{size} bytes: lines that were in it are missing unless there is a copy; let "
                "logrotate move the file, without copytruncate"
            )
        else:
            self._say(
                f"the audit log {self.path} has grown by {size - self._place.size} bytes that this "
                "signer has not written: nobody else may write to it"
            )
        self._place = _Place(size, size == 0)
        self._place.open_line = size > 0 and self._last_byte() != b"\n"

    def _last_byte(self) -> bytes:
        assert self._descriptor is not None
        return os.pread(self._descriptor, 1, max(0, self._place.size - 1))

    def _take(self) -> None:
        """Open and lock the file that has the name now; raises OSError."""
        for _ in range(_TRIES):
            descriptor = self._opened()
            try:
                status = os.fstat(descriptor)
                if not stat.S_ISREG(status.st_mode):
                    raise OSError(errno.EINVAL, "it is not a regular file")
                _lock(descriptor)
                there = os.stat(self.path)
            except FileNotFoundError:
                os.close(descriptor)
            except BaseException:
                os.close(descriptor)
                raise
            else:
                if (there.st_dev, there.st_ino) == (status.st_dev, status.st_ino):
                    self._descriptor, self._status = descriptor, status
                    self._place = _Place(there.st_size)
                    return
                os.close(descriptor)
        raise OSError(errno.EBUSY, "it is moved away again and again")

    def _opened(self) -> int:
        """The file, made if it is not there; raises OSError."""
        with suppress(FileNotFoundError):
            return os.open(self.path, _FLAGS)
        try:
            descriptor = os.open(self.path, _FLAGS | os.O_CREAT | os.O_EXCL, self._mode)
        except FileExistsError:
            return os.open(self.path, _FLAGS)
        with suppress(OSError):
            os.fchmod(descriptor, self._mode)  # whatever the umask
        sync_directory(self.path.parent)
        return descriptor

    def _tail(self, descriptor: int) -> Tail:
        try:
            return tail_of(partial(os.pread, descriptor), self._place.size)
        except ValueError as error:
            self.close()
            raise StartupError(
                f"audit log {self.path}: {error}; move the file away, and a new one is begun"
            ) from error
        except OSError as error:
            self.close()
            raise unusable(self.path, error) from error


def sync_directory(directory: Path) -> None:
    """Have the names in a directory survive a power cut, as far as the file system can."""
    with suppress(OSError):
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _lock(descriptor: int) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise _used(locker(os.fstat(descriptor))) from error


def unusable(path: Path, error: OSError) -> StartupError:
    """Make the error for a file that cannot be written, with what to do."""
    if isinstance(error, FileNotFoundError):
        return StartupError(
            f"audit log {path}: there is no directory {path.parent}; create it, for the user that "
            "the signer runs as"
        )
    if isinstance(error, PermissionError):
        return StartupError(
            f"audit log {path}: {error.strerror}; the signer has to be able to write to the file "
            "and to make files in its directory"
        )
    if isinstance(error, IsADirectoryError):
        return StartupError(f"audit log {path}: it is a directory; name a file in it")
    return StartupError(f"audit log {path}: {error.strerror}")


def tail_of(read: Callable[[int, int], bytes], size: int) -> Tail:
    """What is at the end of a file; raises ValueError if it is no audit log.

    :param read: gives so many bytes from a place on.
    """
    span = min(size, _CHUNK)
    while True:
        start = size - span
        data = read(span, start)
        tail = _last_line(data, whole=start == 0)
        if tail is not None:
            return tail
        if start == 0:
            if not all(may_be_torn(piece, None) for piece in data.split(b"\n")):
                raise ValueError("there is no line of an audit log in it")
            return Tail(None, data)
        if span >= _MOST_TAIL:
            raise ValueError(f"its last {span} bytes are no lines of an audit log")
        span = min(size, span * 2)


def _last_line(data: bytes, whole: bool) -> Tail | None:
    """The last line in a piece of a file, and what is behind it; None if there is none.

    :param whole: whether the piece begins where a line does.
    """
    end = len(data)
    begin = data.rfind(b"\n") + 1
    if begin < end and (whole or begin > 0) and (link := whole_line(data[begin:] + b"\n")):
        return Tail(link.head, unended=True)
    while begin > 0:
        end, begin = begin, data.rfind(b"\n", 0, begin - 1) + 1
        if begin == 0 and not whole:
            return None
        if link := whole_line(data[begin:end]):
            return Tail(link.head, data[end:])
    return None


def _tail_before(path: Path, say: Callable[[str], object]) -> Tail:
    """The end of the newest of the older files that has a line; that of nothing without one."""
    for older in reversed(older_files(path)):
        try:
            tail = _tail_of_older(older)
        except (OSError, EOFError, ValueError) as error:
            why = getattr(error, "strerror", None) or error
            say(
                f"the audit log {older} is passed over, and the chain does not go on behind it: "
                f"{why}"
            )
            continue
        if tail.head is not None:
            return tail
    return Tail(None)


def _tail_of_older(path: Path) -> Tail:
    """Its end; only that is kept in memory. Raises OSError, EOFError, or ValueError."""
    with opened(path) as file:
        if path.suffix != ".gz":
            return tail_of(partial(os.pread, file.fileno()), path.stat().st_size)
        size, end = 0, b""
        while piece := file.read(_CHUNK):
            size += len(piece)
            end = (end + piece)[-2 * _MOST_TAIL :]
    front = size - len(end)
    return tail_of(lambda length, at: end[at - front : at - front + length], size)


def older_files(path: Path) -> list[Path]:
    """The files beside an audit log that were moved out of its way, the oldest first."""
    try:
        names = os.listdir(path.parent)
    except OSError:
        return []
    front = path.name
    found = [
        path.with_name(name)
        for name in names
        if name.startswith(front) and _ROTATED.fullmatch(name[len(front) :])
    ]
    return sorted(found, key=lambda path: _first_number(path, path.name[len(front) :]))


def _first_number(path: Path, behind: str) -> tuple[int, int, str]:
    """By which older files are sorted: by their first line, else by how logrotate names them."""
    with suppress(OSError, EOFError), opened(path) as file:
        link = link_of(file.readline(_MOST_TAIL))
        if link is not None:
            return link.number, 0, path.name
    (number,) = map(int, _NUMBER.findall(behind)[:1])
    return 0, number if behind.startswith("-") else -number, path.name


def opened(path: Path) -> BinaryIO:
    """A file of an audit log for reading, compressed or not; raises OSError."""
    if path.suffix == ".gz":
        return cast(BinaryIO, _Compressed(path, "rb"))
    return path.open("rb")


class _Compressed(gzip.GzipFile):
    """A compressed file. In what is damaged, OSError is raised, and no error of zlib."""

    def read(self, size: int | None = -1) -> bytes:
        try:
            return super().read(size)
        except zlib.error as error:
            raise OSError(str(error)) from error

    def readline(self, size: int | None = -1) -> bytes:
        try:
            return super().readline(size)
        except zlib.error as error:
            raise OSError(str(error)) from error


def check_access(path: Path) -> None:
    """Raise what `AuditFile.open` does, for `check`; a lock on the file is none of its business.

    Nothing is made or changed.
    """
    try:
        try:
            status = path.stat()
        except FileNotFoundError:
            if not path.parent.is_dir():
                raise
            if not os.access(path.parent, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES)) from None
            return
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file")
        descriptor = os.open(path, _FLAGS)
        try:
            tail_of(partial(os.pread, descriptor), status.st_size)
        finally:
            os.close(descriptor)
    except ValueError as error:
        raise StartupError(
            f"audit log {path}: {error}; move the file away, and a new one is begun"
        ) from error
    except OSError as error:
        raise unusable(path, error) from error


def in_use(path: Path) -> StartupError | None:
    """The error that a start would end with if a signer writes to the file; None else."""
    with suppress(OSError):
        holder = locker(path.stat())
        if holder is not None:
            return unusable(path, _used(holder))
    return None


def _used(holder: int | None) -> OSError:
    who = "" if holder is None else f" (process {holder})"
    return OSError(
        errno.EWOULDBLOCK,
        f"it is in use by a running signer{who}; stop that one, or name another file",
    )
