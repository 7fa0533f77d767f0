"""The short form of the campaign against a daemon that is attacked."""

from twisted.trial.unittest import TestCase

from tests.campaigns.hostile import campaign

PATIENCE = 3.0
"""Seconds; a few signatures on a busy machine say nothing of percentiles."""


class HostileTests(TestCase):
    """A baker signs while strangers attack the daemon."""

    timeout = 60

    async def test_short(self) -> None:
        """Whatever they do, every signature is made, in time, by a daemon that stays small."""
        attacks = ["byte-idle", "endless-chunks", "slow-handshake", "never-reading-socket"]
        report = await campaign(0.7, attacks)
        self.assertEqual(len(report.attacks), 8)
        for outcome in report.attacks:
            self.assertEqual(outcome.broken(PATIENCE), [], outcome)
