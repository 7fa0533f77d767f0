"""The etcd of all daemons, and each one's way to it: a client of HTTP under the real gateway."""

import json
from collections.abc import Callable
from typing import Any, cast

from attrs import define
from treq.client import HTTPClient
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.internet.protocol import Protocol
from twisted.python.failure import Failure
from twisted.web.client import HTTPConnectionPool, ResponseDone

from tests.campaigns.histories.network import Message, Network
from tests.support.fakeetcd import FakeEtcd, etcd_store
from tezio_signer.watermarks.etcd.gateway import EtcdGateway
from tezio_signer.watermarks.etcd.store import EtcdStore
from tezio_signer.watermarks.rule import Mark, MarkId
from tezio_signer.watermarks.store import StoreError

_DONE = Failure(ResponseDone())


@define(eq=False)
class _Response:
    """An answer, whose body comes in one piece."""

    code: int
    body: bytes

    def deliverBody(self, protocol: Protocol) -> None:
        protocol.dataReceived(self.body)
        protocol.connectionLost(_DONE)


class Etcd:
    """The cluster in memory, and what operators do to it.

    :ivar answers: what it answers to a request; a bug may be put before it.
    :ivar prompt_readings: nothing happens to what only reads.
    :ivar wiped: what it held, while all of it is gone.
    """

    def __init__(self, network: Network) -> None:
        self.cluster = FakeEtcd()
        self.network = network
        self.answers: Callable[[str, dict[str, Any]], dict[str, Any]] = self.cluster.answer
        self.prompt_readings = False
        self.wiped: tuple[int, Any] | None = None
        self._now(etcd_store(self.cluster).create())
        self.backup = self.cluster.snapshot()

    def marks(self) -> dict[MarkId, Mark]:
        """All marks that it holds; none while it is wiped."""
        if self.wiped is not None:
            return {}
        marks: dict[MarkId, Mark] = self._now(etcd_store(self.cluster).load())
        return marks

    def raise_mark(self, mark_id: MarkId, mark: Mark) -> None:
        """Do what `tezio-signer watermarks set` does, if the mark is higher than what is there."""
        if self.wiped is not None:
            return
        store = etcd_store(self.cluster)
        standing = self._now(store.load()).get(mark_id)
        if standing is None or mark.position > standing.position:
            self._now(store.replace({mark_id: mark}))

    def lower(self, mark_id: MarkId, payload_hash: bytes) -> None:
        """Remove a mark, if it is for this payload: what nothing but a bug does."""
        standing = self.marks().get(mark_id)
        if standing is not None and standing.payload_hash == payload_hash:
            _, kvs = self.cluster.snapshot()
            left = {
                key: kv for key, kv in kvs.items() if payload_hash.hex().encode() not in kv.value
            }
            self.cluster.restore((self.cluster.revision + 1, left))

    def wipe(self) -> None:
        """Lose everything, the marker too."""
        self.wiped = self.cluster.snapshot()
        self.cluster.restore((self.wiped[0] + 1, {}))

    def bring_back(self) -> None:
        """Put back what was lost."""
        if self.wiped is not None:
            revision, kvs = self.wiped
            self.cluster.restore((max(revision, self.cluster.revision) + 1, kvs))
            self.wiped = None

    def take_backup(self) -> None:
        """Remember what is there."""
        if self.wiped is None:
            self.backup = self.cluster.snapshot()

    def restore_backup(self) -> None:
        """Go back to what was remembered, as etcd 3.4 does it."""
        self.cluster.restore(self.backup)

    def open(self, daemon: str, clock: IReactorTime, alive: Callable[[], bool]) -> EtcdStore:
        """A daemon's store, with its own connections."""
        link = _Link(self, daemon, alive)
        gateway = EtcdGateway(
            ["http://etcd"], cast(HTTPClient, link), cast(HTTPConnectionPool, link), clock
        )
        return EtcdStore(gateway, clock)

    @staticmethod
    def _now(working: Deferred[Any]) -> Any:
        results: list[Any] = []
        working.addBoth(results.append)
        if isinstance(results[0], Failure):
            results[0].raiseException()
        return results[0]


class _Link:
    """Looks like an HTTP client, and like its pool of connections.

    :param alive: whether the daemon that has it lives.
    """

    def __init__(self, etcd: Etcd, daemon: str, alive: Callable[[], bool]) -> None:
        self._etcd = etcd
        self._daemon = daemon
        self._alive = alive

    def post(self, url: str, data: bytes, **_: object) -> Deferred[_Response]:
        """Send a request."""
        answered: Deferred[_Response] = Deferred()
        path = url.removeprefix("http://etcd")
        swaps = b"request_put" in data
        server, what = ("etcd", "a swap") if swaps else ("etcd.r", "a reading")
        prompt = self._etcd.prompt_readings and not swaps

        def arrived() -> None:
            self._arrived(path, data, answered, f"{server}>{self._daemon}", prompt)

        if self._alive():
            self._etcd.network.send(f"{self._daemon}>{server}", Message(what, arrived, prompt))
        return answered

    def _arrived(
        self, path: str, data: bytes, answered: Deferred[_Response], inward: str, prompt: bool
    ) -> None:
        try:
            answer = self._etcd.answers(path, json.loads(data))
        except StoreError:  # a bug may fail here
            return
        response = _Response(200, json.dumps(answer).encode())

        def gone() -> bool:
            return bool(answered.called) or not self._alive()

        def arrive() -> None:
            if not gone():
                answered.callback(response)

        said = "yes" if answer.get("succeeded") else "no"
        self._etcd.network.send(inward, Message(said, arrive, prompt, gone))

    def closeCachedConnections(self) -> Deferred[None]:
        """Nothing to close."""
        return succeed(None)
