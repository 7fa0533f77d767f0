"""Writes that fail beneath a store, in the way in which each kind of store meets it."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from functools import partial
from typing import Any, TypeVar, cast
from unittest.mock import patch

from attrs import define
from twisted.internet.defer import Deferred

from tezio_signer.watermarks.rule import Mark, MarkId
from tezio_signer.watermarks.store import Kept, StoreAwayError, WatermarkStore

_Result = TypeVar("_Result")


class Disk(Enum):
    """What happens to what is written, or asked for."""

    WELL = "it is done"
    FULL = "it is not done"
    LOST = "it is done, but nobody hears of it"


@define
class Faults:
    """What strikes a store from now on.

    :ivar spared: how many questions are answered well before.
    :ivar struck: whether anything has failed since it was set.
    """

    disk: Disk = Disk.WELL
    spared: int = 0
    struck: bool = False

    def set(self, disk: Disk, spared: int = 0) -> None:
        """Let what comes fail in this way."""
        self.disk, self.spared, self.struck = disk, spared, False

    def take(self) -> Disk:
        """What becomes of the question that is asked now."""
        if self.disk is Disk.WELL or self.spared > 0:
            self.spared -= 1
            return Disk.WELL
        self.struck = True
        return self.disk

    async def suffer(self, ask: "partial[Deferred[_Result]]") -> _Result:
        """Ask, unless it is not done; the answer, unless nobody hears of it."""
        disk = self.take()
        if disk is Disk.FULL:
            raise StoreAwayError("not done")
        answer = await ask()
        if disk is Disk.LOST:
            raise StoreAwayError("no answer")
        return answer


class FaultyStore:
    """A store that is faulty itself; for one that has nothing beneath."""

    def __init__(self, store: WatermarkStore, faults: Faults) -> None:
        self._store = store
        self._faults = faults
        self.shared = store.shared

    def load(self) -> Deferred[dict[MarkId, Mark]]:
        """All marks."""
        return Deferred.fromCoroutine(self._faults.suffer(partial(self._store.load)))

    def keep(self, mark_id: MarkId, mark: Mark) -> Deferred[Kept]:
        """Write, or not."""
        return Deferred.fromCoroutine(self._faults.suffer(partial(self._store.keep, mark_id, mark)))

    def close(self) -> Deferred[None]:
        """Close what is beneath."""
        return self._store.close()


class FaultyGateway:
    """The way to an etcd, real or not, on which questions and answers get lost."""

    def __init__(self, gateway: Any, faults: Faults) -> None:
        self._gateway = gateway
        self._faults = faults

    async def ask(
        self, path: str, question: dict[str, Any], until: float | None = None
    ) -> dict[str, Any]:
        """Like `EtcdGateway.ask`."""
        asking = partial(self._ask, path, question, until)
        return await self._faults.suffer(cast("partial[Deferred[dict[str, Any]]]", asking))

    async def _ask(
        self, path: str, question: dict[str, Any], until: float | None
    ) -> dict[str, Any]:
        return cast("dict[str, Any]", await self._gateway.ask(path, question, until))

    def close(self) -> Deferred[None]:
        """Close what is beneath."""
        return cast("Deferred[None]", self._gateway.close())


class _FaultyConnection(sqlite3.Connection):
    faults: Faults

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        disk = self.faults.take() if sql == "COMMIT" else Disk.WELL
        if disk is Disk.FULL:
            raise sqlite3.OperationalError("database or disk is full")
        done = super().execute(sql, parameters)
        if disk is Disk.LOST:
            raise sqlite3.OperationalError("disk I/O error")
        return done


@contextmanager
def faulty_commits(faults: Faults) -> Iterator[None]:
    """Every connection of SQLite that is made meanwhile commits as these faults will have it."""

    class Connection(_FaultyConnection):
        pass

    Connection.faults = faults
    with patch.object(sqlite3, "connect", partial(sqlite3.connect, factory=Connection)):
        yield
