"""One signature under way: its states, and what is known of the boards meanwhile.

A signature is in one of four states:

    waiting     no board has been asked for it: none is free, ready, or there
    sent        its command was written to one board, and there is no reply yet
    unclear     boards were asked and gave no signature; it waits for one that may be asked
    done        its result has fired

    waiting ──► sent ──► done       a free board is asked, and signs
                sent ──► unclear    the board gave no signature
                unclear ──► sent    another board, or the same one in step, is asked
    waiting, unclear ──► done       no board may be asked, patience is over, nobody wants it,
                                    or a late signature of the same payload has come
                sent ──► done       a late signature has come; or nobody wants it any more,
                                    and the board gave none

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

What holds between them, and has a test each (`tests/hsm/test_signing.py`):

1. One command of a signature at most is in flight, over all boards (`test_both_lost`).
2. A board is asked again only when it is in step, and once more at most for one request
   (`test_not_thrice`, `test_not_before_it_is_in_step`); boards that were not asked go first
   (`test_other_first`). A repeated request begins anew (`test_other_first_when_repeated`).
3. The first signature that comes is the result, be it the late answer to an earlier
   command (`test_used`), or to an earlier request for the same payload
   (`test_of_an_earlier_request`). What a command in flight brings then is dropped
   (`test_while_another_is_asked`), and one that waits is not written (`test_taken_back`).
4. Once withdrawn, nothing of it is written any more (`test_queued_elsewhere`); a command in
   flight goes on to its end, for the device carries it out anyhow (`test_in_flight`).
"""

from collections import Counter
from collections.abc import Callable
from enum import Enum, IntEnum, auto

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.python.failure import Failure

from tezio_signer.hsm.boards import Board
from tezio_signer.hsm.exchange import FRAME_REFUSALS, Conversation, NotSent, WrongAnswer
from tezio_signer.hsm.framing import StatusReply
from tezio_signer.noop import do_nothing
from tezio_signer.reactors import cancel
from tezio_signer.tezos.keys import PublicKeyHash, Signature, digest

Payload = tuple[PublicKeyHash, bytes]
"""A key, and the digest of what it is to sign."""
_MOST_ASKS = 2


class Priority(IntEnum):
    """The order in which waiting signatures are asked for."""

    BLOCK = 0
    CONSENSUS = 1
    OTHER = 2


class State(Enum):
    """Where a signature is, as this module says."""

    WAITING = auto()
    SENT = auto()
    UNCLEAR = auto()
    DONE = auto()


@define(eq=False)
class Signing:
    """A signature that was asked for, as this module says.

    :ivar payload: what is signed, for which key; told from the message once.
    :ivar late: called with a signature that comes after the result has fired.
    :ivar result: the signature; fails with `StatusReply` or a `Refused`.
    :ivar wanted: whether somebody waits for it.
    :ivar was_sent: whether any board was asked for it: then it may have been signed.
    :ivar asked_before: whether a board that was asked for this payload, now or by an
        earlier request, gave no signature: it may refuse it now as signed.
    :ivar failure: what came last instead of a signature.
    :ivar board: which one has signed, if one has.
    :ivar patience: ends it when no board that may be asked has come; None while one is there.
    """

    key: PublicKeyHash
    message: bytes
    priority: Priority = Priority.OTHER
    late: Callable[[Signature], object] = do_nothing
    payload: Payload = field()
    result: Deferred[Signature] = field(factory=Deferred)
    state: State = State.WAITING
    wanted: bool = True
    was_sent: bool = False
    asked_before: bool = False
    failure: Exception | None = None
    board: Board | None = None
    patience: IDelayedCall | None = None
    _asks: Counter[Conversation] = field(factory=Counter)

    @payload.default
    def _told(self) -> Payload:
        return self.key, digest(self.message)

    @property
    def waits(self) -> bool:
        """Whether a board is to be asked for it."""
        return self.state in (State.WAITING, State.UNCLEAR)

    def may_ask(self, connection: Conversation | None) -> bool:
        """Whether a board may be asked once it is ready, which it is not out of step.

        :param connection: None for a board that is not there: it may come back.
        """
        return connection is None or self._asks[connection] < _MOST_ASKS

    def sent(self, asked_before: bool) -> None:
        """A board is being asked."""
        self.asked_before = asked_before
        self.was_sent = True
        self.state = State.SENT
        self.be_patient(None)

    def not_signed(self, connection: Conversation, why: Exception) -> None:
        """The board that was asked gave no signature."""
        says_it_again = isinstance(why, WrongAnswer) or (
            isinstance(why, StatusReply) and why.status not in FRAME_REFUSALS
        )
        self._asks[connection] += _MOST_ASKS if says_it_again else 1
        self.failure = why
        if self.state is State.DONE:
            return
        self.state = State.UNCLEAR
        if not self.wanted:
            self.end(Failure(why))

    def be_patient(self, patience: IDelayedCall | None) -> None:
        """Wait for boards until this call, or for one that is there (None)."""
        cancel(self.patience)
        self.patience = patience

    def end(self, result: Signature | Failure, board: Board | None = None) -> None:
        """Fire the result, if it has not fired.

        :param board: which one has signed.
        """
        if self.state is not State.DONE:
            self.state = State.DONE
            self.board = board
            self.be_patient(None)
            self.result.callback(result)

    def withdraw(self) -> bool:
        """Nobody wants it any more; whether it has never reached a device."""
        if self.state is State.DONE:
            return False
        self.wanted = False
        was_never_sent = self.state is State.WAITING
        if self.waits:
            self.end(Failure(self.failure or NotSent("withdrawn before it reached the HSM")))
        return was_never_sent

    def want(self) -> None:
        """Somebody wants it again, before its command in flight has come to its end."""
        if self.state is not State.DONE:
            self.wanted = True
