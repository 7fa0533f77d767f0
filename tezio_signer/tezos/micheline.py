"""Micheline, the form of Michelson code and data in operations, from bytes to values.

The layout is that of Octez (`src/lib_micheline/micheline_encoding.ml`, semantics V2). A node
begins with a tag:

    00  an integer: zarith, with a sign
    01  a string behind its length (4 bytes)
    02  a sequence: its nodes behind their length in bytes
    03  a primitive (1 byte), and nothing else; 04 with annotations
    05  a primitive with one argument;          06 with annotations
    07  a primitive with two arguments;         08 with annotations
    09  a primitive, its arguments behind their length in bytes, annotations
    0A  bytes behind their length

Annotations come last, behind their length, with spaces between them.

What the Octez decoder refuses is refused. So is what it takes and no client writes: a zero with
a minus, and form 09 for fewer than three arguments. An empty list of annotations in the forms
04, 06 and 08 is read as none, because Taquito writes it for `annots: []`. The decoder of Octez
takes any string, but no type of Michelson has other characters than printable ASCII and line
feeds (`script_string` and the literals of the other types), so no operation can use one.

Nothing here is recursive: a client decides how deep the nodes are nested.
"""

import re
from collections.abc import Iterator

from attrs import field, frozen

from tezio_signer.tezos import michelson
from tezio_signer.tezos.jsontext import Json
from tezio_signer.tezos.michelson import BYTES, INTEGER, PRIMITIVE, SEQUENCE, STRING, Node
from tezio_signer.tezos.primitives import PRIMITIVES

MAX_NESTING = 50_000
"""Nodes within each other; the Octez decoder refuses more (`test/test_encoding_depth.ml` there).

The type checker of the protocol goes 10,000 deep: an operation between the two limits fails.
"""
MAX_ANNOTATION = 255
"""Bytes of one annotation (Octez `micheline_parser.ml`, `max_annot_length`)."""

_NUMBER = re.compile(rb"[\x80-\xff]*[\x00-\x7f]")
_INTEGER_TEXT = re.compile("-?[0-9]+")
_UNPRINTABLE = re.compile(rb"[^\n\x20-\x7e]")
_ANNOTATION = rb"[@:$&%%!?][a-zA-Z0-9_.%%@]{0,%d}" % (MAX_ANNOTATION - 1)
_ANNOTATIONS = re.compile(rb"%b(?: %b)*" % (_ANNOTATION, _ANNOTATION))
_FIRST_FORM, _GENERAL_FORM = 0x03, 0x09
_ANNOTATED = (0x04, 0x06, 0x08, _GENERAL_FORM)
_GENERAL_ARGUMENTS = 3
_MINUS = 0x40


@frozen(repr=False)
class Micheline:
    """One Micheline expression; made by `decode`.

    :ivar data: the bytes that it was read from.
    """

    data: bytes
    _nodes: tuple[Node, ...] = field(eq=False)

    def __str__(self) -> str:
        """Michelson on one line, in printable ASCII, all of it: it may be far longer than the data.

        No two expressions have the same text.
        """
        return "".join(filter(None, self._pieces(None)))

    def __repr__(self) -> str:
        return f"<Micheline {self.shortened(80)}>"

    def shortened(self, most: int) -> str:
        """The text, if it has at most so many characters; otherwise its beginning.

        A shortened one ends in `…` and the size of the whole. It takes time for the result, not
        for the whole.

        :param most: characters of the result, 40 or more.
        """
        taken: list[str] = []
        room = most
        for piece in self._pieces(most):
            if piece is None or len(piece) > room:
                ending = f"… ({len(self.data)} bytes)"
                taken.append(piece or "")
                return _cut(taken, max(0, most - len(ending))) + ending
            taken.append(piece)
            room -= len(piece)
        return "".join(taken)

    @property
    def json(self) -> Json:
        """The JSON of Octez: `{"prim": "Pair", "args": [{"int": "5"}, {"string": "a"}]}`.

        It may be nested deeper than the `json` module can write; `jsontext.dumps` can.
        """
        return michelson.json(self._nodes, self.data)

    def _pieces(self, most: int | None) -> Iterator[str | None]:
        return michelson.pieces(self._nodes, self.data, most)


def _cut(pieces: list[str], room: int) -> str:
    """The beginning of a text; a part of an integer, which would be another one, is left out."""
    length = sum(map(len, pieces))
    while length > room:
        last = pieces.pop()
        length -= len(last)
        if length < room and not _INTEGER_TEXT.fullmatch(last):
            pieces.append(last[: room - length])
            break
    return "".join(pieces)


def decode(data: bytes, offset: int = 0) -> Micheline:
    """Read one expression, which has to be the whole of `data`.

    :param offset: of the first byte in what the client has sent, for errors.
    :raises ValueError: if `data` is anything else; it says what is wrong, and at which byte.
    """
    decoding = _Decoding(data, offset)
    decoding.read()
    return Micheline(data, tuple(decoding.nodes))


class _Open:
    """A node that is not complete yet.

    :ivar number: its place among the nodes; None around the whole expression.
    :ivar left: how many nodes follow in it; of a sequence, minus one for each that was there.
    :ivar end: where it, or the innermost sequence around it, ends.
    :ivar tag: of a primitive with annotations, what follows is those.
    """

    __slots__ = ("end", "left", "number", "tag")

    def __init__(self, number: int | None, left: int, end: int, tag: int) -> None:
        self.number = number
        self.left = left
        self.end = end
        self.tag = tag


class _Decoding:
    """Reads the nodes of one expression.

    :ivar nodes: what was read so far, each node in front of those within it.
    """

    def __init__(self, data: bytes, offset: int) -> None:
        self.nodes: list[Node] = []
        self._data = data
        self._offset = offset

    def read(self) -> None:
        """Read all of it; raises ValueError."""
        data = self._data
        at = 0
        stack = [_Open(None, 1, len(data), SEQUENCE)]
        while True:
            within = stack[-1]
            if not within.left or (within.left < 0 and at == within.end):
                stack.pop()
                if not stack:
                    break
                if within.left or within.tag in _ANNOTATED:
                    at = self._complete(within, at, stack[-1].end)
                continue
            within.left -= 1
            at, opened = self._node(at, within.end)
            if opened is not None:
                stack.append(opened)
                if len(stack) > MAX_NESTING and (opened.left > 0 or at < opened.end):
                    raise self._error(f"is nested more than {MAX_NESTING} deep", at)
        if at < len(data):
            more = len(data) - at
            raise self._error(f"has {more} trailing byte{'s' * (more > 1)}", at)

    def _node(self, at: int, end: int) -> tuple[int, _Open | None]:
        """Read a node as far as the first one within it; the result is where that may begin."""
        if end - at < 2:
            raise self._cut_off("node", at, end - at, 2)
        tag = self._data[at]
        at += 1
        if _FIRST_FORM <= tag <= _GENERAL_FORM:
            return self._primitive(tag, at, end)
        if tag == INTEGER:
            return self._integer(at, end), None
        if tag == SEQUENCE:
            start, stop = self._sized("sequence", at, end)
            self.nodes.append((SEQUENCE, 0, start, start))
            return start, _Open(len(self.nodes) - 1, -1, stop, tag)
        if tag in (STRING, BYTES):
            return self._literal(tag, at, end), None
        raise self._error(f"has an unknown tag 0x{tag:02X}", at - 1)

    def _primitive(self, tag: int, at: int, end: int) -> tuple[int, _Open | None]:
        number = self._data[at]
        if number >= len(PRIMITIVES):
            raise self._error(f"has primitive 0x{number:02X}, which protocol 025 has not", at)
        at += 1
        arguments = (tag - _FIRST_FORM) // 2
        start = at
        if tag == _ANNOTATED[0]:
            start, at = self._annotations(at, end)
        self.nodes.append((PRIMITIVE + number, arguments, start, at))
        if not arguments:
            return at, None
        if tag == _GENERAL_FORM:
            at, end = self._sized("arguments", at, end)
            arguments = -1
        return at, _Open(len(self.nodes) - 1, arguments, end, tag)

    def _complete(self, node: _Open, at: int, end: int) -> int:
        """Count the nodes within one, and read what follows them; the result is where it ends."""
        assert node.number is not None
        what, children, start, stop = self.nodes[node.number]
        if node.left:
            children = -node.left - 1
        if node.tag == _GENERAL_FORM and children < _GENERAL_ARGUMENTS:
            raise self._error(
                f"has {PRIMITIVES[what - PRIMITIVE]} with {children} "
                f"argument{'s' * (children != 1)} in the form for three or more",
                start - 2,
            )
        if node.tag in _ANNOTATED:
            start, stop = self._annotations(at, end)
            at = stop
        self.nodes[node.number] = (what, children, start, stop)
        return at

    def _integer(self, at: int, end: int) -> int:
        """Read a number; the result is where it ends."""
        found = _NUMBER.match(self._data, at, end)
        if found is None:
            raise self._error("is cut off in its integer", end)
        stop = found.end()
        last = self._data[stop - 1]
        if last == 0 and stop - at > 1:
            raise self._error("has an integer that ends in a superfluous zero", stop - 1)
        if last == _MINUS and stop - at == 1:
            raise self._error("has a zero with a minus", at)
        self.nodes.append((INTEGER, 0, at, stop))
        return stop

    def _literal(self, tag: int, at: int, end: int) -> int:
        """Read a string or bytes; the result is where they end."""
        start, stop = self._sized("string" if tag == STRING else "bytes", at, end)
        found = _UNPRINTABLE.search(self._data, start, stop) if tag == STRING else None
        if found is not None:
            raise self._error(
                f"has the character 0x{found[0][0]:02X} in a string, where Michelson has only "
                "printable ASCII and line feeds",
                found.start(),
            )
        self.nodes.append((tag, 0, start, stop))
        return stop

    def _annotations(self, at: int, end: int) -> tuple[int, int]:
        """Check annotations; the result is where they begin, behind their length, and end."""
        start, stop = self._sized("annotations", at, end)
        if start < stop:
            found = _ANNOTATIONS.match(self._data, start, stop)
            if found is None or found.end() < stop:
                raise self._error(
                    "has a malformed annotation; each is one of @ : $ & % ! ? and then up to "
                    f"{MAX_ANNOTATION - 1} letters, digits, _ . % or @, with one space between two",
                    found.end() if found else start,
                )
        return start, stop

    def _sized(self, what: str, at: int, end: int) -> tuple[int, int]:
        """Where the bytes behind a length begin and end."""
        start = at + 4
        if start > end:
            raise self._cut_off(f"length of its {what}", at, end - at, 4)
        size = int.from_bytes(self._data[at:start], "big")
        if size > end - start:
            raise self._cut_off(what, start, end - start, size)
        return start, start + size

    def _cut_off(self, where: str, at: int, there: int, size: int) -> ValueError:
        return self._error(f"is cut off in its {where}: {there} of {size} bytes", at)

    def _error(self, what: str, at: int) -> ValueError:
        return ValueError(f"Micheline {what}, at byte {self._offset + at}")
