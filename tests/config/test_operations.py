"""The section `operations` of a key: what is accepted, and what a mistake is told."""

import zoneinfo
from datetime import UTC, datetime, time
from pathlib import Path
from zoneinfo import ZoneInfo

from twisted.trial.unittest import SynchronousTestCase

from tests.support.configurations import BASE, KEY
from tests.support.vectors import OCTEZ, TZ1, TZ3
from tezio_signer.config import operations as operationsconfig
from tezio_signer.config.document import settings_from
from tezio_signer.config.fields import ConfigError, parse
from tezio_signer.config.operations import (
    NAMED_ONLY,
    Destination,
    Hours,
    OperationRules,
    operation_rules,
)

TZ4 = OCTEZ["keys"][4]["pkh"]
KT1 = "KT1PWx2mnDueood7fEmfbBDKx1D9BAnnXitn"
PROTOCOL = "PsRiotumaAMotcRoDWW1bysEhQy2n1M5fy8JgRp8jjRfHGmfeA7"


def rules_of(text: str) -> OperationRules:
    """What a section says."""
    return operation_rules(parse(text, "config.yaml"))


class RulesTests(SynchronousTestCase):
    """What the section says."""

    def test_nothing(self) -> None:
        """An empty section limits nothing, and names nothing that has to be named."""
        self.assertEqual(rules_of("{}"), OperationRules())

    def test_everything(self) -> None:
        """Each rule is read into the value that rules and words use."""
        said = rules_of(
            f"""\
kinds: [reveal, transaction, stake, drain_delegate, update_consensus_key, attestation]
destinations: [{TZ1}, "{KT1}", "{KT1}%transfer", {TZ4}]
delegates: [{TZ3}]
proposals: [{PROTOCOL}]
ballots: [pass, yay]
max_fee: "0.5 tez"
max_operations_per_day: 50
hours: {{from: "22:30", to: "06:00", time_zone: Europe/Paris}}
unknown: allow
"""
        )
        kinds = "reveal transaction stake drain_delegate update_consensus_key attestation"
        self.assertEqual(
            said,
            OperationRules(
                kinds=frozenset(kinds.split()),
                destinations=(
                    Destination(str(TZ1)),
                    Destination(KT1),
                    Destination(KT1, "transfer"),
                    Destination(TZ4),
                ),
                delegates=frozenset([str(TZ3)]),
                proposals=frozenset([PROTOCOL]),
                ballots=frozenset(["pass", "yay"]),
                max_fee=500_000,
                max_operations_per_day=50,
                hours=Hours(time(22, 30), time(6), ZoneInfo("Europe/Paris")),
                unknown=True,
            ),
        )
        self.assertFalse(rules_of("unknown: refuse").unknown)

    def test_entrypoints(self) -> None:
        """Their names have 1 to 31 letters."""
        for name in ("a", "a" * 31, "default"):
            (place,) = rules_of(f"destinations: ['{KT1}%{name}']").destinations or ()
            self.assertEqual(place, Destination(KT1, name))
            self.assertEqual(str(place), f"{KT1}%{name}")

    def test_amounts(self) -> None:
        """Tez are exact, up to the most that a number of Octez holds."""
        for text, mutez in (
            ("0 tez", 0),
            ("100 tez", 100_000_000),
            ("0.5 tez", 500_000),
            ("0.000001 tez", 1),
            ("1.10 tez", 1_100_000),
            ("9223372036854.775807 tez", 2**63 - 1),
        ):
            for name in ("max_amount", "max_fee", "max_amount_per_day"):
                self.assertEqual(getattr(rules_of(f"{name}: {text}"), name), mutez, text)

    def test_what_gives_the_key_away(self) -> None:
        """These have to be named; a new kind that does the like belongs among them."""
        self.assertLessEqual(
            {
                "drain_delegate",
                "update_consensus_key",
                "update_companion_key",
                "attestation",
                "attestation_with_dal",
                "attestations_aggregate",
                "preattestation",
                "preattestations_aggregate",
            },
            NAMED_ONLY,
        )
        self.assertNotIn("transaction", NAMED_ONLY)


class MistakeTests(SynchronousTestCase):
    """A mistake is named with its place, and with what is accepted."""

    def mistake(self, text: str) -> str:
        """What is said of a wrong section."""
        return str(self.assertRaises(ConfigError, rules_of, text))

    def test_mistakes(self) -> None:
        """Each of these is an error; none is a rule that says something else."""
        for text, words in (
            ("- kinds", ("a mapping",)),
            ("kind: [reveal]", ("kind: unknown key; did you mean kinds?", "max_fee")),
            ("kinds: reveal", ("kinds: a list is expected here: [reveal]?",)),
            ("kinds: []", ("kinds: nothing is on this list", "leave it out")),
            ("kinds: [7]", ("kinds[0]: a text in quotes",)),
            (
                "kinds: [transfer]",
                ("transfer is no kind", "did you mean transaction?"),
            ),
            ("kinds: [reveal, transactions]", ("kinds[1]", "did you mean transaction?")),
            ("kinds: [unstaked]", ("did you mean unstake?",)),
            ("kinds: [set_delegate]", ("did you mean delegation?",)),
            ("kinds: [anything]", ("anything is no kind", "docs/policy.md lists them")),
            ("kinds: [block]", ("block is no kind", "signed by allowed_ops")),
            ("kinds: [endorsement]", ("endorsement is no kind", "signed by allowed_ops")),
            ("destinations: []", ("nothing is on this list",)),
            ("destinations: [tz1]", ("destinations[0]: an address (tz1…, KT1…) is expected",)),
            (f"destinations: ['{KT1}x']", ("an address", "checksum")),
            (f"destinations: ['{KT1}%']", ("the name of an entrypoint", "behind %")),
            (f"destinations: ['{KT1}% transfer']", ("1 to 31 letters, digits, _ . % or @",)),
            (f"destinations: ['{KT1}%transfer ']", ("the name of an entrypoint",)),
            (f'destinations: ["{KT1}%a\\u202eb"]', ("the name of an entrypoint",)),
            (f"destinations: ['{KT1}%übergabe']", ("the name of an entrypoint",)),
            (f"destinations: ['{KT1}%{'a' * 32}']", ("1 to 31 letters",)),
            (f"destinations: [{PROTOCOL}]", ("an address", "protocol_hash")),
            (f"destinations: ['{TZ1}%do']", ("only contracts (KT1…)", "leave out %do")),
            (f"delegates: ['{KT1}']", ("the address of a delegate (tz1…)", "this is a contract")),
            (f"delegates: ['{TZ1}%do']", ("the address of a delegate",)),
            (f"proposals: [{TZ1}]", ("the hash of a protocol (P…)",)),
            ("ballots: [yes]", ("ballots[0]: yes is no ballot; did you mean yay?",)),
            ("ballots: [no]", ("no is no ballot; did you mean nay?",)),
            ("ballots: ['\"yay\"']", ("is no ballot; did you mean yay?",)),
            ("ballots: [yea]", ("yea is no ballot; did you mean yay? Known: yay, nay, pass",)),
            ("max_amount: 100", ('such as "100 tez"', 'not 100: "100 tez"?')),
            ("max_amount: 1.5", ('not 1.5: "1.5 tez"?',)),
            ("max_fee: '100'", ('"100 tez"?',)),
            ("max_fee: 1.5 XTZ", ('"1.5 tez"?',)),
            ("max_fee: 100Tez", ('"100 tez"?',)),
            ("max_fee: 100 ꜩ", ('"100 tez"?',)),
            ("max_fee: 1500 mutez", ('"0.0015 tez"?',)),
            ("max_amount: -1 tez", ("not -1 tez",)),
            ("max_amount: 1,000 tez", ("not 1,000 tez",)),
            ("max_amount: 010 tez", ("not 010 tez",)),
            ("max_amount: 1.0000001 tez", ("six decimals at most",)),
            ("max_amount: 1. tez", ("not 1. tez",)),
            ("max_amount: 1 mutez", ("an amount in tez",)),
            ("max_amount: ١ tez", ("an amount in tez",)),
            ("max_amount: [1 tez]", ("a single value",)),
            ("max_amount: 9223372036854.775808 tez", ("more than there can be",)),
            (f"max_amount: {'9' * 5000} tez", ("more than there can be",)),
            ("max_operations_per_day: 0", ("a number from 1 to 1000000",)),
            ("max_operations_per_day: 10 ops", ("a number",)),
            ("hours: 08:00-20:00", ("a mapping (key: value) is expected here, with from, to",)),
            ("hours: {from: '08:00', to: '20:00'}", ("time_zone is missing",)),
            ("hours: {from: 08:00, to: 20:00, time_zone: UTC}", ("hours.to: a text in quotes",)),
            ("hours: {from: '8:00', to: '20:00', time_zone: UTC}", ("hours.from: a time",)),
            ("hours: {from: '08:00', to: '24:00', time_zone: UTC}", ('midnight is "00:00"',)),
            ("hours: {from: '08:00', to: '08:00', time_zone: UTC}", ("hours.to", "the same")),
            (
                "hours: {from: '08:00', to: '20:00', time_zone: Europe/Pari}",
                ("hours.time_zone: Europe/Pari is no time zone", "did you mean Europe/Paris?"),
            ),
            (
                "hours: {from: '08:00', to: '20:00', time_zone: CEST}",
                ("CEST is no time zone", "; write one such as Europe/Paris, or UTC"),
            ),
            ("hours: {from: '08:00', to: '20:00', time_zone: Europe}", ("is no time zone",)),
            ("hours: {from: '08:00', to: '20:00', time_zone: ../UTC}", ("is no time zone",)),
            ("hours: {from: '08:00', to: '20:00', time_zone: ''}", ("is no time zone",)),
            ("unknown: True", ("allow or refuse is expected, not True",)),
            ("unknown: allowed", ("allow or refuse",)),
            (
                "kinds: [drain_delegate]\nmax_amount: 1 tez",
                ("config.yaml:2: max_amount: drain_delegate", "takes all"),
            ),
            (
                "kinds: [drain_delegate]\nmax_amount_per_day: 1 tez",
                ("config.yaml:2: max_amount_per_day: drain_delegate",),
            ),
        ):
            said = self.mistake(text)
            for each in words:
                self.assertIn(each, said, text)

    def test_dangerous_kinds(self) -> None:
        """No mistake has an error propose what gives the key away."""
        for kind in NAMED_ONLY:
            for wrong in (f"{kind}s", kind[:-1], f"set_{kind}", kind.upper()):
                said = self.mistake(f"kinds: [{wrong}]")
                self.assertNotRegex(said, f"mean ({'|'.join(NAMED_ONLY)})", wrong)

    def test_machine_without_time_zones(self) -> None:
        """What to install is said; UTC is known in any case."""

        def missing(name: str) -> ZoneInfo:
            raise zoneinfo.ZoneInfoNotFoundError(name)

        self.patch(operationsconfig, "ZoneInfo", missing)
        self.patch(operationsconfig, "available_timezones", set)
        hours = "hours: {{from: '08:00', to: '20:00', time_zone: {}}}"
        self.assertIn("install tzdata", self.mistake(hours.format("Europe/Paris")))
        rules = rules_of(hours.format("UTC"))
        self.assertEqual(rules.hours, Hours(time(8), time(20), UTC))

    def test_place(self) -> None:
        """The error has the line and the key of the whole document."""
        text = f"{BASE}{KEY}operations:\n{KEY}    kinds: [reveal]\n{KEY}    max_fee: 1\n"
        with self.assertRaises(ConfigError) as raised:
            settings_from(parse(text, "config.yaml"), Path("/"))
        said = str(raised.exception)
        self.assertIn(f"config.yaml:8: policy.signing_keys.{TZ3}.operations.max_fee: ", said)


class HoursTests(SynchronousTestCase):
    """Which moments belong to hours."""

    def included(self, hours: Hours, *times: str) -> list[bool]:
        """Of times of one day, UTC."""
        return [
            hours.include(datetime.fromisoformat(f"2026-01-15T{each}+00:00").timestamp())
            for each in times
        ]

    def test_day(self) -> None:
        """The start belongs to them, the end does not."""
        day = Hours(time(8), time(20), UTC)
        times = ("07:59:59.999", "08:00:00", "19:59:59.999", "20:00:00", "00:00:00")
        self.assertEqual(self.included(day, *times), [False, True, True, False, False])

    def test_night(self) -> None:
        """They go on over midnight."""
        night = Hours(time(22), time(6), UTC)
        times = ("21:59:59", "22:00:00", "23:59:59", "00:00:00", "05:59:59", "06:00:00", "12:00:00")
        expected = [False, True, True, True, True, False, False]
        self.assertEqual(self.included(night, *times), expected)

    def test_up_to_midnight(self) -> None:
        """Midnight is the end of a day as well as its start."""
        evening = Hours(time(20), time(0), UTC)
        self.assertEqual(self.included(evening, "19:59:59", "20:00:00", "23:59:59"), [0, 1, 1])
        self.assertEqual(self.included(evening, "00:00:00"), [False])

    def test_round_the_clock(self) -> None:
        """From a time to the same one is a whole day, though the configuration refuses that."""
        whole = Hours(time(8), time(8), UTC)
        self.assertEqual(self.included(whole, "07:59:59", "08:00:00", "12:00:00"), [1, 1, 1])

    def test_clock_change(self) -> None:
        """The clock of the place counts: an hour that it shows twice is there twice."""
        hours = Hours(time(2), time(3), ZoneInfo("Europe/Paris"))
        for utc, included in (
            ("2026-10-24T23:59:59", False),  # 01:59:59 in summer time
            ("2026-10-25T00:30:00", True),
            ("2026-10-25T01:30:00", True),  # 02:30 once more
            ("2026-10-25T02:00:00", False),
            ("2026-03-29T00:30:00", False),  # 01:30; the next hour is left out
            ("2026-03-29T01:30:00", False),  # 03:30
        ):
            moment = datetime.fromisoformat(f"{utc}+00:00").timestamp()
            self.assertEqual(hours.include(moment), included, utc)

    def test_words(self) -> None:
        """As people write them."""
        hours = Hours(time(8), time(20, 30), ZoneInfo("Europe/Paris"))
        self.assertEqual(str(hours), "from 08:00 to 20:30 Europe/Paris")
