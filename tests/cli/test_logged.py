"""`tezio-signer explain --log`: what was decided, and what would be now."""

import gzip
import json

from attrs import evolve

from tests.support.auditlogs import NOON
from tests.support.explaincase import ExplainTestCase
from tests.support.harness import submission
from tests.support.vectors import PAYLOADS, TZ1, TZ3, block, consensus
from tezio_signer.audit.chain import Head, seal
from tezio_signer.audit.entries import first_entry
from tezio_signer.audit.facts import entry_of
from tezio_signer.decision import Decision, Moved, Outcome
from tezio_signer.errors import Conflict, Forbidden, Malformed, Refused, TooMany
from tezio_signer.request import Admitted, Credentials, Listener, Peer, Submission
from tezio_signer.tezos.keys import digest

BLOCK = block(7, 0)
LATER = block(9, 0)
ATTESTATION = consensus("att", 9, 0)
NEVER = PAYLOADS["noop"]


def signed(payload: bytes) -> Decision:
    """A signature for tz3."""
    decision = evolve(Decision.on(submission(payload)), milliseconds=152, device="A1B2C3D4")
    return evolve(decision, outcome=Outcome.SIGNED, mark=Moved((5, 0), (7, 0)))


def refused(payload: bytes, refused: Refused, rule: str, peer: Peer | None = None) -> Decision:
    """A refusal for tz3."""
    decision = evolve(Decision.on(submission(payload, peer=peer)), milliseconds=3)
    return decision.refused(refused.by(rule))


class LogTestCase(ExplainTestCase):
    """Has an audit log."""

    def setUp(self) -> None:
        super().setUp()
        self.configure(audit={"file": "audit.jsonl"})
        self.log = self.directory / "audit.jsonl"

    def lines(self, *decisions: Decision, before: Head | None = None) -> list[bytes]:
        """The lines of these decisions, behind the first one of a file."""
        head = before or Head()
        lines = []
        for fields in (first_entry(NOON), *(entry_of(each, NOON) for each in decisions)):
            line, head = seal(head, fields)
            lines.append(line)
        return lines

    def write_log(self, *decisions: Decision) -> None:
        """Have a log with these decisions, of which the first is in line 2."""
        self.log.write_bytes(b"".join(self.lines(*decisions)))

    def said(self, which: str, *options: str, code: int = 0) -> str:
        """What is said of a decision, on one line."""
        outcome = self.run_command("explain", "--log", which, *options)
        self.assertEqual((outcome.code, outcome.err), (code, ""), outcome)
        return " ".join(outcome.out.split())


class WhichTests(LogTestCase):
    """Which decision is meant."""

    def test_ways_to_say_it(self) -> None:
        """The last one, the last refusal, a line, and a digest or the beginning of one."""
        answered = Decision("GET /known_keys", Peer())
        self.write_log(
            signed(BLOCK),
            refused(ATTESTATION, Conflict("no"), "watermark"),
            signed(LATER),
            answered,
            answered.refused(Forbidden("no")),
        )
        for which, shown in (
            ("last", "block 9/0"),
            ("refused", "attestation 9/0"),
            ("2", "block 7/0"),
            ("4", "block 9/0"),
            (digest(BLOCK).hex(), "block 7/0"),
            (digest(ATTESTATION).hex()[:8].upper(), "attestation 9/0"),
        ):
            self.assertIn(f"asked for {shown} for {TZ3}", self.said(which))

    def test_last_of_a_digest(self) -> None:
        """If it was asked for several times, the last decision is shown."""
        self.write_log(refused(BLOCK, TooMany("once"), "rate"), signed(BLOCK))
        self.assertIn("line 3 file", self.said(digest(BLOCK).hex()))

    def test_older_files(self) -> None:
        """Files that were moved out of the way are read too, compressed or not."""
        older = self.lines(signed(BLOCK))
        head = Head(2, json.loads(older[-1])["hash"])
        (self.directory / "audit.jsonl.1.gz").write_bytes(gzip.compress(b"".join(older)))
        self.log.write_bytes(b"".join(self.lines(signed(LATER), before=head)))
        self.assertIn("line 2 file", self.said("2"))
        self.assertIn("line 4 file", self.said("last"))

    def test_none(self) -> None:
        """One that is not there, no log, and what is none of these."""
        line = self.refused("explain", "--log", "last")
        self.assertIn("audit.jsonl has no such decision", line)
        self.write_log(signed(BLOCK))
        for which in ("refused", "1", "9", "0" * 9 + "a"):
            self.assertIn("has no such decision", self.refused("explain", "--log", which))
        self.log.unlink()
        self.log.mkdir()
        self.assertIn("it cannot be read: ", self.refused("explain", "--log", "last"))

    def test_not_configured(self) -> None:
        """Without an audit log nothing is found, and it is said which setting that is."""
        text = self.config.read_text().replace("audit:\n  file: audit.jsonl\n", "")
        self.config.write_text(text)
        self.assertIn("(audit.file)", self.refused("explain", "--log", "last"))

    def test_usage(self) -> None:
        """Either a payload or a decision, and one that can be meant."""
        for arguments in ([], [BLOCK.hex(), "--log", "last"], ["--log", "first"], ["--log", "abc"]):
            outcome = self.run_command("explain", *arguments)
            self.assertEqual((outcome.code, outcome.out), (2, ""))


class RecordTests(LogTestCase):
    """What is said of it."""

    def test_signed(self) -> None:
        """A signature: when, by whom, which board, which mark; and what would be decided now."""
        self.write_log(signed(BLOCK))
        said = self.said("2")
        # The path is in one piece, however long it is.
        self.assertIn(f"decision 2026-11-28T12:00:00.000Z, line 2 file {self.log} asked by", said)
        self.assertIn("asked by 127.0.0.1, by http", said)
        self.assertIn("outcome signed board A1B2C3D4", said)
        self.assertIn("mark level 5 round 0 to level 7 round 0 took 152 ms", said)
        self.assertIn("payload block, 198 bytes", said)
        self.assertIn("decision: would be signed", said)
        self.assertTrue(said.endswith("compared: the same as the log says was decided then"))

    def test_refused(self) -> None:
        """A refusal, which would be one again."""
        self.write_log(refused(BLOCK, Forbidden("too far"), "operation"))
        said = self.said("refused", "--key", str(TZ1), code=1)
        self.assertIn("outcome refused by the rule operation: 403 too far", said)
        self.assertIn("decision: would be refused by the rule operation", said)
        self.assertIn("compared: the same", said)

    def test_another_decision(self) -> None:
        """What is decided otherwise now is said to be."""
        self.write_log(refused(BLOCK, Forbidden("too far"), "chain"), signed(NEVER))
        said = self.said("2")
        self.assertIn(
            "compared: another one than then, when it was refused by the rule chain", said
        )
        said = self.said("last", "--peer", "192.0.2.1", code=1)
        self.assertIn("compared: another one than then, when it was signed;", said)

    def test_what_is_not_known(self) -> None:
        """A rule about which only the daemon knows is not compared."""
        self.configure(limits={"signatures_per_minute": 1})
        self.write_log(refused(NEVER, TooMany("too many"), "rate"))
        self.assertIn("compared: not known here: then it was refused", self.said("last"))

    def test_user(self) -> None:
        """Who asked at a Unix socket is taken for the same user again."""
        self.configure(allowed_uids=[1000])
        for uid, code in ((1000, 0), (1001, 1)):
            peer = Peer(credentials=Credentials(12, uid, 100))
            self.write_log(refused(BLOCK, Forbidden("no"), "chain", peer))
            said = self.said("last", code=code)
            self.assertIn(f"asked by 127.0.0.1 (uid {uid}, gid 100, pid 12)", said)

    def test_unreadable(self) -> None:
        """Of what could not be read there is the record only."""
        asked = Submission(Admitted(Peer()), Listener.HTTP, "tz1", Malformed("no digits"))
        decision = evolve(Decision.on(asked), milliseconds=1).refused(Malformed("no digits"))
        self.write_log(decision)
        outcome = self.run_command("explain", "--log", "last")
        self.assertEqual(outcome.code, 1)
        self.assertIn("refused by the rule reading: 400 no digits", " ".join(outcome.out.split()))
        self.assertIn("no payload", outcome.err)

    def test_changed(self) -> None:
        """A line that was changed is shown with a warning; what is no line is passed over."""
        changed = self.lines(signed(BLOCK))[1].replace(b'"milliseconds":152', b'"milliseconds":153')
        self.log.write_bytes(b"nothing\n" + changed + b'{"format":1,"number":3')
        said = self.said("last")
        self.assertIn("warning this line was changed; run tezio-signer audit verify", said)

    def test_json(self) -> None:
        """Programs get the line as it is."""
        self.write_log(signed(BLOCK))
        said = json.loads(self.run_command("explain", "--log", "last", "--json").out)
        self.assertEqual(said["logged"]["device"], "A1B2C3D4")
        self.assertTrue(said["logged"]["is_whole"])
        self.assertEqual(said["payload"]["hex"], BLOCK.hex())

    def test_nothing_changes(self) -> None:
        """The log is read only."""
        self.write_log(signed(BLOCK))
        before = self.log.read_bytes(), self.log.stat().st_mtime_ns
        self.said("last")
        self.assertEqual((self.log.read_bytes(), self.log.stat().st_mtime_ns), before)
