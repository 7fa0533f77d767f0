"""What counts for the limits of a day, and of whom."""

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.support.deciding import DecidingTestCase, request_for
from tests.support.operationpayloads import payload_of
from tests.support.stores import watermarks_on
from tests.support.vectors import TZ1, TZ3, block, noop
from tezio_signer.config.document import settings_from
from tezio_signer.config.fields import parse
from tezio_signer.config.settings import Settings
from tezio_signer.errors import TooMany
from tezio_signer.noop import do_nothing
from tezio_signer.rules.perday import spending_of, within_day
from tezio_signer.rules.rule import Grant
from tezio_signer.watermarks.book import Limits
from tezio_signer.watermarks.entry import Standing

MICHELSON = bytes.fromhex("05030b")


def limited(rules: str, more: str = "") -> Settings:
    """Settings of two keys, the first of which has these rules."""
    key = "allowed_ops: [generic, michelson, block], auth_req: False"
    text = (
        f"policy: {{signing_keys: {{{TZ3}: {{{key}, operations: {{{rules}}}}}, {TZ1}: {{{key}}}}}}}"
    )
    return settings_from(parse(f"{text}\n{more}", "config.yaml"), Path("/"))


def sending(mutez: int) -> bytes:
    """A transfer of so many mutez, without a fee."""
    return payload_of({"kind": "transaction", "amount": mutez, "destination": str(TZ1), "fee": 0})


class SpendingTests(DecidingTestCase):
    """How much a request spends."""

    def test_what_counts(self) -> None:
        """Mutez that can leave, and operations: each of a group, and what is not understood."""
        two = payload_of(
            {"kind": "transaction", "amount": 3, "destination": str(TZ1), "fee": 404},
            {"kind": "transaction", "amount": 4, "destination": str(TZ3), "fee": 404},
        )
        for payload, spends in (
            (sending(5), (5, 1)),
            (two, (3 + 2 * 404, 2)),
            (two + b"\x99", (3 + 2 * 404, 3)),
            (payload_of() + b"\x99", (0, 1)),
            (MICHELSON, (0, 1)),
        ):
            self.assertEqual(spending_of(request_for(payload)), spends)


class PerDayTests(DecidingTestCase):
    """The limits of a day, in the policy."""

    def test_amount(self) -> None:
        """It is the key's own; another key, and a block, are not held to it."""
        settings = limited('max_amount_per_day: "0.00001 tez"')
        self.decide(settings, *(request_for(sending(n)) for n in (4, 6)))
        self.refused(
            TooMany, "max_amount_per_day is 0.00001 tez", settings, request_for(sending(11))
        )
        self.refused(TooMany, "0.000006 tez", settings, *(request_for(sending(n)) for n in (4, 7)))
        other = payload_of(
            {"kind": "transaction", "amount": 99, "destination": str(TZ3)}, source=str(TZ1)
        )
        self.decide(settings, request_for(other, TZ1))
        self.decide(settings, request_for(block(7, 0)))

    def test_number(self) -> None:
        """Generic operations and Michelson data count together."""
        settings = limited("max_operations_per_day: 1")
        requests = request_for(MICHELSON), request_for(sending(1))
        self.refused(TooMany, "max_operations_per_day is 1", settings, *requests)
        self.decide(limited("max_operations_per_day: 2"), *requests)

    def test_switched_off(self) -> None:
        """With the other rules of the section."""
        off = "security: {signing_policy_check: False}"
        self.decide(limited('max_amount_per_day: "0 tez"', off), request_for(sending(1)))
        self.refused(TooMany, "", limited('max_amount_per_day: "0 tez"'), request_for(sending(1)))

    def test_words(self) -> None:
        """What it wants."""
        both = limited('max_amount_per_day: "500 tez", max_operations_per_day: 9')
        policy = self.policy(both)
        (rule,) = [each for each in policy.reservations if each.name == "per_day"]
        self.assertEqual(
            rule.demands(request_for(sending(1))),
            "with all others spends at most 500 tez and is among 9 operations at most in 24 hours",
        )
        for request in (request_for(MICHELSON, TZ1), request_for(block(7, 0))):
            self.assertEqual(rule.demands(request), "is not counted: there is no limit for a day")


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
