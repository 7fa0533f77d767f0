"""What tests of HTTPS on loopback have in common; the client is Python's own `ssl`."""

import socket
import ssl
from ipaddress import ip_network
from pathlib import Path

from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from tests.support import octezclient
from tests.support.certificates import Authority, Certified
from tests.support.harness import Harness, parse_response, settings_with
from tests.support.octezclient import HSM_KEYS, text_in, verifies
from tests.support.vectors import PAYLOADS, TZ1
from tezio_signer.config.settings import ClientCa

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
        """Open a listener on an endpoint, until the test ends."""
        self.harness = Harness(settings_with(allowed_ips=(ip_network("127.0.0.0/8"),)))
        await self.harness.start(self)
        self.port = int(self.harness.open_listener(self, endpoint, self.harness.site, ca))

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
