"""Generic operations as bytes, written without the signer's own decoder.

`payload_of` takes operations as Octez' JSON has them, with what a test does not care for left out:
that is filled in here, and `forging` writes the whole.
"""

from collections.abc import Mapping
from typing import Any

from tests.support.forging import BLOCK_PAYLOAD, COMMITMENT, ROLLUP, ROLLUP_STATE, Forger
from tests.support.genericpayloads import UNIT, payload
from tests.support.octezclient import to_base58check
from tests.support.vectors import TZ3

_COMMITMENT = {
    "compressed_state": to_base58check(ROLLUP_STATE, bytes(32)),
    "inbox_level": 0,
    "predecessor": to_base58check(COMMITMENT, bytes(32)),
    "number_of_ticks": 1,
}
_HEADER = {"fee": 289, "counter": 2, "gas_limit": 1521, "storage_limit": 0}
"""Of operations that pay a fee."""
_WITHOUT_FEE: Mapping[str, Mapping[str, Any]] = {
    "proposals": {"period": 7},
    "ballot": {"period": 0},
    "drain_delegate": {},
    "failing_noop": {},
    "attestation": {
        "slot": 0,
        "round": 0,
        "block_payload_hash": to_base58check(BLOCK_PAYLOAD, bytes(32)),
    },
}
_FIELDS: Mapping[str, Mapping[str, Any]] = {
    "transaction": {"amount": 0},
    "origination": {"balance": 0, "script": {"code": UNIT, "storage": UNIT}},
    "register_global_constant": {"value": UNIT},
    "transfer_ticket": {"ticket_contents": UNIT, "ticket_ty": UNIT, "ticket_amount": 1},
    "smart_rollup_publish": {"commitment": _COMMITMENT},
    **_WITHOUT_FEE,
}
"""What an operation of a kind has if a test does not say otherwise."""


def payload_of(*operations: Mapping[str, Any], source: str = str(TZ3)) -> bytes:
    """What a client sends to have these signed.

    A transaction may have its `entrypoint` without parameters around it, and is then called with
    Unit; `arbitrary` of a failing_noop is a text.

    :param source: of those that do not say theirs.
    """
    forger = Forger({})
    return payload(*(forger.content(_filled(each, source)) for each in operations))


def _filled(said: Mapping[str, Any], source: str) -> dict[str, Any]:
    kind = said["kind"]
    names = ("source", "staker", "consensus_key", "delegate", "destination")
    accounts = dict.fromkeys(names if kind == "drain_delegate" else names[:2], source)
    header = {} if kind in _WITHOUT_FEE else _HEADER
    rollup = {"rollup": to_base58check(ROLLUP, bytes(20))}
    whole = {**accounts, **header, **rollup, **_FIELDS.get(kind, {}), **said}
    if kind == "transaction" and "entrypoint" in said:
        whole["parameters"] = {"entrypoint": said["entrypoint"], "value": UNIT}
    if kind == "failing_noop":
        whole["arbitrary"] = said["arbitrary"].encode().hex()
    return whole
