"""Whether the lines of an audit log are all there and as they were written.

A chain shows every change in it: of a byte, by the hash of the line itself; of a line that is
missing, added, in another place or sealed anew, by the line behind it. What it cannot show is
that its last lines were cut off, nor that all lines behind some place were written anew: for
that, somebody has to know a head of before (`heads`).
"""

import json
from collections.abc import Iterable
from hashlib import sha256
from typing import Any, BinaryIO

from attrs import define, evolve, field, frozen

from tezio_signer.audit.chain import (
    LONGEST,
    NO_HASH,
    Head,
    Link,
    Torn,
    link_of,
    may_be_torn,
    other_format,
    whole_line,
)
from tezio_signer.audit.entries import FIRST

_LINE_FEED = b"\n"


@frozen
class Place:
    """A line of a file."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@frozen
class Finding:
    """Something to be said of a line."""

    place: Place
    sentence: str

    def __str__(self) -> str:
        return f"{self.place}: {self.sentence}"


@define
class Report:
    """What was found.

    :ivar lines: how many are in the chain.
    :ivar wrong: what must not be, in the order of the files.
    :ivar notes: what may be.
    :ivar first: the number of the first line.
    :ivar head: the last line; None without one.
    """

    lines: int = 0
    first: int | None = None
    head: Head | None = None
    wrong: list[Finding] = field(factory=list)
    notes: list[Finding] = field(factory=list)


@define
class _NoLines:
    """Bytes that are no lines, up to the next line: torn, or changed.

    :ivar first: what is in the place of the first line.
    :ivar may_be_torn: whether all of it may be what crashes have left.
    :ivar may_be_closed: whether it may be that, and line feeds with which starts have closed it.
    :ivar kept: the last byte, which may be the line feed that closes them.
    """

    place: Place
    before: Head | None
    first: bytes = b""
    may_be_torn: bool = True
    may_be_closed: bool = True
    kept: bytes = b""
    size: int = 0
    hash: Any = field(factory=sha256)

    def add(self, piece: bytes) -> None:
        """Append what is in the place of a line."""
        self.first = self.first or piece
        left = piece.removesuffix(_LINE_FEED)
        self.may_be_closed = self.may_be_closed and may_be_torn(left, self.before)
        self.may_be_torn = self.may_be_torn and left != b"" and self.may_be_closed
        data = self.kept + piece
        self.hash.update(data[:-1])
        self.size += len(data) - 1
        self.kept = data[-1:]

    def is_(self, torn: Torn) -> bool:
        """Whether these are what a line says was torn, with or without a line feed behind it."""
        whole = self.hash.copy()
        closed = self.kept == _LINE_FEED and torn == Torn(self.size, whole.hexdigest())
        whole.update(self.kept)
        return closed or torn == Torn(self.size + len(self.kept), whole.hexdigest())

    @property
    def at_the_end(self) -> bool:
        """Whether this may be what a crash has just left behind the last line.

        So it may if the line that was to close a torn one is torn itself.
        """
        return self.may_be_torn and self.kept != _LINE_FEED


@define
class _Expected:
    """What the next line has to be.

    :ivar hashes: of the line before, any of which is right.
    :ivar exactly: whether no line may be missing.
    """

    number: int
    hashes: frozenset[str]
    exactly: bool = True


class Verifier:
    """Takes the lines of a log in their order; `report` says what was found.

    :param heads: that are known from elsewhere, and have to be in the log.
    """

    def __init__(self, heads: Iterable[Head] = ()) -> None:
        self.report = Report()
        self._heads = {head.number: head for head in heads}
        self._seen: set[int] = set()
        self._no_lines: _NoLines | None = None
        self._expected: _Expected | None = None

    def take(self, place: Place, line: bytes) -> None:
        """Take a line with its line feed, or what is in the place of one."""
        link = link_of(line)
        if link is None:
            if self._no_lines is None:
                self._no_lines = _NoLines(place, self.report.head)
            self._no_lines.add(line)
            return
        self._look_before(place, link)
        number = link.number
        if not link.is_whole:
            self._wrong(place, "this line was changed: its hash is not that of its text")
            if self._expected is not None:
                number = self._expected.number  # what it says of itself is not believed
        elif self._expected is None:
            self._look_at_first(place, link)
        else:
            self._look_at_chain(place, link, self._expected)
        self._look_at_head(place, link)
        if self._expected is None or number >= self._expected.number:
            # Of a line that was changed, one of these is what the next line has for it.
            self._expected = _Expected(number + 1, frozenset((link.hash, link.own_hash)))
            self.report.head = link.head
        if self.report.first is None:
            self.report.first = number
        self.report.lines += 1

    def end(self, place: Place) -> Report:
        """Say that there are no more lines; the whole report.

        :param place: of the last line.
        """
        left, report = self._no_lines, self.report
        if left is not None and left.at_the_end:
            size = left.size + len(left.kept)
            report.notes.append(
                Finding(
                    left.place,
                    f"the last line is cut off behind {size} bytes, as by a crash in the middle of "
                    "writing it, or because it is being written; the signer notes it in the next "
                    "line",
                )
            )
        elif left is not None:
            self._wrong(left.place, _no_line(left))
        if report.head is None:
            self._wrong(place, "there is no line of an audit log")
        for number, head in sorted(self._heads.items()):
            if number not in self._seen:
                last = 0 if report.head is None else report.head.number
                self._wrong(
                    place,
                    f"the log ends with line {last}, and line {head} is known: what was behind it "
                    "was removed"
                    if number > last
                    else f"line {head} is known, and is not in these files",
                )
        return report

    def _look_before(self, place: Place, link: Link) -> None:
        """What is between the line before and this one."""
        left, self._no_lines = self._no_lines, None
        if left is None:
            # In front of the first line that is here, they are at the end of an older file.
            older = self._expected is None and link.number > 1
            if link.torn is not None and not older:
                self._wrong(
                    place,
                    f"line {link.number} says that {link.torn.size} bytes of a torn line are in "
                    "front of it, and they are not there",
                )
        elif link.torn is not None and left.is_(link.torn) and not left.may_be_closed:
            self._wrong(
                left.place,
                f"{_no_line(left)}; the signer has found it when it started, before line "
                f"{link.number}",
            )
        elif link.torn is not None and left.is_(link.torn):
            self.report.notes.append(
                Finding(
                    left.place,
                    f"{link.torn.size} bytes of a line that was torn by a crash or a full disk, as "
                    f"line {link.number} says",
                )
            )
        else:
            self._wrong(left.place, _no_line(left))
            if self._expected is not None:
                self._expected = evolve(self._expected, exactly=False)

    def _look_at_chain(self, place: Place, link: Link, expected: _Expected) -> None:
        number, last = link.number, expected.number - 1
        if number < expected.number:
            self._wrong(
                place,
                f"line {number} stands behind line {last}: it was moved, or added a second time",
            )
        elif number > expected.number:
            if expected.exactly:
                missing = (
                    f"line {expected.number} is"
                    if number == expected.number + 1
                    else f"lines {expected.number} to {number - 1} are"
                )
                self._wrong(place, f"{missing} missing between line {last} and line {number}")
        elif link.prev not in expected.hashes:
            self._wrong(
                place,
                f"line {number} has another hash for the line before it than that one has: one of "
                "the two is not the one that was written",
            )

    def _look_at_first(self, place: Place, link: Link) -> None:
        if _kind(link) != FIRST:
            self._wrong(
                place,
                f"the log begins with line {link.number}, which is not the first one of a file: "
                "what was in front of it is missing",
            )
        elif link.number > 1:
            self.report.notes.append(
                Finding(
                    place,
                    f"the log begins with line {link.number}; those before are in an older file, "
                    "which is not here",
                )
            )
        elif link.prev != NO_HASH:
            self._wrong(place, "line 1 names a line before it")

    def _look_at_head(self, place: Place, link: Link) -> None:
        head = self._heads.get(link.number)
        if head is not None:
            self._seen.add(link.number)
            if head.hash not in (link.hash, link.own_hash):
                self._wrong(
                    place,
                    f"line {link.number} has not the hash {head.hash}, which is known: it, or what "
                    "was before it, was written anew",
                )

    def _wrong(self, place: Place, sentence: str) -> None:
        self.report.wrong.append(Finding(place, sentence))


def _kind(link: Link) -> object:
    try:
        return json.loads(link.text + b"}").get("kind")
    except (ValueError, RecursionError):
        return None


def _no_line(left: _NoLines) -> str:
    later = other_format(left.first)
    if later is not None:
        return (
            f"a line of format {later}, which a later version has written: verify it with that one"
        )
    if left.first == _LINE_FEED:
        return "an empty line, which the signer has not written"
    return "this is no line of an audit log: it was changed, or added"


def verify(files: Iterable[tuple[str, BinaryIO]], heads: Iterable[Head] = ()) -> Report:
    """Read the files of a log in their order, and say what is wrong; raises OSError.

    :param files: the name of each, and what it holds.
    """
    verifier = Verifier(heads)
    place = Place("", 0)
    for name, file in files:
        place = Place(name, 1)
        number = 0
        while piece := file.readline(LONGEST):
            number += 1
            place = Place(name, number)
            if not piece.endswith(_LINE_FEED) and whole_line(piece + _LINE_FEED):
                piece += _LINE_FEED
            verifier.take(place, piece)
    return verifier.end(place)
