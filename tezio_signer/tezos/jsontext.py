"""JSON text of values that are nested deeper than the `json` module can follow."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

Json: TypeAlias = "bool | int | float | str | Sequence[Json] | Mapping[str, Json] | None"


def dumps(value: Json) -> str:
    """The value on one line, as `json.dumps` writes it, however deep it is nested."""
    written: list[str] = []
    # Of each list or object that is not complete: the text of what follows in it, or the value.
    stack: list[Iterator[str | _Value]] = [iter([_Value(value)])]
    while stack:
        item = next(stack[-1], None)
        if item is None:
            stack.pop()
        elif isinstance(item, str):
            written.append(item)
        elif isinstance(item.value, Mapping):
            stack.append(_object(item.value))
        elif isinstance(item.value, Sequence) and not isinstance(item.value, str):
            stack.append(_list(item.value))
        else:
            written.append(json.dumps(item.value))
    return "".join(written)


class _Value:
    """What is still to be written."""

    __slots__ = ("value",)

    def __init__(self, value: Json) -> None:
        self.value = value


def _object(value: Mapping[str, Json]) -> "Iterator[str | _Value]":
    yield "{"
    for number, (name, item) in enumerate(value.items()):
        yield f"{', ' if number else ''}{json.dumps(name)}: "
        yield _Value(item)
    yield "}"


def _list(value: Sequence[Json]) -> "Iterator[str | _Value]":
    yield "["
    for number, item in enumerate(value):
        if number:
            yield ", "
        yield _Value(item)
    yield "]"
