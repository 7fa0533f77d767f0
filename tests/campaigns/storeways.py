"""What can befall the files of a store while a daemon has it, and how it is put in order again."""

import os
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Protocol

from attrs import frozen

from tezio_signer.watermarks.sqlite import store as sqlite

NAME = "s.sqlite"
_SUFFIXES = ("", "-wal", "-shm", ".lock")


@frozen
class Place:
    """Where the store of a run is.

    :ivar home: the directory that has nothing but the store and what lies beside it.
    :ivar other: a directory beside it, empty when something is to happen.
    :ivar backup: a directory with a copy of all files, made some signatures ago.
    """

    home: Path
    other: Path
    backup: Path

    @property
    def store(self) -> Path:
        """The path that the first daemon's configuration names."""
        return self.home / NAME

    def beside(self, suffix: str) -> Path:
        """One of the files of the store."""
        return self.home / f"{NAME}{suffix}"


class Happening(Protocol):
    """Something happens; what is yielded is the path that a second daemon is started with.

    When it goes on, all is put in order again.
    """

    def __call__(self, place: Place) -> Iterator[Path]: ...


@frozen
class Way:
    """One of the things that can happen.

    :ivar signs: whether the first daemon goes on signing meanwhile; None for either.
    :ivar new: whether the second daemon gets a new store, and signs.
    :ivar returns: whether everything can be put in order again under the first daemon.
    :ivar root: whether only root can do it.
    :ivar apart: a command in front of the second daemon.
    """

    happens: Happening
    signs: bool | None = False
    new: bool = False
    returns: bool = True
    root: bool = False
    apart: Callable[[Place], list[str]] = lambda _: []

    @property
    def name(self) -> str:
        """As it is reported."""
        return self.happens.__name__.replace("_", " ").strip()  # type: ignore[attr-defined,no-any-return]


def _mount(source: Path, target: Path) -> None:
    subprocess.run(["mount", "--bind", source, target], check=True)  # noqa: S603, S607


def _unmount(target: Path) -> None:
    subprocess.run(["umount", "--lazy", target], check=True)  # noqa: S603, S607


def _copy_all(from_: Path, to: Path) -> None:
    for file in from_.iterdir():
        if not file.name.endswith("-shm"):
            shutil.copy2(file, to / file.name)


@contextmanager
def _set_aside(place: Place, *suffixes: str) -> Iterator[None]:
    """Files of the store are elsewhere, and come back over what is there by then."""
    aside = place.home.with_name("aside")
    aside.mkdir()
    for suffix in suffixes:
        if place.beside(suffix).exists():
            place.beside(suffix).rename(aside / f"{NAME}{suffix}")
    yield
    for suffix in suffixes:
        place.beside(suffix).unlink(missing_ok=True)
        if (aside / f"{NAME}{suffix}").exists():
            (aside / f"{NAME}{suffix}").rename(place.beside(suffix))
    aside.rmdir()


def _hard_link(place: Place) -> Iterator[Path]:
    link = place.other / NAME
    link.hardlink_to(place.store)
    yield link
    link.unlink()


def _hard_link_and_first_name_removed(place: Place) -> Iterator[Path]:
    link = place.other / NAME
    link.hardlink_to(place.store)
    place.store.unlink()
    yield link
    link.rename(place.store)


def _symbolic_link(place: Place) -> Iterator[Path]:
    link = place.other / NAME
    link.symlink_to(place.store)
    yield link
    link.unlink()


def _moved_and_linked_to(place: Place) -> Iterator[Path]:
    moved = place.other / NAME
    place.store.rename(moved)
    place.store.symlink_to(moved)
    yield place.store
    moved.replace(place.store)


def _file_mounted_elsewhere(place: Place) -> Iterator[Path]:
    mounted = place.other / NAME
    mounted.touch()
    _mount(place.store, mounted)
    yield mounted
    _unmount(mounted)


def _file_mounted_in_another_namespace(place: Place) -> Iterator[Path]:
    mounted = place.other / NAME
    mounted.touch()
    yield mounted


def _directory_mounted_in_another_namespace(place: Place) -> Iterator[Path]:
    yield place.other / NAME


def _apart(source: Callable[[Place], Path], target: Callable[[Place], Path]) -> object:
    def command(place: Place) -> list[str]:
        script = f'mount --bind "{source(place)}" "{target(place)}" && exec "$@"'
        return ["unshare", "--mount", "sh", "-c", script, "sh"]

    return command


def _directory_mounted_elsewhere(place: Place) -> Iterator[Path]:
    _mount(place.home, place.other)
    yield place.other / NAME
    _unmount(place.other)


def _mounted_over_by_a_copy(place: Place) -> Iterator[Path]:
    _copy_all(place.home, place.other)
    _mount(place.other, place.home)
    yield place.store
    _unmount(place.home)


def _copied(place: Place) -> Iterator[Path]:
    _copy_all(place.home, place.other)
    yield place.other / NAME


def _file_copied_alone(place: Place) -> Iterator[Path]:
    shutil.copy2(place.store, place.other / NAME)
    yield place.other / NAME


def _moved_and_copied_back(place: Place) -> Iterator[Path]:
    old = place.home / "s.old"
    place.store.rename(old)
    shutil.copy2(old, place.store)
    yield place.store
    old.replace(place.store)


def _all_files_moved_and_copied_back(place: Place) -> Iterator[Path]:
    with _set_aside(place, *_SUFFIXES):
        _copy_all(place.home.with_name("aside"), place.home)
        yield place.store


def _older_files_in_their_place(place: Place) -> Iterator[Path]:
    with _set_aside(place, *_SUFFIXES):
        _copy_all(place.backup, place.home)
        yield place.store


def _older_file_in_its_place(place: Place) -> Iterator[Path]:
    with _set_aside(place, ""):
        shutil.copy2(place.backup / NAME, place.store)
        yield place.store


def _older_file_in_its_place_without_the_rest(place: Place) -> Iterator[Path]:
    with _set_aside(place, *_SUFFIXES):
        shutil.copy2(place.backup / NAME, place.store)
        yield place.store


def _directory_moved(place: Place) -> Iterator[Path]:
    place.other.rmdir()
    place.home.rename(place.other)
    yield place.other / NAME
    place.other.rename(place.home)
    place.other.mkdir()


def _directory_replaced_by_a_link(place: Place) -> Iterator[Path]:
    place.other.rmdir()
    place.home.rename(place.other)
    place.home.symlink_to(place.other)
    yield place.store
    place.home.unlink()
    place.other.rename(place.home)
    place.other.mkdir()


def _directory_removed_and_store_made_anew(place: Place) -> Iterator[Path]:
    shutil.rmtree(place.home)
    place.home.mkdir()
    sqlite.create(place.store)
    yield place.store


def _all_files_moved_and_store_made_anew(place: Place) -> Iterator[Path]:
    with _set_aside(place, *_SUFFIXES):
        sqlite.create(place.store)
        yield place.store


def _removed(place: Place) -> Iterator[Path]:
    place.store.unlink()
    yield place.store


def _all_files_removed(place: Place) -> Iterator[Path]:
    shutil.rmtree(place.home)
    yield place.store
    place.home.mkdir()


def _log_removed(place: Place) -> Iterator[Path]:
    place.beside("-wal").unlink(missing_ok=True)
    yield place.store


def _index_of_the_log_removed(place: Place) -> Iterator[Path]:
    place.beside("-shm").unlink(missing_ok=True)
    yield place.store


def _log_of_another_time(place: Place) -> Iterator[Path]:
    with _set_aside(place, "-wal"):
        place.beside("-wal").write_bytes((place.backup / f"{NAME}-wal").read_bytes() or b"log")
        yield place.store


def _lock_removed(place: Place) -> Iterator[Path]:
    place.beside(".lock").unlink()
    yield place.store


def _lock_of_another_time(place: Place) -> Iterator[Path]:
    place.beside(".lock").unlink()
    shutil.copy2(place.backup / f"{NAME}.lock", place.beside(".lock"))
    yield place.store


def _lock_all_zero(place: Place) -> Iterator[Path]:
    place.beside(".lock").write_bytes(bytes(128))
    yield place.store


def _overwrite(path: Path, content: bytes) -> None:
    """In place, without making it empty in between."""
    with path.open("r+b") as file:
        file.write(content)
        file.truncate()


def _truncated(place: Place) -> Iterator[Path]:
    content = place.store.read_bytes()
    os.truncate(place.store, 4096)
    yield place.store
    _overwrite(place.store, content)


def _emptied(place: Place) -> Iterator[Path]:
    content = place.store.read_bytes()
    os.truncate(place.store, 0)
    yield place.store
    _overwrite(place.store, content)


def _overwritten_with_older_content(place: Place) -> Iterator[Path]:
    content = place.store.read_bytes()
    _overwrite(place.store, (place.backup / NAME).read_bytes())
    yield place.store
    _overwrite(place.store, content)


def _restored_by_sqlite(place: Place) -> Iterator[Path]:
    newest = place.other / "newest"
    _back_up(place.store, newest)
    _back_up(place.backup / NAME, place.store)
    yield place.store
    _back_up(newest, place.store)


def _back_up(from_: Path, to: Path) -> None:
    """What `.backup` and `.restore` of the program `sqlite3` do."""
    with closing(sqlite3.connect(from_)) as source, closing(sqlite3.connect(to)) as target:
        source.backup(target)


def _mode_taken(place: Place) -> Iterator[Path]:
    place.store.chmod(0)
    place.home.chmod(0)
    yield place.store
    place.home.chmod(0o700)
    place.store.chmod(0o600)


def _touched(place: Place) -> Iterator[Path]:
    os.utime(place.store)
    yield place.store


WAYS = (
    Way(_hard_link),
    Way(_hard_link_and_first_name_removed),
    Way(_symbolic_link, signs=True),
    Way(_moved_and_linked_to),
    Way(_file_mounted_elsewhere, signs=True, root=True),
    Way(
        _file_mounted_in_another_namespace,
        signs=True,
        root=True,
        apart=_apart(lambda place: place.store, lambda place: place.other / NAME),  # type: ignore[arg-type]
    ),
    Way(
        _directory_mounted_in_another_namespace,
        signs=True,
        root=True,
        apart=_apart(lambda place: place.home, lambda place: place.other),  # type: ignore[arg-type]
    ),
    Way(_directory_mounted_elsewhere, signs=True, root=True),
    Way(_mounted_over_by_a_copy, root=True),
    Way(_copied, signs=True),
    Way(_file_copied_alone, signs=True),
    Way(_moved_and_copied_back),
    Way(_all_files_moved_and_copied_back),
    Way(_older_files_in_their_place),
    Way(_older_file_in_its_place),
    Way(_older_file_in_its_place_without_the_rest),
    Way(_directory_moved),
    Way(_directory_replaced_by_a_link, signs=None),
    Way(_directory_removed_and_store_made_anew, new=True, returns=False),
    Way(_all_files_moved_and_store_made_anew, new=True),
    Way(_removed, returns=False),
    Way(_all_files_removed, returns=False),
    Way(_log_removed, signs=True),
    Way(_index_of_the_log_removed, signs=True),
    Way(_log_of_another_time),
    Way(_lock_removed, signs=True),
    Way(_lock_of_another_time, signs=True),
    Way(_lock_all_zero, signs=True),
    # Behind a way that has left all pages in the log beside it, the log hides what is cut off.
    Way(_truncated, signs=None),
    Way(_emptied),
    Way(_overwritten_with_older_content, signs=None),
    Way(_restored_by_sqlite),
    Way(_mode_taken, signs=True, root=True),
    Way(_touched, signs=True),
)
SHORT = tuple(
    way
    for way in WAYS
    if way.happens
    in (
        _hard_link,
        _file_mounted_elsewhere,
        _moved_and_copied_back,
        _copied,
        _directory_moved,
        _directory_removed_and_store_made_anew,
        _log_removed,
        _lock_removed,
        _truncated,
        _restored_by_sqlite,
    )
)
"""Ten of them, with which the suite is content."""
