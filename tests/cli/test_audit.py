"""`tezio-signer audit`: whether the audit log is whole."""

import json

from tests.support.auditlogs import log_of
from tests.support.commandtest import CommandTestCase
from tezio_signer.audit.chain import Head, link_of


class VerifyTests(CommandTestCase):
    """What it says of files, and how it ends."""

    def setUp(self) -> None:
        super().setUp()
        self.lines = log_of(10)
        self.path = self.directory / "audit.jsonl"
        self.config.write_bytes(self.config.read_bytes() + b"\naudit: {file: audit.jsonl}\n")

    def head(self, number: int) -> Head:
        """The head at a line."""
        link = link_of(self.lines[number - 1])
        assert link is not None
        return link.head

    def write(self, *lines: bytes, name: str = "audit.jsonl") -> None:
        """Have a file with these lines."""
        (self.directory / name).write_bytes(b"".join(lines))

    def test_whole(self) -> None:
        """Of a log that is whole it says from where to where, and the head; it ends with 0."""
        self.write(*self.lines)
        outcome = self.run_command("audit", "verify")
        self.assertEqual((outcome.code, outcome.err), (0, ""))
        told, head, not_seen = outcome.out.splitlines()
        self.assertEqual(
            told,
            f"10 lines in {self.path}: none was changed, removed, added or moved from line 1 to "
            "line 10",
        )
        self.assertEqual(head, f"head {self.head(10)}")
        self.assertIn("What this cannot show: lines removed behind this one", not_seen)

    def test_wrong(self) -> None:
        """The first line that is wrong is named with its file; it ends with 1."""
        self.lines[4] = self.lines[4].replace(b'"status":200', b'"status":201')
        self.write(*self.lines)
        outcome = self.run_command("audit", "verify", str(self.path))
        self.assertEqual(outcome.code, 1)
        self.assertEqual(
            outcome.out.splitlines()[0],
            f"wrong: {self.path}:5: this line was changed: its hash is not that of its text",
        )
        self.assertEqual(
            outcome.err, "tezio-signer: the audit log is not as it was written: 1 fault\n"
        )

    def test_many(self) -> None:
        """Of very many faults the first ones are printed."""
        self.write(*[b"{}\n" + line for line in log_of(50)])
        text = self.run_command("audit", "verify").out
        self.assertEqual(text.count("wrong: "), 20)
        self.assertIn("more, which may follow from these", text)

    def test_json(self) -> None:
        """As JSON it says the same."""
        self.write(*self.lines[:9], self.lines[9][:50])
        outcome = self.run_command("audit", "verify", "--json")
        said = json.loads(outcome.out)
        self.assertEqual(outcome.code, 0)
        self.assertEqual(
            (said["files"], said["lines"], said["first"], said["head"], said["wrong"]),
            ([str(self.path)], 9, 1, str(self.head(9)), []),
        )
        ((note),) = said["notes"]
        self.assertEqual((note["file"], note["line"]), (str(self.path), 10))
        self.write(*self.lines[1:])
        outcome = self.run_command("audit", "verify", "--json")
        self.assertEqual((outcome.code, len(json.loads(outcome.out)["wrong"])), (1, 1))

    def test_rotated(self) -> None:
        """The older files of the configuration's log are found, whatever their order by name."""
        for number in range(12, 1, -1):
            self.write(*self.lines, name=f"audit.jsonl.{number - 1}")
            self.lines = log_of(10, self.head(10))
        self.write(*self.lines)
        outcome = self.run_command("audit", "verify")
        self.assertEqual(outcome.code, 0, outcome.out)
        self.assertIn("120 lines", outcome.out)
        self.path.unlink()
        self.assertIn("110 lines", self.run_command("audit", "verify").out)

    def test_heads(self) -> None:
        """What the daemon has logged as a head has to be there."""
        self.write(*self.lines[:8])
        known = [f"--head={self.head(number)}" for number in (1, 8)]
        self.assertEqual(self.run_command("audit", "verify", *known).code, 0)
        outcome = self.run_command("audit", "verify", f"--head={self.head(9)}")
        self.assertEqual(outcome.code, 1)
        self.assertIn("what was behind it was removed", outcome.out)

    def test_refused(self) -> None:
        """What cannot be done is one sentence, with 1; what is not understood ends with 2."""
        self.assertIn("cannot be read: No such file", self.refused("audit", "verify"))
        self.assertIn("cannot be read", self.refused("audit", "verify", str(self.directory)))
        bad = self.directory / "x.gz"
        bad.write_bytes(b"no gzip")
        said = self.refused("audit", "verify", "x.gz", str(self.config))
        self.assertIn("x.gz: it cannot be read: Not a gzipped file", said)
        self.assertIn(
            "leave one of them out", self.refused("audit", "verify", "x", "--config", "config.yaml")
        )
        self.config.write_text(self.config.read_text().replace("audit: {file", "# "))
        self.assertIn("names no audit log: set audit.file", self.refused("audit", "verify"))
        for wrong in (("--head", "1:2"), ("--nothing",)):
            self.assertEqual(self.run_command("audit", "verify", *wrong).code, 2)
        self.assertEqual(self.run_command("audit").code, 2)
