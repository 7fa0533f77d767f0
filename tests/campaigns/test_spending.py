"""The short forms of the campaign on what is spent in a day."""

from pathlib import Path

from twisted.trial.unittest import TestCase

from tests.campaigns.spending import LIMIT, Report, campaign
from tests.support.programs import command


class SpendingCampaignTests(TestCase):
    """Daemons are killed while they spend."""

    timeout = 300

    def check(self, report: Report) -> None:
        """Nothing was found, and there was something to find."""
        self.assertEqual({name: what for name, what in report.findings.items() if what}, {})
        self.assertTrue(report.passed, report.answers)
        self.assertGreater(report.kills, 2)

    async def test_killed(self) -> None:
        """Whenever it is killed, a daemon never spends more than the limits of a day."""
        self.check(await campaign(60, 1, Path(self.mktemp()).absolute()))

    async def test_two_daemons(self) -> None:
        """Nor do two with one etcd, together."""
        command("etcd")
        self.check(await campaign(60, 1, Path(self.mktemp()).absolute(), etcd=True))

    def test_referee(self) -> None:
        """The referee notices a mutez too much in 24 hours, and not one that comes later."""
        report = Report(received=[(0.0, b"a", LIMIT), (1.0, b"a", LIMIT), (86_401.5, b"b", 1)])
        report.judge()
        self.assertEqual(report.above, set())
        report.received.append((86_400.5, b"c", 1))
        report.judge()
        self.assertEqual(len(report.above), 1)
