"""Generic operations as bytes, written without the signer's own decoder.

`payload_of` takes operations as Octez' JSON has them, with what a test does not care for left out.
It knows the kinds that rules look into, and is made of the parts in `genericpayloads`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from tests.support.genericpayloads import (
    UNIT,
    contract,
    drain_delegate,
    entrypoint,
    failing_noop,
    integer,
    key_hash,
    manager,
    natural,
    optional,
    payload,
    proposals,
    sized,
)
from tests.support.octezclient import from_base58check
from tests.support.vectors import TZ3

_TAGS = {
    "reveal": 107,
    "transaction": 108,
    "origination": 109,
    "delegation": 110,
    "register_global_constant": 111,
    "set_deposits_limit": 112,
    "increase_paid_storage": 113,
    "update_consensus_key": 114,
    "update_companion_key": 115,
    "transfer_ticket": 158,
    "smart_rollup_cement": 202,
    "smart_rollup_publish": 203,
    "smart_rollup_recover_bond": 207,
}
_BALLOTS = {"yay": 0, "nay": 1, "pass": 2}
_EDPK = bytes.fromhex("0d0f25d9")
_PROTOCOL = bytes.fromhex("02aa")


def payload_of(*operations: Mapping[str, Any], source: str = str(TZ3)) -> bytes:
    """What a client sends to have these signed.

    :param source: of those that do not say theirs.
    """
    return payload(*(_forged({"source": source, **each}) for each in operations))


def _forged(it: Mapping[str, Any]) -> bytes:
    source = it["source"]
    match it["kind"]:
        case "proposals":
            return proposals(*it["proposals"], source=source)
        case "ballot":
            proposal = from_base58check(_PROTOCOL, it["proposal"])
            return (
                b"\x06" + key_hash(source) + bytes(4) + proposal + bytes([_BALLOTS[it["ballot"]]])
            )
        case "drain_delegate":
            names = ("consensus_key", "delegate", "destination")
            return drain_delegate(*(it.get(name, source) for name in names))
        case "failing_noop":
            text: str = it["arbitrary"]
            return failing_noop(text.encode())
        case "attestation":
            level: int = it["level"]
            return b"\x15" + bytes(2) + level.to_bytes(4, "big") + bytes(36)
    fee, storage = it.get("fee", 289), it.get("storage_limit", 0)
    head = manager(_TAGS[it["kind"]], source=source, fee=fee, storage_limit=storage)
    return head + _managed(it)


def _managed(it: Mapping[str, Any]) -> bytes:
    """What stands behind the head of a manager operation."""
    delegate = optional(key_hash(it["delegate"]) if "delegate" in it else None)
    match it["kind"]:
        case "reveal":
            return _public_key(it["public_key"])
        case "update_consensus_key" | "update_companion_key":
            return _public_key(it["pk"])
        case "transaction":
            called = it.get("entrypoint")
            parameters = None if called is None else entrypoint(called) + sized(UNIT)
            to = contract(it["destination"])
            return natural(it.get("amount", 0)) + to + optional(parameters)
        case "origination":
            return natural(it.get("balance", 0)) + delegate + sized(UNIT) * 2
        case "delegation":
            return delegate
        case "register_global_constant":
            return sized(UNIT)
        case "set_deposits_limit":
            return optional(natural(it["limit"]))
        case "increase_paid_storage":
            return integer(it["amount"]) + contract(it["destination"])
        case "transfer_ticket":
            ticket = sized(UNIT) * 2 + contract(it["ticket_ticketer"]) + natural(1)
            return ticket + contract(it["destination"]) + sized(it["entrypoint"].encode())
        case "smart_rollup_cement":
            return bytes(20)
        case "smart_rollup_publish":
            return bytes(20 + 32 + 4 + 32 + 7) + b"\x01"
        case "smart_rollup_recover_bond":
            return bytes(20) + key_hash(it["source"])
    raise ValueError(f"nobody forges {it['kind']}")


def _public_key(text: str) -> bytes:
    """An Ed25519 key, without a proof of possession."""
    return b"\x00" + from_base58check(_EDPK, text) + b"\x00"


def transfers(count: int, destination: str, amount: int = 2_000_000) -> Sequence[dict[str, Any]]:
    """A batch of transfers, as a payout has it."""
    return [
        {"kind": "transaction", "amount": amount, "destination": destination} for _ in range(count)
    ]
