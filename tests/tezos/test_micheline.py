"""Micheline from bytes, against the layout of Octez and against garbage."""

import sys
import time
from typing import Any
from unittest import SkipTest

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.support.genericpayloads import integer, sized
from tests.support.michelinenodes import NUMBERS, encode, expressions
from tezio_signer.tezos.jsontext import dumps
from tezio_signer.tezos.micheline import MAX_NESTING, Micheline, decode
from tezio_signer.tezos.primitives import PRIMITIVES

UNIT = bytes.fromhex("030b")
TAGS = range(0x0B)
_MOST = 32 * 1024
"""Bytes of an operation (`max_operation_data_length` of the protocol)."""
_MILLISECONDS = 20


def sequence(*nodes: bytes) -> bytes:
    """A sequence of these nodes."""
    return b"\x02" + sized(b"".join(nodes))


def many(node: bytes) -> bytes:
    """A sequence of so many of these as an operation can have."""
    return sequence(node * (_MOST // len(node)))


def nested_sequences(size: int) -> bytes:
    """Sequences within each other."""
    nested = b""
    while len(nested) < size:
        nested = sequence(nested)
    return nested


WORST = {
    "integers": many(b"\x00\x00"),
    "units": many(UNIT),
    "empty sequences": many(sequence()),
    "empty annotations": many(b"\x04\x0b" + sized(b"")),
    "combs": many(b"\x09\x07" + sized(UNIT * 3) + sized(b"")),
    "one argument each": b"\x05\x0b" * (_MOST // 2) + UNIT,
    "annotated arguments": b"\x06\x0b" * (_MOST // 10) + UNIT + sized(b"%a") * (_MOST // 10),
    "pairs to the right": b"\x07\x07\x00\x00" * (_MOST // 4) + UNIT,
    "pairs to the left": b"\x07\x07" * (_MOST // 4) + UNIT * (_MOST // 4 + 1),
    "nested sequences": nested_sequences(_MOST),
    "short annotations": b"\x04\x0b" + sized(b" ".join([b"%"] * (_MOST // 2))),
    "long annotations": b"\x04\x0b" + sized(b" ".join([b"%" + b"a" * 254] * (_MOST // 256))),
    "a string": b"\x01" + sized(b"\n" * _MOST),
    "an integer": b"\x00" + b"\xff" * _MOST + b"\x01",
    "an error at the end": sequence(b"\x00\x00" * (_MOST // 2), b"\x00\x40"),
}


class DecodeTests(SynchronousTestCase):
    """Every expression of the layout."""

    @settings(deadline=None)
    @given(expressions())
    def test_round_trip(self, expression: Any) -> None:
        """What an encoder wrote is read as the same JSON, from all of the bytes."""
        data = encode(expression)
        read = decode(data)
        self.assertEqual(read.json, expression)
        self.assertEqual(read.data, data)

    def test_primitives(self) -> None:
        """There are 161 of them, each once, at the number that others give it."""
        self.assertEqual(len(PRIMITIVES), 0xA1)
        self.assertEqual(len(set(PRIMITIVES)), len(PRIMITIVES))
        self.assertEqual({name: PRIMITIVES.index(name) for name in NUMBERS}, NUMBERS)
        for number, name in enumerate(PRIMITIVES):
            self.assertEqual(decode(bytes([3, number])).json, {"prim": name})

    def test_forms(self) -> None:
        """Each form of a primitive has its arguments and annotations at their places."""
        cases = [
            (UNIT, "Unit"),
            (b"\x04\x6c" + sized(b"%a @b"), "unit %a @b"),
            (b"\x05\x09" + UNIT, "Some Unit"),
            (b"\x06\x00\x03\x6c" + sized(b"%do"), "parameter %do unit"),
            (b"\x07\x07\x00\x01\x00\x02", "Pair 1 2"),
            (b"\x08\x65\x03\x62\x03\x5b" + sized(b":p"), "pair :p nat int"),
            (b"\x09\x07" + sized(b"\x00\x01" * 3) + sized(b""), "Pair 1 1 1"),
            (b"\x09\x65" + sized(b"\x03\x62" * 4) + sized(b"%a %b"), "pair %a %b nat nat nat nat"),
        ]
        for data, text in cases:
            self.assertEqual(str(decode(data)), text)

    def test_no_annotations(self) -> None:
        """Taquito writes the forms with annotations for none; they are those without."""
        for data, same in (
            (b"\x04\x0b" + sized(b""), UNIT),
            (b"\x06\x09" + UNIT + sized(b""), b"\x05\x09" + UNIT),
            (b"\x08\x07" + UNIT * 2 + sized(b""), b"\x07\x07" + UNIT * 2),
        ):
            self.assertEqual(str(decode(data)), str(decode(same)))
            self.assertEqual(decode(data).json, decode(same).json)

    def test_value(self) -> None:
        """Two that were read from the same bytes are the same, and nothing can change one."""
        self.assertEqual(decode(UNIT), decode(bytes(UNIT)))
        self.assertEqual(len({decode(UNIT), decode(UNIT), decode(b"\x03\x0a")}), 2)
        self.assertRaises(AttributeError, setattr, decode(UNIT), "data", b"")
        self.assertEqual(repr(decode(b"\x05\x09" + UNIT)), "<Micheline Some Unit>")


class RefusedTests(SynchronousTestCase):
    """What is not exactly one expression; errors count from the offset that the caller gives."""

    def refused(self, data: bytes, sentence: str) -> None:
        """The data are refused with this sentence, `@` in it being the byte, in front of 100."""
        error = self.assertRaises(ValueError, decode, data, 100)
        what, _, at = sentence.rpartition("@")
        self.assertEqual(str(error), f"Micheline {what}, at byte {100 + int(at)}")

    def test_nodes(self) -> None:
        """A node has a known tag and a known primitive, and there is one."""
        self.refused(b"", "is cut off in its node: 0 of 2 bytes@0")
        self.refused(b"\x03", "is cut off in its node: 1 of 2 bytes@0")
        self.refused(b"\x0b\x00", "has an unknown tag 0x0B@0")
        self.refused(b"\x05\x09\xff\x00", "has an unknown tag 0xFF@2")
        self.refused(b"\x03\xa1", "has primitive 0xA1, which protocol 025 has not@1")
        self.refused(UNIT + b"\x00", "has 1 trailing byte@2")
        self.refused(UNIT * 2, "has 2 trailing bytes@2")

    def test_integers(self) -> None:
        """There is one way to write each integer."""
        self.refused(b"\x00\x80\x00", "has an integer that ends in a superfluous zero@2")
        self.refused(b"\x00\xff\x80\x00", "has an integer that ends in a superfluous zero@3")
        self.refused(b"\x00\x40", "has a zero with a minus@1")
        self.refused(b"\x00\xc0\x00", "has an integer that ends in a superfluous zero@2")
        self.refused(b"\x00\x80", "is cut off in its integer@2")
        self.refused(sequence(b"\x00\x80") + b"\x01", "is cut off in its integer@7")

    def test_lengths(self) -> None:
        """A length neither exceeds what is there nor ends within a node."""
        for tag, what in ((1, "string"), (2, "sequence"), (10, "bytes")):
            head = bytes([tag])
            self.refused(head + b"\0\0", f"is cut off in its length of its {what}: 2 of 4 bytes@1")
            self.refused(head + b"\0\0\0\2\0", f"is cut off in its {what}: 1 of 2 bytes@5")
            self.refused(head + b"\xff" * 4, f"is cut off in its {what}: 0 of 4294967295 bytes@5")
            # The bytes are there, but not within the sequence around it.
            inner = head + sized(b"ab")
            self.refused(
                b"\x02" + (len(inner) - 1).to_bytes(4, "big") + inner,
                f"is cut off in its {what}: 1 of 2 bytes@10",
            )
        self.refused(sequence(UNIT, b"\x03") + b"\x0b", "is cut off in its node: 1 of 2 bytes@7")
        self.refused(sequence(b"\x05\x09") + UNIT, "is cut off in its node: 0 of 2 bytes@7")
        self.refused(
            sequence(b"\x04\x0b") + sized(b"%a"),
            "is cut off in its length of its annotations: 0 of 4 bytes@7",
        )

    def test_strings(self) -> None:
        """A string has the characters that a Michelson string can have."""
        for byte in range(256):
            data = b"\x01" + sized(b"a" + bytes([byte]))
            if byte == 0x0A or 0x20 <= byte <= 0x7E:
                self.assertEqual(decode(data).json, {"string": "a" + chr(byte)})
            else:
                self.refused(
                    data,
                    f"has the character 0x{byte:02X} in a string, where Michelson has only "
                    "printable ASCII and line feeds@6",
                )
        self.assertEqual(decode(b"\x0a" + sized(bytes(range(256)))).data[5:], bytes(range(256)))

    def test_annotations(self) -> None:
        """Annotations are those that the parser of Octez accepts."""
        good = ["%", "@", ":", "$", "&", "!", "?", "%%", "@%%", "%a.b_c%9@", "%" + "a" * 254]
        for text in [*good, " ".join(good)]:
            data = b"\x04\x0b" + sized(text.encode())
            self.assertEqual(decode(data).json, {"prim": "Unit", "annots": text.split(" ")})
        wrong = [
            ("a", 0),
            (" ", 0),
            ("%a ", 2),
            (" %a", 0),
            ("%a  %b", 2),
            ("%a-b", 2),
            ("%a%b:c", 4),
            ("%a\n%b", 2),
            ("%a\0", 2),
            ("%é", 1),
            ("%" + "a" * 255, 255),
            ("%a b", 2),
        ]
        for text, at in wrong:
            self.refused(
                b"\x04\x0b" + sized(text.encode()),
                "has a malformed annotation; each is one of @ : $ & % ! ? and then up to 254 "
                f"letters, digits, _ . % or @, with one space between two@{6 + at}",
            )

    def test_general_form(self) -> None:
        """The form for any number of arguments is for those that have no other."""
        for count in range(3):
            self.refused(
                b"\x09\x07" + sized(UNIT * count) + sized(b"%a"),
                f"has Pair with {count} argument{'' if count == 1 else 's'} in the form for three "
                "or more@0",
            )

    @settings(deadline=None)
    @given(expressions(), st.binary(min_size=1, max_size=3))
    def test_truncated_or_longer(self, expression: Any, more: bytes) -> None:
        """No part of an expression is one, and none with something behind it."""
        data = encode(expression)
        for size in range(len(data)):
            self.assertRaises(ValueError, decode, data[:size])
        self.assertRaises(ValueError, decode, data + more)

    @settings(deadline=None, max_examples=500)
    @given(st.data())
    def test_garbage(self, data: st.DataObject) -> None:
        """Garbage is a ValueError that names a byte of it, or the same bytes when encoded again."""
        garbage = data.draw(
            st.binary(max_size=40)
            | st.lists(st.sampled_from([*TAGS, 0x0B, 0x40, 0x80, 0xFF]), max_size=40).map(bytes)
        )
        self.judge(garbage)

    @settings(deadline=None, max_examples=300)
    @given(expressions(), st.data())
    def test_changed_byte(self, expression: Any, data: st.DataObject) -> None:
        """The same for an expression of which one byte was changed."""
        changed = bytearray(encode(expression))
        at = data.draw(st.integers(0, len(changed) - 1))
        changed[at] = data.draw(st.integers(0, 255))
        self.judge(bytes(changed))

    def judge(self, data: bytes) -> None:
        """Whatever is read is what these bytes are."""
        try:
            read = decode(data)
        except ValueError as error:
            at = int(str(error).rpartition("at byte ")[2])
            self.assertTrue(0 <= at <= len(data), error)
            return
        numbers = {name: number for number, name in enumerate(PRIMITIVES)}
        again = encode(read.json, numbers)
        self.assertEqual(decode(again).json, read.json)
        if again != data:
            # The one thing that may be written in two ways: no annotations.
            self.assertIn((len(data) - len(again)) // 4, range(1, data.count(b"\0\0\0\0") + 1))
            self.assertEqual((len(data) - len(again)) % 4, 0, data.hex())


class DeepTests(SynchronousTestCase):
    """Nesting, as deep as Octez reads it."""

    def test_limit(self) -> None:
        """The decoder of Octez takes 50,000 nodes within each other, and none more."""
        for first, last in (
            (b"\x05\x09", UNIT),
            (b"\x05\x09", b"\x00\x00"),
            (b"\x05\x09", sequence()),
            (b"\x07\x07\x00\x00", UNIT),
        ):
            deep = first * (MAX_NESTING - 1) + last
            self.assertEqual(decode(deep).data, deep)
            error = self.assertRaises(ValueError, decode, first + deep)
            self.assertTrue(str(error).startswith("Micheline is nested more than 50000 deep, at"))

    def test_sequences(self) -> None:
        """Sequences count like other nodes."""
        size = 5 * (MAX_NESTING - 1)
        deep = nested_sequences(size)
        self.assertEqual(str(decode(deep)).count("{"), MAX_NESTING - 1)
        decode(sequence(deep))
        self.assertRaises(ValueError, decode, sequence(sequence(deep)))

    def test_written(self) -> None:
        """The text and the JSON of the deepest expressions are whole."""
        depth = MAX_NESTING - 1
        read = decode(b"\x05\x09" * depth + UNIT)
        self.assertEqual(str(read), "Some (" * (depth - 1) + "Some Unit" + ")" * (depth - 1))
        text = dumps(read.json)
        self.assertEqual(text.count('{"prim": "Some", "args": ['), depth)
        self.assertTrue(text.endswith('{"prim": "Unit"}' + "]}" * depth))
        self.assertTrue(len(read.shortened(100)) <= 100)
        self.assertTrue(len(repr(read)) <= 100)


class TimeTests(SynchronousTestCase):
    """How long the worst input takes."""

    def test_worst(self) -> None:
        """32 kB are read in less than 20 ms of the processor, whatever they are."""
        if sys.gettrace() is not None:
            raise SkipTest("lines are counted, which takes longer than reading")
        for name, data in WORST.items():
            taken = min(self._milliseconds(data) for _ in range(5))
            self.assertTrue(taken < _MILLISECONDS, f"{name}: {taken:.1f} ms")

    def test_shortened(self) -> None:
        """A line for the log takes less than a millisecond, however long the whole is."""
        if sys.gettrace() is not None:
            raise SkipTest("lines are counted, which takes longer than writing")
        for name, data in WORST.items():
            if name == "an error at the end":
                continue
            read = decode(data)
            taken = min(self._shortening(read) for _ in range(5))
            self.assertTrue(taken < 1, f"{name}: {taken:.1f} ms")

    def _milliseconds(self, data: bytes) -> float:
        start = time.thread_time()
        try:
            decode(data)
        except ValueError as error:
            assert "zero with a minus" in str(error), error  # the one that is meant
        return (time.thread_time() - start) * 1000

    def _shortening(self, read: Micheline) -> float:
        start = time.thread_time()
        self.assertTrue(len(read.shortened(200)) <= 200)
        return (time.thread_time() - start) * 1000


class IntegerTests(SynchronousTestCase):
    """Integers of any length."""

    @given(st.integers())
    def test_value(self, value: int) -> None:
        """An integer is the one that was encoded."""
        self.assertEqual(str(decode(b"\x00" + integer(value))), str(value))
