"""Answers of etcd to transactions: JSON to values, and a word for what is none.

What answers may be a proxy, another program, a member that is being replaced by another version,
or one whose memory is broken. Whatever comes, it is one of two things: an answer of exactly the
shape that was asked for, or a store that is away.
"""

import re
from base64 import b64decode
from collections.abc import Mapping, Sequence
from typing import Any

from attrs import frozen

from tezio_signer.watermarks.store import StoreAwayError

_LAST_REVISION = 2**63 - 1
_DIGITS = re.compile("[0-9]{1,19}")


@frozen
class Answer:
    """What became of a transaction.

    :ivar revision: of the whole of etcd, at which all that is shown was there.
    :ivar succeeded: whether its comparisons held; then it has written.
    :ivar shown: keys with their values, for each request that was carried out; none for those
        that write.
    """

    revision: int
    succeeded: bool
    shown: tuple[Mapping[str, str], ...]

    def value(self, number: int) -> str | None:
        """What was found under the one key of a range request; None if there was nothing."""
        return next(iter(self.shown[number].values()), None)


class _ShapeError(Exception):
    """No answer of etcd; `str()` says what is wrong with it."""


def read_answer(
    answer: Mapping[str, Any],
    compare: Sequence[Any],
    success: Sequence[Mapping[str, Any]],
    failure: Sequence[Mapping[str, Any]],
) -> Answer:
    """The answer to a transaction of these comparisons and requests.

    :raises StoreAwayError: if it is none.
    """
    try:
        succeeded = _boolean(answer, "succeeded")
        if not compare and not succeeded:
            raise _ShapeError("nothing was compared, and it failed")
        asked = success if succeeded else failure
        replies = _list(answer, "responses")
        if len(replies) != len(asked):
            raise _ShapeError(f"{len(replies)} responses to {len(asked)} requests")
        shown = tuple(_shown(*each) for each in zip(asked, replies, strict=True))
        return Answer(_revision(_object(answer.get("header"))), succeeded, shown)
    except _ShapeError as error:
        raise StoreAwayError(
            f"not an etcd JSON gateway: its answer to a transaction is wrong: {error}; look at "
            "what listens at the addresses of watermarks.store"
        ) from error


def _shown(asked: Mapping[str, Any], reply: object) -> Mapping[str, str]:
    (request,) = asked
    kind = request.replace("request_", "response_")
    if list(_object(reply)) != [kind]:
        raise _ShapeError(f"a response is none of {kind}")
    first, limit = _text(asked[request]["key"]), asked[request].get("limit")
    end = _text(asked[request]["range_end"]) if "range_end" in asked[request] else f"{first}\0"
    found = _object(_object(reply)[kind])
    listed = [_key_value(each) for each in _list(found, "kvs")]
    shown = dict(listed)
    if len(shown) != len(listed) or not all(first <= key < end for key in shown):
        raise _ShapeError("it shows other keys than were asked for")
    if _boolean(found, "more") and (limit is None or len(shown) < int(limit)):
        raise _ShapeError("there are more keys than it shows")
    return shown


def _key_value(value: object) -> tuple[str, str]:
    found = _object(value)
    if "key" not in found:
        raise _ShapeError("there is a value without a key")
    return _text(found["key"]), _text(found.get("value", ""))  # what is empty is left out


def _object(value: object) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise _ShapeError(f"a {type(value).__name__} is in the place of an object")
    return value


def _list(entries: Mapping[str, Any], name: str) -> list[Any]:
    value = entries.get(name, [])
    if not isinstance(value, list):
        raise _ShapeError(f"{name} is no list")
    return value


def _boolean(entries: Mapping[str, Any], name: str) -> bool:
    value = entries.get(name, False)
    if not isinstance(value, bool):
        raise _ShapeError(f"{name} is neither true nor false")
    return value


def _revision(header: Mapping[str, Any]) -> int:
    """A number of 64 bits, which the gateway writes as a text; never 0."""
    value = header.get("revision")
    if isinstance(value, str) and _DIGITS.fullmatch(value):
        value = int(value)
    if type(value) is not int or not 0 < value <= _LAST_REVISION:
        raise _ShapeError("its revision is none")
    return value


def _text(value: object) -> str:
    """A key or a value. What no signer has written may be no text, and is shown escaped."""
    if not isinstance(value, str):
        raise _ShapeError("a key or a value is no text")
    try:
        return b64decode(value, validate=True).decode(errors="backslashreplace")
    except ValueError:
        raise _ShapeError("a key or a value is no Base64") from None
