"""Makes an SQLite store, but never in the place of one that was there before."""

import os
from contextlib import ExitStack, closing
from pathlib import Path
from tempfile import TemporaryDirectory

from tezio_signer.watermarks.sqlite.access import give_to_owner, sync_directory
from tezio_signer.watermarks.sqlite.lockfile import take
from tezio_signer.watermarks.sqlite.schema import (
    check_filled,
    check_new,
    connect,
    errors,
    lay_out,
    use_log,
)
from tezio_signer.watermarks.store import StoreError


def create(path: Path) -> None:
    """Make an empty store in a new file, which gets the owner of its directory.

    :raises StoreError: if there is a file already or was a store before, or if it cannot be
        made; nothing is left of it then.
    """
    if os.path.lexists(path):
        check_filled(path)
        raise _exists_already(path)
    lock = take(path)  # a daemon may have it, whose file was moved away
    if lock is not None:
        lock.close()
    check_new(path)
    with (
        errors(path),
        TemporaryDirectory(dir=path.parent, prefix=f"{path.name}.") as directory,
    ):
        made = Path(directory) / path.name
        _make(made)
        give_to_owner(made, path.parent)
        _put(made, path)


def _exists_already(path: Path) -> StoreError:
    return StoreError(f"watermark store {path} exists already, and is left as it is")


def _make(path: Path) -> None:
    path.touch(0o600)
    with closing(connect(path)) as connection:
        lay_out(connection)
        use_log(connection, path)  # last: all is in the file itself


def _put(made: Path, path: Path) -> None:
    """Give a complete file its name, which no incomplete one ever has."""
    try:
        path.touch(0o600, exist_ok=False)
    except FileExistsError as error:
        raise _exists_already(path) from error
    with ExitStack() as undoing:
        undoing.callback(path.unlink)
        made.rename(path)
        sync_directory(path.parent)
        undoing.pop_all()
