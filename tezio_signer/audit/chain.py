"""The chain of an audit log: how a line is bound to the one before it. Pure: bytes and values.

A line is one JSON object in ASCII and a line feed. It begins with `"format"`, `"number"` and
`"prev"`, and ends with `"hash"`:

    {"format":1,"number":7,"prev":"<64 hex digits>", … ,"hash":"<64 hex digits>"}

`hash` is the SHA-256 of all bytes of the line in front of `,"hash":`. `prev` is the `hash` of
the line before, or 64 zeros in the very first line. `number` counts lines from 1, over all files.
What a crash has left of a line is not in the chain; the next line says in `torn` how many bytes
it is and what their SHA-256 is. docs/audit.md says the same for those who check it with other
programs.
"""

import re
from hashlib import sha256

from attrs import field, frozen

FORMAT = 1
NO_HASH = "0" * 64
"""What the first line of all has for the hash of the one before."""
LONGEST = 1024 * 1024
"""Bytes of a line; what is longer is no line of ours."""
_LINE = re.compile(
    rb'(\{"format":1,"number":([1-9][0-9]{0,17}),"prev":"([0-9a-f]{64})"'
    rb'(?:,"torn":\{"bytes":([0-9]{1,18}),"sha256":"([0-9a-f]{64})"\})?,.*)'
    rb',"hash":"([0-9a-f]{64})"\}\n'
)
_OTHER_FORMAT = re.compile(rb'\{"format":(?!1,)([0-9]{1,9}),.*\}\n')
_FRONT = re.compile(rb'\{"format":1,"number":[1-9][0-9]{0,17},"prev":"[0-9a-f]{64}",')
_END = re.compile(rb',"hash":"[0-9a-f]{64}"\}')
_HEAD = re.compile(r"([0-9]{1,18}):([0-9a-f]{64})")


@frozen
class Head:
    """The end of a chain: the number of its last line and the hash of it."""

    number: int = 0
    hash: str = NO_HASH

    @classmethod
    def parse(cls, text: str) -> "Head":
        """Read what `str()` gives; raises ValueError."""
        found = _HEAD.fullmatch(text.strip())
        if found is None:
            raise ValueError("a head is NUMBER:HASH, with 64 hexadecimal digits in lower case")
        return cls(int(found[1]), found[2])

    def __str__(self) -> str:
        return f"{self.number}:{self.hash}"


@frozen
class Torn:
    """Bytes that are no line: what a crash or a full disk has left of one.

    :ivar size: how many they are.
    :ivar hash: their SHA-256.
    """

    size: int
    hash: str

    @classmethod
    def of(cls, data: bytes) -> "Torn":
        """That of these bytes."""
        return cls(len(data), sha256(data).hexdigest())


@frozen
class Link:
    """A line, as far as the chain is concerned.

    :ivar prev: the hash of the line before, as this one says it.
    :ivar hash: its own hash, as it says it.
    :ivar text: the bytes over which its own hash goes.
    :ivar torn: what it says of bytes in front of it that are no line.
    """

    number: int
    prev: str
    hash: str
    text: bytes = field(repr=False)
    torn: Torn | None = None

    @property
    def own_hash(self) -> str:
        """The hash of its text."""
        return sha256(self.text).hexdigest()

    @property
    def is_whole(self) -> bool:
        """Whether its text is the one that its hash was made of."""
        return self.hash == self.own_hash

    @property
    def head(self) -> Head:
        """The end of the chain, if this is the last line."""
        return Head(self.number, self.hash)


def seal(before: Head, fields: bytes, torn: Torn | None = None) -> tuple[bytes, Head]:
    """Make the next line of a chain, and its new end.

    :param fields: a JSON object in ASCII, without a line feed and not empty.
    :param torn: what lies between the line before and this one.
    """
    number = before.number + 1
    text = b'{"format":%d,"number":%d,"prev":"%b",' % (FORMAT, number, before.hash.encode("ascii"))
    if torn is not None:
        text += b'"torn":{"bytes":%d,"sha256":"%b"},' % (torn.size, torn.hash.encode("ascii"))
    text += fields[1:-1]
    head = Head(number, sha256(text).hexdigest())
    return b'%b,"hash":"%b"}\n' % (text, head.hash.encode("ascii")), head


def link_of(line: bytes) -> Link | None:
    """Read a line with its line feed; None for what has not the form of one.

    Whether the line was changed since is seen by `is_whole`.
    """
    found = _LINE.fullmatch(line)
    if found is None:
        return None
    text, number, prev, size, torn, own = found.groups()
    return Link(
        int(number),
        prev.decode("ascii"),
        own.decode("ascii"),
        text,
        None if torn is None else Torn(int(size), torn.decode("ascii")),
    )


def whole_line(line: bytes) -> Link | None:
    """Read a line; None for what is none, or was changed."""
    link = link_of(line)
    return link if link is not None and link.is_whole else None


def other_format(line: bytes) -> int | None:
    """The format of a line that a later version may have written; None for any other line."""
    found = _OTHER_FORMAT.fullmatch(line)
    return None if found is None else int(found[1])


def may_be_torn(data: bytes, before: Head | None) -> bool:
    """Whether these bytes may be what a crash has left of the line behind a head.

    They are then the beginning of such a line, without its end; or zeros, which a file system
    leaves for what was not on the disk when the power went. A line of which the line feed alone
    is missing is none of these: it is read as a line.

    :param before: None if it is not known.
    """
    if not data.strip(b"\0"):
        return True
    if b"\n" in data:
        return False
    if before is not None:
        front = b'{"format":%d,"number":%d,"prev":"%b",' % (
            FORMAT,
            before.number + 1,
            before.hash.encode("ascii"),
        )
        begins = data.startswith(front) or front.startswith(data)
    else:
        begins = _FRONT.match(data) is not None or b'{"format":1,"number":'.startswith(data[:21])
    if not begins:
        return False
    return _END.search(data) is None
