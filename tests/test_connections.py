"""How many connections there may be, and for how long, by a clock of the test."""

from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.logger import capturedLogs, formatEvent
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from tezio_signer.connections import (
    MOST_STRANGERS,
    YOUNG_SECONDS,
    Connections,
    LimitedFactory,
    Place,
    peer_of,
    place_of,
)
from tezio_signer.settings import Limits
from tezio_signer.sparinglog import LINES_PER_MINUTE

BAKER, STRANGER, OTHER = "10.0.0.1", "192.0.2.1", "192.0.2.2"


class Transport(StringTransport):
    """Remembers how it was closed; it is lost when the test says so."""

    aborted = closed = False

    def abortConnection(self) -> None:
        self.aborted = True

    def loseConnection(self) -> None:
        self.closed = True
        super().loseConnection()

    @property
    def open(self) -> bool:
        """Whether nobody has closed it."""
        return not self.aborted and not self.closed


class Client:
    """One connection to a door."""

    def __init__(self, protocol: Any, transport: Transport) -> None:
        self.protocol = protocol
        self.transport = transport
        protocol.makeConnection(transport)

    @property
    def place(self) -> Place:
        """Its place."""
        place = place_of(self.protocol.wrappedProtocol.transport)
        assert place is not None
        return place

    def lost(self) -> None:
        """The connection has ended."""
        self.protocol.connectionLost(Failure(ConnectionDone()))


class ConnectionsTestCase(SynchronousTestCase):
    """A door for four connections, three of each peer."""

    limits = Limits(connections=4, connections_per_peer=3, request_seconds=10, idle_seconds=30)

    def setUp(self) -> None:
        self.clock = Clock()
        self.connections = Connections(self.limits, self.clock)
        self.factory = LimitedFactory(Factory.forProtocol(Protocol), self.connections)

    def come(self, host: str) -> Client | None:
        """Somebody connects; None if the connection is refused."""
        address = IPv4Address("TCP", host, 1025)
        protocol = self.factory.buildProtocol(address)
        return None if protocol is None else Client(protocol, Transport(peerAddress=address))

    def let_in(self, host: str) -> Client:
        """Somebody connects, and has to be let in."""
        client = self.come(host)
        assert client is not None
        return client


class RoomTests(ConnectionsTestCase):
    """Who is let in, and who has to go for it."""

    def test_oldest_of_the_same_peer(self) -> None:
        """A peer that has all it may have loses the connection that has waited longest."""
        clients = []
        for _ in range(3):
            clients.append(self.let_in(STRANGER))
            self.clock.advance(1)
        clients[0].place.serving()
        clients[0].place.answered()
        self.let_in(STRANGER)
        self.assertEqual([client.transport.open for client in clients], [True, False, True])

    def test_the_peer_with_most(self) -> None:
        """When all is full, the peer with most makes room, not the one that waits longest."""
        baker = self.let_in(BAKER)
        strangers = [self.let_in(STRANGER) for _ in range(3)]
        newcomer = self.let_in(OTHER)
        self.assertTrue(baker.transport.open)
        self.assertEqual([s.transport.aborted for s in strangers], [True, False, False])
        self.assertTrue(newcomer.transport.open)

    def test_all_have_one(self) -> None:
        """Among peers with equally many, who has waited longest goes."""
        clients = []
        for host in (STRANGER, BAKER, OTHER, "192.0.2.3"):
            clients.append(self.let_in(host))
            self.clock.advance(1)
        clients[0].place.serving()
        clients[0].place.answered()
        self.let_in("192.0.2.4")
        self.assertEqual([c.transport.open for c in clients], [True, False, True, True])

    def test_nobody_who_is_served_goes(self) -> None:
        """A connection with a request in progress is never cut for another."""
        served = [self.let_in(STRANGER) for _ in range(3)]
        for client in served:
            client.place.serving()
        self.assertIsNone(self.come(STRANGER))
        waiting = self.let_in(BAKER)
        self.let_in(OTHER)
        self.assertTrue(all(client.transport.open for client in served))
        self.assertTrue(waiting.transport.aborted)

    def test_places_are_given_back(self) -> None:
        """Who has gone takes no place, however he went."""
        for _ in range(3):
            clients = [self.let_in(STRANGER) for _ in range(3)]
            for client in clients:
                client.place.serving()
            self.assertIsNone(self.come(STRANGER))
            for client in clients:
                client.lost()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_flood(self) -> None:
        """Connections that are cut are closed later only; meanwhile there are not ever more."""
        let_in = [self.let_in(STRANGER) for _ in range(3)]
        self.clock.advance(YOUNG_SECONDS)
        let_in += [client for client in map(self.come, [STRANGER] * 100) if client is not None]
        self.assertEqual(len(let_in), 5)
        self.assertEqual(self.connections.open_files, 6)
        for client in let_in:
            if client.transport.aborted:
                client.lost()
        self.assertIsNotNone(self.come(STRANGER))

    def test_young(self) -> None:
        """A peer's own connections are not cut before they could say what they want."""
        for _ in range(3):
            self.let_in(STRANGER)
        self.clock.advance(YOUNG_SECONDS / 2)
        self.assertIsNone(self.come(STRANGER))
        self.clock.advance(YOUNG_SECONDS / 2)
        self.assertIsNotNone(self.come(STRANGER))

    def test_peers(self) -> None:
        """Peers are IP addresses; IPv4 in IPv6 is IPv4, and all local sockets are one."""
        self.assertEqual(peer_of(IPv4Address("TCP", "10.0.0.1", 1)), "10.0.0.1")
        self.assertEqual(peer_of(IPv6Address("TCP", "::ffff:10.0.0.1", 1)), "10.0.0.1")
        self.assertEqual(peer_of(IPv6Address("TCP", "fe80::1", 1)), "fe80::1")
        self.assertEqual(peer_of(UNIXAddress("/x")), peer_of(None))

    def test_log(self) -> None:
        """A flood is not a line in the log for each connection."""
        with capturedLogs() as events:
            for _ in range(3):
                self.let_in(STRANGER)
            self.clock.advance(YOUNG_SECONDS)
            for _ in range(97):
                self.come(STRANGER)
        texts = [formatEvent(event) for event in events]
        self.assertEqual(len(texts), LINES_PER_MINUTE)
        self.assertIn("a connection from 192.0.2.1 had to make room for another", texts[0])


class StrangerTests(SynchronousTestCase):
    """Who may ask nothing: all but 10.0.0.0/8 and local sockets."""

    def setUp(self) -> None:
        self.asked: list[str | None] = []
        self.clock = Clock()
        self.connections = Connections(Limits(connections=24), self.clock, self.admits)

    def admits(self, address: str | None) -> bool:
        """Whether an address may ask."""
        self.asked.append(address)
        return address is None or address.startswith("10.")

    def come(self, host: str, proxied: bool = False) -> Client | None:
        """Somebody connects; None if the connection is refused."""
        factory = LimitedFactory(Factory.forProtocol(Protocol), self.connections, proxied)
        address = IPv4Address("TCP", host, 1025)
        protocol = factory.buildProtocol(address)
        return None if protocol is None else Client(protocol, Transport(peerAddress=address))

    def strangers(self, count: int) -> list[Client]:
        """Connections of strangers, each from another address, which are being served."""
        came = [self.come(f"192.0.2.{number}") for number in range(count)]
        clients = [client for client in came if client is not None]
        for client in clients:
            client.place.serving()
        return clients

    def test_little_room(self) -> None:
        """All of them together have little room, from however many addresses they come."""
        self.assertEqual(len(self.strangers(200)), MOST_STRANGERS)
        self.assertIsNotNone(self.come("10.0.0.1"))

    def test_no_gain_in_coming_again(self) -> None:
        """A stranger's connection makes room for another one's after a second only."""
        clients = [self.come("192.0.2.1") for _ in range(MOST_STRANGERS)]
        self.clock.advance(0.9)
        self.assertIsNone(self.come("192.0.2.1"))
        self.clock.advance(0.1)
        self.assertIsNotNone(self.come("192.0.2.2"))
        assert clients[0] is not None
        self.assertFalse(clients[0].transport.open)

    def test_go_first(self) -> None:
        """They make room for who may ask, even if he has more connections and waits longer."""
        bakers = [self.come("10.0.0.1") for _ in range(20)]
        strangers = [self.come("192.0.2.1"), self.come("192.0.2.2")]
        bakers += [self.come("10.0.0.2") for _ in range(4)]
        for client in bakers:
            assert client is not None
            self.assertTrue(client.transport.open)
        for client in strangers:
            assert client is not None
            self.assertFalse(client.transport.open)

    def test_proxy(self) -> None:
        """A proxy is none, whoever it stands for."""
        for _ in range(MOST_STRANGERS + 2):
            self.assertIsNotNone(self.come("192.0.2.1", proxied=True))

    def test_local_sockets(self) -> None:
        """A local socket is asked for as such."""
        self.connections.counted_as(UNIXAddress("/x"), False)
        self.connections.counted_as(IPv6Address("TCP", "::ffff:10.0.0.1", 1), False)
        self.assertEqual(self.asked, [None, "10.0.0.1"])

    def test_log(self) -> None:
        """The log names their addresses."""
        with capturedLogs() as events:
            self.strangers(MOST_STRANGERS + 1)
        self.assertIn("a connection from 192.0.2.16 found no room", formatEvent(events[-1]))


class TimeTests(ConnectionsTestCase):
    """How long a connection may do what it does."""

    def test_receiving(self) -> None:
        """A request has ten seconds from connecting on, whatever comes of it meanwhile."""
        client = self.let_in(BAKER)
        for _ in range(9):
            self.clock.advance(1)
            client.place.receiving()
        self.assertTrue(client.transport.open)
        self.clock.advance(1)
        self.assertTrue(client.transport.aborted)

    def test_serving(self) -> None:
        """A request that is here takes as long as it takes."""
        client = self.let_in(BAKER)
        client.place.serving()
        self.clock.advance(1000)
        self.assertTrue(client.transport.open)

    def test_idle(self) -> None:
        """Then there are thirty seconds for another, and ten from its first byte to its last."""
        clients = [self.let_in(BAKER), self.let_in(BAKER)]
        for client in clients:
            client.place.serving()
            self.assertTrue(client.place.answered())
        self.clock.advance(29)
        clients[0].place.receiving()
        self.clock.advance(1)
        self.assertTrue(clients[0].transport.open)
        self.assertTrue(clients[1].transport.closed)
        self.assertFalse(clients[1].transport.aborted)
        self.clock.advance(9)
        self.assertTrue(clients[0].transport.aborted)

    def test_closing(self) -> None:
        """A client that does not take what is written to it is cut off after ten seconds."""
        client = self.let_in(BAKER)
        client.place.serving()
        client.protocol.wrappedProtocol.transport.loseConnection()
        client.place.receiving()
        client.place.serving()
        self.assertFalse(client.place.answered())
        self.clock.advance(9)
        self.assertFalse(client.transport.aborted)
        self.clock.advance(1)
        self.assertTrue(client.transport.aborted)


class StoppingTests(ConnectionsTestCase):
    """When the daemon stops."""

    def test_stop(self) -> None:
        """Who waits is disconnected, who is served gets his answer and no other."""
        waiting, served = self.let_in(BAKER), self.let_in(BAKER)
        served.place.serving()
        self.connections.stopService()
        self.assertTrue(waiting.transport.closed)
        self.assertTrue(served.transport.open)
        self.assertFalse(served.place.answered())
        self.assertIsNone(self.come(BAKER))
