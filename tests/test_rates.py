"""Counting how often somebody does something."""

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tezio_signer.rates import REMEMBERED, Rate


class RateTests(SynchronousTestCase):
    """Six a minute."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(1000.1)
        self.rate = Rate(6, self.clock)

    def taken(self, who: object = "a") -> int:
        """How many somebody can have now."""
        count = 0
        while self.rate.take(who):
            count += 1
        return count

    def test_at_once(self) -> None:
        """All of a minute can be had at once, and no more until time has passed."""
        self.assertEqual(self.taken(), 6)
        self.clock.advance(9)
        self.assertEqual(self.taken(), 0)

    def test_after_a_while(self) -> None:
        """Each comes back after its part of the minute; what is not used does not add up."""
        self.taken()
        for seconds, count in ((10, 1), (25, 2), (5, 1), (3600, 6)):
            self.clock.advance(seconds)
            self.assertEqual(self.taken(), count)

    def test_apart(self) -> None:
        """Each has a count of its own."""
        self.taken("a")
        self.assertEqual(self.taken("b"), 6)

    def test_given_back(self) -> None:
        """What is given back can be had again, and no more than that."""
        self.taken()
        for _ in range(2):
            self.rate.give_back("a")
        self.assertEqual(self.taken(), 2)
        self.rate.give_back("b")
        self.assertEqual(self.taken("b"), 6)

    def test_bounded(self) -> None:
        """Who has done nothing for longest is forgotten before memory grows."""
        self.taken("a")
        for number in range(REMEMBERED):
            self.rate.take(number)
        self.assertEqual(self.taken(REMEMBERED - 1), 5)
        self.assertEqual(self.taken("a"), 6)

    def test_at_most(self) -> None:
        """Another rate goes on with what was had of this one, in shares of a minute's."""
        for _ in range(3):
            self.rate.take("a")
        other = self.rate.at_most(2)
        self.rate = other
        self.assertEqual(self.taken(), 1)
        self.assertEqual(self.taken("b"), 2)
        self.rate = other.at_most(60)
        self.assertEqual(self.taken(), 0)
        self.clock.advance(1)
        self.assertEqual(self.taken(), 1)
        other.give_back("a")  # what was taken of the slower one, half a minute of it
        self.assertEqual(self.taken(), 30)

    def test_other_seconds(self) -> None:
        """The time in which so many can be had may be another than a minute."""
        self.rate = Rate(4, self.clock, 1.0)
        for seconds, count in ((0, 4), (0.25, 1), (0.5, 2), (60, 4)):
            self.clock.advance(seconds)
            self.assertEqual(self.taken(), count)
