"""The short form of the campaign of histories."""

from twisted.trial.unittest import SynchronousTestCase

from tests.campaigns.histories.bugs import BUGS
from tests.campaigns.histories.random_search import Outcome, search, shortened
from tests.campaigns.histories.surroundings import surroundings

STEPS = 40_000
STEPS_TO_A_BUG = 60_000


class HistoriesTests(SynchronousTestCase):
    """Signers on one clock, with everything around them in memory."""

    def test_random(self) -> None:
        """Whatever a seed lets happen, no rule is broken."""
        with surroundings() as outside:
            figures, outcome = search("suite", STEPS, outside)
            violation = "" if outcome is None else shortened(outcome, outside)
        self.assertEqual(violation, "")
        self.assertGreater(figures.released, STEPS / 100)
        self.assertGreater(figures.refusals.total(), STEPS / 100)

    def test_bugs(self) -> None:
        """Each bug that is planted is found."""
        found: dict[str, Outcome | None] = {}
        for name, bug in BUGS.items():
            with surroundings() as outside, bug.planted():
                _, found[name] = search("suite", STEPS_TO_A_BUG, outside)
        self.flushLoggedErrors()
        self.assertGreaterEqual(len(found), 10)
        self.assertEqual([name for name, outcome in found.items() if outcome is None], [])
