"""Micheline as PyTezos and Taquito write and read it."""

import json
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import TestCase

from tests.support.michelinenodes import INTEGERS, encode, expressions
from tests.support.programs import command, installed, run
from tezio_signer.tezos.micheline import decode
from tezio_signer.tezos.primitives import PRIMITIVES

_HERE = Path(__file__).parent
_EXPRESSIONS = 1000
_NUMBERS = {name: number for number, name in enumerate(PRIMITIVES)}
# PyTezos 3.20 does not have these: one that no contract can have any more, and those of 024.
_MISSING = {
    name: _NUMBERS[name] for name in ("CREATE_ACCOUNT", "INDEX_ADDRESS", "GET_ADDRESS_INDEX")
}
# PyTezos reads one annotation with one of these marks in the middle as two.
_ANNOTATIONS = st.builds(
    str.__add__, st.sampled_from("@:%"), st.text("abcXYZ019_.", max_size=20) | st.just("a" * 254)
)
# It writes no integers that Python does not write by itself.
_INTEGERS = INTEGERS.filter(lambda value: value.bit_length() < 14_000)


class MichelineTests(TestCase):
    """Random expressions are the same in our bytes, JSON and text as in theirs."""

    timeout = 240

    def expressions(self, without: set[str]) -> list[Any]:
        """Random expressions in which these primitives are not."""
        found: list[Any] = []
        names = [name for name in PRIMITIVES if name not in without]

        @settings(max_examples=_EXPRESSIONS, database=None, suppress_health_check=list(HealthCheck))
        @given(expressions(names, _INTEGERS, _ANNOTATIONS))
        def collect(expression: Any) -> None:
            found.append(expression)

        collect()
        return found

    def file(self, value: Any) -> str:
        """The path of a file with this JSON; longer than an argument may be."""
        path = Path(self.mktemp())
        path.write_text(json.dumps(value), "utf-8")
        return str(path)

    async def pytezos(self, *arguments: str) -> Any:
        """What PyTezos says."""
        python = installed("pytezos", "bin", "python")
        script = str(_HERE / "pytezos_micheline.py")
        return json.loads(await run(self, [python, script, *arguments]))

    async def test_pytezos(self) -> None:
        """What PyTezos forged we read as what was asked for, and it reads our text as that."""
        numbers: dict[str, int] = await self.pytezos("primitives")
        self.assertEqual({name: numbers.get(name) for name in _NUMBERS} | _MISSING, _NUMBERS)
        asked = self.expressions(_NUMBERS.keys() - numbers.keys())
        forged = await self.pytezos("forge", self.file(asked))
        read = [decode(bytes.fromhex(data)) for data in forged]
        self.assertEqual([value.json for value in read], asked)
        texts = [str(value) for value in read]
        self.assertEqual(await self.pytezos("parse", self.file(texts)), asked)

    async def test_taquito(self) -> None:
        """Taquito reads our text as the expression that was encoded."""
        node, packages = command("node"), installed("taquito", "node_modules")
        asked = self.expressions(set())
        texts = [str(decode(encode(expression, _NUMBERS))) for expression in asked]
        arguments = [node, str(_HERE / "taquito" / "micheline.cjs"), self.file(texts)]
        parsed = json.loads(await run(self, arguments, {"NODE_PATH": packages}))
        self.assertEqual(parsed, asked)
