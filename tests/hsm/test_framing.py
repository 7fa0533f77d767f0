"""The packets of the HSM, against recorded exchanges with its firmware."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.support.vectors import EXCHANGES
from tezio_signer.hsm import framing
from tezio_signer.hsm.framing import (
    FramingError,
    KeyFormat,
    MessageMode,
    Opcode,
    Request,
    Slot,
    Status,
    StatusReply,
    split_reply,
)

STATUSES = {
    0xA1: Status.CHIP_FAILED,
    0xA2: Status.UNKNOWN_OPCODE,
    0xA6: Status.FRAME_TOO_SHORT,
    0xA7: Status.WRONG_CRC,
    0xA8: Status.WRONG_LENGTH,
    0xAA: Status.NO_SUCH_SLOT,
    0xAB: Status.NO_SUCH_MODE,
    0xAC: Status.MISSING_LENGTH,
    0xAD: Status.WRONG_DATA,
    0xAE: Status.NOT_A_HASH,
    0xAF: Status.SIGNING_FAILED,
    0xB0: Status.OPERATION_DISABLED,
    0xB1: Status.SESSION_KEY_FAILED,
    0xB2: Status.ENCRYPTED_READ_FAILED,
    0xB3: Status.DECRYPTION_FAILED,
    0xB4: Status.KEY_UNREADABLE,
    0xB8: Status.NOT_ENABLED,
    0xD4: Status.WATERMARK,
}
ADDRESS = b"tz1RecHxwZJmZY4dypq2KmvxKYgUBGJceH1v"
# The two packets that the description of the protocol has as examples.
ADDRESS_REQUEST = bytes.fromhex("0307001101042786")
ADDRESS_REPLY = bytes.fromhex("2800") + ADDRESS + bytes.fromhex("eada")
# Frames without data that have a param3, or without all parameters: no command of ours.
NOT_OURS = {
    "get_pk opcode only (length 5)",
    "get_pk opcode + key only (length 6)",
    "sign mode 3 no data (length 9)",
    "sign mode 1 no data",
    "sign opcode only (key 0 mode 0)",
    "verify no data",
    "verify opcode only",
    "unknown opcode ff",
    "length 5 opcode 99",
}


def division(data: bytes) -> int:
    """The remainder of the message, 16 zero bits behind it, by x^16 + x^15 + x^2 + 1."""
    rest = int.from_bytes(data, "big") << 16
    for bit in range(rest.bit_length() - 1, 15, -1):
        if rest >> bit & 1:
            rest ^= 0x18005 << (bit - 16)
    return rest


def well_formed(packet: bytes) -> bool:
    """Whether these bytes are one packet, by its own length and checksum."""
    return (
        len(packet) > 4
        and int.from_bytes(packet[:2], "little") == len(packet)
        and division(packet[:-2]) == int.from_bytes(packet[-2:], "little")
    )


def recorded_frames() -> list[dict[str, Any]]:
    """The exchanges whose request is one well-formed frame."""
    return [
        exchange
        for exchange in EXCHANGES
        if exchange["request_hex"].startswith("03")
        and well_formed(bytes.fromhex(exchange["request_hex"][2:]))
    ]


def recorded_replies() -> list[tuple[dict[str, Any], bytes]]:
    """The exchanges with one reply, and that reply."""
    replies = [(exchange, bytes.fromhex(exchange["reply_hex"])) for exchange in EXCHANGES]
    return [(exchange, reply) for exchange, reply in replies if well_formed(reply)]


class ChecksumTests(SynchronousTestCase):
    """The CRC-16 of the packets."""

    def test_check_value(self) -> None:
        """The check value of CRC-16/UMTS, which has these parameters."""
        self.assertEqual(framing.crc16(b"123456789"), 0xFEE8)

    def test_nothing(self) -> None:
        """Nothing, and zeros, have the checksum zero."""
        for data in (b"", b"\x00", bytes(100)):
            self.assertEqual(framing.crc16(data), 0)

    @settings(derandomize=True, deadline=None)
    @given(st.binary(max_size=200))
    def test_division(self, data: bytes) -> None:
        """The checksum is the remainder of a division of polynomials."""
        self.assertEqual(framing.crc16(data), division(data))


class RequestTests(SynchronousTestCase):
    """Requests become frames."""

    def test_example(self) -> None:
        """The frame that asks for the address of slot 1 is that of the description."""
        request = framing.get_public_key(Slot.TZ1, KeyFormat.ADDRESS)
        self.assertEqual(request.frame(), ADDRESS_REQUEST)

    def test_recorded(self) -> None:
        """Every recorded frame is built again from its fields, byte for byte."""
        built = 0
        for exchange in recorded_frames():
            frame = bytes.fromhex(exchange["request_hex"])
            if exchange["what"] in NOT_OURS:
                continue
            opcode, param1, param2 = frame[3:6]
            request = Request(
                opcode, param1, param2, int.from_bytes(frame[6:-2][:2], "little"), frame[8:-2]
            )
            self.assertEqual(request.frame(), frame, exchange["what"])
            built += 1
        self.assertEqual(built, len(recorded_frames()) - len(NOT_OURS))
        self.assertGreater(built, 130)

    def test_commands(self) -> None:
        """The commands that are sent to a device are the recorded ones of these meanings."""
        recorded = {e["what"]: bytes.fromhex(e["request_hex"]) for e in EXCHANGES}
        sent = recorded["sign key 3 (tz3) mode 3 75-byte message starting 03"]
        signed = recorded["verify key 1 mode 3 good signature"]
        message, signature = signed[8:-66], signed[-66:-2]
        for what, request in (
            (
                "notebook: get_pk tz3 compressed",
                framing.get_public_key(Slot.TZ3),
            ),
            (
                "get_pk key 0 (auth) mode 4",
                framing.get_public_key(Slot.AUTH, KeyFormat.ADDRESS),
            ),
            (
                "sign key 3 (tz3) mode 3 75-byte message starting 03",
                framing.sign(Slot.TZ3, sent[8:-2]),
            ),
            (
                "verify key 1 mode 3 good signature",
                framing.verify(Slot.TZ1, message, signature),
            ),
        ):
            self.assertEqual(request.frame(), recorded[what])

    def test_longest(self) -> None:
        """A message of 1015 bytes fits the device's buffer; with one more there is no command."""
        frame = framing.sign(Slot.TZ3, bytes(1015)).frame()
        self.assertEqual((frame[:3], len(frame)), (b"\x03\x00\x04", 1025))
        with self.assertRaises(FramingError) as raised:
            framing.sign(Slot.TZ3, bytes(1016))
        self.assertIn("1016 bytes; the device takes 1015", str(raised.exception))

    def test_longest_verify(self) -> None:
        """The signature to verify needs its 64 bytes of the buffer."""
        frame = framing.verify(Slot.TZ3, bytes(951), bytes(64)).frame()
        self.assertEqual(len(frame), 1025)
        with self.assertRaises(FramingError):
            framing.verify(Slot.TZ3, bytes(952), bytes(64))

    def test_auth_slot(self) -> None:
        """The auth slot is never asked to sign."""
        with self.assertRaises(FramingError):
            framing.sign(Slot.AUTH, b"\x03")
        with self.assertRaises(FramingError):
            framing.sign(Slot(0), b"\x03")

    def test_modes(self) -> None:
        """Signing and verifying use the mode in which the device hashes, raw bytes both ways."""
        for request in (
            framing.sign(Slot.TZ2, b"\x03"),
            framing.verify(Slot.TZ2, b"\x03", bytes(64)),
        ):
            self.assertEqual(request.param2, 3)
        self.assertEqual(framing.verify(Slot.TZ2, bytes(300), bytes(64)).param3, 300)

    def test_nothing_to_sign(self) -> None:
        """Without a message nothing is signed or verified."""
        with self.assertRaises(FramingError):
            framing.sign(Slot.TZ1, b"")
        with self.assertRaises(FramingError):
            framing.verify(Slot.TZ1, b"", bytes(64))

    def test_signature_length(self) -> None:
        """Only a signature of 64 bytes is sent to be verified."""
        for length in (0, 63, 65, 128):
            with self.assertRaises(FramingError):
                framing.verify(Slot.TZ1, b"\x03", bytes(length))

    @settings(derandomize=True, deadline=None)
    @given(st.sampled_from((Slot.TZ1, Slot.TZ2, Slot.TZ3)), st.binary(min_size=1, max_size=1015))
    def test_any_message(self, slot: Slot, message: bytes) -> None:
        """Any message that fits becomes a packet with its length and checksum, behind 03."""
        frame = framing.sign(slot, message).frame()
        head = bytes([0x21, slot, 3, 0, 0])
        self.assertEqual((frame[:1], frame[3:8], frame[8:-2]), (b"\x03", head, message))
        self.assertTrue(well_formed(frame[1:]))


class ReplyTests(SynchronousTestCase):
    """Replies become bodies, when they are whole."""

    def test_example(self) -> None:
        """The examples of the description, in both directions."""
        for packet, body in (
            (ADDRESS_REPLY, ADDRESS),
            (bytes.fromhex("0500d4bc02"), b"\xd4"),
        ):
            self.assertEqual(split_reply(packet), (body, b""))
            self.assertEqual(framing.reply(body), packet)

    def test_recorded(self) -> None:
        """Every recorded single reply is read, and built again from its body."""
        replies = recorded_replies()
        for exchange, reply in replies:
            self.assertEqual(split_reply(reply), (reply[2:-2], b""), exchange["what"])
            self.assertEqual(framing.reply(reply[2:-2]), reply)
        # The others: no reply at all, and those of several requests together.
        self.assertEqual(len(EXCHANGES) - len(replies), 5)

    def test_prefixes(self) -> None:
        """A reply that is not there completely is waited for, never read."""
        for _, reply in recorded_replies():
            for length in range(len(reply)):
                self.assertIsNone(split_reply(reply[:length]))

    def test_several_replies(self) -> None:
        """Replies behind each other are told apart; the first one leaves the others over."""
        bodies = {
            "two get_pk frames back to back": [36, 36],
            "two sign frames back to back (tz1 mode 4 x2, different messages)": [99, 99],
            "five frames back to back: get_pk, sign, verify bad, unknown opcode, get_pk": [
                36,
                99,
                1,
                1,
                36,
            ],
        }
        for exchange in EXCHANGES:
            expected = bodies.pop(exchange["what"], None)
            if expected is not None:
                rest, lengths = bytes.fromhex(exchange["reply_hex"]), []
                while split := split_reply(rest):
                    body, rest = split
                    lengths.append(len(body))
                self.assertEqual((lengths, rest), (expected, b""))
        self.assertEqual(bodies, {})

    def test_trailing_bytes(self) -> None:
        """Bytes behind a reply are handed back as they are."""
        for rest in (b"\x00", b"\x03", b"15\r\n", bytes(300)):
            self.assertEqual(split_reply(ADDRESS_REPLY + rest), (ADDRESS, rest))

    def test_printed_text(self) -> None:
        """Text that the chip's library printed ahead of a reply is refused at once."""
        for received in (b"15", b"15\r\n", b"15\r\n" + ADDRESS_REPLY, b"hello\r\n"):
            with self.assertRaises(FramingError):
                split_reply(received)

    def test_announced_length(self) -> None:
        """Lengths that no reply has are refused as soon as they are announced."""
        for length in (*range(5), 257, 1024, 65535):
            with self.assertRaises(FramingError) as raised:
                split_reply(length.to_bytes(2, "little"))
            self.assertIn(f"announces {length} bytes", str(raised.exception))
        for length in (5, 103, 256):
            self.assertIsNone(split_reply(length.to_bytes(2, "little")))

    def test_checksum(self) -> None:
        """A reply with the bytes of its checksum swapped is refused."""
        swapped = ADDRESS_REPLY[:-2] + ADDRESS_REPLY[:-3:-1]
        for rest in (b"", b"\x00", ADDRESS_REPLY):
            with self.assertRaises(FramingError) as raised:
                split_reply(swapped + rest)
            self.assertIn("wrong CRC", str(raised.exception))

    @settings(derandomize=True, deadline=None, max_examples=300)
    @given(
        st.sampled_from([reply for _, reply in recorded_replies()]),
        st.sets(st.integers(0, 8 * 103 - 1), min_size=1, max_size=3),
    )
    def test_flipped_bits(self, reply: bytes, bits: set[int]) -> None:
        """With up to three bits flipped, a reply is never one whole reply."""
        flipped = bytearray(reply)
        for bit in {bit % (8 * len(reply)) for bit in bits}:
            flipped[bit // 8] ^= 1 << bit % 8
        try:
            split = split_reply(bytes(flipped))
        except FramingError:
            return
        # A shorter length may meet a checksum by chance, and then leaves bytes over.
        self.assertTrue(split is None or split[1])

    @settings(derandomize=True, deadline=None)
    @given(st.binary(min_size=1, max_size=252), st.binary(max_size=10))
    def test_any_body(self, body: bytes, rest: bytes) -> None:
        """Any body comes back out of its reply."""
        self.assertEqual(split_reply(framing.reply(body) + rest), (body, rest))

    @settings(derandomize=True, deadline=None, max_examples=300)
    @given(st.binary(max_size=300))
    def test_any_bytes(self, data: bytes) -> None:
        """Any bytes are incomplete, begin with one whole reply, or are refused."""
        try:
            split = split_reply(data)
        except FramingError:
            return
        if split is None:
            announced = int.from_bytes(data[:2], "little")
            self.assertTrue(len(data) < 2 or len(data) < announced <= 256)
        else:
            self.assertTrue(well_formed(data.removesuffix(split[1])))


class StatusTests(SynchronousTestCase):
    """Bodies of one byte."""

    def test_names(self) -> None:
        """Each status byte has its name, and its refusal says it in hex and in words."""
        self.assertEqual(set(STATUSES.values()), set(Status))
        for byte, status in STATUSES.items():
            refusal = StatusReply(byte)
            self.assertEqual((refusal.byte, refusal.status), (byte, status))
            self.assertEqual(str(refusal), f"the HSM answered {byte:02X}: {status.meaning}")
        self.assertEqual(len({status.meaning for status in Status}), len(STATUSES))

    def test_recorded(self) -> None:
        """The recorded statuses are the bodies of their replies, and known."""
        seen = set()
        for exchange, reply in recorded_replies():
            if exchange["status"] is not None:
                body = reply[2:-2]
                with self.assertRaises(StatusReply) as raised:
                    framing.signature_from(body)
                self.assertEqual(f"{raised.exception.byte:02X}", exchange["status"])
                self.assertIs(raised.exception.status, STATUSES[body[0]])
                seen.add(body[0])
        # The others need a chip that fails.
        failing = {0xA1, 0xAF, 0xB1, 0xB2, 0xB3, 0xB4}
        self.assertEqual(seen, set(STATUSES) - failing)

    def test_unknown(self) -> None:
        """Every other byte is a fault of the device, the A3 of its manual too."""
        for byte in set(range(256)) - set(STATUSES):
            refusal = StatusReply(byte)
            self.assertIsNone(refusal.status)
            self.assertEqual(
                str(refusal), f"the HSM answered {byte:02X}: unknown status, a device fault"
            )


class BodyTests(SynchronousTestCase):
    """Bodies are of exactly the shape that was asked for."""

    def test_keys(self) -> None:
        """A key has 32 bytes in slot 1 and 33 in the others; one byte is a status."""
        for slot, length in ((Slot.AUTH, 33), (Slot.TZ1, 32), (Slot.TZ2, 33), (Slot.TZ3, 33)):
            self.assertEqual(framing.key_from(slot, b"\x02" * length), b"\x02" * length)
            with self.assertRaises(StatusReply):
                framing.key_from(slot, b"\xb4")
            for wrong in {0, 2, 31, 32, 33, 34, 64} - {length}:
                with self.assertRaises(FramingError) as raised:
                    framing.key_from(slot, bytes(wrong))
                self.assertIn(f"public key of {wrong} bytes", str(raised.exception))

    def test_signatures(self) -> None:
        """A signature has 64 bytes; one byte is a status."""
        self.assertEqual(framing.signature_from(b"\x01" * 64), b"\x01" * 64)
        with self.assertRaises(StatusReply):
            framing.signature_from(b"\x01")
        for wrong in (0, 2, 63, 65, 98, 99):
            with self.assertRaises(FramingError) as raised:
                framing.signature_from(bytes(wrong))
            self.assertIn(f"signature of {wrong} bytes", str(raised.exception))

    def test_verdicts(self) -> None:
        """The answer to VERIFY is 01 or 00; any other byte is a status."""
        self.assertIs(framing.verdict_from(b"\x01"), True)
        self.assertIs(framing.verdict_from(b"\x00"), False)
        for byte in range(2, 256):
            with self.assertRaises(StatusReply):
                framing.verdict_from(bytes([byte]))
        for wrong in (b"", b"\x01\x01", bytes(64)):
            with self.assertRaises(FramingError):
                framing.verdict_from(wrong)

    def test_numbers(self) -> None:
        """Opcodes, slots, formats and modes are the numbers of the firmware."""
        self.assertEqual([*map(int, Opcode)], [0x11, 0x21, 0x22])
        self.assertEqual([*map(int, Slot)], [0, 1, 2, 3])
        self.assertEqual([*map(int, KeyFormat)], [1, 2, 3, 4])
        self.assertEqual([*map(int, MessageMode)], [0, 1, 2, 3, 4])


class BeginningTests(SynchronousTestCase):
    """The first bytes of a packet."""

    def test_one_byte(self) -> None:
        """One byte of a reply can be the first half of any length: the other is waited for."""
        for byte in range(256):
            self.assertIsNone(split_reply(bytes([byte])))

    def test_third_parameter(self) -> None:
        """A command with data has two zero bytes before it, unless it says otherwise."""
        frame = Request(Opcode.SIGN, Slot.TZ1, MessageMode.RAW, data=b"\x03").frame()
        self.assertEqual(frame[3:9], bytes([Opcode.SIGN, Slot.TZ1, MessageMode.RAW, 0, 0, 3]))
