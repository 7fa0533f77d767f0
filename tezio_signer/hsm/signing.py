"""One signature under way: its states, and what is known of the boards meanwhile.

A signature is in one of four states:

    waiting     no board may be asked at present: none is there, or none is ready
    queued      its command waits in the queue of one board
    in flight   its command was written to that board, and there is no reply yet
    ended       its result has fired

Of each connection to a board it is known, for this payload:

    not asked   nothing of it is there
    unclear     its command was written, and no answer came. Either the frame was lost on
                the way there, and nothing has happened; or it was carried out, and the
                answer is lost, or comes late.
    in step     it was unclear; the board has been quiet and has answered other commands
                since. Replies come in order: no late answer can come any more. Asked again,
                it signs if the frame was lost. If the answer was, it refuses a baking
                payload by its own watermark (D4), and signs any other a second time.
    refused     it answered with a status, or with a signature that does not verify
    gone        the port is closed; the board comes back with a connection not asked

What holds between them, and has a test each:

1. One command of a signature at most is queued or in flight, over all boards.
2. A board is asked again only when it is in step, and once more at most for one request;
   boards that were not asked go first. A repeated request begins anew.
3. The first signature that comes is the result, be it the late answer to an earlier
   command, or to an earlier request for the same payload. A queued command is then taken
   back, and what a command in flight brings is dropped.
4. Once withdrawn, nothing of it is queued or written any more; a command in flight goes
   on to its end, for the device carries it out anyhow.
"""

from collections import Counter
from collections.abc import Callable

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from tezio_signer.hsm.device import HsmDevice, Job, NotSent, Priority
from tezio_signer.serialhsm import HsmProtocol
from tezio_signer.tezos.keys import PublicKeyHash, Signature, digest

Payload = tuple[PublicKeyHash, bytes]
"""A key, and the digest of what it is to sign."""
_MOST_ASKS = 2


@define(eq=False)
class Signing:
    """A signature that was asked for, as this module says.

    :ivar payload: what is signed, for which key; told from the message once.
    :ivar late: called with a signature that comes after the result has fired.
    :ivar result: the signature; fails with `StatusReply` or a `Refused`.
    :ivar withdrawn: whether nobody wanted it any more before it had ended.
    :ivar asked_before: whether a board that was asked for this payload, now or by an
        earlier request, gave no signature: it may refuse it now as signed.
    :ivar sent: whether it has been in flight.
    :ivar failure: what came last instead of a signature.
    """

    key: PublicKeyHash
    message: bytes
    priority: Priority
    late: Callable[[Signature], object]
    payload: Payload = field(init=False)
    result: Deferred[Signature] = field(factory=Deferred)
    withdrawn: bool = False
    asked_before: bool = False
    sent: bool = False
    failure: Exception | None = None
    device: HsmDevice | None = None
    job: Job | None = None
    _asked: Counter[HsmProtocol] = field(factory=Counter)
    _refused: set[HsmProtocol] = field(factory=set)

    @payload.default
    def _told(self) -> Payload:
        return self.key, digest(self.message)

    @property
    def over(self) -> bool:
        """Whether no board is to be asked any more."""
        return self.withdrawn or bool(self.result.called)

    def may_ask(self, connection: HsmProtocol | None) -> bool:
        """Whether a board may be asked once it is ready, which it is not out of step.

        :param connection: None for a board that is not there: it may come back.
        """
        return connection is None or (
            connection not in self._refused and self._asked[connection] < _MOST_ASKS
        )

    def was_unclear(self, connection: HsmProtocol) -> None:
        """A board has not answered, or has not understood."""
        self._asked[connection] += 1

    def was_refused(self, connection: HsmProtocol) -> None:
        """A board will say the same again."""
        self._refused.add(connection)

    def end(self, result: Signature | Failure) -> None:
        """Fire the result, if it has not fired, and take back what is still queued."""
        if self.result.called:
            return
        device, job = self.device, self.job
        self.result.callback(result)
        if device is not None and job is not None:
            device.withdraw(job)

    def withdraw(self) -> bool:
        """Nobody wants it any more; whether it has never reached a device."""
        if self.result.called:
            return False
        self.withdrawn = True
        if self.job is None:
            self.end(Failure(self.failure or NotSent("withdrawn before it reached the HSM")))
        elif self.device is not None:
            self.device.withdraw(self.job)  # unless it is in flight
        return not (self.sent or (self.job is not None and self.job.sent))

    def want(self) -> None:
        """Somebody wants it again, before its command in flight has come to its end."""
        self.withdrawn = self.withdrawn and bool(self.result.called)
