"""Groups of operations: recorded ones, those that must not be, and any bytes."""

from collections.abc import Callable
from time import process_time

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import genericpayloads as made
from tests.support.genericpayloads import BRANCH, CONTRACT, OTHER, SOURCE, sized
from tests.support.octezclient import to_base58check
from tests.support.operationscase import HEADER, PAYLOAD_HASH, RECORDED, OperationsTestCase, plain
from tests.support.vectors import MORE_PAYLOADS, OPERATIONS
from tezio_signer.tezos.operations import (
    CONSENSUS_TAGS,
    Mutez,
    OperationGroup,
    Undecodable,
    decode,
    summary,
)


class RecordedTests(OperationsTestCase):
    """Recorded operations, which others encoded."""

    def test_kinds(self) -> None:
        """Each is of the kind that it was recorded as."""
        kinds = {
            "activate-account": "activate_account",
            "attestation-with-dal": "attestation_with_dal",
            "attestations-aggregate": "attestations_aggregate",
            "dal-entrapment-aggregate-evidence": "dal_entrapment_evidence",
            "dal-entrapment-evidence": "dal_entrapment_evidence",
            "delegation-withdrawal": "delegation",
            "double-attestation-aggregate-evidence": "double_consensus_operation_evidence",
            "double-attestation-evidence": "double_consensus_operation_evidence",
            "double-preattestation-aggregate-evidence": "double_consensus_operation_evidence",
            "double-preattestation-evidence": "double_consensus_operation_evidence",
            "preaatestation": "preattestation",
            "preattestation-aggregate": "preattestations_aggregate",
            "transaction-to-implicit": "transaction",
            "bls_mode_unsigned_attestation": "bls_mode_attestation",
            "bls_mode_unsigned_preattestation": "bls_mode_preattestation",
        }
        names = [name for name in OPERATIONS if "block_header" not in name]
        self.assertEqual(len(names), 22)
        for name in names:
            (content,) = decode(RECORDED[name]).contents
            short = name.removeprefix("unsigned-")
            self.assertEqual(content.kind, kinds.get(short, short.replace("-", "_")))
        for at, payload in enumerate(MORE_PAYLOADS):
            if payload["kind"] == "generic":
                kinds_found = [content.kind for content in decode(RECORDED[f"more {at}"]).contents]
                self.assertEqual(kinds_found, payload["operations"])

    def test_transfer(self) -> None:
        """The transfer has the fields that Octez' library was given."""
        group = decode(RECORDED["transfer"])
        fields = {
            "source": "tz1KqTpEZ7Yob7QbPE4Hy4Wo8fHG8LhKxZSx",
            **{name: value for name, value in HEADER.items() if name != "source"},
            "amount": 1_000_000,
            "destination": OTHER,
            "entrypoint": "default",
            "value": None,
        }
        self.assertEqual(plain(group.contents[0].fields), fields)
        self.assertEqual(group.branch, to_base58check(b"\x01\x34", BRANCH))
        self.assertIsInstance(group.contents[0].fields["fee"], Mutez)
        self.assertIsInstance(group.contents[0].fields["amount"], Mutez)

    def test_fields(self) -> None:
        """Others have the fields that their bytes say."""
        branch = "BKpbfCvh777DQHnXjU2sqHvVUNZ7dBAdqEfKkdw8EGSkD9LSYXb"
        source = "tz1KqTpEZ7Yob7QbPE4Hy4Wo8fHG8LhKxZSx"
        header = {
            "source": source,
            "fee": 33,
            "counter": 732,
            "gas_limit": 9_451_117,
            "storage_limit": 57_024_931_117,
        }
        content = {"level": 1331, "round": 0, "block_payload_hash": PAYLOAD_HASH}
        code = "code { CAR ; SOME ; NIL operation ; PAIR }"
        expected: dict[str, dict[str, object]] = {
            "unsigned-activate-account": {
                "pkh": "tz1ddb9NMYHZi5UzPdzTZMYQQZoMub195zgv",
                "secret": bytes.fromhex("41f98b15efc63fa893d61d7d6eee4a2ce9427ac4"),
            },
            "unsigned-attestation-with-dal": {"slot": 0, **content, "dal_attestation": 2048},
            "unsigned-attestations-aggregate": {
                "consensus_content": content,
                "committee": [
                    {"slot": 0, "dal_attestation": None},
                    {"slot": 23, "dal_attestation": 2048},
                    {"slot": 51, "dal_attestation": 0},
                    {"slot": 893, "dal_attestation": 1},
                ],
            },
            "unsigned-preattestation-aggregate": {
                "consensus_content": content,
                "committee": [0, 23, 51, 89],
            },
            "unsigned-delegation": {**header, "delegate": source},
            "unsigned-delegation-withdrawal": {**header, "delegate": None},
            "unsigned-reveal": {
                **header,
                "public_key": "edpkuBknW28nW72KG6RoHtYW7p12T6GKc7nAbwYX5m8Wd9sDVC9yav",
                "proof": None,
            },
            "unsigned-origination": {
                **header,
                "balance": 84_143,
                "delegate": source,
                "script": {
                    "code": f"{{ parameter string ; storage (option string) ; {code} }}",
                    "storage": '{ "test" }',
                },
            },
            "unsigned-seed-nonce-revelation": {"level": 1331, "nonce": bytes(32)},
            "bls_mode_unsigned_attestation": content,
            "transfer_call": {
                **header,
                **{name: value for name, value in HEADER.items() if name != "source"},
                "amount": 0,
                "destination": CONTRACT,
                "entrypoint": "stake",
                "value": "Unit",
            },
            "limit_none": {**HEADER, "source": source, "limit": None},
            "noop": {"arbitrary": b"hi"},
            "more 3": {
                "source": "tz1Wk1Wdczh5BzyZ1uz2DW9xdFg9B5cFuGFm",
                "fee": 349,
                "counter": 148_847,
                "gas_limit": 1000,
                "storage_limit": 0,
                "amount": 1,
                "destination": "KT1SqUeay8FiBfukVJHsLbiN3n8BZeo4BBwd",
            },
            "more 4": {
                "consensus_key": "tz3SbqacJeQs2PSkFk8mp7Q48t54c1cStfwW",
                "delegate": "tz3ixovPEjGTUpYRCSPPj52ANQ7dptRSsqCJ",
                "destination": "tz3SbqacJeQs2PSkFk8mp7Q48t54c1cStfwW",
            },
        }
        for name, fields in expected.items():
            group = decode(RECORDED[name])
            self.assertEqual(plain(group.contents[0].fields), fields, name)
        self.assertEqual(decode(RECORDED["unsigned-reveal"]).branch, branch)

    def test_evidence(self) -> None:
        """Evidence shows the operations and headers that contradict each other."""
        evidence = decode(RECORDED["unsigned-double-consensus-operation-evidence"]).contents[0]
        kinds = []
        for name in ("op1", "op2"):
            shown = plain(evidence.fields[name])
            kinds.append(shown["operations"].pop("kind"))
            self.assertTrue(shown["signature"].startswith("sigbQ5ZNvkjvGssJgoAnUAfY4Wvvg3QZq"))
            self.assertEqual(shown["operations"]["block_payload_hash"], PAYLOAD_HASH)
        self.assertEqual(kinds, ["attestation", "preattestation"])
        (baked,) = decode(RECORDED["unsigned-double-baking-evidence"]).contents
        header = plain(baked.fields["bh1"])
        self.assertEqual(header["timestamp"], 1_587_399_600)
        self.assertEqual(header["fitness"], [b"\x01", bytes(7) + b"\x0a"])
        self.assertEqual((header["level"], header["seed_nonce_hash"]), (1331, None))

    def test_entrapment(self) -> None:
        """The evidence of an entrapment is read with the lag of 025, and without as in 024."""
        for name, lag, slot, shard in (
            ("unsigned-dal-entrapment-evidence", 0, 15, 403),
            ("unsigned-dal-entrapment-aggregate-evidence", 0, 2, 117),
        ):
            data = RECORDED[name]
            (content,) = decode(data).contents
            fields = plain(content.fields)
            self.assertEqual((fields["lag_index"], fields["slot_index"]), (lag, slot))
            self.assertEqual(fields["shard_with_proof"]["shard"][0], shard)
            self.assertEqual(len(fields["shard_with_proof"]["shard"][1]), 64)
            at = data.index(b"\xff\x00" + shard.to_bytes(4, "big"))
            without = data[:at] + data[at + 2 :]
            (older,) = decode(without).contents
            self.assertNotIn("lag_index", older.fields)
            for its_name, value in older.fields.items():
                self.assertEqual(value, content.fields[its_name], its_name)
            (unset,) = decode(data[:at] + b"\x00" + data[at + 2 :]).contents
            self.assertEqual(unset.fields, {**content.fields, "lag_index": None})

    def test_cut(self) -> None:
        """Each is refused when it is cut off anywhere, but between two operations of a batch."""
        between = [("reveal_then_delegate", 95), ("more 2", 96)]
        accepted = []
        for name, data in RECORDED.items():
            for length in range(len(data)):
                try:
                    decode(data[:length])
                except Undecodable:
                    continue
                accepted.append((name, length))
        self.assertEqual(accepted, between)

    def test_lengthened(self) -> None:
        """Each is refused with any byte behind it."""
        for data in RECORDED.values():
            for byte in range(256):
                self.refused(data + bytes([byte]))

    def test_builder(self) -> None:
        """The tests' encoder writes what Octez wrote."""
        source = "tz1KqTpEZ7Yob7QbPE4Hy4Wo8fHG8LhKxZSx"
        call = made.transaction_of(source, 0, CONTRACT, call="stake")
        named = made.transaction_of(source, 0, CONTRACT, call="mint")
        for name, data in (
            ("transfer", made.transaction_of(source, 1_000_000, OTHER)),
            ("transfer_call", call),
            ("transfer_named", named),
            ("noop", made.failing_noop(b"hi")),
        ):
            self.assertEqual(BRANCH + data, RECORDED[name])


class GroupsTests(OperationsTestCase):
    """Several operations under one signature."""

    def test_batch(self) -> None:
        """Manager operations may be many."""
        kinds = [made.reveal(), made.transaction(), made.delegation()]
        group = decode(BRANCH + b"".join(kinds))
        self.assertEqual([c.kind for c in group.contents], ["reveal", "transaction", "delegation"])

    def test_not_alone(self) -> None:
        """Any other operation is alone: also drain_delegate, which nobody would notice."""
        drain = made.drain_delegate(SOURCE, SOURCE, OTHER)
        for contents, alone, kinds in (
            ((made.transaction(), drain), "drain_delegate", ("transaction", "drain_delegate")),
            ((drain, made.transaction()), "drain_delegate", ("drain_delegate", "transaction")),
            ((drain, drain), "drain_delegate", ("drain_delegate", "drain_delegate")),
            ((made.ballot(), made.ballot()), "ballot", ("ballot", "ballot")),
            ((made.failing_noop(b""), made.reveal()), "failing_noop", ("failing_noop", "reveal")),
        ):
            error = self.refused(BRANCH + b"".join(contents), f"the {alone} is not alone in its")
            self.assertEqual(error.kinds, kinds)
            self.assertEqual(error.kind, kinds[-1])

    def test_nothing(self) -> None:
        """A branch alone is no operation."""
        self.assertIsNone(self.refused(BRANCH, "the generic operation has no contents").kind)
        self.refused(BRANCH[:31], "the generic operation is cut off in its branch: 31 of 32 bytes")

    def test_consensus_tags(self) -> None:
        """What is or was of consensus is told from other kinds, also if it is not decoded."""
        self.assertEqual(CONSENSUS_TAGS, {0x14, 0x15, 0x16, 0x17, 0x1E, 0x1F, 0x28, 0x29})

    def test_place(self) -> None:
        """The error says which byte of the payload it is, and of which operation."""
        data = BRANCH + made.transaction() + made.reveal()
        cut = self.refused(data[:-1], "the reveal is cut off in its proof: 0 of 1 bytes")
        self.assertIn(f"at byte {len(data)}", str(cut))
        with self.assertRaises(Undecodable) as raised:
            decode(data[:-1])
        self.assertIn(f"at byte {len(data) - 1}", str(raised.exception))
        self.assertEqual(cut.kinds, ("transaction", "reveal"))
        value = BRANCH + made.transaction(call="do", value=b"\x0b")
        self.refused(value, "the transaction's value is unreadable: Micheline", "at byte")

    def test_value(self) -> None:
        """Micheline is the whole of its field."""
        for value in (b"", made.UNIT + b"\x00", b"\x03", b"\x03\xff"):
            error = self.refused(BRANCH + made.transaction(call="do", value=value), "Micheline")
            self.assertEqual(error.kind, "transaction")


def _changed(data: bytes, changes: list[tuple[int, int]], more: bytes, less: int) -> bytes:
    changed = bytearray(data)
    for place, byte in changes:
        changed[place % len(changed)] = byte
    return bytes(changed[: len(changed) - less]) + more


class AnyBytesTests(OperationsTestCase):
    """What holds for all bytes."""

    def held(self, data: bytes) -> None:
        """These bytes are a group, or refused as declared; what is said of them is bounded."""
        try:
            group = decode(data, 1)
        except Undecodable as error:
            self.assertLess(len(str(error)), 400)
            return
        self.assertIsInstance(group, OperationGroup)
        self.assertLessEqual(len(summary(group)), 300)

    @settings(derandomize=True, deadline=None, max_examples=400)
    @given(st.binary(max_size=300), st.sampled_from([b"", BRANCH]))
    def test_bytes(self, data: bytes, branch: bytes) -> None:
        """Whatever they are, nothing else is raised."""
        self.held(branch + data)

    @settings(derandomize=True, deadline=None, max_examples=1500)
    @given(
        st.sampled_from(sorted(RECORDED.values())),
        st.lists(st.tuples(st.integers(32, 3000), st.integers(0, 255)), max_size=4),
        st.binary(max_size=3),
        st.integers(0, 3),
    )
    def test_changed(
        self, data: bytes, changes: list[tuple[int, int]], more: bytes, less: int
    ) -> None:
        """Recorded operations that are changed a little are read or refused."""
        self.held(_changed(data, changes, more, less))

    @settings(derandomize=True, deadline=None, max_examples=300)
    @given(st.integers(0, 255), st.binary(max_size=200))
    def test_behind_a_header(self, tag: int, rest: bytes) -> None:
        """Any bytes behind the header of a manager operation are read or refused."""
        self.held(BRANCH + made.manager(tag) + rest)

    def test_time(self) -> None:
        """Much of whatever is slow takes time for its length only."""
        key = made.key_hash(OTHER)
        refute = made.manager(0xCC) + bytes(20) + key + b"\1\0\0"
        paid = made.manager(0x71) + b"\xbf" + b"\xff" * 1022 + b"\x01" + made.contract(CONTRACT)
        many: dict[str, Callable[[int], bytes]] = {
            "operations": lambda n: made.delegation(None) * (n // 30),
            "messages": lambda n: made.manager(0xC9) + sized(sized(b"") * (n // 4)),
            "sections": lambda n: refute + sized(b"\0\0" * (n // 2)),
            "votes": lambda n: b"\x1f" + bytes(40) + sized(b"\0\1\0" * (n // 3)),
            "digits": lambda n: paid * (n // len(paid)),
            "keys": lambda n: made.reveal(b"\x04" + bytes(1312)) * (n // 1344),
        }
        for name, build in many.items():
            data = BRANCH + build(32_000)
            times = []
            for _ in range(3):
                started = process_time()
                decode(data)
                times.append(process_time() - started)
            self.assertLess(min(times), 0.1, name)
            self.assertGreater(len(data), 30_000, name)
