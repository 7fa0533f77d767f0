"""What the line of a decision says. Nothing of it is secret: a decision holds no secret.

docs/audit.md says what each field means. A new fact of a decision is a line in `_FIELDS`, and one
in that page.
"""

from collections.abc import Callable, Mapping
from hashlib import blake2b

from tezio_signer.audit.entries import entry
from tezio_signer.decision import Decision, Moved

MOST_DATA = 1015
"""Bytes of a payload that are written as they are: as long as one that a board signs may be."""
LONGEST_TEXT = 2000
"""Letters of a sentence; the rest is cut off."""
_Value = Callable[[Decision], object]


def _text(text: str) -> str | None:
    if len(text) > LONGEST_TEXT:
        text = f"{text[:LONGEST_TEXT]}…"
    return text or None


def _digest(decision: Decision) -> str | None:
    data = decision.data
    return None if data is None else blake2b(data, digest_size=32).hexdigest()


def _data(decision: Decision) -> str | None:
    data = decision.data
    return None if data is None or len(data) > MOST_DATA else data.hex()


def _position(place: int) -> _Value:
    return lambda decision: None if decision.position is None else decision.position[place]


def _moved(mark: Moved) -> dict[str, object]:
    return {"before": mark.before, "after": mark.after}


_FIELDS: Mapping[str, _Value] = {
    "listener": lambda decision: None if decision.listener is None else decision.listener.value,
    "peer": lambda decision: str(decision.peer),
    "key": lambda decision: None if decision.key is None else str(decision.key),
    "operation": lambda decision: None if decision.operation is None else str(decision.operation),
    "chain": _position(0),
    "level": _position(1),
    "round": _position(2),
    "what": lambda decision: _text(decision.what),
    "digest": _digest,
    "data": _data,
    "outcome": lambda decision: decision.outcome.value,
    "stage": lambda decision: decision.stage.value,
    "status": lambda decision: decision.status,
    "reason": lambda decision: decision.reason or None,
    "rule": lambda decision: decision.rule or None,
    "sentence": lambda decision: _text(decision.sentence),
    "device": lambda decision: decision.device,
    "mark": lambda decision: None if decision.mark is None else _moved(decision.mark),
    "milliseconds": lambda decision: decision.milliseconds,
}
"""The fields of a decision, in their order; what is None is left out."""


def entry_of(decision: Decision, seconds: float, left_out: int = 0) -> bytes:
    """The fields of a decision.

    :param seconds: when it was taken, since 1970.
    :param left_out: how many of its kind before it have no line.
    """
    facts = {name: value(decision) for name, value in _FIELDS.items()}
    facts["left_out"] = left_out or None
    return entry("decision", seconds, **facts)
