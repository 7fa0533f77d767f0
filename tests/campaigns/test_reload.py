"""The short form of the campaign of reloads."""

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase, TestCase

from tests.campaigns.reload import A, Asked, B, campaign


class ReloadCampaignTests(TestCase):
    """Configurations that replace each other while clients ask."""

    timeout = 120

    async def test_reloads(self) -> None:
        """Each request is decided by one configuration, and none fails."""
        report = await campaign(20, 5, 1, Path(self.mktemp()).absolute())
        self.assertEqual({name: found for name, found in report.findings.items() if found}, {})
        self.assertEqual((report.reloads, report.wrong), (20, 5))
        self.assertGreater(report.spanning, 20)
        self.assertGreater(report.answers["signed"], 50)


class AskedTests(SynchronousTestCase):
    """What a request gets under one configuration."""

    def test_answer(self) -> None:
        """The first thing that is another side's is what it is refused for."""
        self.assertEqual(Asked().answer(A, "signed"), "signed")
        self.assertEqual(Asked(token=A, chain=A).answer(A, "signed"), "signed")
        self.assertEqual(Asked(token=A, chain=B).answer(A, "signed"), "chain")
        self.assertEqual(Asked(token=A, chain=B).answer(B, "signed"), "token")
        self.assertEqual(Asked(address=B, token=B, key=A).answer(A, "signed"), "address")
