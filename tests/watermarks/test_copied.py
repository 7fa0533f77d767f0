"""Copies in memory of what is in a store, and what becomes of the store."""

from pathlib import Path

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.support.vectors import TZ3, block
from tezio_signer.errors import Conflict, TooMany, Unavailable
from tezio_signer.tezos.payload import Baking, Operation, decode
from tezio_signer.watermarks.claims import Watermarks
from tezio_signer.watermarks.copied import CopiedStore
from tezio_signer.watermarks.entry import Entry
from tezio_signer.watermarks.rule import Mark, MarkId
from tezio_signer.watermarks.sqlite import store as sqlite
from tezio_signer.watermarks.sqlite.reading import Content, read_all
from tezio_signer.watermarks.sqlite.store import SqliteStore
from tezio_signer.watermarks.store import Spent, StoreAwayError

NOW = 1_790_000_000
_DATA = block(100, 0)


class SnapshotTests(SynchronousTestCase):
    """A copy of an SQLite store that a daemon has open."""

    def setUp(self) -> None:
        self.path = Path(self.mktemp())
        sqlite.create(self.path)
        store = SqliteStore(self.path)
        self.addCleanup(store.close)
        payload = decode(_DATA)
        assert isinstance(payload, Baking)
        self.payload = payload
        self.mark_id = MarkId(payload.chain_id, TZ3, Operation.BLOCK)
        store.keep(
            [(self.mark_id, Mark(100, 0, bytes(32)))], [Spent(TZ3, {bytes(32): Entry(NOW, 3, 1)})]
        )

    def files(self) -> dict[str, bytes]:
        """All files of the store, but for the memory in which SQLite notes who is reading."""
        files = self.path.parent.iterdir()
        return {path.name: path.read_bytes() for path in files if not path.name.endswith("-shm")}

    def copied(self) -> Content:
        """What is in it."""
        return read_all(self.path)

    def test_decided_as_there(self) -> None:
        """Claims and reservations are decided in the copy as the store has it."""
        content = self.copied()
        watermarks = Watermarks(lambda: CopiedStore(content), {}, Clock(), now=lambda: NOW)
        watermarks.startService()
        with self.assertRaises(Conflict):
            watermarks.claim(TZ3, self.payload, _DATA)
        reserve = watermarks.ledger.reserve
        self.failureResultOf(reserve(TZ3, b"\x01" * 32, 3, 1, 5, None), TooMany)
        self.successResultOf(reserve(TZ3, b"\x01" * 32, 2, 1, 5, None))
        self.failureResultOf(reserve(TZ3, b"\x02" * 32, 1, 1, 5, None), TooMany)
        self.successResultOf(watermarks.stopService())

    def test_nothing_changes(self) -> None:
        """The store is byte for byte as it was, whatever is decided in the copy."""
        before = self.files()
        self.test_decided_as_there()
        self.assertEqual(self.files(), before)

    def test_away(self) -> None:
        """A copy of a store that does not answer decides nothing."""
        away = CopiedStore(StoreAwayError("etcd is away"))
        self.failureResultOf(away.load(), StoreAwayError)
        watermarks = Watermarks(lambda: away, {}, Clock(), now=lambda: NOW)
        watermarks.startService()
        reserving = watermarks.ledger.reserve(TZ3, b"\x01" * 32, 1, 1, 5, None)
        self.assertIn("etcd is away", str(self.failureResultOf(reserving, Unavailable).value))
        self.successResultOf(watermarks.stopService())
