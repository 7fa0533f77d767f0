"""Base58Check with the type prefixes of Tezos.

The prefix bytes are those of Octez (`src/lib_crypto/base58.ml`); each type
has one length, so a text is accepted only when prefix and length agree.
"""

from enum import Enum
from hashlib import sha256
from itertools import product

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
    BLPK = Encoding(bytes.fromhex("069587cc"), 48)
    MDPK = Encoding(bytes.fromhex("0d07ed43"), 1312)
    EDSK = Encoding(bytes.fromhex("0d0f3a07"), 32)
    SPSK = Encoding(bytes.fromhex("11a2e0c9"), 32)
    P2SK = Encoding(bytes.fromhex("1051eebd"), 32)
    EDSIG = Encoding(bytes.fromhex("09f5cd8612"), 64)
    SPSIG = Encoding(bytes.fromhex("0d7365133f"), 64)
    P2SIG = Encoding(bytes.fromhex("36f02c34"), 64)
    BLSIG = Encoding(bytes.fromhex("28ab40cf"), 96)
    MDSIG = Encoding(bytes.fromhex("019c2dd203"), 2420)
    SIG = Encoding(bytes.fromhex("04822b"), 64)
    CHAIN_ID = Encoding(bytes.fromhex("575200"), 4)
    CONTRACT = Encoding(bytes.fromhex("025a79"), 20)
    SMART_ROLLUP = Encoding(bytes.fromhex("067c75"), 20)
    ROLLUP_COMMITMENT = Encoding(bytes.fromhex("11a5868a"), 32)
    ROLLUP_STATE = Encoding(bytes.fromhex("11a5ebf0"), 32)
    ZK_ROLLUP = Encoding(bytes.fromhex("0117e07d"), 20)
    BLOCK_HASH = Encoding(bytes.fromhex("0134"), 32)
    OPERATIONS_HASH = Encoding(bytes.fromhex("1d9f6d"), 32)
    CONTEXT_HASH = Encoding(bytes.fromhex("4fc7"), 32)
    PAYLOAD_HASH = Encoding(bytes.fromhex("016af2"), 32)
    NONCE_HASH = Encoding(bytes.fromhex("45dca9"), 32)
    PROTOCOL_HASH = Encoding(bytes.fromhex("02aa"), 32)
    SLOT_HEADER = Encoding(bytes.fromhex("0274b4"), 48)


# No value of the three curves of an HSM needs more, nor a hash; decoding is quadratic in the
# length of the text. The longer ones, of BLS and ML-DSA, are written only.
_LONGEST_TEXT = 128
_LETTERS = base58.BITCOIN_ALPHABET.decode("ascii")
_PAIRS = ["".join(pair) for pair in product(_LETTERS, repeat=2)]
_TEN_LETTERS = 58**10


def encode(kind: Base58Type, data: bytes) -> str:
    """Write `data` as a value of this kind.

    :raises ValueError: if the data has not the length of the kind.
    """
    prefix, length = kind.value.prefix, kind.value.length
    if len(data) != length:
        raise ValueError(f"{kind.name} takes {length} bytes, not {len(data)}")
    raw = prefix + data
    raw += sha256(sha256(raw).digest()).digest()[:4]
    return _text_of(int.from_bytes(raw, "big"))


def _text_of(number: int) -> str:
    """A number in base 58; no prefix of Tezos begins with a zero byte, which has its own letter.

    An operation has an address or two, and a batch has a hundred operations: ten letters at a
    time take half the time of `base58`, and a quarter for the keys of ML-DSA.
    """
    pairs: list[str] = []
    while number:
        number, ten = divmod(number, _TEN_LETTERS)
        for _ in range(5):
            ten, pair = divmod(ten, 58 * 58)
            pairs.append(_PAIRS[pair])
    pairs.reverse()
    return "".join(pairs).lstrip(_LETTERS[0])


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
