"""The HTTP door, on loopback and with a simulated HSM."""

from twisted.trial.unittest import TestCase

from tests.stand import Stand
from tests.vectors import PAYLOADS, TZ3


class SigningTests(TestCase):
    """What a client of `POST /keys/<pkh>` gets."""

    async def test_same_block_twice(self) -> None:
        """The same block twice gives the same signature."""
        stand = Stand()
        await stand.start(self)
        first = await stand.sign(TZ3, PAYLOADS["block_unlocked_nononce_on"])
        second = await stand.sign(TZ3, PAYLOADS["block_unlocked_nononce_on"])
        self.assertEqual(first.status, 200)
        self.assertEqual(first.body, second.body)
