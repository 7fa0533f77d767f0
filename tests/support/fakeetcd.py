"""An etcd in memory: as much of its JSON gateway as the watermark store asks for.

The shapes are those of etcd 3.4: numbers of 64 bits are texts, and what is empty, zero or
false is left out.
"""

from base64 import b64decode, b64encode
from typing import Any, cast

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import Clock

from tezio_signer.watermarks.etcd.gateway import EtcdGateway
from tezio_signer.watermarks.etcd.store import EtcdStore
from tezio_signer.watermarks.store import StoreAwayError


@frozen
class Kv:
    """What is under a key."""

    value: bytes
    created: int
    modified: int


class FakeEtcd:
    """The state of a cluster.

    :ivar revision: counts the transactions that have written.
    :ivar kvs: what is under each key.
    """

    def __init__(self) -> None:
        self.revision = 1
        self.kvs: dict[bytes, Kv] = {}

    def put(self, key: str, value: bytes | str) -> None:
        """Write as an operator does, with etcdctl."""
        self.revision += 1
        self._put(key.encode(), value.encode() if isinstance(value, str) else value)

    def _put(self, key: bytes, value: bytes) -> None:
        created = self.kvs[key].created if key in self.kvs else self.revision
        self.kvs[key] = Kv(value, created, self.revision)

    def snapshot(self) -> tuple[int, dict[bytes, Kv]]:
        """A backup, for `restore`."""
        return self.revision, dict(self.kvs)

    def restore(self, snapshot: tuple[int, dict[bytes, Kv]]) -> None:
        """Go back to a backup; the revision goes back too, as etcd 3.4 does it."""
        self.revision, self.kvs = snapshot[0], dict(snapshot[1])

    def answer(self, path: str, question: dict[str, Any]) -> dict[str, Any]:
        """Carry out a request."""
        if path == "/v3/kv/range":
            return self._with_header(self._range(question))
        if path != "/v3/kv/txn":
            raise AssertionError(f"{path} is not asked for by a store")
        succeeded = all(self._holds(compare) for compare in question["compare"])
        requests = question["success" if succeeded else "failure"]
        self.revision += any("request_range" not in request for request in requests)
        responses = [self._response(request) for request in requests]
        answer = self._with_header({"responses": responses} if responses else {})
        return {**answer, "succeeded": True} if succeeded else answer

    def _with_header(self, answer: dict[str, Any]) -> dict[str, Any]:
        return {"header": {"revision": str(self.revision)}, **answer}

    def _holds(self, compare: dict[str, Any]) -> bool:
        found = self.kvs.get(b64decode(compare["key"]))
        match compare["target"]:
            case "VALUE":
                return found is not None and found.value == b64decode(compare["value"])
            case "MOD":
                return int(compare["mod_revision"]) == (found.modified if found else 0)
        raise AssertionError(f"{compare} is not asked for by a store")

    def _response(self, request: dict[str, Any]) -> dict[str, Any]:
        if "request_put" in request:
            put = request["request_put"]
            self._put(b64decode(put["key"]), b64decode(put["value"]))
            return {"response_put": self._with_header({})}
        if "request_delete_range" in request:
            deleted = self.kvs.pop(b64decode(request["request_delete_range"]["key"]), None)
            told = {} if deleted is None else {"deleted": "1"}
            return {"response_delete_range": self._with_header(told)}
        return {"response_range": self._with_header(self._range(request["request_range"]))}

    def _range(self, asked: dict[str, Any]) -> dict[str, Any]:
        first = b64decode(asked["key"])
        end = b64decode(asked["range_end"]) if "range_end" in asked else first + b"\0"
        keys = sorted(key for key in self.kvs if first <= key < end)
        found = [_shown(key, self.kvs[key]) for key in keys]
        limit = int(asked.get("limit", 0)) or len(found)
        page: dict[str, Any] = {"kvs": found[:limit], "count": str(len(keys))}
        if len(found) > limit:
            page["more"] = True
        return {name: value for name, value in page.items() if value and value != "0"}


def _shown(key: bytes, found: Kv) -> dict[str, str]:
    shown = {
        "key": b64encode(key).decode(),
        "create_revision": str(found.created),
        "mod_revision": str(found.modified),
    }
    if found.value:
        shown["value"] = b64encode(found.value).decode()
    return shown


class FakeGateway:
    """The way of one daemon to its etcd.

    :ivar asked: the questions of transactions, in order.
    :ivar lost: how many of the next answers nobody hears, though the work is done.
    :ivar silent: nothing arrives, and nothing is answered, until the asking is given up.
    :ivar slow: answers are held back until `deliver`.
    :ivar closed: whether it was closed.
    """

    def __init__(self, etcd: FakeEtcd, clock: IReactorTime) -> None:
        self._etcd = etcd
        self._clock = clock
        self.asked: list[dict[str, Any]] = []
        self.lost = 0
        self.silent = False
        self.slow = False
        self.closed = False
        self._held: list[tuple[Deferred[dict[str, Any]], dict[str, Any]]] = []

    def ask(
        self, path: str, question: dict[str, Any], until: float | None = None
    ) -> Deferred[dict[str, Any]]:
        """Like `EtcdGateway.ask`; who gives no time has a second."""
        self.asked.append(question)
        answered: Deferred[dict[str, Any]] = Deferred()
        left = 1.0 if until is None else until - self._clock.seconds()
        if left <= 0:
            answered.errback(StoreAwayError("no time left"))
        elif self.silent:
            self._clock.callLater(left, answered.errback, StoreAwayError("silent"))
        else:
            try:
                answer = self._etcd.answer(path, question)
            except StoreAwayError as error:
                answered.errback(error)
                return answered
            if self.lost:
                self.lost -= 1
                answered.errback(StoreAwayError("lost"))
            elif self.slow:
                self._held.append((answered, answer))
            else:
                answered.callback(answer)
        return answered

    def deliver(self, number: int = 0) -> None:
        """Let one of the answers arrive that were held back."""
        answered, answer = self._held.pop(number)
        answered.callback(answer)

    def close(self) -> Deferred[None]:
        """Remember that it is closed."""
        self.closed = True
        done: Deferred[None] = Deferred()
        done.callback(None)
        return done


def etcd_store(etcd: FakeEtcd, clock: IReactorTime | None = None) -> EtcdStore:
    """A store in a fake etcd, where the way is good."""
    return store_through(FakeGateway(etcd, clock or Clock()), clock)


def store_through(gateway: FakeGateway, clock: IReactorTime | None = None) -> EtcdStore:
    """A store behind this gateway."""
    return EtcdStore(cast(EtcdGateway, gateway), clock or Clock())
