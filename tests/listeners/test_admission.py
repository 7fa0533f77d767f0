"""It is decided once for each connection who asks, before anything of it is worked on."""

from collections.abc import Sequence
from ipaddress import ip_network

from attrs import evolve, frozen
from twisted.internet.address import IPv4Address, UNIXAddress
from twisted.internet.interfaces import IAddress
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase

from tests.support import octezclient
from tests.support import octezsocketclient as octezsocket
from tests.support.harness import Harness, settings_with
from tests.support.octezsocketclient import framed
from tezio_signer.config.settings import Limits, Security, Settings
from tezio_signer.decision import Decision, Outcome, Stage
from tezio_signer.errors import NotAdmitted
from tezio_signer.listeners.limits import Connections
from tezio_signer.listeners.peers import UnsaidAddress, admitted_at
from tezio_signer.listeners.proxyprotocol import ProxiedFactory
from tezio_signer.listeners.unknownaddress import RefusingFactory
from tezio_signer.listeners.wrapping import LimitedFactory
from tezio_signer.octezsocket import OctezSocketFactory
from tezio_signer.request import Admitted, Credentials, Listener, Peer

HTTP = octezclient.get("h", "/authorized_keys")
SOCKET = framed(octezsocket.AUTHORIZED_KEYS)
PROXY_LINE = "PROXY TCP4 {} 127.0.0.1 1025 6732\r\n"
PROXY_ITSELF = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"
SAYS = b"address 192.0.2.1 is not among allowed_ips"


class Transport(StringTransport):
    """A transport that knows whether it was aborted, and has no socket."""

    aborted = False

    def abortConnection(self) -> None:
        self.aborted = True

    def loseWriteConnection(self) -> None:
        self.loseConnection()


@frozen(eq=False)
class Conversation:
    """A connection and what came of it."""

    protocol: LimitedFactory
    transport: Transport
    clock: Clock

    def says(self, data: bytes) -> bytes:
        """What is answered to these bytes."""
        self.transport.clear()
        self.protocol.dataReceived(data)  # type: ignore[attr-defined]
        self.clock.pump([0] * 3)
        answered: bytes = self.transport.value()
        return answered

    def written(self) -> bytes:
        """What was written to the client before it said anything."""
        written: bytes = self.transport.value()
        return written


class AdmissionTests(SynchronousTestCase):
    """Listeners for 10.0.0.0/8, of both protocols."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.asked: list[str] = []
        self.decisions: list[Decision] = []
        self.use(settings_with(allowed_ips=(ip_network("10.0.0.0/8"),)))

    def use(self, settings: Settings) -> None:
        """Have another configuration."""
        self.harness = Harness(settings, site_clock=self.clock)
        self.harness.sockets = OctezSocketFactory(self.harness.signer, self.clock)
        self.policy = self.harness.signer._configuration.policy
        self.patch(self.harness.signer, "admit", self.admit)
        self.harness.signer.decisions.add(self)
        self.connections = Connections(
            Limits(), self.clock, self.admit, self.harness.signer.decisions
        )

    def replace(self, settings: Settings) -> None:
        """Have another configuration replace this one while connections are open."""
        self.harness.signer.go_by(settings)
        self.connections.go_by(settings.limits)
        self.policy = self.harness.signer._configuration.policy

    def admit(self, peer: Peer) -> Admitted:
        """Decide, and take note of it."""
        self.asked.append(str(peer))
        return self.policy.admit(peer)

    def decided(self, decision: Decision) -> None:
        """An observer's method."""
        self.decisions.append(decision)

    @property
    def factories(self) -> Sequence[tuple[LimitedFactory, bytes, bytes]]:
        """Listeners of both protocols, what is asked there, and how the answer begins."""
        return (
            (self.limited(self.harness.site), HTTP, b"HTTP/1.1 200 OK"),
            (self.limited(self.harness.sockets), SOCKET, b"\x00\x02\x00"),
        )

    def limited(self, factory: object, proxied: bool = False) -> LimitedFactory:
        """A listener's factory, with or without a proxy before it."""
        served = factory
        refusing = RefusingFactory(served, served.refusal, self.clock, True)  # type: ignore[arg-type, attr-defined]
        if proxied:
            factory = ProxiedFactory(served, self.connections, refusing)  # type: ignore[arg-type]
        return LimitedFactory(factory, self.connections, refusing, proxied)  # type: ignore[arg-type]

    def connect(
        self,
        factory: LimitedFactory,
        address: IAddress | str,
        credentials: Credentials | None = None,
    ) -> Conversation:
        """Connect from an address."""
        if isinstance(address, str):
            address = IPv4Address("TCP", address, 1025)
        transport = Transport(peerAddress=address)
        self.assertTrue(factory.arrives(address, credentials))
        protocol = factory.buildProtocol(address)
        protocol.makeConnection(transport)
        return Conversation(protocol, transport, self.clock)

    def test_once_for_a_connection(self) -> None:
        """All requests of a connection are served by the decision that was made first."""
        for factory, asks, answer in self.factories:
            self.connections._known.clear()
            self.asked.clear()
            client = self.connect(factory, "10.0.0.1")
            self.assertEqual(self.asked, ["10.0.0.1"])
            for _ in range(3):
                self.assertEqual(client.says(asks)[: len(answer)], answer)
            self.assertEqual(self.asked, ["10.0.0.1"])

    def test_once_for_a_configuration(self) -> None:
        """Under another configuration it is decided once more, at the next request."""
        for factory, asks, answer in self.factories:
            client = self.connect(factory, "10.0.0.1")
            for networks in ("10.0.0.0/24", "10.0.0.1/32"):
                self.replace(settings_with(allowed_ips=(ip_network(networks),)))
                self.asked.clear()
                for _ in range(3):
                    self.assertEqual(client.says(asks)[: len(answer)], answer)
                self.assertEqual(self.asked, ["10.0.0.1"])

    def test_not_any_more(self) -> None:
        """Who may ask no more is told so at the next request, and the connection is closed."""
        for factory, asks, answer in self.factories:
            self.replace(settings_with(allowed_ips=(ip_network("10.0.0.0/8"),)))
            client, idle = (self.connect(factory, "10.0.0.1") for _ in range(2))
            self.assertEqual(client.says(asks)[: len(answer)], answer)
            self.replace(settings_with(allowed_ips=(ip_network("10.0.0.2"),)))
            self.assertFalse(client.transport.disconnecting)
            self.decisions.clear()
            for open_before in (client, idle):
                answered = open_before.says(asks * 2)
                self.assertIn(b"address 10.0.0.1 is not among allowed_ips", answered)
                self.assertNotIn(answer, answered)
                self.assertEqual(answered.count(b"is not among"), 1)
                self.assertTrue(open_before.transport.disconnecting)
            self.assertEqual([each.status for each in self.decisions], [403, 403])
            # Another one of this address is refused at the accept, as if it had never been asked.
            self.assertIn(b"10.0.0.1 is not among", self.connect(factory, "10.0.0.1").written())

    def test_from_now_on(self) -> None:
        """Who was refused, may ask when a new configuration says so; the refused connection not."""
        for factory, asks, answer in self.factories:
            self.replace(settings_with(allowed_ips=(ip_network("10.0.0.0/8"),)))
            refused = self.connect(factory, "192.0.2.1")
            self.assertIn(SAYS, refused.written())
            self.replace(settings_with(allowed_ips=(ip_network("192.0.2.1"),)))
            self.assertEqual(refused.says(asks), b"")
            client = self.connect(factory, "192.0.2.1")
            self.assertEqual(client.says(asks)[: len(answer)], answer)

    def test_clients_of_a_proxy_under_another(self) -> None:
        """It is still the proxy's client that is decided on, and at a Unix socket its user."""
        for served, asks in ((self.harness.site, HTTP), (self.harness.sockets, SOCKET)):
            self.replace(settings_with(allowed_ips=(ip_network("10.0.0.0/8"),)))
            factory = self.limited(served, proxied=True)
            clients = [self.connect(factory, "10.9.9.9") for _ in range(2)]
            for client, host in zip(clients, ("10.0.0.1", "10.0.0.2"), strict=True):
                self.assertNotEqual(client.says(PROXY_LINE.format(host).encode() + asks), b"")
            self.replace(settings_with(allowed_ips=(ip_network("10.0.0.2"),)))
            self.asked.clear()
            self.assertIn(b"10.0.0.1 is not among allowed_ips", clients[0].says(asks))
            self.assertNotIn(b"not among", clients[1].says(asks))
            self.assertEqual(self.asked, ["10.0.0.1", "10.0.0.2"])

    def test_nothing_is_read_of_others(self) -> None:
        """Who may ask nothing is told so before he says anything, and then never heard."""
        for factory, asks, _ in self.factories:
            client = self.connect(factory, "192.0.2.1")
            self.assertIn(SAYS, client.transport.value())
            self.assertEqual(client.says(asks), b"")
        self.assertEqual(self.asked, ["192.0.2.1"])

    def test_of_that_connection_only(self) -> None:
        """A decision is good for its connection alone, whoever is connected at the same time."""
        user, other = (Credentials(pid=7, uid=uid, gid=0) for uid in (1000, 1001))
        self.use(settings_with(allowed_uids=frozenset({1000})))
        for factory, asks, answer in self.factories:
            allowed = self.connect(factory, UNIXAddress("/x"), user)
            foreign = self.connect(factory, UNIXAddress("/x"), other)
            for _ in range(2):
                self.assertEqual(foreign.says(asks), b"")
                self.assertEqual(allowed.says(asks)[: len(answer)], answer)
        self.assertEqual(self.asked, [f"127.0.0.1 ({who})" for who in (user, other)] * 2)

    def test_addresses_are_not_looked_at(self) -> None:
        """Without `remote_ip_check` all addresses are served, and users are still looked at."""
        off = settings_with(security=Security(remote_ip_check=False))
        self.use(evolve(off, allowed_uids=frozenset({1000})))
        for factory, asks, answer in self.factories:
            client = self.connect(factory, "192.0.2.1")
            self.assertEqual(client.says(asks)[: len(answer)], answer)
            user = self.connect(factory, UNIXAddress("/x"), Credentials(pid=7, uid=1001, gid=0))
            self.assertIn(b"user id 1001 is not among allowed_uids", user.transport.value())

    def test_client_of_a_proxy(self) -> None:
        """A proxy's client is decided on when the proxy has said who it is, and only he."""
        for served, asks in ((self.harness.site, HTTP), (self.harness.sockets, SOCKET)):
            self.connections._known.clear()
            self.asked.clear()
            factory = self.limited(served, proxied=True)
            for host, welcome in (("10.0.0.1", True), ("192.0.2.1", False)):
                client = self.connect(factory, "10.9.9.9")
                line = PROXY_LINE.format(host).encode()
                self.assertEqual(client.says(line[:9]), b"")
                self.assertNotIn(host, self.asked)
                answered = client.says(line[9:] + asks)
                self.assertEqual(SAYS in answered, not welcome)
                self.assertEqual(bool(client.says(asks)), welcome)
            self.assertEqual(self.asked, ["10.0.0.1", "192.0.2.1"])

    def test_proxy_itself(self) -> None:
        """What is the proxy's own is decided on with its first request, by the proxy's address."""
        for served, asks in ((self.harness.site, HTTP), (self.harness.sockets, SOCKET)):
            for host, welcome in (("10.9.9.9", True), ("192.0.2.1", False)):
                self.asked.clear()
                client = self.connect(self.limited(served, proxied=True), host)
                self.assertEqual(client.says(PROXY_ITSELF), b"")
                self.assertEqual(self.asked, [])
                self.assertEqual(SAYS in client.says(asks), not welcome)
                self.assertEqual(bool(client.says(asks)), welcome)
                self.assertEqual(self.asked, [host])

    def test_nobody_says_who(self) -> None:
        """Whose address is not known may ask nothing, and that is decided once as well."""
        self.connections = Connections(Limits(), self.clock)
        for factory, asks, _ in self.factories:
            client = self.connect(factory, UnsaidAddress())
            self.assertIn(b"the proxy did not say whose connection this is", client.says(asks))
            self.assertTrue(client.transport.disconnecting)
            client.transport.peerAddr = IPv4Address("TCP", "10.0.0.1", 1025)
            self.assertRaises(NotAdmitted, admitted_at, client.protocol, self.admit)
        self.assertEqual(self.asked, [])

    def test_decisions(self) -> None:
        """Who is refused at once is a decision like others, with the listener that it was."""
        for factory, asks, _ in self.factories:
            self.connect(factory, "192.0.2.1").says(asks)
        for served, asks in ((self.harness.site, HTTP), (self.harness.sockets, SOCKET)):
            proxied = self.connect(self.limited(served, proxied=True), "10.9.9.9")
            proxied.says(PROXY_LINE.format("192.0.2.1").encode() + asks)
        self.assertEqual(
            [decision.listener for decision in self.decisions],
            [Listener.HTTP, Listener.OCTEZ_SOCKET] * 2,
        )
        for decision in self.decisions:
            self.assertEqual(
                (decision.outcome, decision.stage), (Outcome.REFUSED, Stage.CONNECTION)
            )
            self.assertEqual((decision.peer, decision.status), ("192.0.2.1", 403))
            self.assertEqual(decision.sentence.encode(), SAYS)
