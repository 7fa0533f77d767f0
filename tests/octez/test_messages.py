"""The messages of the Octez socket protocol, against frames that Octez' own encoder made."""

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.support import octezsocketclient as client
from tests.support.octezclient import NotUnderstood
from tests.support.octezsocketclient import OctezSocketError
from tests.support.strategies import socket_payloads
from tests.support.vectors import AUTHENTICATION, FRAMES, OCTEZ, PAYLOADS
from tezio_signer.octez import messages as octezmessages
from tezio_signer.octez.messages import (
    DeterministicNonce,
    DeterministicNonceHash,
    GetAuthorizedKeys,
    GetPublicKey,
    ListKnownKeys,
    ProvePossession,
    Request,
    Sign,
    SupportsDeterministicNonces,
    Undecodable,
    decode,
)
from tezio_signer.tezos.keys import Curve, PublicKey, PublicKeyHash, Signature

K1, KA, K2, K3, K4 = (PublicKeyHash.parse(key["pkh"]) for key in OCTEZ["keys"])
TZ5 = PublicKeyHash.from_bytes(b"\x04" + K1.data)
BLS_KEY = FRAMES["R_pk_bls"][4:]
GENERIC = Signature.parse(AUTHENTICATION["signature_generic"])

REQUESTS: dict[str, Request] = {
    "sign_tz1": Sign(K1, b"\x03"),
    "sign_tz2": Sign(K2, b"\x03"),
    "sign_tz3": Sign(K3, b"\x03"),
    "sign_tz4_nover": Sign(K4, b"\x03", None, 3),
    "sign_tz4_v2": Sign(K4, b"\x03", None, 2),
    "sign_tz4_v3": Sign(K4, b"\x03", None, 3),
    "sign_tz1_att": Sign(K1, PAYLOADS["att"]),
    "sign_tz1_auth": Sign(K1, b"\x03", GENERIC),
    "public_key": GetPublicKey(K1),
    "public_key_tz4": GetPublicKey(K4),
    "public_key_tz5": GetPublicKey(TZ5),
    "authorized_keys": GetAuthorizedKeys(),
    "det_nonce": DeterministicNonce(K1, b"\x03"),
    "det_nonce_hash": DeterministicNonceHash(K1, b"\x03"),
    "det_nonce_tz4": DeterministicNonce(K4, b"\x03"),
    "supports": SupportsDeterministicNonces(K1),
    "known_keys": ListKnownKeys(),
    "bls_pop": ProvePossession(K4),
    "bls_pop_override": ProvePossession(K4, BLS_KEY),
}
ANSWERS: dict[str, bytes] = {
    "R_sign_ed": octezmessages.signature_answer(Signature(Curve.ED25519, FRAMES["R_sign_ed"][3:])),
    "R_sign_bls": octezmessages.signature_answer(
        Signature(Curve.BLS12_381, FRAMES["R_sign_bls"][3:])
    ),
    "R_pk_ed": octezmessages.public_key_answer(PublicKey.parse(OCTEZ["keys"][0]["pk"])),
    "R_pk_secp": octezmessages.public_key_answer(PublicKey.parse(OCTEZ["keys"][2]["pk"])),
    "R_pk_p256": octezmessages.public_key_answer(PublicKey.parse(OCTEZ["keys"][3]["pk"])),
    "R_pk_bls": octezmessages.public_key_answer(PublicKey(Curve.BLS12_381, BLS_KEY)),
    "R_auth_none": octezmessages.authorized_keys_answer(None),
    "R_auth_keys": octezmessages.authorized_keys_answer([KA]),
    "R_auth_keys2": octezmessages.authorized_keys_answer([KA, K4]),
    "R_auth_keys0": octezmessages.authorized_keys_answer([]),
    "R_known": octezmessages.known_keys_answer([K1, K4]),
    "R_nonce": octezmessages.nonce_answer(b"n" * 32),
    "R_nonce_hash": octezmessages.nonce_answer(b"h" * 32),
    "R_supports_t": octezmessages.supports_answer(True),
    "R_supports_f": octezmessages.supports_answer(False),
    "R_pop": octezmessages.signature_answer(Signature(Curve.BLS12_381, FRAMES["R_pop"][3:])),
    "R_err": octezmessages.error_answer("magic byte 0x04 not allowed"),
    "R_err_auth": octezmessages.error_answer("missing authentication signature field"),
    "R_err_known": octezmessages.error_answer("List known keys request not allowed."),
}


class RecordedTests(SynchronousTestCase):
    """What Octez itself writes and reads."""

    def test_nothing_is_left_out(self) -> None:
        """Every recorded frame is in one of these tables."""
        self.assertEqual(REQUESTS.keys() | ANSWERS.keys(), FRAMES.keys())

    def test_requests(self) -> None:
        """Requests are decoded to the values that were encoded."""
        for name, expected in REQUESTS.items():
            self.assertEqual(decode(FRAMES[name][2:]), expected, name)

    def test_answers(self) -> None:
        """Answers come out byte for byte, their length in front."""
        for name, payload in ANSWERS.items():
            self.assertEqual(octezmessages.frame(payload), FRAMES[name], name)

    def test_the_client_of_these_tests(self) -> None:
        """The independent client writes the same requests, and reads the same answers."""
        k1, k4, payload = str(K1), str(K4), b"\x03"
        signed = GENERIC.data
        for name, request in {
            "sign_tz1": client.sign(k1, payload),
            "sign_tz2": client.sign(str(K2), payload),
            "sign_tz3": client.sign(str(K3), payload),
            "sign_tz4_v2": client.sign(k4, payload, version=2),
            "sign_tz1_auth": client.sign(k1, payload, signed),
            "public_key_tz4": client.public_key(k4),
            "authorized_keys": client.AUTHORIZED_KEYS,
            "det_nonce_tz4": client.nonce(k4, payload),
            "det_nonce_hash": client.nonce(k1, payload, hashed=True),
            "supports": client.supports_nonces(k1),
            "known_keys": client.KNOWN_KEYS,
            "bls_pop_override": client.prove_possession(k4, BLS_KEY),
        }.items():
            self.assertEqual(client.framed(request), FRAMES[name], name)
        results = {
            name: client.result_in(frame[2:])
            for name, frame in FRAMES.items()
            if name.startswith("R_") and "err" not in name
        }
        self.assertIsNone(client.authorized_in(results["R_auth_none"]))
        self.assertEqual(client.authorized_in(results["R_auth_keys2"]), [str(KA), k4])
        self.assertEqual(client.pkhs_in(results["R_known"]), [k1, k4])
        self.assertEqual(client.public_key_in(results["R_pk_p256"]), OCTEZ["keys"][3]["pk"])
        error = self.assertRaises(OctezSocketError, client.result_in, FRAMES["R_err"][2:])
        self.assertEqual(error.message, "magic byte 0x04 not allowed")


class StrictnessTests(SynchronousTestCase):
    """What is not exactly a request."""

    def refused(self, payload: bytes, says: str) -> None:
        """Check that bytes are refused, and what for."""
        error = self.assertRaises(Undecodable, decode, payload)
        self.assertIn(says, str(error), payload.hex())

    def test_cut_off(self) -> None:
        """A request that ends too early is refused, wherever it ends."""
        for name in REQUESTS:
            payload = FRAMES[name][2:]
            for length in range(len(payload)):
                if name == "sign_tz1_auth" and length == len(FRAMES["sign_tz1"]) - 2:
                    continue  # exactly the request without its authentication
                self.assertRaises(Undecodable, decode, payload[:length])

    def test_too_long(self) -> None:
        """Bytes behind a request are refused, and never taken for something else."""
        for name in REQUESTS:
            for tail in (b"\x00", b"\xff" * 3):
                self.assertRaises(Undecodable, decode, FRAMES[name][2:] + tail)
        self.refused(FRAMES["known_keys"][2:] * 2, "1 trailing byte, at byte 1")

    def test_unknown_tags(self) -> None:
        """Kinds of requests and keys that Octez does not have."""
        hashed = bytes(K1)
        for tag in (*range(8, 256),):
            self.refused(bytes([tag]) + hashed, f"{tag} is no kind of request, at byte 0")
        for tag in (5, 0x7F, 0xFF):
            self.refused(b"\x01" + bytes([tag]) + hashed[1:], f"{tag} is no kind of key, at byte 1")
        for tag in (4, 5, 0xFF):
            self.refused(
                b"\x00" + bytes([tag]) + hashed[1:] + b"\x00\x00\x00\x01\x03",
                f"{tag} is no kind of key that signs over a socket, at byte 1",
            )
        self.refused(b"", "cut off in its kind: 0 of 1 bytes, at byte 0")

    def test_signature_versions(self) -> None:
        """The version of a tz4 signature is 0 to 3."""
        for version in range(256):
            payload = client.sign(str(K4), b"\x03", version=version)
            if version <= 3:
                self.assertEqual(decode(payload), Sign(K4, b"\x03", None, version))
            else:
                self.refused(payload, f"{version} is no signature version, at byte 23")

    def test_lengths_of_data(self) -> None:
        """A length that is not that of the data is refused; no data is well-formed."""
        self.assertEqual(decode(client.sign(str(K1), b"")), Sign(K1, b""))
        front = b"\x00" + bytes(K1)
        for length in (2, 0xFFFF, 2**31, 2**32 - 1):
            self.refused(front + length.to_bytes(4, "big") + b"\x03", "cut off in its data: 1 of ")

    def test_lengths_of_authentications(self) -> None:
        """An authentication has the length of a signature, and is generic if it has 64 bytes."""
        curves = {64: None, 96: Curve.BLS12_381, 2420: Curve.ML_DSA_44}
        for length in (*range(1, 130), 2419, 2420, 2421, 5000):
            signed = bytes(length)
            for payload in (
                client.sign(str(K1), b"\x03", signed),
                client.nonce(str(K1), b"\x03", signed),
                client.nonce(str(K1), b"\x03", signed, hashed=True),
            ):
                if length in curves:
                    request = decode(payload)
                    assert isinstance(request, Sign | DeterministicNonce | DeterministicNonceHash)
                    self.assertEqual(request.authentication, Signature(curves[length], signed))
                else:
                    self.refused(payload, f"has not {length} bytes")

    def test_presence(self) -> None:
        """As Octez reads it, any byte but zero says that a key follows."""
        for byte in (1, 0x7F, 0xFF):
            payload = b"\x07" + bytes(K4) + bytes([byte]) + BLS_KEY
            self.assertEqual(decode(payload), ProvePossession(K4, BLS_KEY))
        self.refused(b"\x07" + bytes(K4) + b"\x00" + BLS_KEY, "48 trailing bytes, at byte 23")

    @settings(derandomize=True, deadline=None)
    @given(socket_payloads())
    def test_any_bytes(self, payload: bytes) -> None:
        """Whatever comes is a request or refused in one sentence."""
        try:
            decode(payload)
        except Undecodable as error:
            self.assertRegex(str(error), r"\A[^\r\n]{5,100}\Z")

    @settings(derandomize=True, deadline=None)
    @given(
        st.sampled_from([str(key) for key in (K1, K2, K3, K4)]),
        st.binary(max_size=300),
        st.sampled_from([b"", bytes(64), bytes(range(96))]),
    )
    def test_any_request_to_sign(self, pkh: str, data: bytes, signed: bytes) -> None:
        """Key, data and authentication are found where an independent encoder put them."""
        request = decode(client.sign(pkh, data, signed))
        assert isinstance(request, Sign)
        self.assertEqual((str(request.key), request.data), (pkh, data))
        self.assertEqual(signed, request.authentication.data if request.authentication else b"")


class ErrorTests(SynchronousTestCase):
    """Error traces."""

    @settings(derandomize=True, deadline=None)
    @given(st.text(st.characters(codec="utf-8"), max_size=300))
    def test_any_sentence(self, sentence: str) -> None:
        """A sentence arrives as it was, whatever letters it has."""
        answer = octezmessages.error_answer(sentence)
        error = self.assertRaises(OctezSocketError, client.result_in, answer)
        self.assertEqual(error.message, sentence)

    def test_what_is_no_text(self) -> None:
        """A lone surrogate, which no UTF-8 can have, does not keep the rest from arriving."""
        error = self.assertRaises(
            OctezSocketError, client.result_in, octezmessages.error_answer("a \ud800 b")
        )
        self.assertEqual(error.message, "a ? b")

    def test_the_client_is_strict(self) -> None:
        """Damaged traces are not read by the client of these tests."""
        answer = octezmessages.error_answer("some sentence")
        for damaged in (
            answer + b"\x00",
            answer[:-1],
            b"\x02" + answer[1:],
            b"\x01\x00\x00\x00\x00",
        ):
            self.assertRaises(NotUnderstood, client.result_in, damaged)

    def test_too_long_for_a_frame(self) -> None:
        """A payload has 65535 bytes at most."""
        self.assertEqual(octezmessages.frame(bytes(65535))[:2], b"\xff\xff")
        self.assertRaises(OverflowError, octezmessages.frame, bytes(65536))
