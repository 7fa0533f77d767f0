"""Secret keys in software, and what a Tezio HSM does with them."""

from functools import cached_property

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import (
    Prehashed,
    decode_dss_signature,
    encode_dss_signature,
)
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey

from tezio_signer.hsm.framing import Slot
from tezio_signer.tezos import base58check
from tezio_signer.tezos.keys import SECP256K1_ORDER, Curve, Signature

TEST_KEYS = {
    Slot.AUTH: "p2sk3L2vGwCwq3XttfCdb3vLpSqEU6eMrdwUumnSi9Qe5WHgAqrVMA",
    Slot.TZ1: "edsk3HngJGEZXTXzdP7MWLNowGFyi1amRiEZyU5ctFVxGNXxkpAZD1",
    Slot.TZ2: "spsk22qp66ANUTMpXy52ZETW7sx25PCKVafh75JDHQYccSHibPFNox",
    Slot.TZ3: "p2sk3QRdMLDkzvGCqcVyc3CZfnzESS2BJ5ocpHAqNJdSDXbKJW9RUB",
}
"""Secret keys for tests, from a published mnemonic: never for funds."""
_ED25519_ORDER = 2**252 + 27742317777372353535851937790883648493
_ORDERS = {
    Curve.SECP256K1: SECP256K1_ORDER,
    Curve.P256: 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551,
}
_DIGEST_GIVEN = ec.ECDSA(Prehashed(SHA256()))


class SoftKey:
    """A secret key and what the device does with it, on 32-byte digests."""

    def __init__(self, curve: Curve, secret: bytes) -> None:
        self.curve = curve
        self._secret = secret
        self._ed25519 = SigningKey(secret)

    @cached_property
    def _elliptic(self) -> ec.EllipticCurvePrivateKey:
        """Made when it is used; raises UnsupportedAlgorithm where OpenSSL lacks the curve."""
        kind = ec.SECP256K1() if self.curve is Curve.SECP256K1 else ec.SECP256R1()
        return ec.derive_private_key(int.from_bytes(self._secret, "big"), kind)

    @classmethod
    def parse(cls, text: str) -> "SoftKey":
        """Read an unencrypted `edsk…` (seed), `spsk…` or `p2sk…`."""
        kind, secret = base58check.decode(text)
        return cls({v: k for k, v in _SECRET_TYPES.items()}[kind], secret)

    @property
    def public(self) -> bytes:
        """The raw public key: 32 bytes, or 64 for an uncompressed point."""
        if self.curve is Curve.ED25519:
            return bytes(self._ed25519.verify_key)
        point = self._elliptic.public_key()
        return point.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)[1:]

    @property
    def compressed(self) -> bytes:
        """The public key as addresses are made of it: 32 bytes, or a 33-byte point."""
        return compressed(self.curve, self.public)

    def sign(self, hashed: bytes, nonce: int | None = None) -> bytes:
        """64 bytes; ECDSA with a random nonce or this one, low-s for secp256k1 only."""
        if self.curve is Curve.ED25519:
            return self._ed25519.sign(hashed).signature
        if nonce is None:
            r, s = decode_dss_signature(self._elliptic.sign(hashed, _DIGEST_GIVEN))
        else:
            r, s = self._sign_with_nonce(int.from_bytes(hashed, "big"), nonce)
        raw = r.to_bytes(32, "big") + s.to_bytes(32, "big")
        return Signature(self.curve, raw).low_s().data

    def _sign_with_nonce(self, hashed: int, nonce: int) -> tuple[int, int]:
        order = _ORDERS[self.curve]
        point = ec.derive_private_key(nonce, self._elliptic.curve).public_key()
        secret = self._elliptic.private_numbers().private_value
        r = point.public_numbers().x % order
        return r, pow(nonce, -1, order) * (hashed + r * secret) % order

    def verifies(self, hashed: bytes, raw: bytes) -> bool:
        """As lenient as the device: any s of an ECDSA signature, S + L of Ed25519."""
        if self.curve is Curve.ED25519:
            scalar = int.from_bytes(raw[32:], "little") % _ED25519_ORDER
            try:
                self._ed25519.verify_key.verify(hashed, raw[:32] + scalar.to_bytes(32, "little"))
            except BadSignatureError:
                return False
            return True
        signature = Signature(self.curve, raw)
        der = encode_dss_signature(signature.r, signature.s)
        try:
            self._elliptic.public_key().verify(der, hashed, _DIGEST_GIVEN)
        except InvalidSignature:
            return False
        return True


def compressed(curve: Curve, raw: bytes) -> bytes:
    """A raw public key in the form that addresses are made of."""
    return raw if curve is Curve.ED25519 else bytes([2 + raw[-1] % 2]) + raw[:32]


_SECRET_TYPES = {
    Curve.ED25519: base58check.Base58Type.EDSK,
    Curve.SECP256K1: base58check.Base58Type.SPSK,
    Curve.P256: base58check.Base58Type.P2SK,
}
