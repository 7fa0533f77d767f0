"""The socket listener: on loopback, on Unix sockets, and on transports of the test."""

import os
from collections.abc import Callable, Sequence
from typing import cast

from attrs import define, field
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address, UNIXAddress
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IAddress, IHalfCloseableProtocol
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.logger import capturedLogs, formatEvent
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase

from tests.support import octezsocketclient as client
from tests.support.genericpayloads import noop_payload
from tests.support.harness import EVERY_MAGIC_BYTE, Harness, HeldHarness, reactor, settings_with
from tests.support.octezclient import HSM_AUTH_KEY, HSM_KEYS, SecretKey, verifies
from tests.support.octezsocketclient import OctezSocketClient, OctezSocketError, framed, result_in
from tests.support.strategies import socket_payloads
from tests.support.vectors import (
    AUTH,
    FRAMES,
    OCTEZ,
    PAYLOADS,
    TZ1,
    TZ2,
    TZ3,
    block,
    consensus,
    noop,
)
from tezio_signer import octezsocket
from tezio_signer.config.settings import Limits
from tezio_signer.decision import Decision, Outcome, Stage
from tezio_signer.errors import NotAdmitted
from tezio_signer.listeners.limits import Connections
from tezio_signer.listeners.wrapping import LimitedFactory
from tezio_signer.octez.messages import FRAME_HEADER
from tezio_signer.octezsocket import OctezSocketFactory
from tezio_signer.request import Admitted, Peer, SigningRequest, Submission
from tezio_signer.signer import Signer
from tezio_signer.simulator.firmware import Firmware
from tezio_signer.tezos.keys import Curve, PublicKey, PublicKeyHash, Signature

NOOP = PAYLOADS["noop"]
ANOTHER = noop(2)
NO_AUTHENTICATION = FRAMES["R_auth_none"]
WALLET = [SecretKey(key["sk"]) for key in OCTEZ["keys"] if not key["pkh"].startswith("tz4")]
HERE = IPv4Address("TCP", "127.0.0.1", 1025)
IDLE_SECONDS = 8.0
REQUEST_SECONDS = 10.0
GIVEN_SIGNATURE = bytes(range(64))


class SignerTestCase(TestCase):
    """A whole signer with socket listeners."""

    async def start(self, harness: Harness) -> list[str]:
        """Start a signer; the endpoints of its listeners, on TCP and on a Unix socket."""
        await harness.start(self)
        self.harness = harness
        # A Unix socket's path may not be long.
        path = f"{os.path.relpath(self.mktemp())}.sock"
        return [
            await harness.open(self, harness.sockets),
            await harness.open(self, harness.sockets, path),
        ]


class OctezTests(SignerTestCase):
    """octez-client at work."""

    async def test_signs_without_authentication(self) -> None:
        """Each signature verifies, with all three keys, over TCP and Unix sockets."""
        endpoints = await self.start(Harness(settings_with(), Firmware(enabled=EVERY_MAGIC_BYTE)))
        payloads = (NOOP, block(7, 0), consensus("preatt", 7, 0), consensus("att_dal_5", 7, 0))
        for endpoint in endpoints:
            for key in HSM_KEYS:
                for payload in payloads:
                    signature = await OctezSocketClient(endpoint).sign(key.pkh, payload)
                    self.assertTrue(verifies(key.public_key, payload, signature))

    async def test_signs_with_authentication(self) -> None:
        """The HSM's auth key and authorized keys of all curves authenticate."""
        authorized = tuple(PublicKey.parse(key.public_key) for key in WALLET)
        endpoints = await self.start(
            Harness(settings_with(auth_req=True, auth_key=AUTH, authorized_keys=authorized))
        )
        for endpoint in endpoints:
            for wallet_key in (HSM_AUTH_KEY, *WALLET):
                asking = OctezSocketClient(endpoint, [HSM_KEYS[0], wallet_key])
                expected = [HSM_AUTH_KEY.pkh, *(key.pkh for key in WALLET)]
                self.assertEqual(await asking.authorized_keys(), expected)
                signature = await asking.sign(str(TZ3), NOOP)
                self.assertTrue(verifies(HSM_KEYS[2].public_key, NOOP, signature))

    async def test_imports_and_lists_keys(self) -> None:
        """Public keys are those of the HSM, and the list is that of the configuration."""
        for endpoint in await self.start(Harness()):
            asking = OctezSocketClient(endpoint)
            for key in HSM_KEYS:
                self.assertEqual(await asking.public_key(key.pkh), key.public_key)
            self.assertEqual(await asking.known_keys(), [key.pkh for key in HSM_KEYS])
            self.assertIsNone(await asking.authorized_keys())

    async def test_a_thousand_signatures_on_one_connection(self) -> None:
        """A connection is kept for as long as its client likes."""
        tcp, _ = await self.start(Harness(settings_with()))
        asking = OctezSocketClient(tcp)
        conversation = await asking.connect()
        for number in range(1000):
            request = client.sign(str(TZ1), noop(number))
            signature = client.signature_in(
                result_in(await conversation.ask(request)), HSM_KEYS[0].pkh
            )
            if number % 100 == 0:
                self.assertTrue(verifies(HSM_KEYS[0].public_key, noop(number), signature))
        await asking.hang_up(conversation)

    async def test_many_connections_at_once(self) -> None:
        """One that waits for the HSM does not keep the others from being served."""
        tcp, unix = await self.start(HeldHarness())
        harness = cast(HeldHarness, self.harness)
        waiting = await OctezSocketClient(tcp).connect()
        asking = waiting.ask(client.sign(str(TZ1), NOOP))
        await harness.asked()
        for endpoint in (tcp, unix) * 10:
            self.assertEqual(len(await OctezSocketClient(endpoint).known_keys()), 3)
        self.assertNoResult(asking)
        harness.answer()
        signature = client.signature_in(result_in(await asking), str(TZ1))
        self.assertTrue(verifies(HSM_KEYS[0].public_key, NOOP, signature))

    async def test_what_a_tezio_hsm_has_not(self) -> None:
        """Nonces and proofs of possession are refused in a sentence; support is denied."""
        (tcp, _), nonces = await self.start(Harness()), "A Tezio HSM makes no deterministic nonces."
        proof = "Proof of possession can only be requested for BLS keys."
        tz4 = OCTEZ["keys"][4]["pkh"]
        asking = OctezSocketClient(tcp)
        for pkh in (str(TZ1), tz4):
            self.assertEqual(await asking.ask(client.supports_nonces(pkh)), b"\x00")
            for request, sentence in (
                (client.nonce(pkh, b"\x00\x00\x00\x07"), nonces),
                (client.nonce(pkh, b"", bytes(64), hashed=True), nonces),
                (client.prove_possession(pkh), proof),
                (client.prove_possession(pkh, bytes(48)), proof),
            ):
                with self.assertRaises(OctezSocketError) as refused:
                    await asking.ask(request)
                self.assertEqual(refused.exception.message, sentence)
        self.assertEqual(self.harness.written, b"")

    async def test_longest_payload(self) -> None:
        """A request of 65535 bytes is read, and said to be too large for the HSM."""
        tcp, unix = await self.start(Harness())
        request = client.sign(str(TZ1), noop_payload(65509))
        self.assertEqual(len(request), 65535)
        for endpoint in (tcp, unix):
            with self.assertRaises(OctezSocketError) as refused:
                await OctezSocketClient(endpoint).ask(request)
            self.assertEqual(
                refused.exception.message,
                "the payload has 65509 bytes; a Tezio HSM signs 1015 at most",
            )


class LeavingTests(SignerTestCase):
    """Clients that close their connection, or one side of it."""

    async def test_half_closed(self) -> None:
        """Who has closed his sending side still gets his answer, and then the end."""
        harness = HeldHarness()
        for endpoint in await self.start(harness):
            conversation = await OctezSocketClient(endpoint).connect()
            asking = conversation.ask(client.sign(str(TZ1), NOOP))
            conversation.transport.loseWriteConnection()
            await harness.asked()
            harness.answer()
            signature = client.signature_in(result_in(await asking), str(TZ1))
            self.assertTrue(verifies(HSM_KEYS[0].public_key, NOOP, signature))
            self.assertEqual(await conversation.ended, b"")

    async def test_aborted(self) -> None:
        """What the HSM signs for one that has gone is there when it is asked for again."""
        harness = HeldHarness()
        tcp, _ = await self.start(harness)
        asking = OctezSocketClient(tcp)
        conversation = await asking.connect()
        lost = conversation.ask(client.sign(str(TZ3), block(7, 0)))
        await harness.asked()
        with capturedLogs() as events:
            gone = self.logged(events, "went away")
            conversation.transport.abortConnection()
            await gone
        await conversation.ended
        self.failureResultOf(lost, ConnectionDone)
        harness.answer()
        await harness.signer.drained()
        signature = await asking.sign(str(TZ3), block(7, 0))
        self.assertTrue(verifies(HSM_KEYS[2].public_key, block(7, 0), signature))
        self.assertEqual(harness.messages(), [block(7, 0)])

    def logged(self, events: Sequence[dict[str, object]], words: str) -> Deferred[None]:
        """Fires when the log has a line with these words."""
        found: Deferred[None] = Deferred()

        def look() -> None:
            if any(words in formatEvent(event) for event in events):
                found.callback(None)
            else:
                reactor.callLater(0, look)

        look()
        return found.addTimeout(5, reactor)


@define
class FakeSigner:
    """A signer whose signatures come when the test says so.

    :ivar gone: what was asked for by clients that have left.
    :ivar recorded: the decisions that were recorded.
    """

    asked: list[bytes] = field(factory=list)
    waiting: list[Deferred[Signature]] = field(factory=list)
    gone: list[bytes] = field(factory=list)
    recorded: list[Decision] = field(factory=list)
    at_once: bool = False
    broken: bool = False
    refusing: bool = False

    @property
    def decisions(self) -> "FakeSigner":
        return self

    def record(self, decision: Decision) -> None:
        self.recorded.append(decision)

    def admit(self, peer: Peer) -> Admitted:
        if self.refusing:
            raise NotAdmitted("not you")
        return Admitted(peer)

    def authorized_keys(self) -> None:
        return None

    def known_keys(self) -> tuple[PublicKeyHash, ...]:
        return (TZ1, TZ2, TZ3)

    async def public_key(self, key: PublicKeyHash) -> PublicKey:
        if self.broken:
            raise ZeroDivisionError("a fault of ours")
        return PublicKey.parse(HSM_KEYS[0].public_key)

    def submit(self, submission: Submission) -> Deferred[Signature]:
        assert isinstance(submission.asked, SigningRequest)
        data = submission.asked.data
        self.asked.append(data)
        waiting: Deferred[Signature] = Deferred(lambda _: self.gone.append(data))
        self.waiting.append(waiting)
        if self.at_once:
            self.answer()
        return waiting

    def answer(self) -> None:
        """Answer the request that has waited longest."""
        self.waiting.pop(0).callback(Signature(Curve.ED25519, GIVEN_SIGNATURE))


class Transport(StringTransport):
    """A transport that has no socket, and knows what it was told."""

    aborted = False

    def getHandle(self) -> None:
        return None

    def abortConnection(self) -> None:
        self.aborted = True


class TransportTestCase(SynchronousTestCase):
    """One connection, whose bytes and time go as the test says."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.signer = FakeSigner()
        self.connections = Connections(Limits(), self.clock)
        sockets = OctezSocketFactory(cast(Signer, self.signer), self.clock)
        self.factory = LimitedFactory(sockets, self.connections)
        self.connect()

    def connect(self, address: IAddress = HERE) -> None:
        """Make a new connection."""
        self.transport = Transport(peerAddress=address)
        connection = self.factory.buildProtocol(address)
        assert connection is not None
        self.connection = connection
        connection.makeConnection(self.transport)

    def receive(self, data: bytes) -> None:
        """Bytes of the client."""
        self.connection.dataReceived(data)

    def lose(self) -> None:
        """The connection is lost."""
        self.connection.connectionLost(Failure(ConnectionLost()))

    def assert_answers(self, *frames: bytes) -> None:
        """Check what was written since the last time."""
        self.assertEqual(self.transport.value(), b"".join(frames))
        self.transport.clear()

    def assert_open(self) -> None:
        """Check that the connection was not closed."""
        self.assertFalse(self.transport.disconnecting)

    def assert_closed(self) -> None:
        """Check that the connection was closed, and let it be lost."""
        self.assertTrue(self.transport.disconnecting)
        self.lose()
        self.assertEqual(self.clock.getDelayedCalls(), [])


SIGN = framed(client.sign(str(TZ1), NOOP))
SIGNED = framed(b"\x00" + GIVEN_SIGNATURE)
PROBE = framed(client.AUTHORIZED_KEYS)


class ConversationTests(TransportTestCase):
    """Requests and answers on one connection."""

    def test_in_turn(self) -> None:
        """A request is looked at when the one before it is answered."""
        other = framed(client.sign(str(TZ1), ANOTHER))
        self.receive(SIGN + other + PROBE)
        self.clock.advance(0)
        self.assertEqual(self.signer.asked, [NOOP])
        self.assert_answers()
        self.signer.answer()
        self.clock.advance(0)
        self.assert_answers(SIGNED)
        self.assertEqual(self.signer.asked, [NOOP, ANOTHER])
        self.signer.answer()
        self.clock.advance(0)
        self.assert_answers(SIGNED, NO_AUTHENTICATION)
        self.assert_open()

    def test_byte_by_byte(self) -> None:
        """A request may come in as many pieces as it has bytes."""
        for at in range(len(SIGN)):
            self.assertEqual(self.signer.asked, [])
            self.receive(SIGN[at : at + 1])
        self.signer.answer()
        self.assert_answers(SIGNED)

    @settings(max_examples=60, derandomize=True, deadline=None)
    @given(
        st.lists(st.sampled_from(["sign_tz1", "known_keys", "supports", "det_nonce", "bls_pop"])),
        st.booleans() | socket_payloads(),
        st.data(),
    )
    def test_any_split(self, names: list[str], bad: bool | bytes, data: st.DataObject) -> None:
        """However its bytes are split, a connection gives the same answers and ends the same."""
        stream = b"".join(FRAMES[name] for name in names)
        stream += framed(bad) if isinstance(bad, bytes) else b""
        cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
        pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
        outcomes = []
        with capturedLogs():
            for parts in ([stream], pieces, [bytes([byte]) for byte in stream]):
                self.setUp()
                self.signer.at_once = True
                for part in parts:
                    if not self.transport.disconnecting:
                        self.receive(part)
                        self.clock.pump([0] * 20)
                outcomes.append((self.transport.value(), self.transport.disconnecting))
                self.lose()
                self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(outcomes[0], outcomes[1])
        self.assertEqual(outcomes[0], outcomes[2])

    def test_more_than_is_served(self) -> None:
        """Thousands of requests in each packet are not taken in faster than they are served."""
        # A clock makes no difference between now and the next turn.
        turn, call_later = 0.001, self.clock.callLater
        self.patch(self.clock, "callLater", lambda s, *call: call_later(s or turn, *call))
        taken = 0
        for _ in range(300):
            if self.transport.producerState == "producing":
                self.receive(PROBE * 200)
                taken += 200
            self.clock.advance(turn)
        answered = len(self.transport.value()) // len(NO_AUTHENTICATION)
        self.assertGreater(answered, 250)
        self.assertLess(taken - answered, 200)

    def test_undecodable(self) -> None:
        """What is no request ends the connection without an answer, and is recorded."""
        for payload, why in ((b"", "cut off"), (b"\x08", "no kind of request")):
            self.setUp()
            self.receive(framed(payload) + PROBE)
            self.clock.advance(0)
            self.receive(PROBE)
            self.assert_answers()
            self.assert_closed()
            (decision,) = self.signer.recorded
            self.assertEqual((decision.outcome, decision.status), (Outcome.REFUSED, None))
            self.assertEqual((decision.stage, decision.peer), (Stage.READING, "127.0.0.1"))
            self.assertIn(why, decision.sentence)

    def test_fault(self) -> None:
        """A fault of ours is recorded with its traceback, and the client told that it is one."""
        self.signer.broken = True
        self.receive(framed(client.public_key(str(TZ1))))
        (decision,) = self.signer.recorded
        self.assertEqual((decision.outcome, decision.status), (Outcome.FAULT, 500))
        assert decision.failure is not None
        self.assertIn("a fault of ours", decision.failure.getErrorMessage())
        with self.assertRaises(OctezSocketError) as answered:
            result_in(self.transport.value()[2:])
        self.assertEqual(answered.exception.message, "internal error of the signer, see its log")
        self.assert_open()

    def test_refusals_are_recorded(self) -> None:
        """A refused request that is none to sign is a decision."""
        self.receive(framed(client.nonce(str(TZ1), b"")))
        sentence = "A Tezio HSM makes no deterministic nonces."
        (decision,) = self.signer.recorded
        said = decision.what, str(decision.peer), decision.sentence
        self.assertEqual(said, (f"DeterministicNonce {TZ1}", "127.0.0.1", sentence))
        self.assertEqual((decision.outcome, decision.status), (Outcome.REFUSED, 403))
        self.assert_open()

    def test_not_admitted(self) -> None:
        """Who may ask nothing is told so once, and has to connect again to ask again."""
        self.signer.refusing = True
        self.receive(PROBE + PROBE)
        self.clock.advance(0)
        answers = self.transport.value()
        self.assertEqual(len(answers), FRAME_HEADER + int.from_bytes(answers[:FRAME_HEADER], "big"))
        with self.assertRaises(OctezSocketError) as refused:
            result_in(answers[FRAME_HEADER:])
        self.assertEqual(refused.exception.message, "not you")
        self.assert_closed()

    def test_no_address(self) -> None:
        """A client whose address a proxy does not give is refused, not a crash."""
        for address in (UNIXAddress("/x"), IPv4Address("TCP", "no address", 1)):
            self.connect(address)
            self.receive(SIGN)
            with self.assertRaises(OctezSocketError) as refused:
                result_in(self.transport.value()[2:])
            self.assertEqual(refused.exception.message, "the address of the client is not known")

    def test_bounded_memory(self) -> None:
        """Who sends on while he is served is not read from, until all he has sent is served."""
        self.receive(SIGN + SIGN[:9])
        self.assertEqual(self.transport.producerState, "producing")
        self.receive(SIGN[9:] + SIGN[:9])
        self.assertEqual(self.transport.producerState, "paused")
        self.signer.answer()
        self.clock.advance(0)
        self.assertEqual(self.transport.producerState, "paused")
        self.signer.answer()
        self.clock.advance(0)
        self.assertEqual(self.transport.producerState, "producing")
        self.receive(SIGN[9:])
        self.signer.answer()
        self.assert_answers(SIGNED * 3)

    def test_unread_answers(self) -> None:
        """Who does not read his answers gets no more of them, and is cut off in the end."""
        self.patch(self.transport, "write", self.clogged(self.transport.write))
        self.receive(PROBE * 3)
        self.clock.pump([0] * 5)
        self.assert_answers(NO_AUTHENTICATION)
        self.connection.wrappedProtocol.resumeProducing()
        self.assert_answers(NO_AUTHENTICATION)
        with capturedLogs() as events:
            self.clock.advance(IDLE_SECONDS)
        self.assertIn("does not read", formatEvent(events[0]))
        self.assertTrue(self.transport.disconnecting)
        self.assertFalse(self.transport.aborted)
        self.clock.advance(octezsocket.LINGER)
        self.assertTrue(self.transport.aborted)
        self.assert_closed()

    def clogged(self, write: Callable[[bytes], None]) -> Callable[[bytes], None]:
        """A transport's `write` that is full with each answer."""

        def full(data: bytes) -> None:
            write(data)
            self.connection.wrappedProtocol.pauseProducing()

        return full


class LosingTests(TransportTestCase):
    """Connections that end before their answer."""

    def test_lost_while_signing(self) -> None:
        """A client that has gone cancels what it asked for."""
        self.receive(SIGN)
        self.lose()
        self.assertEqual(self.signer.gone, [NOOP])
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_half_closed(self) -> None:
        """What came before the client closed its side is answered, then the connection ends."""
        self.receive(SIGN + PROBE + SIGN[:9])
        self.half_close()
        self.assert_open()
        self.signer.answer()
        self.clock.advance(0)
        self.assert_answers(SIGNED, NO_AUTHENTICATION)
        self.assert_closed()

    def test_half_closed_while_idle(self) -> None:
        """Nothing is left to be done for a client that has asked for nothing."""
        for received in (b"", SIGN[:9]):
            self.setUp()
            self.receive(received)
            self.half_close()
            self.assert_closed()

    def half_close(self) -> None:
        """The client closes its sending side."""
        IHalfCloseableProtocol(self.connection).readConnectionLost()


class TimeTests(TransportTestCase):
    """Clients that do not go on."""

    def test_idle(self) -> None:
        """Eight seconds after the connection was made, or after the answer, it ends quietly."""
        with capturedLogs() as events:
            self.clock.advance(IDLE_SECONDS - 0.1)
            self.receive(PROBE)
            self.clock.advance(IDLE_SECONDS - 0.1)
            self.assert_open()
            self.clock.advance(0.1)
            self.assert_closed()
        self.assertEqual(events, [])

    def test_signing_is_not_idle(self) -> None:
        """The time while the HSM signs is not the client's."""
        self.receive(SIGN)
        self.clock.advance(100)
        self.assert_open()
        self.signer.answer()
        self.clock.advance(IDLE_SECONDS - 0.1)
        self.assert_open()
        self.clock.advance(0.1)
        self.assert_closed()

    def test_every_byte_counts(self) -> None:
        """Eight seconds are counted from the last byte of a request that is coming in."""
        self.receive(SIGN[:1])
        self.clock.advance(7)
        self.receive(SIGN[1:2])
        self.clock.advance(2.9)
        self.assert_open()
        self.receive(SIGN[2:])
        self.signer.answer()
        self.assert_answers(SIGNED)

    def test_stopped_in_the_middle(self) -> None:
        """Who stops in the middle of a request is cut off, and logged."""
        self.receive(SIGN[:9])
        with capturedLogs() as events:
            self.clock.advance(IDLE_SECONDS)
        self.assert_closed()
        self.assertIn("127.0.0.1, which stopped in the middle", formatEvent(events[0]))

    def test_dripping(self) -> None:
        """A request that drips in for ten seconds is cut off, however steadily it comes."""
        seconds = 0
        with capturedLogs():
            while not self.transport.aborted and seconds < 60:
                self.receive(SIGN[seconds : seconds + 1])
                self.clock.advance(1)
                seconds += 1
        self.assertEqual(seconds, REQUEST_SECONDS)

    def test_late_timer(self) -> None:
        """A piece that is read when the time is over, before the timer has run, is no fault."""
        self.receive(SIGN[:1])
        self.clock.rightNow += REQUEST_SECONDS + 1
        self.receive(SIGN[1:2])
        with capturedLogs():
            self.clock.advance(0)
        self.assertTrue(self.transport.aborted)
        self.lose()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_requests_have_their_time_each(self) -> None:
        """What was a piece of the next request has its ten seconds when its turn has come."""
        self.receive(SIGN + PROBE[:1])
        self.clock.advance(60)
        self.signer.answer()
        self.clock.advance(7)
        self.receive(PROBE[1:2])
        self.clock.advance(2.9)
        self.assert_open()
        self.receive(PROBE[2:])
        self.assert_answers(SIGNED, NO_AUTHENTICATION)

    def test_a_piece_that_came_early(self) -> None:
        """Its ten seconds begin when the request before it is answered, and end all the same."""
        self.receive(SIGN + PROBE[:1])
        self.clock.advance(60)
        self.signer.answer()
        self.clock.advance(0)
        self.clock.advance(7)
        self.receive(PROBE[1:2])
        self.clock.advance(2.9)
        self.assertFalse(self.transport.aborted)
        with capturedLogs():
            self.clock.advance(0.2)
        self.assertTrue(self.transport.aborted)


class StoppingTests(TransportTestCase):
    """The end of the daemon."""

    def test_idle_connections(self) -> None:
        """Connections without a request are closed at once."""
        self.receive(SIGN)
        self.signer.answer()
        self.clock.advance(0)
        idle, its_transport = self.connection, self.transport
        self.connect()
        self.connections.stopService()
        self.assertTrue(its_transport.disconnecting)
        idle.connectionLost(Failure(ConnectionDone()))
        self.assert_closed()

    def test_half_sent(self) -> None:
        """A request that has come in part is answered when the rest has come, and is the last."""
        self.receive(SIGN[:9])
        stopped = self.connections.stopService()
        self.assert_open()
        self.receive(SIGN[9:] + SIGN[:9])
        self.clock.advance(0)
        self.successResultOf(stopped)
        self.signer.answer()
        self.clock.advance(0)
        self.assert_answers(SIGNED)
        self.assert_closed()

    def test_served_connection(self) -> None:
        """One that is being served gets its answer first, and no other."""
        self.receive(SIGN + SIGN[:9])
        self.connections.stopService()
        self.assert_open()
        self.signer.answer()
        self.clock.advance(0)
        self.assert_answers(SIGNED)
        self.assert_closed()

    def test_no_more_connections(self) -> None:
        """Nobody is let in any more."""
        self.connections.stopService()
        self.assertIsNone(self.factory.buildProtocol(HERE))
        self.lose()
