"""The short form of the campaign of stores that are moved under daemons."""

from pathlib import Path

from twisted.trial.unittest import TestCase

from tests.campaigns.stores import campaign
from tests.campaigns.storeways import SHORT


class StoresCampaignTests(TestCase):
    """A store that is moved, linked, copied or removed, and a second daemon on what comes of it."""

    timeout = 120

    async def test_ways(self) -> None:
        """Two daemons never sign what contradicts each other, and the first goes on by itself."""
        report = await campaign(len(SHORT), 1, Path(self.mktemp()).absolute(), SHORT)
        self.assertEqual({name: found for name, found in report.findings.items() if found}, {})
        self.assertEqual(report.ways.total(), 10)
        self.assertGreater(report.refused.total(), 7)
        self.assertGreater(report.lost, 3)
        self.assertGreater(report.resumed, 2)
        self.assertGreater(report.by_second, 0)
