"""What tests of the store in an SQLite file have in common."""

import sqlite3
from contextlib import closing
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.support.vectors import TZ3
from tezio_signer.tezos.keys import Curve, Signature
from tezio_signer.tezos.payload import Operation
from tezio_signer.watermarks.rule import Mark, MarkId
from tezio_signer.watermarks.sqlite.store import SqliteStore
from tezio_signer.watermarks.store import StoreError

BLOCK = MarkId("NetXdQprcVkpaWU", TZ3, Operation.BLOCK)
MARK = Mark(5_000_000, 2, b"\x01" * 32)
SIGNATURE = Signature(Curve.P256, bytes(range(64)))


class StoreTestCase(SynchronousTestCase):
    """Has a directory of its own, and closes what it opens."""

    def setUp(self) -> None:
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir()
        self.path = self.directory / "marks.sqlite"

    def open(self, path: Path | None = None) -> SqliteStore:
        """An open store, closed when the test ends."""
        store = SqliteStore(path or self.path)
        self.addCleanup(store.close)
        return store

    def refused(self, path: Path) -> str:
        """Why a store cannot be opened."""
        error = str(self.assertRaises(StoreError, SqliteStore, path))
        self.assertIn(str(path), error)
        self.assertNotIn("\n", error)
        return error

    def execute(self, path: Path, *statements: str) -> None:
        """Change a database behind the store's back."""
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            for statement in statements:
                connection.execute(statement)
