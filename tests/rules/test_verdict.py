"""What rules say when each is asked by itself."""

from collections.abc import Mapping
from typing import NoReturn

from attrs import evolve
from twisted.internet.defer import Deferred, fail, succeed
from twisted.trial.unittest import SynchronousTestCase

from tests.support.changedclaim import changed_claim
from tests.support.deciding import DecidingTestCase, request_for, rule_of
from tests.support.harness import settings_with
from tests.support.vectors import PAYLOADS, TZ3, block
from tezio_signer.config.settings import Limits, Security, Settings
from tezio_signer.errors import Forbidden, Malformed, NotAdmitted, Refused, TooMany, Unavailable
from tezio_signer.policy import Policy
from tezio_signer.request import Peer, SigningRequest
from tezio_signer.rules.generic import contents_rules
from tezio_signer.rules.rule import Check, Grant, Reservation, Rule
from tezio_signer.rules.verdict import Answer, NotKnownHere, Stage, Verdict
from tezio_signer.tezos.keys import Curve, Signature
from tezio_signer.watermarks.claims import Claim

CONTENTS = {rule.name for rule in contents_rules(settings_with(), lambda: 0.0)} | {"per_day"}
"""The rules on what a generic operation contains, whose words `test_generic` is about."""


def passes(_: object) -> None:
    """Refuse nothing."""


def refuses(_: object) -> NoReturn:
    """Refuse everything."""
    raise Forbidden("no")


class ExplainTests(SynchronousTestCase):
    """How rules are asked, whatever they are."""

    def explain(
        self,
        policy: Policy,
        asked: SigningRequest | Refused | None = None,
        assumed: Mapping[str, str] | None = None,
    ) -> dict[str, Verdict]:
        """All verdicts, by their rules, in their order."""
        explaining = policy.explain(Peer(), asked or request_for(), assumed or {})
        verdicts = self.successResultOf(Deferred.fromCoroutine(explaining))
        return {verdict.rule: verdict for verdict in verdicts}

    def test_each_by_itself(self) -> None:
        """Rules are asked in their order, also those behind one that refuses."""
        late: Deferred[None] = Deferred()

        def too_many(_: SigningRequest) -> Deferred[Grant]:
            return fail(TooMany("too many"))

        def reserved(_: SigningRequest) -> Deferred[Grant]:
            return succeed(Grant())

        def waits(_: SigningRequest) -> Deferred[None]:
            return late

        checks: tuple[Rule[Check], ...] = (
            rule_of(refuses, "one"),
            rule_of(waits, "two"),
        )
        reservations: tuple[Rule[Reservation], ...] = (
            rule_of(too_many, "three"),
            rule_of(reserved, "four"),
        )
        policy = Policy((rule_of(passes, "zero"),), checks, reservations)
        explaining = Deferred.fromCoroutine(policy.explain(Peer(), request_for(), {}))
        self.assertNoResult(explaining)
        late.callback(None)
        verdicts = self.successResultOf(explaining)
        self.assertEqual(
            [(verdict.stage, verdict.rule, verdict.answer) for verdict in verdicts],
            [
                (Stage.ADMISSION, "zero", Answer.PASSES),
                (Stage.READING, "reading", Answer.PASSES),
                (Stage.CHECK, "one", Answer.REFUSES),
                (Stage.CHECK, "two", Answer.PASSES),
                (Stage.RESERVATION, "three", Answer.REFUSES),
                (Stage.RESERVATION, "four", Answer.PASSES),
            ],
        )
        refused = verdicts[4].refused
        assert refused is not None
        self.assertEqual((refused.status, refused.rule), (429, "three"))
        self.assertEqual(verdicts[4].why, "too many")

    def test_needs(self) -> None:
        """A rule is not asked, not even what it wants, where another refuses that it needs."""

        def never(_: object) -> NoReturn:
            raise AssertionError("asked")

        policy = Policy(
            checks=(
                rule_of(refuses, "key"),
                rule_of(passes, "size"),
                Rule("chain", never, never, ("key",)),
                Rule("after the chain", never, never, ("size", "chain")),
                Rule("after the size", passes, lambda _: "is small", ("size",)),
            )
        )
        verdicts = self.explain(policy)
        answers = [verdict.answer for verdict in verdicts.values()][3:]
        self.assertEqual(answers, [Answer.NOT_ASKED, Answer.NOT_ASKED, Answer.PASSES])
        self.assertEqual(verdicts["chain"].why, "cannot be asked before it passes: key")
        self.assertEqual(verdicts["after the size"].demands, "is small")

    def test_unreadable(self) -> None:
        """What cannot be read is asked of those only who look at who asks."""
        policy = Policy(
            (rule_of(passes, "address"),), (rule_of(refuses, "key"),), (rule_of(refuses, "rate"),)
        )
        verdicts = self.explain(policy, Malformed("cut off"))
        self.assertEqual(
            {name: verdict.answer for name, verdict in verdicts.items()},
            {
                "address": Answer.PASSES,
                "reading": Answer.REFUSES,
                "key": Answer.NOT_ASKED,
                "rate": Answer.NOT_ASKED,
            },
        )
        self.assertEqual(verdicts["reading"].why, "cut off")

    def test_who_may_not_ask(self) -> None:
        """Who may not ask is told so, and all else is explained."""

        def nobody(_: Peer) -> None:
            raise NotAdmitted("no")

        verdicts = self.explain(Policy((rule_of(nobody, "address"),), (rule_of(passes, "key"),)))
        self.assertEqual(
            [verdict.answer for verdict in verdicts.values()],
            [Answer.REFUSES, Answer.PASSES, Answer.PASSES],
        )

    def test_off(self) -> None:
        """A rule that is switched off is not asked, and it is said what has done so."""
        off = evolve(rule_of(refuses, "address"), off="security.remote_ip_check")
        verdict = self.explain(Policy((off,)))["address"]
        self.assertEqual(verdict.answer, Answer.OFF)
        self.assertEqual(verdict.why, "security.remote_ip_check is off")

    def test_assumed(self) -> None:
        """What is not known here is not asked, or is found out to be not known."""

        def unknown(_: SigningRequest) -> None:
            raise NotKnownHere("in the HSM only")

        policy = Policy(checks=(rule_of(refuses, "rate"), rule_of(unknown, "authentication")))
        verdicts = self.explain(policy, assumed={"rate": "the daemon counts"})
        self.assertEqual(
            [(verdicts[name].answer, verdicts[name].why) for name in ("rate", "authentication")],
            [(Answer.ASSUMED, "the daemon counts"), (Answer.ASSUMED, "in the HSM only")],
        )

    def test_fault(self) -> None:
        """A fault of a rule is no verdict."""

        def broken(_: object) -> None:
            raise ZeroDivisionError

        explaining = Policy(checks=(rule_of(broken),)).explain(Peer(), request_for(), {})
        self.failureResultOf(Deferred.fromCoroutine(explaining), ZeroDivisionError)


class WordsTests(DecidingTestCase):
    """What the rules of a configuration want, in words."""

    def verdicts(
        self, settings: Settings, *payloads: bytes, peer: str = "127.0.0.1"
    ) -> dict[str, Verdict]:
        """All verdicts on the last of some payloads; the others were asked for before."""
        policy = self.policy(settings)
        for payload in payloads:
            request = request_for(payload, peer=peer)
            explaining = policy.explain(request.peer, request, {})
            verdicts = self.successResultOf(Deferred.fromCoroutine(explaining))
        return {verdict.rule: verdict for verdict in verdicts}

    def demands(self, settings: Settings, payload: bytes = PAYLOADS["noop"]) -> dict[str, str]:
        """What each rule wants."""
        verdicts = self.verdicts(settings, payload)
        return {name: verdict.demands for name, verdict in verdicts.items()}

    def test_generic(self) -> None:
        """Rules about levels say that they do not concern it."""
        demands = self.demands(settings_with(limits=Limits(signatures_per_minute=3)))
        shown = {name: words for name, words in demands.items() if name not in CONTENTS}
        self.assertEqual(
            shown,
            {
                "address": "comes from 127.0.0.1 or ::1",
                "user": "comes from any user, if at a Unix socket",
                "reading": "can be read to its last byte",
                "key": "is for a key of the configuration",
                "authentication": "needs no authentication (auth_req)",
                "chain": "is for no chain in particular",
                "operation": "is any of legacy_block, legacy_endorsement, generic, "
                "authentication, michelson, block, preattestation, attestation",
                "size": "has 1015 bytes at most",
                "rate": "is among 3 generic operations a minute from one address at most",
                "watermark": "has no level, and so no watermark",
            },
        )

    def test_block(self) -> None:
        """Chain, floor and mark."""
        settings = settings_with(chains=["NetXdQprcVkpaWU"], allowed_uids=frozenset({1000, 0}))
        demands = self.demands(evolve(settings, floors={}), block(7, 0))
        self.assertEqual(demands["user"], "comes from user id 0 or 1000, if at a Unix socket")
        self.assertEqual(demands["chain"], "is for NetXdQprcVkpaWU")
        mark = "is above the high watermark, or is what was signed there"
        self.assertEqual(demands["watermark"], f"{mark}; 500000 levels ahead at most")

    def test_off(self) -> None:
        """Each switch switches its rule off, and no other that a block is asked about."""
        off = settings_with(security=Security(False, False, False, False))
        verdicts = self.verdicts(off, block(7, 0))
        self.assertFalse(CONTENTS & verdicts.keys())  # a block has no such contents
        whys = {name: verdict.why for name, verdict in verdicts.items() if verdict.why}
        self.assertEqual(
            whys,
            {
                "address": "security.remote_ip_check is off",
                "authentication": "security.auth_check is off",
                "operation": "security.signing_policy_check is off",
                "watermark": "security.high_water_mark_check is off",
            },
        )

    def test_marks(self) -> None:
        """What would become of the mark."""
        settings = settings_with()
        for payloads, why in (
            ([block(7, 1)], "there is no mark yet; it would be at level 7 round 1"),
            (
                [block(7, 1), block(9, 0)],
                "the mark would move from level 7 round 1 to level 9 round 0",
            ),
            ([block(7, 1)] * 2, "claimed before, and no signature of it is stored"),
            (
                [block(7, 1), block(7, 1, 1)],
                "block at level 7 round 1 is already signed with different data",
            ),
        ):
            self.assertEqual(self.verdicts(settings, *payloads)["watermark"].why, why)

    def claimed(self, policy: Policy, request: SigningRequest) -> Claim:
        """The claim that a policy grants."""
        claim = self.successResultOf(policy.decide(request)).claim
        assert claim is not None
        return claim

    def last(self, policy: Policy, request: SigningRequest) -> Verdict:
        """What the last rule says."""
        explaining = policy.explain(request.peer, request, {})
        return self.successResultOf(Deferred.fromCoroutine(explaining))[-1]

    def test_signed_before(self) -> None:
        """What has its signature in the store is not signed anew."""
        policy, request = self.policy(settings_with()), request_for(block(7, 1))
        signature = Signature(Curve.P256, bytes(64))
        self.successResultOf(self.claimed(policy, request).complete(signature))
        self.assertEqual(
            self.last(policy, request).why,
            "signed before: the answer is the signature in the store",
        )

    def test_not_kept(self) -> None:
        """Whether the copy of the store could keep the mark matters to nobody."""
        request = request_for(block(7, 1))
        claim = self.claimed(self.policy(settings_with()), request)
        grant = Grant(changed_claim(claim, durable=fail(Unavailable("disk full"))))
        policy = Policy(reservations=(rule_of(lambda _: grant),))
        self.assertIs(self.last(policy, request).answer, Answer.PASSES)

    def test_key_for_which_nobody_may_authenticate(self) -> None:
        """It is said that nobody may."""
        settings = settings_with(auth_req=True)
        keys = {TZ3: evolve(settings.signing_keys[TZ3], authorized_keys=())}
        settings = evolve(settings, signing_keys=keys)
        wanted = self.demands(settings)["authentication"]
        self.assertEqual(wanted, "is authenticated by nobody: no key may")
