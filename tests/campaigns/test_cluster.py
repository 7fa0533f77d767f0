"""The short form of the cluster campaign."""

from pathlib import Path
from statistics import median

from twisted.trial.unittest import TestCase

from tests.campaigns.cluster import campaign
from tests.campaigns.clusterreport import IN_TIME, RECOVERY
from tests.support.programs import command


class ClusterCampaignTests(TestCase):
    """Two daemons on one etcd cluster, both asked for conflicting signatures."""

    timeout = 120

    async def test_faults(self) -> None:
        """Whatever fails between them, two daemons never sign against each other."""
        command("etcd")
        report = await campaign(600, 15, 1, Path(self.mktemp()).absolute())
        # Every single time is for the long form, which has the machine for itself.
        found = {name: what for name, what in report.findings.items() if "after" not in name}
        self.assertEqual({name: what for name, what in found.items() if what}, {})
        self.assertGreater(report.faults.total(), 2)
        for status in ("200", "409"):
            self.assertGreater(report.answers[status], 10, report.answers)
        # How many these are is a matter of how fast the machine gets over its faults.
        self.assertGreater(report.answers["502"], 0, report.answers)
        # Requests that wait together are late together: one burst must not decide.
        self.assertLess(median(seconds for seconds, _ in report.refusals), IN_TIME)
        for recoveries in report.recoveries:
            self.assertLess(median(recoveries), RECOVERY, report.slow)
