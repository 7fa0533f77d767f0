"""The rules: who may have what signed, and in which order that is asked."""

from ipaddress import ip_network
from socket import if_nametoindex
from typing import cast

from attrs import evolve, frozen
from twisted.internet.defer import Deferred, succeed
from twisted.internet.endpoints import UNIXClientEndpoint, connectProtocol
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase

from tests.support import octezclient
from tests.support.harness import Harness, parse_response, reactor, settings_with
from tests.support.octezclient import HSM_AUTH_KEY, HSM_KEYS, SecretKey, message_in
from tests.support.stores import watermarks_on
from tests.support.vectors import (
    AUTH,
    AUTHENTICATION,
    OCTEZ,
    PAYLOADS,
    TZ1,
    TZ2,
    TZ3,
    block,
    consensus,
)
from tezio_signer.config.settings import Security, Settings, SigningKey
from tezio_signer.errors import (
    Conflict,
    Forbidden,
    Malformed,
    NotAdmitted,
    Refused,
    TooLarge,
    Unauthenticated,
    UnknownKey,
)
from tezio_signer.listeners.wrapping import LimitedFactory
from tezio_signer.policy import (
    Credentials,
    Peer,
    SigningRequest,
    check_peer,
    check_user,
    decide,
    network_of,
    rules_for,
)
from tezio_signer.tezos.keys import PublicKey, PublicKeyHash, Signature
from tezio_signer.tezos.payload import Operation
from tezio_signer.watermarks.claims import Watermarks

MAINNET = "NetXdQprcVkpaWU"
OTHER_CHAIN = "NetXo5iVw1vBoxM"
NOOP = PAYLOADS["noop"]
# A DAL attestation may be as long as it likes, and is of a chain, of a level and too long.
LONG_ATTESTATION = consensus("att_dal_5", 7, 2)[:-1] + b"\x80" * 1000 + b"\x01"
WALLET = [SecretKey(key["sk"]) for key in OCTEZ["keys"] if not key["pkh"].startswith("tz4")]


def request_for(
    payload: bytes = NOOP, key: PublicKeyHash = TZ3, peer: str = "127.0.0.1"
) -> SigningRequest:
    """A request to sign without authentication."""
    return SigningRequest.read(key, payload, Peer.at(peer))


def signed_by(key: SecretKey, request: SigningRequest) -> SigningRequest:
    """The same request with this key's authentication."""
    text = key.authenticate(str(request.key), request.data)
    return evolve(request, authentication=Signature.parse(text))


class PeerTests(SynchronousTestCase):
    """Whom a connection is taken for."""

    def test_addresses(self) -> None:
        """IPv4 mapped into IPv6 is IPv4, a zone is kept, and a Unix socket is here."""
        for host, text in (
            ("127.0.0.1", "127.0.0.1"),
            ("::1", "::1"),
            ("::ffff:10.0.0.7", "10.0.0.7"),
            ("::FFFF:0a00:0007", "10.0.0.7"),
            ("fe80::1%eth0", "fe80::1%eth0"),
        ):
            self.assertEqual(str(Peer.at(host)), text)
        self.assertEqual(Peer(), Peer.at("127.0.0.1"))

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
                check_peer(Peer.at(peer), (network_of(allowed),))
            except NotAdmitted:
                self.assertFalse(admitted, (allowed, peer))
            else:
                self.assertTrue(admitted, (allowed, peer))

    def test_mapped_networks(self) -> None:
        """A network of IPv4 mapped into IPv6 means that of IPv4; wider ones stay IPv6."""
        for text, meant in (
            ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
            ("::ffff:10.0.0.7", "10.0.0.7/32"),
            ("::ffff:0:0/96", "0.0.0.0/0"),
            ("::/0", "::/0"),
            ("10.0.0.0/24", "10.0.0.0/24"),
        ):
            self.assertEqual(str(network_of(text)), meant)
        for peer in ("10.9.8.7", "::ffff:10.9.8.7"):
            check_peer(Peer.at(peer), (network_of("::ffff:10.0.0.0/104"),))

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
                check_peer(Peer.at(host), allowed)
            else:
                with self.assertRaises(Forbidden) as refused:
                    check_peer(Peer.at(host), allowed)
                self.assertIn(str(Peer.at(host)), str(refused.exception))
        self.assertRaises(Forbidden, check_peer, Peer(), ())

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
                check_user(Peer(credentials=credentials), allowed)
            else:
                with self.assertRaises(Forbidden) as refused:
                    check_user(Peer(credentials=credentials), allowed)
                self.assertRegex(str(refused.exception), r"^user id \d+ is not among allowed_uids$")

    def test_credentials_in_the_log(self) -> None:
        """The log says whose process asked at a Unix socket; refusals name its address only."""
        peer = Peer(credentials=Credentials(pid=4242, uid=1000, gid=100))
        self.assertEqual(str(peer), "127.0.0.1 (uid 1000, gid 100, pid 4242)")
        with self.assertRaises(Forbidden) as refused:
            check_peer(peer, ())
        self.assertEqual(str(refused.exception), "address 127.0.0.1 is not among allowed_ips")


class RuleTests(SynchronousTestCase):
    """The rules of a configuration, without a device."""

    def setUp(self) -> None:
        self.asked_for: list[PublicKeyHash] = []

    def _watermarks(self, settings: Settings) -> Watermarks:
        watermarks = watermarks_on(floors=settings.floors)
        watermarks.startService()
        self.addCleanup(watermarks.stopService)
        return watermarks

    def _public_key(self, key: PublicKeyHash) -> Deferred[PublicKey]:
        self.asked_for.append(key)
        return succeed(PublicKey.parse(HSM_AUTH_KEY.public_key))

    def _decide(self, settings: Settings, *requests: SigningRequest) -> SigningRequest:
        """What the rules make of the last of some requests; raises what it is refused with."""
        rules = rules_for(settings, self._public_key, self._watermarks(settings), Clock())
        *earlier, last = requests
        for request in earlier:
            self.successResultOf(decide(rules, request))
        result: list[object] = []
        decide(rules, last).addBoth(result.append)
        if isinstance(result[0], Failure):
            result[0].raiseException()
        return cast(SigningRequest, result[0])

    def _refused(
        self,
        kind: type[Refused],
        says: str,
        settings: Settings,
        *requests: SigningRequest,
    ) -> None:
        with self.assertRaises(kind) as refused:
            self._decide(settings, *requests)
        self.assertIn(says, str(refused.exception))

    def test_order(self) -> None:
        """A request against which everything stands, put right one rule after the other."""
        key = SigningKey(TZ3, frozenset(), auth_req=True, chains=frozenset([OTHER_CHAIN]))
        settings = Settings({TZ3: key}, allowed_ips=(ip_network("10.0.0.0/8"),), auth_key=AUTH)
        request = request_for(LONG_ATTESTATION, TZ1)
        standing = signed_by(HSM_AUTH_KEY, request_for(consensus("att", 8, 0), peer="10.0.0.1"))

        self._refused(Forbidden, "address 127.0.0.1 is not among allowed_ips", settings, request)
        request = request_for(LONG_ATTESTATION, TZ1, "10.0.0.1")
        self._refused(UnknownKey, f"no keys for the source contract {TZ1}", settings, request)
        request = request_for(LONG_ATTESTATION, TZ3, "10.0.0.1")
        self._refused(Unauthenticated, "missing authentication", settings, request)
        wrong = signed_by(HSM_KEYS[2], request)
        self._refused(Unauthenticated, "invalid authentication signature", settings, wrong)
        request = signed_by(HSM_AUTH_KEY, request)
        says = f"chain {MAINNET} is not allowed for {TZ3}; allowed: {OTHER_CHAIN}"
        self._refused(Forbidden, says, settings, request)
        key = evolve(key, chains=frozenset([MAINNET, OTHER_CHAIN]))
        settings = evolve(settings, signing_keys={TZ3: key})
        says = f"magic byte 0x13 (attestation) not allowed for {TZ3}; allowed: none"
        self._refused(Forbidden, says, settings, request)
        key = evolve(key, allowed_ops=frozenset([Operation.ATTESTATION]))
        settings = evolve(settings, signing_keys={TZ3: key})
        says = "the payload has 1081 bytes; a Tezio HSM signs 1015 at most"
        self._refused(TooLarge, says, settings, request)
        request = signed_by(
            HSM_AUTH_KEY, request_for(consensus("att_dal_5", 7, 2), TZ3, "10.0.0.1")
        )
        says = "attestation at level 7 round 2 is not above the high watermark, level 8 round 0"
        self._refused(Conflict, says, settings, standing, request)
        decided = self._decide(settings, request)
        self.assertEqual(evolve(decided, claim=None), request)
        self.assertIsNotNone(decided.claim)

    def test_switches(self) -> None:
        """Each of the four protections can be switched off, and works without the others."""
        key = SigningKey(TZ3, frozenset([Operation.GENERIC]), auth_req=True)
        settings = Settings({TZ3: key}, allowed_ips=(ip_network("10.0.0.0/8"),), auth_key=AUTH)
        baking = evolve(settings, signing_keys={TZ3: evolve(key, allowed_ops=frozenset(Operation))})
        here, there = request_for(), signed_by(HSM_AUTH_KEY, request_for(peer="10.0.0.1"))
        block_there = signed_by(HSM_AUTH_KEY, request_for(block(7, 0), peer="10.0.0.1"))
        lower = signed_by(HSM_AUTH_KEY, request_for(block(6, 0), peer="10.0.0.1"))
        cases: list[tuple[str, Settings, list[SigningRequest], type[Refused]]] = [
            ("remote_ip_check", settings, [signed_by(HSM_AUTH_KEY, here)], Forbidden),
            ("auth_check", settings, [evolve(there, authentication=None)], Unauthenticated),
            ("signing_policy_check", settings, [block_there], Forbidden),
            ("high_water_mark_check", baking, [block_there, lower], Conflict),
        ]
        all_off = Security(False, False, False, False)
        for name, these, requests, kind in cases:
            alone = evolve(these, security=evolve(all_off, **{name: True}))
            self._refused(kind, "", alone, *requests)
            without = evolve(these, security=evolve(Security(), **{name: False}))
            self.assertEqual(evolve(self._decide(without, *requests), claim=None), requests[-1])

    def test_what_stays_when_all_is_switched_off(self) -> None:
        """Key, chain and length are asked for in any case."""
        settings = settings_with(
            (), auth_req=True, chains=[OTHER_CHAIN], security=Security(False, False, False, False)
        )
        unknown = PublicKeyHash.parse(OCTEZ["keys"][0]["pkh"])
        self._refused(UnknownKey, "no keys", settings, request_for(NOOP, unknown))
        self._refused(Forbidden, "chain", settings, request_for(block(7, 0)))
        self._refused(TooLarge, "1016 bytes", settings, request_for(NOOP + bytes(976)))
        decided = self._decide(settings, request_for(NOOP + bytes(975)))
        self.assertIsNone(decided.claim)

    def test_chains(self) -> None:
        """A key of certain chains signs for these; an operation that names none is no matter."""
        only_mainnet = settings_with(chains=[MAINNET])
        on_mainnet, elsewhere = block(7, 0), block(7, 0)[:1] + bytes(4) + block(7, 0)[5:]
        self._decide(only_mainnet, request_for(on_mainnet))
        self._decide(only_mainnet, request_for(NOOP))
        self._refused(Forbidden, f"allowed: {MAINNET}", only_mainnet, request_for(elsewhere))
        self._decide(settings_with(), request_for(elsewhere))
        self._refused(Forbidden, "chain", settings_with(chains=[]), request_for(on_mainnet))

    def test_operations(self) -> None:
        """Each operation is allowed by its own name and by no other."""
        payloads = {
            Operation.GENERIC: NOOP,
            Operation.BLOCK: block(7, 0),
            Operation.PREATTESTATION: consensus("preatt", 7, 0),
            Operation.ATTESTATION: consensus("att_dal_5", 7, 0),
        }
        for operation, payload in payloads.items():
            self._decide(settings_with([operation]), request_for(payload))
            others = settings_with([other for other in payloads if other is not operation])
            says = f"magic byte 0x{payload[0]:02X} ({operation}) not allowed for {TZ3}; allowed: "
            self._refused(Forbidden, says, others, request_for(payload))

    def test_floors(self) -> None:
        """Nothing at or below a floor is signed; above it, and for other kinds, there is none."""
        settings = settings_with(floors={Operation.BLOCK: (100, 2)})
        for level, round_ in ((100, 2), (100, 0), (99, 5), (0, 0)):
            says = (
                f"level {level} round {round_} is not above the configured floor, level 100 round 2"
            )
            self._refused(Conflict, says, settings, request_for(block(level, round_)))
        for payload in (block(100, 3), block(101, 0), consensus("att", 1, 0), NOOP):
            self._decide(settings, request_for(payload))

    def test_level_jump(self) -> None:
        """Each key has its own bound on how far a mark may move at once."""
        narrow = SigningKey(TZ3, frozenset(Operation), auth_req=False, max_level_jump=10)
        wide = SigningKey(TZ1, frozenset(Operation), auth_req=False)
        settings = evolve(settings_with(), signing_keys={TZ3: narrow, TZ1: wide})
        far = request_for(block(111, 0))
        says = "block at level 111 round 0 is 11 levels above the high watermark, level 100 round 0"
        self._refused(Conflict, says, settings, request_for(block(100, 0)), far)
        self._decide(settings, request_for(block(101, 0)), far)
        first = request_for(block(100, 0), TZ1)
        self._decide(settings, first, request_for(block(500_100, 0), TZ1))
        says = "level 100 round 0, and max_level_jump is 500000"
        self._refused(Conflict, says, settings, first, request_for(block(500_101, 0), TZ1))

    def test_auth_key_is_asked_for_last(self) -> None:
        """The HSM's auth key is only needed when no authorized key has signed."""
        own = tuple(PublicKey.parse(key.public_key) for key in WALLET)
        settings = settings_with(auth_req=True, auth_key=AUTH, authorized_keys=own)
        self._decide(settings, signed_by(WALLET[3], request_for()))
        self.assertEqual(self.asked_for, [])
        self._decide(settings, signed_by(HSM_AUTH_KEY, request_for()))
        self.assertEqual(self.asked_for, [AUTH])
        self._decide(evolve(settings, security=Security(auth_check=False)), request_for())
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
        self._decide(settings, signed_by(WALLET[1], request_for()))
        self._decide(settings, signed_by(WALLET[0], request_for(key=TZ1)))
        self._decide(settings, signed_by(HSM_AUTH_KEY, request_for(key=TZ1)))
        asked_for = list(self.asked_for)
        says = f"invalid authentication signature: {general.hash} is not among the authorized_keys"
        self._refused(Unauthenticated, says, settings, signed_by(WALLET[0], request_for()))
        for stranger in (HSM_AUTH_KEY, WALLET[2]):
            request = signed_by(stranger, request_for())
            self._refused(Unauthenticated, "invalid authentication signature", settings, request)
        self.assertEqual(self.asked_for, asked_for)
        says = f"{own.hash} is not among the authorized_keys of {TZ1}"
        request = signed_by(WALLET[1], request_for(key=TZ1))
        self._refused(Unauthenticated, says, settings, request)

    def test_nobody_else_is_authorized(self) -> None:
        """Without an auth key the authorized keys alone count; without any key nobody's does."""
        own = PublicKey.parse(WALLET[0].public_key)
        settings = settings_with(auth_req=True, authorized_keys=(own,))
        self._decide(settings, signed_by(WALLET[0], request_for()))
        for these in (settings, settings_with(auth_req=True)):
            for stranger in (WALLET[1], HSM_AUTH_KEY, HSM_KEYS[2]):
                request = signed_by(stranger, request_for())
                self._refused(Unauthenticated, "invalid authentication", these, request)
        self.assertEqual(self.asked_for, [])

    def test_rule_that_takes_its_time(self) -> None:
        """A rule may answer with a Deferred, and the next one waits for it."""
        waiting: Deferred[None] = Deferred()
        order: list[str] = []

        def later(request: SigningRequest) -> Deferred[SigningRequest]:
            order.append("later")
            return waiting.addCallback(lambda _: request)

        def afterwards(request: SigningRequest) -> SigningRequest:
            order.append("afterwards")
            return request

        decision = decide([later, afterwards], request_for())
        self.assertNoResult(decision)
        self.assertEqual(order, ["later"])
        waiting.callback(None)
        self.assertEqual(self.successResultOf(decision), request_for())
        self.assertEqual(order, ["later", "afterwards"])

    def test_no_rules(self) -> None:
        """Without a rule nothing stands against a request."""
        self.assertEqual(self.successResultOf(decide([], request_for())), request_for())


class ReadTests(SynchronousTestCase):
    """What becomes a request at all."""

    def test_never_signed(self) -> None:
        """What a signer is authenticated with, and what today's Octez does not make."""
        for magic in (0x01, 0x02, 0x04, 0x05):
            self.assertRaises(Forbidden, request_for, bytes([magic]) + bytes(40))

    def test_malformed(self) -> None:
        """What cannot be decoded, and the form for keys that a Tezio HSM has not."""
        for payload in (b"", b"\x03", b"\x14" + bytes(40), PAYLOADS["bls_att"]):
            self.assertRaises(Malformed, request_for, payload)

    def test_authenticated_bytes(self) -> None:
        """An authentication is of the bytes that Octez recorded."""
        key = PublicKeyHash.parse(OCTEZ["keys"][0]["pkh"])
        request = evolve(request_for(NOOP, key), data=b"\x03")
        self.assertEqual(request.authenticated_bytes.hex(), AUTHENTICATION["signed_bytes"])


@frozen
class Attempt:
    """Somebody's authentication of a request to sign the noop with the tz3 key."""

    what: str
    authentication: str | None
    status: int
    says: str = ""


class AuthenticationTests(TestCase):
    """Authentication at the HTTP door, with keys and signatures made by other code."""

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
            Attempt("a stranger", HSM_KEYS[0].authenticate(pkh, NOOP), 401, invalid),
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
    """A door that only programs on this machine can reach."""

    async def test_unix_peer_counts_as_127_0_0_1(self) -> None:
        """Who comes over a Unix socket is let in or not as 127.0.0.1 would be."""
        request = b"GET /authorized_keys HTTP/1.1\r\nConnection: close\r\n\r\n"
        for network, status in (("127.0.0.1", 200), ("10.0.0.0/8", 403), ("::1", 403)):
            harness = Harness(settings_with(allowed_ips=(ip_network(network),)))
            path = self.mktemp()
            limited = LimitedFactory(harness.site, harness.connections)
            port = reactor.listenUNIX(path, limited)  # type: ignore[attr-defined]
            self.addCleanup(port.stopListening)
            endpoint = UNIXClientEndpoint(reactor, path)
            protocol = await connectProtocol(endpoint, _OneRequest(request))
            answer = parse_response(await protocol.closed)
            self.assertEqual((network, answer.status), (network, status))
