"""The rule on the rate of generic operations."""

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.support.deciding import request_for
from tests.support.vectors import TZ1, TZ3, block, noop
from tezio_signer.errors import TooMany
from tezio_signer.noop import do_nothing
from tezio_signer.rates import Rate
from tezio_signer.rules.rate import within_rate
from tezio_signer.rules.rule import Grant


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
