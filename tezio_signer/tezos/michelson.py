"""Micheline nodes as Michelson text and as the JSON of Octez.

The text is that of the Octez printer (`src/lib_micheline/micheline_printer.ml`) on one line.
"""

import decimal
from collections.abc import Iterator, Sequence

from tezio_signer.tezos.jsontext import Json
from tezio_signer.tezos.primitives import PRIMITIVES

Node = tuple[int, int, int, int]
"""What the node is, how many nodes are within it, and where its data start and stop.

The data are those of a literal, or the annotations of a primitive. The nodes within it follow it.
"""
INTEGER, STRING, SEQUENCE, BYTES = 0x00, 0x01, 0x02, 0x0A
PRIMITIVE = 0x100
"""What a node is: one of these tags, or PRIMITIVE and the number of the primitive."""

_ARGUMENT, _ITEM = " ", " ; "
# Characters that close nodes, so many that they are a piece: nesting may make any number of them.
_LONG = 80
# Python refuses to write integers of more digits than a limit of at least 640; see `decimal_text`.
_BITS_FOR_PYTHON = 2048
_BITS_A_PIECE = 1024
_EXACT = decimal.Context(
    prec=decimal.MAX_PREC,
    Emax=decimal.MAX_EMAX,
    Emin=decimal.MIN_EMIN,
    traps=[decimal.Inexact, decimal.InvalidOperation],
)
_SEVEN_BITS = tuple(format(byte & 0x7F, "07b") for byte in range(256))
# Strings have printable characters and line feeds only.
_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n"})


def pieces(nodes: Sequence[Node], data: bytes, most: int | None = None) -> Iterator[str | None]:
    """The text in pieces; an integer is one of its own.

    :param most: how many characters are needed. What is longer may be shortened, but not to less
        than that. None stands for an integer with more digits.
    """
    # Of each node that is not complete: how many follow in it, what stands between two of them,
    # and behind the last.
    stack: list[tuple[int, str, str]] = []
    left, between, behind = 1, "", ""
    # What closes nodes, and separates them from the next.
    front = ""
    for what, children, start, stop in nodes:
        left -= 1
        if what == INTEGER:
            yield front
            yield _integer_text(data[start:stop], most)
            front = ""
        else:
            if most is not None:
                stop = min(stop, start + most)
            wrapped = between == _ARGUMENT and what >= PRIMITIVE and bool(children or stop > start)
            yield f"{front}{'(' * wrapped}{_opening(what, children, data[start:stop])}"
            front = ")" * wrapped if not children else ""
            if children:
                stack.append((left, between, behind))
                left = children
                between, behind = (_ITEM, " }") if what == SEQUENCE else (_ARGUMENT, ")" * wrapped)
                continue
        while not left and stack:
            front += behind
            left, between, behind = stack.pop()
            if len(front) > _LONG:
                yield front
                front = ""
        if left:
            front += between
    yield front


def _opening(what: int, children: int, data: bytes) -> str:
    """What is written of a node in front of those within it."""
    if what == STRING:
        return f'"{data.decode("ascii").translate(_ESCAPES)}"'
    if what == BYTES:
        return f"0x{data.hex()}"
    if what == SEQUENCE:
        return "{ " if children else "{}"
    annotations = f" {data.decode('ascii')}" if data else ""
    return f"{PRIMITIVES[what - PRIMITIVE]}{annotations}{_ARGUMENT if children else ''}"


def json(nodes: Sequence[Node], data: bytes) -> Json:
    """The value that Octez writes as JSON; it may be nested deep."""
    whole: list[Json] = []
    stack: list[tuple[list[Json], int]] = []
    into, left = whole, 1
    for what, children, start, stop in nodes:
        left -= 1
        within: list[Json] = []
        if what == INTEGER:
            into.append({"int": decimal_text(_integer(data[start:stop]))})
        elif what == STRING:
            into.append({"string": data[start:stop].decode("ascii")})
        elif what == BYTES:
            into.append({"bytes": data[start:stop].hex()})
        elif what == SEQUENCE:
            into.append(within)
        else:
            value: dict[str, Json] = {"prim": PRIMITIVES[what - PRIMITIVE]}
            if children:
                value["args"] = within
            if stop > start:
                value["annots"] = list(data[start:stop].decode("ascii").split(" "))
            into.append(value)
        if children:
            stack.append((into, left))
            into, left = within, children
        while not left and stack:
            into, left = stack.pop()
    return whole[0]


def _integer_text(data: bytes, most: int | None) -> str | None:
    # A digit is less than 4 bits: with more bits than that there are more than `most` digits.
    if most is not None and len(data) * 7 > (most + 2) * 4:
        return None
    return decimal_text(_integer(data))


def _integer(data: bytes) -> int:
    """A zarith number with a sign: 6 bits in its first byte, 7 in each other, the lowest first."""
    groups = [_SEVEN_BITS[byte] for byte in reversed(data)]
    groups[-1] = groups[-1][1:]
    value = int("".join(groups), 2)
    return -value if data[0] & 0x40 else value


def decimal_text(value: int) -> str:
    """An integer in decimal, however long; in much less than quadratic time."""
    if value.bit_length() <= _BITS_FOR_PYTHON:
        return str(value)
    powers: dict[int, decimal.Decimal] = {}

    def power(bits: int) -> decimal.Decimal:
        if bits not in powers:
            powers[bits] = (
                decimal.Decimal(1 << bits)
                if bits <= _BITS_A_PIECE
                else _EXACT.multiply(power(bits // 2), power(bits - bits // 2))
            )
        return powers[bits]

    def converted(part: int, bits: int) -> decimal.Decimal:
        # Halves the number each time: nested as deep as the logarithm of its length.
        if bits <= _BITS_A_PIECE:
            return decimal.Decimal(part)
        low = bits // 2
        high = part >> low
        rest = converted(part - (high << low), low)
        return _EXACT.add(_EXACT.multiply(converted(high, bits - low), power(low)), rest)

    digits = str(converted(abs(value), value.bit_length()))
    return f"-{digits}" if value < 0 else digits
