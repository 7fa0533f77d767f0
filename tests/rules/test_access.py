"""The rules on who asks: address, user and authentication, also at the listeners."""

import os
from ipaddress import ip_network
from socket import if_nametoindex

from attrs import evolve, frozen
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import UNIXClientEndpoint, connectProtocol
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase

from tests.support import octezclient
from tests.support.deciding import WALLET, DecidingTestCase, request_for, signed_by
from tests.support.harness import Harness, parse_response, reactor, settings_with
from tests.support.octezclient import HSM_AUTH_KEY, HSM_KEYS, message_in
from tests.support.vectors import AUTH, PAYLOADS, TZ1, TZ2, TZ3
from tezio_signer.config.networks import network_of
from tezio_signer.config.settings import Security, SigningKey
from tezio_signer.errors import NotAdmitted, Unauthenticated
from tezio_signer.request import Credentials, Peer
from tezio_signer.rules.access import allowed_address, allowed_user
from tezio_signer.tezos.keys import PublicKey
from tezio_signer.tezos.payload import Operation

NOOP = PAYLOADS["noop"]


class AddressTests(SynchronousTestCase):
    """From which addresses somebody may ask."""

    def test_zones(self) -> None:
        """A zone in allowed_ips counts, by name or number; without one, all zones are meant."""
        loopback = if_nametoindex("lo")
        for allowed, peer, admitted in (
            ("fe80::1%eth7", "fe80::1%eth7", True),
            ("fe80::1%eth7", "fe80::1%eth8", False),
            ("fe80::1%eth7", "fe80::1", False),
            (f"fe80::1%{loopback}", "fe80::1%lo", True),
            ("fe80::%lo/64", f"fe80::99%{loopback}", True),
            ("fe80::%lo/64", f"fe80::99%{loopback + 1}", False),
            ("fe80::1", "fe80::1%eth7", True),
            ("fe80::/64", "fe80::1%eth7", True),
        ):
            try:
                allowed_address((network_of(allowed),))(Peer.at(peer))
            except NotAdmitted:
                self.assertFalse(admitted, (allowed, peer))
            else:
                self.assertTrue(admitted, (allowed, peer))

    def test_networks(self) -> None:
        """Single addresses and networks, of both families, let their own in and nobody else."""
        allowed = tuple(map(ip_network, ("127.0.0.1", "10.0.0.0/24", "::1", "fd00::/8")))
        for host, welcome in (
            ("127.0.0.1", True),
            ("127.0.0.2", False),
            ("10.0.0.0", True),
            ("10.0.0.255", True),
            ("10.0.1.0", False),
            ("::ffff:10.0.0.7", True),
            ("::ffff:10.0.1.7", False),
            ("::1", True),
            ("::2", False),
            ("fd12::3%wlan0", True),
            ("fe80::1", False),
        ):
            if welcome:
                allowed_address(allowed)(Peer.at(host))
            else:
                with self.assertRaises(NotAdmitted) as refused:
                    allowed_address(allowed)(Peer.at(host))
                self.assertIn(str(Peer.at(host)), str(refused.exception))
        self.assertRaises(NotAdmitted, allowed_address(()), Peer())

    def test_mapped_networks(self) -> None:
        """A network of IPv4 mapped into IPv6 lets in who comes by IPv4."""
        for peer in ("10.9.8.7", "::ffff:10.9.8.7"):
            allowed_address((network_of("::ffff:10.0.0.0/104"),))(Peer.at(peer))

    def test_unix_socket(self) -> None:
        """Who is at a Unix socket is refused as 127.0.0.1, without saying which user it is."""
        peer = Peer(credentials=Credentials(pid=4242, uid=1000, gid=100))
        refused = self.assertRaises(NotAdmitted, allowed_address(()), peer)
        self.assertEqual(str(refused), "address 127.0.0.1 is not among allowed_ips")


class UserTests(SynchronousTestCase):
    """Which users may ask at a Unix socket."""

    def test_users(self) -> None:
        """At a Unix socket the user counts too, if users are named; elsewhere there is none."""
        root, other = Credentials(pid=7, uid=0, gid=0), Credentials(pid=8, uid=1000, gid=0)
        for credentials, allowed, welcome in (
            (root, None, True),
            (root, frozenset({0}), True),
            (other, frozenset({0, 1000}), True),
            (other, frozenset({0}), False),
            (root, frozenset(), False),
            (None, frozenset(), True),
        ):
            if welcome:
                allowed_user(allowed)(Peer(credentials=credentials))
            else:
                with self.assertRaises(NotAdmitted) as refused:
                    allowed_user(allowed)(Peer(credentials=credentials))
                self.assertRegex(str(refused.exception), r"^user id \d+ is not among allowed_uids$")


class AuthorizedTests(DecidingTestCase):
    """Whose authentication is good for which key."""

    def test_auth_key_is_asked_for_last(self) -> None:
        """The HSM's auth key is only needed when no authorized key has signed."""
        own = tuple(PublicKey.parse(key.public_key) for key in WALLET)
        settings = settings_with(auth_req=True, auth_key=AUTH, authorized_keys=own)
        self.decide(settings, signed_by(WALLET[3], request_for()))
        self.assertEqual(self.asked_for, [])
        self.decide(settings, signed_by(HSM_AUTH_KEY, request_for()))
        self.assertEqual(self.asked_for, [AUTH])
        self.decide(evolve(settings, security=Security(auth_check=False)), request_for())
        self.assertEqual(self.asked_for, [AUTH])

    def test_own_authorized_keys(self) -> None:
        """A key with authorized_keys of its own takes those and neither the general nor slot 0.

        Who is authorized for another key only is told so: octez-client takes the first of its
        wallet that is authorized for any.
        """
        general, own = (PublicKey.parse(key.public_key) for key in WALLET[:2])
        settings = settings_with(auth_req=True, auth_key=AUTH, authorized_keys=(general,))
        policy = evolve(settings.signing_keys[TZ3], authorized_keys=(own,))
        beside = SigningKey(TZ1, frozenset(Operation))
        settings = evolve(settings, signing_keys={TZ3: policy, TZ1: beside})
        self.decide(settings, signed_by(WALLET[1], request_for()))
        self.decide(settings, signed_by(WALLET[0], request_for(key=TZ1)))
        self.decide(settings, signed_by(HSM_AUTH_KEY, request_for(key=TZ1)))
        asked_for = list(self.asked_for)
        says = f"invalid authentication signature: {general.hash} is not among the authorized_keys"
        self.refused(Unauthenticated, says, settings, signed_by(WALLET[0], request_for()))
        for unauthorized in (HSM_AUTH_KEY, WALLET[2]):
            request = signed_by(unauthorized, request_for())
            self.refused(Unauthenticated, "invalid authentication signature", settings, request)
        self.assertEqual(self.asked_for, asked_for)
        says = f"{own.hash} is not among the authorized_keys of {TZ1}"
        request = signed_by(WALLET[1], request_for(key=TZ1))
        self.refused(Unauthenticated, says, settings, request)

    def test_nobody_else_is_authorized(self) -> None:
        """Without an auth key the authorized keys alone count; without any key nobody's does."""
        own = PublicKey.parse(WALLET[0].public_key)
        settings = settings_with(auth_req=True, authorized_keys=(own,))
        self.decide(settings, signed_by(WALLET[0], request_for()))
        for these in (settings, settings_with(auth_req=True)):
            for unauthorized in (WALLET[1], HSM_AUTH_KEY, HSM_KEYS[2]):
                request = signed_by(unauthorized, request_for())
                self.refused(Unauthenticated, "invalid authentication", these, request)
        self.assertEqual(self.asked_for, [])


@frozen
class Attempt:
    """Somebody's authentication of a request to sign the noop with the tz3 key."""

    what: str
    authentication: str | None
    status: int
    says: str = ""


class AuthenticationTests(TestCase):
    """Authentication at the HTTP listener, with keys and signatures made by other code."""

    def _attempts(self) -> list[Attempt]:
        pkh = str(TZ3)
        invalid = "invalid authentication signature"
        typed = {key: key.authenticate(pkh, NOOP) for key in (HSM_AUTH_KEY, *WALLET)}
        ed25519 = octezclient.from_base58check(bytes.fromhex("09f5cd8612"), typed[WALLET[0]])
        p256 = octezclient.from_base58check(bytes.fromhex("36f02c34"), typed[HSM_AUTH_KEY])
        return [
            *(Attempt(key.pkh, text, 200) for key, text in typed.items()),
            *(
                Attempt(f"generic, {key.pkh}", key.authenticate(pkh, NOOP, generic=True), 200)
                for key in typed
            ),
            Attempt("nothing", None, 401, "missing authentication signature field"),
            Attempt("an unauthorized key", HSM_KEYS[0].authenticate(pkh, NOOP), 401, invalid),
            Attempt("for another key", HSM_AUTH_KEY.authenticate(str(TZ1), NOOP), 401, invalid),
            Attempt("of another payload", HSM_AUTH_KEY.authenticate(pkh, b"\x03"), 401, invalid),
            Attempt("of the bare payload", HSM_AUTH_KEY.sign(NOOP), 401, invalid),
            Attempt(
                "an Ed25519 signature said to be of P-256",
                octezclient.to_base58check(bytes.fromhex("36f02c34"), ed25519),
                401,
                invalid,
            ),
            Attempt(
                "a P-256 signature said to be of secp256k1",
                octezclient.to_base58check(bytes.fromhex("0d7365133f"), p256),
                401,
                invalid,
            ),
            Attempt("zeros", octezclient.to_base58check(bytes.fromhex("04822b"), bytes(64)), 401),
            Attempt("ones", octezclient.to_base58check(bytes.fromhex("04822b"), b"\xff" * 64), 401),
        ]

    async def test_attempts(self) -> None:
        """Authorized keys of all curves and the HSM's own open, and nothing else does."""
        harness = Harness(
            settings_with(
                auth_req=True,
                auth_key=AUTH,
                authorized_keys=tuple(PublicKey.parse(key.public_key) for key in WALLET),
            )
        )
        await harness.start(self)
        for attempt in self._attempts():
            query = "?version=3"
            if attempt.authentication is not None:
                query = f"?authentication={attempt.authentication}&version=3"
            answer = await harness.sign(TZ3, NOOP, query)
            self.assertEqual((attempt.what, answer.status), (attempt.what, attempt.status))
            if attempt.status != 200:
                self.assertIn(attempt.says, message_in(answer.body), attempt.what)
                self.assertEqual(harness.written, b"", attempt.what)
            harness.written.clear()

    async def test_replay_for_another_key(self) -> None:
        """An authentication that was good for one key is good for no other."""
        harness = Harness(settings_with(auth_req=True, auth_key=AUTH))
        await harness.start(self)
        query = f"?authentication={HSM_AUTH_KEY.authenticate(str(TZ3), NOOP)}"
        for key, status in ((TZ3, 200), (TZ1, 401), (TZ2, 401), (TZ3, 200)):
            answer = await harness.sign(key, NOOP, query)
            self.assertEqual((key, answer.status), (key, status))

    async def test_auth_req_of_each_key(self) -> None:
        """A key that does not ask for authentication signs without, beside one that does."""
        settings = settings_with(auth_key=AUTH)
        keys = {**settings.signing_keys, TZ3: evolve(settings.signing_keys[TZ3], auth_req=True)}
        harness = Harness(evolve(settings, signing_keys=keys))
        await harness.start(self)
        for key, status in ((TZ1, 200), (TZ2, 200), (TZ3, 401)):
            self.assertEqual((await harness.sign(key, NOOP)).status, status)

    async def test_authentication_is_never_signed(self) -> None:
        """Whatever is allowed, nobody gets a signature that would authenticate him."""
        harness = Harness(settings_with(security=Security(False, False, False, False)))
        await harness.start(self)
        for key in (TZ1, TZ2, TZ3):
            payload = octezclient.authenticated_bytes(str(TZ3), NOOP)
            answer = await harness.sign(key, payload)
            self.assertEqual(answer.status, 403)
            self.assertIn("magic byte 0x04 (authentication)", message_in(answer.body))
        self.assertEqual(harness.written, b"")


class _OneRequest(Protocol):
    def __init__(self, request: bytes) -> None:
        self._request = request
        self._received = b""
        self.closed: Deferred[bytes] = Deferred()

    def connectionMade(self) -> None:
        assert self.transport is not None
        self.transport.write(self._request)

    def dataReceived(self, data: bytes) -> None:
        self._received += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.closed.callback(self._received)


class UnixSocketTests(TestCase):
    """A listener that only programs on this machine can reach."""

    async def test_unix_peer_counts_as_127_0_0_1(self) -> None:
        """Who comes over a Unix socket is let in or not as 127.0.0.1 would be."""
        request = b"GET /authorized_keys HTTP/1.1\r\nConnection: close\r\n\r\n"
        for network, status in (("127.0.0.1", 200), ("10.0.0.0/8", 403), ("::1", 403)):
            harness = Harness(settings_with(allowed_ips=(ip_network(network),)))
            path = os.path.relpath(self.mktemp())
            await harness.open(self, harness.site, path)
            endpoint = UNIXClientEndpoint(reactor, path)
            protocol = await connectProtocol(endpoint, _OneRequest(request))
            answer = parse_response(await protocol.closed)
            self.assertEqual((network, answer.status), (network, status))
