"""The path of a request: rules, claim, HSM, verification, release."""

from collections.abc import Callable
from typing import Any, TypeVar

from attrs import frozen
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from tezio_signer.config.settings import Settings
from tezio_signer.errors import (
    FAULT,
    Forbidden,
    NotAdmitted,
    Refused,
    Unavailable,
    UnknownKey,
)
from tezio_signer.hsm.pool import HsmPool
from tezio_signer.inflight import InFlight
from tezio_signer.policy import (
    Peer,
    SigningRequest,
    check_peer,
    check_user,
    decide,
    rules_for,
)
from tezio_signer.sparinglog import SparingLog
from tezio_signer.tezos.keys import PublicKey, PublicKeyHash, Signature
from tezio_signer.tezos.payload import Generic
from tezio_signer.watermarks.claims import Watermarks

_Result = TypeVar("_Result")


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
        self._in_flight = InFlight(hsms, clock, self._tell_if_idle)
        self._clock = clock
        self._rules = rules_for(settings, hsms.public_key, watermarks, clock)
        self._strangers = SparingLog(self._log, clock)
        self._closed_because: str | None = None
        self._open = 0
        self._idle: list[Deferred[None]] = []

    def admit(self, peer: Peer) -> None:
        """Raises NotAdmitted for an address or a user that may ask nothing."""
        if self._settings.security.remote_ip_check:
            check_peer(peer, self._settings.allowed_ips)
        check_user(peer, self._settings.allowed_uids)

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
        """Decide, sign, verify; one line in the log for each.

        Cancelling the Deferred means that the client has gone. A request that waits for
        the HSM is then dropped, one that has reached it goes on to its end.
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
        self._in_flight.refuse_all(why)

    def _closed(self, result: _Result) -> _Result:
        self._open -= 1
        self._tell_if_idle()
        return result

    def _tell_if_idle(self) -> None:
        if self._open == 0 and not self._in_flight:
            idle, self._idle = self._idle, []
            for waiting in idle:
                if not waiting.called:
                    waiting.callback(None)

    async def _serve(self, submission: Submission) -> Signature:
        began = self._clock.seconds()
        request: SigningRequest | None = None

        def facts() -> dict[str, Any]:
            return {
                "what": _described(submission, request),
                "peer": submission.peer,
                "milliseconds": round((self._clock.seconds() - began) * 1000),
            }

        try:
            self.admit(submission.peer)
            if self._closed_because is not None:
                raise Unavailable(self._closed_because)
            request = submission.read()
            request = await decide(self._rules, request)
            signature = await self._in_flight.sign(
                request.key, request.data, request.payload, request.claim
            )
        except Refused as refused:
            if isinstance(refused, Unavailable) and request is not None:
                request.uncount()  # octez-client asks again by itself
            self._refused("refused {what} from {peer} in {milliseconds} ms", refused, facts())
            raise
        except CancelledError:
            self._log.warn("client {peer} went away after {milliseconds} ms: {what}", **facts())
            raise
        except Exception:
            self._log.failure(
                "fault while serving {what} from {peer} in {milliseconds} ms", **facts()
            )
            fault = Refused(FAULT)
            fault.logged = True
            raise fault from None
        self._log.info("signed {what} from {peer} in {milliseconds} ms", **facts())
        return signature

    def log_refusal(self, what: str, peer: str, refused: Refused) -> None:
        """A line for a request that was refused at a door, unless it has one already."""
        if not refused.logged:
            self._refused("refused {what} from {peer}", refused, {"what": what, "peer": peer})

    def _refused(self, sentence: str, refused: Refused, facts: dict[str, Any]) -> None:
        refused.logged = True
        warn = self._strangers.warn if isinstance(refused, NotAdmitted) else self._log.warn
        warn(
            sentence + ": {status} {sentence}",
            status=refused.status,
            sentence=refused,
            reason=refused.reason,
            **facts,
        )


def _described(submission: Submission, request: SigningRequest | None) -> str:
    if request is None:
        return f"a request for {ascii(submission.key)[1:-1][:60]}"
    payload = request.payload
    if isinstance(payload, Generic):
        return f"{payload.operation} for {request.key}"
    return f"{payload.operation} {payload.level}/{payload.round} for {request.key}"
