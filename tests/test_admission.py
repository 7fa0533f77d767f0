"""Peers that may ask for nothing at all: their connection is closed, not only refused."""

from ipaddress import ip_network

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.support.harness import settings_with
from tests.support.stores import watermarks_on
from tests.support.vectors import PAYLOADS, TZ3
from tezio_signer.errors import NotAdmitted
from tezio_signer.policy import (
    Credentials,
    Peer,
    SigningRequest,
    allowed_peer,
    allowed_user,
    check_peer,
    check_user,
    decide,
    rules_for,
)
from tezio_signer.tezos.keys import PublicKey, PublicKeyHash

ALLOWED = (ip_network("10.0.0.0/24"),)
USERS = frozenset({1000})
USER, STRANGER = (Credentials(pid=7, uid=uid, gid=0) for uid in (1000, 1001))


def asked_by(peer: Peer) -> SigningRequest:
    """A request of this peer."""
    return SigningRequest.read(TZ3, PAYLOADS["noop"], peer)


class AdmissionTests(SynchronousTestCase):
    """The kind of the refusal tells a listener what to do."""

    def test_address(self) -> None:
        """An address that is not allowed is not admitted."""
        error = self.assertRaises(NotAdmitted, check_peer, Peer.at("192.0.2.1"), ALLOWED)
        self.assertEqual(str(error), "address 192.0.2.1 is not among allowed_ips")

    def test_user(self) -> None:
        """Nor is a user at a Unix socket who is not."""
        error = self.assertRaises(NotAdmitted, check_user, Peer(credentials=STRANGER), USERS)
        self.assertEqual(str(error), "user id 1001 is not among allowed_uids")

    def test_the_rules_say_the_same(self) -> None:
        """As rules, both refuse in the same way, and give back what they let through."""
        peers, users = allowed_peer(ALLOWED), allowed_user(USERS)
        self.assertRaises(NotAdmitted, peers, asked_by(Peer.at("192.0.2.1")))
        self.assertRaises(NotAdmitted, users, asked_by(Peer(credentials=STRANGER)))
        for rule, peer in ((peers, Peer.at("10.0.0.7")), (users, Peer(credentials=USER))):
            request = asked_by(peer)
            self.assertIs(rule(request), request)

    def test_in_the_list_of_rules(self) -> None:
        """Where users are named, the rule is asked before any other that takes something."""
        settings = settings_with(allowed_uids=USERS)
        watermarks = watermarks_on()
        watermarks.startService()
        self.addCleanup(watermarks.stopService)

        def unasked(_: PublicKeyHash) -> Deferred[PublicKey]:
            self.fail("a key was asked for")

        rules = rules_for(settings, unasked, watermarks, Clock())
        refused = decide(rules, asked_by(Peer(credentials=STRANGER)))
        self.failureResultOf(refused, NotAdmitted)
        self.successResultOf(decide(rules, asked_by(Peer(credentials=USER))))
