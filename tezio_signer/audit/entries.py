"""What the lines of an audit log say, as JSON objects without their place in the chain.

docs/audit.md says what each field means. Nothing here is secret: a decision holds no secret.
"""

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any

from tezio_signer import __version__
from tezio_signer.decision import Decision

MOST_DATA = 1015
"""Bytes of a payload that are written as they are: as long as one that a board signs may be."""
LONGEST_TEXT = 2000
"""Letters of a sentence; the rest is cut off."""
FIRST = "file"
"""The kind of the first line in each file."""
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
    "sentence": lambda decision: _text(decision.sentence),
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


def entry(kind: str, seconds: float, **facts: object) -> bytes:
    """The fields of anything else; those that are None are left out."""
    values: dict[str, Any] = {"time": time_of(seconds), "kind": kind}
    values |= {name: value for name, value in facts.items() if value is not None}
    return json.dumps(values, separators=(",", ":")).encode("ascii")


def first_entry(seconds: float) -> bytes:
    """The fields of the first line in a file."""
    return entry(FIRST, seconds, version=__version__)


def time_of(seconds: float) -> str:
    """A time since 1970 as `2026-11-28T13:45:00.123Z`."""
    when = datetime.fromtimestamp(round(seconds, 3), UTC)
    return when.isoformat(timespec="milliseconds").replace("+00:00", "Z")
