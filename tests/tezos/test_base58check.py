"""Base58Check, against texts that Octez and its clients wrote."""

import base58
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.support.vectors import AUTHENTICATION, OCTEZ
from tezio_signer.tezos import base58check
from tezio_signer.tezos.base58check import Base58Type

ADDRESS = "tz1KqTpEZ7Yob7QbPE4Hy4Wo8fHG8LhKxZSx"
ADDRESS_DATA = bytes.fromhex("02298c03ed7d454a101eb7022bc95f7e5f41ac78")
_TZ1_PREFIX = bytes.fromhex("06a19f")
_SECP256K1 = OCTEZ["keys"][2]
_P256 = OCTEZ["keys"][3]
_SIGNATURES = OCTEZ["sign_03"]

RECORDED = (
    (Base58Type.TZ1, ADDRESS, ADDRESS_DATA.hex()),
    (Base58Type.TZ2, _SECP256K1["pkh"], _SECP256K1["pkh_binary"][2:]),
    (Base58Type.TZ3, _P256["pkh"], _P256["pkh_binary"][2:]),
    (Base58Type.TZ4, OCTEZ["keys"][4]["pkh"], OCTEZ["keys"][4]["pkh_binary"][2:]),
    # The public keys as Octez' own encoder writes them (octez-frames.json, R_pk_…).
    (
        Base58Type.EDPK,
        "edpkuBknW28nW72KG6RoHtYW7p12T6GKc7nAbwYX5m8Wd9sDVC9yav",
        "4798d2cc98473d7e250c898885718afd2e4efbcb1a1595ab9730761ed830de0f",
    ),
    (
        Base58Type.SPPK,
        _SECP256K1["pk"],
        "03a969d7623ba43c81a7dbbb4ad6b1476f2687495360f0c365748b8c5362e796b6",
    ),
    (
        Base58Type.P2PK,
        _P256["pk"],
        "03d4c883e8367fc37e05e99bbaf91b4dd340f1f88fdf81ca18311c48eb90e388a4",
    ),
    (Base58Type.EDSIG, _SIGNATURES[ADDRESS]["b58"], _SIGNATURES[ADDRESS]["hex"]),
    (
        Base58Type.SPSIG,
        _SIGNATURES[_SECP256K1["pkh"]]["b58"],
        _SIGNATURES[_SECP256K1["pkh"]]["hex"],
    ),
    (Base58Type.P2SIG, _SIGNATURES[_P256["pkh"]]["b58"], _SIGNATURES[_P256["pkh"]]["hex"]),
    (Base58Type.SIG, AUTHENTICATION["signature_generic"], AUTHENTICATION["signature_hex"]),
    (Base58Type.CHAIN_ID, "NetXdQprcVkpaWU", "7a06a770"),
    (
        Base58Type.BLPK,
        OCTEZ["keys"][4]["pk"],
        "b57814a75eb110d12673995d37b4ca7e55e42f42f042e4a0c1f12e026af7dee0eb208151aea51d38ec5875a0"
        "00a0eed5",
    ),
)
"""A kind, a text of it, and its data in hex."""
BEGINNINGS = {
    Base58Type.TZ1: ("tz1", 36),
    Base58Type.TZ2: ("tz2", 36),
    Base58Type.TZ3: ("tz3", 36),
    Base58Type.TZ4: ("tz4", 36),
    Base58Type.TZ5: ("tz5", 36),
    Base58Type.EDPK: ("edpk", 54),
    Base58Type.SPPK: ("sppk", 55),
    Base58Type.P2PK: ("p2pk", 55),
    Base58Type.BLPK: ("BLpk", 76),
    Base58Type.MDPK: ("mdpk", 1802),
    Base58Type.EDSK: ("edsk", 54),
    Base58Type.SPSK: ("spsk", 54),
    Base58Type.P2SK: ("p2sk", 54),
    Base58Type.EDSIG: ("edsig", 99),
    Base58Type.SPSIG: ("spsig1", 99),
    Base58Type.P2SIG: ("p2sig", 98),
    Base58Type.BLSIG: ("BLsig", 142),
    Base58Type.MDSIG: ("mdsig", 3316),
    Base58Type.SIG: ("sig", 96),
    Base58Type.CHAIN_ID: ("Net", 15),
    Base58Type.CONTRACT: ("KT1", 36),
    Base58Type.SMART_ROLLUP: ("sr1", 36),
    Base58Type.ROLLUP_COMMITMENT: ("src1", 54),
    Base58Type.ROLLUP_STATE: ("srs1", 54),
    Base58Type.ZK_ROLLUP: ("epx1", 37),
    Base58Type.BLOCK_HASH: ("B", 51),
    Base58Type.OPERATIONS_HASH: ("LLo", 53),
    Base58Type.CONTEXT_HASH: ("Co", 52),
    Base58Type.PAYLOAD_HASH: ("vh", 52),
    Base58Type.NONCE_HASH: ("nce", 53),
    Base58Type.PROTOCOL_HASH: ("P", 51),
    Base58Type.SLOT_HEADER: ("sh", 74),
}
WRITTEN_ONLY = {Base58Type.MDPK, Base58Type.BLSIG, Base58Type.MDSIG}
"""Kinds whose texts are too long to be read."""
"""What every text of a kind begins with, and its length."""
_ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"


def text_of(raw: bytes) -> str:
    """A text with a right checksum, whatever is in it."""
    return base58.b58encode_check(raw).decode("ascii")


def is_read(text: str) -> bool:
    """Whether a text is accepted."""
    try:
        base58check.decode(text)
    except ValueError:
        return False
    return True


class RecordedTests(SynchronousTestCase):
    """Texts of Octez are read and written as Octez does."""

    def test_decode(self) -> None:
        """A recorded text is of its kind and has its data."""
        for kind, text, data in RECORDED:
            self.assertEqual(base58check.decode(text), (kind, bytes.fromhex(data)), text)

    def test_encode(self) -> None:
        """Recorded data are written as the recorded text."""
        for kind, text, data in RECORDED:
            self.assertEqual(base58check.encode(kind, bytes.fromhex(data)), text)

    def test_keys(self) -> None:
        """The recorded public and secret keys of the three curves are written as they were read."""
        kinds = set()
        for key in OCTEZ["keys"][:4]:
            for text in (key["pk"], key["sk"]):
                kind, data = base58check.decode(text)
                self.assertTrue(text.startswith(kind.name.lower()), text)
                self.assertEqual(base58check.encode(kind, data), text)
                kinds.add(kind)
        self.assertEqual(len(kinds), 6)


class KindsTests(SynchronousTestCase):
    """Every kind has its beginning and one length."""

    def test_beginnings(self) -> None:
        """The least and the greatest data of a kind begin with its letters, in its length."""
        self.assertEqual(set(BEGINNINGS), set(Base58Type))
        for kind, (letters, length) in BEGINNINGS.items():
            for byte in (b"\x00", b"\xff"):
                text = base58check.encode(kind, byte * kind.value.length)
                self.assertEqual((text[: len(letters)], len(text)), (letters, length))

    def test_length_of_data(self) -> None:
        """Data one byte too short or too long are not written."""
        for kind in Base58Type:
            for length in (0, kind.value.length - 1, kind.value.length + 1):
                with self.assertRaises(ValueError) as raised:
                    base58check.encode(kind, bytes(length))
                self.assertIn(f"not {length}", str(raised.exception))

    def test_length_of_text(self) -> None:
        """A right prefix and checksum do not make up for a wrong length."""
        for length in (0, 19, 21, 32):
            with self.assertRaises(ValueError):
                base58check.decode(text_of(_TZ1_PREFIX + bytes(length)))

    @settings(derandomize=True, deadline=None)
    @given(st.sampled_from(sorted(set(Base58Type) - WRITTEN_ONLY, key=str)), st.data())
    def test_round_trip(self, kind: Base58Type, draw: st.DataObject) -> None:
        """What is written is read back, of the same kind."""
        size = kind.value.length
        data = draw.draw(st.binary(min_size=size, max_size=size))
        self.assertEqual(base58check.decode(base58check.encode(kind, data)), (kind, data))

    def test_written_only(self) -> None:
        """The kinds that are not read again are written as another library writes them."""
        for kind in WRITTEN_ONLY:
            data = bytes(range(256)) * 10
            text = base58check.encode(kind, data[: kind.value.length])
            self.assertEqual(
                base58.b58decode_check(text), kind.value.prefix + data[: kind.value.length]
            )
            self.assertFalse(is_read(text))

    @settings(derandomize=True, deadline=None)
    @given(st.sampled_from(Base58Type), st.data())
    def test_as_another_library(self, kind: Base58Type, draw: st.DataObject) -> None:
        """Everything is written as another library writes it."""
        size = kind.value.length
        data = draw.draw(st.binary(min_size=size, max_size=size))
        self.assertEqual(base58check.encode(kind, data), text_of(kind.value.prefix + data))


class RefusalTests(SynchronousTestCase):
    """What is no text of a known kind is refused."""

    def test_refused(self) -> None:
        """Each of these texts is refused."""
        refused = {
            "empty": "",
            "only the checksum of nothing": text_of(b""),
            "one letter": "1",
            "a letter changed": ADDRESS.replace("Yob7", "Yob8"),
            "a letter left out": ADDRESS[:-1],
            "a letter doubled": ADDRESS + ADDRESS[-1],
            "a leading 1, that is a zero byte": "1" + ADDRESS,
            "0 is not in the alphabet": ADDRESS.replace("o", "0"),
            "O is not in the alphabet": ADDRESS.replace("Q", "O"),
            "l is not in the alphabet": ADDRESS.replace("x", "l"),
            "a space in front": " " + ADDRESS,
            "a space behind": ADDRESS + " ",
            "a line end behind": ADDRESS + "\n",
            "a file separator behind": ADDRESS + "\x1c",
            "a space within": ADDRESS[:9] + " " + ADDRESS[9:],
            "not ASCII": ADDRESS.replace("1", "１"),
            "an unknown prefix": text_of(b"\x06\xa1\x9e" + ADDRESS_DATA),
            "a BLS secret key": OCTEZ["keys"][4]["sk"],
            "a BLS signature": _SIGNATURES[OCTEZ["keys"][4]["pkh"]]["b58"],
            "an operation hash": text_of(b"\x05\x74" + bytes(32)),
        }
        self.assertEqual([why for why, text in refused.items() if is_read(text)], [])

    def test_long_text(self) -> None:
        """A long text is refused unread, since reading takes time squared."""

        def unwanted(text: str) -> bytes:
            raise AssertionError(f"{len(text)} letters were decoded")

        self.patch(base58, "b58decode_check", unwanted)
        for length in (129, 1_000_000):
            with self.assertRaises(ValueError):
                base58check.decode("2" * length)

    @settings(derandomize=True, deadline=None)
    @given(
        st.sampled_from([text for _, text, _ in RECORDED]),
        st.integers(0, 98),
        st.sampled_from(_ALPHABET),
    )
    def test_another_letter(self, text: str, place: int, letter: str) -> None:
        """A text with one letter exchanged is refused."""
        place %= len(text)
        assume(text[place] != letter)
        with self.assertRaises(ValueError):
            base58check.decode(text[:place] + letter + text[place + 1 :])

    @settings(derandomize=True, deadline=None)
    @given(st.one_of(st.text(), st.text(alphabet=_ALPHABET, max_size=140)))
    @example("\ud800")
    def test_any_text(self, text: str) -> None:
        """Any text is read or refused with a ValueError."""
        with self.assertRaises(ValueError):
            base58check.decode(text)

    @settings(derandomize=True, deadline=None)
    @given(st.sampled_from(Base58Type), st.binary(max_size=80))
    def test_any_data_behind_a_prefix(self, kind: Base58Type, data: bytes) -> None:
        """Behind a known prefix, only data of the right length are accepted."""
        text = text_of(kind.value.prefix + data)
        if len(data) == kind.value.length:
            self.assertEqual(base58check.decode(text), (kind, data))
        else:
            with self.assertRaises(ValueError):
                base58check.decode(text)


class ChainIdTests(SynchronousTestCase):
    """Texts that name a chain."""

    def test_chain_id(self) -> None:
        """A chain id is passed on, every other text of whatever kind is refused."""
        self.assertEqual(base58check.chain_id("NetXdQprcVkpaWU"), "NetXdQprcVkpaWU")
        error = self.assertRaises(ValueError, base58check.chain_id, ADDRESS)
        self.assertEqual(str(error), "a chain id expected, not a text of kind tz1")
        for text in ("NetXdQprcVkpaWV", "NetXdQprcVkpaWU ", "main", ""):
            self.assertRaises(ValueError, base58check.chain_id, text)
