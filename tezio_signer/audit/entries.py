"""What the lines of an audit log say, as JSON objects without their place in the chain."""

import json
from datetime import UTC, datetime
from typing import Any

from tezio_signer import __version__

FIRST = "file"
"""The kind of the first line in each file."""


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
