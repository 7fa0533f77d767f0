"""The short form of the crash campaign."""

from pathlib import Path

from twisted.trial.unittest import TestCase

from tests.campaigns.crash import campaign
from tests.campaigns.crashreport import Moment


class CrashCampaignTests(TestCase):
    """Daemons that are killed while clients ask for conflicting signatures."""

    timeout = 120

    async def test_kills(self) -> None:
        """Whenever a daemon is killed, what it signed stays signed, and nothing beside it."""
        report = await campaign(30, 1, Path(self.mktemp()).absolute())
        self.assertEqual({name: found for name, found in report.findings.items() if found}, {})
        self.assertEqual(report.kills.total(), 30)
        self.assertGreater(len(report.restarts), 30 - report.kills[Moment.STARTING] - 1)
        self.assertGreater(report.cut, 5)
        self.assertGreater(report.signatures, 100)
