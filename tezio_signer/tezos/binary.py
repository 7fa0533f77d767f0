"""Fields of binary data, read from left to right.

All integers are big-endian. What does not fit is an error that names the field and its offset.
"""

from typing import ClassVar


class Reader:
    """Reads one value, field by field.

    Each method that reads raises `error` for a field that is not there completely.

    :param what: what is read, as errors call it: "the block".
    :param offset: of the first byte, in what the client has sent.
    :cvar error: raised for data that cannot be read.
    """

    error: ClassVar[type[ValueError]] = ValueError

    def __init__(self, data: bytes, what: str, offset: int = 0) -> None:
        self._data = data
        self._what = what
        self._offset = offset
        self._at = 0
        self._field_at = 0

    @property
    def left(self) -> int:
        """How many bytes were not read yet."""
        return len(self._data) - self._at

    @property
    def field_offset(self) -> int:
        """Where the field that was read last begins, in what the client has sent."""
        return self._offset + self._field_at

    def unreadable(self, why: str) -> ValueError:
        """The error for the field that was read last, which cannot be what it is."""
        return self.error(f"{why}, at byte {self.field_offset}")

    def next(self) -> int | None:
        """The next byte, which stays to be read; None at the end."""
        self._field_at = self._at
        return self._data[self._at] if self.left else None

    def take(self, size: int, field: str) -> bytes:
        """So many bytes as they are."""
        self._field_at = self._at
        taken = self._data[self._at : self._at + size]
        if len(taken) < size:
            raise self.unreadable(
                f"{self._what} is cut off in its {field}: {len(taken)} of {size} bytes"
            )
        self._at += size
        return taken

    def number(self, size: int, field: str) -> int:
        """An unsigned integer of so many bytes."""
        return int.from_bytes(self.take(size, field), "big")

    def int32(self, field: str) -> int:
        """A signed integer of four bytes."""
        return int.from_bytes(self.take(4, field), "big", signed=True)

    def natural32(self, field: str) -> int:
        """A signed integer of four bytes that must not be negative."""
        value = self.int32(field)
        if value < 0:
            raise self.unreadable(f"{self._what} has a negative {field}: {value}")
        return value

    def part(self, size: int, field: str, what: str) -> "Reader":
        """A reader for a field that has fields itself."""
        part = self.take(size, field)
        return type(self)(part, what, self.field_offset)

    def rest(self, field: str) -> bytes:
        """All bytes that are left; they may be none."""
        return self.take(self.left, field)

    def end(self) -> None:
        """Raises `error` if something is left."""
        left = len(self.rest("end"))
        if left:
            raise self.unreadable(f"{self._what} has {left} trailing byte{'s' * (left > 1)}")
