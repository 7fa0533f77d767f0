"""Fields of binary data, with the errors that name them."""

from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tezio_signer.tezos.binary import Reader

FIELDS = st.lists(st.binary(max_size=8), min_size=1, max_size=6)


class CutError(ValueError):
    """The error of `CutReader`."""


class CutReader(Reader):
    """A reader with an error of its own."""

    error = CutError


class ReaderTests(SynchronousTestCase):
    """Values that are read field by field."""

    def assert_refuses(
        self, sentence: str, read: Callable[[], object], kind: type[ValueError] = ValueError
    ) -> None:
        """Check that something raises an error with exactly these words."""
        error = self.assertRaises(kind, read)
        self.assertEqual(str(error), sentence)

    @settings(derandomize=True, deadline=None)
    @given(FIELDS)
    def test_fields(self, fields: list[bytes]) -> None:
        """Fields come out as they were put together, and then nothing is left."""
        reader = Reader(b"".join(fields), "the thing")
        for field in fields:
            self.assertEqual(reader.take(len(field), "field"), field)
        self.assertEqual((reader.left, reader.next(), reader.rest("rest")), (0, None, b""))
        reader.end()

    @settings(derandomize=True, deadline=None)
    @given(FIELDS, st.integers(1, 5), st.integers(0, 9))
    def test_cut_off(self, fields: list[bytes], missing: int, offset: int) -> None:
        """Where too little is left, the error says of which field, where it is, and how much."""
        reader = Reader(b"".join(fields), "the thing", offset)
        for field in fields[:-1]:
            reader.take(len(field), "field")
        has, at = len(fields[-1]), offset + sum(map(len, fields[:-1]))
        self.assert_refuses(
            f"the thing is cut off in its tail: {has} of {has + missing} bytes, at byte {at}",
            lambda: reader.take(has + missing, "tail"),
        )
        self.assertEqual(reader.left, has)

    @settings(derandomize=True, deadline=None)
    @given(FIELDS, st.binary(min_size=1, max_size=3), st.integers(0, 9))
    def test_end(self, fields: list[bytes], more: bytes, offset: int) -> None:
        """Bytes that are left are counted, and the first of them is named."""
        value = b"".join(fields)
        reader = Reader(value + more, "the thing", offset)
        reader.take(len(value), "value")
        words = "1 trailing byte" if len(more) == 1 else f"{len(more)} trailing bytes"
        self.assert_refuses(f"the thing has {words}, at byte {offset + len(value)}", reader.end)

    @settings(derandomize=True, deadline=None)
    @given(st.integers(0, 2**32 - 1))
    def test_numbers(self, number: int) -> None:
        """Numbers are big-endian; those with a sign are in two's complement."""
        data = number.to_bytes(4, "big")
        self.assertEqual(Reader(data, "it").number(4, "number"), number)
        self.assertEqual(Reader(data, "it").number(2, "number"), number >> 16)
        signed = number - 2**32 if number >= 2**31 else number
        self.assertEqual(Reader(data, "it").int32("number"), signed)
        reader = Reader(b"\x07" + data, "it")
        reader.take(1, "tag")
        if signed >= 0:
            self.assertEqual(reader.natural32("number"), number)
        else:
            self.assert_refuses(
                f"it has a negative number: {signed}, at byte 1",
                lambda: reader.natural32("number"),
            )

    def test_next(self) -> None:
        """The next byte can be seen before it is read, and is what an error then names."""
        fresh = Reader(b"\x00", "it", 5)
        self.assertEqual(str(fresh.unreadable("it is nothing")), "it is nothing, at byte 5")
        reader = Reader(b"\x00\x07", "it")
        reader.take(1, "tag")
        self.assertEqual((reader.next(), reader.left), (7, 1))
        self.assertEqual(str(reader.unreadable("7 is too much")), "7 is too much, at byte 1")

    def test_part(self) -> None:
        """Offsets in a field that has fields itself are those of the whole, and so is the error."""
        whole = CutReader(b"head" + b"ab" + b"tail", "the whole", 10)
        whole.take(4, "head")
        part = whole.part(2, "middle", "the middle")
        part.take(1, "first")
        sentence = "the middle is cut off in its second: 1 of 2 bytes, at byte 15"
        self.assert_refuses(sentence, lambda: part.take(2, "second"), CutError)
        self.assert_refuses(
            "the whole is cut off in its end: 4 of 5 bytes, at byte 16",
            lambda: whole.part(5, "end", "the end"),
            CutError,
        )
        self.assertEqual(whole.rest("tail"), b"tail")
