"""Entrypoints of contracts in operations (Octez `entrypoint_repr.ml`)."""

from tezio_signer.tezos.layout import Codec, FieldReader, sized

LONGEST_NAME = 31
"""Letters of an entrypoint, at most."""
DEFAULT_ENTRYPOINT = "default"
_ENTRYPOINTS = {
    0x00: DEFAULT_ENTRYPOINT,
    0x01: "root",
    0x02: "do",
    0x03: "set_delegate",
    0x04: "remove_delegate",
    0x05: "deposit",
    0x06: "stake",
    0x07: "unstake",
    0x08: "finalize_unstake",
    0x09: "set_delegate_parameters",
}
_NAMED = 0xFF
_IN_ENTRYPOINTS = frozenset(b"_.%@0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
"""What annotations of Michelson are made of; so no contract has an entrypoint of other letters."""


def is_entrypoint(name: str) -> bool:
    """Whether a contract can have an entrypoint of this name."""
    return 0 < len(name) <= LONGEST_NAME and name.isascii() and _has_letters(name.encode())


def _has_letters(data: bytes) -> bool:
    return _IN_ENTRYPOINTS.issuperset(data)


def _name(reader: FieldReader, data: bytes) -> str:
    """The name of an entrypoint, of the letters and the length that names have."""
    if not data or len(data) > LONGEST_NAME:
        raise reader.unreadable(
            f"{reader.what} has an entrypoint of {len(data)} letters, where 1 to {LONGEST_NAME} "
            "are accepted"
        )
    if not _has_letters(data):
        raise reader.unreadable(
            f"{reader.what} has an entrypoint with letters that no entrypoint has"
        )
    return data.decode("ascii")


def entrypoint(reader: FieldReader, field: str) -> str:
    """One that has a tag, by that; any other by its name."""
    tag = reader.byte(field)
    if tag in _ENTRYPOINTS:
        return _ENTRYPOINTS[tag]
    if tag != _NAMED:
        raise reader.unreadable(f"{reader.what} has an unknown {field} 0x{tag:02X}")
    name = _name(reader, reader.take(reader.byte(field), field))
    if name in _ENTRYPOINTS.values():
        raise reader.unreadable(
            f"{reader.what} has the entrypoint {name} by its name, where its number is accepted"
        )
    return name


def _by_name(reader: FieldReader, field: str) -> str:
    return _name(reader, reader.rest(field))


entrypoint_name: Codec = sized(_by_name)
"""One that is written by its name, whichever it is."""
