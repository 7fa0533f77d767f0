"""What a baker may have signed over HTTP after what."""

from twisted.trial.unittest import TestCase

from tests.support.harness import EVERY_MAGIC_BYTE, Harness, settings_with
from tests.support.octezclient import HSM_KEYS, message_in, text_in, verifies
from tests.support.vectors import TZ3, block, consensus
from tezio_signer.simulator.firmware import Firmware


class WatermarkTests(TestCase):
    """What a baker may have signed after what."""

    def setUp(self) -> None:
        self.harness = Harness(settings_with(), Firmware(enabled=EVERY_MAGIC_BYTE))

    async def _signed(self, payload: bytes, key: int = 3) -> str:
        answer = await self.harness.sign(HSM_KEYS[key - 1].pkh, payload)
        self.assertEqual(answer.status, 200, answer.body)
        signature = text_in(answer.body, "signature")
        self.assertTrue(verifies(HSM_KEYS[key - 1].public_key, payload, signature))
        return signature

    async def _conflict(self, payload: bytes, says: str) -> None:
        """Refused, without the device being asked."""
        self.harness.written.clear()
        answer = await self.harness.sign(TZ3, payload)
        self.assertEqual((answer.status, message_in(answer.body)), (409, says))
        self.assertEqual(self.harness.written, b"")

    async def test_same_payload_twice(self) -> None:
        """The same payload again gives the same signature, which the device is not asked for."""
        await self.harness.start(self)
        for payload in (block(7, 2), consensus("preatt", 7, 2), consensus("att_dal_5", 7, 2)):
            first = await self._signed(payload)
            self.harness.written.clear()
            self.assertEqual(await self._signed(payload), first)
            self.assertEqual(self.harness.written, b"")

    async def test_other_payload_at_the_same_position(self) -> None:
        """Another payload at that level and round is refused, and it is said where."""
        await self.harness.start(self)
        for name, first, other in (
            ("block", block(7, 2, 1), block(7, 2, 2)),
            ("preattestation", consensus("preatt", 7, 2, 1), consensus("preatt", 7, 2, 2)),
            ("attestation", consensus("att", 7, 2, 1), consensus("att", 7, 2, 2)),
        ):
            signature = await self._signed(first)
            says = f"{name} at level 7 round 2 is already signed with different data"
            await self._conflict(other, says)
            self.assertEqual(await self._signed(first), signature)

    async def test_lower_and_higher(self) -> None:
        """Level and round rise; what is lower is refused with what is stored."""
        await self.harness.start(self)
        payloads = (
            ("block", block),
            ("preattestation", lambda level, round_: consensus("preatt", level, round_)),
            ("attestation", lambda level, round_: consensus("att", level, round_)),
        )
        for name, payload in payloads:
            await self._signed(payload(100, 3))
            for level, round_ in ((100, 2), (100, 0), (99, 3), (99, 2**31 - 1), (0, 0)):
                await self._conflict(
                    payload(level, round_),
                    f"{name} at level {level} round {round_} is not above the high watermark, "
                    "level 100 round 3",
                )
            for level, round_ in ((100, 4), (101, 0), (500_101, 0)):
                await self._signed(payload(level, round_))
            await self._conflict(
                payload(2**31 - 1, 0),
                f"{name} at level 2147483647 round 0 is 2146983546 levels above the high "
                "watermark, level 500101 round 0, and max_level_jump is 500000; if this level is "
                "right, stop the signer and run: tezio-signer watermarks set "
                f"--chain NetXdQprcVkpaWU --key {TZ3} --operation {name} --level 2147483646",
            )

    async def test_dal_content_is_no_way_round(self) -> None:
        """An attestation with DAL content has the watermark of one without."""
        await self.harness.start(self)
        for level, (first, other) in enumerate(
            (("att", "att_dal_5"), ("att_dal_5", "att"), ("att_dal_0", "att_dal_big")), start=7
        ):
            await self._signed(consensus(first, level, 0, 1))
            for payload_byte in (1, 2):
                await self._conflict(
                    consensus(other, level, 0, payload_byte),
                    f"attestation at level {level} round 0 is already signed with different data",
                )

    async def test_kinds_keys_and_chains_apart(self) -> None:
        """Each kind, key and chain has a mark of its own."""
        await self.harness.start(self)
        other_chain = b"\x11" + bytes.fromhex("d1351584") + block(50, 0)[5:]
        await self._signed(block(100, 0))
        await self._signed(consensus("preatt", 50, 0))
        await self._signed(consensus("att", 40, 0))
        for key in (1, 2):
            await self._signed(block(50, 0), key)
        # The device itself knows no chains.
        self.harness.firmware.power_cycle()
        await self._signed(other_chain)
        await self._conflict(
            block(99, 0),
            "block at level 99 round 0 is not above the high watermark, level 100 round 0",
        )

    async def test_fitness_says_the_round(self) -> None:
        """A block that repeats the payload of an earlier round has the round of its fitness."""
        await self.harness.start(self)
        repeated = bytearray(block(7, 3))
        repeated[184:188] = (1).to_bytes(4, "big")
        await self._signed(block(7, 1))
        await self._signed(block(7, 2))
        await self._signed(bytes(repeated))
        await self._conflict(
            block(7, 2), "block at level 7 round 2 is not above the high watermark, level 7 round 3"
        )
