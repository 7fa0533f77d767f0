"""`tezio-signer explain`."""

import json
import os
import sys
from io import BytesIO, StringIO, TextIOWrapper
from time import time

from attrs import evolve
from twisted.internet.task import Clock
from yaml import safe_load

from tests.support.deciding import MAINNET
from tests.support.explaincase import ExplainTestCase
from tests.support.genericpayloads import OTHER, transfer_from
from tests.support.octezclient import HSM_AUTH_KEY
from tests.support.vectors import OCTEZ, PAYLOADS, TZ1, TZ3, block, consensus
from tezio_signer.cli.explain import payload_of
from tezio_signer.cli.wrapping import shown
from tezio_signer.tezos.keys import Curve, Signature, digest
from tezio_signer.tezos.payload import Operation
from tezio_signer.watermarks.copied import CopiedStore
from tezio_signer.watermarks.etcd.store import EtcdStore
from tezio_signer.watermarks.ledger import Ledger
from tezio_signer.watermarks.rule import Mark, MarkId
from tezio_signer.watermarks.sqlite.reading import Content
from tezio_signer.watermarks.sqlite.store import SqliteStore
from tezio_signer.watermarks.store import StoreAwayError

NOOP = PAYLOADS["noop"]
BLOCK = MarkId(MAINNET, TZ3, Operation.BLOCK)
SIGNATURE = Signature(Curve.P256, bytes(64))


class TextTests(ExplainTestCase):
    """What people read."""

    def test_block(self) -> None:
        """The payload, each rule, and the decision, in 80 columns."""
        self.put({BLOCK: Mark(6, 2, bytes(32), SIGNATURE)})
        outcome = self.explain(block(7, 1))
        self.assertEqual((outcome.code, outcome.err), (0, ""))
        lines = outcome.out.splitlines()
        self.assertLessEqual(max(map(len, lines)), 80)
        self.assertEqual(lines[0].split(), ["payload", "block,", "198", "bytes"])
        self.assertIn("  chain               NetXdQprcVkpaWU", lines)
        self.assertIn("  level               7", lines)
        self.assertIn("  round               1", lines)
        self.assertIn(f"for {TZ3}, asked from 127.0.0.1", lines)
        self.assertIn("    key             passes     is for a key of the configuration", lines)
        said = " ".join(outcome.out.split())
        self.assertIn("the mark would move from level 6 round 2 to level 7 round 1", said)
        self.assertEqual(
            " ".join(lines[-2:]).split(maxsplit=1)[1],
            "would be signed, unless the HSM refuses it or is away: nobody has   asked it",
        )

    def test_refused(self) -> None:
        """The rule that decides is named last, with what the client would get."""
        self.put({BLOCK: Mark(8, 0, bytes(32), SIGNATURE)})
        outcome = self.explain(block(7, 1))
        self.assertEqual((outcome.code, outcome.err), (1, ""))
        said = " ".join(outcome.out.split())
        says = "409 block at level 7 round 1 is not above the high watermark, level 8 round 0"
        self.assertIn(f"watermark REFUSES {says} (wanted is a request that is above", said)
        self.assertTrue(
            said.endswith(f"decision: would be refused by the rule watermark: {says}"), said
        )

    def test_every_key(self) -> None:
        """Without a key all of the configuration are asked for; one that signs is enough."""
        outcome = self.run_command("explain", block(7, 1).hex())
        self.assertEqual(outcome.code, 0)
        self.assertEqual(outcome.out.count("decision: would be refused by the rule operation"), 2)
        self.assertEqual(outcome.out.count("decision: would be signed"), 1)

    def test_source(self) -> None:
        """The key is the source of an operation, unless it is said; of none of ours, each is."""
        for source, asked in ((TZ3, 1), (TZ1, 1), (OTHER, 3)):
            out = self.run_command("explain", transfer_from(source).hex()).out
            self.assertEqual(out.count("decision: "), asked)
            self.assertEqual(f"for {source}, asked from" in out, source is not OTHER)

    def test_what_a_terminal_would_obey(self) -> None:
        """What a client chose is shown, and not obeyed."""
        self.assertEqual(shown("a\x1b[2Jb\u202e\ncé"), "a\\x1b[2Jb\\u202e\\ncé")


class DecisionTests(ExplainTestCase):
    """What would be decided."""

    def test_peer(self) -> None:
        """The address counts, and is 127.0.0.1 unless it is given."""
        self.assertTrue(self.decision(block(7, 0))["signed"])
        refused = self.decision(block(7, 0), "--peer", "192.0.2.1")
        self.assertEqual((refused["rule"], refused["status"]), ("address", 403))

    def test_unknown_key(self) -> None:
        """A key that is not configured is a 404, as it is for the daemon."""
        refused = self.decision(NOOP, key=OCTEZ["keys"][0]["pkh"])
        self.assertEqual((refused["rule"], refused["status"]), ("key", 404))

    def test_unreadable(self) -> None:
        """What cannot be read is refused in the words of the daemon; nothing else is asked."""
        refused = self.decision(block(7, 0)[:-1])
        self.assertEqual((refused["rule"], refused["status"]), ("reading", 400))
        self.assertEqual(
            refused["sentence"],
            "the block is cut off in its votes: 0 of 1 bytes, at byte 197",
        )
        self.assertEqual(self.decision(b"\x01\x02")["status"], 403)
        self.assertEqual(self.decision(b"")["sentence"], "can't sign empty data")

    def test_authentication(self) -> None:
        """It is taken for granted unless it is given; then it counts, as far as it is known."""
        self.assertEqual(self.decision(NOOP)["assumed"], [])
        self.ask_for_authentication()
        self.assertEqual(self.decision(NOOP)["assumed"], ["authentication"])
        public_key = HSM_AUTH_KEY.public_key
        good = HSM_AUTH_KEY.authenticate(str(TZ3), NOOP)
        with_hsm = self.decision(NOOP, "--authentication", good)
        self.assertEqual(with_hsm["assumed"], ["authentication"])
        self.configure(authorized_keys=[public_key])
        self.assertEqual(self.decision(NOOP, "--authentication", good)["assumed"], [])
        other = HSM_AUTH_KEY.authenticate(str(TZ1), NOOP)
        self.ask_for_authentication(auth_key=None)
        refused = self.decision(NOOP, "--authentication", other)
        self.assertEqual((refused["rule"], refused["status"]), ("authentication", 401))

    def test_rate(self) -> None:
        """Only the daemon counts."""
        self.ask_for_authentication()
        self.configure(limits={"signatures_per_minute": 1})
        self.assertEqual(self.decision(NOOP)["assumed"], ["authentication", "rate"])

    def test_stored(self) -> None:
        """What was signed before is signed again, of the store."""
        mark = Mark(7, 1, digest(block(7, 1)), SIGNATURE)
        self.put({BLOCK: mark})
        self.assertIn("signed before", self.explain(block(7, 1), "--json").out)
        self.assertIn("409", self.explain(block(7, 1, 1)).out)
        self.put({BLOCK: evolve(mark, signature=None)})
        self.assertIn("no signature of it is stored", self.explain(block(7, 1), "--json").out)


class InputTests(ExplainTestCase):
    """What a person has at hand."""

    def test_forms(self) -> None:
        """Digits, 0x, blanks and ends of lines, capitals, and the body of a request."""
        for text in ("0311", "0x0311", "0X0311", " 03 11\n", '"0311"\n', "03\n11", '"0x0311"'):
            self.assertEqual(payload_of(text), b"\x03\x11", text)
        self.assertEqual(payload_of("0xAbCd"), b"\xab\xcd")
        self.assertEqual(payload_of('""'), b"")

    def test_no_payload(self) -> None:
        """Anything else is wrong usage, which says what is accepted."""
        for text in ("0", "xyz", '"03', '{"03": 1}', "[3]", '"zz"', "3", "0x", "é3"):
            if text == "0x":
                self.assertEqual(payload_of(text), b"")
                continue
            outcome = self.run_command("explain", text)
            self.assertEqual((outcome.code, outcome.out), (2, ""), text)
            self.assertIn("payload", outcome.err)

    def test_usage(self) -> None:
        """So is what is no key, address or signature."""
        for option, value in (("--key", "tz1"), ("--peer", "localhost"), ("--authentication", "s")):
            outcome = self.run_command("explain", "0311", option, value)
            self.assertEqual((outcome.code, outcome.out), (2, ""))
            self.assertIn(f"argument {option}:", outcome.err)

    def test_standard_input(self) -> None:
        """It may come from another program, which may send what it likes."""
        for sent, code in ((b'"%b"\n' % block(7, 0).hex().encode(), 0), (b"\xff\xfe", 2)):
            self.patch(sys, "stdin", TextIOWrapper(BytesIO(sent)))
            self.assertEqual(self.run_command("explain", "-").code, code)
        self.patch(sys, "stdin", StringIO(block(7, 0).hex()))
        self.assertEqual(self.run_command("explain", "-").code, 0)
        self.patch(sys, "stdin", StringIO("0" * (1024 * 1024 + 1)))
        outcome = self.run_command("explain", "-")
        self.assertEqual(outcome.code, 2)
        self.assertIn("more than 1048576 bytes", outcome.err)


class JsonTests(ExplainTestCase):
    """What programs read."""

    def test_payload(self) -> None:
        """What the payload is, with the names that Octez has."""
        for payload, operation, fields in (
            (block(7, 2), "block", {"level": 7, "round": 2, "payload_round": 2}),
            (consensus("att_dal_5", 7, 2), "attestation", {"level": 7, "round": 2, "slot": 42}),
        ):
            said = json.loads(self.explain(payload, "--json").out)["payload"]
            self.assertEqual(said["operation"], operation)
            self.assertEqual(said["chain"], MAINNET)
            self.assertEqual(said["hex"], payload.hex())
            self.assertEqual({name: said[name] for name in fields}, fields)

    def test_verdicts(self) -> None:
        """Each rule with its answer, in order."""
        outcome = self.explain(block(7, 0), "--json", "--peer", "::1")
        said = json.loads(outcome.out)
        self.assertEqual(said["store"], str(self.path))
        (explained,) = said["keys"]
        self.assertEqual((explained["key"], explained["peer"]), (str(TZ3), "::1"))
        rules = [verdict["rule"] for verdict in explained["verdicts"]]
        self.assertEqual(rules[:4], ["address", "user", "reading", "key"])
        self.assertEqual(rules[-1], "watermark")
        self.assertEqual({verdict["status"] for verdict in explained["verdicts"]}, {None})


class StoreTests(ExplainTestCase):
    """The store, which is only read."""

    def everything(self) -> dict[str, tuple[bytes, int, int]]:
        """All files here: content, time of change, mode.

        Not what SQLite shares with other processes: who reads while another has the store open
        notes there how far, and it is made anew by the next.
        """
        files = {}
        for name in os.listdir(self.directory):
            path = self.directory / name
            status = path.stat()
            if path.is_file() and not name.endswith("-shm"):
                files[name] = (path.read_bytes(), status.st_mtime_ns, status.st_mode)
        return files

    def test_nothing_changes(self) -> None:
        """It is byte for byte as before, whatever is explained; with its log, and without."""
        payloads = [block(7, 0), block(9, 0), consensus("att", 9, 0), NOOP, b"\x01", b""]
        self.put({BLOCK: Mark(8, 0, bytes(32), SIGNATURE)})
        before = self.everything()
        for payload in payloads:
            self.explain(payload)
        self.assertEqual(self.everything(), before)
        store = SqliteStore(self.path)  # as a daemon that runs
        self.addCleanup(store.close)
        store.keep([(BLOCK, Mark(9, 1, bytes(32)))])
        before = self.everything()
        self.assertIn("watermarks.sqlite-wal", before)
        for payload in payloads:
            self.explain(payload)
        self.assertEqual(self.everything(), before)
        refused = self.decision(block(9, 0))
        self.assertIn("level 9 round 1", refused["sentence"])
        store.keep([(BLOCK, Mark(10, 0, bytes(32)))])  # which still has it

    def test_no_store(self) -> None:
        """Without a store the daemon does not start, which is said behind what the payload is."""
        self.path.unlink()
        (self.directory / "watermarks.sqlite.lock").unlink(missing_ok=True)
        outcome = self.run_command("explain", NOOP.hex())
        self.assertEqual(outcome.code, 1)
        self.assertIn("failing_noop", outcome.out)
        line = outcome.err
        self.assertIn("the signer does not start: ", line)
        self.assertIn("tezio-signer watermarks init", line)

    def test_etcd_away(self) -> None:
        """While a cluster does not answer, what needs a mark is refused as the daemon does."""

        async def away(_: EtcdStore) -> None:
            raise StoreAwayError("etcd at http://localhost:1: did not answer in time")

        self.patch(EtcdStore, "read", away)
        self.configure(watermarks={"store": "etcd:http://localhost:1"})
        refused = self.decision(block(7, 0))
        self.assertEqual((refused["rule"], refused["status"]), ("watermark", 502))
        self.assertIn("did not answer in time", refused["sentence"])
        self.assertTrue(self.decision(NOOP)["signed"])
        policy = safe_load(self.config.read_text())["policy"]
        policy["signing_keys"][str(TZ3)]["operations"] = {"max_operations_per_day": 5}
        self.configure(policy=policy)
        refused = self.decision(NOOP)
        self.assertEqual((refused["rule"], refused["status"]), ("per_day", 502))

    def test_day(self) -> None:
        """What was spent today is counted, and what is explained is not."""
        policy = safe_load(self.config.read_text())["policy"]
        policy["signing_keys"][str(TZ3)]["operations"] = {"max_operations_per_day": 2}
        self.configure(policy=policy)
        for _ in range(3):
            self.assertTrue(self.decision(NOOP)["signed"])
        store = CopiedStore(Content({}, {}))
        ledger = Ledger(lambda: store, Clock(), time)
        for number in range(2):
            self.successResultOf(ledger.reserve(TZ3, bytes([number]) * 32, 0, 1, None, None))
        entries = self.successResultOf(store.spent(TZ3))
        self.put({}, {TZ3: entries})
        refused = self.decision(NOOP)
        self.assertEqual((refused["rule"], refused["status"]), ("per_day", 429))

    def test_wrong_configuration(self) -> None:
        """Nor does it with a configuration that is wrong."""
        self.assertIn("nowhere: cannot be read", self.refused("explain", "0311", "-c", "nowhere"))
