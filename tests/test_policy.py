"""The policy: which rules are asked, and in which order."""

from attrs import evolve
from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.trial.unittest import SynchronousTestCase

from tests.support.deciding import (
    MAINNET,
    OTHER_CHAIN,
    DecidingTestCase,
    request_for,
    rule_of,
    signed_by,
)
from tests.support.genericpayloads import noop_payload
from tests.support.harness import settings_with
from tests.support.octezclient import HSM_AUTH_KEY, HSM_KEYS
from tests.support.vectors import AUTH, OCTEZ, PAYLOADS, TZ1, TZ3, block, consensus
from tezio_signer.config.settings import Limits, Security, Settings, SigningKey
from tezio_signer.errors import (
    Conflict,
    Forbidden,
    NotAdmitted,
    Refused,
    TooLarge,
    TooMany,
    Unauthenticated,
    UnknownKey,
)
from tezio_signer.policy import Policy
from tezio_signer.request import Credentials, Peer, SigningRequest
from tezio_signer.rules.rule import Grant, Reservation, Rule
from tezio_signer.tezos.keys import PublicKeyHash
from tezio_signer.tezos.payload import Operation

NOOP = PAYLOADS["noop"]
# A DAL attestation may be as long as it likes, and is of a chain, of a level and too long.
LONG_ATTESTATION = consensus("att_dal_5", 7, 2)[:-1] + b"\x80" * 1000 + b"\x01"


class AdmissionTests(DecidingTestCase):
    """Who may ask at all."""

    def test_address_and_user(self) -> None:
        """Both count, and are asked about before anything is read."""
        policy = self.policy(settings_with(allowed_uids=frozenset({1000})))
        self.assertEqual(policy.admit(Peer()), Peer())
        self.assertRaises(NotAdmitted, policy.admit, Peer.at("192.0.2.1"))
        user = Credentials(pid=1, uid=1001, gid=1)
        self.assertRaises(NotAdmitted, policy.admit, Peer(credentials=user))
        policy.admit(Peer(credentials=evolve(user, uid=1000)))

    def test_switched_off(self) -> None:
        """Where addresses are not looked at, users still are, if any are named."""
        off = settings_with(security=Security(remote_ip_check=False))
        user = Peer(credentials=Credentials(pid=1, uid=1001, gid=1))
        self.policy(off).admit(Peer.at("192.0.2.1"))
        self.policy(off).admit(user)
        named = self.policy(evolve(off, allowed_uids=frozenset({1000})))
        self.assertRaises(NotAdmitted, named.admit, user)


class PolicyTests(DecidingTestCase):
    """The rules of a configuration."""

    def test_order(self) -> None:
        """A request which every rule refuses, put right one rule after the other."""
        key = SigningKey(TZ3, frozenset(), auth_req=True, chains=frozenset([OTHER_CHAIN]))
        settings = Settings({TZ3: key}, auth_key=AUTH)
        standing = signed_by(HSM_AUTH_KEY, request_for(consensus("att", 8, 0)))
        request = request_for(LONG_ATTESTATION, TZ1)
        self.refused(UnknownKey, f"no keys for the source contract {TZ1}", settings, request)
        request = request_for(LONG_ATTESTATION, TZ3)
        self.refused(Unauthenticated, "missing authentication", settings, request)
        wrong = signed_by(HSM_KEYS[2], request)
        self.refused(Unauthenticated, "invalid authentication signature", settings, wrong)
        request = signed_by(HSM_AUTH_KEY, request)
        says = f"chain {MAINNET} is not allowed for {TZ3}; allowed: {OTHER_CHAIN}"
        self.refused(Forbidden, says, settings, request)
        key = evolve(key, chains=frozenset([MAINNET, OTHER_CHAIN]))
        settings = evolve(settings, signing_keys={TZ3: key})
        says = f"magic byte 0x13 (attestation) not allowed for {TZ3}; allowed: none"
        self.refused(Forbidden, says, settings, request)
        key = evolve(key, allowed_ops=frozenset([Operation.ATTESTATION]))
        settings = evolve(settings, signing_keys={TZ3: key})
        says = "the payload has 1081 bytes; a Tezio HSM signs 1015 at most"
        self.refused(TooLarge, says, settings, request)
        request = signed_by(HSM_AUTH_KEY, request_for(consensus("att_dal_5", 7, 2)))
        says = "attestation at level 7 round 2 is not above the high watermark, level 8 round 0"
        self.refused(Conflict, says, settings, standing, request)
        self.assertIsNotNone(self.decide(settings, request).claim)

    def test_names(self) -> None:
        """Names stay the same, since people count by them, and in this order they are asked."""
        policy = self.policy(settings_with(limits=Limits(signatures_per_minute=1)))
        lists = (policy.admissions, policy.checks, policy.reservations)
        self.assertEqual(
            [[rule.name for rule in rules] for rules in lists],
            [
                ["address", "user"],
                [
                    *("key", "authentication", "chain", "operation"),
                    *("decoded", "source", "named_kinds", "kinds", "destinations", "delegates"),
                    *("proposals", "ballots", "max_amount", "max_fee", "hours"),
                    "size",
                ],
                ["rate", "per_day", "watermark"],
            ],
        )

    def test_refusals_name_their_rule(self) -> None:
        """What a rule refuses has its name, whether it raises or fails."""
        limited = settings_with(auth_req=True, limits=Limits(signatures_per_minute=1))
        for settings, name, requests in (
            (evolve(limited, signing_keys={}), "key", [request_for()]),
            (limited, "authentication", [request_for()]),
            (settings_with(chains=[OTHER_CHAIN]), "chain", [request_for(block(7, 0))]),
            (settings_with(()), "operation", [request_for()]),
            (settings_with(), "size", [request_for(noop_payload(1016))]),
            (evolve(limited, security=Security(auth_check=False)), "rate", [request_for()] * 2),
            (settings_with(), "watermark", [request_for(block(level, 0)) for level in (7, 6)]),
        ):
            with self.assertRaises(Refused) as refused:
                self.decide(settings, *requests)
            self.assertEqual(refused.exception.rule, name)
        for peer, name in (
            (Peer.at("192.0.2.1"), "address"),
            (Peer(credentials=Credentials(1, 1001, 1)), "user"),
        ):
            policy = self.policy(settings_with(allowed_uids=frozenset()))
            with self.assertRaises(NotAdmitted) as not_admitted:
                policy.admit(peer)
            self.assertEqual(not_admitted.exception.rule, name)

    def test_switches(self) -> None:
        """Each protection can be switched off, and works without the others."""
        key = SigningKey(TZ3, frozenset([Operation.GENERIC]), auth_req=True)
        settings = Settings({TZ3: key}, auth_key=AUTH)
        baking = evolve(settings, signing_keys={TZ3: evolve(key, allowed_ops=frozenset(Operation))})
        a_block, lower = (signed_by(HSM_AUTH_KEY, request_for(block(level, 0))) for level in (7, 6))
        cases: list[tuple[str, Settings, list[SigningRequest], type[Refused]]] = [
            ("auth_check", settings, [request_for()], Unauthenticated),
            ("signing_policy_check", settings, [a_block], Forbidden),
            ("high_water_mark_check", baking, [a_block, lower], Conflict),
        ]
        all_off = Security(False, False, False, False)
        for name, these, requests, kind in cases:
            alone = evolve(these, security=evolve(all_off, **{name: True}))
            self.refused(kind, "", alone, *requests)
            without = evolve(these, security=evolve(Security(), **{name: False}))
            self.decide(without, *requests)

    def test_what_stays_when_all_is_switched_off(self) -> None:
        """Key, chain and length are asked for in any case."""
        settings = settings_with(
            (), auth_req=True, chains=[OTHER_CHAIN], security=Security(False, False, False, False)
        )
        unknown = PublicKeyHash.parse(OCTEZ["keys"][0]["pkh"])
        self.refused(UnknownKey, "no keys", settings, request_for(NOOP, unknown))
        self.refused(Forbidden, "chain", settings, request_for(block(7, 0)))
        self.refused(TooLarge, "1016 bytes", settings, request_for(noop_payload(1016)))
        self.assertIsNone(self.decide(settings, request_for(noop_payload(1015))).claim)

    def test_rate(self) -> None:
        """A rate is kept where it is configured; what is undone is not counted."""
        limited = settings_with(limits=Limits(signatures_per_minute=1))
        self.refused(TooMany, "more than 1 generic", limited, request_for(), request_for())
        policy = self.policy(limited)
        for _ in range(2):
            self.successResultOf(policy.decide(request_for())).undo()
        self.decide(settings_with(), *[request_for()] * 3)


class ChainTests(SynchronousTestCase):
    """How rules are asked, whatever they are."""

    def setUp(self) -> None:
        self.order: list[str] = []
        self.undone: list[str] = []

    def reservation(self, name: str) -> Rule[Reservation]:
        """A rule that reserves something."""

        def rule(_: SigningRequest) -> Grant:
            self.order.append(name)
            return Grant(undo=lambda: self.undone.append(name))

        return rule_of(rule)

    def test_rule_that_takes_its_time(self) -> None:
        """A rule may answer with a Deferred, and the next one waits for it."""
        checked: Deferred[None] = Deferred()
        reserved: Deferred[Grant] = Deferred()

        def check(_: SigningRequest) -> Deferred[None]:
            self.order.append("check")
            return checked

        policy = Policy(
            checks=(rule_of(check), rule_of(lambda _: self.order.append("another"))),
            reservations=(rule_of(lambda _: reserved), self.reservation("last")),
        )
        decision = policy.decide(request_for())
        self.assertEqual(self.order, ["check"])
        checked.callback(None)
        self.assertNoResult(decision)
        self.assertEqual(self.order, ["check", "another"])
        reserved.callback(Grant(undo=lambda: self.undone.append("late")))
        self.successResultOf(decision).undo()
        self.assertEqual(self.order, ["check", "another", "last"])
        self.assertEqual(self.undone, ["last", "late"])

    def test_a_check_refuses(self) -> None:
        """Nothing is reserved then."""

        def refuse(_: SigningRequest) -> None:
            raise Forbidden("no")

        policy = Policy(checks=(rule_of(refuse),), reservations=(self.reservation("one"),))
        self.failureResultOf(policy.decide(request_for()), Forbidden)
        self.assertEqual((self.order, self.undone), ([], []))

    def test_a_reservation_refuses(self) -> None:
        """What was reserved before it is given back, the last first."""

        def refuse(_: SigningRequest) -> Grant:
            raise TooMany("no")

        before = (self.reservation("one"), self.reservation("two"))
        policy = Policy(reservations=(*before, rule_of(refuse), self.reservation("never")))
        self.failureResultOf(policy.decide(request_for()), TooMany)
        self.assertEqual((self.order, self.undone), (["one", "two"], ["two", "one"]))

    def test_client_leaves(self) -> None:
        """So it is when the client goes away meanwhile."""
        waiting: Deferred[Grant] = Deferred()
        policy = Policy(reservations=(self.reservation("one"), rule_of(lambda _: waiting)))
        decision = policy.decide(request_for())
        decision.cancel()
        self.failureResultOf(decision, CancelledError)
        self.assertEqual(self.undone, ["one"])

    def test_switched_off(self) -> None:
        """A rule that is switched off is not asked."""
        off = evolve(self.reservation("off"), off="security.some_check")
        policy = Policy(reservations=(off, self.reservation("on")))
        self.successResultOf(policy.decide(request_for()))
        self.assertEqual(self.order, ["on"])

    def test_about_something_else(self) -> None:
        """A rule on operations of one kind is asked of these, and of no others."""

        def check(_: SigningRequest) -> None:
            self.order.append("check")

        only = frozenset([Operation.GENERIC])
        reserved = evolve(self.reservation("generic"), only=only)
        policy = Policy(
            checks=(evolve(rule_of(check), only=only),),
            reservations=(reserved, self.reservation("all")),
        )
        self.successResultOf(policy.decide(request_for(block(7, 0))))
        self.assertEqual(self.order, ["all"])
        self.successResultOf(policy.decide(request_for(NOOP)))
        self.assertEqual(self.order, ["all", "check", "generic", "all"])

    def test_fault(self) -> None:
        """A fault of a rule stays what it is."""

        def broken(_: SigningRequest) -> Deferred[None]:
            return fail(ZeroDivisionError())

        policy = Policy(checks=(rule_of(broken),))
        self.failureResultOf(policy.decide(request_for()), ZeroDivisionError)

    def test_no_rules(self) -> None:
        """Without a rule nothing is refused."""
        grant = self.successResultOf(Policy().decide(request_for()))
        self.assertIsNone(grant.claim)
        grant.undo()
