"""The watermark store in one SQLite file: what is kept, and what is opened."""

import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from attrs import evolve

from tests.support.sqlitecase import BLOCK, MARK, SIGNATURE, StoreTestCase
from tests.support.stores import watermarks_on
from tests.support.vectors import TZ1, TZ2, TZ3
from tezio_signer.errors import StartupError
from tezio_signer.tezos.keys import Curve
from tezio_signer.tezos.payload import Operation
from tezio_signer.watermarks.entry import Entry
from tezio_signer.watermarks.rule import Mark, MarkId
from tezio_signer.watermarks.sqlite import reading
from tezio_signer.watermarks.sqlite import store as sqlite
from tezio_signer.watermarks.sqlite.store import SqliteStore
from tezio_signer.watermarks.store import StoreError


def same(left: Path, right: Path) -> bool:
    """Whether two files have the same content."""
    return left.read_bytes() == right.read_bytes()


class KeepingTests(StoreTestCase):
    """What was written is read again."""

    def setUp(self) -> None:
        super().setUp()
        sqlite.create(self.path)

    def test_new_store(self) -> None:
        """A new store has no marks, and is for its owner only."""
        self.assertEqual(self.open().load(), {})
        self.assertEqual(self.path.stat().st_mode & 0o777, 0o600)

    def test_everything_is_kept(self) -> None:
        """Chain, key, operation, position, payload hash and signature outlive the process."""
        marks = {
            BLOCK: MARK,
            MarkId("NetXdQprcVkpaWU", TZ1, Operation.PREATTESTATION): Mark(0, 0, bytes(32)),
            MarkId("NetXnHfVqm9iesp", TZ3, Operation.BLOCK): Mark(
                2**31 - 1, 2**31 - 1, b"\xff" * 32
            ),
        }
        signatures = {
            BLOCK: SIGNATURE,
            MarkId("NetXdQprcVkpaWU", TZ2, Operation.ATTESTATION): evolve(
                SIGNATURE, curve=Curve.SECP256K1
            ),
            MarkId("NetXdQprcVkpaWU", TZ1, Operation.ATTESTATION): evolve(
                SIGNATURE, curve=Curve.ED25519
            ),
        }
        store = self.open()
        for mark_id in marks.keys() | signatures.keys():
            store.keep([(mark_id, marks.get(mark_id, MARK))])
        for mark_id, signature in signatures.items():
            signed = evolve(marks.get(mark_id, MARK), signature=signature)
            store.keep([(mark_id, signed)])
            marks[mark_id] = signed
        self.assertEqual(store.load(), marks)
        store.close()
        self.assertEqual(self.open().load(), marks)

    def test_mark_moves(self) -> None:
        """A new position replaces the one before, and its signature."""
        store = self.open()
        store.keep([(BLOCK, MARK)])
        store.keep([(BLOCK, evolve(MARK, signature=SIGNATURE))])
        store.keep([(BLOCK, evolve(MARK, round=3))])
        self.assertEqual(store.load(), {BLOCK: evolve(MARK, round=3)})

    def test_replace(self) -> None:
        """Marks put in the place of others, lower ones too, are kept with their signatures."""
        store = self.open()
        store.keep([(BLOCK, MARK)])
        other = evolve(BLOCK, key=TZ1)
        signature = evolve(SIGNATURE, curve=Curve.ED25519)
        marks = {BLOCK: evolve(MARK, level=7), other: evolve(MARK, signature=signature)}
        store.replace(marks)
        self.assertEqual(store.load(), marks)
        store.replace({})
        store.replace({other: MARK})
        self.assertEqual(store.load(), {**marks, other: MARK})

    def test_replace_spending(self) -> None:
        """Entries are put beside them."""
        store = self.open()
        spending = {key: {bytes(32): Entry(7, 5, 1)} for key in (TZ1, TZ3)}
        store.replace({BLOCK: MARK}, spending)
        self.assertEqual({key: store.spent(key) for key in spending}, spending)
        store.close()
        self.assertEqual(self.open().spending(), spending)

    def test_replace_all_or_none(self) -> None:
        """When one of several marks cannot be written, none is, and the store goes on."""
        store = self.open()
        store.keep([(BLOCK, MARK)])
        self.execute(
            self.path,
            "CREATE TRIGGER full BEFORE INSERT ON marks WHEN NEW.level = 9 "
            "BEGIN SELECT RAISE(ABORT, 'disk full'); END",
        )
        marks = {BLOCK: evolve(MARK, level=8), evolve(BLOCK, key=TZ1): evolve(MARK, level=9)}
        error = self.assertRaises(StoreError, store.replace, marks)
        self.assertIn("disk full", str(error))
        self.assertEqual(store.load(), {BLOCK: MARK})
        store.keep([(BLOCK, evolve(MARK, round=9))])
        self.assertEqual(store.load(), {BLOCK: evolve(MARK, round=9)})

    def test_in_memory(self) -> None:
        """A store without a file keeps marks until it is closed, and no two are the same."""
        first, second = SqliteStore(None), SqliteStore(None)
        self.addCleanup(second.close)
        first.keep([(BLOCK, MARK)])
        self.assertEqual((first.load(), second.load()), ({BLOCK: MARK}, {}))
        first.close()
        self.assertIn("in memory", str(self.assertRaises(StoreError, first.load)))

    def test_not_decoded_again(self) -> None:
        """What was written last is not decoded again for the next mark: that takes time."""

        def fail(*_: object) -> Mark:
            raise AssertionError

        store = self.open()
        store.keep([(BLOCK, MARK)])
        self.patch(sqlite, "mark_of", fail)
        store.keep([(BLOCK, evolve(MARK, signature=SIGNATURE))])

    def test_damaged_later(self) -> None:
        """A row that makes no sense any more is not taken for none: anything could follow it."""
        store = SqliteStore(None)
        self.addCleanup(store.close)
        store.keep([(BLOCK, MARK)])
        store._connection.execute("UPDATE marks SET signature = 'p2sig'")
        error = self.assertRaises(StoreError, store.keep, [(BLOCK, evolve(MARK, round=7))])
        self.assertIn("is damaged", str(error))

    def test_closed(self) -> None:
        """Writing to a closed store is an error of the store, signature or not."""
        store = self.open()
        store.close()
        signed = evolve(MARK, signature=SIGNATURE)
        for mark in (MARK, signed):
            error = self.assertRaises(StoreError, store.keep, [(BLOCK, mark)])
            self.assertIn(str(self.path), str(error))


class DurabilityTests(StoreTestCase):
    """How marks reach the disk."""

    def trace(self) -> list[str]:
        """Every statement that any connection executes from now on."""
        statements: list[str] = []
        connect = sqlite3.connect

        def traced(*args: Any, **kwargs: Any) -> sqlite3.Connection:
            connection: sqlite3.Connection = connect(*args, **kwargs)
            connection.set_trace_callback(lambda text: statements.append(" ".join(text.split())))
            return connection

        self.patch(sqlite3, "connect", traced)
        return statements

    def test_everything_is_synced(self) -> None:
        """Each mark and each signature is written in a transaction, under FULL."""
        sqlite.create(self.path)
        statements = self.trace()
        store = self.open()
        store.keep([(BLOCK, MARK)])
        store.keep([(BLOCK, evolve(MARK, signature=SIGNATURE))])
        store.keep([(BLOCK, evolve(MARK, level=5_000_001))])
        synchronous = "the default"
        written = []
        for statement in statements:
            words = statement.upper().replace("=", " = ").split()
            if words[:3] == ["PRAGMA", "SYNCHRONOUS", "="]:
                synchronous = words[3]
            elif words[0] in ("INSERT", "UPDATE", "COMMIT", "END", "RELEASE"):
                written.append((words[0], synchronous))
        self.assertEqual(written, 3 * [("INSERT", "FULL"), ("COMMIT", "FULL")])
        self.assertEqual(synchronous, "FULL")

    def test_write_ahead_log(self) -> None:
        """The file is in WAL mode (bytes 18 and 19 of its header), and known as ours."""
        sqlite.create(self.path)
        header = self.path.read_bytes()[:100]
        self.assertEqual(header[18:20], b"\x02\x02")
        self.assertEqual(header[68:72], b"TEZI")

    def test_survives_without_closing(self) -> None:
        """What was kept is in the files at once, as a crash of the process would leave them."""
        sqlite.create(self.path)
        store = self.open()
        store.keep([(BLOCK, MARK)])
        store.keep([(BLOCK, evolve(MARK, signature=SIGNATURE))])
        copy = self.directory / "after-the-crash"
        for suffix in ("", "-wal"):
            shutil.copy(f"{self.path}{suffix}", f"{copy}{suffix}")
        store.close()
        self.assertEqual(self.open(copy).load(), {BLOCK: evolve(MARK, signature=SIGNATURE)})


class OpeningTests(StoreTestCase):
    """What is no store is never taken for one, least of all for an empty one."""

    def kept(self, mark: Mark = MARK) -> bytes:
        """The bytes of a closed store with one mark."""
        sqlite.create(self.path)
        store = SqliteStore(self.path)
        store.keep([(BLOCK, mark)])
        store.close()
        return self.path.read_bytes()

    def test_missing(self) -> None:
        """A missing store is not made, and the command that makes it is named."""
        for path in (self.path, self.directory / "missing" / "a"):
            self.assertIn("does not exist", self.refused(path))
            self.assertIn("tezio-signer watermarks init", self.refused(path))
        self.assertEqual(list(self.directory.iterdir()), [])

    def test_foreign(self) -> None:
        """A file of another kind is refused, and stays as it is."""
        text = self.directory / "text"
        text.write_text("level: 5000000\n" * 100)
        other = self.directory / "other"
        self.execute(other, "CREATE TABLE marks (level INTEGER)", "INSERT INTO marks VALUES (7)")
        for path, words in [
            (text, "file is not a database"),
            (other, "is not a watermark store of Tezio Signer"),
        ]:
            before = self.directory / "before"
            shutil.copy(path, before)
            self.assertIn(words, self.refused(path))
            self.assertTrue(same(path, before), path)

    def test_other_version(self) -> None:
        """A store of another version is refused, with both versions."""
        sqlite.create(self.path)
        self.execute(self.path, "PRAGMA user_version = 4")
        self.assertIn("has schema version 4, not 3", self.refused(self.path))

    def test_id(self) -> None:
        """A store that does not say which it is, or says it twice, is damaged."""
        sqlite.create(self.path)
        self.execute(self.path, "INSERT INTO store VALUES ('a')")
        self.assertIn("damaged: it has 2 ids", self.refused(self.path))
        self.execute(self.path, "DELETE FROM store")
        self.assertIn("damaged: it has 0 ids", self.refused(self.path))
        for none in ("a" * 31, "a" * 33, "g" * 32):
            self.execute(self.path, "DELETE FROM store", f"INSERT INTO store VALUES ('{none}')")  # noqa: S608
            self.assertIn("damaged: its id is none", self.refused(self.path))

    def test_other_tables(self) -> None:
        """A store whose tables are not those of its version is damaged."""
        data = self.kept()
        for statement in (
            "ALTER TABLE marks ADD COLUMN extra TEXT",
            "ALTER TABLE marks RENAME COLUMN level TO height",
            "DROP TABLE marks",
            "DROP TABLE store",
            "CREATE TABLE other (a)",
            "CREATE TRIGGER low AFTER INSERT ON marks BEGIN UPDATE marks SET level = 1; END",
        ):
            self.path.write_bytes(data)
            self.execute(self.path, statement)
            error = self.refused(self.path)
            self.assertIn("damaged: its tables are not those of schema version 3", error)
        self.path.write_bytes(data)
        self.execute(self.path, "ANALYZE", "VACUUM")
        self.assertEqual(self.open().load(), {BLOCK: MARK})

    def test_directory(self) -> None:
        """A directory is no store, and nor is a pipe, which is not waited for."""
        (self.path / "inside").mkdir(parents=True)
        for words in ("is a directory: name a file in it", "is no file on a disk"):
            sentence = self.refused(self.path)
            self.assertIn(words, sentence)
            for read in (reading.read, reading.check_access):
                self.assertEqual(str(self.assertRaises(StoreError, read, self.path)), sentence)
            if self.path.is_dir():
                (self.path / "inside").rmdir()
                self.path.rmdir()
                os.mkfifo(self.path)

    def test_damaged(self) -> None:
        """A store whose pages, or whose contents, make no sense is refused as damaged."""
        data = self.kept()
        self.path.write_bytes(data[:4096] + b"\xff" * 100 + data[4196:])
        self.assertIn("damaged", self.refused(self.path))

    def test_damaged_rows(self) -> None:
        """With a row that makes no sense no daemon starts, and the sentence says what is wrong."""
        data = self.kept()
        for column, value, words in [
            ("chain_id", f"'{TZ3}'", "marks.chain"),
            ("chain_id", "CAST(x'ff0a' AS TEXT)", "marks.chain"),
            ("key", "'tz1'", "marks.key"),
            ("operation", "'endorsement'", "marks.operation"),
            ("operation", "'generic'", "marks.operation"),
            ("level", "-1", "marks.level"),
            ("level", str(2**31), "marks.level"),
            ("round", str(2**63 - 1), "marks.round"),
            ("payload_hash", "x'00'", "payload hash"),
            ("signature", "'p2sig'", "signature is unreadable"),
            ("signature", f"'{evolve(SIGNATURE, curve=Curve.ED25519)}'", "none of a tz3 key"),
        ]:
            self.path.write_bytes(data)
            self.execute(self.path, f"UPDATE marks SET {column} = {value}")  # noqa: S608
            watermarks = watermarks_on(lambda: SqliteStore(self.path))
            sentence = str(self.assertRaises(StartupError, watermarks.startService))
            self.assertIn(f"{self.path} is damaged: ", sentence)
            self.assertIn(words, sentence)
            self.assertIn("high_water_marks", sentence)
            self.assertNotIn("\n", sentence)

    def test_truncated(self) -> None:
        """A store that was cut off anywhere is refused, or still says all it said."""
        data = self.kept()
        cut = self.directory / "cut"
        for length in [*range(0, len(data) - 200, 97), *range(len(data) - 200, len(data))]:
            for left_over in self.directory.glob("cut*"):
                left_over.unlink()
            cut.write_bytes(data[:length])
            try:
                with closing(SqliteStore(cut)) as store:
                    marks = store.load()
            except StoreError:
                continue
            self.assertEqual(marks, {BLOCK: MARK}, f"cut off after {length} bytes")

    def test_unreadable_directory(self) -> None:
        """A store in a directory without access is refused with the reason."""
        sqlite.create(self.path)
        if os.geteuid() == 0:  # whom no mode stops
            os.seteuid(65534)
            self.addCleanup(os.seteuid, 0)
        else:
            self.addCleanup(self.directory.chmod, 0o700)
            self.directory.chmod(0)
        self.assertIn("Permission denied", self.refused(self.path))

    def test_unwritable_lock(self) -> None:
        """Without its lock a store is not used."""
        sqlite.create(self.path)
        lock = self.directory / "marks.sqlite.lock"
        lock.mkdir()
        self.assertIn(f"{lock}: Is a directory", self.refused(self.path))

    def test_advice(self) -> None:
        """A refusal says what to do about it."""
        data = self.kept()
        damaged, foreign, newer = (
            self.directory / name for name in ("damaged", "foreign", "newer")
        )
        damaged.write_bytes(data[:4096] + bytes(100) + b"\xff" * 100)
        self.execute(foreign, "CREATE TABLE a (b)")
        newer.write_bytes(data)
        self.execute(newer, "PRAGMA user_version = 4")
        self.open()
        for path, words in [
            (damaged, ("high_water_marks", "tezio-signer watermarks init")),
            (foreign, ("watermarks.store",)),
            (newer, ("version of Tezio Signer",)),
            (self.path, ("stop it first",)),
        ]:
            error = self.refused(path)
            for word in words:
                self.assertIn(word, error)
