"""Keys, addresses and signatures, against those that other signers made."""

from itertools import product

from cryptography.exceptions import InternalError
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st
from nacl.exceptions import RuntimeError as NaclRuntimeError
from twisted.trial.unittest import SynchronousTestCase

from tests.support.missingcurve import without_curve
from tests.support.vectors import AUTHENTICATION, MORE_PAYLOADS, OCTEZ, PAYLOADS
from tezio_signer.tezos import base58check, keys
from tezio_signer.tezos.base58check import Base58Type
from tezio_signer.tezos.keys import (
    Curve,
    PublicKey,
    PublicKeyHash,
    Signature,
    UnsupportedCurveError,
    digest,
)

# The orders of the groups: SEC 2 (secp256k1, secp256r1) and RFC 8032.
SECP256K1_N = 0xFFFFFFFF_FFFFFFFF_FFFFFFFF_FFFFFFFE_BAAEDCE6_AF48A03B_BFD25E8C_D0364141
HALF = 0x7FFFFFFF_FFFFFFFF_FFFFFFFF_FFFFFFFF_5D576E73_57A4501D_DFE92F46_681B20A0
"""Half of SECP256K1_N, rounded down."""
P256_N = 0xFFFFFFFF_00000000_FFFFFFFF_FFFFFFFF_BCE6FAAD_A7179E84_F3B9CAC2_FC632551
ED25519_L = 0x10000000_00000000_00000000_00000000_14DEF9DE_A2F79CD6_5812631A_5CF5D3ED

TZ1_KEY, OTHER_TZ1_KEY, TZ2_KEY, TZ3_KEY = (PublicKey.parse(k["pk"]) for k in OCTEZ["keys"][:4])
KEYS = (TZ1_KEY, OTHER_TZ1_KEY, TZ2_KEY, TZ3_KEY)
CURVES = (Curve.ED25519, Curve.ED25519, Curve.SECP256K1, Curve.P256)
BLS = OCTEZ["keys"][4]
MESSAGE = b"\x03"
"""What the recorded signatures of `sign_03` are of."""


def signature_of(key: PublicKey) -> Signature:
    """The recorded signature of MESSAGE by a key."""
    return Signature.parse(OCTEZ["sign_03"][str(key.hash)]["b58"])


def scalars(curve: Curve | None, r: int, s: int) -> Signature:
    """A signature of two numbers, as ECDSA has them."""
    return Signature(curve, r.to_bytes(32, "big") + s.to_bytes(32, "big"))


def recorded_signatures() -> list[tuple[bytes, str, Signature]]:
    """Every recorded signature that is not of a BLS key: message, address, signature."""
    signed = [(PAYLOADS[p["name"]], p["signatures"]) for p in OCTEZ["payloads"]]
    signed.append((MESSAGE, {pkh: s["b58"] for pkh, s in OCTEZ["sign_03"].items()}))
    return [
        (message, pkh, Signature.parse(text))
        for message, signatures in signed
        for pkh, text in signatures.items()
        if not pkh.startswith("tz4")
    ]


class AddressTests(SynchronousTestCase):
    """Public key hashes."""

    def test_recorded(self) -> None:
        """The recorded addresses have their curve and binary form, and their text back."""
        curves = (*CURVES, Curve.BLS12_381)
        for recorded, curve in zip(OCTEZ["keys"], curves, strict=True):
            address = PublicKeyHash.parse(recorded["pkh"])
            self.assertEqual(address.curve, curve)
            self.assertEqual(bytes(address).hex(), recorded["pkh_binary"])
            self.assertEqual(str(address), recorded["pkh"])
            self.assertEqual(PublicKeyHash.from_bytes(bytes(address)), address)

    def test_no_binary_form(self) -> None:
        """Bytes of another length or tag are no address."""
        for data in (b"", b"\x00" * 20, b"\x00" * 22, b"\x05" + bytes(20), b"\xff" * 21):
            self.assertRaises(ValueError, PublicKeyHash.from_bytes, data)

    def test_tz5(self) -> None:
        """An ML-DSA address is read, and has tag 4."""
        data = bytes.fromhex("02298c03ed7d454a101eb7022bc95f7e5f41ac78")
        text = base58check.encode(Base58Type.TZ5, data)
        address = PublicKeyHash.parse(text)
        self.assertEqual(text[:3], "tz5")
        self.assertEqual((address.curve, bytes(address)), (Curve.ML_DSA_44, b"\x04" + data))

    def test_of_key(self) -> None:
        """The address of a recorded public key is the recorded one."""
        for recorded in OCTEZ["keys"][:4]:
            self.assertEqual(str(PublicKey.parse(recorded["pk"]).hash), recorded["pkh"])

    def test_of_bls_key(self) -> None:
        """The address of a BLS public key too, though such keys do not sign here."""
        # octez-frames.json, R_pk_bls
        key = bytes.fromhex(
            "b57814a75eb110d12673995d37b4ca7e55e42f42f042e4a0"
            "c1f12e026af7dee0eb208151aea51d38ec5875a000a0eed5"
        )
        self.assertEqual(str(PublicKeyHash.of_key(Curve.BLS12_381, key)), BLS["pkh"])

    def test_value(self) -> None:
        """Addresses are values: equal, hashable and sorted by their text."""
        texts = [recorded["pkh"] for recorded in OCTEZ["keys"]]
        again = {PublicKeyHash.parse(text) for text in texts + texts}
        self.assertEqual([str(address) for address in sorted(again)], sorted(texts))

    def test_other_kinds(self) -> None:
        """A text of another kind is no address, and is named in the refusal."""
        for text, kind in (
            (OCTEZ["keys"][0]["pk"], "edpk"),
            (OCTEZ["keys"][0]["sk"], "edsk"),
            (AUTHENTICATION["signature"], "edsig"),
            ("NetXdQprcVkpaWU", "chain_id"),
        ):
            with self.assertRaises(ValueError) as raised:
                PublicKeyHash.parse(text)
            self.assertIn("a tz address expected", str(raised.exception))
            self.assertIn(kind, str(raised.exception))


class PublicKeyTests(SynchronousTestCase):
    """Public keys as texts and as bytes."""

    def test_recorded(self) -> None:
        """The recorded keys are of their curve, and have their text back."""
        for recorded, curve in zip(OCTEZ["keys"], CURVES, strict=False):
            key = PublicKey.parse(recorded["pk"])
            self.assertEqual((key.curve, str(key)), (curve, recorded["pk"]))

    def test_of_bytes(self) -> None:
        """A key of its bytes is the key of its text."""
        # octez-frames.json, R_pk_…
        for key, hexadecimal in (
            (TZ1_KEY, "4798d2cc98473d7e250c898885718afd2e4efbcb1a1595ab9730761ed830de0f"),
            (TZ2_KEY, "03a969d7623ba43c81a7dbbb4ad6b1476f2687495360f0c365748b8c5362e796b6"),
            (TZ3_KEY, "03d4c883e8367fc37e05e99bbaf91b4dd340f1f88fdf81ca18311c48eb90e388a4"),
        ):
            self.assertEqual(PublicKey.of(key.curve, bytes.fromhex(hexadecimal)), key)

    def test_other_kinds(self) -> None:
        """A text of another kind is no public key."""
        for text in (OCTEZ["keys"][0]["pkh"], OCTEZ["keys"][0]["sk"], BLS["pk"]):
            with self.assertRaises(ValueError):
                PublicKey.parse(text)

    def test_wrong_bytes(self) -> None:
        """Bytes that are no key in its compressed form are refused."""
        off_curve = b"\x02" + b"\xff" * 32  # no coordinate is as large as that
        for curve, data in (
            (Curve.ED25519, b""),
            (Curve.ED25519, TZ1_KEY.data[:-1]),
            (Curve.ED25519, TZ1_KEY.data + b"\x00"),
            (Curve.ED25519, TZ3_KEY.data),
            (Curve.BLS12_381, TZ1_KEY.data),
            *product(
                (Curve.SECP256K1, Curve.P256),
                (
                    b"",
                    b"\x00",  # the point at infinity
                    off_curve,
                    TZ1_KEY.data,
                    bytes(33),
                ),
            ),
        ):
            with self.assertRaises(ValueError):
                PublicKey.of(curve, data)

    def test_uncompressed(self) -> None:
        """A point of the curve is refused in its uncompressed form, which has another address."""
        # The base points: SEC 2.
        for curve, x, y in (
            (
                Curve.SECP256K1,
                "79be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798",
                "483ada7726a3c4655da4fbfc0e1108a8fd17b448a68554199c47d08ffb10d4b8",
            ),
            (
                Curve.P256,
                "6b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296",
                "4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5",
            ),
        ):
            parity = "03" if int(y, 16) % 2 else "02"
            PublicKey.of(curve, bytes.fromhex(parity + x))
            for form in ("04", "06", "07", ""):  # uncompressed, hybrid, bare
                with self.assertRaises(ValueError):
                    PublicKey.of(curve, bytes.fromhex(form + x + y))

    def test_off_curve_text(self) -> None:
        """A text with a right checksum is refused if the point is not on its curve."""
        # 5 on secp256k1 and 4 on P-256 are no x of any point.
        for kind, x in ((Base58Type.SPPK, 5), (Base58Type.P2PK, 4)):
            text = base58check.encode(kind, b"\x02" + x.to_bytes(32, "big"))
            with self.assertRaises(ValueError):
                PublicKey.parse(text)


class DigestTests(SynchronousTestCase):
    """BLAKE2b digests."""

    def test_recorded(self) -> None:
        """The digests of all recorded payloads are the recorded ones."""
        recorded = [*OCTEZ["payloads"], *MORE_PAYLOADS]
        recorded.append(
            {"hex": AUTHENTICATION["signed_bytes"], "blake2b256": AUTHENTICATION["blake2b256"]}
        )
        for payload in recorded:
            data = bytes.fromhex(payload["hex"])
            self.assertEqual(digest(data).hex(), payload["blake2b256"], payload["hex"])


class SignatureTextTests(SynchronousTestCase):
    """Signatures as texts."""

    def test_recorded(self) -> None:
        """The recorded signatures have their bytes, and their text back."""
        for key in (TZ1_KEY, TZ2_KEY, TZ3_KEY):
            recorded = OCTEZ["sign_03"][str(key.hash)]
            signature = Signature.parse(recorded["b58"])
            self.assertEqual(signature.data.hex(), recorded["hex"])
            self.assertEqual((signature.curve, str(signature)), (key.curve, recorded["b58"]))

    def test_generic(self) -> None:
        """A generic signature is of no curve, and stays generic."""
        signature = Signature.parse(AUTHENTICATION["signature_generic"])
        self.assertEqual(signature.data.hex(), AUTHENTICATION["signature_hex"])
        self.assertIsNone(signature.curve)
        self.assertEqual(str(signature), AUTHENTICATION["signature_generic"])

    def test_scalars(self) -> None:
        """The numbers r and s are the two halves, big-endian."""
        signature = signature_of(TZ3_KEY)
        self.assertEqual(
            f"{signature.r:064x}{signature.s:064x}", OCTEZ["sign_03"][str(TZ3_KEY.hash)]["hex"]
        )

    def test_other_kinds(self) -> None:
        """A BLS signature, an address and a key are no signatures."""
        for text in (OCTEZ["sign_03"][BLS["pkh"]]["b58"], str(TZ1_KEY.hash), str(TZ1_KEY)):
            with self.assertRaises(ValueError):
                Signature.parse(text)


class VerifyTests(SynchronousTestCase):
    """Which signatures are good for which key and message."""

    def test_recorded(self) -> None:
        """Every recorded signature verifies for its key only, typed or generic."""
        recorded = recorded_signatures()
        self.assertEqual(len(recorded), 48)
        for message, pkh, signature in recorded:
            generic = Signature(None, signature.data)
            for key in KEYS:
                expected = str(key.hash) == pkh
                self.assertEqual(key.verifies(message, signature), expected, (pkh, key))
                self.assertEqual(key.verifies(message, generic), expected, (pkh, key))

    def test_another_message(self) -> None:
        """No recorded signature verifies for any message but its own."""
        keys = {str(key.hash): key for key in KEYS}
        messages = {*PAYLOADS.values(), MESSAGE, b""}
        for message, pkh, signature in recorded_signatures():
            similar = {message + b"\x00", message[:-1], digest(message)}
            for other in (messages - {message}) | similar:
                self.assertFalse(keys[pkh].verifies(other, signature), (pkh, other))

    def test_authentication(self) -> None:
        """The recorded authentication verifies for its key only, typed and generic."""
        message = bytes.fromhex(AUTHENTICATION["signed_bytes"])
        owner = PublicKey.parse(AUTHENTICATION["auth_key"])
        self.assertEqual(str(owner.hash), AUTHENTICATION["auth_pkh"])
        for text in (AUTHENTICATION["signature"], AUTHENTICATION["signature_generic"]):
            signature = Signature.parse(text)
            self.assertEqual([k for k in KEYS if k.verifies(message, signature)], [owner])
            self.assertFalse(owner.verifies(message[:-1], signature))

    def test_claimed_curve(self) -> None:
        """A good signature that claims another curve is refused."""
        for key in (TZ1_KEY, TZ2_KEY, TZ3_KEY):
            data = signature_of(key).data
            good = [curve for curve in Curve if key.verifies(MESSAGE, Signature(curve, data))]
            self.assertEqual(good, [key.curve])

    def test_length(self) -> None:
        """A signature that was cut, or padded anywhere, is refused."""
        for key, claimed in product((TZ1_KEY, TZ2_KEY, TZ3_KEY), (True, False)):
            curve = key.curve if claimed else None
            data = signature_of(key).data
            for wrong in (
                *(data[:length] for length in range(64)),
                data + b"\x00",
                b"\x00" + data,
                # Numbers do not change by zeros in front of them.
                data[:32] + b"\x00" + data[32:],
                data + bytes(32),
                data + data,
            ):
                self.assertFalse(key.verifies(MESSAGE, Signature(curve, wrong)), len(wrong))

    def test_degenerate_scalars(self) -> None:
        """A signature with r or s zero, the order, or beyond it is refused."""
        for key, order in ((TZ2_KEY, SECP256K1_N), (TZ3_KEY, P256_N)):
            good = signature_of(key)
            for bad in (0, order, 2**256 - 1):
                for r, s in ((bad, good.s), (good.r, bad), (bad, bad), (bad, 1), (1, bad)):
                    self.assertFalse(key.verifies(MESSAGE, scalars(None, r, s)), (r, s))
        for data in (bytes(64), b"\xff" * 64):
            for key in KEYS:
                self.assertFalse(key.verifies(MESSAGE, Signature(None, data)))

    def test_high_s_of_secp256k1(self) -> None:
        """The higher s of secp256k1 is refused, as libsecp256k1 does."""
        low = signature_of(TZ2_KEY)
        for curve in (Curve.SECP256K1, None):
            high = scalars(curve, low.r, SECP256K1_N - low.s)
            self.assertFalse(TZ2_KEY.verifies(MESSAGE, high))

    def test_half_of_the_order(self) -> None:
        """An s of half the order, rounded down, is the highest that is good."""
        # Both keys were recovered from the signature with r = x(2 G) and this s, so that only
        # the rule can tell the two apart.
        r = 0xC6047F94_41ED7D6D_3045406E_95C07CD8_5C778E4B_8CEF3CA7_ABAC09B9_5C709EE5
        for point, s, good in (
            ("03a26150be551163674faa6fe1483aa08b1465952f7416188be77c8fcae8c6c382", HALF, True),
            ("02a772571e430e97f54448db3c24bf64a11e284c1e2f08271f4b0384288c0ee2f1", HALF + 1, False),
        ):
            key = PublicKey.of(Curve.SECP256K1, bytes.fromhex(point))
            self.assertEqual(key.verifies(MESSAGE, scalars(None, r, s)), good)
            if not good:
                self.assertTrue(key.verifies(MESSAGE, scalars(key.curve, r, s).low_s()))

    def test_high_s_of_p256(self) -> None:
        """Both s of P-256 verify, as in Octez."""
        low = signature_of(TZ3_KEY)
        self.assertTrue(TZ3_KEY.verifies(MESSAGE, scalars(Curve.P256, low.r, P256_N - low.s)))

    def test_malleated_ed25519(self) -> None:
        """The scalar of Ed25519 is only good as it is, not with the order added."""
        data = signature_of(TZ1_KEY).data
        scalar = int.from_bytes(data[32:], "little")
        self.assertLess(scalar, ED25519_L)
        for times in (1, 2, 3):
            moved = data[:32] + (scalar + times * ED25519_L).to_bytes(32, "little")
            self.assertFalse(TZ1_KEY.verifies(MESSAGE, Signature(Curve.ED25519, moved)))

    def test_weak_ed25519_key(self) -> None:
        """A key of small order, for which one signature would be good for all, verifies nothing."""
        identity = (1).to_bytes(32, "little")
        universal = Signature(Curve.ED25519, identity + bytes(32))
        for data in (identity, bytes(32)):
            self.assertFalse(PublicKey.of(Curve.ED25519, data).verifies(MESSAGE, universal))

    @settings(derandomize=True, deadline=None)
    @given(st.sampled_from((TZ1_KEY, TZ2_KEY, TZ3_KEY)), st.integers(0, 511))
    def test_flipped_bit(self, key: PublicKey, bit: int) -> None:
        """A signature with one bit flipped is refused."""
        flipped = int.from_bytes(signature_of(key).data, "big") ^ 1 << bit
        signature = Signature(key.curve, flipped.to_bytes(64, "big"))
        self.assertFalse(key.verifies(MESSAGE, signature))

    @settings(derandomize=True, deadline=None)
    @given(st.sampled_from(KEYS), st.binary(max_size=100), st.binary(max_size=80))
    def test_any_bytes(self, key: PublicKey, message: bytes, data: bytes) -> None:
        """Bytes that nobody signed are refused without an error."""
        self.assertFalse(key.verifies(message, Signature(None, data)))
        self.assertFalse(key.verifies(message, Signature(None, data.ljust(64, b"\x01"))))


class LowSTests(SynchronousTestCase):
    """The form of a signature that Octez accepts."""

    def test_high_s_is_repaired(self) -> None:
        """A high s of secp256k1 becomes the recorded low one."""
        low = signature_of(TZ2_KEY)
        high = scalars(Curve.SECP256K1, low.r, SECP256K1_N - low.s)
        self.assertEqual(high.low_s(), low)

    def test_all_recorded_are_low(self) -> None:
        """The recorded signatures are in that form already."""
        for _, _, signature in recorded_signatures():
            self.assertEqual(signature.low_s(), signature)

    def test_half_of_the_order(self) -> None:
        """The highest low s is half of the order, rounded down; the next is repaired to it."""
        highest = scalars(Curve.SECP256K1, 1, HALF)
        self.assertEqual(highest.low_s(), highest)
        self.assertEqual(scalars(Curve.SECP256K1, 1, HALF + 1).low_s(), highest)
        self.assertEqual(scalars(Curve.SECP256K1, 1, SECP256K1_N - 1).low_s().s, 1)

    def test_not_a_scalar(self) -> None:
        """An s that is no number of the group is not made into one."""
        for s in (0, SECP256K1_N, 2**256 - 1):
            wrong = scalars(Curve.SECP256K1, 1, s)
            self.assertEqual(wrong.low_s(), wrong)

    def test_other_curves(self) -> None:
        """Signatures of the other curves, and generic ones, stay as they are."""
        for curve in (Curve.ED25519, Curve.P256, None):
            signature = scalars(curve, 1, SECP256K1_N - 1)
            self.assertEqual(signature.low_s(), signature)


class MissingCurveTests(SynchronousTestCase):
    """An OpenSSL without a curve: that concerns the keys of this curve only."""

    def test_missing(self) -> None:
        """Such a key is read, says why it is of no use, and verifies nothing; others do."""
        for missing in (TZ2_KEY, TZ3_KEY):
            without_curve(self, missing.curve)
            for key in (TZ1_KEY, TZ2_KEY, TZ3_KEY):
                parsed = PublicKey.parse(str(key))
                self.assertEqual(parsed, key)
                usable = key.curve is not missing.curve
                self.assertEqual(parsed.unsupported is None, usable)
                self.assertEqual(parsed.verifies(MESSAGE, signature_of(key)), usable)
                if usable:
                    PublicKey.of(key.curve, key.data)
                    continue
                error = self.assertRaises(UnsupportedCurveError, PublicKey.of, key.curve, key.data)
                self.assertIn(f"has no {key.curve.name}", str(error))
            self._restore()

    def _restore(self) -> None:
        """Have all curves again."""
        keys._point.cache_clear()
        keys._verifies_ecdsa.cache_clear()
        self.patch(keys, "_ELLIPTIC", {Curve.SECP256K1: ec.SECP256K1, Curve.P256: ec.SECP256R1})

    def test_library_fails(self) -> None:
        """What cannot be verified because a library fails does not verify, and is no fault."""

        def fail(*_: object) -> None:
            raise InternalError("OpenSSL", [])

        self.addCleanup(keys._verifies_ecdsa.cache_clear)
        keys._verifies_ecdsa.cache_clear()
        self.patch(keys, "_point", fail)
        for key in (TZ2_KEY, TZ3_KEY):
            self.assertFalse(key.verifies(MESSAGE, signature_of(key)))

        class FailingKey:
            def __init__(self, _: bytes) -> None:
                raise NaclRuntimeError("libsodium")

        self.patch(keys, "VerifyKey", FailingKey)
        self.assertFalse(TZ1_KEY.verifies(MESSAGE, signature_of(TZ1_KEY)))
