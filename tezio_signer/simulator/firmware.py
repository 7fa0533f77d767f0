"""The firmware of a Tezio HSM in software, faults included, without I/O.

It follows the published sources of the API sketch, and is held to exchanges recorded from
them (`docs/protocols/tezio-hsm.md`). Where the device reads or writes outside an array, this
does the same in a model of the memory around it, as far as a reply depends
on it; what would crash the device leaves this one silent until it is power-cycled.
"""

from collections.abc import Iterable, Mapping

import base58
from attrs import frozen
from cryptography.exceptions import UnsupportedAlgorithm

from tezio_signer.hsm.framing import (
    FRAME_BUFFER,
    SIGNATURE_LENGTH,
    KeyFormat,
    MessageMode,
    Opcode,
    Slot,
    Status,
    crc16,
    reply,
)
from tezio_signer.hsm.slots import CURVES
from tezio_signer.simulator.keys import TEST_KEYS, SoftKey, compressed
from tezio_signer.tezos import base58check
from tezio_signer.tezos.keys import (
    KEY_TYPES,
    SIGNATURE_TYPES,
    Curve,
    PublicKeyHash,
    digest,
)

SKETCH_POLICY = {
    Slot.AUTH: (0x03,),
    Slot.TZ1: (0x03,),
    Slot.TZ2: (0x03,),
    Slot.TZ3: (0x03, 0x11, 0x12, 0x13),
}
"""The magic bytes that the published sketch enables for each key."""
BAKING_MAGIC = (0x11, 0x12, 0x13)

# The device's memory from the message on, in the order of its declarations.
_DATA = 0
_MARKS = _DATA + FRAME_BUFFER + 8  # behind the lengths
_MARKS_SIZE = 2 * len(BAKING_MAGIC) * 4
_POLICY = _MARKS + len(Slot) * _MARKS_SIZE
_TEZOS_OPERATIONS = 0x13
_POLICY_SIZE = _TEZOS_OPERATIONS + 0x22
_BUFFER = _POLICY + len(Slot) * _POLICY_SIZE
_MEMORY = _BUFFER + FRAME_BUFFER
_ROUND = _DATA + 87 - 4  # and the length of the fitness, of a block
_FATAL_FITNESS_LENGTH = 0x8000
_FRAME_BYTES = FRAME_BUFFER + 4
"""Bytes of a packet of which nothing is lost: behind the buffer are four that nobody uses."""
_FATAL_BYTE = 1032
"""The byte of a packet that has to be zero; those before it spoil the length that is checked."""
_NONCE = 0x7E210  # of a random generator that has failed


class _Refusal(Exception):
    def __init__(self, status: Status) -> None:
        self.status = status


class _Crash(Exception):
    """The device reads or writes memory that is not there: silence until power-cycled."""


@frozen
class Answer:
    """A reply packet, with what the chip printed ahead of it, and the time that it takes."""

    packet: bytes
    seconds: float


# Seconds of the host build of the firmware; a board is no faster.
_GET_PK_SECONDS = 0.028
_ADDRESS_SECONDS = 0.128
_SIGN_SECONDS = {Slot.AUTH: 0.150, Slot.TZ1: 0.152, Slot.TZ2: 0.215, Slot.TZ3: 0.150}
_VERIFY_SECONDS = {Slot.AUTH: 0.142, Slot.TZ1: 0.023, Slot.TZ2: 0.032, Slot.TZ3: 0.142}
_STATUS_SECONDS = 0.003


class Firmware:
    """The device behind its serial port: one packet in, one answer out.

    `failing` names the calls to the secure element that fail: `begin`,
    `read_slot`, `session_key`, `encrypted_read`, `decrypt`, `sign`, `verify`, and, not
    noticed by the device, `random` (no signature is made) and `nonce` (it repeats itself).
    With `noisy`, such a failure also prints `15` and a line end, as the
    library of the chip does.
    """

    def __init__(
        self,
        keys: Mapping[Slot, str] = TEST_KEYS,
        enabled: Mapping[Slot, Iterable[int]] = SKETCH_POLICY,
        disabled: Iterable[tuple[Slot, Opcode]] = (),
        marks: Mapping[tuple[Slot, int], tuple[int, int]] | None = None,
    ) -> None:
        self.failing: set[str] = set()
        self.noisy = False
        self.keys = {slot: SoftKey.parse(text) for slot, text in keys.items()}
        self._enabled = {slot: tuple(magic) for slot, magic in enabled.items()}
        self._disabled = tuple(disabled)
        self._initial_marks = dict(marks or {})
        self.power_cycle()

    def power_cycle(self) -> None:
        """Forget everything in RAM: the watermarks, and whatever went wrong."""
        self.crashed = False
        self._printed = b""
        self._param3 = 0
        memory = self._memory = bytearray(_MEMORY)
        for slot in Slot:
            at = _POLICY + slot * _POLICY_SIZE
            for magic in self._enabled[slot]:
                memory[at + magic - 1] = 1
            memory[at + _TEZOS_OPERATIONS : at + _POLICY_SIZE] = b"\x01" * 0x22
        for slot, opcode in self._disabled:
            memory[_POLICY + slot * _POLICY_SIZE + _TEZOS_OPERATIONS + opcode - 1] = 0
        for (slot, magic), mark in self._initial_marks.items():
            self._set_mark(slot, magic, *mark)

    def execute(self, packet: bytes) -> Answer | None:
        """Answer what was read from the port behind a start byte; None if the device crashed.

        :param packet: from the length bytes on, as far as they came.
        """
        if self.crashed:
            return None
        self._printed = b""
        try:
            self._store(_BUFFER, packet[:FRAME_BUFFER])
            if len(packet) > _FRAME_BYTES:
                # What lies behind the buffer is overwritten: a refusal, and then silence.
                self.crashed = any(packet[_FATAL_BYTE : _FATAL_BYTE + 1])
                raise _Refusal(Status.WRONG_CRC)
            body, seconds = self._run(packet)
        except UnsupportedAlgorithm:  # of this machine's OpenSSL, not of the device
            body, seconds = bytes([Status.KEY_UNREADABLE]), _STATUS_SECONDS
        except _Refusal as refusal:
            body, seconds = bytes([refusal.status]), _STATUS_SECONDS
        except _Crash:
            self.crashed = True
            return None
        return Answer(self._printed + reply(body), seconds)

    def _run(self, packet: bytes) -> tuple[bytes, float]:
        if len(packet) < 5:
            raise _Refusal(Status.FRAME_TOO_SHORT)
        if crc16(packet[:-2]) != int.from_bytes(packet[-2:], "little"):
            raise _Refusal(Status.WRONG_CRC)
        if int.from_bytes(packet[:2], "little") != len(packet):
            raise _Refusal(Status.WRONG_LENGTH)
        opcode = packet[2]
        param1 = packet[3] if len(packet) > 5 else 0
        param2 = packet[4] if len(packet) > 6 else 0
        if len(packet) > 8:  # else it keeps the value of an earlier packet
            self._param3 = int.from_bytes(packet[5:7], "little")
        data = packet[7:-2]
        self._store(_DATA, data.ljust(FRAME_BUFFER, b"\x00"))
        match opcode:
            case Opcode.GET_PK:
                slot = self._slot(param1, Opcode.GET_PK)
                return self._get_pk(slot, param2)
            case Opcode.SIGN:
                slot = self._slot(param1, Opcode.SIGN)
                return self._sign(slot, param2, data), _SIGN_SECONDS[slot]
            case Opcode.VERIFY:
                slot = self._slot(param1, Opcode.VERIFY)
                return self._verify(slot, param2, data), _VERIFY_SECONDS[slot]
            case _:
                raise _Refusal(Status.UNKNOWN_OPCODE)

    def _slot(self, param1: int, opcode: Opcode) -> Slot:
        if param1 not in set(Slot):
            raise _Refusal(Status.NO_SUCH_SLOT)
        at = _POLICY + param1 * _POLICY_SIZE + _TEZOS_OPERATIONS + opcode - 1
        if self._memory[at] == 0:
            raise _Refusal(Status.OPERATION_DISABLED)
        return Slot(param1)

    def _get_pk(self, slot: Slot, key_format: int) -> tuple[bytes, float]:
        if key_format not in set(KeyFormat):
            raise _Refusal(Status.NO_SUCH_MODE)
        self._chip("begin", Status.CHIP_FAILED)
        curve, raw = CURVES[slot], self.keys[slot].public
        if "read_slot" in self.failing:  # not noticed: what is in the buffer passes for a key
            raw = self._load(_BUFFER, len(raw))
        short = compressed(curve, raw)
        match key_format:
            case KeyFormat.RAW:
                return raw, _GET_PK_SECONDS
            case KeyFormat.COMPRESSED:
                return short, _GET_PK_SECONDS
            case KeyFormat.BASE58CHECK:
                text = base58check.encode(KEY_TYPES[curve], short)
                return text.encode("ascii"), _GET_PK_SECONDS
            case _:
                return str(PublicKeyHash.of_key(curve, short)).encode(), _ADDRESS_SECONDS

    def _sign(self, slot: Slot, mode: int, data: bytes) -> bytes:
        if mode not in set(MessageMode):
            raise _Refusal(Status.NO_SUCH_MODE)
        raw = bytes(SIGNATURE_LENGTH)
        if mode != MessageMode.CONSTANT:
            if not data:
                raise _Refusal(Status.WRONG_DATA)
            hashed = self._hashed(mode, data, Status.NOT_A_HASH)
            magic = data[0]
            if magic in BAKING_MAGIC:
                self._move_mark(slot, magic)
            # No bounds check: magic bytes outside the table read what lies around it.
            if self._memory[_POLICY + slot * _POLICY_SIZE + magic - 1] != 1:
                raise _Refusal(Status.NOT_ENABLED)
            raw = self._chip_signature(slot, hashed)
        if mode % 2:
            return raw
        return base58check.encode(SIGNATURE_TYPES[CURVES[slot]], raw).encode("ascii")

    def _hashed(self, mode: int, message: bytes, otherwise: Status) -> bytes:
        """The digest that is signed; it also lands in the buffer, over the packet."""
        if mode in (MessageMode.RAW, MessageMode.BASE58CHECK):
            message = digest(message)
        elif len(message) != 32:
            raise _Refusal(otherwise)
        self._store(_BUFFER, message)
        return message

    def _chip_signature(self, slot: Slot, hashed: bytes) -> bytes:
        self._chip("begin", Status.CHIP_FAILED)
        if CURVES[slot] is Curve.P256:
            self._chip("sign", Status.SIGNING_FAILED)
        else:
            self._chip("session_key", Status.SESSION_KEY_FAILED)
            self._chip("encrypted_read", Status.ENCRYPTED_READ_FAILED)
            self._chip("decrypt", Status.DECRYPTION_FAILED)
        if slot is Slot.TZ1:
            self._chip("read_slot", Status.KEY_UNREADABLE)
        if slot is Slot.TZ2 and "random" in self.failing:  # not noticed: stack bytes
            return self._load(_BUFFER, SIGNATURE_LENGTH)
        return self.keys[slot].sign(hashed, _NONCE if "nonce" in self.failing else None)

    def _chip(self, call: str, status: Status) -> None:
        if call in self.failing:
            if self.noisy:
                self._printed = b"15\r\n"
            raise _Refusal(status)

    def _move_mark(self, slot: Slot, magic: int) -> None:
        """The RAM watermark: no chain id, and moved before the policy is asked."""
        if magic == 0x11:
            fitness_length = self._uint32(_DATA + 83)
            index = (_ROUND + fitness_length) % 2**32  # it wraps around
            if fitness_length >= _FATAL_FITNESS_LENGTH and index >= _ROUND:
                raise _Crash
            level, round_ = self._uint32(_DATA + 5), self._uint32(index)
        else:
            level, round_ = self._uint32(_DATA + 40), self._uint32(_DATA + 44)
        if (level, round_) <= self._mark(slot, magic):
            raise _Refusal(Status.WATERMARK)
        self._set_mark(slot, magic, level, round_)

    def _mark_places(self, slot: int, magic: int) -> tuple[int, int]:
        level = _MARKS + slot * _MARKS_SIZE + (magic - 0x11) * 4
        return level, level + len(BAKING_MAGIC) * 4

    def _mark(self, slot: int, magic: int) -> tuple[int, int]:
        level, round_ = (
            int.from_bytes(self._load(at, 4), "little") for at in self._mark_places(slot, magic)
        )
        return level, round_

    def _set_mark(self, slot: int, magic: int, *mark: int) -> None:
        for at, value in zip(self._mark_places(slot, magic), mark, strict=True):
            self._store(at, value.to_bytes(4, "little"))

    def _verify(self, slot: Slot, mode: int, data: bytes) -> bytes:
        if mode not in set(MessageMode) - {MessageMode.CONSTANT}:
            raise _Refusal(Status.NO_SUCH_MODE)
        if len(data) <= SIGNATURE_LENGTH:
            raise _Refusal(Status.WRONG_DATA)
        if mode % 2:  # raw signature at the end; param3 is not looked at
            message, raw = data[:-SIGNATURE_LENGTH], data[-SIGNATURE_LENGTH:]
        elif self._param3 == 0:
            raise _Refusal(Status.MISSING_LENGTH)
        elif self._param3 > len(data):
            raise _Crash
        else:
            message = data[: self._param3]
            raw = _signature_from_text(data[self._param3 :], CURVES[slot])
        hashed = self._hashed(mode, message, Status.NO_SUCH_MODE)
        self._chip("begin", Status.CHIP_FAILED)
        self._chip("read_slot", Status.KEY_UNREADABLE)
        if "verify" in self.failing and CURVES[slot] is Curve.P256:
            return b"\x00"  # the chip failed, which looks like a bad signature
        return bytes([self.keys[slot].verifies(hashed, raw)])

    def _store(self, at: int, data: bytes) -> None:
        self._memory[at : at + len(data)] = data

    def _load(self, at: int, size: int) -> bytes:
        return bytes(self._memory[at : at + size]).ljust(size, b"\x00")

    def _uint32(self, at: int) -> int:
        return int.from_bytes(self._load(at, 4), "big")


def _signature_from_text(text: bytes, curve: Curve) -> bytes:
    """Base58 as the device reads it: neither alphabet, prefix nor checksum is checked.

    Each `1` in front is a byte of zero, what is no Base58 is a digit of zero, and the number
    behind them takes one byte at least.
    """
    zeros = len(text) - len(text.lstrip(b"1"))
    digits = bytes(c if c in base58.BITCOIN_ALPHABET else base58.BITCOIN_ALPHABET[0] for c in text)
    value = base58.b58decode_int(digits)
    decoded = bytes(zeros) + value.to_bytes(max(1, (value.bit_length() + 7) // 8), "big")
    prefix = 4 if curve is Curve.P256 else 5
    if not prefix + 4 <= len(decoded) <= prefix + 4 + SIGNATURE_LENGTH:
        raise _Crash
    return decoded[prefix:-4].ljust(SIGNATURE_LENGTH, b"\x00")
