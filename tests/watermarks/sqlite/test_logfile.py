"""Which pages are in the log, and a file whose last page is cut."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from struct import iter_unpack, pack

from tests.support.sqlitecase import BLOCK, MARK, StoreTestCase
from tests.support.vectors import TZ3
from tezio_signer.watermarks.entry import Entry
from tezio_signer.watermarks.sqlite import store as sqlite
from tezio_signer.watermarks.sqlite.logfile import pages_in_log
from tezio_signer.watermarks.sqlite.store import SqliteStore
from tezio_signer.watermarks.store import Spent

_PAGE = 4096
_ENTRIES = {n.to_bytes(32, "big"): Entry(n, n, 1) for n in range(200)}


class LogTests(StoreTestCase):
    """A store that has grown, in its log."""

    def setUp(self) -> None:
        super().setUp()
        sqlite.create(self.path)
        self.killed = self.directory / "killed"
        with closing(self.open()) as store:
            store.keep([(BLOCK, MARK)], [Spent(TZ3, _ENTRIES)])
            for suffix in ("", "-wal"):
                shutil.copy(f"{self.path}{suffix}", f"{self.killed}{suffix}")
        self.log = Path(f"{self.killed}-wal")

    def grown(self) -> bytes:
        """The file as it is when all of its log was brought into it."""
        return self.path.read_bytes()

    def test_pages(self) -> None:
        """All pages that have changed are there."""
        before, grown = self.killed.read_bytes(), self.grown()
        changed = {
            number + 1
            for number in range(len(grown) // _PAGE)
            if grown[number * _PAGE :][:_PAGE] != before[number * _PAGE :][:_PAGE]
        }
        self.assertGreater(len(changed), 3)
        self.assertLessEqual(changed - {1}, pages_in_log(self.killed))

    def test_last_page_cut(self) -> None:
        """A file that grew by a part of a page, whose whole is in the log, is well."""
        grown = self.grown()
        for size in (len(grown) - _PAGE + 512, len(grown) - 512, len(grown) - 2 * _PAGE + 1):
            copy = self.directory / f"cut-{size}"
            copy.write_bytes(grown[:size])
            shutil.copy(self.log, f"{copy}-wal")
            with closing(SqliteStore(copy)) as store:
                self.assertEqual(store.load(), {BLOCK: MARK})
                self.assertEqual(store.spent(TZ3), _ENTRIES)

    def test_really_cut(self) -> None:
        """Without the log, or with one in which the page is not, or not certain, it is damaged."""
        size = len(self.grown()) - 512
        log = self.log.read_bytes()
        changed = bytearray(log)
        changed[-100] ^= 1
        for number, left in enumerate((None, b"", log[:20], log[:-1], bytes(changed), b"x" * 99)):
            copy = self.directory / f"cut-{number}"
            copy.write_bytes(self.grown()[:size])
            if left is not None:
                Path(f"{copy}-wal").write_bytes(left)
            self.assertIn("it is cut off", self.refused(copy))

    def test_as_sqlite_reads_it(self) -> None:
        """Of logs that are cut anywhere, the pages are those that SQLite sees as well."""
        log = self.log.read_bytes()
        for end in range(32, len(log) + 1, 24 + _PAGE):
            copy = self.directory / f"log-{end}"
            shutil.copy(self.killed, copy)
            Path(f"{copy}-wal").write_bytes(log[: end + 100])
            with closing(sqlite3.connect(copy)) as connection:
                ((there,),) = connection.execute("SELECT count(*) FROM spending").fetchall()
            self.assertEqual(bool(there), len(pages_in_log_of(log[: end + 100], copy)) > 1, end)

    def test_summed_the_other_way(self) -> None:
        """A log of a machine with the other order of bytes has the same pages."""
        log = bytearray(self.log.read_bytes())
        pages = pages_in_log(self.killed)
        log[3] ^= 1
        sums = _summed(log[:24], log[3], (0, 0))
        log[24:32] = pack(">2I", *sums)
        for start in range(32, len(log), 24 + _PAGE):
            sums = _summed(log[start : start + 8], log[3], sums)
            sums = _summed(log[start + 24 : start + 24 + _PAGE], log[3], sums)
            log[start + 16 : start + 24] = pack(">2I", *sums)
        self.log.write_bytes(log)
        self.assertEqual(pages_in_log(self.killed), pages)
        with closing(sqlite3.connect(self.killed)) as connection:
            ((there,),) = connection.execute("SELECT count(*) FROM spending").fetchall()
        self.assertEqual(there, len(_ENTRIES))


def _summed(data: bytes | bytearray, magic: int, sums: tuple[int, int]) -> tuple[int, int]:
    """The sums with more data, as the last byte of the magic number says (SQLite's 4.2)."""
    first, second = sums
    for one, other in iter_unpack(">2I" if magic & 1 else "<2I", data):
        first = (first + one + second) % 2**32
        second = (second + other + first) % 2**32
    return first, second


def pages_in_log_of(log: bytes, copy: Path) -> set[int]:
    """Those of a log that SQLite has not yet brought into its file."""
    other = copy.with_name(f"{copy.name}-again")
    Path(f"{other}-wal").write_bytes(log)
    return pages_in_log(other)
