"""Public key hashes, public keys and signatures of the three curves of a Tezio HSM.

Signatures are over the BLAKE2b-256 digest of the message (Octez
`src/lib_crypto/signature_v2.ml`); r and s are 32 bytes each, big-endian.
"""

from enum import Enum
from functools import cached_property, lru_cache
from hashlib import blake2b
from typing import Self, TypeVar

from attrs import frozen
from cryptography.exceptions import InternalError, InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from nacl.exceptions import CryptoError
from nacl.signing import VerifyKey

from tezio_signer.tezos import base58check
from tezio_signer.tezos.base58check import Base58Type

SECP256K1_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141


class Curve(Enum):
    """The signature schemes of Tezos; the value is the tag of the binary encoding."""

    ED25519 = 0
    SECP256K1 = 1
    P256 = 2
    BLS12_381 = 3
    ML_DSA_44 = 4


HASH_TYPES = {
    Curve.ED25519: Base58Type.TZ1,
    Curve.SECP256K1: Base58Type.TZ2,
    Curve.P256: Base58Type.TZ3,
    Curve.BLS12_381: Base58Type.TZ4,
    Curve.ML_DSA_44: Base58Type.TZ5,
}
KEY_TYPES = {
    Curve.ED25519: Base58Type.EDPK,
    Curve.SECP256K1: Base58Type.SPPK,
    Curve.P256: Base58Type.P2PK,
}
SIGNATURE_TYPES = {
    Curve.ED25519: Base58Type.EDSIG,
    Curve.SECP256K1: Base58Type.SPSIG,
    Curve.P256: Base58Type.P2SIG,
    None: Base58Type.SIG,
}
_TAGGED_HASH_LENGTH = 21
_ELLIPTIC = {Curve.SECP256K1: ec.SECP256K1, Curve.P256: ec.SECP256R1}
# Prehashed() wants an algorithm of the digest's size; the digest itself is BLAKE2b.
_DIGEST_GIVEN = ec.ECDSA(Prehashed(SHA256()))


_CANNOT_VERIFY = (InvalidSignature, InternalError, UnsupportedAlgorithm, ValueError)


class UnsupportedCurveError(ValueError):
    """The OpenSSL of this machine does not have the curve of a key, which is of no use then."""

    def __init__(self, curve: Curve) -> None:
        super().__init__(
            f"the OpenSSL of this machine has no {curve.name}, so that nothing of this key can be "
            "verified; the wheels of cryptography on PyPI bring one that has"
        )


def digest(message: bytes) -> bytes:
    """The 32-byte BLAKE2b digest that Tezos signs and identifies a payload by."""
    return blake2b(message, digest_size=32).digest()


# The few keys of a signer are written and read for every signature: a sixth of its time.
@lru_cache(maxsize=256)
def _hash_text(curve: Curve, data: bytes) -> str:
    return base58check.encode(HASH_TYPES[curve], data)


# A signature is written to the store and to who asked for it.
@lru_cache(maxsize=64)
def _signature_text(curve: Curve | None, data: bytes) -> str:
    return base58check.encode(SIGNATURE_TYPES[curve], data)


# What a device has signed is verified when it comes, and again a moment later, when it leaves.
@lru_cache(maxsize=64)
def _verifies_ecdsa(curve: Curve, key: bytes, hashed: bytes, signature: "Signature") -> bool:
    encoded = encode_dss_signature(signature.r, signature.s)
    try:
        _point(curve, key).verify(encoded, hashed, _DIGEST_GIVEN)
    except _CANNOT_VERIFY:
        return False
    return True


@lru_cache(maxsize=64)
def _point(curve: Curve, data: bytes) -> ec.EllipticCurvePublicKey:
    """A point of a curve; raises ValueError if it is none, and UnsupportedCurveError."""
    try:
        return ec.EllipticCurvePublicKey.from_encoded_point(_ELLIPTIC[curve](), data)
    except (UnsupportedAlgorithm, InternalError) as error:
        raise UnsupportedCurveError(curve) from error


_Tag = TypeVar("_Tag")


def _decode(text: str, types: dict[_Tag, Base58Type], what: str) -> tuple[_Tag, bytes]:
    kind, data = base58check.decode(text)
    for tag, its_type in types.items():
        if its_type is kind:
            return tag, data
    raise ValueError(f"{what} expected, not a text of kind {kind.name.lower()}")


@frozen(order=True, cache_hash=True)
class PublicKeyHash:
    """A tz1 to tz5 address: the 20-byte BLAKE2b hash of a public key."""

    text: str
    curve: Curve
    data: bytes

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `tz1…`; raises ValueError for anything else than an address."""
        curve, data = _decode(text, HASH_TYPES, "a tz address")
        return cls(text, curve, data)

    @classmethod
    def of_key(cls, curve: Curve, public_key: bytes) -> Self:
        """The address of a public key in its compressed form."""
        return cls._of(curve, blake2b(public_key, digest_size=20).digest())

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read the 21-byte binary form; raises ValueError for any other."""
        if len(data) != _TAGGED_HASH_LENGTH:
            raise ValueError(f"a public key hash has {_TAGGED_HASH_LENGTH} bytes, not {len(data)}")
        return cls._of(Curve(data[0]), data[1:])

    @classmethod
    def _of(cls, curve: Curve, data: bytes) -> Self:
        return cls(_hash_text(curve, data), curve, data)

    def __str__(self) -> str:
        return self.text

    def __bytes__(self) -> bytes:
        """The 21-byte binary form: curve tag and hash."""
        return bytes([self.curve.value]) + self.data


@frozen
class Signature:
    """64 bytes, and the curve that they claim to be of (None for a generic `sig…`)."""

    curve: Curve | None
    data: bytes

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `edsig…`, `spsig1…`, `p2sig…` or `sig…`; raises ValueError for anything else."""
        curve, data = _decode(text, SIGNATURE_TYPES, "a signature")
        return cls(curve, data)

    def __str__(self) -> str:
        return _signature_text(self.curve, self.data)

    @property
    def r(self) -> int:
        """The first half of an ECDSA signature."""
        return int.from_bytes(self.data[:32], "big")

    @property
    def s(self) -> int:
        """The second half of an ECDSA signature."""
        return int.from_bytes(self.data[32:], "big")

    def low_s(self) -> Self:
        """The same signature in the form that Octez accepts.

        secp256k1 has to have the lower of its two s; the others stay as they are.
        """
        if self.curve is Curve.SECP256K1 and SECP256K1_ORDER // 2 < self.s < SECP256K1_ORDER:
            low = SECP256K1_ORDER - self.s
            return type(self)(self.curve, self.data[:32] + low.to_bytes(32, "big"))
        return self


@frozen
class PublicKey:
    """A public key: 32 bytes for Ed25519, a 33-byte compressed point for the others."""

    curve: Curve
    data: bytes

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `edpk…`, `sppk…` or `p2pk…`; raises ValueError for anything else.

        A key whose curve is missing here is read all the same, and verifies nothing.
        """
        curve, data = _decode(text, KEY_TYPES, "a public key")
        try:
            return cls.of(curve, data)
        except UnsupportedCurveError:
            return cls(curve, data)

    @classmethod
    def of(cls, curve: Curve, data: bytes) -> Self:
        """The key of these bytes.

        :raises UnsupportedCurveError: if nothing could be verified with it.
        :raises ValueError: if they are no point of the curve.
        """
        if curve not in KEY_TYPES or len(data) != KEY_TYPES[curve].value.length:
            raise ValueError(f"no {curve.name} public key: {len(data)} bytes")
        if curve in _ELLIPTIC:
            _point(curve, data)
        return cls(curve, data)

    def __str__(self) -> str:
        return base58check.encode(KEY_TYPES[self.curve], self.data)

    @property
    def unsupported(self) -> UnsupportedCurveError | None:
        """Why nothing can be verified with this key, if that is so."""
        try:
            if self.curve in _ELLIPTIC:
                _point(self.curve, self.data)
        except UnsupportedCurveError as error:
            return error
        return None

    @cached_property
    def hash(self) -> PublicKeyHash:
        """The address of this key."""
        return PublicKeyHash.of_key(self.curve, self.data)

    def verifies(self, message: bytes, signature: Signature) -> bool:
        """Whether this key signed the message, by the rules that Octez applies.

        What cannot be verified, for whatever reason, does not. A typed signature is only good
        for a key of its type, and secp256k1 has to be in low-s form, as libsecp256k1 demands.
        """
        if signature.curve not in (None, self.curve) or len(signature.data) != 64:
            return False
        if self.curve is Curve.ED25519:
            return self._verifies_ed25519(digest(message), signature)
        if self.curve is Curve.SECP256K1 and signature.s > SECP256K1_ORDER // 2:
            return False
        return _verifies_ecdsa(self.curve, self.data, digest(message), signature)

    def _verifies_ed25519(self, hashed: bytes, signature: Signature) -> bool:
        try:
            VerifyKey(self.data).verify(hashed, signature.data)
        except (CryptoError, ValueError):
            return False
        return True
