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
_RANGE = "response_range"


@frozen
class KeyValue:
    """What stands under a key, and since which revision."""

    key: str
    value: str
    revision: int


@frozen
class Page:
    """What was found by a range request.

    :ivar more: whether there are more of them than it was to show.
    """

    found: tuple[KeyValue, ...] = ()
    more: bool = False


@frozen
class Answer:
    """What became of a transaction.

    :ivar succeeded: whether its comparisons held; then it has written.
    :ivar pages: one for each request that was carried out, an empty one for those that write.
    """

    revision: int
    succeeded: bool
    pages: tuple[Page, ...]

    def first(self, number: int) -> KeyValue | None:
        """What was found under the one key of a range request."""
        found = self.pages[number].found
        return found[0] if found else None


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
        pages = tuple(_page(*each) for each in zip(asked, replies, strict=True))
        return Answer(_revision(_object(answer.get("header")), "revision"), succeeded, pages)
    except _ShapeError as error:
        raise StoreAwayError(
            f"not an etcd JSON gateway: its answer to a transaction is wrong: {error}"
        ) from error


def _page(asked: Mapping[str, Any], reply: object) -> Page:
    (request,) = asked
    kind = request.replace("request_", "response_")
    if list(_object(reply)) != [kind]:
        raise _ShapeError(f"a response is none of {kind}")
    if kind != _RANGE:
        return Page()
    shown = _object(_object(reply)[kind])
    found = tuple(map(_key_value, _list(shown, "kvs")))
    if "range_end" not in asked[request]:
        key = _text(asked[request]["key"])
        if [each.key for each in found] not in ([], [key]):
            raise _ShapeError("what is shown under a key is of others")
    return Page(found, _boolean(shown, "more"))


def _key_value(value: object) -> KeyValue:
    found = _object(value)
    if "key" not in found:
        raise _ShapeError("there is a value without a key")
    # The gateway leaves out what is empty.
    return KeyValue(
        _text(found["key"]), _text(found.get("value", "")), _revision(found, "mod_revision")
    )


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


def _revision(entries: Mapping[str, Any], name: str) -> int:
    """A number of 64 bits, which the gateway writes as a text; never 0."""
    value = entries.get(name)
    if isinstance(value, str) and _DIGITS.fullmatch(value):
        value = int(value)
    if type(value) is not int or not 0 < value <= _LAST_REVISION:
        raise _ShapeError(f"{name} is no revision")
    return value


def _text(value: object) -> str:
    """A key or a value. What no signer has written may be no text, and is shown escaped."""
    if not isinstance(value, str):
        raise _ShapeError("a key or a value is no text")
    try:
        return b64decode(value, validate=True).decode(errors="backslashreplace")
    except ValueError:
        raise _ShapeError("a key or a value is no Base64") from None
