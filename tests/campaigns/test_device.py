"""The short form of the device campaigns."""

from twisted.trial.unittest import TestCase

from tests.campaigns.device import Campaign
from tests.campaigns.replug import pull, replug
from tests.support.hsmfaults import Fault


class DeviceCampaignTests(TestCase):
    """Simulated HSMs that go wrong, and the answers that clients get."""

    timeout = 120

    async def test_faults(self) -> None:
        """With every fault in a fifth of all exchanges, no answer is wrong, late or missing."""
        report = await Campaign(2000, seed=1).run()
        self.assertEqual(report.unverified, [])
        self.assertEqual(report.unexplained, [])
        self.assertTrue(report.passed, report)
        self.assertGreater(report.signatures, 300)
        self.assertEqual(set(report.faults), {fault.name for fault in Fault})

    async def test_replug(self) -> None:
        """A request that comes while the board is away is signed when it is back."""
        report = await replug(3, seed=1)
        self.assertEqual((report.answered, report.wrong), (3, []))
        self.assertLess(max(report.seconds), 1)

    async def test_pull(self) -> None:
        """Pulling out the board that signs loses no signature while another has the key."""
        report = await pull(5, seed=1)
        self.assertEqual((report.answered, report.wrong), (5, []))
