"""The decisions of an audit log, read again."""

import gzip
from hashlib import blake2b
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.support.auditlogs import decision, log_of
from tezio_signer.audit.chain import Head, link_of, seal
from tezio_signer.audit.reading import decision_at, decisions_on, entries, files_of
from tezio_signer.errors import StartupError


class ReadingTests(SynchronousTestCase):
    """Lines by their number, over all files."""

    def setUp(self) -> None:
        self.path = Path(self.mktemp()).absolute() / "audit.jsonl"
        self.path.parent.mkdir()
        older = log_of(4)
        link = link_of(older[-1])
        assert link is not None
        self.older = self.path.with_name("audit.jsonl.2.gz")
        self.older.write_bytes(gzip.compress(b"".join(older)))
        self.path.write_bytes(b"".join(log_of(3, link.head)))

    def test_by_number(self) -> None:
        """A decision is found in whichever file it is, with its payload."""
        for number, was in ((2, 1), (4, 3), (6, 1)):
            found = decision_at(self.path, number)
            assert found is not None
            data = decision(was).data
            assert data is not None
            self.assertEqual((found["number"], found["data"]), (number, data.hex()))

    def test_by_digest(self) -> None:
        """All decisions on a payload are found by the beginning of its digest."""
        data = decision(1).data
        assert data is not None
        whole = blake2b(data, digest_size=32).hexdigest()
        for digest in (whole, whole[:8]):
            found = decisions_on(self.path, digest)
            self.assertEqual([entry["number"] for entry in found], [2, 6])
        self.assertEqual(decisions_on(self.path, "0" * 64), [])

    def test_no_decision(self) -> None:
        """A line that is none of a decision, or is not there, is not found."""
        for number in (0, 1, 5, 8):
            self.assertIsNone(decision_at(self.path, number))

    def test_torn(self) -> None:
        """What is no line is passed over."""
        data = self.path.read_bytes()
        self.path.write_bytes(data[:-20] + b"\n\0\n[]\n" + data[-20:])
        numbers = [entry["number"] for entry in entries(files_of(self.path))]
        self.assertEqual(numbers, [1, 2, 3, 4, 5, 6])

    def test_deep(self) -> None:
        """So is what no program would read."""
        line, _ = seal(Head(7), b'{"kind":' + b"[" * 200_000 + b"}")
        with self.path.open("ab") as file:
            file.write(line)
        self.assertIsNone(decision_at(self.path, 8))

    def test_unreadable(self) -> None:
        """A file that cannot be read is one sentence."""
        compressed = bytearray(self.older.read_bytes())
        compressed[20:60] = bytes(40)
        self.older.write_bytes(compressed)
        error = self.assertRaises(StartupError, decision_at, self.path, 3)
        self.assertIn("cannot be read: Error -3 while decompressing", str(error))
        self.older.write_bytes(b"no gzip")
        error = self.assertRaises(StartupError, decision_at, self.path, 3)
        self.assertIn("cannot be read: Not a gzipped file", str(error))
        error = self.assertRaises(StartupError, decision_at, self.path.with_name("none"), 3)
        self.assertIn("cannot be read: No such file", str(error))
