"""The path of a request: rules, claim, HSM, verification, release."""

from typing import TypeVar

from attrs import evolve
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from tezio_signer.config.settings import Settings
from tezio_signer.configuration import Configuration
from tezio_signer.decision import Decision, Decisions, Outcome
from tezio_signer.errors import (
    FAULT,
    HSM,
    READING,
    STOPPING,
    Forbidden,
    Refused,
    Unavailable,
    UnknownKey,
)
from tezio_signer.hsm.pool import HsmPool
from tezio_signer.inflight import InFlight
from tezio_signer.policy import policy_of
from tezio_signer.rates import Rate
from tezio_signer.request import Admitted, Peer, Submission
from tezio_signer.rules.rule import Grant
from tezio_signer.tezos.keys import PublicKey, PublicKeyHash, Signature
from tezio_signer.watermarks.claims import Watermarks

_Result = TypeVar("_Result")


class Signer:
    """What all listeners ask.

    :ivar decisions: is told of each request to sign, and by the listeners of all else.
    """

    def __init__(
        self, settings: Settings, hsms: HsmPool, watermarks: Watermarks, clock: IReactorTime
    ) -> None:
        self.decisions = Decisions(clock)
        self._hsms = hsms
        self._watermarks = watermarks
        # Of whoever has asked, under whichever configuration.
        self._rate = Rate(1, clock)
        self._clock = clock
        self._configuration = self._configured(settings)
        self._in_flight = InFlight(hsms, clock, self._tell_if_idle)
        self._closed_because: str | None = None
        self._open = 0
        self._idle: list[Deferred[None]] = []

    def _configured(self, settings: Settings) -> Configuration:
        public_key, watermarks = self._hsms.public_key, self._watermarks
        policy = policy_of(settings, public_key, watermarks, self._clock, self._rate)
        return Configuration(settings, policy)

    def go_by(self, settings: Settings) -> None:
        """Serve the requests that begin from now on by these settings, and others as they began.

        Who listens has to have all its connections admitted anew.
        """
        self._configuration = self._configured(settings)

    @property
    def settings(self) -> Settings:
        """The settings that are in force."""
        return self._configuration.settings

    def admit(self, peer: Peer) -> Admitted:
        """The peer as one that may ask; raises NotAdmitted for one that may ask nothing."""
        return self._configuration.policy.admit(peer)

    def authorized_keys(self) -> tuple[PublicKeyHash, ...] | None:
        """Who may authenticate; None if nobody has to."""
        return self.settings.authorized

    def known_keys(self) -> tuple[PublicKeyHash, ...]:
        """The signing keys; raises Forbidden unless the configuration lists them."""
        if not self.settings.list_known_keys:
            raise Forbidden("List known keys request not allowed.").by("list_known_keys")
        return tuple(self.settings.signing_keys)

    async def public_key(self, key: PublicKeyHash) -> PublicKey:
        """The public key of a signing key; raises UnknownKey, or Unavailable."""
        if key not in self.settings.signing_keys:
            raise UnknownKey(f"no keys for the source contract {key}").by("key")
        try:
            return await self._hsms.public_key(key)
        except Refused as refused:
            refused.by(HSM)
            raise

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
        policy = self._configuration.policy  # to the end of this request
        decision = Decision.on(submission)
        grant = Grant()

        def timed(decision: Decision) -> Decision:
            return evolve(decision, milliseconds=round((self._clock.seconds() - began) * 1000))

        def record(decision: Decision) -> None:
            self.decisions.record(timed(decision))

        try:
            if self._closed_because is not None:
                raise Unavailable(self._closed_because).by(STOPPING)
            request = submission.asked
            if isinstance(request, Refused):
                raise request.by(READING)
            self.decisions.check()
            grant = await policy.decide(request)
            if grant.claim is not None:
                decision = evolve(decision, mark=grant.claim.moved)
            signed = await self._in_flight.sign(
                request.key, request.data, request.payload, grant.claim, grant.unsigned
            )
            grant = Grant()  # it was signed: nothing is given back, whatever becomes of it
            outcome = timed(evolve(decision, outcome=Outcome.SIGNED, device=signed.device))
            await self.decisions.keep(outcome)
        except Refused as refused:
            if isinstance(refused, Unavailable):
                grant.undo()  # octez-client asks again by itself
            record(decision.refused(refused.by(HSM)))  # all else has its name by now
            raise
        except CancelledError:
            record(decision.left())
            raise
        except Exception:
            record(decision.failed(Failure()))
            raise Refused(FAULT) from None
        self.decisions.record(outcome, kept=True)
        return signed.signature
