"""Watermarks in an etcd cluster, for several signers: moved by compare-and-swap."""

import json
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import uuid4

from attrs import evolve, frozen
from twisted.internet.defer import Deferred, DeferredLock, TimeoutError  # noqa: A004
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from tezio_signer.watermarks.etcd.answers import Answer, KeyValue, read_answer
from tezio_signer.watermarks.etcd.gateway import PATIENCE, EtcdGateway
from tezio_signer.watermarks.etcd.member import legible, text
from tezio_signer.watermarks.markjson import TransferError, order, read_id, read_row, row
from tezio_signer.watermarks.rule import Mark, MarkId, settle
from tezio_signer.watermarks.store import Kept, StoreAwayError, StoreError

PREFIX = "tezio-signer/"
MARKER = f"{PREFIX}store"
"""Says that this is a store, and which: it is made once, and no mark moves without it."""
MARKS = f"{PREFIX}marks/"
FORMAT = 1
_RAISE = "set high_water_marks to a level above all that was signed"
_PAGE = 1000
_WHOLE_EVERY = 12
"""One in so many readings is of all marks, and shows also what has become older, or less."""
_SIGNATURE_PATIENCE = 0.6
_AT_ONCE = 100
"""Marks in one transaction; etcd takes 128 operations unless it is told otherwise."""


@frozen
class _Held:
    """What was seen under a key: the mark, its text as it stands there, and since when."""

    mark: Mark | None = None
    value: str = ""
    revision: int = 0


_NOTHING = _Held()


class EtcdStore:
    """A `WatermarkStore` that other daemons may use at the same time.

    One key for each mark, `tezio-signer/marks/<chain>/<key>/<operation>`, with the mark as
    JSON. A mark moves only from the very state that was seen, so that of two daemons one
    comes first, and the other learns what stands.
    """

    _log = Logger()
    shared = True

    def __init__(self, gateway: EtcdGateway, clock: IReactorTime) -> None:
        self._gateway = gateway
        self._clock = clock
        self._marker: str | None = None
        self._held: dict[MarkId, _Held] = {}
        self._revision = 0
        self._heard = 0
        self._readings = 0
        self._locks: dict[MarkId, DeferredLock] = {}

    def create(self) -> Deferred[None]:
        """Make an empty store; fails with StoreError if there is one."""
        return Deferred.fromCoroutine(self._create())

    async def _create(self) -> None:
        marker = json.dumps({"format": FORMAT, "id": uuid4().hex})
        answer = await self._transaction(
            [_unchanged(MARKER, _NOTHING)],
            [_put(MARKER, marker)],
            [_get(MARKER)],
        )
        # A first attempt without an answer may have made it.
        if not answer.succeeded:
            found = answer.first(0)
            if found is None or found.value != marker:
                raise StoreError("this etcd has a watermark store already, and it is left as it is")

    def load(self) -> Deferred[dict[MarkId, Mark]]:
        """All marks; after the first time mostly only those that have changed are asked for."""
        if self._readings % _WHOLE_EVERY == 0:
            self._revision = 0
        self._readings += 1
        return Deferred.fromCoroutine(self._load())

    async def _load(self) -> dict[MarkId, Mark]:
        key, newest, heard, whole = MARKS, 0, self._heard, self._revision == 0
        shown: set[MarkId] = set()
        while True:
            asked = {
                "key": text(key),
                "range_end": text(f"{MARKS[:-1]}0"),  # "0" comes right after "/"
                "limit": str(_PAGE),
                "min_mod_revision": str(self._revision + 1),
            }
            # Both at one revision.
            answer = await self._transaction([], [_get(MARKER), {"request_range": asked}], [])
            self._check_marker(answer.first(0))
            page = answer.pages[1]
            if newest == 0:
                newest = answer.revision
                if newest < heard:
                    self._log.critical("etcd has gone back in time: was a backup restored?")
                    self._revision = self._heard = 0
                    self._held = {i: evolve(held, revision=0) for i, held in self._held.items()}
                    return await self._load()
            for found in page.found:
                if not key <= found.key < f"{MARKS[:-1]}0":
                    raise StoreAwayError("not an etcd JSON gateway: it shows keys out of order")
                key = f"{found.key}\0"
                mark_id = _mark_id(found.key)
                shown.add(mark_id)
                # A swap that was answered meanwhile may be newer than this page. What is only
                # older than before is of a backup, whose keys keep their revisions.
                if self._held.get(mark_id, _NOTHING).revision <= answer.revision:
                    self._see(mark_id, found)
            if not page.more:
                break
            if not page.found:
                raise StoreAwayError("not an etcd JSON gateway: there is more, but it shows none")
        if whole:
            for mark_id in self._held.keys() - shown:
                if self._held[mark_id].revision <= newest:
                    self._see(mark_id, None)
        self._revision = newest
        self._heard = max(self._heard, newest)
        return {mark_id: held.mark for mark_id, held in self._held.items() if held.mark}

    read = load

    def _check_marker(self, found: KeyValue | None) -> None:
        """Only the store that was read first is ours; raises StoreError."""
        marker = _known_marker(found)
        if self._marker not in (None, marker):
            raise StoreError(
                "the store in etcd is another than at the start of this signer, and is not used; "
                f"if it is to be used, stop all signers, {_RAISE}, and start them again"
            )
        self._marker = marker

    def _see(self, mark_id: MarkId, found: KeyValue | None) -> _Held:
        """Remember what stands under a mark's key."""
        if found is None:
            held = _NOTHING
        else:
            held = _Held(_mark(mark_id, found), found.value, found.revision)
        before = self._held.get(mark_id, _NOTHING)
        if before.mark and (held.mark is None or settle(held.mark, before.mark) != held.mark):
            self._log.critical(
                "the mark of {key} for {operation} on {chain} was lowered in etcd, or is gone",
                key=mark_id.key,
                operation=mark_id.operation,
                chain=mark_id.chain_id,
            )
        self._held[mark_id] = held
        return held

    def keep(self, mark_id: MarkId, mark: Mark) -> Deferred[Kept]:
        """Swap the mark, if it is no step back."""
        return Deferred.fromCoroutine(self._keep(mark_id, mark))

    async def _keep(self, mark_id: MarkId, mark: Mark) -> Kept:
        # A client waits for two commits, that of its claim and that of the signature.
        patience = PATIENCE if mark.signature is None else _SIGNATURE_PATIENCE
        until = self._clock.seconds() + patience
        lock = self._locks.setdefault(mark_id, DeferredLock())
        try:
            await lock.acquire().addTimeout(patience, self._clock)
        except TimeoutError:
            raise StoreAwayError("etcd is still busy with an earlier claim") from None
        try:
            held = self._held.get(mark_id, _NOTHING)
            while (now := settle(held.mark, mark)) != held.mark:
                if await self._swap(mark_id, held, now, until):
                    return Kept(held.mark, now)
                held = self._held.get(mark_id, _NOTHING)
            return Kept(now, now)
        finally:
            lock.release()

    async def _swap(self, mark_id: MarkId, held: _Held, mark: Mark, until: float) -> bool:
        """Put a mark in the place of what is held; if that is outdated, see what stands."""
        if self._marker is None:
            raise StoreAwayError("the store has not been read yet")
        key, value = _key(mark_id), _json(mark_id, mark)
        answer = await self._transaction(
            [_holds(MARKER, self._marker), _unchanged(key, held)],
            [_put(key, value)],
            [_get(MARKER), _get(key)],
            until,
        )
        # A page that was read meanwhile may show what came after this.
        newest = self._held.get(mark_id, _NOTHING) == held
        if answer.succeeded:
            self._heard = max(self._heard, answer.revision)
            if newest:
                self._held[mark_id] = _Held(mark, value, answer.revision)
            return True
        self._check_marker(answer.first(0))
        if newest:
            self._see(mark_id, answer.first(1))
        return False

    def replace(self, marks: Mapping[MarkId, Mark]) -> Deferred[None]:
        """Put these in the place of what was seen when loading.

        This may lower a mark: it is for an operator who knows why, not for signing. Fails
        with StoreError if a daemon has moved one meanwhile; the marks before it, in groups
        of a hundred, are then replaced.
        """
        return Deferred.fromCoroutine(self._replace(marks))

    async def _replace(self, marks: Mapping[MarkId, Mark]) -> None:
        listed = list(marks.items())
        for start in range(0, len(listed), _AT_ONCE):
            group = listed[start : start + _AT_ONCE]
            unchanged = [
                _unchanged(_key(mark_id), self._held.get(mark_id, _NOTHING)) for mark_id, _ in group
            ]
            puts = [_put(_key(mark_id), _json(mark_id, mark)) for mark_id, mark in group]
            gets = [_get(_key(mark_id)) for mark_id, _ in group]
            answer = await self._transaction(unchanged, puts, gets)
            # A first attempt without an answer may have put them.
            if not answer.succeeded and not _stand(group, answer):
                raise StoreError("a signer has moved the marks meanwhile; try again")

    def close(self) -> Deferred[None]:
        """Close the connections."""
        return self._gateway.close()

    async def _transaction(
        self,
        compare: list[dict[str, Any]],
        success: list[dict[str, Any]],
        failure: list[dict[str, Any]],
        until: float | None = None,
    ) -> Answer:
        question = {"compare": compare, "success": success, "failure": failure}
        answer = await self._gateway.ask("/v3/kv/txn", question, until)
        return read_answer(answer, compare, success, failure)


def _holds(key: str, value: str) -> dict[str, Any]:
    return {"target": "VALUE", "key": text(key), "value": text(value)}


def _unchanged(key: str, held: _Held) -> dict[str, Any]:
    """Compares values, not revisions: after a backup was restored, one may come twice."""
    if held == _NOTHING:
        return {"target": "MOD", "key": text(key), "mod_revision": "0"}
    return _holds(key, held.value)


def _put(key: str, value: str) -> dict[str, Any]:
    return {"request_put": {"key": text(key), "value": text(value)}}


def _get(key: str) -> dict[str, Any]:
    return {"request_range": {"key": text(key)}}


def _known_marker(found: KeyValue | None) -> str:
    """The marker as it stands; raises StoreError if it is missing, or none of ours."""
    if found is None:
        raise StoreError(
            "this etcd holds no watermark store; if it never held one, create it with: "
            f"tezio-signer watermarks init; if it was lost, {_RAISE} as well"
        )
    try:
        version = json.loads(found.value)["format"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise StoreError(f"{MARKER} in etcd is not the marker of a watermark store") from error
    if type(version) is not int:
        raise StoreError(f"{MARKER} in etcd is not the marker of a watermark store")
    if version != FORMAT:
        raise StoreError(
            f"the watermark store in etcd has format {version!s:.20}, not {FORMAT}; use the "
            "version of Tezio Signer that wrote it"
        )
    return found.value


def _key(mark_id: MarkId) -> str:
    return MARKS + "/".join(order(mark_id))


def _mark_id(key: str) -> MarkId:
    try:
        chain, address, operation = key.removeprefix(MARKS).split("/")
        return read_id(key, chain, address, operation)
    except (ValueError, TransferError) as error:
        raise StoreError(f"{legible(key)} in etcd is no key of a watermark") from error


def _stand(marks: Sequence[tuple[MarkId, Mark]], answer: Answer) -> bool:
    """Whether an answer shows just these marks."""
    found = [answer.first(number) for number in range(len(marks))]
    return all(
        kv is not None and kv.value == _json(mark_id, mark)
        for (mark_id, mark), kv in zip(marks, found, strict=True)
    )


def _json(mark_id: MarkId, mark: Mark) -> str:
    return json.dumps(row(mark_id, mark))


def _mark(mark_id: MarkId, found: KeyValue) -> Mark:
    """A mark as it stands under its key; raises StoreError."""
    try:
        read_id, mark = read_row(_key(mark_id), json.loads(found.value))
    except (ValueError, RecursionError, TransferError) as error:
        raise StoreError(f"a watermark in etcd is damaged: {legible(str(error))}") from error
    if read_id != mark_id:
        raise StoreError(f"{_key(mark_id)} in etcd holds the watermark of another key")
    return mark
