"""The short form of the campaign of histories."""

from gc import collect

from twisted.trial.unittest import SynchronousTestCase

from tests.campaigns.histories import exhaustive
from tests.campaigns.histories.bugs import BUGS
from tests.campaigns.histories.events import Event
from tests.campaigns.histories.exhaustive import ONCE, SETUP, Search
from tests.campaigns.histories.fingerprint import fingerprint
from tests.campaigns.histories.found import FOUND
from tests.campaigns.histories.random_search import Outcome, history, replay, search, shortened
from tests.campaigns.histories.surroundings import surroundings
from tests.campaigns.histories.telling import from_text, to_text
from tests.campaigns.histories.world import World

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
        while self.flushLoggedErrors():  # each keeps what the next one comes from
            collect()
        self.assertGreaterEqual(len(found), 10)
        self.assertEqual([name for name, outcome in found.items() if outcome is None], [])

    def test_real_signatures(self) -> None:
        """With the curves of Tezos it goes as with the replacements for them."""
        with surroundings(real=True) as outside:
            figures, outcome = search("real", 1000, outside)
        self.assertIsNone(outcome)
        self.assertGreater(figures.released, 10)

    def test_again(self) -> None:
        """A history is made again by its seed, and by its text."""
        with surroundings() as outside:
            first = history("again", outside)
            self.assertEqual(history("again", outside), first)
            again = replay(from_text(to_text(first.history)), outside)
        self.assertEqual(again.figures, first.figures)

    def test_found(self) -> None:
        """Histories that have broken a rule once break none."""
        for what, text in FOUND.items():
            with surroundings() as outside:
                outcome = replay(from_text(text), outside)
            self.assertEqual(outcome.violations, (), what)

    def test_shortened(self) -> None:
        """Of a history that breaks a rule those events are left that it needs."""
        with surroundings() as outside, BUGS["own-signature-preferred"].planted():
            _, outcome = search("short", STEPS, outside)
            assert outcome is not None
            short = shortened(outcome, outside)
            again = replay(short.history, outside)
        self.assertIn("two signatures", [v.rule for v in again.violations])
        self.assertLess(len(short.history.events), 12)

    def test_all_orders(self) -> None:
        """In no order of events, also with a client that leaves, a rule is broken."""
        with surroundings() as outside:
            found = Search(outside, ONCE, faults=1, kinds=frozenset(("leave",))).run()
        self.assertIsNone(found.outcome)
        self.assertTrue(found.complete)
        self.assertGreater(found.states[0], 50)
        self.assertGreater(found.states[1], 50)
        self.assertGreater(found.ends, 5)

    def test_independent(self) -> None:
        """Going through one order only of what is independent leaves out states, but no end."""
        ends: list[set[bytes]] = []
        states = []
        for reduced in (True, False):
            met: set[bytes] = set()
            self.patch(exhaustive, "finish", lambda world, met=met: met.add(fingerprint(world)))
            with surroundings() as outside:
                kinds = frozenset(("raise",))
                search = Search(outside, ONCE, faults=1, kinds=kinds, reduced=reduced)
                states.append(sum(search.run().states.values()))
            ends.append(met)
        self.assertEqual(*ends)
        self.assertLess(2 * states[0], states[1])

    def test_bug_in_an_order(self) -> None:
        """Among all orders those are found in which a bug shows itself."""
        with surroundings() as outside, BUGS["failed-swap-is-success"].planted():
            found = Search(outside, ONCE, faults=0).run()
        assert found.outcome is not None
        self.assertIn("two payloads", [v.rule for v in found.outcome.violations])

    def test_equal_states(self) -> None:
        """What has come about in another order is the same state; what differs is another."""
        apart = [Event("arrive", "d0>b0x"), Event("arrive", "d1>etcd")]
        with surroundings() as outside:
            states = []
            for events in (apart, apart[::-1], apart[:1]):
                world = World(SETUP, outside)
                for event in (*ONCE, *events):
                    self.assertTrue(world.do(event))
                states.append(fingerprint(world))
        self.assertEqual(states[0], states[1])
        self.assertNotEqual(states[0], states[2])
