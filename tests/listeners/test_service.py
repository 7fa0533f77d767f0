"""HTTPS on loopback, spoken to with Python's own `ssl`, and what ends the start."""

import socket
import ssl
import warnings
from pathlib import Path

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase
from twisted.web import http

from tests.support import octezsocketclient as octezsocket
from tests.support.certificates import Authority
from tests.support.harness import Client, Harness, parse_response, reactor
from tests.support.octezclient import message_in
from tests.support.tlscase import REQUEST, TlsTestCase
from tezio_signer.config.settings import ClientCa, Limits
from tezio_signer.errors import StartupError
from tezio_signer.listeners.limits import Connections
from tezio_signer.listeners.service import listener
from tezio_signer.listeners.slots import Connection, Slot


class ProtocolTests(TlsTestCase):
    """Which TLS is spoken."""

    def only(self, version: ssl.TLSVersion) -> ssl.SSLContext:
        """A client that speaks one version, however weak."""
        context = self.context()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            context.minimum_version = context.maximum_version = version
        context.set_ciphers("ALL:@SECLEVEL=0")
        return context

    async def test_versions(self) -> None:
        """TLS 1.2 and 1.3 are, nothing older, on every kind of endpoint."""
        (self.directory / "server.pem").write_bytes(
            self.server.certificate.read_bytes() + self.server.key.read_bytes()
        )
        (self.directory / "site").mkdir()
        (self.directory / "site" / "localhost.pem").write_bytes(
            (self.directory / "server.pem").read_bytes()
        )
        for endpoint in (
            self.endpoint,
            f"{self.endpoint}:sslmethod=TLS_METHOD",
            f"tls:{self.directory}/site:port=0:interface=127.0.0.1",
        ):
            if endpoint.startswith("tls:"):
                endpoint = endpoint.replace("127.0.0.1", r"\:\:ffff\:127.0.0.1")
            await self.listen(endpoint)
            for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
                await self.assert_signs(self.only(version))
            for version in (ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1):
                self.assertEqual(await self.answer_or_none(self.only(version)), b"")

    async def test_no_http_2(self) -> None:
        """A client that would like HTTP/2 gets HTTP/1.1, to which all limits apply.

        Even where Twisted finds the library for HTTP/2.
        """
        self.patch(http, "H2_ENABLED", True)
        await self.listen(self.endpoint)
        context = self.context()
        context.set_alpn_protocols(["h2", "http/1.1"])
        await self.assert_signs(context)

    async def test_long_line(self) -> None:
        """A line that is too long is refused at once inside TLS too."""
        await self.listen(self.endpoint)
        clock = Clock()  # which does not move: nobody is cut because his time is over
        self.harness.connections.clock = clock
        asking = b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: h\r\n\r\n"
        answer = await self.ask(self.context(), asking)
        self.assertTrue(answer.startswith(b"HTTP/1.1 400 "), answer[:80])

    async def test_plain_http(self) -> None:
        """Plain HTTP on a port for HTTPS gets no answer in plain HTTP."""
        await self.listen(self.endpoint)
        self.assertNotIn(b"HTTP", await Client(self.port).raw(REQUEST))


class ClientCertificateTests(TlsTestCase):
    """`client_ca`."""

    async def test_required(self) -> None:
        """Without the right certificate there is no answer in HTTP; with it, it signs."""
        ours, others = Authority(self.directory, "ours"), Authority(self.directory, "others")
        good = ours.certify("baker")
        refused = {
            "none": None,
            "another authority's": others.certify("other"),
            "expired": ours.certify("old", days=-1),
            "a server's": ours.certify("a-server", server=True),
            "the server's own": self.server,
        }
        await self.listen(self.endpoint, ClientCa(ours.path))
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            for what, certified in refused.items():
                context = self.context(certified)
                context.minimum_version = context.maximum_version = version
                self.assertEqual((what, await self.answer_or_none(context)), (what, b""))
            self.assertEqual(self.harness.written, b"")
            context = self.context(good)
            context.minimum_version = context.maximum_version = version
            await self.assert_signs(context)
            self.harness.written.clear()

    async def test_several_authorities(self) -> None:
        """The file may hold several authorities; clients of each are let in."""
        one, two = Authority(self.directory, "one"), Authority(self.directory, "two")
        both = self.directory / "both.pem"
        both.write_bytes(one.path.read_bytes() + two.path.read_bytes())
        await self.listen(self.endpoint, ClientCa(both))
        for authority in (one, two):
            await self.assert_signs(self.context(authority.certify("client")))

    async def test_sockets(self) -> None:
        """It is asked for by the socket protocol too, where that is inside TLS."""
        ours = Authority(self.directory, "ours")
        await self.listen(self.endpoint)
        at = self.harness.open_listener(
            self, self.endpoint, self.harness.sockets, ClientCa(ours.path)
        )
        self.port = int(at)
        asking = octezsocket.framed(octezsocket.AUTHORIZED_KEYS)
        for certified, answer in ((None, b""), (ours.certify("baker"), b"\0\2\0\0")):
            received = await self.answer_or_none(self.context(certified), asking, 4)
            self.assertEqual(received, answer)


class ProxyTests(TlsTestCase):
    """HTTPS behind a proxy that speaks the PROXY protocol, which comes before TLS."""

    async def test_header(self) -> None:
        """The proxy's word for an address counts, and TLS goes on behind it."""
        await self.listen(f"haproxy:{self.endpoint}")
        here = b"PROXY TCP4 127.0.0.1 127.0.0.1 1025 6732\r\n"
        answer = parse_response(await self.ask(self.context(), said=here))
        self.assertEqual(answer.status, 200)
        elsewhere = here.replace(b"127.0.0.1", b"10.0.0.1", 1)
        answer = parse_response(await self.ask(self.context(), said=elsewhere))
        says = "address 10.0.0.1 is not among allowed_ips"
        self.assertEqual((answer.status, message_in(answer.body)), (403, says))

    async def test_none(self) -> None:
        """What begins with TLS is not from the proxy: there is no answer, at once."""
        await self.listen(f"haproxy:{self.endpoint}")
        self.harness.connections.clock = Clock()
        with capturedLogs() as events:
            self.assertEqual(await self.answer_or_none(self.context()), b"")
        said = [formatEvent(event) for event in events]
        told = "a connection from 127.0.0.1 does not begin with a PROXY header"
        self.assertEqual(said.count(told), 1, said)


class DeadlineTests(TlsTestCase):
    """A connection that stops in the middle of TLS."""

    async def test_handshake(self) -> None:
        """A TLS handshake belongs to the time of the first request."""
        await self.listen(self.endpoint)
        clock = Clock()
        connections = self.harness.connections
        connections.clock = clock
        entered: Deferred[None] = Deferred()
        enter = connections.enter

        def tell(peer: str, name: str, connection: Connection, speaks: bool) -> Slot:
            reactor.callLater(0, entered.callback, None)
            return enter(peer, name, connection, speaks)

        self.patch(connections, "enter", tell)
        self.harness.port = self.port
        asking = Deferred.fromCoroutine(self.harness.raw(b"\x16\x03\x01\x02\x00\x01\x00"))
        await entered
        clock.advance(9.9)
        self.assertNoResult(asking)
        clock.advance(0.2)
        self.assertEqual(await asking, b"")


class IdleTests(TlsTestCase):
    """Connections on which nothing comes."""

    async def test_kept_by_the_system(self) -> None:
        """They do not reach the daemon, nor do those that are over; it serves others meanwhile."""
        await self.listen(self.endpoint)
        entered: list[str] = []
        enter = self.harness.connections.enter

        def tell(peer: str, name: str, connection: Connection, speaks: bool) -> Slot:
            entered.append(peer)
            return enter(peer, name, connection, speaks)

        self.patch(self.harness.connections, "enter", tell)
        idle = [socket.create_connection(("127.0.0.1", self.port)) for _ in range(10)]
        for connection in idle:
            self.addCleanup(connection.close)
        for _ in range(10):
            socket.create_connection(("127.0.0.1", self.port)).close()
        await self.assert_signs(self.context())
        self.assertEqual(entered, ["127.0.0.1"])


class MistakeTests(SynchronousTestCase):
    """What keeps listeners from being opened."""

    def setUp(self) -> None:
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir()
        self.authority = Authority(self.directory)

    def test_bad_files(self) -> None:
        """Keys and certificates that cannot be used end the start with one line."""
        server = self.authority.certify("server", server=True)
        other = self.authority.certify("other", server=True)
        (self.directory / "no.pem").write_text("nothing")
        (self.directory / "cut.pem").write_bytes(server.certificate.read_bytes()[:-90])
        for key, certificate in (
            (server.key, self.directory / "none.pem"),
            (self.directory / "no.pem", server.certificate),
            (server.key, self.directory / "no.pem"),
            (server.key, self.directory / "cut.pem"),
            (server.certificate, server.certificate),
            (other.key, server.certificate),
        ):
            endpoint = f"ssl:0:interface=127.0.0.1:privateKey={key}:certKey={certificate}"
            connections = Connections(Limits(), Clock())

            def start(endpoint: str = endpoint, connections: Connections = connections) -> None:
                listener(endpoint, Harness().site, reactor, connections).privilegedStartService()

            sentence = str(self.assertRaises(StartupError, start))
            self.assertRegex(sentence, r"\A[^\n\[]+(\[Errno 2\][^\n\[]+)?\Z")
        self.flushWarnings()
