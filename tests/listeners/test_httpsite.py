"""The HTTP server below the routes: bodies, paths and connections."""

import re
from unittest import mock

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.logger import capturedLogs, formatEvent
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase
from twisted.web import http

from tests.support import octezclient
from tests.support.harness import Harness, parse_response, reactor, settings_with
from tests.support.octezclient import HSM_KEYS, message_in, text_in, verifies
from tests.support.vectors import AUTHENTICATION, PAYLOADS, TZ1
from tezio_signer.config.settings import Limits
from tezio_signer.listeners.httpsite import MAX_CHUNKS, MAX_PIPELINED, SignerRequest
from tezio_signer.listeners.limits import Connections
from tezio_signer.listeners.slots import Slot
from tezio_signer.listeners.wrapping import LimitedFactory
from tezio_signer.sparinglog import LINES_PER_MINUTE

LONGEST_BODY = 131_072
PATH = b"/keys/%b" % str(TZ1).encode("ascii")
TOO_LARGE = f"the request body is larger than {LONGEST_BODY} bytes"


class AbortableTransport(StringTransport):
    """Can be closed at once."""

    def abortConnection(self) -> None:
        self.disconnected = True


class ConnectionTests(SynchronousTestCase):
    """One connection, whose bytes come and go as the test says."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.transport = StringTransport(peerAddress=IPv4Address("TCP", "127.0.0.1", 1025))
        self.harness = Harness(site_clock=self.clock)
        limited = LimitedFactory(self.harness.site, Connections(Limits(), self.clock))
        self.connection = limited.buildProtocol(self.transport.getPeer())
        self.connection.makeConnection(self.transport)
        self.channel = self.connection.wrappedProtocol
        self.addCleanup(self.lose)

    def lose(self) -> None:
        """The connection is lost, unless it was before."""
        if self.connection.wrappedProtocol is not None:
            self.connection.connectionLost(Failure(ConnectionDone()))

    def _answers(self) -> bytes:
        answers: bytes = self.transport.value()
        return answers

    def test_byte_by_byte(self) -> None:
        """A request may come in as many pieces as it has bytes."""
        for byte in octezclient.get("127.0.0.1", "/authorized_keys"):
            self.assertEqual(self._answers(), b"")
            self.channel.dataReceived(bytes([byte]))
        self.assertEqual(parse_response(self._answers()).body, b"{}\n")
        self.assertFalse(self.transport.disconnecting)

    def test_one_after_the_other(self) -> None:
        """Several requests on one connection are answered in order."""
        self.channel.dataReceived(
            octezclient.get("127.0.0.1", "/authorized_keys")
            + octezclient.get("127.0.0.1", "/nowhere")
            + octezclient.get("127.0.0.1", "/known_keys")
        )
        self.clock.pump([0] * 3)
        answers = self._answers()
        starts = [answers.index(text) for text in (b"{}\n", b"404 Not Found", b'{"known_keys"')]
        self.assertEqual(starts, sorted(starts))

    def test_stopping(self) -> None:
        """Who asks for a signature on a connection that was kept is told that it is too late."""
        self.channel.dataReceived(octezclient.get("127.0.0.1", "/authorized_keys"))
        self.transport.clear()
        self.harness.signer.close("the signer is stopping")
        path = PATH.decode("ascii")
        self.channel.dataReceived(octezclient.post("127.0.0.1", path, PAYLOADS["noop"]))
        self.clock.pump([0] * 3)
        answer = parse_response(self._answers())
        self.assertEqual((answer.status, message_in(answer.body)), (502, "the signer is stopping"))

    def test_too_large_is_said_at_once(self) -> None:
        """The refusal does not wait for the body, and the connection ends with it."""
        body = b"1" * (LONGEST_BODY + 1)
        head = b"POST %b HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % (PATH, len(body))
        self.channel.dataReceived(head)
        answer = parse_response(self._answers())
        self.assertEqual((answer.status, message_in(answer.body)), (413, TOO_LARGE))
        self.assertEqual(answer.headers["connection"], "close")
        self.channel.dataReceived(body[:-1])
        self.assertFalse(self.transport.disconnecting)
        self.transport.clear()
        self.channel.dataReceived(body[-1:] + octezclient.get("127.0.0.1", "/"))
        self.assertTrue(self.transport.disconnecting)
        self.assertEqual(self._answers(), b"")

    def test_too_large_is_all_that_is_said(self) -> None:
        """Who asks whether to send a body that is too large is not told to continue."""
        self.channel.dataReceived(
            b"POST %b HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n"
            % (PATH, LONGEST_BODY + 1)
        )
        self.assertEqual(parse_response(self._answers()).status, 413)
        self.assertNotIn(b"100 Continue", self._answers())

    def test_one_each_turn(self) -> None:
        """Of thousands of requests in one packet, the reactor is kept from others by one only."""
        # A clock makes no difference between now and the next turn.
        self.patch(self.channel, "callLater", lambda _, *call: self.clock.callLater(1, *call))
        self.channel.dataReceived(octezclient.get("127.0.0.1", "/authorized_keys") * 1000)
        for count in range(1, 10):
            self.assertEqual(self._answers().count(b"200 OK"), count)
            self.clock.advance(1)

    def test_no_end_of_them(self) -> None:
        """Who sends request behind request has to connect again after sixteen of them."""
        self.channel.dataReceived(octezclient.get("127.0.0.1", "/authorized_keys") * 100)
        self.clock.pump([0] * 100)
        self.assertEqual(self._answers().count(b"200 OK"), MAX_PIPELINED)
        self.assertTrue(self.transport.disconnecting)

    def test_many_in_turn(self) -> None:
        """Who waits for each answer may go on for ever."""
        for _ in range(10 * MAX_PIPELINED):
            self.channel.dataReceived(octezclient.get("127.0.0.1", "/authorized_keys"))
            self.clock.advance(0)
        self.assertEqual(self._answers().count(b"200 OK"), 10 * MAX_PIPELINED)
        self.assertFalse(self.transport.disconnecting)

    def test_answers_that_are_not_read(self) -> None:
        """Who does not read what he is sent gets no more of it."""
        producer = self.transport.producer
        assert producer is not None
        producer.pauseProducing()
        for _ in range(3):
            self.channel.dataReceived(octezclient.get("127.0.0.1", "/authorized_keys"))
            self.clock.advance(0)
        self.assertEqual(self._answers().count(b"200 OK"), 1)
        self.assertTrue(self.transport.disconnecting)

    def test_not_admitted(self) -> None:
        """Who may ask nothing is told so once, and has to connect again to ask again."""
        self.harness.signer.go_by(settings_with(allowed_ips=()))
        self.channel.dataReceived(octezclient.get("127.0.0.1", "/authorized_keys") * 2)
        self.clock.pump([0] * 3)
        answer = parse_response(self._answers())
        self.assertEqual((answer.status, answer.headers["connection"]), (403, "close"))
        self.assertEqual(self._answers().count(b"HTTP/1.1"), 1)
        self.assertTrue(self.transport.disconnecting)

    def test_too_much_in_advance(self) -> None:
        """What comes while a request is being answered is kept, but not without an end."""
        request = octezclient.get("127.0.0.1", "/authorized_keys")
        self.channel.dataReceived(request + request)
        for _ in range(LONGEST_BODY // 0x4000):
            self.channel.dataReceived(bytes(0x4000))
        self.assertFalse(self.transport.disconnected)
        self.channel.dataReceived(bytes(0x4001))
        self.assertTrue(self.transport.disconnected)

    def test_gone_before_its_turn(self) -> None:
        """A client may go while its next request waits for its turn."""
        self.channel.dataReceived(octezclient.get("127.0.0.1", "/authorized_keys") * 2)
        self.lose()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_nothing_after_the_end(self) -> None:
        """What comes after a request that was no HTTP is not read, in whatever pieces."""
        self.patch(self.transport, "loseConnection", lambda: None)
        self.channel.dataReceived(b"G@T / HTTP/1.1\r\n")
        self.transport.clear()
        for line in octezclient.get("127.0.0.1", "/authorized_keys").split(b"\r\n"):
            self.channel.dataReceived(line + b"\r\n")
        self.assertEqual(self._answers(), b"")

    def test_chunks_add_up(self) -> None:
        """Chunks are counted together, and a body that grows too large is refused once."""
        self.channel.dataReceived(b"POST %b HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" % PATH)
        chunk = b"8000\r\n%b\r\n" % bytes(0x8000)
        for _ in range(LONGEST_BODY // 0x8000):
            self.channel.dataReceived(chunk)
        self.assertEqual(self._answers(), b"")
        self.channel.dataReceived(chunk * 2 + b"0\r\n\r\n")
        answer = parse_response(self._answers())
        self.assertEqual((answer.status, message_in(answer.body)), (413, TOO_LARGE))
        self.assertEqual(self._answers().count(b"HTTP/1.1"), 1)
        self.assertTrue(self.transport.disconnecting)

    def test_too_many_chunks(self) -> None:
        """A body in chunks of a byte is refused in the middle of what was received."""
        self.channel.dataReceived(b"POST %b HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" % PATH)
        original = SignerRequest.handleContentChunk
        pieces: list[bytes] = []

        def count(request: SignerRequest, data: bytes) -> None:
            pieces.append(data)
            original(request, data)

        self.patch(SignerRequest, "handleContentChunk", count)
        self.channel.dataReceived(b"1\r\n1\r\n" * 10_000)
        self.assertLess(len(pieces), 2 * MAX_CHUNKS)
        answer = parse_response(self._answers())
        self.assertEqual(answer.status, 400)
        self.assertIn("more than 256 chunks", message_in(answer.body))
        self.assertEqual(self._answers().count(b"HTTP/1.1"), 1)
        self.assertTrue(self.transport.disconnecting)
        self.channel.dataReceived(b"1\r\n1\r\n" * 10)
        self.assertEqual(self._answers().count(b"HTTP/1.1"), 1)

    def test_chunk_a_packet(self) -> None:
        """A chunk of its own for each packet is no reason to refuse the longest body."""
        self.channel.dataReceived(b"POST %b HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" % PATH)
        for _ in range(LONGEST_BODY // 128):
            self.channel.dataReceived(b"80\r\n%b\r\n" % (b" " * 128))
        self.channel.dataReceived(b"0\r\n\r\n")
        self.clock.advance(0)
        self.assertIn("this is empty", message_in(parse_response(self._answers()).body))

    def test_many_arguments(self) -> None:
        """A query of many arguments is refused before it is taken apart."""
        self.patch(http, "parse_qs", mock.Mock(side_effect=AssertionError))
        for separator in (b"a&", b"a;"):
            self.setUp()
            target = b"/authorized_keys?" + separator * 7000
            self.channel.dataReceived(b"GET %b HTTP/1.1\r\n\r\n" % target)
            answer = parse_response(self._answers())
            self.assertEqual(answer.status, 400)
            self.assertIn("more than 16 arguments", message_in(answer.body))

    def test_endless_length(self) -> None:
        """A length of more digits than Python makes a number of is refused, not a fault."""
        digits = b"9" * 5000
        self.channel.dataReceived(
            b"POST %b HTTP/1.1\r\nContent-Length: %b\r\n\r\n" % (PATH, digits)
        )
        self.assertEqual(self._answers(), b"HTTP/1.1 400 Bad Request\r\n\r\n")
        self.assertTrue(self.transport.disconnecting)

    def test_folded_header(self) -> None:
        """A header that goes on in the next line, which a proxy may read otherwise, is refused."""
        for header in (b"Content-Length:\r\n 4\r\n", b"Host: h\r\n\tContent-Length: 4\r\n"):
            self.setUp()
            self.channel.dataReceived(b"POST %b HTTP/1.1\r\n%b\r\n" % (PATH, header))
            self.assertEqual(self._answers(), b"HTTP/1.1 400 Bad Request\r\n\r\n", header)
            self.assertTrue(self.transport.disconnecting)

    def test_target_without_a_slash(self) -> None:
        """A target that is no path is none of the routes, and no fault whatever bytes it has."""
        for target in (b"xknown_keys", b"\xafknown_keys", b"%bfknown_keys", b"http://h/known_keys"):
            self.setUp()
            with capturedLogs() as events:
                self.channel.dataReceived(b"GET %b HTTP/1.1\r\n\r\n" % target)
            self.assertEqual(parse_response(self._answers()).status, 400, target)
            self.assertEqual([event for event in events if "log_failure" in event], [])

    def test_refused_head(self) -> None:
        """A HEAD that is refused below the routes has the header of its answer only."""
        self.channel.dataReceived(b"HEAD nowhere HTTP/1.1\r\n\r\n")
        head, _, body = self._answers().partition(b"\r\n\r\n")
        self.assertRegex(head, rb"\AHTTP/1.1 400 [^$]*Content-Length: [1-9]")
        self.assertEqual(body, b"")

    def test_endless_body(self) -> None:
        """Who goes on sending after a refusal is cut off at 16 MiB."""
        self.channel.dataReceived(
            b"POST %b HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % (PATH, 1 << 40)
        )
        for _ in range(16):
            self.channel.dataReceived(bytes(1 << 20))
        self.assertFalse(self.transport.disconnected)
        self.channel.dataReceived(b"\x00")
        self.assertTrue(self.transport.disconnected)


class SlicedTests(SynchronousTestCase):
    """A connection behind its limits, which gives on slices."""

    def test_long_request_behind_one_that_is_served(self) -> None:
        """It is read to its end when its turn comes, however much of it came in advance."""
        clock = Clock()
        harness = Harness(site_clock=clock)
        factory = LimitedFactory(harness.site, Connections(Limits(), clock))
        transport = AbortableTransport(peerAddress=IPv4Address("TCP", "127.0.0.1", 1025))
        connection = factory.buildProtocol(transport.getPeer())
        connection.makeConnection(transport)
        self.addCleanup(connection.connectionLost, Failure(ConnectionDone()))
        found: Deferred[object] = Deferred()
        self.patch(harness.signer, "public_key", lambda _: found)
        body = b'"%b"' % (b"0" * 100_000)
        head = b"POST %b HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % (PATH, len(body))
        sent = octezclient.get("127.0.0.1", PATH.decode("ascii")) + head + body
        while sent:
            if transport.producerState == "producing":
                connection.dataReceived(sent[:0x10000])  # as much as Twisted reads at a time
                sent = sent[0x10000:]
            elif not found.called:
                found.callback("edpk")
            clock.advance(0)
            if transport.producerState == "paused" and found.called:
                clock.pump([0] * 40)
                self.assertEqual(transport.producerState, "producing")
        clock.pump([0] * 40)
        self.assertEqual(transport.value().count(b"HTTP/1.1 "), 2)
        self.assertIn(b"HTTP/1.1 400", transport.value())  # a payload of zeros


class BodyLimitTests(TestCase):
    """The longest body."""

    async def test_longest_body(self) -> None:
        """A body of exactly the limit is read, one of a byte more is not."""
        harness = Harness()
        await harness.start(self)
        text = b'"%b"' % PAYLOADS["noop"].hex().encode("ascii")
        for length, status in ((LONGEST_BODY, 200), (LONGEST_BODY + 1, 413)):
            body = text.ljust(length)
            for head, sent in (
                (b"Content-Length: %d" % length, body),
                (b"Transfer-Encoding: chunked", b"%x\r\n%b\r\n0\r\n\r\n" % (length, body)),
            ):
                received = await harness.raw(
                    b"POST %b HTTP/1.1\r\nConnection: close\r\n%b\r\n\r\n%b" % (PATH, head, sent)
                )
                answer = parse_response(received)
                self.assertEqual((head, answer.status), (head, status))
                if status == 200:
                    signature = text_in(answer.body, "signature")
                    self.assertTrue(verifies(HSM_KEYS[0].public_key, PAYLOADS["noop"], signature))


class PipeliningTests(TestCase):
    """Requests that come behind each other on one connection."""

    timeout = 5

    async def test_same_request_twice(self) -> None:
        """A request that is read while the same one before it is answered is answered at once."""
        harness = Harness()
        await harness.start(self)
        body = b'"%b"' % PAYLOADS["noop"].hex().encode("ascii")
        request = b"POST %b HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n" % (PATH, len(body))
        answers = await harness.raw(
            request + b"\r\n" + body + request + b"Connection: close\r\n\r\n" + body
        )
        self.assertEqual(answers.count(b"HTTP/1.1 200 OK"), 2)


class LimitTests(TestCase):
    """The limits of the configuration."""

    timeout = 10

    async def test_body(self) -> None:
        """The longest body is what the configuration says."""
        harness = Harness(settings_with(limits=Limits(body_bytes=3000)))
        await harness.start(self)
        text = b'"%b"' % PAYLOADS["noop"].hex().encode("ascii")
        for length, status in ((3000, 200), (3001, 413)):
            answer = await harness.request("POST", f"/keys/{TZ1}", text.ljust(length))
            self.assertEqual(answer.status, status)
        self.assertIn("larger than 3000 bytes", message_in(answer.body))

    async def test_headers(self) -> None:
        """So are the number and the size of headers."""
        harness = Harness(settings_with(limits=Limits(headers=8, header_bytes=1024)))
        await harness.start(self)
        for headers, refused in (
            ("X: y\r\n" * 6, False),
            ("X: y\r\n" * 7, True),
            (f"X: {'y' * 900}\r\n", False),
            (f"X: {'y' * 1000}\r\n", True),
        ):
            answer = await harness.request("GET", "/", headers=headers)
            self.assertEqual((headers[:5], answer.status), (headers[:5], 400 if refused else 200))

    async def test_slow(self) -> None:
        """A request that does not come to its end is cut off, however busily it goes on."""
        harness = Harness(settings_with(limits=Limits(request_seconds=0.2)))
        await harness.start(self)
        for data in (
            b"",
            b"GET / HTTP/1.1\r\nX: ",
            b"POST %b HTTP/1.1\r\nContent-Length: 9\r\n\r\n1" % PATH,
            b"POST %b HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n1" % PATH,
            b"POST %b HTTP/1.1\r\nContent-Length: 999999\r\n\r\n1" % PATH,
        ):
            received = await harness.raw(data)
            self.assertEqual(re.findall(rb"HTTP/1.1 (\d+)", received), [b"413"] * (b"999" in data))

    async def test_stopping(self) -> None:
        """A connection that is kept for another request is closed when the daemon stops."""
        harness = Harness()
        await harness.start(self)
        asked = octezclient.get("127.0.0.1", "/authorized_keys")
        asking = Deferred.fromCoroutine(harness.raw(asked))
        answered: Deferred[None] = Deferred()
        answered_of = Slot.answered

        def tell(slot: Slot) -> bool:
            reactor.callLater(0, answered.callback, None)
            return answered_of(slot)

        self.patch(Slot, "answered", tell)
        await answered
        self.assertNoResult(asking)
        harness.connections.stopService()
        self.assertEqual((await asking).count(b"200 OK"), 1)


class AccessLogTests(TestCase):
    """What an access log would give away."""

    async def test_no_query_in_the_log(self) -> None:
        """An authentication signature, which is good for ever, is in no event of the log."""
        harness = Harness()
        await harness.start(self)
        signature = AUTHENTICATION["signature"]
        body = b'"%b"' % PAYLOADS["noop"].hex().encode("ascii")
        with capturedLogs() as events:
            for path, status in ((f"/keys/{TZ1}", 200), ("/nowhere", 404), ("/keys/%ff", 400)):
                answer = await harness.request("POST", f"{path}?authentication={signature}", body)
                self.assertEqual((path, answer.status), (path, status))
        self.assertNotEqual(events, [])
        for event in events:
            self.assertNotIn(signature, f"{formatEvent(event)} {event!r}")


class RouteLogTests(TestCase):
    """What the log says of requests that reach no route."""

    async def test_lines(self) -> None:
        """An unknown path and a wrong verb have their line each, but a flood has not."""
        harness = Harness()
        await harness.start(self)
        with capturedLogs() as events:
            await harness.request("GET", "/nowhere?authentication=x")
            await harness.request("DELETE", "/authorized_keys")
            for _ in range(LINES_PER_MINUTE):
                await harness.request("GET", f"/{'x' * 500}")
        said = [formatEvent(event) for event in events if event["log_format"]]
        said = [line for line in said if line.startswith("refused")]
        self.assertIn("refused GET /nowhere from 127.0.0.1: 404 no such route", said[0])
        self.assertIn(
            "refused DELETE /authorized_keys from 127.0.0.1: 405 this path takes", said[1]
        )
        self.assertEqual(len(said), LINES_PER_MINUTE)
        self.assertLess(max(map(len, said)), 400)
