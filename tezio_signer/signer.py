"""The path of a request: rules, claim, HSM, verification, release."""

from collections.abc import Callable
from functools import partial
from typing import NoReturn, TypeVar

from attrs import define, evolve, field
from twisted.internet.defer import CancelledError, Deferred, DeferredList, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from tezio_signer.config.settings import Settings
from tezio_signer.decision import Decision, Decisions, Outcome
from tezio_signer.errors import FAULT, Conflict, Forbidden, Refused, Unavailable, UnknownKey
from tezio_signer.hsm.device import Priority
from tezio_signer.hsm.framing import Status, StatusReply
from tezio_signer.hsm.pool import HsmPool
from tezio_signer.hsm.signing import Signing
from tezio_signer.policy import policy_of
from tezio_signer.request import Admitted, Peer, SigningRequest, Submission
from tezio_signer.rules.rule import Grant
from tezio_signer.tezos.keys import PublicKey, PublicKeyHash, Signature
from tezio_signer.tezos.payload import Generic, Operation
from tezio_signer.watermarks.claims import Claim, Watermarks

DEADLINE = 6.0
"""Seconds after which a client is told that its signature is not there; a block's time."""
_PRIORITIES = {
    Operation.BLOCK: Priority.BLOCK,
    Operation.PREATTESTATION: Priority.CONSENSUS,
    Operation.ATTESTATION: Priority.CONSENSUS,
    Operation.GENERIC: Priority.OTHER,
}
_Result = TypeVar("_Result")
_Asked = tuple[PublicKeyHash, bytes, bool]
"""Key, payload, and whether its signature is known and has to be stored only."""


@define(eq=False)
class _Flight:
    """A signature on its way, and who waits for it.

    :ivar forget: called when nobody can wait for it any more.
    :ivar signing: what the HSM does for it; None if it was signed before.
    """

    forget: Callable[[], object] = bool
    signing: Signing | None = None
    waiters: list[Deferred[Signature]] = field(factory=list)

    def board(self, clock: IReactorTime) -> Deferred[Signature]:
        """Wait for the signature; cancelled when a client goes, or when it takes too long."""
        waiting: Deferred[Signature] = Deferred(self._leave)
        self.waiters.append(waiting)
        return waiting.addTimeout(DEADLINE, clock, self._too_late)

    def _too_late(self, result: object, seconds: float) -> NoReturn:
        # One that waited for the HSM has been withdrawn by now, and so has its result.
        signing = self.signing
        at_hsm = signing is not None and (signing.withdrawn or not signing.result.called)
        who = "the HSM has not signed" if at_hsm else "the watermark store has not written"
        raise Unavailable(f"{who} within {seconds:g} s")

    def _leave(self, waiting: Deferred[Signature]) -> None:
        self.waiters.remove(waiting)
        if not self.waiters and self.signing is not None and self.signing.withdraw():
            self.forget()

    def land(self, result: Signature | Failure) -> None:
        """Give everybody the result."""
        waiters, self.waiters = self.waiters, []
        for waiting in waiters:
            waiting.callback(result)


class Signer:
    """What all listeners ask.

    :ivar decisions: is told of each request to sign, and by the listeners of all else.
    """

    _log = Logger()

    def __init__(
        self, settings: Settings, hsms: HsmPool, watermarks: Watermarks, clock: IReactorTime
    ) -> None:
        self._settings = settings
        self._hsms = hsms
        self._clock = clock
        self._policy = policy_of(settings, hsms.public_key, watermarks, clock)
        self.decisions = Decisions(clock)
        self._flights: dict[_Asked, _Flight] = {}
        self._closed_because: str | None = None
        self._open = 0
        self._idle: list[Deferred[None]] = []

    def admit(self, peer: Peer) -> Admitted:
        """The peer as one that may ask; raises NotAdmitted for one that may ask nothing."""
        return self._policy.admit(peer)

    def authorized_keys(self) -> tuple[PublicKeyHash, ...] | None:
        """Who may authenticate; None if nobody has to."""
        return self._settings.authorized

    def known_keys(self) -> tuple[PublicKeyHash, ...]:
        """The signing keys; raises Forbidden unless the configuration lists them."""
        if not self._settings.list_known_keys:
            raise Forbidden("List known keys request not allowed.")
        return tuple(self._settings.signing_keys)

    async def public_key(self, key: PublicKeyHash) -> PublicKey:
        """The public key of a signing key; raises UnknownKey, or Unavailable."""
        if key not in self._settings.signing_keys:
            raise UnknownKey(f"no keys for the source contract {key}")
        return await self._hsms.public_key(key)

    def submit(self, submission: Submission) -> Deferred[Signature]:
        """Decide, sign, verify, and have the decision recorded.

        Fails with a `Refused`, also for a fault of ours, or with CancelledError. Cancelling the
        Deferred means that the client has gone: a request that waits for the HSM is then
        dropped, one that has reached it goes on to its end.
        """
        self._open += 1
        return Deferred.fromCoroutine(self._serve(submission)).addBoth(self._closed)

    def drained(self) -> Deferred[None]:
        """Fires when no request is being served."""
        idle: Deferred[None] = Deferred(lambda _: None)
        self._idle.append(idle)
        self._tell_if_idle()
        return idle

    def close(self, why: str) -> None:
        """Refuse what is submitted from now on; connections may still be open."""
        self._closed_because = why

    def refuse_all(self, why: str) -> None:
        """Tell everybody who still waits for a signature that there will be none."""
        for flight in list(self._flights.values()):
            flight.land(Failure(Unavailable(why)))

    def _closed(self, result: _Result) -> _Result:
        self._open -= 1
        self._tell_if_idle()
        return result

    def _tell_if_idle(self) -> None:
        if self._open == 0 and not self._flights:
            idle, self._idle = self._idle, []
            for waiting in idle:
                if not waiting.called:
                    waiting.callback(None)

    async def _serve(self, submission: Submission) -> Signature:
        began = self._clock.seconds()
        decision = Decision.on(submission)
        grant = Grant()

        def record(decision: Decision) -> None:
            milliseconds = round((self._clock.seconds() - began) * 1000)
            self.decisions.record(evolve(decision, milliseconds=milliseconds))

        try:
            if self._closed_because is not None:
                raise Unavailable(self._closed_because)
            request = submission.asked
            if isinstance(request, Refused):
                raise request
            grant = await self._policy.decide(request)
            signature = await self._signature(request, grant.claim)
        except Refused as refused:
            if isinstance(refused, Unavailable):
                grant.undo()  # octez-client asks again by itself
            record(decision.refused(refused))
            raise
        except CancelledError:
            record(evolve(decision, outcome=Outcome.LEFT, status=None))
            raise
        except Exception:
            record(decision.failed(Failure()))
            raise Refused(FAULT) from None
        record(evolve(decision, outcome=Outcome.SIGNED))
        return signature

    def _signature(self, request: SigningRequest, claim: Claim | None) -> Deferred[Signature]:
        """The signature of an allowed request.

        Requests for the same key and payload share one exchange with the device, which
        would refuse the second.
        """
        known = claim is not None and claim.signature is not None
        asked = request.key, request.data, known
        flight = self._flights.get(asked)
        if flight is not None:
            if claim is not None:  # the first request waits for its own claim, which is the same
                claim.durable.addErrback(lambda _: None)
            if flight.signing is not None:
                flight.signing.want()
            return flight.board(self._clock)
        flight = self._flights[asked] = _Flight()
        flight.forget = partial(self._forget, asked, flight)
        waiting = flight.board(self._clock)

        def landed(result: Signature | Failure) -> None:
            # Forgotten first: who gets the result may ask again within the same call.
            flight.forget()
            flight.land(result)
            self._tell_if_idle()

        serve = (
            self._stored(request, claim)
            if claim is not None and known
            else self._sign(request, claim, flight)
        )
        Deferred.fromCoroutine(serve).addBoth(landed)
        return waiting

    def _forget(self, asked: _Asked, flight: _Flight) -> None:
        if self._flights.get(asked) is flight:
            del self._flights[asked]
        self._tell_if_idle()

    async def _sign(
        self, request: SigningRequest, claim: Claim | None, flight: "_Flight"
    ) -> Signature:
        durable = succeed(None) if claim is None else claim.durable

        def late(signature: Signature) -> None:
            if claim is not None:  # a repeated request will get it
                claim.complete(signature).addErrback(lambda failure: failure.trap(Refused))

        flight.signing = self._hsms.sign(
            request.key, request.data, _PRIORITIES[request.payload.operation], late
        )
        signing = DeferredList([flight.signing.result], consumeErrors=True)
        # The mark has to be on the disk, and the signature made: both are under way.
        try:
            await durable
        except Unavailable:
            # It is said at once. An HSM that is at it goes on, and may refuse to do so again.
            if not flight.signing.withdraw():
                signing.addCallback(lambda done: late(done[0][1]) if done[0][0] else None)
            raise
        except Exception:  # another payload stands there: nobody may have this signature
            flight.signing.withdraw()
            raise
        ((signed, result),) = await signing
        if not signed and claim is not None:
            # A late answer to an earlier request for it may have come meanwhile.
            result = claim.found() or result
        try:
            if isinstance(result, Failure):
                result.raiseException()
        except StatusReply as status:
            raise _refusal(status, request, flight.signing.asked_before) from status
        signature: Signature = result
        await self._verify(request, signature)
        if claim is None:
            return signature
        stands = await claim.complete(signature)
        if stands != signature:
            await self._verify(request, stands)
        return stands

    async def _stored(self, request: SigningRequest, claim: Claim) -> Signature:
        signature = await claim.durable
        assert signature is not None
        await self._verify(request, signature)
        return signature

    async def _verify(self, request: SigningRequest, signature: Signature) -> None:
        """The last thing before a signature leaves, wherever it comes from."""
        key = await self._hsms.public_key(request.key)
        if not key.verifies(request.data, signature):
            self._log.critical("a signature for {key} does not verify", key=request.key)
            raise Unavailable("the signature does not verify and is not released")


def _refusal(reply: StatusReply, request: SigningRequest, asked_before: bool) -> Refused:
    """What a status of the device means for the client."""
    match reply.status:
        case Status.WATERMARK:
            return Conflict(f"{reply}; {_device_mark(request, asked_before)}")
        case Status.NOT_ENABLED | Status.OPERATION_DISABLED:
            return Forbidden(str(reply))
        case _:
            return Unavailable(str(reply))


def _device_mark(request: SigningRequest, asked_before: bool) -> str:
    """What the mark of the device itself is, which refuses what our watermarks allow."""
    payload = request.payload
    if isinstance(payload, Generic):  # has none, as far as is known
        return "which is not known to happen for what has no level"
    if (payload.level, payload.round) == (0, 0):
        return "it signs nothing at level 0 round 0"
    why = (
        "it was asked for this before and may have signed it, but its signature was lost"
        if asked_before
        else "that mark is kept for each key and operation since the board was plugged in, and "
        "knows no chain: another chain, or another program, may have moved it"
    )
    return (
        f"{why}; if {payload.operation} at level {payload.level} round {payload.round} is right "
        f"for {payload.chain_id}, unplug the board and plug it in again, which clears its mark and "
        "leaves the watermarks of this signer as they are"
    )
