"""The short form of the campaign that compares `check` with the start."""

from twisted.trial.unittest import TestCase

from tests.campaigns.agreement import check_here, compare, start_here
from tests.campaigns.agreementcases import CASES
from tests.support.owndirectory import own_directory


class AgreementTests(TestCase):
    """`check`, and the start of a daemon with the same configuration."""

    timeout = 120

    async def test_agree(self) -> None:
        """Both refuse the same configurations, in the same words."""
        own_directory(self)
        cases = [case for case in CASES if not case.waits]
        report = await compare(cases, check_here, start_here)
        self.assertEqual({name: found for name, found in report.findings.items() if found}, {})
        self.assertGreater(report.refused, 60)
        self.assertGreater(report.cases - report.refused, 20)
