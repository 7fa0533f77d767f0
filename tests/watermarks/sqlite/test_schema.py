"""What is said when SQLite, or the system, does not let a store be used."""

import sqlite3

from tests.support.sqlitecase import StoreTestCase
from tezio_signer.watermarks.sqlite import schema
from tezio_signer.watermarks.store import StoreError


class ErrorsTests(StoreTestCase):
    """The sentence for an error."""

    def said(self, error: Exception) -> str:
        """What is said of an error of a store."""

        def fail() -> None:
            with schema.errors(self.path):
                raise error

        return str(self.assertRaises(StoreError, fail))

    def test_denied(self) -> None:
        """What SQLite may not open or write is told with whose it is, what else fails is not."""
        self.patch(schema, "what_is_denied", lambda path: f"; {path} belongs to another user")
        for code, denied in (
            (sqlite3.SQLITE_CANTOPEN, True),
            (sqlite3.SQLITE_READONLY_DBMOVED, True),
            (sqlite3.SQLITE_FULL, False),
        ):
            error = sqlite3.OperationalError("it does not work")
            error.sqlite_errorcode = code
            more = f"; {self.path} belongs to another user" if denied else ""
            expected = f"watermark store {self.path}: it does not work{more}"
            self.assertEqual(self.said(error), expected)
        self.assertIn("belongs to another user", self.said(PermissionError(13, "denied")))
