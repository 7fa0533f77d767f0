"""What clients get whose address may ask nothing, over real connections."""

import socket
import ssl
from ipaddress import ip_network
from unittest import mock

from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread
from twisted.logger import capturedLogs, formatEvent
from twisted.web import http

from tests.support import octezsocketclient as octezsocket
from tests.support.harness import Harness, parse_response, settings_with
from tests.support.octezclient import message_in
from tests.support.tlscase import REQUEST, TlsTestCase
from tezio_signer.listeners.limits import HANDSHAKES_PER_SECOND
from tezio_signer.octezsocket import OctezSocket

_SAYS = "address 127.0.0.1 is not among allowed_ips"


class UnknownClientTests(TlsTestCase):
    """A signer for 10.0.0.0/8, asked from 127.0.0.1."""

    async def listen_to_others(self, endpoint: str, sockets: bool = False) -> None:
        """Open a listener."""
        self.harness = Harness(settings_with(allowed_ips=(ip_network("10.0.0.0/8"),)))
        await self.harness.start(self)
        factory = self.harness.sockets if sockets else self.harness.site
        at = self.harness.open_listener(self, endpoint, factory)
        if at.isdecimal():
            self.port = int(at)
            self.harness.port, self.harness.endpoint = self.port, f"tcp:127.0.0.1:{self.port}"

    async def test_http(self) -> None:
        """They read why, and the line in the log says it; nothing they send is parsed."""
        await self.listen_to_others("tcp:0:interface=127.0.0.1")
        unread = mock.Mock(side_effect=AssertionError)
        self.patch(http.HTTPChannel, "dataReceived", unread)
        for request in (
            REQUEST,
            b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" + b"x" * 9,
        ):
            with capturedLogs() as events:
                answer = parse_response(await self.harness.raw(request))
            self.assertEqual((answer.status, message_in(answer.body)), (403, _SAYS))
            said = [formatEvent(event) for event in events]
            self.assertIn(f"refused a connection from 127.0.0.1: 403 {_SAYS}", said)
        unread.assert_not_called()

    async def test_socket(self) -> None:
        """At a listener of the socket protocol too."""
        await self.listen_to_others("tcp:0:interface=127.0.0.1", sockets=True)
        unread = mock.Mock(side_effect=AssertionError)
        self.patch(OctezSocket, "dataReceived", unread)
        asking = octezsocket.OctezSocketClient(f"tcp:127.0.0.1:{self.port}")
        try:
            await asking.authorized_keys()
            self.fail("was served")
        except octezsocket.OctezSocketError as error:
            self.assertEqual(error.message, _SAYS)

    async def test_much(self) -> None:
        """Who goes on sending is cut off, whatever he sends."""
        await self.listen_to_others("tcp:0:interface=127.0.0.1")

        def send() -> int:
            sent = 0
            with socket.create_connection(("127.0.0.1", self.port), timeout=10) as connection:
                try:
                    while sent < 1 << 30:
                        sent += connection.send(bytes(1 << 16))
                except OSError:
                    pass
            return sent

        self.assertLess(await deferToThread(send), 1 << 26)

    async def test_tls(self) -> None:
        """Under TLS, so many in a second are told; the rest is closed without a handshake."""
        await self.listen_to_others(self.endpoint)
        answers = [await self.told() for _ in range(3 * HANDSHAKES_PER_SECOND)]
        told = [answer for answer in answers if answer]
        self.assertGreaterEqual(len(told), HANDSHAKES_PER_SECOND)
        self.assertLess(len(told), len(answers))
        for answer in told:
            self.assertEqual(message_in(parse_response(answer).body), _SAYS)

    def told(self) -> Deferred[bytes]:
        """What a client of TLS reads; nothing if it is not let in."""

        def ask() -> bytes:
            try:
                with (
                    socket.create_connection(("127.0.0.1", self.port), timeout=10) as plain,
                    self.context().wrap_socket(plain, server_hostname="localhost") as connection,
                ):
                    connection.sendall(REQUEST)
                    received = b""
                    while part := connection.recv(65536):
                        received += part
                    return received
            except (ssl.SSLError, OSError):
                return b""

        return deferToThread(ask)

    async def test_proxy(self) -> None:
        """Behind a proxy, as soon as it has said whose the connection is, with and without TLS."""
        elsewhere = b"PROXY TCP4 127.0.0.1 127.0.0.1 1025 6732\r\n"
        await self.listen_to_others("haproxy:tcp:0:interface=127.0.0.1")
        answer = parse_response(await self.harness.raw(elsewhere + REQUEST))
        self.assertEqual((answer.status, message_in(answer.body)), (403, _SAYS))
        here = elsewhere.replace(b"127.0.0.1", b"10.0.0.1", 1)
        self.assertEqual(parse_response(await self.harness.raw(here + REQUEST)).status, 200)
        await self.listen_to_others(f"haproxy:{self.endpoint}")
        answer = parse_response(await self.ask(self.context(), said=elsewhere))
        self.assertEqual((answer.status, message_in(answer.body)), (403, _SAYS))
