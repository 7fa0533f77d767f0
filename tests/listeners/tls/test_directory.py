"""`tls:` endpoints, asked for names that they have not."""

import contextlib
import socket
import ssl

from twisted.internet.threads import deferToThread
from twisted.logger import capturedLogs, formatEvent

from tests.support.tlscase import TlsTestCase
from tezio_signer.errors import StartupError
from tezio_signer.listeners.tls.certificates import SourceDirectory
from tezio_signer.sparinglog import LINES_PER_MINUTE


class DirectoryTests(TlsTestCase):
    """A directory with one certificate, or without."""

    def setUp(self) -> None:
        super().setUp()
        self.site = self.directory / "site"
        self.site.mkdir()

    def endpoint_of_site(self) -> str:
        """The endpoint, with the certificate of `localhost`."""
        pem = self.server.certificate.read_bytes() + self.server.key.read_bytes()
        (self.site / "server.pem").write_bytes(pem)
        return f"tls:{self.site}:port=0:interface=" + r"\:\:ffff\:127.0.0.1"

    def greeting(self, name: str) -> bytes:
        """What a client says first."""
        asked = ssl.MemoryBIO()
        client = self.context().wrap_bio(ssl.MemoryBIO(), asked, server_hostname=name)
        with self.assertRaises(ssl.SSLWantReadError):
            client.do_handshake()
        return asked.read()

    def say(self, greeting: bytes) -> None:
        """Say this, and hear what comes, on a connection of its own."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=10) as connection:
            connection.sendall(greeting)
            with contextlib.suppress(ConnectionResetError):
                connection.recv(65536)

    async def test_flood(self) -> None:
        """Names that are not there, and what is no name, do not fill the log."""
        await self.listen(self.endpoint_of_site())
        no_name = self.greeting("zzzz.example").replace(b"zzzz.", b"\xff\xfe\xff\xfe.")
        for greeting in (self.greeting("other.example"), no_name):
            with capturedLogs() as events:
                for _ in range(LINES_PER_MINUTE):
                    await deferToThread(self.say, greeting)
            said = [line for line in map(formatEvent, events) if line and "TLS:" in line]
            self.assertLessEqual(len(said), LINES_PER_MINUTE)
            self.assertFalse([event for event in events if "log_failure" in event])
        self.assertEqual(self.flushLoggedErrors(), [])
        await self.assert_signs(self.context())

    def test_nothing_in_it(self) -> None:
        """Without a certificate for a name it is refused at the start."""
        for content in (b"", self.server.certificate.read_bytes(), self.server.key.read_bytes()):
            (self.site / "server.pem").write_bytes(content)
            with self.assertRaises(StartupError) as raised:
                SourceDirectory("tls:x", self.site).load()
            self.assertIn(f"{self.site} holds no .pem file with a certif", str(raised.exception))
