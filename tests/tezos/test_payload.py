"""Payloads, against recorded ones and the layouts of Octez."""

from hashlib import blake2b

import attrs
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.support.vectors import MORE_PAYLOADS, OCTEZ, OPERATIONS, PAYLOADS, block, consensus
from tezio_signer.tezos import micheline, operations
from tezio_signer.tezos.operations import OperationGroup, Undecodable
from tezio_signer.tezos.payload import (
    Baking,
    Block,
    Consensus,
    Generic,
    Michelson,
    NeverSigned,
    Operation,
    Payload,
    decode,
)

MAINNET = "NetXdQprcVkpaWU"
CHAIN = bytes.fromhex("7a06a770")
BRANCH = bytes(range(0x20))
PAYLOAD_HASH = bytes(range(0x40, 0x60))
UNLOCKED = PAYLOADS["block_unlocked_nononce_on"]
ATTESTATION = PAYLOADS["att"]
WITH_DAL = PAYLOADS["att_dal_0"]
POSITIONED = {name: data for name, data in PAYLOADS.items() if data[0] != 0x03}
"""The recorded payloads that have a level and a round."""
MICHELSON = bytes.fromhex("050707010000000161 0005")
"""Packed `Pair "a" 5`, as PACK makes it."""

# Of the layout in Octez' block_header_repr and fitness_repr: the parts of UNLOCKED.
_HEADER = UNLOCKED[:83]
_TAIL = UNLOCKED[120:]
_ELEMENTS = (b"\x02", bytes.fromhex("004c4b40"), b"", b"\xff" * 4, bytes.fromhex("00000001"))
VERSION, LEVEL, LOCKED_ROUND, PREDECESSOR_ROUND, ROUND = range(5)


def generic(payload: bytes) -> Generic:
    """A payload that is a generic operation, decoded."""
    decoded = decode(payload)
    assert isinstance(decoded, Generic)
    return decoded


def int32(value: int) -> bytes:
    """Four bytes, big-endian, signed."""
    return value.to_bytes(4, "big", signed=True)


def dynamic(data: bytes) -> bytes:
    """Bytes behind their length."""
    return len(data).to_bytes(4, "big") + data


def with_fitness(fitness: bytes) -> bytes:
    """UNLOCKED with another fitness."""
    return _HEADER + dynamic(fitness) + _TAIL


def with_elements(changes: dict[int, bytes]) -> bytes:
    """UNLOCKED with some elements of its fitness exchanged."""
    elements = (dynamic(changes.get(at, element)) for at, element in enumerate(_ELEMENTS))
    return with_fitness(b"".join(elements))


def put(payload: bytes, at: int, data: bytes) -> bytes:
    """A payload with some bytes overwritten."""
    return payload[:at] + data + payload[at + len(data) :]


class PayloadTestCase(SynchronousTestCase):
    """Asks for refusals and what they say."""

    def refused(self, payload: bytes, *words: str) -> None:
        """Check that a payload is refused, in words that name what is wrong."""
        with self.assertRaises(ValueError) as raised:
            decode(payload)
        for word in words:
            self.assertIn(word, str(raised.exception))


class RecordedTests(PayloadTestCase):
    """Recorded payloads decode to what is recorded with them."""

    def test_blocks(self) -> None:
        """The recorded blocks: locked or not, with or without a nonce, with any votes."""
        for name in ("unlocked_nononce_on", "unlocked_nononce_pass", "locked_nonce_off"):
            expected = Block(MAINNET, 5000000, 1, 1)
            self.assertEqual(decode(PAYLOADS[f"block_{name}"]), expected, name)

    def test_consensus(self) -> None:
        """The recorded preattestations and attestations, also of BLS keys and with DAL content."""
        for name, operation, slot, dal_content in (
            ("preatt", Operation.PREATTESTATION, 42, None),
            ("att", Operation.ATTESTATION, 42, None),
            ("att_dal_0", Operation.ATTESTATION, 42, b"\x00"),
            ("att_dal_5", Operation.ATTESTATION, 42, b"\x05"),
            ("att_dal_big", Operation.ATTESTATION, 42, b"\xb4\x48"),
            ("bls_preatt", Operation.PREATTESTATION, None, None),
            ("bls_att", Operation.ATTESTATION, None, None),
        ):
            expected = Consensus(
                operation, MAINNET, 5000000, 1, slot, BRANCH, PAYLOAD_HASH, dal_content
            )
            self.assertEqual(decode(PAYLOADS[name]), expected, name)

    def test_generic(self) -> None:
        """A recorded generic operation is its branch and what follows."""
        recorded = {p["name"]: p["hex"] for p in OCTEZ["payloads"] if "level" not in p}
        self.assertEqual(len(recorded), 7)
        for name, hexadecimal in recorded.items():
            decoded = generic(PAYLOADS[name])
            self.assertEqual(decoded.branch, BRANCH)
            self.assertEqual(decoded.contents, bytes.fromhex(hexadecimal[66:]), name)
            self.assertEqual(decoded.group, operations.decode(PAYLOADS[name][1:]), name)

    def test_positions(self) -> None:
        """Level and round are the recorded ones in all payloads that have them."""
        recorded = [*OCTEZ["payloads"], *MORE_PAYLOADS]
        positions = [p for p in recorded if p.get("level") is not None]
        self.assertEqual(len(positions), 13)
        for payload in positions:
            decoded = decode(bytes.fromhex(payload["hex"]))
            assert isinstance(decoded, Baking)
            self.assertEqual((decoded.level, decoded.round), (payload["level"], payload["round"]))

    def test_further_payloads(self) -> None:
        """The further recorded payloads are of their kind, chain and payload round."""
        for payload in MORE_PAYLOADS:
            decoded = decode(bytes.fromhex(payload["hex"]))
            self.assertEqual(str(decoded.operation), payload["kind"])
            for field in ("chain_id", "payload_round"):
                self.assertEqual(getattr(decoded, field, None), payload.get(field), payload["hex"])

    def test_operations(self) -> None:
        """Every kind of operation that the chain knows is decoded: those of consensus too."""
        for name, text in OPERATIONS.items():
            data = bytes.fromhex(text)
            decoded = generic(b"\x03" + data)
            self.assertEqual((decoded.branch, decoded.contents), (data[:32], data[32:]))
            self.assertEqual(isinstance(decoded.group, OperationGroup), "block" not in name, name)

    def test_consensus_operations(self) -> None:
        """The recorded consensus operations of another protocol, behind their magic bytes."""
        for name, magic, slot, dal_content in (
            ("unsigned-attestation", 0x13, 0, None),
            ("unsigned-attestation-with-dal", 0x13, 0, b"\x80\x20"),
            ("unsigned-preaatestation", 0x12, 0, None),
            ("bls_mode_unsigned_attestation", 0x13, None, None),
            ("bls_mode_unsigned_preattestation", 0x12, None, None),
        ):
            data = bytes.fromhex(OPERATIONS[name])
            expected = Consensus(
                Operation(magic), MAINNET, 1331, 0, slot, data[:32], bytes(32), dal_content
            )
            self.assertEqual(decode(bytes([magic]) + CHAIN + data), expected, name)

    def test_aggregates(self) -> None:
        """Aggregates, which no single key signs, are refused under every magic byte."""
        for name in ("unsigned-attestations-aggregate", "unsigned-preattestation-aggregate"):
            data = bytes.fromhex(OPERATIONS[name])
            for magic in (b"\x12", b"\x13"):
                self.refused(magic + CHAIN + data, "does not belong under the magic byte")

    def test_emmy_block(self) -> None:
        """A block of the time before Tenderbake is refused for its fitness."""
        header = bytes.fromhex(OPERATIONS["block_header.unsigned"])
        self.refused(b"\x11" + CHAIN + header, "fitness has version 1, not 2")


class MagicByteTests(PayloadTestCase):
    """The first byte decides."""

    def test_all(self) -> None:
        """Five are decoded, three are known but never signed, and all others are unknown."""
        bodies = {0x05: MICHELSON, 0x11: UNLOCKED, 0x12: PAYLOADS["preatt"], 0x13: ATTESTATION}
        for magic in range(256):
            payload = bytes([magic]) + bodies.get(magic, PAYLOADS["transfer"])[1:]
            if magic in (0x03, 0x05, 0x11, 0x12, 0x13):
                self.assertEqual(decode(payload).operation.value, magic)
                continue
            with self.assertRaises(ValueError) as raised:
                decode(payload)
            never = isinstance(raised.exception, NeverSigned)
            self.assertEqual(never, magic in (0x01, 0x02, 0x04), hex(magic))
            sentence = str(raised.exception)
            self.assertIn(f"magic byte 0x{magic:02X}", sentence)
            self.assertIn("0x03 (generic), 0x05 (michelson), 0x11 (block), 0x12", sentence)

    def test_never_signed(self) -> None:
        """What is never signed is named, however short it is."""
        for magic, name in (
            (b"\x01", "legacy_block"),
            (b"\x02", "legacy_endorsement"),
            (b"\x04", "authentication"),
        ):
            with self.assertRaises(NeverSigned) as raised:
                decode(magic)
            self.assertIn(f"({name}) not allowed", str(raised.exception))

    def test_empty(self) -> None:
        """No data at all are refused, in the words of octez-signer."""
        self.refused(b"", "can't sign empty data")

    def test_kinds_of_consensus(self) -> None:
        """Each magic byte of consensus takes its own kinds of operation only."""
        kinds = {0x12: {0x14, 0x28}, 0x13: {0x15, 0x17, 0x29}}
        for magic, own in kinds.items():
            for kind in set(range(256)) - own:
                payload = put(put(ATTESTATION, 0, bytes([magic])), 37, bytes([kind]))
                words = f"{Operation(magic)}, at byte 37"
                self.refused(payload, f"kind 0x{kind:02X} does not belong", words)

    def test_kinds_under_generic(self) -> None:
        """A generic operation that is not understood is told by the kind that was read last."""
        for tag in range(256):
            group = generic(b"\x03" + BRANCH + bytes([tag])).group
            assert isinstance(group, Undecodable)
            kind = next(iter(group.kinds))
            self.assertEqual(kind == tag or kind in operations.KINDS, True)
            consensus = {0x14, 0x15, 0x17, 0x1E, 0x1F, 0x28, 0x29}
            self.assertEqual(kind in operations.CONSENSUS_KINDS, tag in consensus)
            self.assertIn("at byte 3", str(group))


class MichelsonTests(PayloadTestCase):
    """Packed data of Michelson."""

    def test_decoded(self) -> None:
        """It is Micheline behind the magic byte."""
        decoded = decode(MICHELSON)
        self.assertEqual(decoded, Michelson(micheline.decode(MICHELSON[1:])))
        self.assertEqual(str(decoded), 'Michelson data Pair "a" 5')
        self.assertEqual(decoded.operation, Operation.MICHELSON)

    def test_exact(self) -> None:
        """What is cut off or has bytes behind it is refused, at its byte in the payload."""
        for length in range(1, len(MICHELSON)):
            self.refused(MICHELSON[:length], "the Michelson data are unreadable", "at byte")
        self.refused(MICHELSON + b"\x00", f"trailing byte, at byte {len(MICHELSON)}")
        self.refused(b"\x05\x03\xff", "primitive 0xFF", "at byte 2")

    def test_long(self) -> None:
        """Long data have a text of one line all the same."""
        text = "x" * 1000
        decoded = decode(b"\x05\x01" + dynamic(text.encode()))
        self.assertLessEqual(len(str(decoded)), 300)
        self.assertTrue(str(decoded).startswith('Michelson data "xxx'), decoded)


class TextTests(PayloadTestCase):
    """What a generic operation says of itself."""

    def test_understood(self) -> None:
        """It says what it does."""
        for name, text in (
            ("transfer", "transaction of 1 tez to tz1gjaF81ZRRvdzjobyfVNsAeSC6PScjfQwN, fee "),
            ("noop", "failing_noop 'hi'"),
        ):
            self.assertTrue(str(decode(PAYLOADS[name])).startswith(text), decode(PAYLOADS[name]))

    def test_not_understood(self) -> None:
        """It names the digest by which it can be found, and keeps nothing of the error."""
        payload = PAYLOADS["transfer"] + b"\x00"
        decoded = generic(payload)
        digest = blake2b(payload, digest_size=32).hexdigest()
        self.assertEqual(
            str(decoded),
            "transaction of 1 tez to tz1gjaF81ZRRvdzjobyfVNsAeSC6PScjfQwN, fee 0.000404 tez; and "
            f"a generic operation that is not understood ({digest})",
        )
        payload = payload[:33] + b"\x99"
        digest = blake2b(payload, digest_size=32).hexdigest()
        said = str(generic(payload))
        self.assertEqual(said, f"a generic operation that is not understood ({digest})")
        assert isinstance(decoded.group, Undecodable)
        self.assertIsNone(decoded.group.__traceback__)
        self.assertIn("unknown kind 0x00, at byte 88", str(decoded.group))


class LengthTests(PayloadTestCase):
    """Payloads are of exactly their length."""

    def test_cut(self) -> None:
        """A block or consensus operation that is cut anywhere is refused."""
        self.assertEqual(len(POSITIONED), 10)
        for payload in POSITIONED.values():
            for length in range(len(payload)):
                self.refused(payload[:length])

    def test_cut_field(self) -> None:
        """The refusal of a cut payload names the field that is not there."""
        for length, field in (
            (4, "chain id"),
            (8, "level"),
            (9, "protocol"),
            (41, "predecessor"),
            (49, "timestamp"),
            (50, "validation pass"),
            (82, "operations hash"),
            (86, "fitness length"),
            (119, "fitness"),
            (151, "context"),
            (183, "payload hash"),
            (187, "payload round"),
            (195, "proof of work nonce"),
            (196, "seed nonce flag"),
            (197, "votes"),
        ):
            self.refused(UNLOCKED[:length], "the block is cut off", field)
        for length, field in (
            (36, "branch"),
            (37, "kind"),
            (39, "slot"),
            (43, "level"),
            (47, "round"),
            (79, "block payload hash"),
            (80, "DAL content"),
        ):
            self.refused(WITH_DAL[:length], "the attestation is cut off", field)

    def test_trailing_bytes(self) -> None:
        """A block or consensus operation with bytes behind it is refused."""
        for payload in POSITIONED.values():
            for rest, words in (
                (b"\x00", "has 1 trailing byte"),
                (b"\x01", "has 1 trailing byte"),
                (b"\xff", "has 1 trailing byte"),
                (b"\x00\x00", "has 2 trailing bytes"),
            ):
                with self.assertRaises(ValueError) as raised:
                    decode(payload + rest)
                says = f"{words}, at byte {len(payload)}"
                self.assertTrue(str(raised.exception).endswith(says), raised.exception)

    def test_generic(self) -> None:
        """A generic operation needs its branch and at least one byte of contents."""
        for length in range(1, 33):
            self.refused(
                PAYLOADS["transfer"][:length], "the generic operation is cut off", "branch"
            )
        self.refused(PAYLOADS["transfer"][:33], "no contents")
        decoded = generic(PAYLOADS["transfer"][:34])
        self.assertEqual((decoded.branch, decoded.contents), (BRANCH, b"\x6c"))
        self.assertIsInstance(decoded.group, Undecodable)


class BlockTests(PayloadTestCase):
    """Blocks agree with themselves."""

    def test_rebuilt(self) -> None:
        """A block that is put together from the parts is the recorded one."""
        self.assertEqual(with_elements({}), UNLOCKED)

    def test_positions(self) -> None:
        """Level and round are read over their whole range."""
        for level, round_ in ((0, 0), (1, 2**31 - 1), (2**31 - 1, 0), (0x01020304, 0x05060708)):
            self.assertEqual(
                decode(block(level, round_)), Block(MAINNET, level, round_, round_), (level, round_)
            )

    def test_negative_level(self) -> None:
        """A negative level is refused, also when header and fitness agree on it."""
        for level in (-1, -(2**31)):
            data = int32(level)
            self.refused(
                put(put(UNLOCKED, 5, data), 96, data), f"negative level: {level}, at byte 5"
            )

    def test_levels_differ(self) -> None:
        """A level of the header that is not that of the fitness is refused."""
        for at in (5, 96):
            for level in (4999999, 5000001):
                self.refused(put(UNLOCKED, at, int32(level)), "level is", str(level), "5000000")
        self.refused(put(UNLOCKED, 96, int32(-5000000)), "in fitness")

    def test_negative_round(self) -> None:
        """A negative round is refused."""
        for round_ in (-1, -(2**31)):
            self.refused(with_elements({ROUND: int32(round_)}), f"negative round: {round_}")

    def test_payload_round(self) -> None:
        """A payload that was proposed before has its own, lower round; that of the block counts."""
        reproposed = put(with_elements({ROUND: int32(7)}), 184, int32(3))
        self.assertEqual(decode(reproposed), Block(MAINNET, 5000000, 7, 3))

    def test_wrong_payload_round(self) -> None:
        """A payload round above the round, or a negative one, is refused."""
        self.refused(put(UNLOCKED, 184, int32(2)), "payload round 2 is above its round 1")
        self.refused(put(UNLOCKED, 184, int32(-1)), "negative payload round: -1, at byte 184")

    def test_locked_round(self) -> None:
        """A locked round is below the round."""
        for locked, round_ in ((0, 1), (0, 9), (8, 9)):
            payload = with_elements({LOCKED_ROUND: int32(locked), ROUND: int32(round_)})
            decoded = decode(payload)
            assert isinstance(decoded, Block)
            self.assertEqual(decoded.round, round_)
        for locked, round_ in ((1, 1), (2, 1), (0, 0), (-1, 1), (-(2**31), 1)):
            payload = with_elements({LOCKED_ROUND: int32(locked), ROUND: int32(round_)})
            unproposed = put(payload, 188, int32(0))  # its payload round
            self.refused(unproposed, f"locked round {locked} is not below")

    def test_predecessor_round(self) -> None:
        """The predecessor's round is stored as its complement, and so is negative."""
        for stored in (-1, -2, -(2**31)):
            self.assertEqual(
                decode(with_elements({PREDECESSOR_ROUND: int32(stored)})).operation, Operation.BLOCK
            )
        for stored in (0, 1, 2**31 - 1):
            self.refused(with_elements({PREDECESSOR_ROUND: int32(stored)}), "predecessor round")

    def test_version(self) -> None:
        """A fitness of another version than Tenderbake's is refused."""
        for version in (0, 1, 3, 255):
            self.refused(with_elements({VERSION: bytes([version])}), f"version {version}, not 2")

    def test_element_lengths(self) -> None:
        """Each element of the fitness has its own length."""
        names = ("version", "level", "locked round", "predecessor round", "round")
        allowed = ({1}, {4}, {0, 4}, {4}, {4})
        for at, element in enumerate(_ELEMENTS):
            for length in set(range(9)) - allowed[at]:
                resized = element[:length].rjust(length, element[:1] or b"\x00")
                self.refused(with_elements({at: resized}), names[at], f"of {length} bytes")

    def test_fitness_lengths(self) -> None:
        """Lengths that lie, or are negative, are refused in the fitness and in front of it."""
        for at in (87, 92, 100, 104, 112):
            for length in (-1, -(2**31), 2**31 - 1):
                self.refused(put(UNLOCKED, at, int32(length)), "the block's fitness has a")
        for length in (-1, -(2**31), 2**31 - 1, 0x8000):
            self.refused(put(UNLOCKED, 83, int32(length)), "the block", "fitness")
        for length in (32, 34, 37):
            self.refused(put(UNLOCKED, 83, int32(length)))

    def test_fitness_end(self) -> None:
        """A fitness that is cut anywhere, or has bytes or an element too many, is refused."""
        fitness = UNLOCKED[87:120]
        for length in range(len(fitness)):
            self.refused(with_fitness(fitness[:length]), "the block's fitness")
        for more in (b"\x00", dynamic(b""), dynamic(int32(9))):
            self.refused(with_fitness(fitness + more), "fitness has", "trailing")

    def test_seed_nonce_flag(self) -> None:
        """A seed nonce hash follows the flag FF, none follows 00, and no other flag exists."""
        with_nonce = UNLOCKED[:196] + b"\xff" + bytes(32) + b"\x00"
        self.assertEqual(decode(with_nonce), decode(UNLOCKED))
        self.refused(put(with_nonce, 196, b"\x00"), "32 trailing bytes")
        self.refused(
            put(UNLOCKED, 196, b"\xff"),
            "cut off in its seed nonce hash: 1 of 32 bytes, at byte 197",
        )
        for flag in range(1, 255):
            self.refused(
                put(UNLOCKED, 196, bytes([flag])), f"seed nonce flag 0x{flag:02X}, at byte 196"
            )

    def test_votes(self) -> None:
        """The byte of votes is not judged."""
        for votes in range(256):
            self.assertEqual(decode(UNLOCKED[:-1] + bytes([votes])), decode(UNLOCKED))


class ConsensusTests(PayloadTestCase):
    """Preattestations and attestations."""

    def test_fields(self) -> None:
        """Slot, level and round are read over their whole range."""
        for slot, level, round_ in ((0, 0, 0), (65535, 2**31 - 1, 2**31 - 1), (258, 1, 16909060)):
            payload = put(consensus("att", level, round_), 38, slot.to_bytes(2, "big"))
            decoded = decode(payload)
            assert isinstance(decoded, Consensus)
            self.assertEqual((decoded.slot, decoded.level, decoded.round), (slot, level, round_))

    def test_negative(self) -> None:
        """A negative level or round is refused."""
        for payload, at, field in (
            (ATTESTATION, 40, "level"),
            (ATTESTATION, 44, "round"),
            (PAYLOADS["preatt"], 40, "level"),
            (PAYLOADS["bls_att"], 38, "level"),
            (PAYLOADS["bls_att"], 42, "round"),
        ):
            for value in (-1, -(2**31)):
                self.refused(put(payload, at, int32(value)), f"a negative {field}: {value}")

    def test_chain_id(self) -> None:
        """Chain ids are written as Octez writes them."""
        for name, at in (("preatt", 1), ("att", 1), ("bls_att", 1)):
            decoded = decode(put(PAYLOADS[name], at, bytes.fromhex("b3d79f99")))
            assert isinstance(decoded, Consensus)
            self.assertEqual(decoded.chain_id, "NetXo5iVw1vBoxM")

    def test_dal_content(self) -> None:
        """A DAL content is one number of any length, kept as it is."""
        for content in ("00", "01", "3f", "8001", "bf7f", "808001", "bf" + "ff" * 40 + "01"):
            data = bytes.fromhex(content)
            decoded = decode(WITH_DAL[:80] + data)
            assert isinstance(decoded, Consensus)
            self.assertEqual(decoded.dal_content, data)

    def test_wrong_dal_content(self) -> None:
        """A DAL content that is negative, unfinished or longer than it need be is refused."""
        for content, words in (
            ("", "cut off in its DAL content"),
            ("40", "negative"),
            ("41", "negative"),
            ("c001", "negative"),
            ("80", "cut off in its DAL content"),
            ("bfff", "cut off in its DAL content"),
            ("8000", "superfluous zero"),
            ("858000", "superfluous zero"),
            ("0000", "1 trailing byte"),
            ("0500", "1 trailing byte"),
            ("b44800", "1 trailing byte"),
        ):
            self.refused(WITH_DAL[:80] + bytes.fromhex(content), words)

    def test_dal_content_elsewhere(self) -> None:
        """Only the kind with DAL content has one."""
        for name in ("preatt", "att", "bls_preatt", "bls_att"):
            self.refused(PAYLOADS[name] + b"\x05", "1 trailing byte")


# The fields by their places; what a byte anywhere else says cannot be changed.
_CONSENSUS_FIELDS = {
    "chain_id": range(1, 5),
    "branch": range(5, 37),
    "slot": range(38, 40),
    "level": range(40, 44),
    "round": range(44, 48),
    "block_payload_hash": range(48, 80),
    "dal_content": range(80, 82),
}
_BLOCK_FIELDS = {
    "chain_id": range(1, 5),
    "round": range(116, 120),
    "payload_round": range(184, 188),
}
# In UNLOCKED: protocol to operations hash, predecessor round, context and payload hash,
# proof of work nonce, votes. They are not part of the value.
_NOT_KEPT = {*range(9, 83), *range(108, 112), *range(120, 184), *range(188, 196), 197}


def changes(before: Payload, after: Payload) -> set[str]:
    """The names of the fields in which two payloads of one type differ."""
    names = [field.name for field in attrs.fields(type(before))]
    return {name for name in names if getattr(before, name) != getattr(after, name)}


class AnyBytesTests(PayloadTestCase):
    """What holds for all payloads."""

    @settings(derandomize=True, deadline=None, max_examples=300)
    @given(
        st.sampled_from(("", "03", "05", "11", "12", "13")),
        st.one_of(st.binary(max_size=240), st.sampled_from([p[1:] for p in PAYLOADS.values()])),
    )
    def test_errors(self, magic: str, rest: bytes) -> None:
        """Whatever the bytes are, they are decoded or a ValueError."""
        payload = bytes.fromhex(magic) + rest
        try:
            decoded = decode(payload)
        except ValueError:
            return
        self.assertEqual(decoded.operation.value, payload[0])

    @settings(derandomize=True, deadline=None, max_examples=500)
    @given(
        st.sampled_from(("preatt", "att", "att_dal_0", "att_dal_big", "block_unlocked_nononce_on")),
        st.integers(0, 10_000),
        st.one_of(st.sampled_from((0x01, 0x40, 0x80, 0xFF)), st.integers(1, 255)),
    )
    def test_one_byte(self, name: str, place: int, flips: int) -> None:
        """One byte exchanged changes the field that it is in and no other, or is refused."""
        payload = PAYLOADS[name]
        place = 1 + place % (len(payload) - 1)
        fields = _BLOCK_FIELDS if payload == UNLOCKED else _CONSENSUS_FIELDS
        expected = {name for name, places in fields.items() if place in places}
        try:
            after = decode(put(payload, place, bytes([payload[place] ^ flips])))
        except ValueError:
            return
        self.assertEqual(changes(decode(payload), after), expected)
        self.assertTrue(expected or place in _NOT_KEPT, place)

    def test_free_places(self) -> None:
        """The lowest bit can change in exactly those places where nothing contradicts it."""
        rounds = {*range(116, 119), 187}  # 119 would fall below the payload round
        for payload, free in (
            (UNLOCKED, {*range(1, 5)} | _NOT_KEPT | rounds),
            (ATTESTATION, set(range(1, 80)) - {37}),
            (PAYLOADS["bls_att"], set(range(1, 78)) - {37}),
            (PAYLOADS["att_dal_5"], set(range(1, 81)) - {37}),
        ):
            accepted = set()
            for place in range(1, len(payload)):
                try:
                    decode(put(payload, place, bytes([payload[place] ^ 1])))
                except ValueError:
                    continue
                accepted.add(place)
            self.assertEqual(accepted, free)


class DalSignTests(SynchronousTestCase):
    """The sign of the number that says which DAL slots are attested."""

    def test_several_bytes(self) -> None:
        """It is in the first byte alone: in the last, the same bit is one of the number."""
        begun = PAYLOADS["att_dal_5"][:-1]
        decode(begun + b"\x80\x41")
        self.assertRaises(ValueError, decode, begun + b"\xc0\x01")
