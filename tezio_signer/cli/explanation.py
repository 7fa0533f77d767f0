"""What the rules say of a request, as lines for people and as JSON."""

from collections.abc import Iterator
from itertools import groupby

from attrs import frozen

from tezio_signer.cli.wrapping import wrapped
from tezio_signer.request import Peer
from tezio_signer.rules.verdict import Answer, Stage, Verdict
from tezio_signer.tezos.jsontext import Json
from tezio_signer.tezos.keys import PublicKeyHash

_TITLES = {
    Stage.ADMISSION: "who asks",
    Stage.READING: "what is asked",
    Stage.CHECK: "checks",
    Stage.RESERVATION: "reservations, on a copy of the store",
}
_ANSWERS = {Answer.REFUSES: "REFUSES"}
_ANSWER_WIDTH = max(len(answer.value) for answer in Answer)


@frozen
class Explanation:
    """All verdicts on one request."""

    key: PublicKeyHash
    peer: Peer
    verdicts: list[Verdict]

    @property
    def refusal(self) -> Verdict | None:
        """The first that refuses, which decides."""
        refusing = (v for v in self.verdicts if v.answer is Answer.REFUSES)
        return next(refusing, None)

    @property
    def assumed(self) -> list[Verdict]:
        """What is not known here, and taken for granted."""
        return [verdict for verdict in self.verdicts if verdict.answer is Answer.ASSUMED]

    @property
    def would_be_signed(self) -> bool:
        """Whether no rule refuses."""
        return self.refusal is None


def explanation_lines(explanation: Explanation) -> Iterator[str]:
    """All verdicts in the order in which the daemon asks, and the decision."""
    yield f"for {explanation.key}, asked from {explanation.peer}"
    width = max(len(verdict.rule) for verdict in explanation.verdicts)
    for stage, verdicts in groupby(explanation.verdicts, key=lambda verdict: verdict.stage):
        yield f"  {_TITLES[stage]}"
        for verdict in verdicts:
            yield from _lines(verdict, width)
    yield from _decision(explanation)


def _lines(verdict: Verdict, width: int) -> Iterator[str]:
    answer = _ANSWERS.get(verdict.answer, verdict.answer.value)
    first = f"    {verdict.rule:{width}}  {answer:{_ANSWER_WIDTH}}  "
    texts = [verdict.demands, verdict.why]
    if verdict.refused is not None:
        texts = [f"{verdict.refused.status} {verdict.why}"]
        texts += [f"(wanted is a request that {verdict.demands})"] if verdict.demands else []
    elif verdict.answer is Answer.ASSUMED:
        texts[1] = f"taken for granted: {verdict.why}"
    for text in filter(None, texts):
        yield from wrapped(text, first, " " * len(first))
        first = " " * len(first)


def _decision(explanation: Explanation) -> Iterator[str]:
    refusal = explanation.refusal
    if refusal is None:
        text = "would be signed, unless the HSM refuses it or is away: nobody has asked it"
        granted = [verdict.rule for verdict in explanation.assumed]
        if granted:
            text += f"; taken for granted: {', '.join(granted)}"
    else:
        assert refusal.refused is not None
        text = (
            f"would be refused by the rule {refusal.rule}: {refusal.refused.status} {refusal.why}"
        )
    yield from wrapped(text, "decision: ", "  ")


def explanation_json(explanation: Explanation) -> dict[str, Json]:
    """The same for programs."""
    refusal = explanation.refusal
    return {
        "key": str(explanation.key),
        "peer": str(explanation.peer),
        "verdicts": [_json(verdict) for verdict in explanation.verdicts],
        "decision": {
            "signed": refusal is None,
            "rule": None if refusal is None else refusal.rule,
            "status": None if refusal is None else _status(refusal),
            "sentence": None if refusal is None else refusal.why,
            "assumed": [verdict.rule for verdict in explanation.assumed],
        },
    }


def _json(verdict: Verdict) -> dict[str, Json]:
    return {
        "stage": verdict.stage.value,
        "rule": verdict.rule,
        "answer": verdict.answer.value,
        "demands": verdict.demands or None,
        "why": verdict.why or None,
        "status": _status(verdict),
    }


def _status(verdict: Verdict) -> int | None:
    return None if verdict.refused is None else verdict.refused.status
