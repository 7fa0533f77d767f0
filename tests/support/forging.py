"""Operation groups and Micheline as bytes, made anew from the layouts that Octez documents.

The values are Octez' JSON; Micheline may be bytes instead. Nothing here is the package's: what
that has decoded is encoded here again, and has to give the bytes that it was decoded from. The
layouts are those of `docs/protocols/octez-remote-signer.md` and, for what that leaves out, of the
Octez sources (`src/proto_alpha/lib_protocol/operation_repr.ml`).
"""

from collections.abc import Callable, Mapping
from typing import Any

from tests.support.genericpayloads import contract, entrypoint, integer, key_hash, natural, sized
from tests.support.octezclient import from_base58check

Json = Any
BALLOTS = ["yay", "nay", "pass"]
PVM_KINDS = ["arith", "wasm_2_0_0", "riscv"]
PUBLIC_KEYS = {
    "edpk": (bytes.fromhex("0d0f25d9"), 32),
    "sppk": (bytes.fromhex("03fee256"), 33),
    "p2pk": (bytes.fromhex("03b28b7f"), 33),
    "BLpk": (bytes.fromhex("069587cc"), 48),
    "mdpk": (bytes.fromhex("0d07ed43"), 1312),
}
"""Prefix and length of public keys; the place of each is its tag."""
SIGNATURES = {
    "edsig": (bytes.fromhex("09f5cd8612"), 64),
    "spsig": (bytes.fromhex("0d7365133f"), 64),
    "p2sig": (bytes.fromhex("36f02c34"), 64),
    "sig": (bytes.fromhex("04822b"), 64),
    "BLsig": (bytes.fromhex("28ab40cf"), 96),
    "mdsig": (bytes.fromhex("019c2dd203"), 2420),
}
BLOCK = bytes.fromhex("0134")
PROTOCOL = bytes.fromhex("02aa")
BLOCK_PAYLOAD = bytes.fromhex("016af2")
ROLLUP = bytes.fromhex("067c75")
COMMITMENT = bytes.fromhex("11a5868a")
ROLLUP_STATE = bytes.fromhex("11a5ebf0")
SLOT_HEADER = bytes.fromhex("0274b4")
OPERATIONS = bytes.fromhex("1d9f6d")
CONTEXT = bytes.fromhex("4fc7")
NONCE = bytes.fromhex("45dca9")
ZK_ROLLUP = bytes.fromhex("0117e07d")
_UNIT = {"prim": "Unit"}, b"\x03\x0b"


# -- numbers, lengths, options -------------------------------------------------------------


def _natural(value: Json) -> bytes:
    return natural(int(value))


def _integer(value: Json) -> bytes:
    return integer(int(value))


def _number(value: Json, size: int) -> bytes:
    return int(value).to_bytes(size, "big", signed=int(value) < 0)


def _optional(value: Json, encode: Callable[[Json], bytes]) -> bytes:
    return b"\x00" if value is None else b"\xff" + encode(value)


def _hex(text: str) -> bytes:
    return bytes.fromhex(text)


def _int_of(digits: str) -> int:
    """A number in decimal, below the limit of 4300 digits that Python has or above it."""
    value = 0
    for start in range(0, len(digits.lstrip("-")), 1000):
        part = digits.lstrip("-")[start : start + 1000]
        value = value * int(10 ** len(part)) + int(part)
    return -value if digits.startswith("-") else value


# -- Base58Check ---------------------------------------------------------------------------


def public_key(text: str) -> bytes:
    """A public key behind its tag."""
    return bytes([list(PUBLIC_KEYS).index(text[:4])]) + from_base58check(
        PUBLIC_KEYS[text[:4]][0], text
    )


def signature(text: str) -> bytes:
    """A signature, of whatever kind, without a tag."""
    name = next(name for name in SIGNATURES if text.startswith(name))
    return from_base58check(SIGNATURES[name][0], text)


# -- Micheline -----------------------------------------------------------------------------


def micheline(expression: Json, primitives: Mapping[str, int], like: bytes = b"") -> bytes:
    """An expression, of any depth.

    :param primitives: the number of each primitive, which only Octez' list of them says.
    :param like: bytes that may differ in one thing, and are followed in that: no annotations are
        written in two ways, by the form for none and by the form for some with none in it. Octez
        keeps whichever it gets.
    """
    written = bytearray()
    # What is left to be written, the first at the end: expressions, bytes, and lengths.
    left: list[Any] = [expression]
    while left:
        match left.pop():
            case ("measure", int(start)):
                written[start - 4 : start] = (len(written) - start).to_bytes(4, "big")
            case ("write", bytes(data)):
                written += data
            case list(items):
                written += b"\x02\x00\x00\x00\x00"
                left += [("measure", len(written)), *reversed(items)]
            case {"int": digits}:
                written += b"\x00" + integer(_int_of(digits))
            case {"string": text}:
                written += b"\x01" + sized(text.encode("latin-1"))
            case {"bytes": digits}:
                written += b"\x0a" + sized(bytes.fromhex(digits))
            case {"prim": name} as applied:
                arguments: list[Json] = applied.get("args", [])
                annotations: list[str] = applied.get("annots", [])
                text = sized(" ".join(annotations).encode())
                many = len(arguments) > 2
                tag = 9 if many else 4 + 2 * len(arguments)
                if not (annotations or many or like[len(written) :][:1] == bytes([tag])):
                    tag, text = tag - 1, b""
                written += bytes([tag, primitives[name]]) + b"\x00" * 4 * many
                left.append(("write", text))
                if many:
                    left.append(("measure", len(written)))
                left += reversed(arguments)
            case other:
                raise AssertionError(f"no Micheline: {other!r:.100}")
    return bytes(written)


# -- operations ----------------------------------------------------------------------------


class Forger:
    """Writes operation groups.

    :param primitives: the number of each primitive of Michelson.
    """

    def __init__(self, primitives: Mapping[str, int]) -> None:
        self._primitives = primitives

    def group(self, group: Json) -> bytes:
        """A branch and contents, without a magic byte."""
        return from_base58check(BLOCK, group["branch"]) + b"".join(
            map(self.content, group["contents"])
        )

    def content(self, content: Json) -> bytes:
        """One operation behind its tag."""
        tag, *parts = self._parts(content)
        if "counter" in content:
            header = [key_hash(content["source"])]
            header += [
                _natural(content[name]) for name in ("fee", "counter", "gas_limit", "storage_limit")
            ]
            parts = header + parts
        return bytes([tag]) + b"".join(parts)

    def _expression(self, value: Json) -> bytes:
        return sized(value if isinstance(value, bytes) else micheline(value, self._primitives))

    def _parts(self, of: Json) -> tuple[int, *tuple[bytes, ...]]:
        """The tag, and what follows it or the header of manager operations."""
        match of["kind"]:
            case "reveal":
                return 0x6B, public_key(of["public_key"]), _proof(of)
            case "transaction":
                called = _optional(_called(of), self._call)
                return 0x6C, _natural(of["amount"]), contract(of["destination"]), called
            case "origination":
                code, storage = of["script"]["code"], of["script"]["storage"]
                return (
                    0x6D,
                    _natural(of["balance"]),
                    _optional(of.get("delegate"), key_hash),
                    self._expression(code),
                    self._expression(storage),
                )
            case "delegation":
                return 0x6E, _optional(of.get("delegate"), key_hash)
            case "register_global_constant":
                return 0x6F, self._expression(of["value"])
            case "set_deposits_limit":
                return 0x70, _optional(of.get("limit"), _natural)
            case "increase_paid_storage":
                return 0x71, _integer(of["amount"]), contract(of["destination"])
            case "update_consensus_key":
                return 0x72, public_key(of["pk"]), _proof(of)
            case "update_companion_key":
                return 0x73, public_key(of["pk"]), _proof(of)
            case "transfer_ticket":
                return (
                    0x9E,
                    self._expression(of["ticket_contents"]),
                    self._expression(of["ticket_ty"]),
                    contract(of["ticket_ticketer"]),
                    _natural(of["ticket_amount"]),
                    contract(of["destination"]),
                    sized(of["entrypoint"].encode()),
                )
            case "smart_rollup_originate":
                return (
                    0xC8,
                    bytes([PVM_KINDS.index(of["pvm_kind"])]),
                    sized(_hex(of["kernel"])),
                    self._expression(of["parameters_ty"]),
                    _optional(
                        of.get("whitelist"), lambda keys: sized(b"".join(map(key_hash, keys)))
                    ),
                )
            case "smart_rollup_add_messages":
                messages = [sized(_hex(message)) for message in of["message"]]
                return 0xC9, sized(b"".join(messages))
            case "smart_rollup_cement":
                return 0xCA, _rollup(of)
            case "smart_rollup_publish":
                commitment = of["commitment"]
                return (
                    0xCB,
                    _rollup(of),
                    from_base58check(ROLLUP_STATE, commitment["compressed_state"]),
                    _number(commitment["inbox_level"], 4),
                    from_base58check(COMMITMENT, commitment["predecessor"]),
                    _number(commitment["number_of_ticks"], 8),
                )
            case "smart_rollup_refute":
                return 0xCC, _rollup(of), key_hash(of["opponent"]), _refutation(of["refutation"])
            case "smart_rollup_timeout":
                # Octez puts the lower one first, whatever the order was.
                lower, higher = sorted(map(key_hash, of["stakers"].values()))
                return 0xCD, _rollup(of), lower, higher
            case "smart_rollup_execute_outbox_message":
                commitment = from_base58check(COMMITMENT, of["cemented_commitment"])
                return 0xCE, _rollup(of), commitment, sized(_hex(of["output_proof"]))
            case "smart_rollup_recover_bond":
                return 0xCF, _rollup(of), key_hash(of["staker"])
            case "dal_publish_commitment":
                header = of["slot_header"]
                commitment = from_base58check(SLOT_HEADER, header["commitment"])
                return (
                    0xE6,
                    _number(header["slot_index"], 1),
                    commitment,
                    _hex(header["commitment_proof"]),
                )
            case "zk_rollup_origination":
                return (
                    0xFA,
                    sized(_hex(of["public_parameters"])),
                    _circuits(of["circuits_info"]),
                    _scalars(of["init_state"]),
                    _number(of["nb_ops"], 4),
                )
            case "zk_rollup_update":
                rollup = from_base58check(ZK_ROLLUP, of["zk_rollup"])
                return 0xFC, rollup, _zk_update(of["update"])
            case _:
                return _not_manager(of)

    def _call(self, parameters: Json) -> bytes:
        return entrypoint(parameters["entrypoint"]) + self._expression(parameters["value"])


def _called(transaction: Json) -> Json:
    """The parameters that are written: Octez leaves out those that say nothing."""
    parameters = transaction.get("parameters")
    if parameters and parameters["entrypoint"] == "default" and parameters["value"] in _UNIT:
        return None
    return parameters


def _proof(of: Json) -> bytes:
    return _optional(of.get("proof"), lambda proof: sized(signature(proof)))


def _rollup(of: Json) -> bytes:
    return from_base58check(ROLLUP, of["rollup"])


def _refutation(of: Json) -> bytes:
    if of["refutation_kind"] == "start":
        hashes = of["player_commitment_hash"], of["opponent_commitment_hash"]
        return b"\x00" + b"".join(from_base58check(COMMITMENT, text) for text in hashes)
    step = of["step"]
    if isinstance(step, list):
        sections = (
            _optional(section.get("state"), lambda text: from_base58check(ROLLUP_STATE, text))
            + _natural(section["tick"])
            for section in step
        )
        return b"\x01" + _natural(of["choice"]) + b"\x00" + sized(b"".join(sections))
    proof = _optional(step["input_proof"], _input_proof)
    return b"\x01" + _natural(of["choice"]) + b"\x01" + sized(_hex(step["pvm_step"])) + proof


def _input_proof(of: Json) -> bytes:
    match of["input_proof_kind"]:
        case "inbox_proof":
            place = _number(of["level"], 4) + _natural(of["message_counter"])
            return b"\x00" + place + sized(_hex(of["serialized_proof"]))
        case "reveal_proof":
            return b"\x01" + _reveal_proof(of["reveal_proof"])
        case "first_input":
            return b"\x02"
    raise AssertionError(of)


def _reveal_proof(of: Json) -> bytes:
    match of["reveal_proof_kind"]:
        case "raw_data_proof":
            return b"\x00" + _number(len(of["raw_data"]) // 2, 2) + _hex(of["raw_data"])
        case "metadata_proof":
            return b"\x01"
        case "dal_page_proof":
            page = of["dal_page_id"]
            sizes = (("published_level", 4), ("slot_index", 1), ("page_index", 2))
            place = b"".join(_number(page[name], size) for name, size in sizes)
            return b"\x02" + place + sized(_hex(of["dal_proof"]))
        case "dal_parameters_proof":
            return b"\x03"
    raise AssertionError(of)


def _scalars(scalars: Json) -> bytes:
    return sized(b"".join(map(_hex, scalars)))


def _circuits(of: Json) -> bytes:
    kinds = ["public", "private", "fee"]
    circuits = (sized(_hex(name)) + bytes([kinds.index(kind)]) for name, kind in of)
    return sized(b"".join(circuits))


def _zk_update(of: Json) -> bytes:
    def inputs(named: Json) -> bytes:
        name, values = named
        valid = values.get("exit_validity")
        end = b"" if valid is None else bytes([0xFF * valid])
        return sized(_hex(name)) + _scalars(values["new_state"]) + _hex(values["fee"]) + end

    parts = [sized(b"".join(map(inputs, of[name]))) for name in ("pending_pis", "private_pis")]
    return b"".join(parts) + _scalars(of["fee_pi"]) + sized(_hex(of["proof"]))


def _consensus(of: Json, slot: bool = True) -> bytes:
    return (
        (_number(of["slot"], 2) if slot else b"")
        + _number(of["level"], 4)
        + _number(of["round"], 4)
        + from_base58check(BLOCK_PAYLOAD, of["block_payload_hash"])
    )


def _inlined(of: Json) -> bytes:
    """A consensus operation in an evidence, with its length in front."""
    tag, *parts = _not_manager(of["operations"])
    signed = signature(of["signature"]) if of.get("signature") else b""
    branch = from_base58check(BLOCK, of["branch"])
    return sized(branch + bytes([tag]) + b"".join(parts) + signed)


def _block_header(of: Json) -> bytes:
    """A signed header in an evidence, with its length in front."""
    nonce = _optional(of["seed_nonce_hash"], lambda text: from_base58check(NONCE, text))
    return sized(
        _number(of["level"], 4)
        + _number(of["proto"], 1)
        + from_base58check(BLOCK, of["predecessor"])
        + _number(of["timestamp"], 8)
        + _number(of["validation_pass"], 1)
        + from_base58check(OPERATIONS, of["operations_hash"])
        + sized(b"".join(sized(_hex(element)) for element in of["fitness"]))
        + from_base58check(CONTEXT, of["context"])
        + from_base58check(BLOCK_PAYLOAD, of["payload_hash"])
        + _number(of["payload_round"], 4)
        + _hex(of["proof_of_work_nonce"])
        + nonce
        + _number(of["per_block_votes"], 1)
        + (signature(of["signature"]) if of["signature"] else b"")
    )


def _entrapment(of: Json) -> bytes:
    """Protocol 025 has a lag, which may be none; 024 has not even that."""
    lag = b""
    if "lag_index" in of:
        lag = _optional(of["lag_index"], lambda number: _number(number, 1))
    shard, scalars = of["shard_with_proof"]["shard"]
    return (
        _inlined(of["attestation"])
        + _number(of["consensus_slot"], 2)
        + _number(of["slot_index"], 1)
        + lag
        + _number(shard, 4)
        + _scalars(scalars)
        + _hex(of["shard_with_proof"]["proof"])
    )


def _not_manager(of: Json) -> tuple[int, *tuple[bytes, ...]]:
    match of["kind"]:
        case "seed_nonce_revelation":
            return 0x01, _number(of["level"], 4), _hex(of["nonce"])
        case "double_consensus_operation_evidence":
            return 0x02, _number(of["slot"], 2), _inlined(of["op1"]), _inlined(of["op2"])
        case "double_baking_evidence":
            return 0x03, _block_header(of["bh1"]), _block_header(of["bh2"])
        case "activate_account":
            return 0x04, key_hash(of["pkh"])[1:], _hex(of["secret"])
        case "proposals":
            proposals = [from_base58check(PROTOCOL, text) for text in of["proposals"]]
            period = _number(of["period"], 4)
            return 0x05, key_hash(of["source"]), period, sized(b"".join(proposals))
        case "ballot":
            return (
                0x06,
                key_hash(of["source"]),
                _number(of["period"], 4),
                from_base58check(PROTOCOL, of["proposal"]),
                bytes([BALLOTS.index(of["ballot"])]),
            )
        case "vdf_revelation":
            return 0x08, *map(_hex, of["solution"])
        case "drain_delegate":
            keys = (of[name] for name in ("consensus_key", "delegate", "destination"))
            return 0x09, *map(key_hash, keys)
        case "failing_noop":
            return 0x11, sized(_hex(of["arbitrary"]))
        case "dal_entrapment_evidence":
            return 0x18, _entrapment(of)
        case "preattestation":
            return 0x14, _consensus(of)
        case "attestation":
            return 0x15, _consensus(of)
        case "attestation_with_dal":
            return 0x17, _consensus(of), _integer(of["dal_attestation"])
        case "preattestations_aggregate":
            slots = b"".join(_number(slot, 2) for slot in of["committee"])
            return 0x1E, _consensus(of["consensus_content"], slot=False), sized(slots)
        case "attestations_aggregate":
            members = (
                _number(member["slot"], 2) + _optional(member.get("dal_attestation"), _integer)
                for member in of["committee"]
            )
            content = _consensus(of["consensus_content"], slot=False)
            return 0x1F, content, sized(b"".join(members))
        case "bls_mode_preattestation":
            return 0x28, _consensus(of, slot=False)
        case "bls_mode_attestation":
            return 0x29, _consensus(of, slot=False)
    raise NotImplementedError(of["kind"])
