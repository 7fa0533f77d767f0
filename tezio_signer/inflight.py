"""Signatures in flight: one exchange for each payload, whoever waits for it.

An entry is for one key and payload, from when its signature is first asked for until it
has ended. Its state is that of its exchange (`hsm/signing.py`). Requests that come meanwhile
join it, for a device would refuse a second exchange. Each of them waits until its own deadline,
and may leave. When the last one has left, the exchange is withdrawn: one that no board has begun
is dropped with its entry, one that has begun goes on to its end, and its signature is stored
for the next request.

What holds, and has a test each (`tests/test_signer*.py`):

1. Of one key and payload one exchange at most is in flight (`test_share_one_exchange`), and
   everybody gets its result (`test_share_a_refusal`).
2. Nothing leaves before the claim is durable (`test_waits_for_the_disk`), the signature is
   stored with it (`test_signature_not_stored`), and what leaves verifies against the payload
   (`test_pool_is_not_believed`, `test_stored_signature_is_verified`).
3. A signature that comes too late is stored with its claim (`test_disk_then_late_signature`),
   unless another payload has the position; it leaves only when it is asked for again.
4. An entry that has ended is forgotten before anybody is told, so that whoever asks again
   within the same call begins anew (`test_asked_within_the_call`).
5. Who has reserved something is told once that no board has signed, and none will: when the
   exchange has failed without any board being asked (`test_never_asked`), and not before
   (`test_one_of_two_leaves`), nor if one was (`test_asked_in_vain`).
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn, Protocol, TypeVar

from attrs import define, field, frozen
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from tezio_signer.errors import (
    HSM,
    STOPPING,
    WATERMARK,
    Conflict,
    Forbidden,
    Refused,
    Unavailable,
)
from tezio_signer.hsm.framing import Status, StatusReply
from tezio_signer.hsm.pool import HsmPool
from tezio_signer.hsm.signing import Priority, Signing, State
from tezio_signer.noop import do_nothing
from tezio_signer.tezos.keys import PublicKeyHash, Signature
from tezio_signer.tezos.payload import Baking, Operation, Payload

DEADLINE = 6.0
"""Seconds after which a client is told that its signature is not there; a block's time."""
_PRIORITIES = {
    Operation.BLOCK: Priority.BLOCK,
    Operation.PREATTESTATION: Priority.CONSENSUS,
    Operation.ATTESTATION: Priority.CONSENSUS,
    Operation.GENERIC: Priority.OTHER,
    Operation.MICHELSON: Priority.OTHER,
}
_Asked = tuple[PublicKeyHash, bytes, bool]
"""Key, payload, and whether its signature is known and has to be stored only."""


_Result = TypeVar("_Result")
_Outcome = list[tuple[bool, Any]]
"""Whether the HSM has signed, and the signature or the Failure, as the only element."""


class Claim(Protocol):
    """What an exchange needs of the claim of a watermark, which says what each of these is."""

    @property
    def signature(self) -> Signature | None: ...
    @property
    def durable(self) -> Deferred[Signature | None]: ...
    @property
    def complete(self) -> Callable[[Signature], Deferred[Signature]]: ...
    @property
    def found(self) -> Callable[[], Signature | None]: ...


@frozen
class Signed:
    """A signature that may leave.

    :ivar device: the name of the board that made it; None if it was stored before.
    """

    signature: Signature
    device: str | None = None


@define(eq=False)
class _Entry:
    """A signature in flight, and who waits for it.

    :ivar signing: what the HSM does for it; None if it was signed before.
    :ivar unsigned: called when it has ended, and no board was ever asked.
    """

    signing: Signing | None = None
    waiters: list[Deferred[Signed]] = field(factory=list)
    unsigned: list[Callable[[], object]] = field(factory=list)

    def end(self, result: Signed | Failure) -> None:
        """Give everybody the result."""
        waiters, self.waiters = self.waiters, []
        for waiting in waiters:
            waiting.callback(result)

    def too_late(self, result: object, seconds: float) -> NoReturn:
        """Say what has taken too long; raises Unavailable."""
        # One that waited for the HSM has been withdrawn by now, and so has its result.
        signing = self.signing
        at_hsm = signing is not None and not (signing.wanted and signing.state is State.DONE)
        who = "the HSM has not signed" if at_hsm else "the watermark store has not written"
        raise Unavailable(f"{who} within {seconds:g} s").by(HSM if at_hsm else WATERMARK)


class InFlight:
    """All signatures in flight.

    :param emptied: called when one has ended; there may be others.
    """

    _log = Logger()

    def __init__(
        self, hsms: HsmPool, clock: IReactorTime, emptied: Callable[[], object] = do_nothing
    ) -> None:
        self._hsms = hsms
        self._clock = clock
        self._emptied = emptied
        self._entries: dict[_Asked, _Entry] = {}

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self._entries)

    def sign(
        self,
        key: PublicKeyHash,
        data: bytes,
        payload: Payload,
        claim: Claim | None = None,
        unsigned: Callable[[], object] = do_nothing,
    ) -> Deferred[Signed]:
        """Have an allowed payload signed, verified, and stored with its claim.

        :param unsigned: called if it is certain, in the end, that no board has signed.

        Cancelling the Deferred means that the client has gone. It fails with a `Refused`, or
        with the fault that came up.
        """
        known = claim is not None and claim.signature is not None
        asked = key, data, known
        entry = self._entries.get(asked)
        if entry is not None:
            if claim is not None:  # the first request waits for its own claim, which is the same
                claim.durable.addErrback(do_nothing)
            if entry.signing is not None:
                entry.signing.want()
            entry.unsigned.append(unsigned)
            return self._wait(asked, entry)
        entry = self._entries[asked] = _Entry(unsigned=[unsigned])
        waiting = self._wait(asked, entry)
        if claim is not None and known:
            serve = self._stored(key, data, claim)
        else:
            serve = self._signed(key, data, payload, claim, entry)
        Deferred.fromCoroutine(serve).addBoth(partial(self._ended, asked, entry))
        return waiting

    def refuse_all(self, why: str) -> None:
        """Tell everybody who still waits for a signature that there will be none."""
        for entry in list(self._entries.values()):
            entry.end(Failure(Unavailable(why).by(STOPPING)))

    def _wait(self, asked: _Asked, entry: _Entry) -> Deferred[Signed]:
        waiting: Deferred[Signed] = Deferred(partial(self._leave, asked, entry))
        entry.waiters.append(waiting)
        return waiting.addTimeout(DEADLINE, self._clock, entry.too_late)

    def _leave(self, asked: _Asked, entry: _Entry, waiting: Deferred[Signed]) -> None:
        entry.waiters.remove(waiting)
        if not entry.waiters and entry.signing is not None and entry.signing.withdraw():
            self._forget(asked, entry)

    def _ended(self, asked: _Asked, entry: _Entry, result: Signed | Failure) -> None:
        self._forget(asked, entry)
        if isinstance(result, Failure) and not (entry.signing and entry.signing.was_sent):
            for tell in entry.unsigned:
                tell()
        entry.end(result)

    def _forget(self, asked: _Asked, entry: _Entry) -> None:
        if self._entries.get(asked) is entry:
            del self._entries[asked]
        self._emptied()

    async def _signed(
        self,
        key: PublicKeyHash,
        data: bytes,
        payload: Payload,
        claim: Claim | None,
        entry: _Entry,
    ) -> Signed:
        """The signature of the HSM, once the mark is stored: both are under way at once."""

        def late(signature: Signature) -> None:
            if claim is not None:  # a repeated request will get it
                claim.complete(signature).addErrback(lambda failure: failure.trap(Refused))

        def keep(outcome: _Outcome) -> None:
            ((made, result),) = outcome
            if made:
                late(result)

        signing = self._hsms.sign(key, data, _PRIORITIES[payload.operation], late)
        entry.signing = signing
        # It may fail before it is waited for, and when nobody does any more.
        outcome: Deferred[_Outcome] = DeferredList([signing.result], consumeErrors=True)
        try:
            if claim is not None:
                await _stored_by(claim.durable)
        except Exception as error:
            # It is said at once. An HSM that is at it goes on, and may refuse to do so again;
            # but where another payload is stored nobody may have this signature.
            signing.withdraw()
            if isinstance(error, Unavailable):
                outcome.addCallback(keep)
            raise
        ((made, result),) = await outcome
        if not made:
            # A late answer to an earlier request for it may have come meanwhile.
            result = (claim.found() if claim is not None else None) or result
        if isinstance(result, Failure):
            if isinstance(result.value, StatusReply):
                raise _refusal(result.value, payload, signing.asked_before) from result.value
            result.raiseException()
        signature: Signature = result
        await self._verify(key, data, signature)
        device = signing.board.name if signing.board is not None else None
        if claim is None:
            return Signed(signature, device)
        stored = await _stored_by(claim.complete(signature))
        if stored == signature:
            return Signed(signature, device)
        await self._verify(key, data, stored)
        return Signed(stored)

    async def _stored(self, key: PublicKeyHash, data: bytes, claim: Claim) -> Signed:
        signature = await _stored_by(claim.durable)
        assert signature is not None
        await self._verify(key, data, signature)
        return Signed(signature)

    async def _verify(self, key: PublicKeyHash, data: bytes, signature: Signature) -> None:
        """The last thing before a signature leaves, wherever it comes from."""
        public_key = await self._hsms.public_key(key)
        if not public_key.verifies(data, signature):
            self._log.critical("a signature for {key} does not verify", key=key)
            raise Unavailable("the signature does not verify and is not released")


async def _stored_by(storing: Deferred[_Result]) -> _Result:
    """What the store has; what it refuses counts as refused by the watermark."""
    try:
        return await storing
    except Refused as refused:
        refused.by(WATERMARK)
        raise


def _refusal(reply: StatusReply, payload: Payload, asked_before: bool) -> Refused:
    """What a status of the device means for the client."""
    match reply.status:
        case Status.WATERMARK:
            return Conflict(f"{reply}; {_device_mark(payload, asked_before)}")
        case Status.NOT_ENABLED | Status.OPERATION_DISABLED:
            return Forbidden(str(reply))
        case _:
            return Unavailable(str(reply))


def _device_mark(payload: Payload, asked_before: bool) -> str:
    """What the mark of the device itself is, which refuses what our watermarks allow."""
    if not isinstance(payload, Baking):  # has none, as far as is known
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
