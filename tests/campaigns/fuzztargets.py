"""The payload decoder and the configuration loader, fuzzed; and what a target is."""

import re
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Protocol

from tests.campaigns.mutation import mutated
from tests.campaigns.wellformed import Fields, fields_of
from tests.support.configurations import BASE, UPSTREAM, WRONG
from tests.support.strategies import RECORDED
from tests.support.vectors import AUTH, OCTEZ, OPERATIONS, SHIPPED, TZ1, TZ3
from tezio_signer.config import document as config
from tezio_signer.config.fields import ConfigError
from tezio_signer.config.setting import settings_of
from tezio_signer.config.settings import Settings
from tezio_signer.tezos import payload as payloads
from tezio_signer.tezos.payload import Block, Consensus, Generic, Michelson, Payload


class Wrong(Exception):
    """What must not happen; `str()` says what did."""


class Target(Protocol):
    """Something that takes bytes from outside."""

    @property
    def seeds(self) -> Sequence[bytes]:
        """Good inputs, of which others are made."""

    @property
    def tokens(self) -> Sequence[bytes]:
        """What is put into inputs as a whole."""

    @property
    def longest(self) -> int:
        """Bytes of the longest input."""

    def made(self, random: Random, data: bytes) -> bytes:
        """Another input, of the shape that this target reads."""

    def run(self, data: bytes) -> str:
        """What came of an input, in few words; raises anything for a finding."""


def gist(sentence: object) -> str:
    """The beginning of a sentence without what differs from input to input."""
    return re.sub(r"[^a-z ]+", "*", str(sentence))[:40]


class PayloadTarget:
    """The decoder, held to another reading of the same layouts."""

    seeds = [*RECORDED, *(b"\x03" + bytes.fromhex(text) for text in OPERATIONS.values())]
    tokens = [bytes.fromhex(t) for t in ("00000021", "00000025", "00000004", "0000000102")]
    longest = 1100

    def made(self, random: Random, data: bytes) -> bytes:
        return mutated(random, data, self.seeds, self.tokens)

    def run(self, data: bytes) -> str:
        expected = fields_of(data)
        try:
            decoded = payloads.decode(data)
        except ValueError as error:
            if expected is not None and data[:1] != b"\x05":
                raise Wrong(f"refused what is well-formed: {error}") from error
            return gist(error)
        if _fields(decoded) != expected:
            raise Wrong(f"decoded {decoded}, but it is {expected}")
        return str(decoded.operation)


def _fields(payload: Payload) -> Fields:
    match payload:
        case Block(chain, level, round_, payload_round):
            return str(payload.operation), chain, level, round_, payload_round
        case Consensus(operation, chain, level, round_, slot, branch, block, dal):
            return str(operation), chain, level, round_, slot, branch, block, dal
        case Generic(branch, contents):
            return str(payload.operation), branch, contents
        case Michelson(value):
            return str(payload.operation), value.data


class ConfigTarget:
    """The configuration loader, on a file.

    :param path: where the inputs are written.
    """

    seeds = [
        *(text.encode() for text in (UPSTREAM, BASE, SHIPPED.read_text("utf-8"))),
        *((BASE + row[0]).encode() for row in WRONG),
    ]
    tokens = [
        *(part.encode() for each in settings_of(Settings) for part in each.key.split(".")),
        *(str(key["pk"]).encode() for key in OCTEZ["keys"][:3]),
        *(str(key).encode() for key in (TZ1, TZ3, AUTH)),
        *b"signing_keys auth_key allowed_ops auth_req chains max_level_jump curve_alias".split(),
        *b"level round http octez_socket port serial_number store sqlite: etcd:https://h:1".split(),
        *b"True 0x11 -1 .nan .inf 1e9 0b_ 1:2:3 2026-99-99 10.0.0.0/8 ::1 generic block".split(),
        *b"&a *a << !!int !!float !!binary !!timestamp !!null !!x ? | > %YAML --- ... = ~".split(),
        *(b"\n        ", b"\n    ", b"\n- ", b": ", b"{", b"}", b"[", b"]", b'"', b"'", b"#"),
        *(b'"\\ud800"', b'"\\0"', b'"\\n"', b"\xff", b"\xef\xbb\xbf", "\u2028\u0085é".encode()),
    ]
    longest = 4096

    _WORD = re.compile(rb"[^\s:,{}\[\]]+")

    def __init__(self, path: Path) -> None:
        self._path = path

    def made(self, random: Random, data: bytes) -> bytes:
        if random.randrange(2):
            return mutated(random, data, self.seeds, self.tokens)
        words = list(self._WORD.finditer(data))
        if not words:
            return b" ".join(random.choices(self.tokens, k=3))
        word = random.choice(words)
        tokens = b" ".join(random.choices(self.tokens, k=random.choice((1, 1, 2))))
        kept = random.choice((b"", b"", word[0], b" " + word[0]))
        return data[: word.start()] + tokens + kept + data[word.end() :]

    def run(self, data: bytes) -> str:
        self._path.write_bytes(data)
        try:
            settings = config.load(self._path)
        except ConfigError as error:
            sentence = str(error).removeprefix(str(self._path))
            if sentence == str(error):
                raise Wrong(f"an error that names no file: {error}") from error
            _check_sentence(sentence)
            return gist(sentence.split(": ", 2)[-1])
        for warning in settings.warnings:
            _check_sentence(warning)
        if not settings.signing_keys:
            raise Wrong("settings without a signing key")
        return "settings"


def _check_sentence(sentence: str) -> None:
    """What an operator reads has one line, and can be written to a terminal."""
    if not sentence.isprintable():
        raise Wrong(f"not fit for a terminal: {sentence!r}")
    if len(sentence) > 1000:
        raise Wrong(f"a sentence of {len(sentence)} characters")
