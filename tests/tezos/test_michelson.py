"""Micheline as text: readable, unambiguous, and as short as one wants it."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.support.genericpayloads import integer
from tests.support.michelinenodes import INTEGERS, encode, expressions, parse, str_of
from tezio_signer.tezos.micheline import decode

_BATCH = [
    {
        "prim": "Pair",
        "args": [
            {"string": "tz1RecHxwZJmZY4dypq2KmvxKYgUBGJceH1v"},
            [{"prim": "Pair", "args": [{"int": "5"}, {"bytes": "00ff"}, {"prim": "Unit"}]}],
        ],
    }
]


class TextTests(SynchronousTestCase):
    """The whole text."""

    def test_readable(self) -> None:
        """It is Michelson as people write it."""
        cases: list[tuple[Any, str]] = [
            ({"int": "-5"}, "-5"),
            ({"string": 'a "b"\\\n'}, r'"a \"b\"\\\n"'),
            ({"bytes": ""}, "0x"),
            ([], "{}"),
            ([[]], "{ {} }"),
            (_BATCH, '{ Pair "tz1RecHxwZJmZY4dypq2KmvxKYgUBGJceH1v" { Pair 5 0x00ff Unit } }'),
            (
                {"prim": "PUSH", "args": [{"prim": "int"}, {"int": "1"}]},
                "PUSH int 1",
            ),
            (
                [{"prim": "DROP"}, {"prim": "NIL", "args": [{"prim": "operation"}]}],
                "{ DROP ; NIL operation }",
            ),
            (
                {
                    "prim": "pair",
                    "args": [
                        {"prim": "int", "annots": ["%a"]},
                        {"prim": "pair", "args": [{"prim": "string"}, {"prim": "address"}]},
                    ],
                    "annots": [":p", "%q"],
                },
                "pair :p %q (int %a) (pair string address)",
            ),
            (
                {"prim": "Some", "args": [{"prim": "Some", "args": [{"prim": "Unit"}]}]},
                "Some (Some Unit)",
            ),
            (
                {"prim": "Pair", "args": [{"prim": "Left", "args": [{"int": "1"}]}, {"int": "2"}]},
                "Pair (Left 1) 2",
            ),
            ({"prim": "code", "args": [[{"prim": "PACK"}], []]}, "code { PACK } {}"),
        ]
        for expression, text in cases:
            self.assertEqual(str(decode(encode(expression))), text)

    @settings(deadline=None, max_examples=300)
    @given(expressions())
    def test_unambiguous(self, expression: Any) -> None:
        """A reader of Michelson finds the same expression in the text."""
        self.assertEqual(parse(str(decode(encode(expression)))), expression)

    @settings(deadline=None)
    @given(expressions())
    def test_one_line(self, expression: Any) -> None:
        """The text is printable ASCII: nothing in it can end a line of the log."""
        text = str(decode(encode(expression)))
        self.assertTrue(text.isascii() and text.isprintable(), text)

    def test_huge_integers(self) -> None:
        """So are those of any length."""
        for value in (2**200_000 - 1, -(2**2048), 2**2048 - 1, 10**5000):
            self.assertTrue(str(decode(b"\x00" + integer(value))) == str_of(value))

    @settings(deadline=None)
    @given(INTEGERS | st.integers(1, 3000).map(lambda n: -(10**n)))
    def test_integers(self, value: int) -> None:
        """An integer is written in decimal, also with more digits than Python writes by itself."""
        read = decode(b"\x00" + integer(value))
        self.assertEqual(str(read), str_of(value))
        self.assertEqual(read.json, {"int": str_of(value)})


class ShortenedTests(SynchronousTestCase):
    """The beginning of the text."""

    @settings(deadline=None, max_examples=300)
    @given(expressions(), st.integers(40, 200))
    def test_beginning(self, expression: Any, most: int) -> None:
        """It is the text if that is short enough; else so much of it, and the size of the data."""
        data = encode(expression)
        text, shortened = str(decode(data)), decode(data).shortened(most)
        if len(text) <= most:
            self.assertEqual(shortened, text)
            return
        self.assertTrue(len(shortened) <= most)
        beginning, ending = shortened.split("…")
        self.assertEqual(ending, f" ({len(data)} bytes)")
        self.assertTrue(text.startswith(beginning))

    def test_cut(self) -> None:
        """A string, bytes, a name and annotations may be cut; a part of an integer is not shown."""
        size = {"string": "a" * 100}, {"bytes": "ab" * 100}, {"int": "9" * 100}
        cases: list[tuple[Any, str]] = [
            (size[0], '"' + "a" * 26 + "… (105 bytes)"),
            (size[1], "0x" + "ab" * 12 + "a… (105 bytes)"),
            (size[2], "… (49 bytes)"),
            (
                {"prim": "Pair", "args": [{"int": "1"}, size[2]]},
                "Pair 1 … (53 bytes)",
            ),
            (
                {"prim": "Unit", "annots": ["%" + "a" * 60]},
                "Unit %" + "a" * 22 + "… (67 bytes)",
            ),
        ]
        for expression, text in cases:
            self.assertEqual(decode(encode(expression)).shortened(40), text)

    def test_fitting_integer(self) -> None:
        """An integer that just fits is shown."""
        for digits in ("9" * 40, "-" + "9" * 39):
            self.assertEqual(decode(encode({"int": digits})).shortened(40), digits)
        self.assertEqual(decode(encode({"int": "9" * 41})).shortened(40), "… (21 bytes)")
        bytes_ = {"bytes": "ab" * 80}
        pair = decode(encode({"prim": "Pair", "args": [{"int": "9" * 22}, bytes_]}))
        self.assertEqual(len(pair.data), 99)
        self.assertEqual(pair.shortened(39), f"Pair {'9' * 22}… (99 bytes)")
        self.assertEqual(pair.shortened(38), "Pair … (99 bytes)")

    def test_no_room(self) -> None:
        """Where there is room for nothing, there is the size."""
        self.assertEqual(decode(encode(_BATCH)).shortened(0), "… (74 bytes)")

    def test_nested(self) -> None:
        """What closes many nodes is cut like everything else."""
        deep = decode(b"\x05\x09" * 60 + b"\x03\x0b")
        whole = str(deep)
        self.assertEqual(deep.shortened(len(whole)), whole)
        self.assertEqual(deep.shortened(len(whole) - 1), whole[: len(whole) - 14] + "… (122 bytes)")
