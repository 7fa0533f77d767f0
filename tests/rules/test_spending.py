"""The rules on the rate of generic operations, and on what leaves in a day."""

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.support.deciding import request_for
from tests.support.stores import watermarks_on
from tests.support.vectors import TZ1, TZ3, block, noop
from tezio_signer.errors import TooMany
from tezio_signer.noop import do_nothing
from tezio_signer.rates import Rate
from tezio_signer.rules.rule import Grant
from tezio_signer.rules.spending import within_day, within_rate
from tezio_signer.watermarks.book import Limits
from tezio_signer.watermarks.entry import Standing


class RateTests(SynchronousTestCase):
    """Two generic operations a minute."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.rule = within_rate(Rate(2, self.clock))

    def take(self, payload: bytes, host: str = "10.0.0.1") -> Grant:
        """What is granted; raises TooMany."""
        grant = self.rule(request_for(payload, peer=host))
        assert isinstance(grant, Grant)
        return grant

    def test_too_many(self) -> None:
        """The third is refused until time has passed; other keys and clients have their own."""
        for number in range(2):
            self.take(noop(number))
        refused = self.assertRaises(TooMany, self.take, noop(2))
        self.assertEqual(
            str(refused),
            f"more than 2 generic operations a minute for {TZ3} from 10.0.0.1; try again later",
        )
        self.take(noop(2), "10.0.0.2")
        self.rule(request_for(noop(2), TZ1, "10.0.0.1"))
        self.clock.advance(30)
        self.take(noop(2))

    def test_baking(self) -> None:
        """Blocks are not counted, nor given back."""
        for level in range(5):
            self.assertIs(self.take(block(level + 1, 0)).undo, do_nothing)
        for number in range(2):
            self.take(noop(number))

    def test_michelson(self) -> None:
        """Packed data of Michelson are counted with generic operations."""
        self.take(noop(0))
        self.take(bytes.fromhex("05030b"))
        self.assertRaises(TooMany, self.take, noop(1))

    def test_undo(self) -> None:
        """What could not be served does not count."""
        for number in range(5):
            self.take(noop(number)).undo()
        for number in range(2):
            self.take(noop(number))
        self.assertRaises(TooMany, self.take, noop(2))


class DayTests(SynchronousTestCase):
    """Ten mutez, or two operations, in 24 hours."""

    def setUp(self) -> None:
        self.watermarks = watermarks_on()
        self.watermarks.startService()
        self.addCleanup(self.watermarks.stopService)
        self.limits = Limits(mutez=10)
        self.spends = (4, 1)
        self.rule = within_day(lambda _: self.limits, lambda _: self.spends, self.watermarks.ledger)

    def ask(self, payload: bytes) -> Grant:
        """What is granted; raises TooMany."""
        answer = self.rule(request_for(payload))
        return answer if isinstance(answer, Grant) else self.successResultOf(answer)

    def refused(self, payload: bytes) -> None:
        """It is too much."""
        answer = self.rule(request_for(payload))
        assert not isinstance(answer, Grant)
        self.failureResultOf(answer, TooMany)

    def test_amount(self) -> None:
        """What would be too much in all is refused; the same payload again is not."""
        self.ask(noop(1))
        self.ask(noop(2))
        self.ask(noop(2))
        self.refused(noop(3))

    def test_operations(self) -> None:
        """Operations are counted too."""
        self.limits = Limits(operations=2)
        self.ask(noop(1))
        self.spends = (0, 2)
        self.refused(noop(2))
        self.spends = (0, 1)
        self.ask(noop(2))
        self.refused(noop(3))

    def test_unsigned(self) -> None:
        """What was certainly not signed does not count; what could not be served does."""
        for number in range(5):
            self.ask(noop(number)).unsigned()
        self.ask(noop(1)).undo()
        self.ask(noop(2)).undo()
        self.refused(noop(3))

    def test_refused_by_another_rule(self) -> None:
        """What a later rule refuses does not count."""
        for number in range(5):
            Grant.of([self.ask(noop(number))]).take_back()
        self.assertEqual(self.watermarks.ledger.standing(TZ3), Standing())

    def test_baking(self) -> None:
        """Blocks are not counted, nor is a store asked for them."""
        for level in range(5):
            self.assertIs(self.ask(block(level + 1, 0)).unsigned, do_nothing)

    def test_no_limits(self) -> None:
        """A key without such limits is not counted."""
        self.limits = Limits()
        for number in range(5):
            self.assertIs(self.ask(noop(number)).unsigned, do_nothing)
