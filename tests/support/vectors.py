"""The recorded data that the tests are held to."""

import json
from pathlib import Path
from typing import Any

from tezio_signer.tezos.keys import PublicKeyHash

_DATA = Path(__file__).parents[1] / "data"
SHIPPED = _DATA / "config.yaml"
"""A copy of the sample configuration, which people may have edited; `make lint` compares them."""


def _load(name: str) -> Any:
    return json.loads((_DATA / name).read_text("utf-8"))


EXCHANGES: list[dict[str, Any]] = _load("hsm-exchanges.json")["exchanges"]
"""Exchanges with the firmware: what, group, request_hex, reply_hex, status, deterministic."""
OCTEZ: dict[str, Any] = _load("octez-payloads.json")
"""Keys, and payloads with what they decode to and their signatures by these keys."""
PAYLOADS: dict[str, bytes] = {p["name"]: bytes.fromhex(p["hex"]) for p in OCTEZ["payloads"]}
"""The payloads by name: block_unlocked_nononce_on, preatt, att, att_dal_5, transfer, …"""
MORE_PAYLOADS: list[dict[str, Any]] = _load("more-payloads.json")
"""Further payloads: hex, kind, level, round, chain_id, operations, blake2b256."""
OPERATIONS: dict[str, str] = _load("octez-operations.json")["operations"]
"""Unsigned operations of every kind, without a magic byte, in hex."""
FRAMES: dict[str, bytes] = {
    name: bytes.fromhex(text) for name, text in _load("octez-frames.json")["frames"].items()
}
"""Frames of the socket protocol by name, their length in front: sign_tz1, …; R_* are answers."""
AUTHENTICATION: dict[str, str] = _load("octez-frames.json")["auth"]
"""One authentication: signed_bytes, auth_key, auth_pkh, signature, signature_generic."""

TZ1 = PublicKeyHash.parse("tz1RecHxwZJmZY4dypq2KmvxKYgUBGJceH1v")
TZ2 = PublicKeyHash.parse("tz2Dy8HhPZZqmxVK5hE8Unc66fiWvqY8wFXN")
TZ3 = PublicKeyHash.parse("tz3MyarJihHrejsze59J2Seita7jYWDCJDPe")
AUTH = PublicKeyHash.parse("tz3bhz3h8CXPeUF4gmsGrsyT7sJUcqhrWpVs")


def block(level: int, round_: int, payload_byte: int = 0x40) -> bytes:
    """The recorded block at another level and round, its payload hash begun otherwise."""
    recorded = bytearray(PAYLOADS["block_unlocked_nononce_on"])
    for at, value in ((5, level), (96, level), (116, round_), (184, round_)):
        recorded[at : at + 4] = value.to_bytes(4, "big")
    recorded[152] = payload_byte
    return bytes(recorded)


def consensus(name: str, level: int, round_: int, payload_byte: int = 0x40) -> bytes:
    """A recorded preatt, att or att_dal_… at another level and round, for another payload."""
    recorded = bytearray(PAYLOADS[name])
    for at, value in ((40, level), (44, round_)):
        recorded[at : at + 4] = value.to_bytes(4, "big")
    recorded[48] = payload_byte
    return bytes(recorded)


def noop(number: int) -> bytes:
    """The recorded failing_noop on another branch; another one for each number below 2**64.

    It names no account, so that every key may sign it.
    """
    recorded = PAYLOADS["noop"]
    return recorded[:1] + number.to_bytes(32, "big") + recorded[33:]
