"""Says whose the files of a store are, and what to do about those that are somebody else's."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from tezio_signer.host.accounts import group_name, user_name

_BESIDE = ("", "-wal", "-shm", ".lock")
"""What follows the path of a store in the names of its files."""
_DIRECTORY, _FILE = os.W_OK | os.X_OK, os.R_OK | os.W_OK


def what_is_denied(store: Path) -> str:
    """Say what of a store this process may not use, whose that is and what to do; "" for nothing.

    It begins with a semicolon: it is for the end of a sentence.
    """
    for file, mode in _needed(Path(os.path.realpath(store))):
        with suppress(OSError):
            status = file.stat()
            if os.access(file, mode, effective_ids=True):
                continue
            me, owner = user_name(os.geteuid()), user_name(status.st_uid)
            facts = (
                f"; {file} belongs to {owner}:{group_name(status.st_gid)}, mode "
                f"{status.st_mode & 0o7777:04o}, and this runs as {me}"
            )
            if status.st_uid == os.geteuid():
                return f"{facts}: change its mode"
            if status.st_uid:
                return f"{facts}: run it as {owner} (runuser -u {owner} -- …), or change the owner"
            given = f"give it to the user of the signer (chown USER: {file})"
            if mode == _DIRECTORY and not os.path.lexists(store):
                return (
                    f"{facts}, who cannot write there: set watermarks.store to a path where {me} "
                    "can, such as sqlite:/var/lib/tezio-signer/watermarks.sqlite, or, if it is for "
                    f"the store only, {given}"
                )
            return f"{facts}: {given}"
    return ""


def _needed(real: Path) -> Iterator[tuple[Path, int]]:
    for directory in reversed(real.parents):
        yield directory, _DIRECTORY if directory == real.parent else os.X_OK
    for suffix in _BESIDE:
        yield real.with_name(f"{real.name}{suffix}"), _FILE


def give_to_owner(made: Path, of: Path) -> None:
    """Give a new file the owner of another one, or of a directory, if that may be.

    A link, which is no new file of ours, is not followed.
    """
    with suppress(OSError):
        owner = of.stat()
        if (owner.st_uid, owner.st_gid) != (os.geteuid(), os.getegid()):
            os.chown(made, owner.st_uid, owner.st_gid, follow_symlinks=False)


def sync_directory(directory: Path) -> None:
    """Sync the names in a directory to the disk; raises OSError."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
