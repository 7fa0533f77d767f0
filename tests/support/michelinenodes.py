"""Micheline for tests: random expressions in the JSON of Octez, their bytes, and a text reader.

The reader is written from the grammar in Octez' documentation, not from the package's printer. It
is recursive: for expressions that are not deep.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from hypothesis import strategies as st

from tests.support.forging import micheline

NUMBERS = {
    "parameter": 0x00,
    "storage": 0x01,
    "code": 0x02,
    "False": 0x03,
    "Elt": 0x04,
    "Left": 0x05,
    "Pair": 0x07,
    "Some": 0x09,
    "True": 0x0A,
    "Unit": 0x0B,
    "PACK": 0x0C,
    "DROP": 0x20,
    "LAMBDA": 0x31,
    "NIL": 0x3D,
    "PUSH": 0x43,
    "bool": 0x59,
    "int": 0x5B,
    "lambda": 0x5E,
    "pair": 0x65,
    "string": 0x68,
    "unit": 0x6C,
    "operation": 0x6D,
    "address": 0x6E,
    "CHAIN_ID": 0x75,
    "IS_IMPLICIT_ACCOUNT": 0x9E,
    "INDEX_ADDRESS": 0x9F,
    "GET_ADDRESS_INDEX": 0xA0,
}
"""Some primitives and their numbers, as Octez, PyTezos and Taquito have them."""

_PRINTABLE = "".join(map(chr, range(0x20, 0x7F))) + "\n"
_ANNOTATION_CHARACTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.%@"

ANNOTATIONS = st.builds(
    str.__add__,
    st.sampled_from("@:$&%!?"),
    st.text(_ANNOTATION_CHARACTERS, max_size=20) | st.just("a" * 254),
)
INTEGERS = st.integers() | st.integers(-130, 130) | st.integers(0, 20_000).map(lambda n: 1 << n)


def str_of(value: int) -> str:
    """An integer in decimal, below the limit of 4300 digits that Python has or above it."""
    parts = []
    sign, value = ("-", -value) if value < 0 else ("", value)
    while value >= 10**1000:
        value, part = divmod(value, 10**1000)
        parts.append(str(part).rjust(1000, "0"))
    return sign + str(value) + "".join(reversed(parts))


def _primitive(name: str, arguments: list[Any], annotations: list[str]) -> dict[str, Any]:
    value: dict[str, Any] = {"prim": name}
    if arguments:
        value["args"] = arguments
    if annotations:
        value["annots"] = annotations
    return value


def expressions(
    names: Sequence[str] = tuple(NUMBERS),
    integers: st.SearchStrategy[int] = INTEGERS,
    annotations: st.SearchStrategy[str] = ANNOTATIONS,
) -> st.SearchStrategy[Any]:
    """Expressions in the JSON of Octez.

    :param names: of the primitives in them.
    """
    leaves = (
        integers.map(lambda value: {"int": str_of(value)})
        | st.text(_PRINTABLE).map(lambda text: {"string": text})
        | st.binary().map(lambda data: {"bytes": data.hex()})
    )

    def primitives(arguments: st.SearchStrategy[list[Any]]) -> st.SearchStrategy[Any]:
        return st.builds(
            _primitive, st.sampled_from(names), arguments, st.lists(annotations, max_size=3)
        )

    def nested(within: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        several = st.lists(within, max_size=5)
        return several | primitives(several)

    return st.recursive(leaves | primitives(st.just([])), nested, max_leaves=30)


def encode(value: Any, numbers: Mapping[str, int] = NUMBERS) -> bytes:
    """The bytes of an expression."""
    return micheline(value, numbers)


_TOKEN = re.compile(
    r"""
    (?P<space>\ +) | (?P<mark>[(){};]) | (?P<bytes>0x[0-9a-f]*) | (?P<int>-?[0-9]+)
    | (?P<string>"(?:[^"\\]|\\[n"\\])*") | (?P<annot>[@:$&%!?][a-zA-Z0-9_.%@]*)
    | (?P<prim>[a-zA-Z][a-zA-Z0-9_]*)
    """,
    re.VERBOSE,
)
_ESCAPED = {"\\n": "\n", '\\"': '"', "\\\\": "\\"}


class _Text:
    """Reads Michelson text, by the grammar in Octez' documentation of Micheline."""

    def __init__(self, text: str) -> None:
        self._tokens: list[tuple[str, str]] = []
        at = 0
        while at < len(text):
            found = _TOKEN.match(text, at)
            if found is None:
                raise ValueError(f"no token at {at} of {text!r}")
            if found.lastgroup != "space":
                self._tokens.append((str(found.lastgroup), found[0]))
            at = found.end()
        self._tokens.reverse()

    def whole(self) -> Any:
        """The expression that the text is."""
        value = self._expression()
        if self._tokens:
            raise ValueError(f"more text: {self._tokens[-1]}")
        return value

    def _next(self) -> tuple[str, str]:
        return self._tokens[-1] if self._tokens else ("end", "")

    def _expression(self) -> Any:
        """A primitive with its arguments, or what needs no parentheses."""
        if self._next()[0] != "prim":
            return self._argument()
        name = self._tokens.pop()[1]
        annotations, arguments = [], []
        while self._next()[0] == "annot":
            annotations.append(self._tokens.pop()[1])
        while self._next()[1] not in ("", ")", "}", ";"):
            arguments.append(self._argument())
        return _primitive(name, arguments, annotations)

    def _argument(self) -> Any:
        kind, text = self._tokens.pop()
        match kind, text:
            case "int", _:
                return {"int": text}
            case "bytes", _:
                return {"bytes": text[2:]}
            case "string", _:
                return {"string": re.sub(r"\\.", lambda it: _ESCAPED[it[0]], text[1:-1])}
            case "prim", _:
                return {"prim": text}
            case _, "(":
                value = self._expression()
                self._closed(")")
                return value
            case _, "{":
                return self._sequence()
        raise ValueError(f"unexpected {text!r}")

    def _sequence(self) -> list[Any]:
        values: list[Any] = []
        while self._next()[1] != "}":
            values.append(self._expression())
            if self._next()[1] != ";":
                break
            self._tokens.pop()
        self._closed("}")
        return values

    def _closed(self, mark: str) -> None:
        if self._tokens.pop()[1] != mark:
            raise ValueError(f"no {mark}")


def parse(text: str) -> Any:
    """The JSON of the expression that a Michelson text is; raises ValueError or IndexError."""
    return _Text(text).whole()
