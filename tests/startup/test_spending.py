"""What is warned of keys that sign operations."""

from pathlib import Path

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from tests.support.vectors import TZ1, TZ2, TZ3
from tezio_signer.config.document import settings_from
from tezio_signer.config.fields import parse
from tezio_signer.config.settings import Settings
from tezio_signer.startup.spending import can_be_emptied, spending

KT1 = "KT1PWx2mnDueood7fEmfbBDKx1D9BAnnXitn"
EMPTIES = "whoever may ask can empty the account of "


def settings_of(*keys: str, more: str = "") -> Settings:
    """Settings whose keys say this, in the order tz3, tz1, tz2."""
    sections = (
        f"{key}: {{auth_req: False, {said}}}"
        for key, said in zip((TZ3, TZ1, TZ2), keys, strict=False)
    )
    text = f"policy: {{signing_keys: {{{', '.join(sections)}}}}}\n{more}"
    return settings_from(parse(text, "config.yaml"), Path("/"))


def with_rules(rules: str, allowed: str = "generic") -> Settings:
    """Settings of one key with a section `operations`."""
    return settings_of(f"allowed_ops: [{allowed}], operations: {{{rules}}}")


class SpendingTests(SynchronousTestCase):
    """Warnings of what a key can do with its account."""

    def test_without_rules(self) -> None:
        """All keys that sign anything are named in one sentence, with what it means."""
        (said,) = spending(
            settings_of(
                "allowed_ops: [generic]",
                "allowed_ops: [block]",
                "allowed_ops: [generic, block], operations: {max_fee: 1 tez}",
            )
        )
        self.assertTrue(said.startswith(f"{EMPTIES}{TZ3} or {TZ2}, which signs any"), said)
        self.assertIn("say in its section operations what it needs", said)

    def test_bakers(self) -> None:
        """A key that signs no operations is not warned of."""
        self.assertEqual(spending(settings_of("allowed_ops: [block, attestation]")), [])

    def test_limits(self) -> None:
        """What limits kinds, destinations or amounts is no longer anything."""
        for rules, empties in (
            ("{}", True),
            ("{hours: {from: '08:00', to: '20:00', time_zone: UTC}}", True),
            ("{ballots: [yay]}", True),
            ("{max_operations_per_day: 5}", True),
            ("{kinds: [reveal]}", False),
            (f"{{destinations: [{TZ1}]}}", False),
            ("{max_amount: 1 tez}", False),
            ("{max_amount_per_day: 1 tez}", False),
        ):
            settings = settings_of(f"allowed_ops: [generic], operations: {rules}")
            self.assertEqual(can_be_emptied(settings, TZ3), empties, rules)
            warned = any(said.startswith(EMPTIES) for said in spending(settings))
            self.assertEqual(warned, empties, rules)

    def test_rules_that_do_less_than_they_seem(self) -> None:
        """Each is told, with what to do; one that is complete is not."""
        for rules, words in (
            (
                "max_amount: 1 tez, max_amount_per_day: 9 tez",
                ["max_amount does not limit fees, which go to whoever bakes the block"],
            ),
            (
                "max_amount: 1 tez",
                [
                    "max_amount cannot keep the account from being emptied by fees",
                    "there may be any number of them",
                ],
            ),
            (
                "max_amount: 9 tez, max_amount_per_day: 1 tez, max_fee: 1 tez",
                ["max_amount has no effect"],
            ),
            (
                'kinds: [reveal], hours: {from: "08:00", to: "20:00", time_zone: Etc/GMT+2}',
                ["Etc/GMT+2 is on the other side of UTC than it seems"],
            ),
            ('kinds: [reveal], hours: {from: "08:00", to: "20:00", time_zone: UTC}', []),
            ("kinds: [reveal, transaction]", ["it sends any amount to anybody"]),
            ("kinds: [transaction], max_amount_per_day: 9 tez", []),
            (
                f"destinations: [{TZ1}]",
                ["destinations cannot keep the account from being emptied by fees"],
            ),
            (
                f"destinations: [{TZ1}], max_amount: 1 tez",
                ["max_amount and destinations cannot keep the account from being emptied by fees"],
            ),
            (
                "max_amount: 1 tez, max_fee: 1 tez",
                ["there may be any number of them: limit what leaves in 24 hours"],
            ),
            ("max_amount: 1 tez, max_fee: 1 tez, max_amount_per_day: 9 tez", []),
            (f"destinations: [{TZ1}], max_amount: 1 tez, max_fee: 1 tez", []),
            (
                f'destinations: ["{KT1}"], max_fee: 1 tez',
                [f"any entrypoint of {KT1} may be called"],
            ),
            (
                f'destinations: ["{KT1}%root"], max_fee: 1 tez',
                [f"any entrypoint of {KT1} may be called"],
            ),
            (f'destinations: ["{KT1}%transfer", {TZ1}], max_fee: 1 tez', []),
            ("kinds: [reveal], unknown: allow", ["unknown: allow lets it sign operations"]),
            ("kinds: [reveal], unknown: refuse", []),
            ("kinds: [reveal], ballots: [yay]", ["ballots has no effect: kinds names no ballot"]),
            ("kinds: [ballot], ballots: [yay]", []),
            (
                f"kinds: [ballot], delegates: [{TZ1}]",
                ["delegates has no effect: kinds names no delegation or origination"],
            ),
            (f"kinds: [origination], delegates: [{TZ1}]", []),
            (
                f"kinds: [stake], destinations: [{TZ1}], max_fee: 1 tez",
                ["destinations has no effect"],
            ),
            (f"kinds: [drain_delegate], destinations: [{TZ1}], max_fee: 1 tez", []),
        ):
            warnings = spending(with_rules(rules))
            self.assertEqual(len(warnings), len(words), (rules, warnings))
            for said, expected in zip(warnings, words, strict=True):
                self.assertTrue(said.startswith(f"{TZ3}: "), said)
                self.assertIn(expected, said)

    def test_without_use(self) -> None:
        """Rules of a key that signs no generic operations do nothing, which is said once."""
        (said,) = spending(with_rules("ballots: [yay], max_amount: 1 tez", "block"))
        self.assertIn(f"operations of {TZ3} has no effect: generic is not among", said)

    def test_switched_off(self) -> None:
        """Rules that are not looked at are named, and the account can be emptied."""
        off = "security: {signing_policy_check: False}"
        key = "allowed_ops: [block], operations: {max_amount: 1 tez}"
        first, second = spending(settings_of(key, more=off))
        self.assertIn(f"what operations says of {TZ3} is not looked at", first)
        self.assertTrue(second.startswith(EMPTIES), second)

    def test_simulated(self) -> None:
        """A simulated HSM has nothing to lose."""
        settings = evolve(settings_of("allowed_ops: [generic]"), store=None)
        self.assertEqual(spending(settings), [])
