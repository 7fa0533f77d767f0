"""What is said when SQLite, or the system, does not let a store be used."""

import sqlite3
from typing import Any

from tests.support.sqlitecase import StoreTestCase
from tezio_signer.watermarks.sqlite import schema
from tezio_signer.watermarks.store import StoreError


class ErrorsTests(StoreTestCase):
    """The sentence for an error."""

    def said(self, error: Exception, beside: Any = None) -> str:
        """What is said of an error of a store."""

        def fail() -> None:
            with schema.errors(self.path, beside):
                raise error

        return str(self.assertRaises(StoreError, fail))

    def test_denied(self) -> None:
        """What SQLite may not open or write is told with whose it is, what else fails is not."""
        self.patch(schema, "what_is_denied", lambda path: f"; {path} belongs to another user")
        for code, denied in (
            (sqlite3.SQLITE_CANTOPEN, True),
            (sqlite3.SQLITE_READONLY_DBMOVED, True),
            (sqlite3.SQLITE_PERM, True),
            (sqlite3.SQLITE_FULL, False),
        ):
            error = sqlite3.OperationalError("it does not work")
            error.sqlite_errorcode = code
            more = f"; {self.path} belongs to another user" if denied else ""
            expected = f"watermark store {self.path}: it does not work{more}"
            self.assertEqual(self.said(error), expected)
        self.assertIn("belongs to another user", self.said(PermissionError(13, "denied")))

    def test_why_not_written(self) -> None:
        """What SQLite calls an error of the disk is told in the words of the system, no other."""

        class Beside:
            why = "File too large"

            def why_not_written(self) -> str:
                return self.why

        beside = Beside()
        for code, more in (
            (sqlite3.SQLITE_IOERR, ": File too large"),
            (sqlite3.SQLITE_IOERR_WRITE, ": File too large"),
            (sqlite3.SQLITE_FULL, ""),
            (sqlite3.SQLITE_CORRUPT, schema.RESCUE),
        ):
            error = sqlite3.OperationalError("it does not work")
            error.sqlite_errorcode = code
            expected = f"watermark store {self.path}: it does not work"
            self.assertEqual(self.said(error, beside), f"{expected}{more}")
        error.sqlite_errorcode = sqlite3.SQLITE_IOERR
        beside.why = ""
        self.assertEqual(self.said(error, beside), expected)
        self.assertEqual(self.said(error), expected)


class ConnectingTests(StoreTestCase):
    """How a file is opened."""

    def test_never_made(self) -> None:
        """The name is given as a URI, in which it is said that no file is made.

        Some builds of SQLite take every name for a URI if it looks like one, but not all.
        """
        options: list[object] = []
        connect = sqlite3.connect

        def recorded(name: str, **given: Any) -> sqlite3.Connection:
            options.append(given.get("uri"))
            made: sqlite3.Connection = connect(name, **given)
            return made

        self.patch(sqlite3, "connect", recorded)
        self.assertRaises(sqlite3.OperationalError, schema.connect, self.path)
        self.assertEqual((options, self.path.exists()), ([True], False))
