"""Requests as rules get them, and a policy whose HSM has its auth key only."""

from typing import TypeVar

from attrs import evolve
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from tests.support.octezclient import HSM_AUTH_KEY, SecretKey
from tests.support.stores import watermarks_on
from tests.support.vectors import OCTEZ, PAYLOADS, TZ3
from tezio_signer.config.settings import Settings
from tezio_signer.errors import Refused
from tezio_signer.policy import Policy, policy_of
from tezio_signer.request import Peer, SigningRequest
from tezio_signer.rules.rule import Admission, Check, Grant, Reservation, Rule
from tezio_signer.tezos.keys import PublicKey, PublicKeyHash, Signature

_Ask = TypeVar("_Ask", Admission, Check, Reservation)
MAINNET = "NetXdQprcVkpaWU"
OTHER_CHAIN = "NetXo5iVw1vBoxM"
WALLET = [SecretKey(key["sk"]) for key in OCTEZ["keys"] if not key["pkh"].startswith("tz4")]


def request_for(
    payload: bytes = PAYLOADS["noop"], key: PublicKeyHash = TZ3, peer: str = "127.0.0.1"
) -> SigningRequest:
    """A request to sign without authentication."""
    return SigningRequest.read(key, payload, Peer.at(peer))


def signed_by(key: SecretKey, request: SigningRequest) -> SigningRequest:
    """The same request with this key's authentication."""
    text = key.authenticate(str(request.key), request.data)
    return evolve(request, authentication=Signature.parse(text))


def rule_of(ask: _Ask, name: str = "") -> Rule[_Ask]:
    """A rule of a policy, which wants nothing in words."""
    return Rule(name, ask, lambda _: "")


class DecidingTestCase(SynchronousTestCase):
    """The rules of a configuration, without a device.

    :ivar asked_for: the keys that the HSM was asked for.
    :ivar now: what the clock on the wall says, in seconds since 1970.
    """

    def setUp(self) -> None:
        self.asked_for: list[PublicKeyHash] = []
        self.now = 1_800_000_000.0

    def public_key(self, key: PublicKeyHash) -> Deferred[PublicKey]:
        """What the HSM says, whichever key it is asked for."""
        self.asked_for.append(key)
        return succeed(PublicKey.parse(HSM_AUTH_KEY.public_key))

    def policy(self, settings: Settings) -> Policy:
        """The policy of a configuration, with watermarks of its own."""

        def now() -> float:
            return self.now

        watermarks = watermarks_on(floors=settings.floors, now=now, steady=now)
        watermarks.startService()
        self.addCleanup(watermarks.stopService)
        return policy_of(settings, self.public_key, watermarks, Clock(), now=lambda: self.now)

    def decide(self, settings: Settings, *requests: SigningRequest) -> Grant:
        """What is granted to the last of some requests; raises what it is refused with."""
        policy = self.policy(settings)
        *earlier, last = requests
        for request in earlier:
            self.successResultOf(policy.decide(request))
        result: list[Grant | Failure] = []
        policy.decide(last).addBoth(result.append)
        if isinstance(result[0], Failure):
            result[0].raiseException()
        assert isinstance(result[0], Grant)
        return result[0]

    def refused(
        self,
        kind: type[Refused],
        says: str,
        settings: Settings,
        *requests: SigningRequest,
    ) -> None:
        """Check that the last of some requests is refused, and in which words."""
        with self.assertRaises(kind) as refused:
            self.decide(settings, *requests)
        self.assertIn(says, str(refused.exception))
