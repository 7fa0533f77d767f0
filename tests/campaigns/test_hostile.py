"""The short form of the campaign against a daemon that is attacked."""

from twisted.trial.unittest import TestCase

from tests.campaigns.hostile import campaign

HOLDING_UP = ["byte-chunks", "byte-chunks-tls", "arguments", "handshakes"]
"""What has held up a baker for seconds, from whatever address."""
PATIENCE = 3.0
"""Seconds; a few signatures on a busy machine say nothing of percentiles."""


class HostileTests(TestCase):
    """A baker signs while others attack the daemon."""

    timeout = 60

    async def test_short(self) -> None:
        """Whatever they do, every signature is made, in time, by a daemon that stays small."""
        attacks = [*HOLDING_UP, "byte-idle", "endless-chunks", "slow-handshake"]
        report = await campaign(0.7, attacks)
        self.assertEqual(len(report.attacks), 2 * len(attacks))
        for outcome in report.attacks:
            self.assertEqual(outcome.broken(PATIENCE), [], outcome)
