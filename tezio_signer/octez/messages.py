"""The messages of the Octez socket protocol: bytes to values and back; no I/O.

Layouts: Octez `src/lib_signer_services/signer_messages.ml` and `src/lib_base/unix/socket.ml`.
Integers are big-endian, but little-endian inside BSON. A request has to be exactly
well-formed: what is cut off, too long or of an unknown kind is an `Undecodable`.
"""

from collections.abc import Callable, Iterable

from attrs import frozen

from tezio_signer.tezos.keys import Curve, PublicKey, PublicKeyHash, Signature

FRAME_HEADER = 2
"""Bytes in front of every message that give its length."""
MAX_PAYLOAD = 0xFFFF
_HASH_LENGTH = 21
_BLS_KEY_LENGTH = 48
_SIGNATURES = {64: None, 96: Curve.BLS12_381, 2420: Curve.ML_DSA_44}
_VERSIONS = range(4)
_WITH_VERSION = Curve.BLS12_381.value


class Undecodable(ValueError):
    """The bytes are no request; `str()` says why."""


@frozen
class Sign:
    """Sign bytes.

    :ivar version: how a tz4 key is to sign; other keys have none.
    :ivar authentication: an untyped one has 64 bytes.
    """

    key: PublicKeyHash
    data: bytes
    authentication: Signature | None = None
    version: int | None = None


@frozen
class GetPublicKey:
    """The public key of a signing key."""

    key: PublicKeyHash


@frozen
class GetAuthorizedKeys:
    """Whose authentication is accepted."""


@frozen
class DeterministicNonce:
    """A nonce that is made of a key and bytes."""

    key: PublicKeyHash
    data: bytes
    authentication: Signature | None = None


@frozen
class DeterministicNonceHash:
    """The hash of that nonce."""

    key: PublicKeyHash
    data: bytes
    authentication: Signature | None = None


@frozen
class SupportsDeterministicNonces:
    """Whether a key makes such nonces."""

    key: PublicKeyHash


@frozen
class ListKnownKeys:
    """All signing keys."""


@frozen
class ProvePossession:
    """A proof that the owner of a tz4 key has it.

    :ivar of: the public key to be proven instead of the key's own.
    """

    key: PublicKeyHash
    of: bytes | None = None


Nonce = DeterministicNonce | DeterministicNonceHash
Request = (
    Sign
    | GetPublicKey
    | GetAuthorizedKeys
    | Nonce
    | SupportsDeterministicNonces
    | ListKnownKeys
    | ProvePossession
)


class _Cursor:
    """Reads fields from left to right; raises Undecodable for one that does not fit."""

    def __init__(self, payload: bytes) -> None:
        self._payload = payload
        self._at = 0

    def left(self) -> int:
        return len(self._payload) - self._at

    def take(self, size: int, field: str) -> bytes:
        if size > self.left():
            raise Undecodable(f"the {field} is cut off: {self.left()} of {size} bytes")
        self._at += size
        return self._payload[self._at - size : self._at]

    def number(self, size: int, field: str) -> int:
        return int.from_bytes(self.take(size, field), "big")

    def hash(self) -> PublicKeyHash:
        raw = self.take(_HASH_LENGTH, "public key hash")
        try:
            return PublicKeyHash.from_bytes(raw)
        except ValueError as error:
            raise Undecodable(f"{raw[0]} is no kind of key") from error

    def signing_hash(self) -> tuple[PublicKeyHash, int | None]:
        """The key of a request to sign, where the hash of a tz4 key is wrapped with a version."""
        tag = self._payload[self._at : self._at + 1]
        if tag > bytes([_WITH_VERSION]):
            raise Undecodable(f"{tag[0]} is no kind of key that signs over a socket")
        if tag != bytes([_WITH_VERSION]):
            return self.hash(), None
        self.take(1, "kind of key")
        key, version = self.hash(), self.number(1, "signature version")
        if version not in _VERSIONS:
            raise Undecodable(f"{version} is no signature version")
        return key, version

    def data(self) -> bytes:
        return self.take(self.number(4, "length of the data"), "data")

    def signature(self) -> Signature | None:
        """All that is left: the signature has no byte to say that it is there."""
        if not self.left():
            return None
        raw = self.take(self.left(), "authentication signature")
        if len(raw) not in _SIGNATURES:
            raise Undecodable(f"an authentication signature has not {len(raw)} bytes")
        return Signature(_SIGNATURES[len(raw)], raw)

    def optional_bls_key(self) -> bytes | None:
        # As Octez reads a boolean: everything but zero is true.
        if self.number(1, "presence of a public key") == 0:
            return None
        return self.take(_BLS_KEY_LENGTH, "public key")


def _sign(cursor: _Cursor) -> Request:
    key, version = cursor.signing_hash()
    return Sign(key, cursor.data(), cursor.signature(), version)


_READERS: dict[int, Callable[[_Cursor], Request]] = {
    0x00: _sign,
    0x01: lambda cursor: GetPublicKey(cursor.hash()),
    0x02: lambda _: GetAuthorizedKeys(),
    0x03: lambda cursor: DeterministicNonce(cursor.hash(), cursor.data(), cursor.signature()),
    0x04: lambda cursor: DeterministicNonceHash(cursor.hash(), cursor.data(), cursor.signature()),
    0x05: lambda cursor: SupportsDeterministicNonces(cursor.hash()),
    0x06: lambda _: ListKnownKeys(),
    0x07: lambda cursor: ProvePossession(cursor.hash(), cursor.optional_bls_key()),
}


def decode(payload: bytes) -> Request:
    """Decode the payload of a frame; raises Undecodable."""
    cursor = _Cursor(payload)
    tag = cursor.number(1, "kind of request")
    if tag not in _READERS:
        raise Undecodable(f"{tag} is no kind of request")
    request = _READERS[tag](cursor)
    if cursor.left():
        raise Undecodable(f"{cursor.left()} trailing bytes")
    return request


def frame(payload: bytes) -> bytes:
    """A payload with its length in front; raises OverflowError above MAX_PAYLOAD bytes."""
    return len(payload).to_bytes(FRAME_HEADER, "big") + payload


_OK = b"\x00"
_ERROR = b"\x01"


def _sized(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


def _hashes(keys: Iterable[PublicKeyHash]) -> bytes:
    return _sized(b"".join(map(bytes, keys)))


def signature_answer(signature: Signature) -> bytes:
    """The answer to Sign, and the proof for ProvePossession."""
    return _OK + signature.data


def public_key_answer(key: PublicKey) -> bytes:
    """The answer to GetPublicKey."""
    return _OK + bytes([key.curve.value]) + key.data


def authorized_keys_answer(keys: Iterable[PublicKeyHash] | None) -> bytes:
    """The answer to GetAuthorizedKeys; None says that nobody has to authenticate."""
    return _OK + (b"\x00" if keys is None else b"\x01" + _hashes(keys))


def known_keys_answer(keys: Iterable[PublicKeyHash]) -> bytes:
    """The answer to ListKnownKeys."""
    return _OK + _hashes(keys)


def nonce_answer(nonce: bytes) -> bytes:
    """The answer to DeterministicNonce and to DeterministicNonceHash."""
    return _OK + _sized(nonce)


def supports_answer(supported: bool) -> bytes:
    """The answer to SupportsDeterministicNonces."""
    return _OK + (b"\xff" if supported else b"\x00")


def error_answer(sentence: str) -> bytes:
    """An error trace of one failure, of which the client prints the sentence.

    Octez keeps each error of a trace as a BSON document (bsonspec.org).
    """
    fields = {"kind": "temporary", "id": "failure", "msg": sentence}
    return _ERROR + _sized(_sized(_bson(fields)))


def _bson(fields: dict[str, str]) -> bytes:
    elements = b"".join(
        b"\x02" + name.encode("ascii") + b"\x00" + _bson_text(text) for name, text in fields.items()
    )
    return (len(elements) + 5).to_bytes(4, "little") + elements + b"\x00"


def _bson_text(text: str) -> bytes:
    data = text.encode("utf-8", "replace") + b"\x00"
    return len(data).to_bytes(4, "little") + data
