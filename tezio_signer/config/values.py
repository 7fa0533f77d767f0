"""Single values of the configuration that are Tezos' own: keys, chains, operations."""

from collections.abc import Iterable

from tezio_signer.config.fields import Field
from tezio_signer.config.operations import NAMED_ONLY
from tezio_signer.tezos import base58check
from tezio_signer.tezos.keys import PublicKey, PublicKeyHash
from tezio_signer.tezos.operations import KINDS, STAKING
from tezio_signer.tezos.payload import BAKING_OPERATIONS, Operation


def hash_named(text: str, field: Field) -> PublicKeyHash:
    """A public key hash that is written in a field, or is its key; raises ConfigError."""
    try:
        return PublicKeyHash.parse(text)
    except ValueError as error:
        raise field.error(f"a public key hash (tz1…, tz2…, tz3…) is expected: {error}") from error


def public_keys(field: Field) -> tuple[PublicKey, ...]:
    """A list of public keys; raises ConfigError."""
    return tuple(map(_public_key, field.items()))


def _public_key(field: Field) -> PublicKey:
    try:
        return PublicKey.parse(field.text())
    except ValueError as error:
        raise field.error(f"a public key (edpk…, sppk…, p2pk…) is expected: {error}") from error


def chains(field: Field) -> frozenset[str]:
    """A list of chain ids; raises ConfigError."""
    return frozenset(map(_chain, field.items()))


def _chain(field: Field) -> str:
    try:
        return base58check.chain_id(field.text())
    except ValueError as error:
        raise field.error(f"a chain id (Net…) is expected: {error}") from error


def operations(field: Field) -> frozenset[Operation]:
    """A list of operations, by name or number; raises ConfigError."""
    return frozenset(map(_operation, field.items()))


def _operation(field: Field) -> Operation:
    value = field.value()
    if type(value) is int:
        value = field.integer()
    for operation in Operation:
        if type(value) in (int, str) and value in (operation.value, str(operation)):
            return operation
    if field.written in {*KINDS, *STAKING} - NAMED_ONLY:
        raise field.error(
            f"{field.written} is a kind of generic operation: write generic here, and "
            f"{field.written} in operations.kinds"
        )
    raise field.error(f"{field.written} is not an operation; allowed: {_listed(Operation)}")


def floors(field: Field) -> dict[Operation, tuple[int, int]]:
    """Level and round of each operation that has a watermark; raises ConfigError."""
    parts = {part: _numbers(entry) for part, entry in field.mapping(("level", "round")).items()}
    levels, rounds = parts.get("level", {}), parts.get("round", {})
    return {
        operation: (levels.get(operation, 0), rounds.get(operation, 0))
        for operation in BAKING_OPERATIONS
    }


def _numbers(field: Field) -> dict[Operation, int]:
    numbers: dict[Operation, int] = {}
    for name, value in field.entries().items():
        operation = _operation_named(name, value)
        if operation in numbers:
            raise value.error(f"{operation} is here twice; leave one of them out")
        numbers[operation] = _natural(value)
    return numbers


def _operation_named(name: str, field: Field) -> Operation:
    for operation in BAKING_OPERATIONS:
        if name == str(operation) or name.lower() in (
            f"0x{operation.value:02x}",
            str(operation.value),
        ):
            return operation
    raise field.error(f"{name} has no watermark; allowed: {_listed(BAKING_OPERATIONS)}")


def _listed(operations: Iterable[Operation]) -> str:
    return ", ".join(f"{operation} (0x{operation.value:02x})" for operation in operations)


def _natural(field: Field) -> int:
    value = field.integer()
    if not 0 <= value < 2**31:
        raise field.error(f"a number from 0 to {2**31 - 1} is expected, not {field.written}")
    return value
