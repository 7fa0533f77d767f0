"""The short form of the campaign against a daemon that is attacked."""

from twisted.trial.unittest import TestCase

from tests.campaigns.hostile import MOST_MEMORY, campaign

PATIENCE = 3.0
"""Seconds; a few signatures on a busy machine say nothing of percentiles."""


class HostileTests(TestCase):
    """A baker signs while strangers attack the daemon."""

    timeout = 60

    async def test_short(self) -> None:
        """Whatever they do, every signature is made, in time, by a daemon that stays small."""
        attacks = ["idle-connections", "endless-chunks", "slow-handshake", "stalled-frames"]
        report = await campaign(1, attacks, own=["half-closed"])
        self.assertEqual(len(report.attacks), 5)
        for outcome in report.attacks:
            self.assertEqual((outcome.name, outcome.failed), (outcome.name, ()))
            self.assertGreater(outcome.made, 0, outcome.name)
            self.assertLess(max(outcome.seconds), PATIENCE, outcome.name)
            self.assertLess(outcome.memory, MOST_MEMORY, outcome.name)
