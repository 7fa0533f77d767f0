"""The layout of each kind of operation, against an encoder of the tests' own."""

from tests.support import genericpayloads as made
from tests.support.genericpayloads import BRANCH, CONTRACT, OTHER, SOURCE, sized
from tests.support.octezclient import to_base58check
from tests.support.operationscase import (
    COMMITMENT,
    HEADER,
    ROLLUP,
    STATE,
    OperationsTestCase,
    one,
    plain,
)
from tezio_signer.tezos.operations import (
    CONSENSUS_KINDS,
    KINDS,
    MANAGER_KINDS,
)


class KindsTests(OperationsTestCase):
    """Each kind has its fields, with their names in Octez' JSON, in the order of the encoding."""

    def test_sets(self) -> None:
        """No kind is both of consensus and with a fee; some are neither."""
        self.assertFalse(MANAGER_KINDS & CONSENSUS_KINDS)
        self.assertLess(MANAGER_KINDS | CONSENSUS_KINDS, KINDS)
        self.assertEqual((len(KINDS), len(MANAGER_KINDS), len(CONSENSUS_KINDS)), (38, 21, 7))

    def test_voting(self) -> None:
        """Proposals and ballots."""
        start = {"source": SOURCE, "period": 7}
        for byte, vote in enumerate(("yay", "nay", "pass")):
            fields = {**start, "proposal": made.PROTOCOL, "ballot": vote}
            self.holds(made.ballot(byte), "ballot", **fields)
        for number in (0, 1, 20):
            protocols = [made.PROTOCOL] * number
            self.holds(made.proposals(*protocols), "proposals", **start, proposals=protocols)
        self.refused(BRANCH + made.proposals(*[made.PROTOCOL] * 21), "more than 20 proposals")
        head = made.proposals()[:-4]
        self.refused(BRANCH + head + sized(bytes(641)), "more than 20 proposals")
        self.refused(BRANCH + head + sized(bytes(639)), "cut off in its proposals: 31 of 32")
        self.refused(BRANCH + made.ballot(3), "the ballot has an unknown ballot 0x03, at byte 91")

    def test_keys(self) -> None:
        """Keys of all five curves, with a proof for BLS, by the length that each has."""
        for tag, prefix, data in (
            (0, "0d0f25d9", b"\x07" * 32),
            (1, "03fee256", b"\x02" + b"\x07" * 32),
            (2, "03b28b7f", b"\x03" + b"\x07" * 32),
            (3, "069587cc", b"\x87" * 48),
            (4, "0d07ed43", b"\x07" * 1312),
        ):
            text = to_base58check(bytes.fromhex(prefix), data)
            proof = b"\x09" * 96 if tag == 3 else None
            said = to_base58check(bytes.fromhex("28ab40cf"), b"\x09" * 96) if proof else None
            key = bytes([tag]) + data
            self.holds(made.reveal(key, proof), "reveal", **HEADER, public_key=text, proof=said)
            for kind, first in (("update_consensus_key", 0x72), ("update_companion_key", 0x73)):
                encoded = made.manager(first) + key + made.optional(proof and sized(proof))
                self.holds(encoded, kind, **HEADER, pk=text, proof=said)
        self.refused(BRANCH + made.reveal(b"\x05" + bytes(32)), "public_key of unknown curve 0x05")
        self.refused(BRANCH + made.reveal(b"\x01" + bytes(33)), "no compressed point")
        self.refused(BRANCH + made.reveal(b"\x02\x04" + bytes(32)), "no compressed point")
        self.refused(BRANCH + made.reveal(proof=bytes(95)), "proof is cut off", "95 of 96 bytes")
        self.refused(BRANCH + made.reveal(proof=bytes(97)), "proof has 1 trailing byte")

    def test_addresses(self) -> None:
        """Accounts of all five curves, and contracts."""
        accounts = [OTHER, CONTRACT]
        prefixes = map(bytes.fromhex, ("06a1a1", "06a1a4", "06a1a6", "06a1a9"))
        accounts += [to_base58check(prefix, b"\x05" * 20) for prefix in prefixes]
        for account in accounts:
            self.assertEqual(one(made.transaction(5, account)).fields["destination"], account)
        self.assertEqual([each[:3] for each in accounts[2:]], ["tz2", "tz3", "tz4", "tz5"])
        good = made.transaction(5, CONTRACT)
        at = good.index(made.contract(CONTRACT))
        for place, byte, words in (
            (at, 2, "destination that is no account"),
            (at + 21, 1, "destination that is no contract"),
        ):
            data = good[:place] + bytes([byte]) + good[place + 1 :]
            self.refused(BRANCH + data, f"the transaction has a {words}")
        paid = made.manager(0x71) + made.integer(5) + made.contract(OTHER)
        self.refused(BRANCH + paid, "the increase_paid_storage has a destination that is no con")

    def test_entrypoints(self) -> None:
        """Entrypoints with a number, and with a name."""
        names = (
            *("default", "root", "do", "set_delegate", "remove_delegate", "deposit", "stake"),
            *("unstake", "finalize_unstake", "set_delegate_parameters"),
        )
        for number, name in enumerate(names):
            self.assertEqual(made.entrypoint(name), bytes([number]))
        for name in (*names, "transfer", "a", "x" * 31, "_.%@09azAZ"):
            fields = one(made.transaction(call=name, value=b"\x03\x0a")).fields
            self.assertEqual((fields["entrypoint"], str(fields["value"])), (name, "True"))
        head = BRANCH + made.transaction()[:-1] + b"\xff"
        for data, words in (
            (b"\x0a", "unknown entrypoint 0x0A"),
            (b"\xfe", "unknown entrypoint 0xFE"),
            (b"\xff\x00", "entrypoint of 0 letters, where 1 to 31 are accepted"),
            (b"\xff\x20" + b"x" * 32, "entrypoint of 32 letters"),
            (b"\xff\x04do\n!", "letters that no entrypoint has"),
            (b"\xff\x02\xc3\xa9", "letters that no entrypoint has"),
            *(
                (b"\xff" + bytes([len(n)]) + n.encode(), f"the entrypoint {n} by its name")
                for n in names
            ),
        ):
            self.refused(head + data + sized(made.UNIT), words)

    def test_unit_for_default(self) -> None:
        """Octez writes it as no parameters; with annotations, or for others, as it is."""
        transaction = made.transaction(call="default")
        self.assertEqual(transaction[-8:], bytes.fromhex("ff00 00000002 030b"))
        error = self.refused(
            BRANCH + transaction,
            "the transaction calls the entrypoint default with Unit, where 00 for no parameters is "
            "accepted, at byte ",
        )
        self.assertEqual(error.kind, "transaction")
        for name, value in (("root", made.UNIT), ("default", bytes.fromhex("040b 00000001 3a"))):
            fields = one(made.transaction(call=name, value=value)).fields
            self.assertEqual(fields["entrypoint"], name)

    def test_values_that_octez_changes_or_refuses(self) -> None:
        """Stakers in the wrong order, and no tickets."""
        keys = made.key_hash(OTHER) + made.key_hash(SOURCE)
        timeout = BRANCH + made.manager(0xCD) + b"\x11" * 20 + keys
        self.refused(timeout, f"has its stakers not in their order, at byte {len(timeout) - 41}")
        unit = sized(made.UNIT)
        ticket = made.manager(0x9E) + unit + unit + made.contract(CONTRACT)
        self.refused(
            BRANCH + ticket + b"\x00" + made.contract(OTHER) + sized(b"a"),
            f"has a ticket_amount of zero, at byte {len(BRANCH + ticket) + 1}",
        )

    def test_other_manager_operations(self) -> None:
        """The manager operations that no other test has."""
        key, unit = made.key_hash(OTHER), sized(made.UNIT)
        code = {"code": "Unit", "storage": "Unit"}
        for tag, rest, kind, fields in (
            (0x6D, made.natural(7) + b"\x00" + unit + unit, "origination",
             {"balance": 7, "delegate": None, "script": code}),
            (0x6E, b"\xff" + key, "delegation", {"delegate": OTHER}),
            (0x6F, unit, "register_global_constant", {"value": "Unit"}),
            (0x70, b"\xff" + made.natural(2**63 - 1), "set_deposits_limit", {"limit": 2**63 - 1}),
            (0x71, made.integer(300) + made.contract(CONTRACT), "increase_paid_storage",
             {"amount": 300, "destination": CONTRACT}),
            (0x9E, unit + unit + made.contract(CONTRACT) + made.natural(2**200)
             + made.contract(OTHER) + sized(b"default"), "transfer_ticket",
             {"ticket_contents": "Unit", "ticket_ty": "Unit", "ticket_ticketer": CONTRACT,
              "ticket_amount": 2**200, "destination": OTHER, "entrypoint": "default"}),
            (0xC8, b"\x02" + sized(b"kernel") + unit + b"\xff" + sized(key + key),
             "smart_rollup_originate",
             {"pvm_kind": "riscv", "kernel": b"kernel", "parameters_ty": "Unit",
              "whitelist": [OTHER, OTHER]}),
            (0xC8, b"\x00" + sized(b"") + unit + b"\x00", "smart_rollup_originate",
             {"pvm_kind": "arith", "kernel": b"", "parameters_ty": "Unit", "whitelist": None}),
            (0xC8, b"\x01" + sized(b"") + unit + b"\x00", "smart_rollup_originate",
             {"pvm_kind": "wasm_2_0_0", "kernel": b"", "parameters_ty": "Unit",
              "whitelist": None}),
            (0xC9, sized(sized(b"one") + sized(b"")), "smart_rollup_add_messages",
             {"message": [b"one", b""]}),
            (0xCA, b"\x11" * 20, "smart_rollup_cement", {"rollup": ROLLUP}),
            (0xCB, b"\x11" * 20 + b"\x33" * 32 + b"\x00\x00\x01\x00" + b"\x22" * 32
             + (2**40).to_bytes(8, "big"), "smart_rollup_publish",
             {"rollup": ROLLUP, "commitment": {"compressed_state": STATE, "inbox_level": 256,
              "predecessor": COMMITMENT, "number_of_ticks": 2**40}}),
            (0xCD, b"\x11" * 20 + made.key_hash(SOURCE) + key, "smart_rollup_timeout",
             {"rollup": ROLLUP, "stakers": {"alice": SOURCE, "bob": OTHER}}),
            (0xCE, b"\x11" * 20 + b"\x22" * 32 + sized(b"proof"),
             "smart_rollup_execute_outbox_message",
             {"rollup": ROLLUP, "cemented_commitment": COMMITMENT, "output_proof": b"proof"}),
            (0xCF, b"\x11" * 20 + key, "smart_rollup_recover_bond",
             {"rollup": ROLLUP, "staker": OTHER}),
            (0xE6, b"\x07" + b"\x44" * 48 + b"\x55" * 96, "dal_publish_commitment",
             {"slot_header": {"slot_index": 7, "commitment_proof": b"\x55" * 96,
              "commitment": to_base58check(bytes.fromhex("0274b4"), b"\x44" * 48)}}),
            (0xFA, sized(b"p") + sized(sized(b"c") + b"\x01") + sized(b"\x01" * 32)
             + b"\x00\x00\x00\x05", "zk_rollup_origination",
             {"public_parameters": b"p", "circuits_info": [[b"c", "private"]],
              "init_state": [b"\x01" * 32], "nb_ops": 5}),
            (0xFC, b"\x11" * 20 + sized(sized(b"a") + sized(b"\x01" * 32) + b"\x02" * 32 + b"\xff")
             + sized(b"") + sized(b"") + sized(b"proof"), "zk_rollup_update",
             {"zk_rollup": to_base58check(bytes.fromhex("0117e07d"), b"\x11" * 20),
              "update": {"pending_pis": [[b"a", {"new_state": [b"\x01" * 32], "fee": b"\x02" * 32,
                                                 "exit_validity": True}]],
                         "private_pis": [], "fee_pi": [], "proof": b"proof"}}),
        ):  # fmt: skip
            encoded = made.manager(tag) + rest
            content = one(encoded)
            self.assertEqual(plain(content.fields), {**HEADER, **fields}, kind)
            self.assertEqual(content.kind, kind)
            self.assertIn(kind, MANAGER_KINDS)
            for length in range(len(encoded)):
                self.refused(BRANCH + encoded[:length])
            self.refused(BRANCH + encoded + b"\x00")

    def test_refutation(self) -> None:
        """The moves of a refutation game, and the proofs in them."""
        head = made.manager(0xCC) + b"\x11" * 20 + made.key_hash(OTHER)
        move = {"refutation_kind": "move", "choice": 300}
        choice = b"\x01" + made.natural(300)
        proof = choice + b"\x01" + sized(b"step")
        for rest, refutation in (
            (b"\x00" + b"\x22" * 64, {
                "refutation_kind": "start",
                "player_commitment_hash": COMMITMENT,
                "opponent_commitment_hash": COMMITMENT,
            }),
            (choice + b"\x00" + sized(b"\xff" + b"\x33" * 32 + b"\x05" + b"\x00\x06"), {
                **move,
                "step": [{"state": STATE, "tick": 5}, {"state": None, "tick": 6}],
            }),
            (proof + b"\x00", {**move, "step": {"pvm_step": b"step", "input_proof": None}}),
            *(
                (proof + b"\xff" + data, {
                    **move,
                    "step": {"pvm_step": b"step", "input_proof": said},
                })
                for data, said in (
                    (b"\x00" + bytes(3) + b"\x09" + b"\x05" + sized(b"x"), {
                        "input_proof_kind": "inbox_proof", "level": 9, "message_counter": 5,
                        "serialized_proof": b"x",
                    }),
                    (b"\x01\x00\x00\x02ab", {
                        "input_proof_kind": "reveal_proof",
                        "reveal_proof": {"reveal_proof_kind": "raw_data_proof", "raw_data": b"ab"},
                    }),
                    (b"\x01\x01", {
                        "input_proof_kind": "reveal_proof",
                        "reveal_proof": {"reveal_proof_kind": "metadata_proof"},
                    }),
                    (b"\x01\x02" + bytes(3) + b"\x09\x04\xff\xff" + sized(b"p"), {
                        "input_proof_kind": "reveal_proof",
                        "reveal_proof": {
                            "reveal_proof_kind": "dal_page_proof",
                            "dal_page_id": {
                                "published_level": 9, "slot_index": 4, "page_index": -1,
                            },
                            "dal_proof": b"p",
                        },
                    }),
                    (b"\x01\x03", {
                        "input_proof_kind": "reveal_proof",
                        "reveal_proof": {"reveal_proof_kind": "dal_parameters_proof"},
                    }),
                    (b"\x02", {"input_proof_kind": "first_input"}),
                )
            ),
        ):  # fmt: skip
            fields = {**HEADER, "rollup": ROLLUP, "opponent": OTHER, "refutation": refutation}
            self.holds(head + rest, "smart_rollup_refute", **fields)
            for length in range(len(head), len(head + rest)):
                self.refused(BRANCH + (head + rest)[:length])
        for rest, words in (
            (b"\x02", "an unknown refutation 0x02"),
            (choice + b"\x02", "an unknown step 0x02"),
            (proof + b"\xff\x03", "an unknown input_proof 0x03"),
            (proof + b"\xff\x01\x04", "an unknown reveal_proof 0x04"),
            (proof + b"\xff\x01\x00\x10\x01" + bytes(4097), "raw_data of 4097 bytes"),
        ):
            self.refused(BRANCH + head + rest, f"the smart_rollup_refute has {words}")

    def test_vdf(self) -> None:
        """A solution of the delay function."""
        self.holds(
            b"\x08" + b"\x01" * 100 + b"\x02" * 100,
            "vdf_revelation",
            solution=[b"\x01" * 100, b"\x02" * 100],
        )

    def test_unknown(self) -> None:
        """A kind that no protocol has is refused by its number, and its place."""
        known = set()
        for tag in range(256):
            error = self.refused(BRANCH + bytes([tag]))
            if isinstance(error.kind, str):
                known.add(error.kind)
                continue
            sentence = f"the generic operation has an unknown kind 0x{tag:02X}, at byte 33"
            self.assertEqual((str(error), error.kind), (sentence, tag))
        self.assertEqual(known, KINDS)
