"""The path of a request: rules, claim, HSM, verification, release."""

from collections.abc import Callable
from typing import Any

from attrs import frozen
from twisted.internet.defer import Deferred, DeferredList, maybeDeferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from tezio_signer.errors import Conflict, Forbidden, Refused, Unavailable, UnknownKey
from tezio_signer.hsm.framing import Status, StatusReply
from tezio_signer.policy import Peer, SigningRequest, check_peer, decide, rules_for
from tezio_signer.serialhsm import HsmPool
from tezio_signer.settings import Settings
from tezio_signer.tezos.keys import PublicKey, PublicKeyHash, Signature
from tezio_signer.tezos.payload import Generic
from tezio_signer.watermarks.claims import Watermarks


@frozen(eq=False)
class Submission:
    """A request as it stands at a door: who asks, for which key, and how to read the rest.

    :ivar read: decodes the request; raises Refused.
    """

    peer: Peer
    key: str
    read: Callable[[], SigningRequest]


class Signer:
    """What all doors ask. Every failure that they see is a `Refused`."""

    _log = Logger()

    def __init__(
        self, settings: Settings, hsms: HsmPool, watermarks: Watermarks, clock: IReactorTime
    ) -> None:
        self._settings = settings
        self._hsms = hsms
        self._clock = clock
        self._rules = rules_for(settings, hsms.public_key, watermarks)
        self._waiters: dict[tuple[PublicKeyHash, bytes], list[Deferred[Signature]]] = {}
        self._open = 0
        self._idle: list[Deferred[None]] = []

    def admit(self, peer: Peer) -> None:
        """Raises Forbidden for an address that may ask nothing."""
        if self._settings.security.remote_ip_check:
            check_peer(peer, self._settings.allowed_ips)

    def authorized_keys(self) -> tuple[PublicKeyHash, ...] | None:
        """Who may authenticate; None if nobody has to."""
        return self._settings.authorized

    def known_keys(self) -> tuple[PublicKeyHash, ...]:
        """The signing keys; raises Forbidden unless the configuration lists them."""
        if not self._settings.list_known_keys:
            raise Forbidden("List known keys request not allowed.")
        return tuple(self._settings.signing_keys)

    def public_key(self, key: PublicKeyHash) -> PublicKey:
        """The public key of a signing key; raises UnknownKey, or Unavailable."""
        if key not in self._settings.signing_keys:
            raise UnknownKey(f"no keys for the source contract {key}")
        return self._hsms.public_key(key)

    def submit(self, submission: Submission) -> Deferred[Signature]:
        """Decide, sign, verify; one line in the log for each.

        Cancelling the Deferred means that the client has gone. What has begun goes on
        to its end: the device must not be left in the middle of an exchange.
        """
        released: Deferred[Signature] = Deferred(lambda _: None)

        def deliver(result: Signature | Failure) -> None:
            if not released.called:
                released.callback(result)

        self._open += 1
        Deferred.fromCoroutine(self._serve(submission)).addBoth(deliver).addBoth(self._closed)
        return released

    def drained(self) -> Deferred[None]:
        """Fires when no request is being served."""
        idle: Deferred[None] = Deferred(lambda _: None)
        if self._open == 0:
            idle.callback(None)
        else:
            self._idle.append(idle)
        return idle

    def _closed(self, _: object) -> None:
        self._open -= 1
        if self._open == 0:
            idle, self._idle = self._idle, []
            for waiting in idle:
                if not waiting.called:
                    waiting.callback(None)

    async def _serve(self, submission: Submission) -> Signature:
        began = self._clock.seconds()
        request: SigningRequest | None = None
        try:
            self.admit(submission.peer)
            request = submission.read()
            request = await decide(self._rules, request)
            signature = await self._signature(request)
        except Refused as refused:
            self._log.warn(
                "refused {what} from {peer} in {milliseconds} ms: {status} {sentence}",
                what=_described(submission, request),
                peer=submission.peer,
                milliseconds=self._milliseconds(began),
                status=refused.status,
                sentence=refused,
                reason=refused.reason,
            )
            raise
        except Exception:
            self._log.failure("fault while serving {key}", key=ascii(submission.key))
            raise Refused("internal error of the signer, see its log") from None
        self._log.info(
            "signed {what} from {peer} in {milliseconds} ms",
            what=_described(submission, request),
            peer=submission.peer,
            milliseconds=self._milliseconds(began),
        )
        return signature

    def _milliseconds(self, began: float) -> int:
        return round((self._clock.seconds() - began) * 1000)

    def _signature(self, request: SigningRequest) -> Deferred[Signature]:
        """The signature of an allowed request.

        Requests for the same key and payload share one exchange with the device, which
        would refuse the second.
        """
        claim = request.claim
        if claim is not None and claim.signature is not None:
            return succeed(claim.signature)
        asked = request.key, request.data
        waiting: Deferred[Signature] = Deferred()
        if asked in self._waiters:
            if claim is not None:  # the first request waits for its own, which is the same
                claim.durable.addErrback(lambda _: None)
            self._waiters[asked].append(waiting)
            return waiting
        self._waiters[asked] = [waiting]

        def deliver(result: Signature | Failure) -> None:
            for waiter in self._waiters.pop(asked):
                waiter.callback(result)

        Deferred.fromCoroutine(self._sign(request)).addBoth(deliver)
        return waiting

    async def _sign(self, request: SigningRequest) -> Signature:
        claim = request.claim
        durable = succeed(None) if claim is None else claim.durable
        signing = maybeDeferred(self._hsms.sign, request.key, request.data)
        # Both have to be done: the mark on the disk, and the signature made.
        await DeferredList(list[Deferred[Any]]((durable, signing)))
        try:
            await durable
            signature = (await signing).low_s()
        except StatusReply as status:
            raise _refusal(status) from status
        if not self._hsms.public_key(request.key).verifies(request.data, signature):
            self._log.critical(
                "the HSM's signature for {key} does not verify and is not released", key=request.key
            )
            raise Unavailable("the HSM's signature does not verify and is not released")
        if claim is not None:
            await claim.complete(signature)
        return signature


def _refusal(reply: StatusReply) -> Refused:
    """What a status of the device means for the client."""
    match reply.status:
        case Status.WATERMARK:
            return Conflict(str(reply))
        case Status.NOT_ENABLED | Status.OPERATION_DISABLED:
            return Forbidden(str(reply))
        case _:
            return Unavailable(str(reply))


def _described(submission: Submission, request: SigningRequest | None) -> str:
    if request is None:
        return f"a request for {ascii(submission.key)[1:61]}"
    payload = request.payload
    if isinstance(payload, Generic):
        return f"{payload.operation} for {request.key}"
    return f"{payload.operation} {payload.level}/{payload.round} for {request.key}"
