"""The Octez signer protocol on TCP and Unix sockets: frames to values and back, no decision.

A connection carries any number of requests, each answered before the next one is read
(Octez `src/bin_signer/socket_daemon.ml`). Clients of Octez ask for the authorized keys and
for the signature on the same connection, wait 8 s for each answer, and then ask again.

States of a connection, and their transitions; from each, it is CLOSED when it is lost:

- WAITING: for the client, to send the rest of a request or to read its answers. To SERVING when a
  request is whole and the client reads; to CLOSED when no more is to come, or takes too long.
- SERVING: a request is worked on. To WAITING or, if more has come, to QUEUED with its answer; to
  CLOSED if it cannot be read.
- QUEUED: what has come meanwhile waits for the next turn of the reactor. To WAITING in it.
- CLOSED: the client may still read what is written, for `LINGER` seconds. The end.

Two facts about the client come in any state. `_clogged`: it does not read its answers, until it
does. `_finishing`: no more will come from it, or is wanted; what has come is still served.

Invariants (each with its test in `tests/test_octezsocket.py`):

1. One request at a time is worked on, in the order in which they came (`test_in_turn`).
2. A connection holds one request and what one more reading of the socket brings: it is read from
   while it is WAITING, and else until something comes (`test_bounded_memory`).
3. A client that does not read its answers gets no more of them (`test_unread_answers`).
4. Every state but SERVING ends in time, and nothing is timed after the connection is lost
   (`test_idle`, `test_unread_answers`, `test_lost_while_signing`).
5. In CLOSED nothing is read, begun or written (`test_undecodable`).
6. A request is cancelled when its connection is lost, and by nothing else
   (`test_lost_while_signing`, `test_half_closed`).
"""

from enum import Enum, auto

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
from tezio_signer.errors import FAULT, Forbidden, Malformed, NotAdmitted, Refused
from tezio_signer.listeners.peers import NO_PROOF, admitted_at, named
from tezio_signer.listeners.slots import Slot, slot_of
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
"""Seconds in which a client may still read its answers after its connection was closed."""
_NO_NONCES = "A Tezio HSM makes no deterministic nonces."


class _Stream(ITCPTransport, IConsumer, IPushProducer):
    """What every stream transport of Twisted provides."""


class State(Enum):
    """What a connection does; see the top of this module."""

    WAITING = auto()
    SERVING = auto()
    QUEUED = auto()
    CLOSED = auto()


@implementer(IHalfCloseableProtocol, IPushProducer)
class OctezSocket(Protocol):
    """One connection; its factory has to be limited."""

    _log = Logger()
    transport: _Stream
    _slot: Slot
    _state = State.WAITING
    _clogged = False
    _finishing = False
    _serving: Deferred[bytes] | None = None

    def __init__(self, signer: Signer, clock: IReactorTime, sparing_log: SparingLog) -> None:
        self._signer = signer
        self._sparing_log = sparing_log
        self._received = bytearray()
        self._alarm = Alarm(clock)

    def connectionMade(self) -> None:
        self._slot = slot_of(self.transport)
        self.transport.registerProducer(self, True)
        self._wait()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._state = State.CLOSED
        self._alarm.end()
        if self._serving is not None:
            self._serving.cancel()

    def dataReceived(self, data: bytes) -> None:
        if self._state is State.CLOSED:
            return
        self._received += data
        self._slot.receiving()
        if self._state is State.WAITING and not self._clogged:
            self._next()
        else:
            # Until then reading goes on, because it shows when the client goes away.
            self.transport.pauseProducing()

    def readConnectionLost(self) -> None:
        # A client that has closed its side only still reads its answer. One that closed all
        # of its socket looks the same, until an answer is written to it.
        self.finish()

    def writeConnectionLost(self) -> None:
        """Our side is never closed alone."""

    def finish(self) -> None:
        """Serve what has come, and close."""
        self._finishing = True
        if self._state is State.WAITING and not self._clogged:
            self._next()

    def pauseProducing(self) -> None:
        """Note that the client does not read its answers."""
        self._clogged = True

    def resumeProducing(self) -> None:
        """Note that the client has read what it was sent."""
        self._clogged = False
        if self._state is State.WAITING:
            self._next()

    def stopProducing(self) -> None:
        """The connection is lost, which is told by `connectionLost`."""

    def _next(self) -> None:
        """Serve a request if one is there completely; else it is the client's turn."""
        payload = None if self._clogged else self._take_frame()
        if payload is not None:
            self._alarm.put_off()
            self._serve(payload)
        elif self._finishing and not self._clogged:
            self._close()
        else:
            self._wait()

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
            asked = Decision("a request", named(self.transport), Listener.OCTEZ_SOCKET)
            self._signer.decisions.record(asked.unanswered(Malformed(str(error))))
            self._close()
            return
        self._state = State.SERVING
        self._slot.serving()
        self._serving = Deferred.fromCoroutine(self._answer(request))
        self._serving.addCallbacks(self._answered, self._left).addErrback(self._failed)

    def _answered(self, answer: bytes) -> None:
        if self._state is State.CLOSED:
            return
        self.transport.write(octezmessages.frame(answer))
        if not self._slot.answered():
            self._finishing = True
        if self._received and not self._clogged:
            # Other connections have their turn before the next request of this one, and more
            # of them than are served in a turn must not gather here.
            self._state = State.QUEUED
            self.transport.pauseProducing()
            self._alarm.set(0, self._next)
        else:
            self._next()

    def _left(self, failure: Failure) -> None:
        failure.trap(CancelledError)

    def _failed(self, failure: Failure) -> None:
        self._log.failure("fault while answering over a socket", failure)
        self._close()

    def _wait(self) -> None:
        """Wait for the client, to send or to read."""
        self._state = State.WAITING
        # How long a request may take in all, however steadily it drips, is for its slot.
        if self._received:
            self._slot.receiving()
        if not self._clogged:
            self.transport.resumeProducing()
        self._alarm.set(IDLE_TIMEOUT, self._too_slow)

    def _too_slow(self) -> None:
        if self._received or self._clogged:
            self._sparing_log.warn(
                "closed the connection of {peer}, which {what}",
                peer=named(self.transport),
                what="does not read" if self._clogged else "stopped in the middle of a request",
            )
        self._close()

    def _close(self) -> None:
        """Close when the answers are written, or by force if they are not read."""
        if self._state is not State.CLOSED:
            self._state = State.CLOSED
            self.transport.unregisterProducer()
            self._alarm.set(LINGER, self.transport.abortConnection)
            self.transport.loseConnection()

    async def _answer(self, request: Request) -> bytes:
        """The answer to a request, when the decision on it is recorded."""
        decisions = self._signer.decisions
        asked = self._decision(request)  # a client that has gone has no address
        try:
            peer = admitted_at(self.transport, self._signer.admit)
            if isinstance(request, Sign):
                return await self._sign(request, peer)
            answer = await self._result(request)
        except Refused as refused:
            decisions.record(asked.refused(refused))
            if isinstance(refused, NotAdmitted):
                self._finishing = True
                self._received.clear()
            return octezmessages.error_answer(str(refused))
        except CancelledError:
            if not isinstance(request, Sign):  # which the signer has recorded
                decisions.record(asked.left())
            raise
        except Exception:
            decisions.record(asked.failed(Failure()))
            return octezmessages.error_answer(FAULT)
        decisions.record(asked)
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
    """Makes connections that are served by one signer."""

    noisy = False
    listener = Listener.OCTEZ_SOCKET

    def __init__(self, signer: Signer, clock: IReactorTime) -> None:
        self._signer = signer
        self._clock = clock
        self._sparing_log = SparingLog(OctezSocket._log, clock)

    def refusal(self, refused: Refused) -> bytes:
        """The answer to a client that may ask nothing, whatever it was about to ask."""
        return octezmessages.frame(octezmessages.error_answer(str(refused)))

    def buildProtocol(self, addr: IAddress | None) -> OctezSocket:
        return OctezSocket(self._signer, self._clock, self._sparing_log)
