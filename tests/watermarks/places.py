"""Where stores of each kind are made, for the state machine."""

from collections.abc import Callable
from pathlib import Path

from twisted.internet.defer import Deferred, execute

from tests.stand import reactor
from tests.watermarks.conformance import MemoryStore
from tests.watermarks.statemachine import Place
from tezio_signer.watermarks import sqlite
from tezio_signer.watermarks.grouped import GroupedStore, ThreadWriter
from tezio_signer.watermarks.rule import Mark, MarkId
from tezio_signer.watermarks.sqlite import SqliteStore


def memory(daemons: int = 1) -> Place:
    """In this process."""
    marks: dict[MarkId, Mark] = {}

    def opened() -> MemoryStore:
        return MemoryStore(marks, shared=daemons > 1)

    return Place(lambda: execute(marks.clear), opened, lambda: opened().load(), daemons)


def shared_memory() -> Place:
    """In this process, for two."""
    return memory(2)


def sqlite_file(new_path: Callable[[], str]) -> Place:
    """Files, a new one for each history."""
    paths: list[Path] = []

    def make() -> Deferred[None]:
        paths.append(Path(new_path()))
        return execute(sqlite.create, paths[-1])

    return Place(
        make,
        lambda: GroupedStore(SqliteStore(paths[-1]), ThreadWriter(reactor)),
        lambda: execute(sqlite.read, paths[-1]),
    )
