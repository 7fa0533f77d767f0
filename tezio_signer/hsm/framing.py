"""Packets of the Tezio HSM API, bytes to values and back, without I/O.

    request  = 03 | length u16 LE | opcode | param1 | param2 | param3 u16 LE | data | crc u16 LE
    reply    =      length u16 LE | body                                            | crc u16 LE

The length counts itself, the body and the CRC, not the start byte.
`docs/protocols/tezio-hsm.md` says what the commands are, and how the device behaves.
"""

from enum import IntEnum

from attrs import frozen

START = 0x03
FRAME_BUFFER = 1024
"""Bytes of the device's frame buffer, which it does not guard."""
MAX_MESSAGE = 1015
"""Bytes of the longest message whose frame fits the buffer."""
SIGNATURE_LENGTH = 64
_OVERHEAD = 4  # length and CRC
_LONGEST_REPLY = 256  # the longest body is a signature in Base58Check, 99 bytes


class Opcode(IntEnum):
    """What a request asks for."""

    GET_PK = 0x11
    SIGN = 0x21
    VERIFY = 0x22


class Slot(IntEnum):
    """The four key slots."""

    AUTH = 0
    TZ1 = 1
    TZ2 = 2
    TZ3 = 3


class KeyFormat(IntEnum):
    """GET_PK, param2: the form in which a key is answered."""

    RAW = 1
    COMPRESSED = 2
    BASE58CHECK = 3
    ADDRESS = 4


class MessageMode(IntEnum):
    """SIGN and VERIFY, param2: message hashed or not, signature raw or Base58Check."""

    CONSTANT = 0
    HASHED_RAW = 1
    HASHED_BASE58CHECK = 2
    RAW = 3
    BASE58CHECK = 4


class Status(IntEnum):
    """A reply body of one byte: what the device reports instead of a result."""

    meaning: str

    def __new__(cls, value: int, meaning: str) -> "Status":
        status = int.__new__(cls, value)
        status._value_ = value
        status.meaning = meaning
        return status

    CHIP_FAILED = 0xA1, "the secure element did not start"
    UNKNOWN_OPCODE = 0xA2, "unknown opcode"
    FRAME_TOO_SHORT = 0xA6, "frame under 5 bytes, or its length bytes came too late"
    WRONG_CRC = 0xA7, "CRC wrong, or frame cut off"
    WRONG_LENGTH = 0xA8, "CRC right, but length wrong"
    NO_SUCH_SLOT = 0xAA, "no such key slot"
    NO_SUCH_MODE = 0xAB, "no such mode"
    MISSING_LENGTH = 0xAC, "message length missing"
    WRONG_DATA = 0xAD, "data missing or of wrong length"
    NOT_A_HASH = 0xAE, "prehash is not 32 bytes"
    SIGNING_FAILED = 0xAF, "the secure element failed to sign"
    OPERATION_DISABLED = 0xB0, "operation disabled on the device for this key"
    SESSION_KEY_FAILED = 0xB1, "session key with the secure element failed"
    ENCRYPTED_READ_FAILED = 0xB2, "encrypted read from the secure element failed"
    DECRYPTION_FAILED = 0xB3, "decryption of the secret key failed"
    KEY_UNREADABLE = 0xB4, "public key slot unreadable"
    NOT_ENABLED = 0xB8, "magic byte not enabled on the device for this key"
    WATERMARK = 0xD4, "the device's own watermark refuses this level and round"


_STATUSES = {int(status): status for status in Status}


class FramingError(ValueError):
    """Bytes that are no packet of this API, or a value that must not become one."""


class StatusReply(Exception):
    """The device answered with a status byte; `status` is None for one not in the table."""

    def __init__(self, byte: int) -> None:
        self.byte = byte
        self.status = _STATUSES.get(byte)
        meaning = self.status.meaning if self.status else "unknown status, a device fault"
        super().__init__(f"the HSM answered {byte:02X}: {meaning}")


def _crc_of_byte(byte: int) -> int:
    register = byte << 8
    for _ in range(8):
        register = (register << 1) ^ (0x8005 if register & 0x8000 else 0)
    return register & 0xFFFF


_CRC_OF_BYTES = tuple(map(_crc_of_byte, range(256)))


def crc16(data: bytes) -> int:
    """CRC-16 of polynomial 8005, register 0, most significant bit first, no final xor."""
    register = 0
    for byte in data:
        register = (register << 8 & 0xFF00) ^ _CRC_OF_BYTES[register >> 8 ^ byte]
    return register


def _packet(body: bytes) -> bytes:
    """Length, body and CRC."""
    head = (len(body) + _OVERHEAD).to_bytes(2, "little") + body
    return head + crc16(head).to_bytes(2, "little")


@frozen
class Request:
    """One command. A frame stops after the last field that the command needs.

    :raises FramingError: if the frame would not fit the buffer of the device.
    """

    opcode: int
    param1: int
    param2: int
    param3: int = 0
    data: bytes = b""

    def __attrs_post_init__(self) -> None:
        if len(self._body) + _OVERHEAD > FRAME_BUFFER:
            raise FramingError(
                f"a message of {len(self.data)} bytes; the device takes {MAX_MESSAGE} at most"
            )

    @property
    def _body(self) -> bytes:
        body = bytes([self.opcode, self.param1, self.param2])
        return body + self.param3.to_bytes(2, "little") + self.data if self.data else body

    def frame(self) -> bytes:
        """The bytes to write, start byte first."""
        return bytes([START]) + _packet(self._body)


def get_public_key(slot: Slot, key_format: KeyFormat = KeyFormat.COMPRESSED) -> Request:
    """Ask for the public key of a slot."""
    return Request(Opcode.GET_PK, slot, key_format)


def sign(slot: Slot, message: bytes) -> Request:
    """Ask for the raw signature of a message, which the device hashes itself.

    :raises FramingError: for slot 0, which is never used to sign, and for a message that is
        empty or too long.
    """
    if slot is Slot.AUTH:
        raise FramingError("the auth slot is never used for signing")
    if not message:
        raise FramingError("an empty message is never signed")
    return Request(Opcode.SIGN, slot, MessageMode.RAW, 0, message)


def verify(slot: Slot, message: bytes, signature: bytes) -> Request:
    """Ask whether a raw signature of this message verifies for the key of a slot.

    :raises FramingError: for a message that is empty or too long, and for a signature that is
        not 64 bytes.
    """
    if not message or len(signature) != SIGNATURE_LENGTH:
        raise FramingError(f"a message and a signature of {SIGNATURE_LENGTH} bytes are needed")
    return Request(Opcode.VERIFY, slot, MessageMode.RAW, len(message), message + signature)


def reply(body: bytes) -> bytes:
    """The reply packet with this body."""
    return _packet(body)


def split_reply(data: bytes) -> tuple[bytes, bytes] | None:
    """The body of the first reply packet, and the bytes behind it; None while bytes are missing.

    :raises FramingError: as soon as the bytes cannot begin with a packet.
    """
    if len(data) < 2:
        return None
    length = int.from_bytes(data[:2], "little")
    if not _OVERHEAD < length <= _LONGEST_REPLY:
        raise FramingError(f"a reply that announces {length} bytes")
    if len(data) < length:
        return None
    if crc16(data[: length - 2]) != int.from_bytes(data[length - 2 : length], "little"):
        raise FramingError("a reply with a wrong CRC")
    return data[2 : length - 2], data[length:]


def key_from(slot: Slot, body: bytes) -> bytes:
    """The compressed public key in the reply to `get_public_key`.

    :raises StatusReply: if the device answered with a status.
    :raises FramingError: if the body is no compressed key.
    """
    return _of_length(body, 32 if slot is Slot.TZ1 else 33, "public key")


def signature_from(body: bytes) -> bytes:
    """The 64 raw bytes in the reply to `sign`; raises as `key_from`."""
    return _of_length(body, SIGNATURE_LENGTH, "signature")


def verdict_from(body: bytes) -> bool:
    """The answer to `verify`; raises as `key_from`."""
    verdicts = {b"\x00": False, b"\x01": True}
    if body not in verdicts:
        raise _unexpected(body, "verdict")
    return verdicts[body]


def _of_length(body: bytes, length: int, what: str) -> bytes:
    if len(body) != length:
        raise _unexpected(body, what)
    return body


def _unexpected(body: bytes, what: str) -> Exception:
    if len(body) == 1:
        return StatusReply(body[0])
    return FramingError(f"a {what} of {len(body)} bytes")
