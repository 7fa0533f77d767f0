"""No payload that comes to the HTTP listener makes the signer write what could harm a device."""

import re

from twisted.trial.unittest import TestCase

from tests.support.harness import EVERY_MAGIC_BYTE, Harness, settings_with
from tests.support.octezclient import HSM_KEYS, text_in, verifies
from tests.support.strategies import examples, hostile_payloads
from tests.support.vectors import EXCHANGES
from tezio_signer.config.settings import Security
from tezio_signer.simulator.firmware import Firmware

_LEVEL = _ROUND = rb"[\x00-\x7f].{3}"
_FITNESS = (
    rb"\x00\x00\x00\x01\x02\x00\x00\x00\x04(?P=level)%b\x00\x00\x00\x04[\x80-\xff].{3}"
    rb"\x00\x00\x00\x04" + _ROUND
)
_SIGNED = re.compile(
    rb"\x11.{4}(?P<level>" + _LEVEL + rb").{33}.{8}.{33}"
    rb"(?:\x00\x00\x00\x21" + _FITNESS % rb"\x00{4}" + rb"|"
    rb"\x00\x00\x00\x25" + _FITNESS % rb"\x00\x00\x00\x04[\x00-\x7f].{3}" + rb")"
    rb".{64}" + _ROUND + rb".{8}(?:\x00|\xff.{32})."
    rb"|\x12.{36}\x14.{2}" + _LEVEL + _ROUND + rb".{32}"
    rb"|\x13.{36}\x15.{2}" + _LEVEL + _ROUND + rb".{32}"
    rb"|\x13.{36}\x17.{2}" + _LEVEL + _ROUND + rb".{32}[\x80-\xff]*[\x00-\x7f]"
    rb"|\x03.{32}[^\x14-\x17\x1e\x1f\x28\x29].*"
    rb"|\x05[\x00-\x0a].+",
    re.DOTALL,
)
"""What may be signed at all, by the layouts of Octez."""
_GENERATOR = 0x18005  # of the CRC: polynomial 8005 with its leading term


def _crc_fits(frame: bytes) -> bool:
    """Whether the polynomial of length, body and CRC is divided by that of the CRC."""
    value = int.from_bytes(frame[1:-2] + frame[:-3:-1], "big")
    while value.bit_length() > 16:
        value ^= _GENERATOR << (value.bit_length() - 17)
    return value == 0


def frames_in(written: bytes) -> list[bytes]:
    """The frames that a device would read; fails if anything else was written."""
    frames = []
    while written:
        assert written[0] == 0x03, f"no start byte: {written[:20].hex()}"
        end = 1 + int.from_bytes(written[1:3], "little")
        assert 1 + 7 + 1 + 2 <= end <= 1025, f"a frame of {end} bytes"
        assert len(written) >= end, "an incomplete frame"
        frame, written = written[:end], written[end:]
        assert _crc_fits(frame), f"wrong CRC: {frame.hex()}"
        frames.append(frame)
    return frames


class HarmlessFramesTests(TestCase):
    """No payload makes the signer write what could harm a device."""

    def test_the_reading_of_frames(self) -> None:
        """The reader of frames in these tests takes what was recorded, and nothing damaged."""
        signing = [
            bytes.fromhex(exchange["request_hex"])
            for exchange in EXCHANGES
            if " mode 3 75-byte message" in exchange["what"]
        ]
        self.assertEqual(frames_in(b"".join(signing)), signing)
        for at in range(len(signing[0])):
            damaged = bytearray(signing[0])
            damaged[at] ^= 1
            self.assertRaises(AssertionError, frames_in, bytes(damaged))

    async def test_frames(self) -> None:
        """Each frame is a request to sign exactly one well-formed payload that was asked for."""
        harness = Harness(
            settings_with(security=Security(False, False, False, False)),
            Firmware(enabled=EVERY_MAGIC_BYTE),
        )
        await harness.start(self)
        signed = set()
        for payload in examples(hostile_payloads(), 300):
            for slot, key in enumerate(HSM_KEYS, start=1):
                answer = await harness.sign(key.pkh, payload)
                self.assertIn(answer.status, (200, 400, 403, 409, 413), payload.hex())
                for frame in frames_in(bytes(harness.written)):
                    # To sign, with this slot, a message that is not hashed, raw bytes back.
                    self.assertEqual(frame[3:8], bytes([0x21, slot, 3, 0, 0]))
                    self.assertEqual(frame[8:-2], payload)
                    self.assertRegex(payload, _SIGNED)
                    self.assertTrue(_SIGNED.fullmatch(payload), payload.hex())
                    signed.add((slot, payload[0]))
                harness.written.clear()
                if answer.status == 200:
                    signature = text_in(answer.body, "signature")
                    self.assertTrue(verifies(key.public_key, payload, signature))
        self.assertFalse(harness.firmware.crashed)
        self.assertEqual(
            signed,
            {(slot, magic) for slot in (1, 2, 3) for magic in (0x03, 0x05, 0x11, 0x12, 0x13)},
        )
