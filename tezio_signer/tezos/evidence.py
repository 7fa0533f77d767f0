"""The operations of consensus, as an operation shows them for evidence, and the evidence.

An operation that another one shows has its signature up to its end.
"""

from collections.abc import Mapping
from types import MappingProxyType

from tezio_signer.tezos.base58check import Base58Type
from tezio_signer.tezos.layout import (
    Codec,
    FieldReader,
    Undecodable,
    Value,
    case,
    data_bytes,
    hashed,
    int31,
    level,
    listed,
    not_negative,
    optional,
    pair,
    raw,
    record,
    signature,
    signed,
    sized,
    unsigned,
)

_BLOCK = hashed(Base58Type.BLOCK_HASH)
_PAYLOAD = hashed(Base58Type.PAYLOAD_HASH)
_CONSENSUS_CONTENT = record(level=level, round=level, block_payload_hash=_PAYLOAD)
_CONSENSUS = {
    "slot": unsigned(2),
    "level": level,
    "round": level,
    "block_payload_hash": _PAYLOAD,
}
_ATTESTING = record(slot=unsigned(2), dal_attestation=optional(not_negative))
CONSENSUS: dict[int, tuple[str, Codec]] = {
    0x14: ("preattestation", record(**_CONSENSUS)),
    0x15: ("attestation", record(**_CONSENSUS)),
    0x17: ("attestation_with_dal", record(**_CONSENSUS, dal_attestation=not_negative)),
    0x1E: (
        "preattestations_aggregate",
        record(consensus_content=_CONSENSUS_CONTENT, committee=listed(unsigned(2))),
    ),
    0x1F: (
        "attestations_aggregate",
        record(consensus_content=_CONSENSUS_CONTENT, committee=listed(_ATTESTING)),
    ),
}
# Those of tz4 keys have no names of their own in Octez' JSON.
BLS_CONSENSUS: dict[int, tuple[str, Codec]] = {
    0x28: ("bls_mode_preattestation", _CONSENSUS_CONTENT),
    0x29: ("bls_mode_attestation", _CONSENSUS_CONTENT),
}
CONSENSUS_TAGS = frozenset({0x16, *CONSENSUS, *BLS_CONSENSUS})
"""Tags that are consensus operations, or were; they are never signed as generic ones."""

OPERATION = sized(record(branch=_BLOCK, operations=case("kind", CONSENSUS), signature=signature))
HEADER = sized(
    record(
        level=level,
        proto=unsigned(1),
        predecessor=_BLOCK,
        timestamp=signed(8),
        validation_pass=unsigned(1),
        operations_hash=hashed(Base58Type.OPERATIONS_HASH),
        fitness=listed(data_bytes),
        context=hashed(Base58Type.CONTEXT_HASH),
        payload_hash=_PAYLOAD,
        payload_round=level,
        proof_of_work_nonce=raw(8),
        seed_nonce_hash=optional(hashed(Base58Type.NONCE_HASH)),
        per_block_votes=unsigned(1),
        signature=signature,
    )
)
_SHARD = record(shard=pair(int31, listed(raw(32))), proof=raw(48))
_BEFORE_THE_LAG = {
    "attestation": OPERATION,
    "consensus_slot": unsigned(2),
    "slot_index": unsigned(1),
}


def entrapment(reader: FieldReader, field: str) -> Mapping[str, Value]:
    """The evidence of an entrapment, with the lag of protocol 025 or without it."""
    fields = {name: codec(reader, name) for name, codec in _BEFORE_THE_LAG.items()}
    left = reader.rest("shard_with_proof")
    error: Undecodable | None = None
    for codec in (
        record(lag_index=optional(unsigned(1)), shard_with_proof=_SHARD),
        record(shard_with_proof=_SHARD),
    ):
        again = reader.again(left)
        try:
            found = codec(again, field)
            again.end()
        except Undecodable as its_error:
            error = error or its_error
        else:
            assert isinstance(found, Mapping)
            return MappingProxyType({**fields, **found})
    assert error is not None
    raise error
