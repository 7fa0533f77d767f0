"""Marks as text: what is read of which format, and what is refused."""

import json
from typing import Any

from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.support.vectors import OCTEZ, TZ1, TZ2, TZ3
from tezio_signer.tezos.keys import Curve, PublicKeyHash, Signature
from tezio_signer.tezos.payload import Operation
from tezio_signer.watermarks.entry import Entry
from tezio_signer.watermarks.markjson import TransferError
from tezio_signer.watermarks.rule import NO_PAYLOAD, Mark, MarkId
from tezio_signer.watermarks.transfer import (
    Outcome,
    Reading,
    combine,
    dump,
    load,
    merge,
    spending_rows,
)

MAINNET, TESTNET = "NetXdQprcVkpaWU", "NetXo5iVw1vBoxM"
TZ4 = OCTEZ["keys"][4]["pkh"]
HASH = "4879bc62d8d1d06fce9f9b67cd9f5efc0cabe0d18d50b2f28b31faaaa8afed2a"
SIGNATURE = Signature(Curve.P256, bytes(range(64)))
BLOCK = MarkId(MAINNET, TZ3, Operation.BLOCK)
ATTESTATION = MarkId(MAINNET, TZ3, Operation.ATTESTATION)
LAST = 2**31 - 1


def refused(test: SynchronousTestCase, name: str, content: object) -> str:
    """Why a text is refused, in one line."""
    text = content if isinstance(content, str) else json.dumps(content)
    error = str(test.assertRaises(TransferError, load, name, text))
    test.assertTrue(error.startswith(f"{name}: "), error)
    test.assertNotIn("\n", error)
    return error


class OwnFormatTests(SynchronousTestCase):
    """The format of `watermarks export`."""

    entry: dict[str, Any] = {
        "chain": MAINNET,
        "key": str(TZ3),
        "operation": "attestation",
        "level": 5_000_000,
        "round": 1,
        "payload_hash": HASH,
        "signature": str(SIGNATURE),
    }
    mark = Mark(5_000_000, 1, bytes.fromhex(HASH), SIGNATURE)

    def test_dump(self) -> None:
        """A mark is written as documented."""
        document = json.loads(dump({ATTESTATION: self.mark}))
        self.assertEqual(document, {"version": 1, "marks": [self.entry]})

    spent: dict[str, Any] = {
        "key": str(TZ3),
        "payload_hash": HASH,
        "at": 1_790_000_000,
        "mutez": 2_000_289,
        "operations": 1,
    }

    def test_spending(self) -> None:
        """Spending is written and read again, but for what was given back; the rest stays."""
        entry = Entry(1_790_000_000, 2_000_289, 1)
        spending = {TZ3: {bytes.fromhex(HASH): entry, bytes(32): Entry(1_790_000_000, 0, 0)}}
        text = dump({ATTESTATION: self.mark}, spending)
        self.assertEqual(
            json.loads(text), {"version": 2, "marks": [self.entry], "spending": [self.spent]}
        )
        reading = load("marks.json", text)
        self.assertEqual(reading.marks, {ATTESTATION: self.mark})
        self.assertEqual(reading.spending, {TZ3: {bytes.fromhex(HASH): entry}})

    def test_combined_spending(self) -> None:
        """Of the same entry in two files, what counts more is taken."""
        readings = [
            Reading(spending={TZ3: {bytes(32): Entry(at, mutez, 1)}})
            for at, mutez in ((1, 5), (2, 4))
        ]
        self.assertEqual(combine(readings).spending, {TZ3: {bytes(32): Entry(2, 5, 1)}})

    def test_standing(self) -> None:
        """What counts of each key is listed, with the moment from which nothing of it does."""
        now = 1_790_000_000
        spending = {
            TZ3: {bytes(32): Entry(now - 60, 5, 1), HASH.encode(): Entry(now - 30, 6, 2)},
            TZ1: {bytes(32): Entry(now - 86_460, 5, 1)},
            TZ2: {bytes(32): Entry(now, 0, 0)},
        }
        self.assertEqual(
            spending_rows(spending, now),
            [
                {
                    "key": str(TZ3),
                    "mutez": 11,
                    "operations": 3,
                    "until": "2026-09-22T14:13:50Z",
                }
            ],
        )

    def test_load(self) -> None:
        """It is read again; hash and signature may be null or left out."""
        bare = {k: v for k, v in self.entry.items() if k not in ("payload_hash", "signature")}
        unsigned = evolve(self.mark, signature=None)
        closed = evolve(unsigned, payload_hash=NO_PAYLOAD)
        for entry, mark in [
            (self.entry, self.mark),
            (self.entry | {"signature": None}, unsigned),
            (bare | {"payload_hash": HASH}, unsigned),
            (bare | {"payload_hash": None, "signature": None}, closed),
            (bare, closed),
        ]:
            text = json.dumps({"version": 1, "marks": [entry]})
            self.assertEqual(load("marks.json", text), Reading({ATTESTATION: mark}))

    def test_any_name(self) -> None:
        """An export is known as one even if it is named as a file of Signatory."""
        text = dump({ATTESTATION: self.mark})
        self.assertEqual(load(f"backup/{MAINNET}.json", text).marks, {ATTESTATION: self.mark})

    _marks = st.dictionaries(
        st.builds(
            MarkId,
            st.sampled_from([MAINNET, TESTNET]),
            st.sampled_from([TZ1, TZ2, TZ3]),
            st.sampled_from([Operation.BLOCK, Operation.PREATTESTATION, Operation.ATTESTATION]),
        ),
        st.builds(
            Mark,
            st.integers(0, LAST),
            st.integers(0, LAST),
            st.binary(min_size=32, max_size=32),
            st.none() | st.builds(Signature, st.none(), st.binary(min_size=64, max_size=64)),
        ),
    )

    @settings(max_examples=50, deadline=None, derandomize=True, database=None)
    @given(_marks)
    def test_there_and_back(self, marks: dict[MarkId, Mark]) -> None:
        """Any marks are the same after writing and reading them."""
        self.assertEqual(load("marks.json", dump(marks)), Reading(marks))

    def test_wrong_entries(self) -> None:
        """Each mistake in an entry is named with its place, and what was expected."""
        cases: list[tuple[dict[str, Any], str]] = [
            ({"level": -1}, "level: a number from 0 to 2147483647 is expected, not -1"),
            ({"level": 2**31}, "level: a number"),
            ({"level": True}, "level: a number"),
            ({"level": 5.0}, "level: a number"),
            ({"level": "5"}, "level: a number"),
            ({"round": None}, "round: a number"),
            ({"round": -1}, "round: a number"),
            ({"chain": "mainnet"}, "chain: 'mainnet': "),
            ({"chain": 7}, "chain: a text is expected, not 7"),
            ({"chain": str(TZ3)}, "chain: "),
            ({"key": MAINNET}, "key: "),
            ({"key": str(TZ3)[:-1] + "f"}, "key: "),
            ({"operation": "generic"}, "operation: 'generic' has no watermark; allowed: block"),
            ({"operation": 0x11}, "operation: 17"),
            ({"payload_hash": HASH[2:]}, "the payload hash is not 64 hexadecimal digits"),
            ({"payload_hash": " " + HASH[:-1]}, "the payload hash"),
            ({"payload_hash": HASH[:31] + " " + HASH[31:]}, "the payload hash"),
            ({"payload_hash": "x" * 64}, "the payload hash"),
            ({"payload_hash": 5}, "a text is expected"),
            ({"payload_hash": None}, "not the hash of its payload"),
            ({"signature": "p2sig"}, "the signature is unreadable"),
            ({"signature": 5}, "a text is expected"),
            (
                {"signature": str(evolve(SIGNATURE, curve=Curve.ED25519))},
                "the signature is none of a tz3 key",
            ),
            ({"lvel": 5}, "'lvel' is unknown"),
        ]
        for changes, says in cases:
            entries = [self.entry | {"operation": "block"}, self.entry | changes]
            error = refused(self, "marks.json", {"version": 1, "marks": entries})
            self.assertTrue(error.startswith("marks.json: marks[1]"), error)
            self.assertIn(says, error)
        for name in ("chain", "key", "operation", "level", "round"):
            entry = {k: v for k, v in self.entry.items() if k != name}
            error = refused(self, "marks.json", {"version": 1, "marks": [entry]})
            self.assertIn(f"marks[0]: {name} is missing", error)

    def test_wrong_documents(self) -> None:
        """What is no export of this version is refused."""
        for document, says in [
            ("", "not JSON"),
            ("{", "not JSON"),
            ("9" * 5000, "not JSON"),
            ("[" * 100_000, "not JSON"),
            ('{"version": 1, "version": 1, "marks": []}', "a key stands twice"),
            ([], "an object is expected"),
            ({}, "no export of watermarks"),
            ({"marks": []}, "no export of watermarks"),
            ({"version": 1, "marks": [], "more": 1}, "no export of watermarks"),
            ({"version": 3, "marks": []}, "version 3 is neither 1 nor 2"),
            ({"version": True, "marks": []}, "version True is neither 1 nor 2"),
            ({"version": 2, "marks": []}, "spending belongs to version 2"),
            ({"version": 1, "marks": [], "spending": []}, "spending belongs to version 2"),
            ({"version": 2, "marks": [], "spending": {}}, "spending: a list is expected"),
            ({"version": 2, "marks": [], "spending": [7]}, "spending[0]: an object is expected"),
            ({"version": 2, "marks": [], "spending": [self.spent] * 2}, "stand there twice"),
            (
                {"version": 2, "marks": [], "spending": [self.spent | {"mutez": -1}]},
                "spending[0].mutez: a number from 0 to",
            ),
            (
                {"version": 2, "marks": [], "spending": [self.spent | {"at": "now"}]},
                "spending[0].at: a number from 0 to",
            ),
            (
                {"version": 2, "marks": [], "spending": [self.spent | {"day": 1}]},
                "spending[0]: 'day' is unknown",
            ),
            ({"version": 1, "marks": {}}, "marks: a list is expected"),
            ({"version": 1, "marks": [7]}, "marks[0]: an object is expected"),
            ({"version": 1, "marks": [self.entry] * 2}, "marks[1]: "),
        ]:
            self.assertIn(says, refused(self, "marks.json", document))


class OctezTests(SynchronousTestCase):
    """The files of octez-signer (`bin_signer/handler.ml`)."""

    def read(self, entry: dict[str, Any], key: PublicKeyHash = TZ3) -> Mark:
        """The mark that an entry of the attestations is read as."""
        text = json.dumps({MAINNET: {str(key): entry}})
        reading = load("/home/tezos/.tezos-signer/attestation_high_watermarks", text)
        self.assertEqual(reading.ignored, ())
        return reading.marks[evolve(ATTESTATION, key=key)]

    def test_kinds(self) -> None:
        """The name of the file tells the kind of operation."""
        text = json.dumps({MAINNET: {str(TZ3): {"level": 7, "round": 2}}})
        for name, operation in (
            ("block", Operation.BLOCK),
            ("preattestation", Operation.PREATTESTATION),
            ("attestation", Operation.ATTESTATION),
            ("preendorsement", Operation.PREATTESTATION),  # until Octez 23
            ("endorsement", Operation.ATTESTATION),
        ):
            marks = load(f"{name}_high_watermarks", text).marks
            expected = {MarkId(MAINNET, TZ3, operation): Mark(7, 2, NO_PAYLOAD)}
            self.assertEqual(marks, expected)

    def test_entries(self) -> None:
        """What has a signature is taken over whole, what has none closes its position."""
        full = {"level": 7, "round": 2, "hash": HASH, "signature": str(SIGNATURE)}
        self.assertEqual(self.read(full), Mark(7, 2, bytes.fromhex(HASH), SIGNATURE))
        unsigned = {"level": 7, "round": 2, "hash": HASH}
        self.assertEqual(self.read(unsigned), Mark(7, 2, NO_PAYLOAD))
        self.assertEqual(self.read({"level": 7, "round": 2}), Mark(7, 2, NO_PAYLOAD))

    def test_without_round(self) -> None:
        """An old entry without a round closes all rounds of its level."""
        for entry in ({"level": 7}, {"level": 7, "hash": HASH, "signature": str(SIGNATURE)}):
            self.assertEqual(self.read(entry), Mark(7, LAST, NO_PAYLOAD))

    def test_chains_and_keys(self) -> None:
        """Every chain and every key is read; tz4 keys, which no Tezio HSM holds, are named."""
        entry = {"level": 7, "round": 0}
        foreign = {"level": 7, "round": 0, "hash": HASH, "signature": "BLsig"}
        document = {
            MAINNET: {str(TZ1): entry, str(TZ3): entry, TZ4: foreign},
            TESTNET: {str(TZ3): entry | {"level": 8}},
        }
        reading = load("block_high_watermarks", json.dumps(document))
        self.assertEqual(
            {(m.chain_id, m.key): mark.level for m, mark in reading.marks.items()},
            {(MAINNET, TZ1): 7, (MAINNET, TZ3): 7, (TESTNET, TZ3): 8},
        )
        (ignored,) = reading.ignored
        self.assertIn(f"{MAINNET}.{TZ4}: no key of a Tezio HSM", ignored)

    def test_wrong(self) -> None:
        """A mistake is named with its place."""
        where = f"{MAINNET}.{TZ3}"
        for document, says in [
            ("", "not JSON"),
            ({"main": {}}, "'main'"),
            ({MAINNET: []}, f"{MAINNET}: an object"),
            ({MAINNET: {"alice": {}}}, "'alice'"),
            ({MAINNET: {str(TZ3): 7}}, f"{where}: an object"),
            ({MAINNET: {str(TZ3): {}}}, f"{where}.level: a number"),
            ({MAINNET: {str(TZ3): {"level": -7}}}, f"{where}.level: a number"),
            ({MAINNET: {str(TZ3): {"level": 7, "round": -1}}}, f"{where}.round: a number"),
            (
                {MAINNET: {str(TZ3): {"level": 7, "round": 1, "signature": str(SIGNATURE)}}},
                "not the hash of its payload",
            ),
            (
                {MAINNET: {str(TZ3): {"level": 7, "round": 1, "hash": "00", "signature": "x"}}},
                "64 hexadecimal digits",
            ),
        ]:
            self.assertIn(says, refused(self, "block_high_watermarks", document))


class SignatoryTests(SynchronousTestCase):
    """The files of Signatory, below `watermark_v2` (`pkg/signatory/watermark/file.go`)."""

    # A file as the project's own integration test expects it, with a key of ours.
    document = {
        str(TZ3): {
            "block": {
                "level": 34,
                "round": 4,
                "hash": "vh2E3QPN8R55XtdeZXsPtbgXErMeLcE5YbjDMcUzXsFByL97u5Qc",
            },
            "endorsement": {
                "level": 34,
                "round": 4,
                "hash": "vh216VxjGyVK2XWEQ5gyFcAMLEqPzRKJijB6ZUybZjnwetdZp8Lm",
            },
            "preendorsement": {"level": 34, "round": 5, "hash": None},
        }
    }

    def read(self, document: object) -> Reading:
        """What a file for the chain of that test says."""
        return load(f"/var/lib/signatory/watermark_v2/{TESTNET}.json", json.dumps(document))

    def test_marks(self) -> None:
        """Positions are taken over closed; of a block, which has another round, the whole level."""
        self.assertEqual(
            self.read(self.document),
            Reading(
                {
                    MarkId(TESTNET, TZ3, Operation.BLOCK): Mark(34, LAST, NO_PAYLOAD),
                    MarkId(TESTNET, TZ3, Operation.ATTESTATION): Mark(34, 4, NO_PAYLOAD),
                    MarkId(TESTNET, TZ3, Operation.PREATTESTATION): Mark(34, 5, NO_PAYLOAD),
                }
            ),
        )

    def test_names_of_kinds(self) -> None:
        """Old and new names, and attestations with and without DAL, are one kind: the highest."""
        positions = {
            "endorsement": (7, 9),
            "attestation": (8, 1),
            "attestation_with_dal": (8, 3),
            "preattestation": (6, 0),
            "preendorsement": (5, 9),
        }
        for kinds in (list(positions), list(reversed(positions))):
            entry = {k: dict(zip(("level", "round"), positions[k], strict=True)) for k in kinds}
            self.assertEqual(
                {
                    m.operation: mark.position
                    for m, mark in self.read({str(TZ3): entry}).marks.items()
                },
                {Operation.ATTESTATION: (8, 3), Operation.PREATTESTATION: (6, 0)},
            )

    def test_other_keys(self) -> None:
        """Keys that no Tezio HSM holds are named and left out, with all their kinds."""
        reading = self.read({TZ4: {"attestation_bls": {"level": 1, "round": 0}}})
        self.assertEqual(reading.marks, {})
        self.assertIn(TZ4, reading.ignored[0])

    def test_wrong(self) -> None:
        """A mistake, a kind that is not known, and the older layouts are refused."""
        entry = {"level": 7, "round": 0}
        for document, says in [
            ("", "not JSON"),
            ({str(TZ3): []}, "an object"),
            ({str(TZ3): {"block": 7}}, f"{TZ3}.block: an object"),
            ({str(TZ3): {"block": {}}}, f"{TZ3}.block.level: a number"),
            ({str(TZ3): {"blok": entry}}, "'blok' is no kind of operation"),
            ({"block": {str(TZ3): entry}}, "'block'"),  # directory watermark
            ({str(TZ3): entry | {"order": 0}}, "'level' is no kind"),  # directory watermark_v1
        ]:
            self.assertIn(says, refused(self, f"{MAINNET}.json", document))


HIGH, LOW = Mark(9, 1, b"\x01" * 32), Mark(9, 0, b"\x01" * 32)
SIGNED = evolve(HIGH, signature=SIGNATURE)
CLOSED = Mark(9, 1, NO_PAYLOAD)
OTHER = Mark(9, 1, b"\x02" * 32)


class MergeTests(SynchronousTestCase):
    """Two marks become one."""

    def test_table(self) -> None:
        """Never lower than either, and no payload that only one of them knows."""
        for standing, brought, outcome, mark in [
            (None, HIGH, Outcome.RAISED, HIGH),
            (LOW, SIGNED, Outcome.RAISED, SIGNED),
            (evolve(SIGNED, level=8, round=7), HIGH, Outcome.RAISED, HIGH),
            (SIGNED, LOW, Outcome.KEPT, SIGNED),
            (HIGH, HIGH, Outcome.KEPT, HIGH),
            (SIGNED, HIGH, Outcome.KEPT, SIGNED),
            (HIGH, SIGNED, Outcome.SIGNED, SIGNED),
            (SIGNED, evolve(SIGNED, signature=Signature(None, bytes(64))), Outcome.KEPT, SIGNED),
            (HIGH, OTHER, Outcome.CLOSED, CLOSED),
            (SIGNED, OTHER, Outcome.CLOSED, CLOSED),
            (SIGNED, CLOSED, Outcome.CLOSED, CLOSED),
            (CLOSED, SIGNED, Outcome.KEPT, CLOSED),
            (CLOSED, CLOSED, Outcome.KEPT, CLOSED),
        ]:
            self.assertEqual(merge(standing, brought), (outcome, mark), (standing, brought))

    def test_combine(self) -> None:
        """Several readings are one with the highest of each mark, and all that was left out."""
        readings = [
            Reading({BLOCK: LOW, ATTESTATION: HIGH}, ("a",)),
            Reading({BLOCK: HIGH, ATTESTATION: OTHER}, ("b",)),
            Reading({BLOCK: LOW}),
        ]
        expected = Reading({BLOCK: HIGH, ATTESTATION: CLOSED}, ("a", "b"))
        self.assertEqual(combine(readings), expected)
        self.assertEqual(combine([]), Reading())
