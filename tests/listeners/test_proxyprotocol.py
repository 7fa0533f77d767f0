"""Listeners behind a proxy that speaks the PROXY protocol: which clients it names."""

import os
import struct
from collections.abc import Sequence
from ipaddress import ip_address, ip_network

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.interfaces import IAddress
from twisted.logger import LogEvent, capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from tests.support import octezsocketclient as octezsocket
from tests.support.harness import Client, Harness, parse_response, settings_with
from tests.support.listenercase import NOOP, ListenersTestCase
from tests.support.octezclient import message_in, post
from tests.support.octezsocketclient import OctezSocketClient, OctezSocketError, result_in
from tests.support.vectors import TZ3
from tezio_signer.listeners.peers import UnsaidAddress
from tezio_signer.listeners.proxyprotocol import Header, read_header
from tezio_signer.sparinglog import LINES_PER_MINUTE

_SIGNATURE = bytes.fromhex("0d0a0d0a000d0a515549540a")
_HERE = b"PROXY TCP4 127.0.0.1 127.0.0.1 1025 7732\r\n"
_UNKNOWN = "the proxy did not say whose connection this is"
_NO_ADDRESS = "the address of the client is not known"


def second(command: int, family: int, said: bytes = b"") -> bytes:
    """A header of the second version."""
    return _SIGNATURE + struct.pack("!BBH", command, family, len(said)) + said


def tcp(client: str) -> bytes:
    """The addresses of a client and of the proxy, with the ports 1025 and 7732."""
    packed = ip_address(client).packed
    return packed + bytes(len(packed)) + struct.pack("!2H", 1025, 7732)


UNIX = second(0x21, 0x31, b"/client".ljust(108, b"\0") + b"/x".ljust(108, b"\0"))
GOOD: Sequence[tuple[bytes, IAddress | None]] = (
    (_HERE, IPv4Address("TCP", "127.0.0.1", 1025)),
    (b"PROXY TCP6 2001:db8::1 ::1 1 2\r\n", IPv6Address("TCP", "2001:db8::1", 1)),
    (b"PROXY UNKNOWN\r\n", UnsaidAddress()),
    (b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n", UnsaidAddress()),
    (second(0x21, 0x11, tcp("10.0.0.1")), IPv4Address("TCP", "10.0.0.1", 1025)),
    (second(0x21, 0x11, tcp("10.0.0.1") + b"more"), IPv4Address("TCP", "10.0.0.1", 1025)),
    (second(0x21, 0x21, tcp("2001:db8::1")), IPv6Address("TCP", "2001:db8::1", 1025)),
    (UNIX, UNIXAddress(b"/client")),
    (second(0x21, 0x00), UnsaidAddress()),
    (second(0x21, 0x00, b"whatever"), UnsaidAddress()),
    (second(0x21, 0x12, tcp("10.0.0.1")), UnsaidAddress()),
    (second(0x20, 0x00), None),
    (second(0x20, 0x11, tcp("10.0.0.1")), None),
)
BAD = (
    b"GET / HTTP/1.1\r\n",
    b"\0\1\2",
    b"PROXY\r\n",
    b"PROXY \r\n",
    b"PROXY TCP4\r\n",
    b"PROXY TCP4 127.0.0.1 127.0.0.1 x y\r\n",
    b"PROXY TCP4 \xff 127.0.0.1 1 2\r\n",
    b"PROXY TCP4 ::1 ::1 1 2\r\n",
    b"PROXY TCP6 127.0.0.1 127.0.0.1 1 2\r\n",
    b"PROXY TCP4 localhost 127.0.0.1 1 2\r\n",
    b"PROXY TCP4 127.0.0.1 127.0.0.1 1 2 3\r\n",
    b"PROXY UDP4 127.0.0.1 127.0.0.1 1 2\r\n",
    b"PROXY UNKNOWN " + b"x" * 93,
    second(0x11, 0x11, tcp("10.0.0.1")),
    second(0x22, 0x11, tcp("10.0.0.1")),
    second(0x21, 0x11, tcp("10.0.0.1")[:-1]),
    second(0x21, 0x31, b"/client"),
)


class HeaderTests(SynchronousTestCase):
    """Reading what a proxy says."""

    def test_good(self) -> None:
        """Both versions, with whatever follows, as soon as they are complete."""
        for header, client in GOOD:
            for rest in (b"", b"\0\1\r\n"):
                self.assertEqual(read_header(header + rest), Header(client, len(header)))
            for end in range(len(header)):
                self.assertIsNone(read_header(header[:end]), header[:end])

    def test_bad(self) -> None:
        """What is none is nothing else than that."""
        for header in BAD:
            self.assertRaises(ValueError, read_header, header)

    @given(
        st.binary()
        | st.binary().map(b"PROXY TCP4 ".__add__)
        | st.text("0123456789.: \r\n").map(lambda text: b"PROXY TCP6 " + text.encode())
        | st.binary().map(_SIGNATURE.__add__)
    )
    def test_anything(self, received: bytes) -> None:
        """Whatever comes is a header, the beginning of one, or none."""
        try:
            header = read_header(received)
        except ValueError:
            return
        if header is not None:
            self.assertLessEqual(header.length, len(received))


class ProxyTests(ListenersTestCase):
    """Listeners behind a proxy."""

    async def begin(self) -> None:
        """A signer for clients of this machine."""
        self.harness = Harness(settings_with(allowed_ips=(ip_network("127.0.0.1"),)))
        await self.harness.start(self)

    def listener(self, path: str | None, http: bool = False) -> str:
        """A listener for a proxy; the endpoint for the proxy."""
        inner = f"unix:{path}" if path else "tcp:0:interface=127.0.0.1"
        factory = self.harness.site if http else self.harness.sockets
        at = self.harness.open_listener(self, f"haproxy:{inner}", factory)
        return inner if path else f"tcp:127.0.0.1:{at}"

    async def ask(self, header: bytes, path: str | None, request: bytes) -> str:
        """What a client of a proxy is told on a socket."""
        await self.begin()
        asking = OctezSocketClient(self.listener(path))
        conversation = await asking.connect()
        conversation.transport.write(header)
        try:
            return result_in(await conversation.ask(request)).hex()
        except OctezSocketError as refused:
            return refused.message
        finally:
            await asking.hang_up(conversation)

    def refusals(self, events: Sequence[LogEvent]) -> list[str]:
        """What the log says of requests that were refused."""
        return [line for line in map(formatEvent, events) if line and line.startswith("refused")]

    async def test_clients_of_a_proxy(self) -> None:
        """The proxy's word for an address counts; a client of which it says none is refused.

        Only what is its own, a health check, is taken for the proxy.
        """
        elsewhere = "address 10.0.0.1 is not among allowed_ips"
        for header, over_tcp, over_unix in (
            (_HERE, "00", "00"),
            (b"PROXY TCP4 10.0.0.1 127.0.0.1 1025 7732\r\n", elsewhere, elsewhere),
            (second(0x21, 0x11, tcp("10.0.0.1")), elsewhere, elsewhere),
            (b"PROXY UNKNOWN\r\n", _UNKNOWN, _UNKNOWN),
            (second(0x21, 0x00), _UNKNOWN, _UNKNOWN),
            (UNIX, _NO_ADDRESS, "00"),
            (second(0x20, 0x00), "00", "00"),
        ):
            request = octezsocket.AUTHORIZED_KEYS
            self.assertEqual(await self.ask(header, None, request), over_tcp)
            path = os.path.relpath(self.mktemp())
            self.assertEqual(await self.ask(header, path, request), over_unix)

    async def test_is_logged(self) -> None:
        """At every listener, a client that is not known is refused with one line in the log."""
        for header, why in ((b"PROXY UNKNOWN\r\n", _UNKNOWN), (UNIX, _NO_ADDRESS)):
            request = octezsocket.sign(str(TZ3), NOOP)
            with capturedLogs() as events:
                self.assertEqual(await self.ask(header, None, request), why)
            (line,) = self.refusals(events)
            self.assertIn(f"403 {why}", line)
            client = Client(0, self.listener(None, http=True))
            for request in (post("h", f"/keys/{TZ3}", NOOP), b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"):
                closing = request.replace(b"\r\n", b"\r\nConnection: close\r\n", 1)
                with capturedLogs() as events:
                    answer = parse_response(await client.raw(header + closing))
                self.assertEqual((answer.status, message_in(answer.body)), (403, why))
                (line,) = self.refusals(events)
                self.assertIn(f"403 {why}", line)

    async def test_no_header(self) -> None:
        """What is no header closes the connection; no flood of them fills the log."""
        await self.begin()
        said: list[str] = []
        for path in (None, os.path.relpath(self.mktemp())):
            client = Client(0, self.listener(path))
            with capturedLogs() as events:
                for header in BAD:
                    self.assertEqual(await client.raw(header), b"")
            said += [line for line in map(formatEvent, events) if line and "PROXY header" in line]
        self.assertEqual(len(said), LINES_PER_MINUTE)
        self.assertGreater(2 * len(BAD), LINES_PER_MINUTE)
        self.assertEqual(self.harness.written, b"")

    async def test_in_pieces(self) -> None:
        """A header may come in pieces, and with the request in the same packet."""
        await self.begin()
        for header in (_HERE, second(0x21, 0x11, tcp("127.0.0.1"))):
            asking = OctezSocketClient(self.listener(None))
            conversation = await asking.connect()
            conversation.transport.setTcpNoDelay(True)
            conversation.transport.write(header[:7])
            other = OctezSocketClient(
                self.listener(None)
            )  # served, so that the first piece was read
            self.assertIsNone(await self.authorized(other, _HERE))
            conversation.transport.write(
                header[7:] + octezsocket.framed(octezsocket.AUTHORIZED_KEYS)
            )
            self.assertEqual(result_in(await conversation.answer()), b"\0")
            await asking.hang_up(conversation)

    async def test_closed_on_one_side(self) -> None:
        """A client that sends no more gets its answer, at a listener of either protocol."""
        await self.begin()
        asking = octezsocket.framed(octezsocket.AUTHORIZED_KEYS)
        for header in (_HERE, second(0x20, 0x00)):
            client = Client(0, self.listener(None))
            answer = await client.raw(header + asking, closing=True)
            self.assertEqual(answer, octezsocket.framed(b"\0\0"))
            self.assertEqual(await client.raw(header[:-1], closing=True), b"")

    async def authorized(self, asking: OctezSocketClient, header: bytes) -> list[str] | None:
        """The authorized keys, as a client of a proxy gets them."""
        conversation = await asking.connect()
        conversation.transport.write(header)
        keys = octezsocket.authorized_in(
            result_in(await conversation.ask(octezsocket.AUTHORIZED_KEYS))
        )
        await asking.hang_up(conversation)
        return keys
