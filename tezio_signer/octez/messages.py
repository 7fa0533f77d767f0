"""The messages of the Octez socket protocol: bytes to values and back; no I/O.

`docs/protocols/octez-remote-signer.md` describes the layouts.
Integers are big-endian, but little-endian inside BSON. A request has to be exactly
well-formed: what is cut off, too long or of an unknown kind is an `Undecodable`.
"""

from collections.abc import Callable, Iterable

from attrs import frozen

from tezio_signer.tezos.binary import Reader
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


class _Request(Reader):
    """The payload of a frame; what cannot be read is an `Undecodable`."""

    error = Undecodable

    def hash(self) -> PublicKeyHash:
        raw = self.take(_HASH_LENGTH, "public key hash")
        try:
            return PublicKeyHash.from_bytes(raw)
        except ValueError as error:
            raise self.unreadable(f"{raw[0]} is no kind of key") from error

    def signing_hash(self) -> tuple[PublicKeyHash, int | None]:
        """The key of a request to sign, where the hash of a tz4 key is wrapped with a version."""
        tag = self.next()
        if tag is not None and tag > _WITH_VERSION:
            raise self.unreadable(f"{tag} is no kind of key that signs over a socket")
        if tag != _WITH_VERSION:
            return self.hash(), None
        self.take(1, "kind of key")
        key, version = self.hash(), self.number(1, "signature version")
        if version not in _VERSIONS:
            raise self.unreadable(f"{version} is no signature version")
        return key, version

    def data(self) -> bytes:
        return self.take(self.number(4, "length of the data"), "data")

    def signature(self) -> Signature | None:
        """All that is left: the signature has no byte to say that it is there."""
        raw = self.rest("authentication signature")
        if not raw:
            return None
        if len(raw) not in _SIGNATURES:
            raise self.unreadable(f"an authentication signature has not {len(raw)} bytes")
        return Signature(_SIGNATURES[len(raw)], raw)

    def optional_bls_key(self) -> bytes | None:
        # As Octez reads a boolean: everything but zero is true.
        if self.number(1, "presence of a public key") == 0:
            return None
        return self.take(_BLS_KEY_LENGTH, "public key")


def _sign(read: _Request) -> Request:
    key, version = read.signing_hash()
    return Sign(key, read.data(), read.signature(), version)


_READERS: dict[int, Callable[[_Request], Request]] = {
    0x00: _sign,
    0x01: lambda read: GetPublicKey(read.hash()),
    0x02: lambda _: GetAuthorizedKeys(),
    0x03: lambda read: DeterministicNonce(read.hash(), read.data(), read.signature()),
    0x04: lambda read: DeterministicNonceHash(read.hash(), read.data(), read.signature()),
    0x05: lambda read: SupportsDeterministicNonces(read.hash()),
    0x06: lambda _: ListKnownKeys(),
    0x07: lambda read: ProvePossession(read.hash(), read.optional_bls_key()),
}


def decode(payload: bytes) -> Request:
    """Decode the payload of a frame; raises Undecodable."""
    read = _Request(payload, "the request")
    tag = read.number(1, "kind")
    if tag not in _READERS:
        raise read.unreadable(f"{tag} is no kind of request")
    request = _READERS[tag](read)
    read.end()
    return request


def frame(payload: bytes) -> bytes:
    """Return a payload with its length in front; raises OverflowError above MAX_PAYLOAD bytes."""
    return len(payload).to_bytes(FRAME_HEADER, "big") + payload


_OK = b"\x00"
_ERROR = b"\x01"


def _sized(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


def _hashes(keys: Iterable[PublicKeyHash]) -> bytes:
    return _sized(b"".join(map(bytes, keys)))


def signature_answer(signature: Signature) -> bytes:
    """Return the answer to Sign, and the proof for ProvePossession."""
    return _OK + signature.data


def public_key_answer(key: PublicKey) -> bytes:
    """Return the answer to GetPublicKey."""
    return _OK + bytes([key.curve.value]) + key.data


def authorized_keys_answer(keys: Iterable[PublicKeyHash] | None) -> bytes:
    """Return the answer to GetAuthorizedKeys; None says that nobody has to authenticate."""
    return _OK + (b"\x00" if keys is None else b"\x01" + _hashes(keys))


def known_keys_answer(keys: Iterable[PublicKeyHash]) -> bytes:
    """Return the answer to ListKnownKeys."""
    return _OK + _hashes(keys)


def nonce_answer(nonce: bytes) -> bytes:
    """Return the answer to DeterministicNonce and to DeterministicNonceHash."""
    return _OK + _sized(nonce)


def supports_answer(supported: bool) -> bytes:
    """Return the answer to SupportsDeterministicNonces."""
    return _OK + (b"\xff" if supported else b"\x00")


def error_answer(sentence: str) -> bytes:
    """Return an error trace of one failure, of which the client prints the sentence.

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
