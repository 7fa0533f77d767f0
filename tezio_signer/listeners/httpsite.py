"""The HTTP server below the routes: it limits and normalises what Twisted's own does not."""

import re
from collections.abc import Callable
from enum import Enum, auto
from io import BytesIO
from urllib.parse import quote, unquote_to_bytes

from twisted.internet.interfaces import IDelayedCall, IReactorTime, ITCPTransport
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from twisted.web import http
from twisted.web.http import HTTPChannel
from twisted.web.resource import IResource
from twisted.web.server import Request, Site

from tezio_signer.config.settings import Limits
from tezio_signer.decision import Decision, Decisions, Stage
from tezio_signer.errors import Malformed, Refused, TooLarge
from tezio_signer.listeners.peers import named
from tezio_signer.listeners.slots import Slot, slot_of
from tezio_signer.octez.json import error_list
from tezio_signer.reactors import cancel
from tezio_signer.request import Listener

MAX_PIPELINED = 16
"""Requests that are served right behind one another; with more, the connection is closed."""
MAX_DISCARDED = 16 * 1024 * 1024
"""Bytes of a body refused as too large that are still taken, so that the client reads why."""
MAX_CHUNKS = 256
"""Chunks of a body of up to 128 KiB; octez-client sends one or two, proxies one a packet."""
MAX_ARGUMENTS = 16
"""Arguments of a query; the routes know two."""
_NO_HTTP = "what came is no HTTP/1.1, or has more header lines or bytes than the limits allow"
_ENCODED_SLASH = re.compile(b"%2f", re.IGNORECASE)


class TooManyChunksError(http._MalformedChunkedDataError):
    """A body with too many chunks was answered, and no more of it is read."""


class SignerRequest(Request):
    """A request with a limited body in memory, one way to read it, and no trust in `Host`."""

    channel: "SignerChannel"
    content: BytesIO
    transport: ITCPTransport
    _discarded: int | None = None

    def gotLength(self, length: int | None) -> None:
        self.content = BytesIO()
        if length is not None and length > self.channel.limits.body_bytes:
            self._refuse_body()

    def handleContentChunk(self, data: bytes) -> None:
        self.channel.count_chunk()
        if self.channel.has_too_many_chunks:
            if self._discarded is None:
                sentence = f"the request body has more than {self.channel.most_chunks} chunks"
                self._answer_below_the_routes(Malformed(sentence))
            raise TooManyChunksError
        if self._discarded is None:
            if self.content.tell() + len(data) <= self.channel.limits.body_bytes:
                super().handleContentChunk(data)
                return
            self._refuse_body()
        self._discarded = (self._discarded or 0) + len(data)
        if self._discarded > MAX_DISCARDED:
            self.channel.forceAbortClient()

    def _refuse_body(self) -> None:
        """Answer at once; the connection is closed when the client has sent its body."""
        self._discarded = 0
        self.requestHeaders.removeHeader(b"expect")  # no `100 Continue` after this answer
        limit = self.channel.limits.body_bytes
        self._answer_below_the_routes(TooLarge(f"the request body is larger than {limit} bytes"))

    def _answer_below_the_routes(self, refused: Refused, with_body: bool = True) -> None:
        peer = self.getClientAddress()
        name = str(getattr(peer, "host", peer))
        asked = Decision("a request", name, Listener.HTTP)
        self.channel.site.decisions.record(asked.refused(refused, Stage.READING))
        self.channel.write(_answer(refused, with_body))

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        if self._discarded is not None:
            self.channel.loseConnection()
            return
        try:
            self._check_framing(version)
            self._check_target(command, path)
        except Malformed as malformed:
            self._answer_below_the_routes(malformed, with_body=command != b"HEAD")
            self.channel.loseConnection()
            return
        super().requestReceived(command, path, version)

    def _check_framing(self, version: bytes) -> None:
        """Raise Malformed for a body of which a proxy could see another end."""
        codings = self.requestHeaders.getRawHeaders(b"transfer-encoding", [])
        if codings and (version != b"HTTP/1.1" or [c.lower() for c in codings] != [b"chunked"]):
            raise Malformed(
                "Transfer-Encoding can only be chunked, in HTTP/1.1, and without a Content-Length"
            )

    def _check_target(self, method: bytes, target: bytes) -> None:
        if method != method.upper():  # Klein would take `post` for POST
            raise Malformed("the method of a request must be in capitals")
        path, _, query = target.partition(b"?")
        if query.count(b"&") + query.count(b";") >= MAX_ARGUMENTS:
            raise Malformed(f"the query has more than {MAX_ARGUMENTS} arguments")
        if not path.startswith(b"/"):
            raise Malformed("the target of a request has to be a path that begins with /")
        if _ENCODED_SLASH.search(path):
            raise Malformed("the path must not contain %2F, which some read as a slash")

    def process(self) -> None:
        # octez-client makes `//keys/…` of a base URL that ends in a slash. What is no UTF-8
        # would not reach the routes: Klein answers and logs it in its own way.
        path = unquote_to_bytes(self.path).decode("utf-8", "replace")
        # Twisted drops the first character whatever it is.
        self.path = quote(re.sub("/+", "/", f"/{path}"), safe="/*").encode("ascii")
        super().process()

    def end_connection(self) -> None:
        """Close the connection after this answer."""
        self.setHeader(b"Connection", b"close")
        self.channel.persistent = 0

    def getRequestHostname(self) -> bytes:
        # The routes do not depend on it, and a client may write there what it likes.
        return b"tezio-signer"


def _answer(refused: Refused, with_body: bool = True) -> bytes:
    """Return a whole answer, behind which the connection is closed."""
    body = error_list(refused)
    head = (
        b"HTTP/1.1 %d %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"
        b"Connection: close\r\n\r\n" % (refused.status, http.RESPONSES[refused.status], len(body))
    )
    return head + body if with_body else head


class State(Enum):
    """What a connection does; see `SignerChannel`."""

    READING = auto()
    SERVING = auto()
    QUEUED = auto()
    CLOSING = auto()


class SignerChannel(HTTPChannel):
    """A connection that says what it does, and reads HTTP one way only.

    States and their transitions:

    - READING: a request is awaited, or comes. To SERVING when it is whole.
    - SERVING: it is answered. To QUEUED with its answer.
    - QUEUED: the next request waits for the next turn of the reactor. To READING in it.
    - CLOSING: from every state, when there will be no other request. The end.

    Invariants (each with its test in `tests/listeners/test_httpsite.py`):

    1. In one turn of the reactor a connection has one request answered, however many come in
       one packet (`test_one_each_turn`), and not for ever (`test_no_end_of_them`).
    2. What comes while a request is answered is kept, up to the size of another one
       (`test_too_much_in_advance`).
    3. A client that does not read its answers gets no more of them
       (`test_answers_that_are_not_read`).
    4. In CLOSING nothing is read (`test_nothing_after_the_end`), and nothing is left to be done
       when the connection is lost (`test_gone_before_its_turn`).
    """

    site: "SignerSite"
    transport: ITCPTransport
    callLater: Callable[..., IDelayedCall]  # the site's reactor, given to each connection
    _slot: Slot
    _state = State.READING
    _pipelined = 0
    _pieces = 0
    _chunks = 0
    _turn: IDelayedCall | None = None

    @property
    def limits(self) -> Limits:
        """What the site holds its clients to."""
        return self.site.limits

    @property
    def most_chunks(self) -> int:
        """The most chunks that a body may have; more are not worth their time."""
        return max(MAX_CHUNKS, self.limits.body_bytes // 512)

    @property
    def has_too_many_chunks(self) -> bool:
        """Whether the body has more chunks than that, which was answered."""
        return self._chunks > self.most_chunks

    def count_chunk(self) -> None:
        """Count a piece of a body, unless it is the only one of what was received at a time."""
        self._pieces += 1
        if self._pieces > 1:
            self._chunks += 1

    def connectionMade(self) -> None:
        self.maxHeaders = self.limits.headers
        self.totalHeadersSize = self.MAX_LENGTH = self.limits.header_bytes
        self._slot = slot_of(self.transport)
        super().connectionMade()

    def dataReceived(self, data: bytes) -> None:
        # Under TLS, bytes go on coming until the client has closed its side.
        if self._state is State.CLOSING:
            return
        if self._state is State.READING:
            self._slot.receiving()
        elif self._early() + len(data) > self.limits.body_bytes + self.limits.header_bytes:
            # Twisted stops reading then, but not in every case under TLS.
            self.forceAbortClient()
            return
        self._pieces = 0
        super().dataReceived(data)

    def _early(self) -> int:
        """How many bytes have come behind the request that is answered."""
        return sum(map(len, self._dataBuffer))

    def lineReceived(self, line: bytes) -> None:
        if line[:1] in (b" ", b"\t"):
            # A header folded into several lines, which not everybody puts together again.
            self._respondToBadRequestAndDisconnect()
        else:
            super().lineReceived(line)

    def lineLengthExceeded(self, line: bytes) -> None:
        # Twisted's way of closing waits under TLS for what does not come any more.
        self._respondToBadRequestAndDisconnect()

    def headerReceived(self, line: bytes) -> bool:
        try:
            received: bool = super().headerReceived(line)
        except ValueError:  # a Content-Length of thousands of digits
            self._respondToBadRequestAndDisconnect()
            return False
        return received

    def checkPersistence(self, request: http.Request, version: bytes) -> bool:
        # Twisted looks into the first of these headers only, and for words between blanks.
        headers = request.requestHeaders.getRawHeaders(b"connection", [])
        wishes = {wish.strip().lower() for wish in b",".join(headers).split(b",")}
        if b"close" in wishes:
            request.requestHeaders.setRawHeaders(b"connection", [b"close"])
        persistent: bool = super().checkPersistence(request, version)
        return persistent

    def rawDataReceived(self, data: bytes) -> None:
        try:
            super().rawDataReceived(data)
        finally:
            if self.has_too_many_chunks:
                self.loseConnection()

    def _respondToBadRequestAndDisconnect(self) -> None:
        if self.has_too_many_chunks:
            return  # it was answered already
        if self._state is not State.CLOSING:  # as it is for further lines of one packet
            asked = Decision("a request", named(self.transport), Listener.HTTP)
            self.site.decisions.record(asked.refused(Malformed(_NO_HTTP), Stage.READING))
        super()._respondToBadRequestAndDisconnect()

    def allContentReceived(self) -> None:
        self._state = State.SERVING
        self._chunks = 0
        self._slot.serving()
        super().allContentReceived()

    def requestDone(self, request: http.Request) -> None:
        if not self._slot.answered():
            self.persistent = 0
        if self._state is State.SERVING:
            self._state = State.QUEUED
        self._turn = self.callLater(0, self._next_request, request)

    def _next_request(self, request: http.Request) -> None:
        self._turn = None
        if self._state is State.QUEUED:
            self._state = State.READING
        self._pipelined = self._pipelined + 1 if self._early() else 0
        # A client that does not read its answers gets no more of them.
        if self._waitingForTransport or self._pipelined >= MAX_PIPELINED:
            self.persistent = 0
        super().requestDone(request)

    def finish(self) -> None:
        """Close when everything is written."""
        self.loseConnection()

    def loseConnection(self) -> None:
        self._state = State.CLOSING
        self._slot.closing()
        super().loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        cancel(self._turn)
        super().connectionLost(reason)


class SignerSite(Site):
    """A site without an access log, which would hold the authentication signatures.

    How long connections may take is for `listeners/limits.py`, around this site.
    """

    # No HTTP/2, to which Twisted would switch by itself where the library for it is installed:
    # nothing here would limit it.
    protocol = SignerChannel  # type: ignore[assignment]
    requestFactory = SignerRequest
    displayTracebacks = False
    listener = Listener.HTTP
    noisy = False

    def __init__(
        self,
        resource: IResource,
        limits: Limits | None = None,
        reactor: IReactorTime | None = None,
        decisions: Decisions | None = None,
    ) -> None:
        # Otherwise the Content-Type of every POST goes through the e-mail parser.
        super().__init__(resource, parsePOSTFormSubmission=False, timeout=None, reactor=reactor)
        self.limits = limits or Limits()
        self.decisions = decisions or Decisions(self.reactor)

    def refusal(self, refused: Refused) -> bytes:
        """Return the answer to a client that may ask nothing, whatever it was about to ask."""
        return _answer(refused)

    def acceptableProtocols(self) -> list[bytes]:
        return [b"http/1.1"]

    def log(self, request: http.Request) -> None:
        """Decisions are logged where they are made."""
