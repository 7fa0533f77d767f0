"""What a configuration lets a key do, in words."""

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.support.vectors import OCTEZ, TZ1, TZ2, TZ3
from tezio_signer.config.document import settings_from
from tezio_signer.config.fields import parse
from tezio_signer.config.words import both, either, may

MAINNET = "NetXdQprcVkpaWU"
OTHER_CHAIN = "NetXo5iVw1vBoxM"
TZ4 = OCTEZ["keys"][4]["pkh"]
KT1 = "KT1PWx2mnDueood7fEmfbBDKx1D9BAnnXitn"
PROTOCOL = "PsRiotumaAMotcRoDWW1bysEhQy2n1M5fy8JgRp8jjRfHGmfeA7"
BUT = "any operation but drain_delegate, update_companion_key, update_consensus_key and those of "


def words_of(operations: str = "", allowed: str = "generic", key: str = "", more: str = "") -> str:
    """What a key may do of which the configuration says this."""
    section = f", operations: {{{operations}}}" if operations else ""
    said = f"allowed_ops: [{allowed}], auth_req: False{section}{key}"
    text = f"policy: {{signing_keys: {{{TZ3}: {{{said}}}}}}}\n{more}"
    settings = settings_from(parse(text, "config.yaml"), Path("/"))
    return "; ".join(may(settings, settings.signing_keys[TZ3]))


class OperationWordsTests(SynchronousTestCase):
    """What generic operations may do."""

    def test_the_whole(self) -> None:
        """A key of a baker who votes, stakes and pays out, in one line."""
        said = words_of(
            f"kinds: [transaction, stake, unstake, ballot], destinations: [{TZ1}, {TZ2}], "
            'ballots: [pass, yay], max_amount: "100 tez", max_fee: "0.5 tez", '
            'max_amount_per_day: "500 tez"',
            "generic, block, preattestation, attestation",
            f", chains: [{MAINNET}]",
            "high_water_marks: {level: {block: 9000000, preattestation: 9000000, "
            "attestation: 9000000}}",
        )
        self.assertEqual(
            said,
            "votes pass or yay; stakes and unstakes its own funds; sends at most 100 tez at a time "
            "and 500 in 24 hours to 2 addresses; pays at most 0.5 tez of fees at a time; bakes on "
            "mainnet above level 9,000,000",
        )

    def test_without_kinds(self) -> None:
        """What is not limited is said too."""
        self.assertEqual(words_of(), f"signs {BUT}consensus; sends any amount to anybody")
        said = words_of(f"destinations: [{TZ1}], delegates: [{TZ2}], ballots: [nay]")
        self.assertEqual(
            said,
            f"signs {BUT}consensus; sends any amount to {TZ1}; delegates to {TZ2}; votes nay; "
            "pays any fee",
        )

    def test_kinds(self) -> None:
        """Each kind is told, those without words of their own by name."""
        for operations, words in (
            ("kinds: [reveal]", "reveals its public key"),
            ("kinds: [stake]", "stakes its own funds"),
            (
                "kinds: [stake, unstake, finalize_unstake]",
                "stakes, unstakes and takes back its own funds",
            ),
            ("kinds: [set_delegate_parameters]", "sets the terms for those who stake with it"),
            ("kinds: [transaction]", "sends any amount to anybody"),
            (
                f'kinds: [transaction], destinations: ["{KT1}%transfer"], max_fee: "1 tez"',
                f"sends any amount to {KT1}%transfer; pays at most 1 tez of fees at a time",
            ),
            (
                'kinds: [transaction], max_amount: "1234567.5 tez"',
                "sends at most 1,234,567.5 tez at a time to anybody; pays any fee",
            ),
            (
                'kinds: [transaction], max_amount_per_day: "0.000001 tez"',
                "sends at most 0.000001 tez in 24 hours to anybody",
            ),
            ("kinds: [transfer_ticket]", "sends tickets to anybody"),
            ("kinds: [origination]", "creates contracts with any amount"),
            (
                'kinds: [origination], max_amount: "2 tez", max_fee: "1 tez"',
                "creates contracts with at most 2 tez at a time; pays at most 1 tez of fees at a "
                "time",
            ),
            (
                f'kinds: [origination], destinations: [{TZ1}], max_fee: "1 tez"',
                "creates contracts without tez; pays at most 1 tez of fees at a time",
            ),
            (
                'kinds: [reveal], max_amount_per_day: "3 tez"',
                "reveals its public key; spends at most 3 tez in 24 hours",
            ),
            ("kinds: [delegation]", "delegates to anybody"),
            (f"kinds: [delegation], delegates: [{TZ1}, {TZ4}]", "delegates to 2 addresses"),
            ("kinds: [ballot]", "votes"),
            ("kinds: [ballot], ballots: [yay, nay, pass]", "votes nay, pass or yay"),
            (
                f"kinds: [ballot, proposals], proposals: [{PROTOCOL}]",
                f"proposes {PROTOCOL}; votes on {PROTOCOL}",
            ),
            ("kinds: [proposals]", "proposes any protocol"),
            ("kinds: [failing_noop]", "signs texts (failing_noop)"),
            (
                "kinds: [smart_rollup_cement, dal_publish_commitment]",
                "signs dal_publish_commitment and smart_rollup_cement",
            ),
            (
                f"kinds: [drain_delegate], destinations: [{TZ1}], max_fee: '1 tez'",
                f"SENDS ALL that the baker has whose consensus key it is to {TZ1}; pays at most "
                "1 tez of fees at a time",
            ),
            ("kinds: [update_consensus_key]", "GIVES ITS BAKING to any other key"),
            ("kinds: [update_companion_key]", "takes any companion key"),
            (
                "kinds: [reveal], unknown: allow",
                "reveals its public key; signs operations that it does not understand, which may "
                "do anything",
            ),
            (
                "kinds: [reveal], max_operations_per_day: 1",
                "reveals its public key; signs at most 1 operation in 24 hours",
            ),
            (
                "kinds: [reveal], max_operations_per_day: 1000, "
                'hours: {from: "08:00", to: "20:00", time_zone: UTC}',
                "reveals its public key; signs at most 1,000 operations in 24 hours; signs "
                "operations from 08:00 to 20:00 UTC only",
            ),
        ):
            self.assertEqual(words_of(operations), words)

    def test_not_generic(self) -> None:
        """Rules on generic operations say nothing of a key that signs none."""
        self.assertEqual(words_of("kinds: [transaction]", "0x01"), "")
        self.assertIn("packed Michelson data", words_of("kinds: [transaction]", "michelson"))
        self.assertNotIn("sends", words_of("kinds: [transaction]", "michelson"))

    def test_switched_off(self) -> None:
        """Rules that are not looked at are not told."""
        off = "security: {signing_policy_check: False}"
        said = words_of("kinds: [reveal]", "block", more=off)
        self.assertIn("any operation", said)
        self.assertIn("bakes on any chain", said)


class BakingWordsTests(SynchronousTestCase):
    """What is baked."""

    def test_kinds_and_chains(self) -> None:
        """Blocks and both votes are baking; one of them is called by its name."""
        every = "block, preattestation, attestation"
        self.assertEqual(words_of("", every), "bakes on any chain")
        both_chains = f", chains: [{MAINNET}, {OTHER_CHAIN}]"
        self.assertEqual(words_of("", every, both_chains), f"bakes on mainnet and {OTHER_CHAIN}")
        self.assertEqual(words_of("", every, ", chains: []"), "bakes on no chain")
        self.assertEqual(
            words_of("", "preattestation, attestation"), "preattests and attests on any chain"
        )

    def test_floors(self) -> None:
        """Levels that differ are told apart."""
        every = "block, preattestation, attestation"
        marks = "high_water_marks: {{level: {{{}}}}}"
        for levels, words in (
            ("block: 9, preattestation: 9, attestation: 9", "bakes on any chain above level 9"),
            ("block: 9000", "bakes on any chain above the levels block 9,000"),
            (
                "block: 9, attestation: 10",
                "bakes on any chain above the levels block 9 and attestation 10",
            ),
        ):
            self.assertEqual(words_of("", every, more=marks.format(levels)), words)

    def test_without_marks(self) -> None:
        """A protection that is off is said, and no floor that does not hold."""
        said = words_of(
            "",
            "block",
            more="high_water_marks: {level: {block: 9}}\nsecurity: {high_water_mark_check: False}",
        )
        self.assertIn("with nothing that keeps it from signing twice at one level", said)
        self.assertNotIn("above", said)


class ListTests(SynchronousTestCase):
    """Lists in sentences."""

    def test_lists(self) -> None:
        """None, one, two, three."""
        self.assertEqual(either([]), "nothing")
        self.assertEqual(either("a"), "a")
        self.assertEqual(either("ab"), "a or b")
        self.assertEqual(both("abc"), "a, b and c")
        self.assertEqual(both([], "no chain"), "no chain")
