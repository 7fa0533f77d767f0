"""The short form of the campaign that kills daemons while they write their audit log."""

from pathlib import Path

from twisted.trial.unittest import TestCase

from tests.campaigns.audit import campaign


class AuditCampaignTests(TestCase):
    """Daemons with an audit log that are killed while clients ask."""

    timeout = 300

    async def test_kills(self) -> None:
        """Whenever a daemon is killed, its chain is whole, and has every signature that left."""
        report = await campaign(16, 3, Path(self.mktemp()).absolute())
        self.assertEqual({name: found for name, found in report.findings.items() if found}, {})
        self.assertEqual(report.kills.total(), 16)
        self.assertGreater(report.signatures, 100)
        self.assertGreater(report.lines, report.signatures / 2)
        self.assertGreater(report.torn, 0)
