"""How many connections there may be, and for how long, by a clock of the test."""

from collections import Counter
from collections.abc import Callable
from functools import partial
from ipaddress import ip_network
from socket import MSG_DONTWAIT, MSG_PEEK
from typing import Any

from attrs import define, evolve, field
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.logger import capturedLogs, formatEvent
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from tests.support.fakeconnection import FakeConnection
from tezio_signer.config.settings import Limits
from tezio_signer.errors import NotAdmitted
from tezio_signer.listeners.limits import (
    FINISH_SECONDS,
    HANDSHAKES_PER_SECOND,
    MOST_UNKNOWN,
    TOLD_PER_SECOND,
    UNKNOWN,
    YOUNG_SECONDS,
    Connections,
    host_of,
)
from tezio_signer.listeners.peers import UnsaidAddress
from tezio_signer.listeners.slots import Slot, State, slot_of
from tezio_signer.listeners.wrapping import SLICE, LimitedFactory
from tezio_signer.request import Admitted, Credentials, Peer
from tezio_signer.sparinglog import LINES_PER_MINUTE

BAKER, CLIENT, OTHER = "10.0.0.1", "192.0.2.1", "192.0.2.2"


class Transport(StringTransport):
    """Remembers how it was closed; it is lost when the test says so."""

    aborted = closed = False
    waiting = b""

    def getHandle(self) -> "Transport":
        """Replaces the socket of the system."""
        return self

    def recv(self, size: int, flags: int) -> bytes:
        """What waits to be read, without reading it."""
        if flags != MSG_PEEK | MSG_DONTWAIT:
            raise AssertionError(flags)
        if not self.waiting:
            raise BlockingIOError
        return self.waiting[:size]

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
    """One connection to a listener."""

    def __init__(self, protocol: Any, transport: Transport) -> None:
        self.protocol = protocol
        self.transport = transport
        protocol.makeConnection(transport)

    @property
    def slot(self) -> Slot:
        """Its slot."""
        return slot_of(self.protocol.wrappedProtocol.transport)

    def lost(self) -> None:
        """The connection has ended."""
        self.protocol.connectionLost(Failure(ConnectionDone()))


class ConnectionsTestCase(SynchronousTestCase):
    """A listener for four connections, three of each peer."""

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
            clients.append(self.let_in(CLIENT))
            self.clock.advance(1)
        clients[0].slot.serving()
        clients[0].slot.answered()
        self.let_in(CLIENT)
        self.assertEqual([client.transport.open for client in clients], [True, False, True])

    def test_the_peer_with_most(self) -> None:
        """When all is full, the peer with most makes room, not the one that waits longest."""
        baker = self.let_in(BAKER)
        clients = [self.let_in(CLIENT) for _ in range(3)]
        newcomer = self.let_in(OTHER)
        self.assertTrue(baker.transport.open)
        self.assertEqual([s.transport.aborted for s in clients], [True, False, False])
        self.assertTrue(newcomer.transport.open)

    def test_all_have_one(self) -> None:
        """Among peers with equally many, who has waited longest goes."""
        clients = []
        for host in (CLIENT, BAKER, OTHER, "192.0.2.3"):
            clients.append(self.let_in(host))
            self.clock.advance(1)
        clients[0].slot.serving()
        clients[0].slot.answered()
        self.let_in("192.0.2.4")
        self.assertEqual([c.transport.open for c in clients], [True, False, True, True])

    def test_nobody_who_is_served_goes(self) -> None:
        """A connection with a request in progress is never cut for another."""
        served = [self.let_in(CLIENT) for _ in range(3)]
        for client in served:
            client.slot.serving()
        self.assertIsNone(self.come(CLIENT))
        waiting = self.let_in(BAKER)
        self.let_in(OTHER)
        self.assertTrue(all(client.transport.open for client in served))
        self.assertTrue(waiting.transport.aborted)

    def test_slots_are_given_back(self) -> None:
        """Who has gone takes no slot, however he went."""
        for _ in range(3):
            clients = [self.let_in(CLIENT) for _ in range(3)]
            for client in clients:
                client.slot.serving()
            self.assertIsNone(self.come(CLIENT))
            for client in clients:
                client.lost()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_other_limits(self) -> None:
        """Other limits hold for who comes from now on, and for what is timed from now on."""
        clients = [self.let_in(CLIENT) for _ in range(3)]
        self.clock.advance(1)
        self.connections.go_by(evolve(self.limits, connections_per_peer=1, idle_seconds=3))
        self.assertTrue(all(client.transport.open for client in clients))
        newcomer = self.let_in(CLIENT)
        self.assertEqual([client.transport.open for client in clients], [False, True, True])
        newcomer.slot.serving()
        newcomer.slot.answered()
        self.clock.advance(2.9)
        self.assertTrue(newcomer.transport.open)
        self.clock.advance(0.2)
        self.assertFalse(newcomer.transport.open)
        for client in (*clients, newcomer):
            client.lost()
        self.connections.go_by(evolve(self.limits, connections_per_peer=5, connections=9))
        many = [self.let_in(CLIENT) for _ in range(5)]
        self.assertTrue(all(client.transport.open for client in many))

    def test_flood(self) -> None:
        """Connections that are cut are closed later only; meanwhile there are not ever more."""
        let_in = [self.let_in(CLIENT) for _ in range(3)]
        self.clock.advance(YOUNG_SECONDS)
        let_in += [client for client in map(self.come, [CLIENT] * 100) if client is not None]
        self.assertEqual(len(let_in), 5)
        self.assertEqual(self.connections.limits.open_files, 7)
        for client in let_in:
            if client.transport.aborted:
                client.lost()
        self.assertIsNotNone(self.come(CLIENT))

    def test_young(self) -> None:
        """A peer's own connections are not cut before they could say what they want."""
        for _ in range(3):
            self.let_in(CLIENT)
        self.clock.advance(YOUNG_SECONDS / 2)
        self.assertIsNone(self.come(CLIENT))
        self.clock.advance(YOUNG_SECONDS / 2)
        self.assertIsNotNone(self.come(CLIENT))

    def test_peers(self) -> None:
        """Peers are IP addresses; IPv4 in IPv6 is IPv4, and all local sockets are one."""
        self.assertEqual(host_of(IPv4Address("TCP", "10.0.0.1", 1)), "10.0.0.1")
        self.assertEqual(host_of(IPv6Address("TCP", "::ffff:10.0.0.1", 1)), "10.0.0.1")
        self.assertEqual(host_of(IPv6Address("TCP", "fe80::1", 1)), "fe80::1")
        self.assertEqual(host_of(UNIXAddress("/x")), host_of(None))

    def test_log(self) -> None:
        """A flood is not a line in the log for each connection."""
        with capturedLogs() as events:
            for _ in range(3):
                self.let_in(CLIENT)
            self.clock.advance(YOUNG_SECONDS)
            for _ in range(97):
                self.come(CLIENT)
        texts = [formatEvent(event) for event in events]
        self.assertEqual(len(texts), LINES_PER_MINUTE)
        self.assertIn("a connection from 192.0.2.1 was closed to make room for another", texts[0])


class UnknownTests(SynchronousTestCase):
    """Who may ask nothing: all but 10.0.0.0/8 and local sockets."""

    def setUp(self) -> None:
        self.asked: list[str] = []
        self.clock = Clock()
        self.connections = Connections(Limits(connections=24), self.clock, self.admit)
        self.refusing = Factory.forProtocol(Protocol)

    def admit(self, peer: Peer) -> Admitted:
        """Raises NotAdmitted."""
        self.asked.append(str(peer))
        if peer.address not in ip_network("10.0.0.0/8") and peer.credentials is None:
            raise NotAdmitted("not here")
        return Admitted(peer)

    def come(self, host: str, proxied: bool = False, tls: bool = False) -> Client | None:
        """Somebody connects; None if the connection is refused."""
        served = Factory.forProtocol(Protocol)
        factory = LimitedFactory(served, self.connections, self.refusing, proxied, tls)
        address = IPv4Address("TCP", host, 1025)
        protocol = factory.buildProtocol(address)
        return None if protocol is None else Client(protocol, Transport(peerAddress=address))

    def unknown(self, count: int) -> list[Client]:
        """Connections of unknown addresses, each from another one."""
        came = [self.come(f"192.0.2.{number}") for number in range(count)]
        return [client for client in came if client is not None]

    def test_told_why(self) -> None:
        """They are given to another factory, which says why they are refused."""
        (client,) = self.unknown(1)
        self.assertIs(client.protocol.wrappedProtocol.factory, self.refusing)
        known = self.come("10.0.0.1")
        assert known is not None
        self.assertIsNot(known.protocol.wrappedProtocol.factory, self.refusing)

    def test_little_room(self) -> None:
        """All of them together have little room, from however many addresses they come."""
        self.assertEqual(len(self.unknown(200)), MOST_UNKNOWN)
        self.assertIsNotNone(self.come("10.0.0.1"))

    def test_little_time(self) -> None:
        """However fast they come and go, few are told in a second, fewest under TLS."""
        for tls, most in ((False, TOLD_PER_SECOND), (True, HANDSHAKES_PER_SECOND)):
            for _ in range(2):
                told = 0
                for _ in range(200):
                    client = self.come("192.0.2.1", tls=tls)
                    if client is not None:
                        told += 1
                        client.lost()
                self.assertEqual(told, most)
                self.clock.advance(1)

    def test_no_room_of_others(self) -> None:
        """None of who may ask has to make room for them, however old."""
        clients = [self.come("10.0.0.1") for _ in range(24)]
        self.clock.advance(5)
        self.assertEqual(self.unknown(5), [])
        for client in clients:
            assert client is not None
            self.assertTrue(client.transport.open)

    def test_go_first(self) -> None:
        """They make room for who may ask, even if he has more connections and waits longer."""
        bakers = [self.come("10.0.0.1") for _ in range(20)]
        clients = [self.come("192.0.2.1"), self.come("192.0.2.2")]
        bakers += [self.come("10.0.0.2") for _ in range(4)]
        for client in bakers:
            assert client is not None
            self.assertTrue(client.transport.open)
        for client in clients:
            assert client is not None
            self.assertFalse(client.transport.open)

    def test_proxy(self) -> None:
        """A proxy is none, whomever it asks for."""
        for _ in range(MOST_UNKNOWN + 2):
            client = self.come("192.0.2.1", proxied=True)
            assert client is not None
            self.assertIsNot(client.protocol.wrappedProtocol.factory, self.refusing)

    def test_whose(self) -> None:
        """Users of local sockets are asked for, and addresses once; what is neither may not ask."""
        user = Credentials(1, 2, 3)
        here, elsewhere = UNIXAddress("/x"), IPv6Address("TCP", "::ffff:10.0.0.1", 1)
        self.assertEqual(self.connections.admission(here, user), Peer(credentials=user))
        for _ in range(2):
            self.assertEqual(self.connections.admission(elsewhere), Peer.at("10.0.0.1"))
        for address, credentials in ((here, None), (UnsaidAddress(), user)):
            self.assertIsInstance(self.connections.admission(address, credentials), NotAdmitted)
        self.assertEqual(self.asked, [f"127.0.0.1 ({user})", "10.0.0.1"])

    def test_log(self) -> None:
        """The log names their addresses, but not of every one of a flood."""
        with capturedLogs() as events:
            self.unknown(LINES_PER_MINUTE + 10)
        said = [formatEvent(event) for event in events]
        self.assertIn("refused a connection from 192.0.2.1: 403 not here", said)
        self.assertLessEqual(len(said), 2 * LINES_PER_MINUTE)


class SilentTests(ConnectionsTestCase):
    """Connections on which nothing has come, at listeners where three are the limit of a peer."""

    def come_speaking(self, host: str) -> Client | None:
        """Somebody connects who has sent something already."""
        address = IPv4Address("TCP", host, 1025)
        if not self.factory.arrives(address, None, True):
            return None
        protocol = self.factory.buildProtocol(address)
        return Client(protocol, Transport(peerAddress=address))

    def sent(self, client: Client) -> None:
        """A client sends a part of a request."""
        client.protocol.dataReceived(b"G")

    def test_cut_none_that_has_sent(self) -> None:
        """However many there are, whenever they come, they cost none that has sent anything."""
        baker = [self.let_in(BAKER) for _ in range(3)]
        self.sent(baker[0])
        baker[1].slot.serving()
        baker[2].slot.serving()
        baker[2].slot.answered()
        for _ in range(150):
            self.clock.advance(YOUNG_SECONDS)
            silent = self.come(BAKER)
            self.assertTrue(all(client.transport.open for client in baker))
            if silent is not None and silent.transport.aborted:
                silent.lost()

    def test_one_that_has_sent_is_let_in(self) -> None:
        """While thousands of them come, one with bytes waiting is let in, and then stays."""
        silent = [self.let_in(BAKER) for _ in range(3)]
        self.clock.advance(YOUNG_SECONDS)
        baker = self.come_speaking(BAKER)
        assert baker is not None
        self.assertTrue(silent[0].transport.aborted)
        for _ in range(100):
            self.clock.advance(YOUNG_SECONDS)
            self.come(BAKER)
        self.assertTrue(baker.transport.open)

    def test_all_at_once(self) -> None:
        """One with bytes waiting is let in also when the silent ones have come just before it."""
        silent = [self.let_in(BAKER) for _ in range(3)]
        self.assertIsNotNone(self.come_speaking(BAKER))
        self.assertTrue(silent[0].transport.aborted)

    def test_bytes_waiting(self) -> None:
        """Before one is cut for being silent it is looked whether bytes wait to be read."""
        early = [self.let_in(BAKER) for _ in range(3)]
        self.clock.advance(YOUNG_SECONDS)
        early[0].transport.waiting = b"GET"
        self.let_in(BAKER)
        self.assertEqual([client.transport.open for client in early], [True, False, True])

    def test_not_read_yet(self) -> None:
        """One with bytes waiting is not cut for another with bytes before it was read."""
        full = [self.come_speaking(BAKER) for _ in range(3)]
        self.clock.advance(YOUNG_SECONDS)
        self.assertIsNone(self.come_speaking(BAKER))
        assert full[1] is not None
        self.sent(full[1])
        self.clock.advance(YOUNG_SECONDS)
        self.assertIsNotNone(self.come_speaking(BAKER))
        assert full[0] is not None
        self.assertTrue(full[0].transport.open)
        self.assertTrue(full[1].transport.aborted)

    def test_on_sufferance(self) -> None:
        """One silent connection may be above the limit; who speaks on it is let in for another."""
        full = [self.let_in(BAKER) for _ in range(3)]
        for client in full:
            self.sent(client)
        self.clock.advance(YOUNG_SECONDS)
        newcomer = self.let_in(BAKER)
        self.assertIsNone(self.come(BAKER))
        self.assertTrue(all(client.transport.open for client in full))
        self.sent(newcomer)
        self.assertTrue(newcomer.transport.open)
        self.assertEqual([client.transport.open for client in full], [False, True, True])


HOSTS = (BAKER, CLIENT, OTHER, UNKNOWN)
DONE = ("sends", "is served", "is answered", "closes", "bytes wait", "is lost")
HISTORIES = st.lists(
    st.tuples(st.just("comes"), st.sampled_from(HOSTS), st.booleans())
    | st.tuples(st.sampled_from(DONE), st.integers(0, 5), st.none())
    | st.tuples(st.just("advance"), st.sampled_from((0.03, 0.06, 1.0)), st.none()),
    max_size=40,
)


@define(eq=False)
class Held(FakeConnection):
    """A connection and its slot; `slots` has them all, but those that were lost."""

    slot: Slot = field(init=False)


class EvictionOrderTests(SynchronousTestCase):
    """Who has to go, by plain values: whatever has happened before."""

    limits = Limits(connections=4, connections_per_peer=3, request_seconds=1e9, idle_seconds=1e9)

    def start(self) -> None:
        """Begin with no connections."""
        self.clock = Clock()
        self.connections = Connections(self.limits, self.clock)
        self.held: list[Held] = []

    def alive(self) -> list[Held]:
        """Those that were neither aborted nor lost."""
        return [held for held in self.held if not held.slot.gone]

    def rank(self, held: Held, counts: Counter[str], oldest: dict[str, float]) -> tuple[Any, ...]:
        """Where a connection is in the order of eviction, as the module says it."""
        slot = held.slot
        return (
            slot.state is not State.SILENT,
            slot.peer != UNKNOWN,
            -counts[slot.peer],
            oldest[slot.peer],
            slot.since,
        )

    def expected(self, peer: str, speaks: bool, spared: Held | None = None) -> Any:
        """The rank of the connection that has to go; None if there is none."""
        alive = self.alive()
        counts = Counter(held.slot.peer for held in alive)
        oldest = {
            peer: min(held.slot.since for held in alive if held.slot.peer == peer)
            for peer in counts
        }
        own = counts[peer] >= self.limits.connections_per_peer + (spared is not None)
        young = self.clock.seconds() - YOUNG_SECONDS
        may_go = (
            self.rank(held, counts, oldest)
            for held in alive
            if held is not spared
            and not held.slot.unread
            and not held.waiting
            and held.slot.state is not State.SERVING
            and (speaks or held.slot.state is State.SILENT)
            and (not own or held.slot.peer == peer)
            and (
                not own or (speaks and held.slot.state is State.SILENT) or held.slot.since <= young
            )
        )
        return min(may_go, default=None)

    def check(self, act: Callable[[], object], peer: str, speaks: bool, own: Held | None) -> None:
        """Let something happen, and check that who goes for it is the first in the order."""
        alive = self.alive()
        counts = Counter(held.slot.peer for held in alive)
        oldest = {
            each: min(held.slot.since for held in alive if held.slot.peer == each)
            for each in counts
        }
        ranks = {held: self.rank(held, counts, oldest) for held in alive}
        expected = self.expected(peer, speaks, own)
        act()
        gone = [held for held in alive if held.slot.gone]
        self.assertLessEqual(len(gone), 1)
        for held in gone:
            self.assertTrue(held.aborted)
            if held is not own:
                self.assertEqual(ranks[held], expected)
                self.assertNotEqual(peer, UNKNOWN)

    def come(self, peer: str, speaks: bool) -> None:
        """A connection comes, and has its slot if it is let in."""
        if self.connections.make_room(peer, peer, speaks):
            held = Held()
            held.slot = self.connections.enter(peer, peer, held, speaks)
            self.held.append(held)

    def act(self, what: str, number: int) -> None:
        """One of the connections does something."""
        if number >= len(self.held):
            return
        held = self.held[number]
        slot = held.slot
        if what == "is lost" or slot.gone:
            slot.left()
            self.held.remove(held)
        elif what == "sends":
            own = held if slot.state is State.SILENT else None
            self.check(slot.heard, slot.peer, True, own)
            slot.unread = False
            slot.receiving()
        elif what == "is served":
            slot.serving()
        elif what == "is answered" and slot.state is State.SERVING:
            slot.answered()
        elif what == "closes":
            slot.closing()
        elif what == "bytes wait":
            held.waiting = True

    @settings(max_examples=300, derandomize=True, deadline=None)
    @given(HISTORIES)
    def test_any_history(self, history: list[tuple[str, Any, Any]]) -> None:
        """Who goes is the first in the order, and there are never more than there may be."""
        self.start()
        with capturedLogs():
            for what, which, speaks in history:
                if what == "comes":
                    self.check(partial(self.come, which, speaks), which, speaks, None)
                elif what == "advance":
                    self.clock.advance(which)
                else:
                    self.act(what, which)
                self.assertLessEqual(len(self.alive()), self.limits.connections + 1)
                self.assertLessEqual(len(self.held), self.connections.limits.open_files)
            for held in list(self.held):
                held.slot.left()
        self.assertTrue(self.connections.make_room(BAKER, BAKER))
        self.assertEqual(self.clock.getDelayedCalls(), [])


class _Closing(Protocol):
    """Closes the connection on what comes first, and remembers all that comes."""

    transport: Any

    def connectionMade(self) -> None:
        self.received: list[bytes] = []

    def dataReceived(self, data: bytes) -> None:
        self.received.append(data)
        if data.startswith(b"pause"):
            self.transport.pauseProducing()
        if data.startswith(b"close"):
            self.transport.loseConnection()


class SliceTests(ConnectionsTestCase):
    """What is received is given on in slices, in the turns of its address."""

    def setUp(self) -> None:
        super().setUp()
        self.factory = LimitedFactory(Factory.forProtocol(_Closing), self.connections)

    def test_slices(self) -> None:
        """A protocol sees a slice at a time, and all of them in order."""
        client = self.let_in(BAKER)
        data = b"".join(bytes([number]) * SLICE for number in range(5))
        client.protocol.dataReceived(data)
        received = client.protocol.wrappedProtocol.received
        self.assertEqual([len(each) for each in received], [SLICE] * 5)
        self.assertEqual(b"".join(received), data)

    def test_others_meanwhile(self) -> None:
        """While slices wait for their turn, nothing more is read, and others have theirs."""
        client, other = self.let_in(CLIENT), self.let_in(BAKER)
        client.protocol.dataReceived(b"x" * SLICE)
        self.connections.turns._spent = 1.0
        for each in (client, other):
            each.protocol.dataReceived(b"y")
            self.assertEqual(each.transport.producerState, "paused")
        self.assertEqual(client.protocol.wrappedProtocol.received, [b"x" * SLICE])
        self.connections.turns._turn()
        for each in (client, other):
            self.assertEqual(each.protocol.wrappedProtocol.received[-1], b"y")
            self.assertEqual(each.transport.producerState, "producing")

    def test_paused(self) -> None:
        """A protocol that wants no more gets no more slices until it does."""
        client = self.let_in(BAKER)
        client.protocol.dataReceived(b"pause".ljust(SLICE) + b"more")
        protocol = client.protocol.wrappedProtocol
        self.assertEqual(len(protocol.received), 1)
        self.assertEqual(client.transport.producerState, "paused")
        protocol.transport.resumeProducing()
        self.assertEqual(len(protocol.received), 1)  # it may be in the middle of something
        self.clock.advance(0)
        self.assertEqual(protocol.received[1:], [b"more"])
        self.assertEqual(client.transport.producerState, "producing")

    def test_paused_again(self) -> None:
        """One that wants no more by the time its turn comes gets none."""
        client = self.let_in(BAKER)
        client.protocol.dataReceived(b"pause".ljust(SLICE) + b"more")
        protocol = client.protocol.wrappedProtocol
        protocol.transport.resumeProducing()
        protocol.transport.pauseProducing()
        self.clock.advance(0)
        self.assertEqual(len(protocol.received), 1)
        protocol.transport.resumeProducing()
        self.clock.advance(0)
        self.assertEqual(protocol.received[1:], [b"more"])

    def test_closed(self) -> None:
        """A transport that is being closed is neither paused nor resumed any more."""
        client = self.let_in(BAKER)
        client.protocol.dataReceived(b"close")
        self.assertTrue(client.transport.closed)
        client.protocol.dataReceived(b"more" * SLICE)
        client.protocol.wrappedProtocol.transport.resumeProducing()


class TimeTests(ConnectionsTestCase):
    """How long a connection may do what it does."""

    def test_receiving(self) -> None:
        """A request has ten seconds from connecting on, whatever comes of it meanwhile."""
        client = self.let_in(BAKER)
        for _ in range(9):
            self.clock.advance(1)
            client.slot.receiving()
        self.assertTrue(client.transport.open)
        self.clock.advance(1)
        self.assertTrue(client.transport.aborted)

    def test_serving(self) -> None:
        """A request that is here takes as long as it takes."""
        client = self.let_in(BAKER)
        client.slot.serving()
        self.clock.advance(1000)
        self.assertTrue(client.transport.open)

    def test_idle(self) -> None:
        """Then there are thirty seconds for another, and ten from its first byte to its last."""
        clients = [self.let_in(BAKER), self.let_in(BAKER)]
        for client in clients:
            client.slot.serving()
            self.assertTrue(client.slot.answered())
        self.clock.advance(29)
        clients[0].slot.receiving()
        self.clock.advance(1)
        self.assertTrue(clients[0].transport.open)
        self.assertTrue(clients[1].transport.closed)
        self.assertFalse(clients[1].transport.aborted)
        self.clock.advance(9)
        self.assertTrue(clients[0].transport.aborted)

    def test_late_request(self) -> None:
        """One that has come by the time the idle time is over is not cut for it."""
        clients = [self.let_in(BAKER), self.let_in(BAKER)]
        for client in clients:
            client.slot.serving()
            self.assertTrue(client.slot.answered())
        clients[0].transport.waiting = b"POST"  # it is still with the system
        clients[1].protocol.pauseProducing()
        clients[1].protocol.dataReceived(b"POST")  # or waits to be given on
        self.clock.advance(30)
        for client in clients:
            self.assertTrue(client.transport.open)
        self.clock.advance(10)
        for client in clients:
            self.assertTrue(client.transport.aborted)

    def test_closing(self) -> None:
        """A client that does not take what is written to it is cut off after ten seconds."""
        client = self.let_in(BAKER)
        client.slot.serving()
        client.protocol.wrappedProtocol.transport.loseConnection()
        client.slot.receiving()
        client.slot.serving()
        self.assertFalse(client.slot.answered())
        self.clock.advance(9)
        self.assertFalse(client.transport.aborted)
        self.clock.advance(1)
        self.assertTrue(client.transport.aborted)


class StoppingTests(ConnectionsTestCase):
    """When the daemon stops."""

    def test_stop(self) -> None:
        """Who waits is disconnected, who is served gets his answer and no other."""
        waiting, served = self.let_in(BAKER), self.let_in(BAKER)
        served.slot.serving()
        self.connections.stopService()
        self.assertTrue(waiting.transport.closed)
        self.assertTrue(served.transport.open)
        self.assertFalse(served.slot.answered())
        self.assertIsNone(self.come(BAKER))

    def test_half_sent(self) -> None:
        """A request of which a part has come may come to its end, and is answered."""
        half, late = self.let_in(BAKER), self.let_in(BAKER)
        half.protocol.dataReceived(b"POST")
        late.transport.waiting = b"POST"
        stopped = self.connections.stopService()
        self.assertTrue(half.transport.open)
        self.assertTrue(late.transport.open)
        self.assertNoResult(stopped)
        half.slot.serving()
        late.slot.serving()
        self.assertNoResult(stopped)  # until it was handed on
        self.clock.advance(0)
        self.successResultOf(stopped)
        self.assertFalse(half.slot.answered())

    def test_half_sent_for_ever(self) -> None:
        """It has a little time for that."""
        half = self.let_in(BAKER)
        half.protocol.dataReceived(b"POST")
        stopped = self.connections.stopService()
        self.clock.advance(FINISH_SECONDS)
        self.clock.advance(0)
        self.successResultOf(stopped)
        self.assertTrue(half.transport.closed)
