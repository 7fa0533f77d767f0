"""What each rule says of a request, asked by itself: for people who want to know why."""

from collections.abc import Mapping
from enum import Enum

from attrs import field, frozen
from twisted.internet.defer import Deferred

from tezio_signer.errors import READING, Refused
from tezio_signer.noop import do_nothing
from tezio_signer.request import Peer, SigningRequest
from tezio_signer.rules.rule import Admission, Check, Grant, Reservation, Rule


class NotKnownHere(Exception):
    """What a rule needs can be known by the daemon only; `str()` says why, for people."""


_AnyRule = Rule[Admission] | Rule[Check] | Rule[Reservation]


class Answer(Enum):
    """What has become of a rule."""

    PASSES = "passes"
    REFUSES = "refuses"
    ASSUMED = "assumed"
    """It was not asked, since only the daemon can know; it counts as one that passes."""
    OFF = "off"
    """It is switched off."""
    NOT_ASKED = "not asked"
    """It could not be asked, since an earlier rule refuses."""


class Stage(Enum):
    """When the daemon asks a rule."""

    ADMISSION = "admission"
    READING = "reading"
    CHECK = "check"
    RESERVATION = "reservation"


@frozen
class Verdict:
    """The answer of one rule.

    :ivar demands: what it wants, in words that follow "a request that"; empty if that cannot be
        said of this request.
    :ivar why: more about the answer; the sentence for the client if it refuses.
    :ivar refused: what the client would get, if it refuses.
    """

    stage: Stage
    rule: str
    answer: Answer
    demands: str = ""
    why: str = ""
    refused: Refused | None = None


@frozen
class Asking:
    """Asks rules about one request, whatever the others say.

    :ivar asked: why the request cannot be read, if it cannot.
    :ivar assumed: names of rules that are not asked, each with the reason.
    :ivar verdicts: those that there are so far.
    """

    peer: Peer
    asked: SigningRequest | Refused
    assumed: Mapping[str, str]
    verdicts: list[Verdict] = field(factory=list)

    def read(self) -> None:
        """Add the verdict on whether the request can be read."""
        demands = "can be read to its last byte"
        if isinstance(self.asked, Refused):
            verdict = _refusal(Stage.READING, self.asked.by(READING), demands)
        else:
            verdict = Verdict(Stage.READING, READING, Answer.PASSES, demands)
        self.verdicts.append(verdict)

    async def ask(self, stage: Stage, rule: _AnyRule) -> None:
        """Add the verdict of one rule, unless it is about something else than this request."""
        asked = self.asked
        if rule.only is None or (
            isinstance(asked, SigningRequest) and asked.payload.operation in rule.only
        ):
            self.verdicts.append(await self._verdict(stage, rule))

    async def _verdict(self, stage: Stage, rule: _AnyRule) -> Verdict:
        if rule.off is not None:
            return Verdict(stage, rule.name, Answer.OFF, why=f"{rule.off} is off")
        admits = stage is Stage.ADMISSION
        missing = [
            verdict.rule
            for verdict in self.verdicts
            if verdict.answer in (Answer.REFUSES, Answer.NOT_ASKED)
            and (verdict.rule in rule.needs or verdict.rule == READING)
        ]
        if missing:
            why = f"cannot be asked before it passes: {', '.join(missing)}"
            return Verdict(stage, rule.name, Answer.NOT_ASKED, why=why)
        assert isinstance(self.asked, SigningRequest) or admits
        demands = rule.demands(self.asked if not admits else self.peer)
        if rule.name in self.assumed:
            why = self.assumed[rule.name]
            return Verdict(stage, rule.name, Answer.ASSUMED, demands, why)
        try:
            answer = rule.ask(self.peer if admits else self.asked)  # type: ignore[arg-type]
            if isinstance(answer, Deferred):
                answer = await answer
        except Refused as refused:
            return _refusal(stage, refused.by(rule.name), demands)
        except NotKnownHere as unknown:
            return Verdict(stage, rule.name, Answer.ASSUMED, demands, str(unknown))
        return Verdict(stage, rule.name, Answer.PASSES, demands, _taken(answer))


def _refusal(stage: Stage, refused: Refused, demands: str) -> Verdict:
    return Verdict(stage, refused.rule, Answer.REFUSES, demands, str(refused), refused)


def _taken(grant: Grant | None) -> str:
    """What was reserved, if it can be told."""
    if grant is None or grant.claim is None:
        return ""
    claim = grant.claim
    claim.durable.addErrback(do_nothing)  # of a copy
    before, after = claim.moved.before, claim.moved.after
    if claim.signature is not None:
        return "signed before: the answer is the signature in the store"
    if before is None:
        return f"there is no mark yet; it would be at level {after[0]} round {after[1]}"
    if before == after:
        return "claimed before, and no signature of it is stored"
    there = f"level {before[0]} round {before[1]}"
    return f"the mark would move from {there} to level {after[0]} round {after[1]}"
