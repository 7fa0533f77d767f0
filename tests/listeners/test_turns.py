"""Who is worked for next, by a clock that goes on while work is done."""

from collections.abc import Callable

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tezio_signer.listeners.turns import TURN_SECONDS, Turns


class TurnTests(SynchronousTestCase):
    """Pieces of work of several addresses."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.turns = Turns(self.clock)
        self.later: list[Callable[[], object]] = []
        self.patch(self.clock, "callLater", lambda _, call: self.later.append(call))
        self.done: list[str] = []

    def work(self, who: str, seconds: float, pieces: int = 1) -> Callable[[], bool]:
        """Work that takes so long a piece."""
        left = [pieces]

        def piece() -> bool:
            self.done.append(who)
            self.clock.rightNow += seconds
            left[0] -= 1
            return left[0] > 0

        return piece

    def turn(self) -> list[str]:
        """What is done in the next turn of the reactor."""
        before = len(self.done)
        calls, self.later = self.later, []
        for call in calls:
            call()
        return self.done[before:]

    def test_at_once(self) -> None:
        """What takes no time is done at once, and leaves nothing behind."""
        self.turns.ask("baker", self.work("baker", 0, 3))
        self.assertEqual(self.done, ["baker"] * 3)
        self.assertEqual(self.later, [])

    def test_bounded(self) -> None:
        """One turn does not take longer than is allowed, and one piece."""
        self.turns.ask("other", self.work("other", TURN_SECONDS * 0.6, 100))
        self.assertEqual(len(self.done), 2)
        self.assertEqual(len(self.turn()), 2)

    def test_who_has_used_least(self) -> None:
        """Who has used little comes before many pieces of another, one turn later."""
        for _ in range(16):
            self.turns.ask("other", self.work("other", 0.01, 5))
        self.assertEqual(self.done, ["other"])
        self.turns.ask("baker", self.work("baker", 0.0001))
        self.assertEqual(self.done, ["other"])
        self.assertEqual(self.turn(), ["baker", "other"])

    def test_nobody_is_forgotten(self) -> None:
        """Who uses much gets his turn too, and all work is done in the end."""
        for who in ("one", "two"):
            self.turns.ask(who, self.work(who, 0.01, 5))
        for _ in range(20):
            self.turn()
        self.assertEqual(sorted(self.done), ["one"] * 5 + ["two"] * 5)
        self.assertEqual(self.later, [])

    def test_fault(self) -> None:
        """A piece that fails takes none of the others with it."""

        def fails() -> bool:
            raise ZeroDivisionError

        self.assertRaises(ZeroDivisionError, self.turns.ask, "other", fails)
        self.turns.ask("other", self.work("other", 0))
        self.assertEqual(self.done, ["other"])
