"""A store in an etcd in memory, and other daemons' ways to the same one."""

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import LogLevel, capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from tests.support.fakeetcd import FakeEtcd, FakeGateway, store_through
from tests.support.storeconformance import BLOCK
from tests.support.vectors import TZ1
from tezio_signer.tezos import base58check
from tezio_signer.tezos.base58check import Base58Type
from tezio_signer.tezos.payload import Operation
from tezio_signer.watermarks.etcd.store import EtcdStore
from tezio_signer.watermarks.rule import Mark, MarkId
from tezio_signer.watermarks.store import Kept, StoreAwayError, StoreError

MARKER = b"tezio-signer/store"
KEY = "tezio-signer/marks/NetXdQprcVkpaWU/tz3MyarJihHrejsze59J2Seita7jYWDCJDPe/block"
HIGHER = Mark(101, 0, b"\x03" * 32)
LOWER = Mark(99, 0, b"\x04" * 32)


def a_mark(number: int) -> tuple[MarkId, Mark]:
    """One of many marks, each of a chain of its own."""
    chain = base58check.encode(Base58Type.CHAIN_ID, number.to_bytes(4, "big"))
    return MarkId(chain, TZ1, Operation.BLOCK), Mark(number + 1, 0, b"\x06" * 32)


class EtcdTestCase(SynchronousTestCase):
    """Has a daemon's store, read, in an etcd in memory."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.etcd = FakeEtcd()
        self.gateway, self.store = self.daemon()
        self.successResultOf(self.store.create())
        self.load()

    def daemon(self) -> tuple[FakeGateway, EtcdStore]:
        """The way and the store of one more daemon."""
        gateway = FakeGateway(self.etcd, self.clock)
        return gateway, store_through(gateway, self.clock)

    def load(self, store: EtcdStore | None = None) -> dict[MarkId, Mark]:
        """The marks as a store gives them."""
        return self.successResultOf((store or self.store).load())

    def keep(self, mark: Mark, mark_id: MarkId = BLOCK) -> Kept:
        """What becomes of a mark."""
        return self.successResultOf(self.store.keep(mark_id, mark))

    def refused(self, asking: Deferred[Any]) -> str:
        """Why the store is none."""
        error = self.failureResultOf(asking, StoreError).value
        self.assertNotIsInstance(error, StoreAwayError)
        return str(error)

    def critical(self, act: Callable[[], object]) -> list[str]:
        """What is said at the highest level while something is done."""
        with capturedLogs() as events:
            act()
        return [formatEvent(e) for e in events if e["log_level"] is LogLevel.critical]
