"""The kinds of operations, and the layout of each: a table.

The layouts are those of protocols 024 and 025 (Octez `operation_repr.ml`, and what it generates
of it, `client-libs/kaitai-struct-files`); fields have the names of Octez' JSON. Where the two
protocols differ, both are read:

- 025 has an optional `lag_index` in the evidence of an entrapment, 024 has none. The shard behind
  it has its length in front and is a multiple of 32 bytes, so that only one of the two fits.
- What the slots of a DAL attestation mean differs, but not how the number is written.
- The byte of votes in a block header differs; it is a number here.

Kinds that Octez signs with a magic byte of their own are read here too, in order that they can
be named. Rollups of old (150 to 157) are unknown kinds.
"""

from collections.abc import Mapping
from types import MappingProxyType

from attrs import frozen

from tezio_signer.tezos.base58check import Base58Type
from tezio_signer.tezos.entrypoints import DEFAULT_ENTRYPOINT, entrypoint, entrypoint_name
from tezio_signer.tezos.evidence import BLS_CONSENSUS, CONSENSUS, HEADER, OPERATION, entrapment
from tezio_signer.tezos.layout import (
    Codec,
    FieldReader,
    Value,
    case,
    contract,
    counted,
    data_bytes,
    expression,
    flag,
    hashed,
    int31,
    key_hash,
    level,
    listed,
    mutez,
    natural,
    not_negative,
    one_of,
    optional,
    originated,
    pair,
    positive,
    public_key,
    raw,
    record,
    signed,
    sized,
    ticks,
    unsigned,
)
from tezio_signer.tezos.micheline import Micheline

_MOST_PROPOSALS = 20
_MOST_RAW_DATA = 4096
_UNIT = b"\x03\x0b"


@frozen
class Kind:
    """A kind of operation.

    :ivar name: as Octez calls it.
    :ivar fields: reads what stands behind the tag.
    :ivar is_manager: whether it has a fee, and may be one of several in a group.
    :ivar is_consensus: whether Octez signs it with another magic byte than 03.
    """

    name: str
    fields: Codec
    is_manager: bool = False
    is_consensus: bool = False


# -- parts ---------------------------------------------------------------------------------


def _proposals(reader: FieldReader, field: str) -> Value:
    size = reader.number(4, field)
    if size > _MOST_PROPOSALS * 32:
        raise reader.unreadable(f"{reader.what} has more than {_MOST_PROPOSALS} {field}")
    protocol = hashed(Base58Type.PROTOCOL_HASH)
    part = reader.part(size, field, f"{reader.what}'s {field}")
    return tuple(protocol(part, field) for _ in iter(lambda: part.left, 0))


def _raw_data(reader: FieldReader, field: str) -> bytes:
    size = reader.number(2, field)
    if size > _MOST_RAW_DATA:
        raise reader.unreadable(f"{reader.what} has {field} of {size} bytes")
    return reader.take(size, field)


def _nothing(_reader: FieldReader, _field: str) -> None:
    return None


_COMMITMENT = hashed(Base58Type.ROLLUP_COMMITMENT)
_STATE = hashed(Base58Type.ROLLUP_STATE)
_ROLLUP = hashed(Base58Type.SMART_ROLLUP)
_ZK_ROLLUP = hashed(Base58Type.ZK_ROLLUP)
_PROOF = optional(sized(hashed(Base58Type.BLSIG)))
_SCALAR = raw(32)
_SCALARS = listed(_SCALAR)

_INPUT_PROOF = case(
    "input_proof_kind",
    {
        0: (
            "inbox_proof",
            record(level=level, message_counter=natural, serialized_proof=data_bytes),
        ),
        1: (
            "reveal_proof",
            record(
                reveal_proof=case(
                    "reveal_proof_kind",
                    {
                        0: ("raw_data_proof", record(raw_data=_raw_data)),
                        1: ("metadata_proof", _nothing),
                        2: (
                            "dal_page_proof",
                            record(
                                dal_page_id=record(
                                    published_level=level,
                                    slot_index=unsigned(1),
                                    page_index=signed(2),
                                ),
                                dal_proof=data_bytes,
                            ),
                        ),
                        3: ("dal_parameters_proof", _nothing),
                    },
                )
            ),
        ),
        2: ("first_input", _nothing),
    },
)
_DISSECTION = listed(record(state=optional(_STATE), tick=natural))
_STEP_PROOF = record(pvm_step=data_bytes, input_proof=optional(_INPUT_PROOF))


def _step(reader: FieldReader, field: str) -> Value:
    """A list of states, or the proof of one step; Octez' JSON does not name which."""
    match reader.byte(field):
        case 0:
            return _DISSECTION(reader, field)
        case 1:
            return _STEP_PROOF(reader, field)
        case tag:
            raise reader.unreadable(f"{reader.what} has an unknown {field} 0x{tag:02X}")


_REFUTATION = case(
    "refutation_kind",
    {
        0: (
            "start",
            record(player_commitment_hash=_COMMITMENT, opponent_commitment_hash=_COMMITMENT),
        ),
        1: ("move", record(choice=natural, step=_step)),
    },
)


# -- the table -----------------------------------------------------------------------------

_MANAGER: dict[str, Codec] = {
    "source": key_hash,
    "fee": mutez,
    "counter": counted,
    "gas_limit": counted,
    "storage_limit": counted,
}


_STAKERS = record(alice=key_hash, bob=key_hash)


def _stakers(reader: FieldReader, field: str) -> Value:
    """Two accounts, the lower one first: Octez reads any order, and verifies this one.

    (`Index.make` in `sc_rollup_game_repr.ml`.)
    """
    both = reader.take(42, field)
    if both[:21] > both[21:]:
        raise reader.unreadable(f"{reader.what} has its {field} not in their order")
    return _STAKERS(reader.again(both), field)


_NO_PARAMETERS: Mapping[str, Value] = {"entrypoint": DEFAULT_ENTRYPOINT, "value": None}


def _parameters(reader: FieldReader) -> Mapping[str, Value]:
    """An entrypoint and what it gets. `Unit` for `default` is written as no parameters.

    Octez reads it, but verifies a signature for what it would write itself (`transaction_case`
    and `check_signature` in `operation_repr.ml`): that of these bytes would be of no use.
    """
    name, value = entrypoint(reader, "entrypoint"), expression(reader, "value")
    if name == DEFAULT_ENTRYPOINT and isinstance(value, Micheline) and value.data == _UNIT:
        raise reader.unreadable(
            f"{reader.what} calls the entrypoint default with Unit, where 00 for no parameters is "
            "accepted"
        )
    return {"entrypoint": name, "value": value}


def _transaction(reader: FieldReader, _field: str) -> Mapping[str, Value]:
    """The parameters are fields of their own here: no parameters are those of `default`."""
    fields: dict[str, Value] = {name: codec(reader, name) for name, codec in _MANAGER.items()}
    fields["amount"] = mutez(reader, "amount")
    fields["destination"] = contract(reader, "destination")
    fields.update(_parameters(reader) if flag(reader, "parameters") else _NO_PARAMETERS)
    return MappingProxyType(fields)


def _manager(name: str, **fields: Codec) -> Kind:
    return Kind(name, record(**_MANAGER, **fields), is_manager=True)


def _other(name: str, **fields: Codec) -> Kind:
    return Kind(name, record(**fields))


BY_TAG: Mapping[int, Kind] = {
    0x01: _other("seed_nonce_revelation", level=level, nonce=raw(32)),
    0x02: _other(
        "double_consensus_operation_evidence", slot=unsigned(2), op1=OPERATION, op2=OPERATION
    ),
    0x03: _other("double_baking_evidence", bh1=HEADER, bh2=HEADER),
    0x04: _other("activate_account", pkh=hashed(Base58Type.TZ1), secret=raw(20)),
    0x05: _other("proposals", source=key_hash, period=signed(4), proposals=_proposals),
    0x06: _other(
        "ballot",
        source=key_hash,
        period=signed(4),
        proposal=hashed(Base58Type.PROTOCOL_HASH),
        ballot=one_of({0: "yay", 1: "nay", 2: "pass"}),
    ),
    0x08: _other("vdf_revelation", solution=pair(raw(100), raw(100))),
    # Signed by the consensus key: it sends all that the baker's account has to a destination.
    0x09: _other("drain_delegate", consensus_key=key_hash, delegate=key_hash, destination=key_hash),
    0x11: _other("failing_noop", arbitrary=data_bytes),
    0x18: Kind("dal_entrapment_evidence", entrapment),
    **{
        tag: Kind(name, fields, is_consensus=True)
        for tag, (name, fields) in {**CONSENSUS, **BLS_CONSENSUS}.items()
    },
    0x6B: _manager("reveal", public_key=public_key, proof=_PROOF),
    0x6C: Kind("transaction", _transaction, is_manager=True),
    0x6D: _manager(
        "origination",
        balance=mutez,
        delegate=optional(key_hash),
        script=record(code=expression, storage=expression),
    ),
    0x6E: _manager("delegation", delegate=optional(key_hash)),
    0x6F: _manager("register_global_constant", value=expression),
    0x70: _manager("set_deposits_limit", limit=optional(mutez)),
    0x71: _manager("increase_paid_storage", amount=not_negative, destination=originated),
    0x72: _manager("update_consensus_key", pk=public_key, proof=_PROOF),
    0x73: _manager("update_companion_key", pk=public_key, proof=_PROOF),
    0x9E: _manager(
        "transfer_ticket",
        ticket_contents=expression,
        ticket_ty=expression,
        ticket_ticketer=contract,
        ticket_amount=positive,
        destination=contract,
        entrypoint=entrypoint_name,
    ),
    0xC8: _manager(
        "smart_rollup_originate",
        pvm_kind=one_of({0: "arith", 1: "wasm_2_0_0", 2: "riscv"}),
        kernel=data_bytes,
        parameters_ty=expression,
        whitelist=optional(listed(key_hash)),
    ),
    0xC9: _manager("smart_rollup_add_messages", message=listed(data_bytes)),
    0xCA: _manager("smart_rollup_cement", rollup=_ROLLUP),
    0xCB: _manager(
        "smart_rollup_publish",
        rollup=_ROLLUP,
        commitment=record(
            compressed_state=_STATE,
            inbox_level=level,
            predecessor=_COMMITMENT,
            number_of_ticks=ticks,
        ),
    ),
    0xCC: _manager(
        "smart_rollup_refute", rollup=_ROLLUP, opponent=key_hash, refutation=_REFUTATION
    ),
    0xCD: _manager("smart_rollup_timeout", rollup=_ROLLUP, stakers=_stakers),
    0xCE: _manager(
        "smart_rollup_execute_outbox_message",
        rollup=_ROLLUP,
        cemented_commitment=_COMMITMENT,
        output_proof=data_bytes,
    ),
    0xCF: _manager("smart_rollup_recover_bond", rollup=_ROLLUP, staker=key_hash),
    0xE6: _manager(
        "dal_publish_commitment",
        slot_header=record(
            slot_index=unsigned(1),
            commitment=hashed(Base58Type.SLOT_HEADER),
            commitment_proof=raw(96),
        ),
    ),
    0xFA: _manager(
        "zk_rollup_origination",
        public_parameters=data_bytes,
        circuits_info=listed(pair(data_bytes, one_of({0: "public", 1: "private", 2: "fee"}))),
        init_state=_SCALARS,
        nb_ops=int31,
    ),
    0xFC: _manager(
        "zk_rollup_update",
        zk_rollup=_ZK_ROLLUP,
        update=record(
            pending_pis=listed(
                pair(data_bytes, record(new_state=_SCALARS, fee=_SCALAR, exit_validity=flag))
            ),
            private_pis=listed(pair(data_bytes, record(new_state=_SCALARS, fee=_SCALAR))),
            fee_pi=_SCALARS,
            proof=data_bytes,
        ),
    ),
}
"""Of a tag, what it means. zk_rollup_publish (0xFB) has tickets whose length is not written."""

KINDS = frozenset(kind.name for kind in BY_TAG.values())
"""The names of all kinds that are decoded."""
MANAGER_KINDS = frozenset(kind.name for kind in BY_TAG.values() if kind.is_manager)
"""Those with a source, a fee, a counter and limits."""
CONSENSUS_KINDS = frozenset(kind.name for kind in BY_TAG.values() if kind.is_consensus)
"""Those that have magic bytes of their own, and never belong under 03."""
