"""What a Tezio HSM promises: one suite for the simulated device and for a board.

Nothing in it can harm a board or move its watermarks: no baking operation is signed,
no frame is longer than the buffer. With a board, run

    TEZIO_HSM_PORT=/dev/ttyACM0 python -m twisted.trial tests.simulator.test_conformance
"""

import hashlib
from typing import TYPE_CHECKING

from serial import Serial
from twisted.internet.threads import deferToThread

from tezio_signer.hsm import framing
from tezio_signer.hsm.framing import KeyFormat, MessageMode, Opcode, Request, Slot, Status
from tezio_signer.hsm.slots import CURVES, SIGNING_SLOTS
from tezio_signer.tezos.keys import PublicKey, Signature

if TYPE_CHECKING:
    from twisted.trial.unittest import TestCase
else:
    TestCase = object

_BRANCH = bytes(range(32))
_ANSWER_SECONDS = 5.0
_QUIET_SECONDS = 0.25


def noop(text: bytes) -> bytes:
    """An operation that no chain accepts (failing_noop), as `sign message` makes it."""
    return b"\x03" + _BRANCH + b"\x11" + len(text).to_bytes(4, "big") + text


class Conversation:
    """A port, used as the simplest of hosts would: write a frame, read what comes."""

    def __init__(self, port: str) -> None:
        self._serial = Serial(port, 57600, timeout=_ANSWER_SECONDS, exclusive=True)

    def close(self) -> None:
        """Leave the port."""
        self._serial.close()

    def ask(self, frame: bytes) -> bytes:
        """The body of the reply to a frame."""
        self._serial.write(frame)
        return self.reply()

    def reply(self) -> bytes:
        """The body of the next reply."""
        head = self._serial.read(2)
        packet = head + self._serial.read(int.from_bytes(head, "little") - 2)
        split = framing.split_reply(packet)
        assert split is not None, packet.hex()
        return split[0]

    def unasked(self) -> bytes:
        """What comes within a moment without having been asked for."""
        self._serial.timeout = _QUIET_SECONDS
        came: bytes = self._serial.read(1000)
        self._serial.timeout = _ANSWER_SECONDS
        return came


class DeviceConformance(TestCase):
    """The promises; a subclass says at which port the device is."""

    conversation: Conversation

    async def _ask(self, request: Request) -> bytes:
        return await deferToThread(self.conversation.ask, request.frame())

    async def _key(self, slot: Slot) -> PublicKey:
        body = await self._ask(framing.get_public_key(slot))
        return PublicKey.of(CURVES[slot], framing.key_from(slot, body))

    async def test_keys_agree(self) -> None:
        """Each slot gives the same key in all four formats."""
        for slot in Slot:
            key = await self._key(slot)
            raw = await self._ask(framing.get_public_key(slot, KeyFormat.RAW))
            text = await self._ask(framing.get_public_key(slot, KeyFormat.BASE58CHECK))
            address = await self._ask(framing.get_public_key(slot, KeyFormat.ADDRESS))
            self.assertEqual((text, address), (str(key).encode(), str(key.hash).encode()))
            self.assertEqual(raw[:32], key.data[-32:])
            self.assertEqual(len(raw), 32 if slot is Slot.TZ1 else 64)

    async def test_signs_and_verifies(self) -> None:
        """Signatures verify, here and on the device, and for no other message."""
        for slot in SIGNING_SLOTS:
            key = await self._key(slot)
            for length in (1, 100, framing.MAX_MESSAGE - len(noop(b""))):
                message = noop(b"a" * length)
                signature = Signature(
                    CURVES[slot],
                    framing.signature_from(await self._ask(framing.sign(slot, message))),
                )
                self.assertTrue(key.verifies(message, signature.low_s()), f"{slot} {length}")
            signed = noop(b"short")
            data = framing.signature_from(await self._ask(framing.sign(slot, signed)))
            for asked, verdict in ((signed, b"\x01"), (noop(b"other"), b"\x00")):
                self.assertEqual(await self._ask(framing.verify(slot, asked, data)), verdict)

    async def test_hashes_itself(self) -> None:
        """Mode 1 of the BLAKE2b digest and mode 3 of the message sign the same (tz1)."""
        # The device takes the digest's first byte for a magic byte: it has to be 03.
        messages = (noop(number.to_bytes(2, "big")) for number in range(2**16))
        message, hashed = next(
            (message, hashed)
            for message in messages
            if (hashed := hashlib.blake2b(message, digest_size=32).digest())[0] == 3
        )
        prehashed = Request(Opcode.SIGN, Slot.TZ1, MessageMode.HASHED_RAW, 0, hashed)
        self.assertEqual(
            await self._ask(prehashed), await self._ask(framing.sign(Slot.TZ1, message))
        )

    async def test_statuses(self) -> None:
        """What cannot be done is answered with the status of the table."""
        good = framing.get_public_key(Slot.TZ1).frame()
        for frame, status in (
            (Request(0x32, 1, 1).frame(), Status.UNKNOWN_OPCODE),
            (Request(Opcode.GET_PK, 4, 1).frame(), Status.NO_SUCH_SLOT),
            (Request(Opcode.GET_PK, 1, 5).frame(), Status.NO_SUCH_MODE),
            (Request(Opcode.SIGN, 1, 5, 0, b"\x03").frame(), Status.NO_SUCH_MODE),
            (Request(Opcode.SIGN, 1, MessageMode.RAW).frame(), Status.WRONG_DATA),
            (Request(Opcode.SIGN, 1, 1, 0, b"\x03" * 31).frame(), Status.NOT_A_HASH),
            (good[:-1] + bytes([good[-1] ^ 1]), Status.WRONG_CRC),
            (b"\x03\x02\x00", Status.FRAME_TOO_SHORT),
        ):
            body = await deferToThread(self.conversation.ask, frame)
            self.assertEqual(body, bytes([status]), frame.hex())

    async def test_answers_in_order(self) -> None:
        """Two commands written at once are answered one after the other."""
        frames = [framing.get_public_key(slot).frame() for slot in (Slot.TZ1, Slot.TZ2)]
        first = await deferToThread(self.conversation.ask, b"".join(frames))
        second = await deferToThread(self.conversation.reply)
        self.assertEqual((len(first), len(second)), (32, 33))

    async def test_garbage_is_skipped(self) -> None:
        """Bytes without a start byte ahead of a frame do no harm."""
        frame = b"\xaa" * 20 + framing.get_public_key(Slot.TZ1).frame()
        self.assertEqual(len(await deferToThread(self.conversation.ask, frame)), 32)

    async def test_recovers_from_a_cut_frame(self) -> None:
        """A frame that breaks off is refused, and the next one is answered."""
        frame = framing.sign(Slot.TZ1, noop(b"cut")).frame()
        body = await deferToThread(self.conversation.ask, frame[:-5])
        self.assertEqual(body, bytes([Status.WRONG_CRC]))
        self.assertEqual(await deferToThread(self.conversation.unasked), b"")
        self.assertEqual(len(await self._ask(framing.get_public_key(Slot.TZ1))), 32)

    async def test_says_nothing_unasked(self) -> None:
        """A device that is not asked is silent."""
        self.assertEqual(await deferToThread(self.conversation.unasked), b"")
