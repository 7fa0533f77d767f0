"""HTTPS on loopback, spoken to with Python's own `ssl`, and what ends the start."""

import socket
import ssl
import warnings
from ipaddress import ip_network
from pathlib import Path

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.internet.threads import deferToThread
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase, TestCase
from twisted.web import http

from tests.support import octezclient
from tests.support import octezsocketclient as octezsocket
from tests.support.certificates import Authority, Certified
from tests.support.harness import Client, Stand, parse_response, reactor, settings_with
from tests.support.octezclient import HSM_KEYS, message_in, text_in, verifies
from tests.support.vectors import PAYLOADS, TZ1
from tezio_signer.config.settings import ClientCa, Limits
from tezio_signer.errors import StartupError
from tezio_signer.listeners.limits import Connections
from tezio_signer.listeners.service import door
from tezio_signer.listeners.slots import Closable, Place

REQUEST = octezclient.post("h", f"/keys/{TZ1}?version=3", PAYLOADS["noop"]).replace(
    b"host: h", b"host: h\r\nconnection: close"
)


class TlsTestCase(TestCase):
    """A signer behind HTTPS, with certificates of its own."""

    timeout = 20

    def setUp(self) -> None:
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir()
        self.authority = Authority(self.directory, "server-ca")
        self.server = self.authority.certify("server", server=True)
        self.endpoint = (
            f"ssl:0:interface=127.0.0.1:privateKey={self.server.key}"
            f":certKey={self.server.certificate}"
        )

    async def listen(self, endpoint: str, ca: ClientCa | None = None) -> None:
        """Open a door on an endpoint, until the test ends."""
        self.stand = Stand(settings_with(allowed_ips=(ip_network("127.0.0.0/8"),)))
        await self.stand.start(self)
        self.port = int(self.stand.open_door(self, endpoint, self.stand.site, ca))

    def context(self, certified: Certified | None = None) -> ssl.SSLContext:
        """A client that believes the server's authority, and shows this certificate."""
        context = ssl.create_default_context(cafile=str(self.authority.path))
        if certified is not None:
            context.load_cert_chain(certified.certificate, certified.key)
        return context

    def ask(
        self,
        context: ssl.SSLContext,
        asking: bytes = REQUEST,
        length: int | None = None,
        said: bytes = b"",
    ) -> Deferred[bytes]:
        """All that comes back for a request, or so many bytes; fails if TLS does.

        :param said: before TLS begins.
        """
        return deferToThread(self._ask, context, asking, length, said)

    def _ask(
        self, context: ssl.SSLContext, asking: bytes, length: int | None, said: bytes
    ) -> bytes:
        plain = socket.create_connection(("127.0.0.1", self.port), timeout=10)
        plain.sendall(said)
        with plain, context.wrap_socket(plain, server_hostname="localhost") as connection:
            connection.sendall(asking)
            received = b""
            while len(received) != length and (part := connection.recv(65536)):
                received += part
            return received

    async def answer_or_none(
        self, context: ssl.SSLContext, asking: bytes = REQUEST, length: int | None = None
    ) -> bytes:
        """What comes back; nothing if the connection fails in whatever way."""
        try:
            return await self.ask(context, asking, length)
        except OSError:  # as all errors of ssl are
            return b""

    async def assert_signs(self, context: ssl.SSLContext) -> None:
        """Check that a client gets a signature."""
        answer = parse_response(await self.ask(context))
        signature = text_in(answer.body, "signature")
        self.assertTrue(verifies(HSM_KEYS[0].public_key, PAYLOADS["noop"], signature))


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
        clock = Clock()  # which stands still: nobody is cut because his time is over
        self.stand.connections.clock = clock
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
        strangers = {
            "none": None,
            "another authority's": others.certify("stranger"),
            "expired": ours.certify("old", days=-1),
            "a server's": ours.certify("a-server", server=True),
            "the server's own": self.server,
        }
        await self.listen(self.endpoint, ClientCa(ours.path))
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            for what, certified in strangers.items():
                context = self.context(certified)
                context.minimum_version = context.maximum_version = version
                self.assertEqual((what, await self.answer_or_none(context)), (what, b""))
            self.assertEqual(self.stand.written, b"")
            context = self.context(good)
            context.minimum_version = context.maximum_version = version
            await self.assert_signs(context)
            self.stand.written.clear()

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
        at = self.stand.open_door(self, self.endpoint, self.stand.sockets, ClientCa(ours.path))
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
        self.stand.connections.clock = Clock()
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
        connections = self.stand.connections
        connections.clock = clock
        entered: Deferred[None] = Deferred()
        enter = connections.enter

        def tell(peer: str, name: str, transport: Closable, speaks: bool) -> Place:
            reactor.callLater(0, entered.callback, None)
            return enter(peer, name, transport, speaks)

        self.patch(connections, "enter", tell)
        self.stand.port = self.port
        asking = Deferred.fromCoroutine(self.stand.raw(b"\x16\x03\x01\x02\x00\x01\x00"))
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
        enter = self.stand.connections.enter

        def tell(peer: str, name: str, transport: Closable, speaks: bool) -> Place:
            entered.append(peer)
            return enter(peer, name, transport, speaks)

        self.patch(self.stand.connections, "enter", tell)
        idle = [socket.create_connection(("127.0.0.1", self.port)) for _ in range(10)]
        for connection in idle:
            self.addCleanup(connection.close)
        for _ in range(10):
            socket.create_connection(("127.0.0.1", self.port)).close()
        await self.assert_signs(self.context())
        self.assertEqual(entered, ["127.0.0.1"])


class MistakeTests(SynchronousTestCase):
    """What keeps doors from being opened."""

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
                door(endpoint, Stand().site, reactor, connections).privilegedStartService()

            sentence = str(self.assertRaises(StartupError, start))
            self.assertRegex(sentence, r"\A[^\n\[]+(\[Errno 2\][^\n\[]+)?\Z")
        self.flushWarnings()
