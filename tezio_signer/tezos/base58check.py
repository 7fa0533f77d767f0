"""Base58Check with the type prefixes of Tezos.

The prefix bytes are those of Octez (`src/lib_crypto/base58.ml`); each type
has one length, so a text is accepted only when prefix and length agree.
"""

from enum import Enum

import base58
from attrs import frozen


@frozen
class Encoding:
    """How a type of value is written: its prefix and the length of its data."""

    prefix: bytes
    length: int


class Base58Type(Enum):
    """The Base58Check types that a signer meets."""

    TZ1 = Encoding(bytes.fromhex("06a19f"), 20)
    TZ2 = Encoding(bytes.fromhex("06a1a1"), 20)
    TZ3 = Encoding(bytes.fromhex("06a1a4"), 20)
    TZ4 = Encoding(bytes.fromhex("06a1a6"), 20)
    TZ5 = Encoding(bytes.fromhex("06a1a9"), 20)
    EDPK = Encoding(bytes.fromhex("0d0f25d9"), 32)
    SPPK = Encoding(bytes.fromhex("03fee256"), 33)
    P2PK = Encoding(bytes.fromhex("03b28b7f"), 33)
    EDSK = Encoding(bytes.fromhex("0d0f3a07"), 32)
    SPSK = Encoding(bytes.fromhex("11a2e0c9"), 32)
    P2SK = Encoding(bytes.fromhex("1051eebd"), 32)
    EDSIG = Encoding(bytes.fromhex("09f5cd8612"), 64)
    SPSIG = Encoding(bytes.fromhex("0d7365133f"), 64)
    P2SIG = Encoding(bytes.fromhex("36f02c34"), 64)
    SIG = Encoding(bytes.fromhex("04822b"), 64)
    CHAIN_ID = Encoding(bytes.fromhex("575200"), 4)


# No value above needs more; decoding is quadratic in the length of the text.
_LONGEST_TEXT = 128


def encode(kind: Base58Type, data: bytes) -> str:
    """Write `data` as a value of this kind.

    :raises ValueError: if the data has not the length of the kind.
    """
    if len(data) != kind.value.length:
        raise ValueError(f"{kind.name} takes {kind.value.length} bytes, not {len(data)}")
    return base58.b58encode_check(kind.value.prefix + data).decode("ascii")


def decode(text: str) -> tuple[Base58Type, bytes]:
    """Read a Base58Check text: its kind and its data, prefix removed.

    :raises ValueError: if the alphabet, the checksum, the prefix or the length is wrong.
    """
    # base58 itself would take white space behind the text.
    if not (text.isascii() and text.isalnum()) or len(text) > _LONGEST_TEXT:
        raise ValueError("not a Base58Check text")
    try:
        raw = base58.b58decode_check(text)
    except ValueError as error:
        raise ValueError("not a Base58Check text, or its checksum is wrong") from error
    for kind in Base58Type:
        prefix, length = kind.value.prefix, kind.value.length
        if raw.startswith(prefix) and len(raw) == len(prefix) + length:
            return kind, raw[len(prefix) :]
    raise ValueError("a Base58Check text of an unknown or unsupported kind")


def chain_id(text: str) -> str:
    """The same text, if it is a chain id (`Net…`); raises ValueError for anything else."""
    kind, _ = decode(text)
    if kind is not Base58Type.CHAIN_ID:
        raise ValueError(f"a chain id expected, not a text of kind {kind.name.lower()}")
    return text
