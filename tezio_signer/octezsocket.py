"""The Octez signer protocol on TCP and Unix sockets: frames to values and back, no decision.

A connection carries any number of requests, each answered before the next one is read
(Octez `src/bin_signer/socket_daemon.ml`). Clients of Octez ask for the authorized keys and
for the signature on the same connection, wait 8 s for each answer, and then ask again.
"""

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import (
    IAddress,
    IConsumer,
    IHalfCloseableProtocol,
    IPushProducer,
    IReactorTime,
    ITCPTransport,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from tezio_signer.decision import Decision
from tezio_signer.errors import FAULT, Forbidden, NotAdmitted, Refused
from tezio_signer.listeners.peers import NO_PROOF, admitted_at, named
from tezio_signer.listeners.slots import Place, place_of
from tezio_signer.octez import messages as octezmessages
from tezio_signer.octez.messages import (
    FRAME_HEADER,
    GetAuthorizedKeys,
    GetPublicKey,
    ListKnownKeys,
    ProvePossession,
    Request,
    Sign,
    SupportsDeterministicNonces,
    Undecodable,
)
from tezio_signer.reactors import Alarm
from tezio_signer.request import Admitted, Listener, SigningRequest, Submission
from tezio_signer.signer import Signer
from tezio_signer.sparinglog import SparingLog

IDLE_TIMEOUT = 8.0
"""Seconds without a byte of a client whose turn it is; those of Octez' own signer."""
LINGER = 2.0
"""Seconds in which a client that is hung up on may still read its answers."""
_NO_NONCES = "A Tezio HSM makes no deterministic nonces."


class _Stream(ITCPTransport, IConsumer, IPushProducer):
    """What every stream transport of Twisted provides."""


@implementer(IHalfCloseableProtocol, IPushProducer)
class OctezSocket(Protocol):
    """One connection. It holds one request, and what one more reading of the socket brings."""

    _log = Logger()
    transport: _Stream

    def __init__(self, signer: Signer, clock: IReactorTime, strangers: SparingLog) -> None:
        self._signer = signer
        self._strangers = strangers
        self._received = bytearray()
        self._serving: Deferred[bytes] | None = None
        self._alarm = Alarm(clock)
        self._paused = False  # we do not read
        self._clogged = False  # the client does not read
        self._finishing = False  # no more will come, or is wanted
        self._hung_up = False
        self._place: Place | None = None

    def connectionMade(self) -> None:
        self._place = place_of(self.transport)
        if self._place is not None:
            self._place.close = self.finish
        self.transport.registerProducer(self, True)
        self._next()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._hung_up = True
        self._alarm.end()
        if self._serving is not None:
            self._serving.cancel()

    def dataReceived(self, data: bytes) -> None:
        if self._hung_up:
            return
        self._received += data
        if self._place is not None:
            self._place.receiving()
        if self._serving is None and not self._clogged:
            self._next()
        else:
            # Until then reading goes on, because it shows when the client goes away.
            self._pause()

    def readConnectionLost(self) -> None:
        # A client that has closed its side only still reads its answer. One that closed all
        # of its socket looks the same, until an answer is written to it.
        self.finish()

    def writeConnectionLost(self) -> None:
        """Our side is never closed alone."""

    def finish(self) -> None:
        """Serve what has come, and close."""
        self._finishing = True
        if self._serving is None and not self._clogged and not self._hung_up:
            self._next()

    def abort(self) -> None:
        """Close at once."""
        self.transport.abortConnection()

    def pauseProducing(self) -> None:
        """The client does not read its answers: it gets no more of them."""
        self._clogged = True

    def resumeProducing(self) -> None:
        """The client has read what it was sent."""
        self._clogged = False
        if self._serving is None and not self._hung_up:
            self._next()

    def stopProducing(self) -> None:
        """The connection is lost, which is told by `connectionLost`."""

    def _next(self) -> None:
        """Serve a request if one is there completely; else it is the client's turn."""
        payload = self._take_frame()
        if payload is not None:
            self._alarm.put_off()
            self._serve(payload)
        elif self._finishing:
            self._hang_up()
        else:
            if self._paused:
                self._paused = False
                self.transport.resumeProducing()
            self._wait_for_client()

    def _take_frame(self) -> bytes | None:
        end = FRAME_HEADER + int.from_bytes(self._received[:FRAME_HEADER], "big")
        if len(self._received) < end:
            return None
        payload = bytes(self._received[FRAME_HEADER:end])
        del self._received[:end]
        return payload

    def _serve(self, payload: bytes) -> None:
        try:
            request = octezmessages.decode(payload)
        except Undecodable as error:
            # As Octez' own signer does: nobody knows what an answer would be taken for.
            self._strangers.warn(
                "closed the connection of {peer}, whose request cannot be read: {error}",
                peer=named(self.transport),
                error=error,
            )
            self._hang_up()
            return
        if self._place is not None:
            self._place.serving()
        serving = self._serving = Deferred.fromCoroutine(self._answer(request))
        serving.addCallbacks(self._answered, self._left).addErrback(self._failed)

    def _answered(self, answer: bytes) -> None:
        self._serving = None
        self.transport.write(octezmessages.frame(answer))
        if self._place is not None and not self._place.answered():
            self._finishing = True
        if self._clogged:
            self._wait_for_client()
        elif self._received:
            # Other connections have their turn before the next request of this one, and more
            # of them than are served in a turn must not gather here.
            self._pause()
            self._alarm.set(0, self._next)
        else:
            self._next()

    def _pause(self) -> None:
        if not self._paused:
            self._paused = True
            self.transport.pauseProducing()

    def _left(self, failure: Failure) -> None:
        failure.trap(CancelledError)

    def _failed(self, failure: Failure) -> None:
        self._log.failure("fault while answering over a socket", failure)
        self._hang_up()

    def _wait_for_client(self) -> None:
        # How long a request may take in all, however steadily it drips, is for connections.py.
        if self._received and self._place is not None:
            self._place.receiving()
        self._alarm.set(IDLE_TIMEOUT, self._too_slow)

    def _too_slow(self) -> None:
        if self._received or self._clogged:
            self._strangers.warn(
                "closed the connection of {peer}, which {what}",
                peer=named(self.transport),
                what="does not read" if self._clogged else "stopped in the middle of a request",
            )
        self._hang_up()

    def _hang_up(self) -> None:
        """Close when the answers are written, or by force if they are not read."""
        if self._hung_up:
            return
        self._hung_up = True
        self.transport.unregisterProducer()
        self._alarm.set(LINGER, self.abort)
        self.transport.loseConnection()

    async def _answer(self, request: Request) -> bytes:
        """The answer to a request, when the decision on it is recorded."""
        decisions = self._signer.decisions
        try:
            peer = admitted_at(self.transport, self._signer.admit)
            if isinstance(request, Sign):
                return await self._sign(request, peer)
            answer = await self._result(request)
        except Refused as refused:
            decisions.record(self._decision(request).refused(refused))
            if isinstance(refused, NotAdmitted):
                self._finishing = True
                self._received.clear()
            return octezmessages.error_answer(str(refused))
        except CancelledError:
            raise
        except Exception:
            decisions.record(self._decision(request).failed(Failure()))
            return octezmessages.error_answer(FAULT)
        decisions.record(self._decision(request))
        return answer

    def _decision(self, request: Request) -> Decision:
        """The decision to give what is asked for."""
        words = type(request).__name__, str(getattr(request, "key", ""))
        return Decision(" ".join(words).rstrip(), named(self.transport), Listener.OCTEZ_SOCKET)

    async def _sign(self, request: Sign, peer: Admitted) -> bytes:
        try:
            signature = await self._signer.submit(_submission(request, peer))
        except Refused as refused:  # which the signer has recorded
            return octezmessages.error_answer(str(refused))
        return octezmessages.signature_answer(signature)

    async def _result(self, request: Request) -> bytes:
        """The answer to what is no request to sign; raises Refused."""
        match request:
            case GetPublicKey(key):
                # An unknown key is an error trace, which clients print; Octez' own signer
                # closes the connection, and its clients say that they do not know why.
                return octezmessages.public_key_answer(await self._signer.public_key(key))
            case GetAuthorizedKeys():
                return octezmessages.authorized_keys_answer(self._signer.authorized_keys())
            case ListKnownKeys():
                return octezmessages.known_keys_answer(self._signer.known_keys())
            case SupportsDeterministicNonces():
                return octezmessages.supports_answer(False)
            case ProvePossession():
                raise Forbidden(NO_PROOF)
            case _:
                raise Forbidden(_NO_NONCES)


def _submission(request: Sign, peer: Admitted) -> Submission:
    asked: SigningRequest | Refused
    try:
        asked = SigningRequest.read(request.key, request.data, peer, request.authentication)
    except Refused as refused:
        asked = refused
    return Submission(peer, Listener.OCTEZ_SOCKET, str(request.key), asked)


class OctezSocketFactory(Factory):
    """Connections that are served by one signer."""

    noisy = False
    listener = Listener.OCTEZ_SOCKET

    def __init__(self, signer: Signer, clock: IReactorTime) -> None:
        self._signer = signer
        self._clock = clock
        self._strangers = SparingLog(OctezSocket._log, clock)

    def refusal(self, refused: Refused) -> bytes:
        """What a client is told who may ask nothing, whatever he was about to ask."""
        return octezmessages.frame(octezmessages.error_answer(str(refused)))

    def buildProtocol(self, addr: IAddress | None) -> OctezSocket:
        return OctezSocket(self._signer, self._clock, self._strangers)
