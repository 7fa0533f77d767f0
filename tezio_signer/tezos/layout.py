"""Of what the layouts of operations are put together: numbers, hashes, keys, and their groups.

A `Codec` reads one value of a `FieldReader`. What Octez writes in one way only is read in that
way only (`data-encoding`): numbers without superfluous zeros, 00 or ff in front of what may be
absent, lengths that are exact. So whatever was read would be written as the same bytes.
"""

from collections.abc import Callable, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import TypeAlias

from tezio_signer.tezos import base58check, micheline
from tezio_signer.tezos.base58check import Base58Type
from tezio_signer.tezos.binary import Reader
from tezio_signer.tezos.keys import HASH_TYPES
from tezio_signer.tezos.micheline import Micheline

Value: TypeAlias = "int | str | bytes | Micheline | tuple[Value, ...] | Mapping[str, Value] | None"
"""A field: numbers, text in Base58Check, bytes; None for what is absent; and groups of these."""

_MUTEZ_OF_TEZ = 10**6
_MOST_MUTEZ = 2**63 - 1
_SHORT = 10
"""Bytes of the numbers of a manager operation, at most (Octez `check_size 10`)."""
_LONG = 1024
"""Bytes of other numbers: Octez has no limit, but reading takes time squared."""
_KEY_TYPES = (
    Base58Type.EDPK,
    Base58Type.SPPK,
    Base58Type.P2PK,
    Base58Type.BLPK,
    Base58Type.MDPK,
)
"""By the tag of a public key; so are the hashes."""
_ADDRESS_TYPES = tuple(HASH_TYPES.values())
_SIGNATURE_TYPES = {64: Base58Type.SIG, 96: Base58Type.BLSIG, 2420: Base58Type.MDSIG}


class Mutez(int):
    """An amount of money in mutez, exact; its text is in tez."""

    def __str__(self) -> str:
        tez, mutez = divmod(abs(self), _MUTEZ_OF_TEZ)
        fraction = f".{mutez:06}".rstrip("0") if mutez else ""
        return f"{'-' * (self < 0)}{tez}{fraction} tez"


class Undecodable(ValueError):
    """A generic operation that is no operation of the protocols that are known.

    :ivar kind: which was being read: its name, or its tag if none is known; None before any.
    :ivar kinds: all of the group whose reading was begun, this one last.
    """

    def __init__(self, sentence: str, kinds: tuple[str | int, ...] = ()) -> None:
        super().__init__(sentence)
        self.kinds = kinds

    @property
    def kind(self) -> str | int | None:
        """The kind that was being read."""
        return self.kinds[-1] if self.kinds else None


class FieldReader(Reader):
    """Reads the fields of one operation of a group.

    :param kinds: of the group so far, that of this operation last.
    """

    error = Undecodable

    def __init__(
        self, data: bytes, what: str, offset: int = 0, kinds: tuple[str | int, ...] = ()
    ) -> None:
        super().__init__(data, what, offset)
        self._kinds = kinds

    def begin(self, kind: str | int) -> None:
        """Go on with another operation of the group; a number is a tag that is not known."""
        self._kinds += (kind,)
        self._what = f"the {kind}" if isinstance(kind, str) else "the generic operation"

    def again(self, data: bytes) -> "FieldReader":
        """A reader for what was taken last, which may be read in several ways."""
        return FieldReader(data, self._what, self.field_offset, self._kinds)

    @property
    def what(self) -> str:
        """What is read, as errors call it."""
        return self._what

    def unreadable(self, why: str) -> ValueError:
        return self.of_kind(f"{why}, at byte {self.field_offset}")

    def of_kind(self, sentence: str) -> Undecodable:
        """An error that names its byte itself."""
        return Undecodable(sentence, self._kinds)

    def part(self, size: int, field: str, what: str) -> "FieldReader":
        part = self.take(size, field)
        return FieldReader(part, what, self.field_offset, self._kinds)

    def part_as(self, codec: "Codec", size: int, field: str) -> Value:
        """A field of so many bytes, which the codec has to use up."""
        part = self.part(size, field, f"{self._what}'s {field}")
        value = codec(part, field)
        part.end()
        return value

    def byte(self, field: str) -> int:
        """One byte: as `number(1)`, of which an operation has many."""
        at = self._field_at = self._at
        if at == len(self._data):
            self.take(1, field)
        self._at = at + 1
        return self._data[at]

    def natural(self, field: str, longest: int) -> int:
        """An unsigned zarith number: seven bits in a byte, the lowest first."""
        data, at = self._data, self._at
        if at < len(data) and data[at] < 0x80:
            self._field_at, self._at = at, at + 1
            return data[at]
        last = self._last_of(field, longest)
        value = data[last]
        for place in range(last - 1, at - 1, -1):
            value = value << 7 | data[place] & 0x7F
        return value

    def integer(self, field: str, longest: int) -> int:
        """A signed zarith number: the first byte has the sign, and six bits."""
        data, at = self._data, self._at
        last = self._last_of(field, longest)
        value = 0
        for place in range(last, at, -1):
            value = value << 7 | data[place] & 0x7F
        value = value << 6 | data[at] & 0x3F
        if not data[at] & 0x40:
            return value
        if not value:
            raise self.unreadable(f"{self._what} has a {field} of minus zero")
        return -value

    def _last_of(self, field: str, longest: int) -> int:
        """Where a number ends; it is taken, and has no superfluous byte."""
        data, at = self._data, self._at
        self._field_at = last = at
        end = min(len(data), at + longest)
        while last < end and data[last] & 0x80:
            last += 1
        if last == end:
            if end == len(data):
                self.take(last - at + 1, field)
            raise self.unreadable(f"{self._what} has a {field} of more than {longest} bytes")
        if last > at and not data[last]:
            raise self.unreadable(f"{self._what} has a {field} with a superfluous zero")
        self._at = last + 1
        return last


Codec = Callable[[FieldReader, str], Value]
"""Reads a field, whose name is for errors; raises Undecodable."""


def unsigned(size: int) -> Codec:
    """A number of so many bytes."""
    return lambda reader, field: reader.number(size, field)


def signed(size: int) -> Codec:
    """A number of so many bytes that may be negative."""
    return lambda reader, field: int.from_bytes(reader.take(size, field), "big", signed=True)


def level(reader: FieldReader, field: str) -> int:
    """Four bytes that are not negative: a level or a round."""
    return reader.natural32(field)


def int31(reader: FieldReader, field: str) -> int:
    """Four bytes, in the range that OCaml had on machines of 32 bits."""
    value = reader.int32(field)
    if not -(2**30) <= value < 2**30:
        raise reader.unreadable(f"{reader.what} has a {field} of more than 31 bits")
    return value


def ticks(reader: FieldReader, field: str) -> int:
    """Eight bytes that are not negative."""
    value = int.from_bytes(reader.take(8, field), "big", signed=True)
    if value < 0:
        raise reader.unreadable(f"{reader.what} has a negative {field}: {value}")
    return value


def counted(reader: FieldReader, field: str) -> int:
    """A natural number of a manager operation: counter, gas, storage."""
    return reader.natural(field, _SHORT)


def natural(reader: FieldReader, field: str) -> int:
    """A natural number without a limit in Octez."""
    return reader.natural(field, _LONG)


def positive(reader: FieldReader, field: str) -> int:
    """A natural number that Octez reads only if it is not zero."""
    value = reader.natural(field, _LONG)
    if not value:
        raise reader.unreadable(f"{reader.what} has a {field} of zero")
    return value


def not_negative(reader: FieldReader, field: str) -> int:
    """An integer that Octez writes with a sign, which the protocol wants to be none."""
    value = reader.integer(field, _LONG)
    if value < 0:
        raise reader.unreadable(f"{reader.what} has a negative {field}")
    return value


def mutez(reader: FieldReader, field: str) -> Mutez:
    """Money."""
    value = reader.natural(field, _SHORT)
    if value > _MOST_MUTEZ:
        raise reader.unreadable(f"{reader.what} has a {field} of {value} mutez, above 2^63 - 1")
    return Mutez(value)


def raw(size: int) -> Codec:
    """So many bytes, shown in hexadecimal."""
    return lambda reader, field: reader.take(size, field)


def rest(reader: FieldReader, field: str) -> bytes:
    """The bytes that are left."""
    return reader.rest(field)


@lru_cache(maxsize=1024)  # every operation of a batch has the same source
def _text(kind: Base58Type, data: bytes) -> str:
    return base58check.encode(kind, data)


def hashed(kind: Base58Type) -> Codec:
    """A hash, in Base58Check."""
    size = kind.value.length
    return lambda reader, field: base58check.encode(kind, reader.take(size, field))


def key_hash(reader: FieldReader, field: str) -> str:
    """A public key hash: tz1 to tz5."""
    data = reader.take(21, field)
    if data[0] >= len(_ADDRESS_TYPES):
        raise reader.unreadable(f"{reader.what} has a {field} of unknown curve 0x{data[0]:02X}")
    return _text(_ADDRESS_TYPES[data[0]], data[1:])


def public_key(reader: FieldReader, field: str) -> str:
    """A public key of any of the five curves; it is not tried whether it is on the curve."""
    tag = reader.byte(field)
    if tag >= len(_KEY_TYPES):
        raise reader.unreadable(f"{reader.what} has a {field} of unknown curve 0x{tag:02X}")
    kind = _KEY_TYPES[tag]
    data = reader.take(kind.value.length, field)
    if kind in (Base58Type.SPPK, Base58Type.P2PK) and data[0] not in (2, 3):
        raise reader.unreadable(f"{reader.what} has a {field} that is no compressed point")
    return base58check.encode(kind, data)


def signature(reader: FieldReader, field: str) -> str | None:
    """A signature up to the end; None if there is none."""
    data = reader.rest(field)
    if not data:
        return None
    kind = _SIGNATURE_TYPES.get(len(data))
    if kind is None:
        raise reader.unreadable(f"{reader.what} has a {field} of {len(data)} bytes")
    return base58check.encode(kind, data)


def contract(reader: FieldReader, field: str) -> str:
    """An account: tz1 to tz5, or KT1."""
    if reader.next() == 1:
        return originated(reader, field)
    if reader.byte(field) != 0:
        raise reader.unreadable(f"{reader.what} has a {field} that is no account")
    return key_hash(reader, field)


def originated(reader: FieldReader, field: str) -> str:
    """A contract: KT1."""
    data = reader.take(22, field)
    if data[0] != 1 or data[21] != 0:
        raise reader.unreadable(f"{reader.what} has a {field} that is no contract")
    return _text(Base58Type.CONTRACT, data[1:21])


def one_of(names: Mapping[int, str]) -> Codec:
    """A byte that stands for a name."""

    def read(reader: FieldReader, field: str) -> str:
        number = reader.byte(field)
        name = names.get(number)
        if name is None:
            raise reader.unreadable(f"{reader.what} has an unknown {field} 0x{number:02X}")
        return name

    return read


def flag(reader: FieldReader, field: str) -> bool:
    """Whether something is so; it is 00 or ff."""
    number = reader.byte(field)
    if number not in (0x00, 0xFF):
        raise reader.unreadable(
            f"{reader.what} has 0x{number:02X} in front of its {field}, where 00 or ff is accepted"
        )
    return number == 0xFF


def optional(codec: Codec) -> Codec:
    """What may be absent: behind a byte that says whether it is there."""
    return lambda reader, field: codec(reader, field) if flag(reader, field) else None


def sized(codec: Codec) -> Codec:
    """What stands behind its length, four bytes."""
    return lambda reader, field: reader.part_as(codec, reader.number(4, field), field)


data_bytes: Codec = sized(rest)
"""Bytes behind their length."""


def _expression(reader: FieldReader, field: str) -> Micheline:
    data = reader.rest(field)
    try:
        return micheline.decode(data, reader.field_offset)
    except ValueError as error:
        raise reader.of_kind(f"{reader.what} is unreadable: {error}") from error


expression: Codec = sized(_expression)
"""Micheline behind its length."""


def listed(codec: Codec) -> Codec:
    """As many as there are, behind the length of all of them."""

    def read(reader: FieldReader, field: str) -> tuple[Value, ...]:
        values = []
        while reader.left:
            values.append(codec(reader, field))
        return tuple(values)

    return sized(read)


def record(**codecs: Codec) -> Codec:
    """Fields, one after another."""
    fields = tuple(codecs.items())

    def read(reader: FieldReader, _field: str) -> Mapping[str, Value]:
        values = {}
        for name, codec in fields:
            values[name] = codec(reader, name)
        return MappingProxyType(values)

    return read


def pair(first: Codec, second: Codec) -> Codec:
    """Two values that have no names."""
    return lambda reader, field: (first(reader, field), second(reader, field))


def case(named: str, tags: Mapping[int, tuple[str, Codec]]) -> Codec:
    """One of several records, by a tag in front.

    :param named: the field that the record gets for its own name.
    """

    def read(reader: FieldReader, field: str) -> Mapping[str, Value]:
        tag = reader.byte(field)
        if tag not in tags:
            raise reader.unreadable(f"{reader.what} has an unknown {field} 0x{tag:02X}")
        name, codec = tags[tag]
        fields = codec(reader, field)
        return MappingProxyType({named: name, **(fields if isinstance(fields, Mapping) else {})})

    return read
