"""Why a serial port cannot be opened, in words that say what to do about it."""

import errno
import grp
import os
import stat
from contextlib import suppress
from pathlib import Path

from tezio_signer.host.accounts import group_name, user_name
from tezio_signer.host.locks import locker

_PROC = Path("/proc")
_GONE = {errno.ENOENT, errno.ENXIO, errno.ENODEV, errno.EIO}
_MOST_DESCRIPTORS = 5000
"""Open files of other programs that are looked at: a machine may have any number."""


def is_absent(error: Exception) -> bool:
    """Whether an error on opening a port means that nothing is plugged in there."""
    return _number(error) in _GONE


def _number(error: Exception) -> int | None:
    number = getattr(error, "errno", None)  # which termios.error has not
    if number is None and error.args and isinstance(error.args[0], int):
        return error.args[0]
    return number


def why_not_opened(port: str, error: Exception) -> str:
    """One sentence without its subject, which is the port or its board.

    Looks at the port and at who has it open, so it is for once, not for each attempt.

    :param error: SerialException, OSError or termios.error of opening the port.
    """
    number = _number(error)
    match number:
        case errno.ENOENT:
            what = "there is no such port; is the board plugged in?"
        case errno.EACCES | errno.EPERM:
            what = _rights(port)
        case errno.EBUSY | errno.EAGAIN:
            what = _busy(port)
        case errno.ENOTTY | errno.EINVAL:
            what = "this is no serial port"
        case errno.ENXIO | errno.ENODEV | errno.EIO:
            what = f"{os.strerror(number)}; pull the board out, and plug it in again"
        case _:
            what = str(error)
    return f"cannot be opened: {what}"


def _rights(port: str) -> str:
    """What the user lacks, if the file tells."""
    user = user_name(os.geteuid())
    try:
        status = os.stat(port)
    except OSError as error:
        return f"user {user} may not look at it: {error.strerror}"
    group = group_name(status.st_gid)
    mode = stat.S_IMODE(status.st_mode)
    owned = f"it belongs to {user_name(status.st_uid)} and to the group {group}, mode {mode:04o}"
    may_group = mode & 0o060 == 0o060
    if not may_group or status.st_gid == 0:
        return f"user {user} may not use it: {owned}; as root, give it to a group of this user"
    if status.st_gid in (os.getegid(), *os.getgroups()):
        return f"{owned}, and user {user} is in it: a container or a sandbox keeps it away"
    if _is_member(user, status.st_gid):
        return f"user {user} is in the group {group} only since it was started: start it again"
    return (
        f"user {user} is not in the group {group}, to which it belongs: run, as root, "
        f"usermod -a -G {group} {user}, then log in again or restart the service"
    )


def _is_member(user: str, group: int) -> bool:
    try:
        return user in grp.getgrgid(group).gr_mem
    except KeyError:
        return False


def _busy(port: str) -> str:
    holder = holder_of(port)
    if holder is None:
        return f"another program has it; as root, fuser -v {port} names it"
    if holder == os.getpid():
        return "this program has it open already, under another name or by another entry of hsms"
    return (
        f"another program has it: {_named(holder)}; if that is the signer, its log names the keys "
        "of the board, else end it"
    )


def holder_of(port: str) -> int | None:
    """The process that has a port, if it can be known: for itself alone, or just open."""
    try:
        status = os.stat(port)
    except OSError:
        return None
    return locker(status) or _opener(os.path.basename(os.path.realpath(port)), status)


def _opener(name: str, status: os.stat_result) -> int | None:
    """Who has it open, among the processes that this user may look at.

    :param name: of the file, without its directory. Only what is called so is looked at itself:
        others may be on a file system that hangs, and we would with it.
    """
    looked_at = 0
    for process in _numbers(_PROC):
        descriptors = _PROC / str(process) / "fd"
        for number in _numbers(descriptors):
            looked_at += 1
            if looked_at > _MOST_DESCRIPTORS:
                return None
            with suppress(OSError):
                descriptor = descriptors / str(number)
                if os.path.basename(os.readlink(descriptor)) != name:
                    continue
                opened = os.stat(descriptor)
                if (opened.st_dev, opened.st_ino) == (status.st_dev, status.st_ino):
                    return process
    return None


def _numbers(directory: Path) -> list[int]:
    try:
        return [int(name) for name in os.listdir(directory) if name.isdigit()]
    except OSError:  # of another user, or gone
        return []


def _named(process: int) -> str:
    with suppress(OSError):
        name = (_PROC / str(process) / "comm").read_text("utf-8", "replace").strip()
        return f"{name}, process {process}"
    return f"process {process}"
