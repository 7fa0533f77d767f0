"""Generic operations and Micheline, fuzzed: what is decoded is encoded again, by other code.

What has one meaning only has one form only, and what has been shown to somebody who decides is
all that there is in the bytes: so whatever is decoded has to be encoded to the same bytes.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from random import Random
from typing import Any

from tests.campaigns.fuzztargets import Wrong, gist
from tests.campaigns.mutation import mutated
from tests.campaigns.randomoperations import ANYTHING, NUMBERS, RandomOperations, forged
from tests.support.forging import micheline as michelines
from tests.support.genericpayloads import ENTRYPOINTS
from tests.support.operationjson import as_json
from tests.support.vectors import MORE_PAYLOADS, OPERATIONS, PAYLOADS
from tezio_signer.cli.payloadtext import payload_json, payload_lines
from tezio_signer.tezos import jsontext, micheline, operations
from tezio_signer.tezos.groups import MOST_LETTERS, summary
from tezio_signer.tezos.micheline import Micheline

_SEEDS = 300
_LONGEST_SENTENCE = 400
_MOST_EXPLAINED = 40
"""Characters that explain a byte, besides 1000 for every payload."""
_MOST_TEXTS = 20_000
_MOST_TEXT = 20
"""Characters of Michelson for a byte: two bytes may be `sapling_transaction_deprecated ; `."""
_SHORTENED = 80
_SHALLOW = 200
"""Bytes in which nothing is nested too deep for the `json` module."""


def _generic(payload: bytes) -> list[bytes]:
    return [payload[1:]] if payload[0] == 0x03 else []


def _check_line(text: str, longest: int) -> None:
    """What is shown or logged has one line, and an end."""
    if not text.isprintable():
        raise Wrong(f"not fit for a line: {text!r:.300}")
    if len(text) > longest:
        raise Wrong(f"{len(text)} characters, where at most {longest} are promised: {text:.300}")


def _expressions(value: Any) -> Iterator[Micheline]:
    """All Micheline in a field."""
    match value:
        case Micheline():
            yield value
        case Mapping():
            for part in value.values():
                yield from _expressions(part)
        case tuple():
            for part in value:
                yield from _expressions(part)


def _check_again(expression: Micheline) -> None:
    again = michelines(expression.json, NUMBERS, expression.data)
    if again != expression.data:
        raise Wrong(f"Octez would write {again.hex()} for {expression}")


def _by_name(tag: re.Match[bytes]) -> bytes:
    name = ENTRYPOINTS[tag[1][0]].encode()
    return b"\xff\xff" + bytes([len(name)]) + name


_OTHER_FORMS: list[tuple[re.Pattern[bytes], Callable[[re.Match[bytes]], bytes]]] = [
    # A number with a superfluous zero.
    (re.compile(rb"[\x00-\x7f]"), lambda last: bytes([last[0][0] | 0x80, 0])),
    # Something that is there, or not, behind another byte than ff or 00.
    (re.compile(rb"[\x00\xff]"), lambda flag: bytes([flag[0][0] ^ 1])),
    # An entrypoint that has a number, by its name.
    (re.compile(rb"\xff([\x00-\x09])"), _by_name),
    # No parameters, and those that stand for none.
    (re.compile(rb"\x00\Z"), lambda _: bytes.fromhex("ff 00 00000002 030b")),
    (re.compile(rb"\xff.{5}\x03.\Z", re.DOTALL), lambda _: b"\x00"),
    # Two addresses, the other one first.
    (re.compile(rb"(.{21})(.{21})\Z", re.DOTALL), lambda both: both[2] + both[1]),
]
"""What Octez writes in one way only, in another one: a pattern, and what stands for a match."""


def _in_another_form(random: Random, data: bytes) -> bytes:
    pattern, other = random.choice(_OTHER_FORMS)
    found = list(pattern.finditer(data))
    if not found:
        return data
    one = random.choice(found)
    return data[: one.start()] + other(one) + data[one.end() :]


def _check_explained(payload: bytes) -> None:
    """What `tezio-signer explain` prints of a payload has an end, also as JSON."""
    lines = list(payload_lines(payload))
    for line in lines:
        _check_line(line, _LONGEST_SENTENCE)
    length = max(sum(map(len, lines)), len(jsontext.dumps(payload_json(payload))))
    if length > _MOST_EXPLAINED * len(payload) + 1000:
        raise Wrong(f"{len(payload)} bytes are explained in {length} characters")


class OperationsTarget:
    """The decoder of what stands behind the magic byte 03."""

    seeds = [
        *(bytes.fromhex(text) for name, text in OPERATIONS.items() if "header" not in name),
        *(seed for payload in PAYLOADS.values() for seed in _generic(payload)),
        *(seed for each in MORE_PAYLOADS for seed in _generic(bytes.fromhex(each["hex"]))),
    ]
    tokens = [
        *(bytes([tag]) for tag in (0x03, 0x05, 0x06, 0x09, 0x11, 0x6B, 0x6C, 0x6D, 0x6E, 0xFF)),
        *(bytes.fromhex(text) for text in ("00000000", "ff00", "ff0000000002030b", "8000", "40")),
    ]
    longest = 1100

    def __init__(self) -> None:
        made = RandomOperations(Random(1), ANYTHING)
        groups = (forged(made.group()) for _ in range(_SEEDS))
        short = (data for data in groups if len(data) <= self.longest)
        self.seeds = [*type(self).seeds, *short]

    def made(self, random: Random, data: bytes) -> bytes:
        if random.randrange(4) == 0:
            return _in_another_form(random, data)
        return mutated(random, data, self.seeds, self.tokens)

    def run(self, data: bytes) -> str:
        try:
            group = operations.decode(data, 1)
        except operations.Undecodable as error:
            _check_line(str(error), _LONGEST_SENTENCE)
            _check_explained(b"\x03" + data)
            if isinstance(error.kind, str) and error.kind not in operations.KINDS:
                raise Wrong(f"an error about {error.kind}, which is no kind") from error
            return f"{error.kind}: {gist(error)}"
        again = forged(as_json(group, lambda expression: expression.data))
        if again != data:
            raise Wrong(f"Octez would write {again.hex()} for {group}")
        for content in group.contents:
            for expression in _expressions(content.fields):
                _check_again(expression)
        _check_line(summary(group), MOST_LETTERS)
        _check_explained(b"\x03" + data)
        return " ".join(sorted({content.kind for content in group.contents}))


class MichelineTarget:
    """The decoder of Micheline, its text and its JSON."""

    tokens = [bytes.fromhex(text) for text in ("030b", "0000", "0200000000", "0100000000", "0a")]
    longest = 1100

    def __init__(self) -> None:
        made = RandomOperations(Random(1), ANYTHING)
        expressions = (michelines(made.expression(), NUMBERS) for _ in range(_SEEDS))
        self.seeds = [data for data in expressions if len(data) <= self.longest]
        self._texts: dict[str, bytes] = {}

    def made(self, random: Random, data: bytes) -> bytes:
        return mutated(random, data, self.seeds, self.tokens)

    def run(self, data: bytes) -> str:
        try:
            expression = micheline.decode(data, 1)
        except ValueError as error:
            _check_line(str(error), _LONGEST_SENTENCE)
            return gist(error)
        _check_again(expression)
        self._check_text(expression)
        _check_explained(b"\x05" + data)
        text = jsontext.dumps(expression.json)
        if len(data) < _SHALLOW and json.loads(text) != expression.json:
            raise Wrong(f"other JSON than {text}")
        return f"Micheline {data[0]:02X}"

    def _check_text(self, expression: Micheline) -> None:
        """The text is a line, no other expression has it, and it is shortened as promised."""
        text, shortened = str(expression), expression.shortened(_SHORTENED)
        _check_line(text, _MOST_TEXT * len(expression.data))
        if not text.isascii():
            raise Wrong(f"not ASCII: {text!r:.300}")
        _check_line(shortened, _SHORTENED)
        if len(text) <= _SHORTENED and shortened != text:
            raise Wrong(f"shortened without need: {text} to {shortened}")
        data = michelines(expression.json, NUMBERS)
        if len(self._texts) < _MOST_TEXTS and self._texts.setdefault(text, data) != data:
            raise Wrong(f"{text:.300} is the text of {self._texts[text].hex()} too")
