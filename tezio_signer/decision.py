"""What became of a request: one frozen record for each answer, and who is told of it.

Every answer, also every refusal and every fault, and every client that did not wait for its
signature, is one `Decision`. Who wants to know of them observes them; the log does so first.
"""

from enum import Enum
from typing import Any, Protocol

from attrs import evolve, frozen
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from tezio_signer.errors import FAULT, READING, NotAdmitted, Refused
from tezio_signer.request import Listener, Peer, Submission
from tezio_signer.sparinglog import SparingLog
from tezio_signer.tezos.keys import PublicKeyHash
from tezio_signer.tezos.payload import Baking, Operation, Payload

_OK = 200
_UNREADABLE = "closed the connection of {peer}, whose request cannot be read: {sentence}"


class Outcome(Enum):
    """How a request ended."""

    SIGNED = "signed"
    ANSWERED = "answered"
    """What was asked for was no signature."""
    REFUSED = "refused"
    FAULT = "fault"
    LEFT = "left"
    """The client went away before its answer."""


class Stage(Enum):
    """How far a request came before its end."""

    CONNECTION = "connection"
    """Nothing was worked on: who is connected may ask nothing."""
    READING = "reading"
    """What came is no request of the protocol."""
    REQUEST = "request"


@frozen
class Moved:
    """Where a claim has moved a mark: levels and rounds.

    :ivar before: None if there was no mark.
    """

    before: tuple[int, int] | None
    after: tuple[int, int]


@frozen
class Decision:
    """One answer, or what else became of a request. It holds no secret.

    :ivar what: what was asked for, in words.
    :ivar peer: who asked; words for one whose address is not known.
    :ivar listener: None if that is not known.
    :ivar status: of the answer, as HTTP has it; None without one.
    :ivar reason: of a refusal, one of few; empty without one.
    :ivar rule: the name of the rule that has refused; empty without a refusal.
    :ivar sentence: what the client was told in the place of what it wanted.
    :ivar key: of a request to sign which could be read; so are the payload and its bytes.
    :ivar milliseconds: from request to answer; None for what is no request to sign.
    :ivar failure: of a fault.
    :ivar device: the serial number or the port of the board that made this signature; None for one
        that was stored before.
    :ivar mark: what the claim has done; None for what claims nothing, or was refused before.
    """

    what: str
    peer: Peer | str
    listener: Listener | None = None
    outcome: Outcome = Outcome.ANSWERED
    stage: Stage = Stage.REQUEST
    status: int | None = _OK
    reason: str = ""
    sentence: str = ""
    key: PublicKeyHash | None = None
    payload: Payload | None = None
    data: bytes | None = None
    milliseconds: int | None = None
    failure: Failure | None = None
    rule: str = ""
    device: str | None = None
    mark: Moved | None = None

    @classmethod
    def on(cls, submission: Submission) -> "Decision":
        """One on a request to sign, which has to be given its outcome."""
        decision = cls(submission.what, submission.peer, submission.listener)
        request = submission.request
        if request is None:
            return decision
        return evolve(decision, key=request.key, payload=request.payload, data=request.data)

    def refused(self, refused: Refused, stage: Stage = Stage.REQUEST) -> "Decision":
        """The same request, refused."""
        return evolve(
            self,
            outcome=Outcome.REFUSED,
            stage=Stage.CONNECTION if isinstance(refused, NotAdmitted) else stage,
            status=refused.status,
            reason=refused.reason,
            sentence=str(refused),
            rule=refused.rule or READING,
        )

    def unanswered(self, refused: Refused) -> "Decision":
        """The same request, which cannot be read, and whose connection is closed for that."""
        return evolve(self.refused(refused, Stage.READING), status=None)

    def left(self) -> "Decision":
        """The same request, whose client has not waited for the answer."""
        return evolve(self, outcome=Outcome.LEFT, status=None)

    def failed(self, failure: Failure) -> "Decision":
        """The same request, in which there was a fault of ours."""
        return evolve(
            self,
            outcome=Outcome.FAULT,
            status=Refused.status,
            reason=Outcome.FAULT.value,
            sentence=FAULT,
            failure=failure,
        )

    @property
    def operation(self) -> Operation | None:
        """The kind of what was to be signed."""
        return None if self.payload is None else self.payload.operation

    @property
    def position(self) -> tuple[str, int, int] | None:
        """Chain, level and round of what was to be signed, if it has them."""
        if not isinstance(self.payload, Baking):
            return None
        return self.payload.chain_id, self.payload.level, self.payload.round


class Observer(Protocol):
    """What is told of every decision.

    It returns at once, since the client waits for it: what takes long, it does in a thread.
    What it returns is ignored, and what it raises is logged.
    """

    def decided(self, decision: Decision) -> object:
        """A request has come to its end."""


class Keeper(Observer, Protocol):
    """An observer without which nothing is signed: it has each signature's decision first."""

    def check(self) -> None:
        """Raise Unavailable if it could not keep a decision now."""

    def keep(self, decision: Decision) -> Deferred[None]:
        """Fires when a decision is kept for good; fails with Unavailable if it cannot be."""


class DecisionLog:
    """The observer that writes the log."""

    _log = Logger()

    def __init__(self, clock: IReactorTime) -> None:
        # Anybody can have these lines written, as many as there are connections or requests.
        # Each listener has lines of its own, lest a flood at one hides what comes to another.
        self._sparing: dict[tuple[Stage, Listener | None], SparingLog] = {
            (stage, listener): SparingLog(self._log, clock)
            for stage in (Stage.CONNECTION, Stage.READING)
            for listener in (None, *Listener)
        }

    def decided(self, decision: Decision) -> None:
        """Write the line of a decision; there is none for what is asked for all the time."""
        timed = "" if decision.milliseconds is None else " in {milliseconds} ms"
        facts: dict[str, Any] = {"what": decision.what, "peer": decision.peer}
        if timed:
            facts["milliseconds"] = decision.milliseconds
        match decision.outcome:
            case Outcome.SIGNED:
                self._log.info("signed {what} from {peer}" + timed, **facts)
            case Outcome.REFUSED:
                answered = "refused {what} from {peer}" + timed + ": {status} {sentence}"
                self._sparing.get((decision.stage, decision.listener), self._log).warn(
                    _UNREADABLE if decision.status is None else answered,
                    status=decision.status,
                    sentence=decision.sentence,
                    reason=decision.reason,
                    rule=decision.rule,
                    **facts,
                )
            case Outcome.FAULT:
                doing = "fault while serving" if timed else "fault while answering"
                self._log.failure(doing + " {what} from {peer}" + timed, decision.failure, **facts)
            case Outcome.LEFT if timed:
                sentence = "client {peer} went away after {milliseconds} ms: {what}"
                self._log.warn(sentence, **facts)


class Decisions:
    """Tells all observers of each decision: the log first, then those that were added."""

    _log = Logger()

    def __init__(self, clock: IReactorTime) -> None:
        self._observers: list[Observer] = [DecisionLog(clock)]
        self._failing = SparingLog(self._log, clock)
        self._keeper: Keeper | None = None

    def require(self, keeper: Keeper) -> None:
        """Have nothing signed from now on of which this one does not keep the decision."""
        self.add(keeper)
        self._keeper = keeper

    def check(self) -> None:
        """Raise Unavailable if the decision on a signature could not be kept now."""
        if self._keeper is not None:
            self._keeper.check()

    async def keep(self, decision: Decision) -> None:
        """Have a decision kept before the signature leaves; raises Unavailable if it cannot be."""
        if self._keeper is not None:
            await self._keeper.keep(decision)

    def add(self, observer: Observer) -> None:
        """Have an observer told of every decision from now on."""
        self._observers.append(observer)

    def record(self, decision: Decision, kept: bool = False) -> None:
        """Tell all observers; none of them can keep the others, or the answer, from its way.

        :param kept: whether the keeper has it already.
        """
        for observer in self._observers:
            if kept and observer is self._keeper:
                continue
            try:
                observer.decided(decision)
            except Exception:
                self._failing.warn(
                    "{observer} has missed a decision: a fault",
                    observer=type(observer).__name__,
                    log_failure=Failure(),
                )
