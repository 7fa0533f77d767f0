"""The rules on what generic operations contain: what the table of examples does not show."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from attrs import evolve
from twisted.internet.defer import Deferred

from tests.support.deciding import DecidingTestCase, request_for
from tests.support.operationpayloads import payload_of
from tests.support.vectors import OCTEZ, TZ1, TZ2, TZ3, block
from tezio_signer.config.document import settings_from
from tezio_signer.config.fields import parse
from tezio_signer.config.operations import NAMED_ONLY, Destination, OperationRules
from tezio_signer.config.settings import Settings, SigningKey
from tezio_signer.errors import Forbidden, Malformed
from tezio_signer.policy import Policy
from tezio_signer.request import Peer, SigningRequest
from tezio_signer.rules.rule import Check, Rule
from tezio_signer.rules.verdict import Answer
from tezio_signer.tezos.operations import CONSENSUS_KINDS, CONSENSUS_TAGS
from tezio_signer.tezos.payload import Operation

KT1 = "KT1PWx2mnDueood7fEmfbBDKx1D9BAnnXitn"
PROTOCOL = "PsRiotumaAMotcRoDWW1bysEhQy2n1M5fy8JgRp8jjRfHGmfeA7"
PUBLIC_KEY = OCTEZ["keys"][1]["pk"]
TRANSFER = {"kind": "transaction", "amount": 2_000_000, "destination": str(TZ1)}
UNKNOWN = OperationRules(unknown=True)


def ruled(rules: OperationRules | None, *others: SigningKey) -> Settings:
    """Settings of a key that signs generic operations, with these rules."""
    operations = frozenset([Operation.GENERIC, Operation.BLOCK, Operation.MICHELSON])
    key = SigningKey(TZ3, operations, auth_req=False, operations=rules)
    return Settings({each.key: each for each in (key, *others)})


def asked(*operations: dict[str, Any], **more: Any) -> SigningRequest:
    """A request for these operations of the key's own account."""
    return request_for(payload_of(*operations, **more))


class NotUnderstoodTests(DecidingTestCase):
    """What cannot be decoded."""

    def cut(self, payload: bytes) -> Iterable[SigningRequest]:
        """All beginnings of a payload in which the first kind is read."""
        for length in range(34, len(payload)):
            yield request_for(payload[:length])

    def test_not_understood(self) -> None:
        """No beginning of an operation, nor one with more behind it, is signed."""
        payload = payload_of(TRANSFER)
        for settings in (ruled(None), ruled(OperationRules())):
            policy = self.policy(settings)
            for request in [*self.cut(payload), request_for(payload + b"\x00")]:
                self.failureResultOf(policy.decide(request), Malformed)
            self.successResultOf(policy.decide(request_for(payload)))

    def test_explained(self) -> None:
        """Nothing is said of what is in it, unless the key signs it all the same."""
        request = request_for(payload_of(TRANSFER) + b"\x99")
        for rules, says in ((None, Answer.NOT_ASKED), (UNKNOWN, Answer.PASSES)):
            asking = self.policy(ruled(rules)).explain(Peer(), request, {})
            verdicts = self.successResultOf(Deferred.fromCoroutine(asking))
            answers = {verdict.rule: verdict.answer for verdict in verdicts}
            for rule in ("source", "named_kinds", "destinations", "max_amount", "max_fee"):
                self.assertEqual(answers[rule], says, rule)

    def test_allowed(self) -> None:
        """With `unknown: allow`, what has a kind that is not known is signed."""
        policy = self.policy(ruled(UNKNOWN))
        for tag in (b"\x00", b"\x99", b"\xff"):
            for before in (payload_of(), payload_of(TRANSFER)):
                for behind in (b"", bytes(21)):
                    request = request_for(before + tag + behind)
                    self.successResultOf(policy.decide(request))

    def test_octez_reads_more(self) -> None:
        """What Octez takes, and this signer does not, passes by no rule.

        Octez keeps the bytes of Micheline as they came, and verifies the signature for them: an
        integer that is minus zero, a pair in the form for three arguments. So a transfer with it
        is carried out, and a constant registered, with what has to be named behind it.
        """
        call = {**TRANSFER, "destination": KT1}
        for data in ("0040", "010000000101", "0907000000040001000200000000"):
            value = len(bytes.fromhex(data)).to_bytes(4, "big") + bytes.fromhex(data)
            parameters = payload_of(call)[:-1] + b"\xff\x00" + value
            # The constant takes the fields of a manager operation from a delegation.
            header = payload_of({"kind": "delegation"}, source=str(TZ3))[33:-1]
            constant = payload_of() + b"\x6f" + header[1:] + value
            hidden = payload_of({"kind": "update_consensus_key", "pk": PUBLIC_KEY})[33:]
            for payload in (parameters, constant, constant + hidden):
                policy = self.policy(ruled(evolve(UNKNOWN, max_amount=0, max_fee=0)))
                refused = self.failureResultOf(policy.decide(request_for(payload)), Malformed)
                self.assertIn("Micheline has", str(refused.value))

    def test_zk_rollup_publish(self) -> None:
        """Nor does a kind that Octez has, and is not decoded: others may stand behind it."""
        refused = self.failureResultOf(
            self.policy(ruled(UNKNOWN)).decide(request_for(payload_of() + b"\xfb" + bytes(60))),
            Malformed,
        )
        self.assertIn("unknown: allow does not hold for this kind", str(refused.value))

    def test_known_kinds(self) -> None:
        """A kind that is known is refused all the same, also if it is named."""
        everything = evolve(UNKNOWN, kinds=NAMED_ONLY)
        for settings in (ruled(UNKNOWN), ruled(everything)):
            policy = self.policy(settings)
            for operation in (
                TRANSFER,
                {"kind": "drain_delegate", "destination": str(TZ1)},
                {"kind": "update_consensus_key", "pk": PUBLIC_KEY},
                {"kind": "update_companion_key", "pk": PUBLIC_KEY},
                {"kind": "attestation", "level": 7},
            ):
                for request in self.cut(payload_of(operation)):
                    refused = self.failureResultOf(policy.decide(request), Malformed).value
                    self.assertIn("unknown: allow does not hold for this kind", str(refused))

    def test_tags_of_consensus(self) -> None:
        """So is whatever has a tag of consensus, known or not."""
        policy = self.policy(ruled(UNKNOWN))
        for tag in CONSENSUS_TAGS:
            request = request_for(payload_of() + bytes([tag]) + bytes(3))
            self.failureResultOf(policy.decide(request), Malformed)
        self.successResultOf(policy.decide(request_for(payload_of() + b"\x99" + bytes(3))))

    def test_what_stands_before(self) -> None:
        """The operations before are held to every rule, as they are without what follows."""
        for rules, operation in (
            (OperationRules(), {"kind": "update_consensus_key", "pk": PUBLIC_KEY}),
            (OperationRules(), {**TRANSFER, "source": str(TZ2)}),
            (OperationRules(kinds=frozenset(["reveal"])), TRANSFER),
            (OperationRules(destinations=()), TRANSFER),
            (OperationRules(delegates=frozenset([str(TZ3)])), {"kind": "delegation"}),
            (
                OperationRules(proposals=frozenset(["other"])),
                {"kind": "ballot", "proposal": PROTOCOL, "ballot": "yay"},
            ),
            (
                OperationRules(ballots=frozenset(["nay"])),
                {"kind": "ballot", "proposal": PROTOCOL, "ballot": "yay"},
            ),
            (OperationRules(max_amount=1_999_999), TRANSFER),
            (OperationRules(max_fee=288), TRANSFER),
        ):
            policy = self.policy(ruled(evolve(rules, unknown=True)))
            for behind in ("99", "9900", "00"):
                alone, more = payload_of(operation), payload_of(operation) + bytes.fromhex(behind)
                first = self.failureResultOf(policy.decide(request_for(alone)), Forbidden)
                second = self.failureResultOf(policy.decide(request_for(more)), Forbidden)
                self.assertEqual(second.value.rule, first.value.rule)
        policy = self.policy(ruled(UNKNOWN))
        self.successResultOf(policy.decide(request_for(payload_of(TRANSFER) + b"\x99")))


class DefaultTests(DecidingTestCase):
    """The entrypoint `default`, where a contract may take parameters for any of its entrypoints."""

    def test_default(self) -> None:
        """With parameters it is any entrypoint; without them it is a transfer of tez."""
        plain = payload_of({**TRANSFER, "destination": KT1})
        # Right 1: what `%transfer` takes, in a contract with two entrypoints and no `default`.
        parameters = plain[:-1] + bytes.fromhex("ff 00 00000004 0508 0001")
        named = plain[:-1] + bytes.fromhex("ff ff 08 7472616e73666572 00000002 0001")
        for entrypoints, signed in (
            ((None,), (plain, parameters, named)),
            (("default",), (plain,)),
            (("default", "transfer"), (plain, named)),
            (("transfer",), (named,)),
            (("default", None), (plain, parameters, named)),
        ):
            places = tuple(Destination(KT1, entrypoint) for entrypoint in entrypoints)
            policy = self.policy(ruled(OperationRules(destinations=places)))
            for payload in (plain, parameters, named):
                decided = policy.decide(request_for(payload))
                if payload in signed:
                    self.successResultOf(decided)
                else:
                    self.failureResultOf(decided, Forbidden)

    def test_sentence(self) -> None:
        """It says why a listed entrypoint does not do."""
        payload = payload_of({**TRANSFER, "destination": KT1})[:-1]
        payload += bytes.fromhex("ff 00 00000002 0001")
        rules = OperationRules(destinations=(Destination(KT1, "default"),))
        refused = self.failureResultOf(
            self.policy(ruled(rules)).decide(request_for(payload)), Forbidden
        )
        self.assertEqual(
            str(refused.value),
            f"the operation is for {KT1}%default with parameters, which may call any entrypoint of "
            f"it, which is not among operations.destinations of {TZ3}; allowed: {KT1}%default",
        )


class WhoseTests(DecidingTestCase):
    """Each key has its own rules."""

    def test_of_each_key(self) -> None:
        """What one key may sign, another may not."""
        other = SigningKey(
            TZ1, frozenset([Operation.GENERIC]), False, operations=OperationRules(max_fee=0)
        )
        policy = self.policy(ruled(OperationRules(max_amount=0), other))
        sends = {**TRANSFER, "destination": str(TZ2)}
        free = {**sends, "fee": 0}
        costly = {"kind": "delegation", "fee": 1}
        for key, operation, signed in (
            (TZ3, free, False),
            (TZ3, costly, True),
            (TZ1, free, True),
            (TZ1, costly, False),
        ):
            payload = payload_of(operation, source=str(key))
            decided = policy.decide(SigningRequest.read(key, payload, Peer()))
            if signed:
                self.successResultOf(decided)
            else:
                self.failureResultOf(decided, Forbidden)


class WordsTests(DecidingTestCase):
    """What rules want, in words that follow "a request that"."""

    RULES = f"""\
policy:
    signing_keys:
        {TZ3}:
            allowed_ops: [generic]
            auth_req: False
            operations:
                kinds: [transaction, ballot, drain_delegate]
                destinations: [{TZ1}, "{KT1}%transfer"]
                delegates: [{TZ2}]
                proposals: [{PROTOCOL}]
                ballots: [yay, pass]
                max_fee: "0.5 tez"
                hours: {{from: "08:00", to: "20:00", time_zone: Europe/Paris}}
"""

    def words(self, policy: Policy, request: SigningRequest) -> dict[str, str]:
        """Of the rules on contents."""
        names = [rule.name for rule in policy.checks]
        own = policy.checks[names.index("decoded") : names.index("size")]
        return {rule.name: rule.demands(request) for rule in own}

    def test_with_rules(self) -> None:
        """All that a key allows is named."""
        settings = settings_from(parse(self.RULES, "config.yaml"), Path("/"))
        self.assertEqual(
            self.words(self.policy(settings), asked(TRANSFER)),
            {
                "decoded": "is understood to its last byte",
                "source": f"is of the account {TZ3}",
                "named_kinds": "is no update_companion_key, update_consensus_key or operation of "
                "consensus that kinds does not name",
                "kinds": "is of the kind ballot, drain_delegate or transaction",
                "destinations": f"is for {TZ1} or {KT1}%transfer, if it sends or calls anything",
                "delegates": f"delegates to {TZ2}, if it delegates",
                "proposals": f"is about {PROTOCOL}, if it proposes or votes",
                "ballots": "votes pass or yay, if it votes",
                "max_amount": "sends any amount",
                "max_fee": "pays at most 0.5 tez of fees",
                "hours": "comes from 08:00 to 20:00 Europe/Paris",
            },
        )

    def test_without_rules(self) -> None:
        """What is not limited is said as well."""
        said = self.words(self.policy(ruled(OperationRules(unknown=True))), asked(TRANSFER))
        del said["named_kinds"]
        self.assertEqual(
            said,
            {
                "decoded": "may be of a kind that this signer does not know (unknown: allow)",
                "source": f"is of the account {TZ3}",
                "kinds": "is of any kind",
                "destinations": "is for any destination",
                "delegates": "delegates to anybody",
                "proposals": "is about any protocol",
                "ballots": "votes as it likes",
                "max_amount": "sends any amount",
                "max_fee": "pays any fee",
                "hours": "comes at any time",
            },
        )
        said = self.words(self.policy(ruled(OperationRules(max_amount=5))), asked(TRANSFER))
        self.assertEqual(said["max_amount"], "sends at most 0.000005 tez")
        said = self.words(self.policy(ruled(OperationRules(kinds=NAMED_ONLY))), asked(TRANSFER))
        self.assertEqual(said["named_kinds"], "may be of any kind")
        named = OperationRules(kinds=CONSENSUS_KINDS | {"update_companion_key"})
        said = self.words(self.policy(ruled(named)), asked(TRANSFER))
        wanted = "is no drain_delegate or update_consensus_key that kinds does not name"
        self.assertEqual(said["named_kinds"], wanted)

    def test_other_operations(self) -> None:
        """Blocks are nothing to them, and Michelson data to all but one."""
        policy = self.policy(ruled(None))
        no_spending = "may come at any time: it is no operation that spends"
        for name, words in self.words(policy, request_for(block(7, 0))).items():
            self.assertIn("is no generic operation" if name != "hours" else no_spending, words)
        said = self.words(policy, request_for(bytes.fromhex("05030b")))
        self.assertEqual(said["hours"], "comes at any time")


class OnlyTests(DecidingTestCase):
    """Rules on contents cost what has none nothing."""

    def test_not_asked(self) -> None:
        """None of them is asked about a block."""

        def fail(_: SigningRequest) -> None:
            self.fail("asked")

        def never(rule: Rule[Check]) -> Rule[Check]:
            return evolve(rule, ask=fail) if rule.only else rule

        policy = self.policy(ruled(None))
        policy = evolve(policy, checks=tuple(map(never, policy.checks)))
        self.successResultOf(policy.decide(request_for(block(7, 0))))
        about = {rule.name for rule in policy.checks if rule.only is not None}
        self.assertEqual(len(about), 11)

    def test_they_pass_it_if_they_are_asked(self) -> None:
        """`explain` asks them all, also of a block."""
        policy = self.policy(ruled(OperationRules(kinds=frozenset(), max_amount=0, max_fee=0)))
        for rule in policy.checks:
            if rule.only is not None:
                self.assertIsNone(rule.ask(request_for(block(7, 0))))


class DrainTests(DecidingTestCase):
    """An amount that nobody knows."""

    def test_beside_a_limit(self) -> None:
        """The configuration refuses it; settings that are made otherwise are held to it too."""
        rules = OperationRules(kinds=frozenset(["drain_delegate"]), max_amount=2**62)
        drain = asked({"kind": "drain_delegate", "destination": str(TZ1)})
        self.refused(Forbidden, "how much it drains is not known", ruled(rules), drain)
        self.decide(ruled(evolve(rules, max_amount=None)), drain)
