"""How a line is bound to the one before it."""

import json
from hashlib import sha256

from twisted.trial.unittest import SynchronousTestCase

from tests.support.auditlogs import log_of
from tezio_signer.audit.chain import (
    NO_HASH,
    Head,
    Torn,
    link_of,
    may_be_torn,
    other_format,
    seal,
    whole_line,
)


class ChainTests(SynchronousTestCase):
    """Lines, and their reading."""

    def test_bytes_of_a_line(self) -> None:
        """The hash is that of all bytes in front of it; the next line has it as `prev`."""
        first, head = seal(Head(), b'{"kind":"file"}')
        text = b'{"format":1,"number":1,"prev":"' + b"0" * 64 + b'","kind":"file"'
        own = sha256(text).hexdigest()
        self.assertEqual(first, text + b',"hash":"' + own.encode() + b'"}\n')
        self.assertEqual(head, Head(1, own))
        second, _ = seal(head, b'{"kind":"start"}')
        self.assertEqual(json.loads(second)["prev"], own)
        self.assertEqual(json.loads(second)["number"], 2)

    def test_torn(self) -> None:
        """A line says what lies in front of it, and that is within its hash."""
        line, _ = seal(Head(), b'{"kind":"file"}', Torn.of(b'{"form'))
        said = json.loads(line)["torn"]
        self.assertEqual(said, {"bytes": 6, "sha256": sha256(b'{"form').hexdigest()})
        link = whole_line(line)
        assert link is not None
        self.assertEqual(link.torn, Torn(6, said["sha256"]))
        self.assertIsNone(whole_line(line.replace(b'"bytes":6', b'"bytes":7')))

    def test_read(self) -> None:
        """What is read of a line is what was sealed."""
        before = Head(41, "ab" * 32)
        line, head = seal(before, b'{"a":"\\",\\"hash\\":\\"x"}')
        link = link_of(line)
        assert link is not None
        self.assertEqual((link.number, link.prev, link.head), (42, "ab" * 32, head))
        self.assertTrue(link.is_whole)

    def test_not_a_line(self) -> None:
        """What differs from the form by anything is no line."""
        line, _ = seal(Head(), b'{"kind":"file"}')
        for other in (
            b"",
            b"\n",
            line[:-1],
            b" " + line,
            line[:-1] + b" \n",
            line + b"\n",
            line.replace(b'"number":1', b'"number":01'),
            line.replace(b'"number":1', b'"number":0'),
            line.replace(b'"number":1,', b'"number": 1,'),
            line.replace(b'"format":1,', b""),
            line[:-70] + line[-70:].upper(),
        ):
            self.assertIsNone(link_of(other), other)

    def test_other_format(self) -> None:
        """A line of a later format is told from what is no line."""
        self.assertEqual(other_format(b'{"format":2,"sequence":1}\n'), 2)
        for none in (b'{"format":1,"number":1}\n', b"{}\n", b""):
            self.assertIsNone(other_format(none))

    def test_head(self) -> None:
        """A head is written and read in one way."""
        head = Head(12, "0a" * 32)
        self.assertEqual(str(head), "12:" + "0a" * 32)
        self.assertEqual(Head.parse(f" {head}\n"), head)
        for wrong in ("12", "12:0a", f"x:{NO_HASH}", f"12:{'0A' * 32}", f"-1:{NO_HASH}"):
            self.assertRaises(ValueError, Head.parse, wrong)

    def test_may_be_torn(self) -> None:
        """Each beginning of the line that comes next may be what a crash has left; nothing else."""
        first, second, third = log_of(3)
        head = link_of(first).head  # type: ignore[union-attr]
        for size in range(1, len(second) - 2):
            self.assertTrue(may_be_torn(second[:size], head), size)
            self.assertTrue(may_be_torn(second[:size], None), size)
        self.assertTrue(may_be_torn(b"\0" * 512, head))
        for other in (second, second[:-1] + b"x", third[:200], b"x", b"{}", second[:90] + b"\n"):
            self.assertFalse(may_be_torn(other, head), other)
