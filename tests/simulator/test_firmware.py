"""The firmware in software, in its dangerous corners; its ordinary replies are replayed."""

from itertools import product

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.support.hsmdevice import KEYS, ask, execute, is_signature, sign
from tests.support.vectors import AUTH, PAYLOADS, TZ1, TZ2, TZ3, block, consensus
from tezio_signer.hsm import framing
from tezio_signer.hsm.framing import KeyFormat, Opcode, Request, Slot, Status
from tezio_signer.simulator.firmware import Firmware
from tezio_signer.simulator.keys import TEST_KEYS, SoftKey
from tezio_signer.tezos.keys import Curve

GENERIC = PAYLOADS["transfer"]
ADDRESSES = {Slot.AUTH: AUTH, Slot.TZ1: TZ1, Slot.TZ2: TZ2, Slot.TZ3: TZ3}
ADDRESS_REQUEST = framing.get_public_key(Slot.TZ3, KeyFormat.ADDRESS)
WATERMARK = b"\xd4"
NOT_ENABLED = b"\xb8"

FAULTS = (
    ("begin", Status.CHIP_FAILED, framing.get_public_key(Slot.TZ1)),
    ("begin", Status.CHIP_FAILED, framing.get_public_key(Slot.TZ3, KeyFormat.ADDRESS)),
    *(("begin", Status.CHIP_FAILED, sign(slot, b"\x03")) for slot in Slot),
    ("begin", Status.CHIP_FAILED, framing.verify(Slot.TZ3, b"\x03", bytes(64))),
    ("sign", Status.SIGNING_FAILED, sign(Slot.AUTH, b"\x03")),
    ("sign", Status.SIGNING_FAILED, sign(Slot.TZ3, b"\x03")),
    ("session_key", Status.SESSION_KEY_FAILED, sign(Slot.TZ1, b"\x03")),
    ("session_key", Status.SESSION_KEY_FAILED, sign(Slot.TZ2, b"\x03")),
    ("encrypted_read", Status.ENCRYPTED_READ_FAILED, sign(Slot.TZ1, b"\x03")),
    ("encrypted_read", Status.ENCRYPTED_READ_FAILED, sign(Slot.TZ2, b"\x03")),
    ("decrypt", Status.DECRYPTION_FAILED, sign(Slot.TZ1, b"\x03")),
    ("decrypt", Status.DECRYPTION_FAILED, sign(Slot.TZ2, b"\x03")),
    ("read_slot", Status.KEY_UNREADABLE, sign(Slot.TZ1, b"\x03")),
    *(
        ("read_slot", Status.KEY_UNREADABLE, framing.verify(slot, b"\x03", bytes(64)))
        for slot in Slot
    ),
)
"""What fails, the status that it brings, and a request that needs it."""
_GOOD = ADDRESS_REQUEST.frame()[1:]
_TOO_LONG = bytes.fromhex("0900") + _GOOD[2:-2]
REFUSALS = (
    (b"", Status.FRAME_TOO_SHORT),
    (b"\x05", Status.FRAME_TOO_SHORT),
    (_GOOD[:4], Status.FRAME_TOO_SHORT),
    (_GOOD[:-1], Status.WRONG_CRC),
    (_GOOD[:-1] + b"\x00", Status.WRONG_CRC),
    (_TOO_LONG + framing.crc16(_TOO_LONG).to_bytes(2, "little"), Status.WRONG_LENGTH),
    (Request(0x31, 0, 0).frame()[1:], Status.UNKNOWN_OPCODE),
    (Request(0x11, 4, 1).frame()[1:], Status.NO_SUCH_SLOT),
    (Request(0x21, 4, 1).frame()[1:], Status.NO_SUCH_SLOT),
    (Request(0x22, 255, 1).frame()[1:], Status.NO_SUCH_SLOT),
    # Packets that stop behind the slot look like replies with two bytes in them.
    (framing.reply(b"\x11\x09"), Status.NO_SUCH_SLOT),
    (framing.reply(b"\x11\x01"), Status.NO_SUCH_MODE),
    (Request(0x11, 0, 0).frame()[1:], Status.NO_SUCH_MODE),
    (Request(0x11, 0, 5).frame()[1:], Status.NO_SUCH_MODE),
    (Request(0x21, 1, 5).frame()[1:], Status.NO_SUCH_MODE),
    (Request(0x22, 1, 0, 1, bytes(65)).frame()[1:], Status.NO_SUCH_MODE),
    (Request(0x22, 1, 4, 0, bytes(99)).frame()[1:], Status.MISSING_LENGTH),
    (Request(0x21, 1, 3).frame()[1:], Status.WRONG_DATA),
    (Request(0x22, 1, 3, 1, bytes(64)).frame()[1:], Status.WRONG_DATA),
    (Request(0x21, 1, 1, 0, bytes(33)).frame()[1:], Status.NOT_A_HASH),
    (sign(Slot.TZ1, b"\x04").frame()[1:], Status.NOT_ENABLED),
    (sign(Slot.TZ3, b"\x13").frame()[1:], Status.WATERMARK),
)
"""Packets, and the status that each brings without any fault."""


def magic_message(magic: int) -> bytes:
    """A message that begins with a magic byte, at level and round 01010101 where it has these."""
    return bytes([magic]) + b"\x01" * 60


class FirmwareTestCase(SynchronousTestCase):
    """Has a device."""

    def setUp(self) -> None:
        self.firmware = Firmware()

    def signs(self, slot: Slot, message: bytes, mode: int = 3) -> bool:
        """Whether the device signs, and rightly, or refuses by its policy or watermark."""
        body = ask(self.firmware, sign(slot, message, mode))
        if len(body) == 1:
            self.assertIn(body, (NOT_ENABLED, WATERMARK))
            return False
        self.assertTrue(is_signature(slot, mode, message, body))
        return True

    def assert_alive(self) -> None:
        """Check that the device still answers."""
        self.assertEqual(ask(self.firmware, ADDRESS_REQUEST), str(TZ3).encode())

    def assert_dead(self) -> None:
        """Check that the device is silent, and answers again after a power cycle."""
        for request in (ADDRESS_REQUEST, sign(Slot.TZ1, GENERIC)):
            self.assertIsNone(execute(self.firmware, request))
        self.firmware.power_cycle()
        self.assert_alive()


class KeyTests(FirmwareTestCase):
    """The keys of the device."""

    def test_all_formats(self) -> None:
        """Each slot answers its key in each of the four forms."""
        for slot, key in KEYS.items():
            answers = [ask(self.firmware, framing.get_public_key(slot, f)) for f in KeyFormat]
            raw, *others = answers
            self.assertEqual(others, [key.data, str(key).encode(), str(ADDRESSES[slot]).encode()])
            self.assertEqual(len(raw), 32 if slot is Slot.TZ1 else 64)
            self.assertIn(raw[:32], key.data)

    def test_addresses(self) -> None:
        """The addresses of the recorded keys are those of the test keys."""
        self.assertEqual({slot: key.hash for slot, key in KEYS.items()}, ADDRESSES)

    def test_other_keys(self) -> None:
        """A device with other secret keys has other public ones."""
        self.firmware = Firmware({**TEST_KEYS, Slot.TZ3: TEST_KEYS[Slot.AUTH]})
        body = ask(self.firmware, framing.get_public_key(Slot.TZ3, KeyFormat.ADDRESS))
        self.assertEqual(body, str(AUTH).encode())

    def test_secret_keys(self) -> None:
        """A soft key has the curve of its text, and verifies what it has signed only."""
        hashed, other = bytes(32), b"\x01" * 32
        for slot, text in TEST_KEYS.items():
            key = SoftKey.parse(text)
            self.assertEqual((key.curve, key.compressed), (KEYS[slot].curve, KEYS[slot].data))
            raw = key.sign(hashed)
            self.assertTrue(is_signature(slot, 1, hashed, raw))
            self.assertTrue(key.verifies(hashed, raw))
            self.assertFalse(key.verifies(other, raw))
            self.assertFalse(key.verifies(hashed, bytes(64)))

    def test_compressed(self) -> None:
        """The compressed form of a point has the sign of its other coordinate."""
        for curve, elliptic in ((Curve.SECP256K1, ec.SECP256K1()), (Curve.P256, ec.SECP256R1())):
            signs = set()
            for number in range(1, 9):
                point = ec.derive_private_key(number, elliptic).public_key()
                expected = point.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
                key = SoftKey(curve, number.to_bytes(32, "big"))
                self.assertEqual(key.compressed, expected)
                signs.add(expected[0])
            self.assertEqual(signs, {2, 3})

    def test_random_nonces(self) -> None:
        """The nonces of ECDSA are random, as the device's are; Ed25519 has none."""
        for slot in KEYS:
            first, second = (ask(self.firmware, sign(slot, b"\x03")) for _ in range(2))
            self.assertEqual(first == second, slot is Slot.TZ1)

    def test_low_s(self) -> None:
        """The signatures of tz2 are low-s always; those of tz3 are not normalised."""
        high = 0
        for byte in range(48):
            message = bytes([3, byte])
            self.assertTrue(self.signs(Slot.TZ2, message))  # a high s is no signature here
            raw = ask(self.firmware, sign(Slot.TZ3, message))
            high += raw[32] >= 0x80
        self.assertGreater(high, 0)  # by chance in one of 2^48 runs


class PolicyTests(FirmwareTestCase):
    """The table of magic bytes, which is read outside its bounds too."""

    def test_sketch(self) -> None:
        """Inside its bounds the table is that of the published sketch."""
        for slot in Slot:
            signed = {m for m in range(1, 0x14) if self.signs(slot, magic_message(m))}
            expected = {0x03, 0x11, 0x12, 0x13} if slot is Slot.TZ3 else {0x03}
            self.assertEqual(signed, expected, slot)

    def test_behind_the_table(self) -> None:
        """The magic bytes 14 to 35 are signed by every slot, though no table has them."""
        for slot, magic in product(Slot, (0x11, 0x12, 0x13)):
            ask(self.firmware, sign(slot, bytes([magic]) + b"\x02" * 60))  # fills all marks
        for slot, magic in product(Slot, range(0x14, 0x36)):
            self.assertTrue(self.signs(slot, magic_message(magic)), (slot, hex(magic)))

    def test_ahead_of_the_table(self) -> None:
        """Magic byte 00 is signed where the row of another slot lies in front."""
        signed = [slot for slot in Slot if self.signs(slot, magic_message(0x00))]
        self.assertEqual(signed, [Slot.TZ1, Slot.TZ2, Slot.TZ3])

    def test_far_behind_the_table(self) -> None:
        """From 36 on, a slot reads the row of the next one: 38 is its 03."""
        tables = {
            Slot.AUTH: {0x38},
            Slot.TZ1: {0x38},
            Slot.TZ2: {0x38, 0x46, 0x47, 0x48},  # 03, 11, 12 and 13 of tz3
        }
        for slot, expected in tables.items():
            rest = range(0x49, 0x6B)  # 14 to 35 of the next slot
            signed = {m for m in range(0x36, 0x6B) if self.signs(slot, magic_message(m))}
            self.assertEqual(signed, expected | set(rest), slot)

    def test_other_policy(self) -> None:
        """Another sketch may enable other magic bytes."""
        nothing = dict.fromkeys(Slot, ())
        self.firmware = Firmware(enabled={**nothing, Slot.TZ1: (0x05, 0x13)})
        for slot, magic in product(Slot, (0x03, 0x05, 0x13)):
            signed = self.signs(slot, magic_message(magic))
            self.assertEqual(signed, slot is Slot.TZ1 and magic != 0x03, (slot, magic))

    def test_disabled(self) -> None:
        """An operation that is disabled for a key is refused for this key and operation only."""
        self.firmware = Firmware(disabled=[(Slot.TZ2, Opcode.SIGN)])
        for slot in Slot:
            body = ask(self.firmware, sign(slot, GENERIC))
            self.assertEqual(body == b"\xb0", slot is Slot.TZ2)
            self.assertEqual(ask(self.firmware, framing.get_public_key(slot)), KEYS[slot].data)

    def test_prehash(self) -> None:
        """A prehash has its magic byte by chance: every other one passes by the policy."""
        for first, signed in ((0x03, True), (0x14, True), (0x01, False), (0x7F, False)):
            for mode in (1, 2):
                self.assertEqual(
                    self.signs(Slot.TZ3, bytes([first]) + bytes(31), mode), signed, hex(first)
                )


class WatermarkTests(FirmwareTestCase):
    """The marks in RAM."""

    def test_moves_before_the_policy(self) -> None:
        """A mark moves even when the policy refuses, and then refuses by itself."""
        for magic in ("block_unlocked_nononce_on", "preatt", "att"):
            for expected in (NOT_ENABLED, WATERMARK):
                body = ask(self.firmware, sign(Slot.TZ1, PAYLOADS[magic]))
                self.assertEqual(body, expected, magic)

    def test_moves_before_the_chip_fails(self) -> None:
        """A mark moves even when the chip then fails: asking again brings no signature."""
        self.firmware.failing.add("sign")
        self.assertEqual(ask(self.firmware, sign(Slot.TZ3, PAYLOADS["att"])), b"\xaf")
        self.firmware.failing.clear()
        self.assertEqual(ask(self.firmware, sign(Slot.TZ3, PAYLOADS["att"])), WATERMARK)

    def test_order(self) -> None:
        """Level counts before round; equal or lower is refused."""
        for payload in (block, lambda level, round_: consensus("att", level, round_)):
            for level, round_, signed in (
                (0, 0, False),
                (0, 1, True),
                (5, 3, True),
                (5, 3, False),
                (5, 2, False),
                (4, 9, False),
                (5, 4, True),
                (6, 0, True),
                (0x01000000, 0, True),
                (0x00FFFFFF, 0, False),
            ):
                self.assertEqual(
                    self.signs(Slot.TZ3, payload(level, round_)), signed, (level, round_)
                )

    def test_kinds_apart(self) -> None:
        """Each magic byte has its own mark; attestations with and without DAL share one."""
        self.assertTrue(self.signs(Slot.TZ3, block(5, 0)))
        for name, signed in (("preatt", True), ("att", True), ("att_dal_5", False)):
            self.assertEqual(self.signs(Slot.TZ3, consensus(name, 5, 0)), signed, name)

    def test_slots_apart(self) -> None:
        """The marks lie apart: none moves another, nor says anything about another slot."""
        names = ("block_unlocked_nononce_on", "preatt", "att")
        self.firmware = Firmware(enabled=dict.fromkeys(Slot, (0x11, 0x12, 0x13)))
        # Backwards, so that each is written in front of those that are there already.
        places = list(product(Slot, names))[::-1]
        for signed in (True, False):
            for slot, name in places:
                self.assertEqual(self.signs(slot, PAYLOADS[name]), signed, (slot, name))

    def test_no_chain_id(self) -> None:
        """The marks know no chains."""
        elsewhere = PAYLOADS["att"][:1] + bytes.fromhex("b3d79f99") + PAYLOADS["att"][5:]
        self.assertTrue(self.signs(Slot.TZ3, PAYLOADS["att"]))
        self.assertFalse(self.signs(Slot.TZ3, elsewhere))

    def test_power_cycle(self) -> None:
        """The marks are gone after a power loss."""
        for _ in range(2):
            self.assertTrue(self.signs(Slot.TZ3, PAYLOADS["att"]))
            self.assertFalse(self.signs(Slot.TZ3, PAYLOADS["att"]))
            self.firmware.power_cycle()

    def test_lock_out(self) -> None:
        """One attestation at level ffffffff locks out until power is lost."""
        highest = PAYLOADS["att"][:40] + b"\xff" * 8 + PAYLOADS["att"][48:]
        self.assertTrue(self.signs(Slot.TZ3, highest))
        self.assertFalse(self.signs(Slot.TZ3, consensus("att", 2**31 - 1, 2**31 - 1)))
        self.firmware.power_cycle()
        self.assertTrue(self.signs(Slot.TZ3, consensus("att", 1, 0)))

    def test_lock_out_by_prehash(self) -> None:
        """A digest that begins with 11 can lock baking out as well."""
        self.assertTrue(self.signs(Slot.TZ3, b"\x11" + b"\xff" * 31, 1))
        self.assertFalse(self.signs(Slot.TZ3, block(2**31 - 1, 2**31 - 1)))

    def test_compiled_in(self) -> None:
        """Marks of the sketch itself are there after every start."""
        self.firmware = Firmware(marks={(Slot.TZ3, 0x13): (100, 2)})
        for _ in range(2):
            self.assertFalse(self.signs(Slot.TZ3, consensus("att", 100, 2)))
            self.assertTrue(self.signs(Slot.TZ3, consensus("att", 100, 3)))
            self.assertTrue(self.signs(Slot.TZ3, consensus("preatt", 1, 0)))
            self.firmware.power_cycle()

    def test_stumps(self) -> None:
        """The device signs a 9-byte "block" and a 44-byte "attestation"."""
        self.assertTrue(self.signs(Slot.TZ3, block(5, 0)[:9]))
        self.assertTrue(self.signs(Slot.TZ3, consensus("att", 5, 1)[:44]))
        # What is missing was read as zero.
        self.assertFalse(self.signs(Slot.TZ3, consensus("att", 5, 0)))
        self.assertTrue(self.signs(Slot.TZ3, consensus("att", 5, 1)))


class ChipFaultTests(FirmwareTestCase):
    """A secure element that fails."""

    def test_statuses(self) -> None:
        """Each fault brings its status, for as long as it lasts."""
        for call, status, request in FAULTS:
            before = len(ask(self.firmware, request))
            self.firmware.failing.add(call)
            for _ in range(2):
                self.assertEqual(ask(self.firmware, request), bytes([status]), (call, request))
            self.firmware.failing.clear()
            self.assertEqual(len(ask(self.firmware, request)), before)

    def test_curve_that_is_missing_here(self) -> None:
        """Where OpenSSL lacks a curve, its slot is unreadable, and the others serve."""

        def derive(number: int, curve: ec.EllipticCurve) -> ec.EllipticCurvePrivateKey:
            if isinstance(curve, ec.SECP256K1):
                raise UnsupportedAlgorithm("no such curve")
            return genuine(number, curve)

        genuine = ec.derive_private_key
        self.patch(ec, "derive_private_key", derive)
        firmware = Firmware()
        for request in (framing.get_public_key(Slot.TZ2), sign(Slot.TZ2, GENERIC)):
            self.assertEqual(ask(firmware, request), b"\xb4")
        for slot in (Slot.TZ1, Slot.TZ3):
            self.assertTrue(is_signature(slot, 3, GENERIC, ask(firmware, sign(slot, GENERIC))))

    def test_noisy(self) -> None:
        """With the library's own message, `15` and a line end come ahead of the reply."""
        self.firmware.noisy = True
        for call, status, request in FAULTS:
            self.firmware.failing = {call}
            packet = execute(self.firmware, request)
            self.assertEqual(packet, b"15\r\n" + framing.reply(bytes([status])))
            self.firmware.failing.clear()
            packet = execute(self.firmware, request)
            assert packet is not None
            self.assertFalse(packet.startswith(b"15"))

    def test_noise_is_of_faults_only(self) -> None:
        """A refusal of the firmware itself prints nothing."""
        self.firmware.noisy = True
        self.firmware.failing = {"sign", "random", "read_slot"}
        self.assertEqual(
            execute(self.firmware, sign(Slot.TZ3, b"\x01")), framing.reply(NOT_ENABLED)
        )

    def test_not_needed(self) -> None:
        """A fault that an operation does not meet leaves it alone."""
        self.firmware.failing = {"session_key", "encrypted_read", "decrypt", "read_slot", "random"}
        self.assertTrue(self.signs(Slot.TZ3, b"\x03"))
        self.firmware.failing = {"sign", "random"}
        self.assertTrue(self.signs(Slot.TZ1, b"\x03"))
        self.firmware.failing = {"sign", "read_slot"}
        self.assertTrue(self.signs(Slot.TZ2, b"\x03"))
        self.firmware.failing = {"begin", "sign"}
        self.assertEqual(len(ask(self.firmware, sign(Slot.TZ3, b"", 0))), 98)

    def test_junk_key(self) -> None:
        """A failing read of a key is not noticed: something of the right shape is answered."""
        self.firmware.failing.add("read_slot")
        for slot, key_format in product(Slot, KeyFormat):
            good = ask(Firmware(), framing.get_public_key(slot, key_format))
            junk = ask(self.firmware, framing.get_public_key(slot, key_format))
            # A Base58Check text of other data may be one letter shorter.
            self.assertAlmostEqual(len(junk), len(good), delta=1)
            self.assertNotEqual(junk, good)

    def test_junk_signature(self) -> None:
        """A failing random generator is not noticed by tz2: 64 bytes, but no signature."""
        self.firmware.failing.add("random")
        for message in (b"\x03", GENERIC):
            raw = ask(self.firmware, sign(Slot.TZ2, message))
            self.assertEqual(len(raw), 64)
            self.assertFalse(is_signature(Slot.TZ2, 3, message, raw))
        self.assertTrue(self.signs(Slot.TZ3, b"\x03"))


class RefusalTests(FirmwareTestCase):
    """Statuses that need no fault."""

    def test_all_statuses(self) -> None:
        """Every status that the host knows is brought about here, as the device does it."""
        reached = {status for _, status, _ in FAULTS} | {status for _, status in REFUSALS}
        self.assertEqual(set(Status) - reached, {Status.OPERATION_DISABLED})

    def test_statuses(self) -> None:
        """Each wrong packet has its status, and the device goes on."""
        for packet, status in REFUSALS:
            answer = self.firmware.execute(packet)
            assert answer is not None
            self.assertEqual(answer.packet, framing.reply(bytes([status])), packet.hex())
            self.assert_alive()

    def test_missing_fields(self) -> None:
        """Fields that a packet does not have are zero; the checksum is not taken for one."""
        for slot in Slot:
            answer = self.firmware.execute(framing.reply(bytes([0x21, slot])))
            assert answer is not None
            constant = ask(self.firmware, Request(0x21, slot, 0))
            self.assertEqual(answer.packet, framing.reply(constant))

    def test_disabled(self) -> None:
        """B0 comes ahead of any other complaint about the operation."""
        self.firmware = Firmware(disabled=product(Slot, (Opcode.GET_PK, Opcode.VERIFY)))
        for slot in Slot:
            for request in (Request(0x11, slot, 9), Request(0x22, slot, 9), Request(0x22, slot, 3)):
                self.assertEqual(ask(self.firmware, request), b"\xb0")


class SilenceTests(FirmwareTestCase):
    """What crashes the device: silence until its power is cut."""

    def test_fitness_length(self) -> None:
        """A block with a fitness length of 8000 or more kills the device, ahead of its policy."""
        lengths = (0x8000, 0xFFFF, 2**31, 0xFFFFFFAC)
        for slot, length in product((Slot.TZ1, Slot.TZ3), lengths):
            payload = bytearray(block(5, 0))
            payload[83:87] = length.to_bytes(4, "big")
            self.assertIsNone(execute(self.firmware, sign(slot, bytes(payload))))
            self.assert_dead()

    def test_fitness_length_that_wraps(self) -> None:
        """From ffffffad on the place of the round wraps around into the block, which is signed.

        Or refused by the policy (B8), or by the watermark (D4), as any block.
        """
        for level, length in ((5, 0xFFFFFFAD), (6, 0xFFFFFFC0), (7, 2**32 - 1)):
            payload = bytearray(block(level, 0))
            payload[83:87] = length.to_bytes(4, "big")
            self.assertEqual(ask(self.firmware, sign(Slot.TZ1, bytes(payload))), NOT_ENABLED)
            self.assertTrue(self.signs(Slot.TZ3, bytes(payload)))
            self.assertEqual(ask(self.firmware, sign(Slot.TZ3, bytes(payload))), b"\xd4")
            self.assert_alive()

    def test_smaller_fitness_length(self) -> None:
        """A fitness length below that, and behind all memory, reads a round of nothing."""
        for level, length in ((5, 0x7FFF), (6, 0x4000)):
            payload = bytearray(block(level, 7))
            payload[83:87] = length.to_bytes(4, "big")
            self.assertTrue(self.signs(Slot.TZ3, bytes(payload)))
            self.assertTrue(self.signs(Slot.TZ3, block(level, 1)))

    def test_overlong_frame(self) -> None:
        """A frame far behind the buffer's end is refused once, and then nothing is answered."""
        for size in (1033, 4096, 65535):
            packet = size.to_bytes(2, "little") + b"\x21\x01\x03" + b"\x07" * (size - 5)
            answer = self.firmware.execute(packet)
            assert answer is not None
            self.assertEqual(answer.packet, bytes.fromhex("0500a79583"))
            self.assert_dead()

    def test_overlong_frame_survived(self) -> None:
        """The device lives when the one byte behind the buffer that matters stays zero."""
        for size in (1029, 1032, 1033, 4096):  # messages of 1020 bytes and more
            body = bytearray(b"\x07" * (size - 5))
            body[1032 - 5 : 1033 - 5] = bytes(len(body[1032 - 5 : 1033 - 5]))
            answer = self.firmware.execute(size.to_bytes(2, "little") + b"\x21\x01\x03" + body)
            assert answer is not None
            self.assertEqual(answer.packet, bytes.fromhex("0500a79583"))
            self.assert_alive()

    def test_just_overlong_message(self) -> None:
        """Up to four bytes more than fit are signed: nobody uses what they overwrite."""
        for length in range(1016, 1020):
            message = b"\x03" + bytes(length - 1)
            body = bytes([Opcode.SIGN, Slot.TZ1, 3, 0, 0]) + message
            answer = self.firmware.execute(framing.reply(body))
            assert answer is not None
            split = framing.split_reply(answer.packet)
            assert split is not None
            self.assertTrue(is_signature(Slot.TZ1, 3, message, split[0]))
            self.assert_alive()

    def test_longest_frame(self) -> None:
        """A frame that just fills the buffer is served."""
        self.assertTrue(self.signs(Slot.TZ1, b"\x03" + bytes(1014)))
        self.assert_alive()

    def test_malformed_signature_text(self) -> None:
        """A text to verify that is no signature in its length kills the device."""
        for slot, mode, text in (
            (Slot.TZ1, 4, b"2" * 200),
            (Slot.TZ2, 2, b"z" * 105),
            (Slot.TZ1, 4, b"11111"),
            (Slot.TZ1, 4, b"1" * 7),  # n of them are n + 1 bytes
            (Slot.TZ3, 4, b"1" * 6),
            (Slot.TZ1, 4, b""),
            (Slot.TZ1, 4, b"0" * 65),  # none of them is Base58
            (Slot.TZ3, 2, b"\x00\xff" * 40),
        ):
            message = bytes(32) if mode == 2 else bytes(100)
            request = Request(Opcode.VERIFY, slot, mode, len(message), message + text)
            self.assertIsNone(execute(self.firmware, request), text)
            self.assert_dead()

    def test_short_signature_text(self) -> None:
        """A text that is too short to be a signature, but long enough to be cut, is just wrong."""
        for slot, text in (
            (Slot.TZ1, b"1" * 65),
            (Slot.TZ1, b"1" * 10),
            (Slot.TZ1, b"1" * 8),  # prefix and checksum, and nothing between
            (Slot.TZ2, b"1" * 8),
            (Slot.TZ3, b"1" * 7),
        ):
            request = Request(Opcode.VERIFY, slot, 4, len(GENERIC), GENERIC + text)
            self.assertEqual(ask(self.firmware, request), b"\x00")
            self.assert_alive()

    def test_message_length(self) -> None:
        """A message length behind the data's end kills the device, but only for texts."""
        for mode in (2, 4):
            request = Request(Opcode.VERIFY, Slot.TZ1, mode, 101, bytes(100))
            self.assertIsNone(execute(self.firmware, request))
            self.assert_dead()
        for mode in (1, 3):
            request = Request(Opcode.VERIFY, Slot.TZ1, mode, 65535, bytes(96))
            self.assertEqual(ask(self.firmware, request), b"\x00")

    @settings(derandomize=True, deadline=None)
    @given(
        st.sampled_from(Slot),
        st.sampled_from([*Opcode, 0x00, 0x31]),
        st.integers(0, 5),
        st.integers(0, 65535),
        st.binary(max_size=1015),
    )
    def test_any_request(
        self, slot: Slot, opcode: int, param2: int, param3: int, data: bytes
    ) -> None:
        """Whatever is asked, the device answers one packet or is silent from then on."""
        firmware = Firmware()
        answer = firmware.execute(Request(opcode, slot, param2, param3, data).frame()[1:])
        self.assertEqual(answer is None, firmware.crashed)
        if answer is not None:
            self.assertIsNotNone(framing.split_reply(answer.packet))


class VerifyTests(FirmwareTestCase):
    """OP_VERIFY, in the mode that the host would use."""

    def test_own_signatures(self) -> None:
        """The device's own signatures are good for its key and message only."""
        for slot in Slot:
            raw = ask(self.firmware, sign(slot, GENERIC))
            for other in Slot:
                body = ask(self.firmware, framing.verify(other, GENERIC, raw))
                self.assertEqual(framing.verdict_from(body), other is slot)
            body = ask(self.firmware, framing.verify(slot, GENERIC[:-1], raw))
            self.assertFalse(framing.verdict_from(body))

    def test_malleated(self) -> None:
        """The device takes the other s of ECDSA, which the host would not for tz2."""
        for slot, order in (
            (Slot.TZ2, 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141),
            (Slot.TZ3, 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551),
        ):
            raw = ask(self.firmware, sign(slot, GENERIC))
            other = order - int.from_bytes(raw[32:], "big")
            request = framing.verify(slot, GENERIC, raw[:32] + other.to_bytes(32, "big"))
            self.assertTrue(framing.verdict_from(ask(self.firmware, request)))

    def test_curve_of_the_text(self) -> None:
        """A signature as text is cut by the slot's curve, whatever its prefix says."""
        text = ask(self.firmware, sign(Slot.TZ2, GENERIC, 4))
        self.assertEqual(KEYS[Slot.TZ2].curve, Curve.SECP256K1)
        for slot in (Slot.TZ1, Slot.TZ2):
            request = Request(Opcode.VERIFY, slot, 4, len(GENERIC), GENERIC + text)
            body = ask(self.firmware, request)
            self.assertEqual(framing.verdict_from(body), slot is Slot.TZ2)
