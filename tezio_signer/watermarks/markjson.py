"""Turns a mark into JSON, as it is exported and kept in etcd, and checks what it reads back."""

from typing import Any

from tezio_signer.tezos import base58check
from tezio_signer.tezos.keys import PublicKeyHash, Signature
from tezio_signer.tezos.payload import BAKING_OPERATIONS, Operation
from tezio_signer.watermarks.rule import NO_PAYLOAD, Mark, MarkId

LAST_ROUND = LAST_LEVEL = 2**31 - 1
_NEEDED = ("chain", "key", "operation", "level", "round")
_FIELDS = (*_NEEDED, "payload_hash", "signature")


class TransferError(Exception):
    """A text that is no set of marks; `str()` says in one line where and why."""


def order(mark_id: MarkId) -> tuple[str, str, str]:
    """Return what marks are sorted by: chain, key, operation."""
    return mark_id.chain_id, str(mark_id.key), str(mark_id.operation)


def row(mark_id: MarkId, mark: Mark) -> dict[str, Any]:
    """Return a mark under the names that `docs/watermarks.md` documents."""
    return {
        "chain": mark_id.chain_id,
        "key": str(mark_id.key),
        "operation": str(mark_id.operation),
        "level": mark.level,
        "round": mark.round,
        "payload_hash": mark.payload_hash.hex(),
        "signature": mark.signature and str(mark.signature),
    }


def read_row(where: str, value: object) -> tuple[MarkId, Mark]:
    """Read a mark that `row` has made; raises TransferError, which begins with `where`."""
    entry = json_object(where, value)
    for unknown in sorted(entry.keys() - set(_FIELDS)):
        raise TransferError(f"{where}: {unknown!a:.40} is unknown")
    for missing in (needed for needed in _NEEDED if needed not in entry):
        raise TransferError(f"{where}: {missing} is missing")
    mark_id = read_id(where, entry["chain"], entry["key"], entry["operation"])
    mark = Mark(
        natural(f"{where}.level", entry["level"]),
        natural(f"{where}.round", entry["round"]),
        *signed(where, mark_id.key, entry.get("payload_hash"), entry.get("signature")),
    )
    return mark_id, mark


def read_id(where: str, chain_id: object, key: object, operation: object) -> MarkId:
    """Read from three texts what a mark is kept for; raises TransferError."""
    return MarkId(
        chain(f"{where}.chain", chain_id),
        key_hash(f"{where}.key", key),
        baking_operation(f"{where}.operation", operation),
    )


def json_object(where: str, value: object) -> dict[str, Any]:
    """Check that a value is an object; raises TransferError."""
    if not isinstance(value, dict):
        raise TransferError(f"{where}: an object is expected")
    return value


def json_text(where: str, value: object) -> str:
    """Check that a value is a text; raises TransferError."""
    if not isinstance(value, str):
        raise TransferError(f"{where}: a text is expected, not {value!r:.40}")
    return value


def natural(where: str, value: object) -> int:
    """Check that a value is a level or a round, as Octez has them; raises TransferError."""
    if type(value) is not int or not 0 <= value <= LAST_LEVEL:
        raise TransferError(
            f"{where}: a number from 0 to {LAST_LEVEL} is expected, not {value!r:.40}"
        )
    return value


def chain(where: str, value: object) -> str:
    """Read a chain id; raises TransferError."""
    try:
        return base58check.chain_id(json_text(where, value))
    except ValueError as error:
        raise TransferError(f"{where}: {value!r:.60}: {error}") from error


def key_hash(where: str, value: object) -> PublicKeyHash:
    """Read the hash of a key that can be in an HSM; raises TransferError."""
    try:
        return PublicKeyHash.parse(json_text(where, value))
    except ValueError as error:
        raise TransferError(f"{where}: {value!r:.60}: {error}") from error


def baking_operation(where: str, value: object) -> Operation:
    """Read the name of an operation that has watermarks; raises TransferError."""
    for operation in BAKING_OPERATIONS:
        if value == str(operation):
            return operation
    names = ", ".join(map(str, BAKING_OPERATIONS))
    raise TransferError(f"{where}: {value!r:.40} has no watermark; allowed: {names}")


def signed(
    where: str, key: PublicKeyHash, payload_hash: object, signature: object
) -> tuple[bytes, Signature | None]:
    """Read what a mark was for; raises TransferError.

    Without a hash nothing is signed at its position.
    """
    if payload_hash is None and signature is not None:
        raise TransferError(f"{where}: there is a signature, but not the hash of its payload")
    return hash_of_payload(where, payload_hash), _signature(where, key, signature)


def hash_of_payload(where: str, value: object) -> bytes:
    """Read 64 hexadecimal digits, or null for NO_PAYLOAD; raises TransferError."""
    if value is None:
        return NO_PAYLOAD
    try:
        payload_hash = bytes.fromhex(json_text(where, value))
    except ValueError:
        payload_hash = b""
    if len(payload_hash) != len(NO_PAYLOAD) or len(str(value)) != 2 * len(NO_PAYLOAD):
        raise TransferError(f"{where}: the payload hash is not 64 hexadecimal digits")
    return payload_hash


def _signature(where: str, key: PublicKeyHash, value: object) -> Signature | None:
    if value is None:
        return None
    try:
        signature = Signature.parse(json_text(where, value))
    except ValueError as error:
        raise TransferError(f"{where}: the signature is unreadable: {error}") from error
    if signature.curve not in (None, key.curve):
        raise TransferError(f"{where}: the signature is none of a {str(key)[:3]} key")
    return signature
