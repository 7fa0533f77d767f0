"""The HTTP server below the routes: what Twisted's own does not limit or normalise."""

import re
from io import BytesIO
from urllib.parse import quote, unquote_to_bytes

from twisted.internet.interfaces import ITCPTransport
from twisted.web import http
from twisted.web.resource import IResource
from twisted.web.server import Request, Site

from tezio_signer.errors import TooLarge
from tezio_signer.octezjson import error_list

MAX_BODY = 128 * 1024
"""Bytes of the longest request body that is read."""
MAX_DISCARDED = 16 * 1024 * 1024
"""Bytes of a body refused as too large that are still taken, so that the client reads why."""


class SignerRequest(Request):
    """A request with a limited body in memory, slashes collapsed, and no trust in `Host`."""

    content: BytesIO
    transport: ITCPTransport
    _discarded: int | None = None

    def gotLength(self, length: int | None) -> None:
        self.content = BytesIO()
        if length is not None and length > MAX_BODY:
            self._refuse()

    def handleContentChunk(self, data: bytes) -> None:
        if self._discarded is None:
            if self.content.tell() + len(data) <= MAX_BODY:
                super().handleContentChunk(data)
                return
            self._refuse()
        self._discarded = (self._discarded or 0) + len(data)
        if self._discarded > MAX_DISCARDED:
            self.channel.forceAbortClient()

    def _refuse(self) -> None:
        """Answer at once; the connection closes when the client has sent its body."""
        self._discarded = 0
        peer = self.getClientAddress()
        refused = TooLarge(f"the request body is larger than {MAX_BODY} bytes")
        self._log.warn(
            "refused a request from {peer}: {status} {sentence}",
            peer=getattr(peer, "host", peer),
            status=refused.status,
            sentence=refused,
        )
        body = error_list(refused)
        self.transport.write(
            b"HTTP/1.1 %d Content Too Large\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\nConnection: close\r\n\r\n%b" % (refused.status, len(body), body)
        )

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        if self._discarded is None:
            super().requestReceived(command, path, version)
        else:
            self.channel.loseConnection()

    def process(self) -> None:
        # octez-client makes `//keys/…` of a base URL that ends in a slash. What is no UTF-8
        # would not reach the routes: Klein answers and logs it in its own way.
        path = unquote_to_bytes(self.path).decode("utf-8", "replace")
        self.path = quote(re.sub("/+", "/", path), safe="/*").encode("ascii")
        super().process()

    def getRequestHostname(self) -> bytes:
        # The routes do not depend on it, and a client may write there what it likes.
        return b"tezio-signer"


class SignerSite(Site):
    """A site without an access log, which would hold the authentication signatures."""

    requestFactory = SignerRequest
    displayTracebacks = False
    noisy = False

    def __init__(self, resource: IResource) -> None:
        # Otherwise the Content-Type of every POST goes through the e-mail parser.
        super().__init__(resource, parsePOSTFormSubmission=False)

    def log(self, request: http.Request) -> None:
        """Decisions are logged where they are made."""
