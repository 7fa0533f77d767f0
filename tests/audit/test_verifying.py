"""Every change of an audit log is found, and its place is named."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import deepcopy
from io import BytesIO
from random import Random
from time import monotonic

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.support.auditlogs import log_of, verified
from tezio_signer.audit.chain import Head, Torn, link_of, seal
from tezio_signer.audit.verifying import Place, Report, Verifier

LINES = log_of(1000)
"""The log of a thousand lines of which the issue speaks."""


def head_of(line: bytes) -> Head:
    """The chain's end with this line."""
    link = link_of(line)
    assert link is not None
    return link.head


def sealed_again(line: bytes, was: bytes, then: bytes) -> bytes:
    """A line that was changed by somebody who knows how its hash is made."""
    link = link_of(line)
    assert link is not None
    text = link.text.replace(was, then)
    front = b'{"format":1,"number":%d,"prev":"%b",' % (link.number, link.prev.encode())
    return seal(Head(link.number - 1, link.prev), b"{" + text[len(front) :] + b"}")[0]


class MutationCase(SynchronousTestCase):
    """Compares what is found."""

    def assert_found(self, report: Report, line: int, *more: int) -> None:
        """Check that the first finding is at this line of the file, or at one of the others."""
        self.assertNotEqual(report.wrong, [])
        self.assertIn(report.wrong[0].place.line, (line, *more), str(report.wrong[0]))

    def assert_well(self, report: Report) -> None:
        """Check that nothing is wrong."""
        self.assertEqual(list(map(str, report.wrong)), [])


class ThousandLinesTests(MutationCase):
    """A log of 1,000 lines, changed at each of them."""

    def changed_everywhere(
        self, change: Callable[[int], Iterable[tuple[Sequence[bytes], tuple[int, ...]]]]
    ) -> None:
        """Change the log at each line, and check that the first finding is where it was changed.

        What was taken before that line is the same for all, and what is behind the first finding
        is not looked at; each fiftieth log is verified from its beginning to its end.

        :param change: says what is from a line on, and which lines of the file may be named.
        """
        before = Verifier()
        for index in range(len(LINES)):
            for rest, places in change(index):
                verifier, number = deepcopy(before), index
                for number, line in enumerate(rest, index + 1):
                    verifier.take(Place("0", number), line)
                    if verifier.report.wrong:
                        break
                else:
                    verifier.end(Place("0", number))
                self.assert_found(verifier.report, *places)
                if index % 50 == 7:
                    whole = verified(b"".join([*LINES[:index], *rest]))
                    self.assertEqual(whole.wrong[0], verifier.report.wrong[0])
            before.take(Place("0", index + 1), LINES[index])

    def test_unchanged(self) -> None:
        """Nothing is found in what was not changed."""
        report = verified(b"".join(LINES))
        self.assert_well(report)
        self.assertEqual((report.lines, report.first), (1000, 1))
        self.assertEqual(report.head, head_of(LINES[-1]))
        self.assertEqual(report.notes, [])

    def test_bytes(self) -> None:
        """Bytes that are other ones, at random places in each line, are found in that line."""
        random = Random(7)

        def change(index: int) -> Iterator[tuple[Sequence[bytes], tuple[int, ...]]]:
            line = LINES[index]
            for at in random.sample(range(len(line)), 20):
                other = random.choice([b for b in range(256) if b != line[at]])
                changed = line[:at] + bytes([other]) + line[at + 1 :]
                rest = LINES[index + 1 :]
                if at == len(line) - 1 and rest:  # its line feed: it is one with the next line
                    changed += rest.pop(0)
                yield [*BytesIO(changed).readlines(), *rest], (index + 1,)

        self.changed_everywhere(change)

    def test_removed(self) -> None:
        """Each line that is removed is missed by the line behind it."""
        self.changed_everywhere(
            lambda index: [(LINES[index + 1 :], (index + 1,))] if index < 999 else []
        )

    def test_last_removed(self) -> None:
        """That the last line was removed is seen by a head that is known, and by nothing else."""
        cut = b"".join(LINES[:-1])
        self.assert_well(verified(cut))
        report = verified(cut, heads=(head_of(LINES[-1]),))
        self.assert_found(report, 999)
        self.assertIn("was removed", report.wrong[0].sentence)

    def test_swapped(self) -> None:
        """Each line that changes places with the next one, or with one far away, is found."""
        random = Random(8)

        def change(index: int) -> Iterator[tuple[Sequence[bytes], tuple[int, ...]]]:
            for other in {index + 1, random.randrange(index + 1, 1000)} if index < 999 else ():
                lines = LINES[index:]
                lines[0], lines[other - index] = lines[other - index], lines[0]
                yield lines, (index + 1,)

        self.changed_everywhere(change)

    def test_added(self) -> None:
        """A line that is added at any place is found there, or by the line behind it.

        It is a copy of one in the log, one of another log, or one that is made to fit, by
        somebody who knows how.
        """
        stranger = log_of(2, Head(7, "ab" * 32))[1]

        def change(index: int) -> Iterator[tuple[Sequence[bytes], tuple[int, ...]]]:
            yield [b"\n", *LINES[index:]], (index + 1,)
            if index:
                yield [stranger, *LINES[index:]], (index + 1,)
                yield LINES[index - 1 :], (index + 1,)
                fitting = seal(head_of(LINES[index - 1]), b'{"kind":"decision"}')[0]
                yield [fitting, *LINES[index:]], (index + 2,)

        self.changed_everywhere(change)
        for line in (LINES[-1], stranger, b"\n", b"{}\n"):
            self.assert_found(verified(b"".join([*LINES, line])), 1001)

    def test_sealed_again(self) -> None:
        """A line that was changed together with its hash is found by the line behind it."""

        def change(index: int) -> Iterator[tuple[Sequence[bytes], tuple[int, ...]]]:
            changed = sealed_again(LINES[index], b'"time":"2026', b'"time":"2025')
            if changed != LINES[index] and index < 999:
                yield [changed, *LINES[index + 1 :]], (index + 2,)

        self.changed_everywhere(change)

    def test_last_sealed_again(self) -> None:
        """The last line has none behind it: a head that is known shows that it was changed."""
        changed = sealed_again(LINES[-1], b'"time":"2026', b'"time":"2025')
        log = b"".join([*LINES[:-1], changed])
        self.assert_well(verified(log))
        self.assert_found(verified(log, heads=(head_of(LINES[-1]),)), 1000)


class EveryByteTests(MutationCase):
    """A small log, changed at every byte."""

    def test_every_byte(self) -> None:
        """Each bit of each byte that is another one is found in its line; so is a byte removed."""
        lines = log_of(5)
        log = b"".join(lines)
        number = 1
        for at, byte in enumerate(log):
            for bit in range(8):
                changed = log[:at] + bytes([byte ^ 1 << bit]) + log[at + 1 :]
                self.assert_found(verified(changed), number)
            if at < len(log) - 1:
                self.assert_found(verified(log[:at] + log[at + 1 :]), number)
            number += byte == 10

    def test_every_added_byte(self) -> None:
        """So is a byte that is added anywhere, at the latest by the line behind it."""
        log = b"".join(log_of(4))
        number = 1
        for at in range(len(log) + 1):
            for byte in (b"\n", b" ", b"0", b"\0", b'"'):
                changed = log[:at] + byte + log[at:]
                if at == len(log) and byte == b"\0":  # may be of a power cut
                    self.assert_well(verified(changed))
                    continue
                # One that is added in front of a line feed ends the line before that.
                self.assert_found(verified(changed), number, number + 1)
            number += at < len(log) and log[at] == 10

    @given(st.binary(max_size=400), st.integers(0, 3), st.integers(0, 600), st.integers(0, 600))
    @settings(max_examples=300)
    def test_anything(self, data: bytes, line: int, at: int, length: int) -> None:
        """Whatever is in the place of anything, nothing fails, and it is found."""
        lines = log_of(5)
        was = lines[line]
        at = min(at, len(was))
        changed = was[:at] + data + was[at + length :]
        if changed != was:
            report = verified(b"".join([*lines[:line], changed, *lines[line + 1 :]]))
            self.assertNotEqual(report.wrong, [])


class TornTests(MutationCase):
    """What a crash has left of a line."""

    def torn(self, left: bytes) -> list[bytes]:
        """A log in whose middle this is left, closed by the line behind it."""
        head = head_of(LINES[9])
        lines = [*LINES[:10], left + b"\n"]
        torn: Torn | None = Torn.of(left)
        for number in range(3):
            line, head = seal(head, b'{"kind":"decision","n":%d}' % number, torn)
            lines.append(line)
            torn = None
        return lines

    def test_at_the_end(self) -> None:
        """A last line that is cut off anywhere is noted, and is no change."""
        log = b"".join(LINES[:9])
        for size in range(1, len(LINES[9]) - 1):
            report = verified(log + LINES[9][:size])
            self.assert_well(report)
            self.assertEqual(report.head, head_of(LINES[8]))
            self.assertEqual([note.place.line for note in report.notes], [10])
            self.assertIn(f"behind {size} bytes", report.notes[0].sentence)
        report = verified(log + LINES[9][:-1])
        self.assert_well(report)
        self.assertEqual(report.head, head_of(LINES[9]))

    def test_told_from_a_change(self) -> None:
        """What is cut off, but is not the beginning of the next line, is a change."""
        log = b"".join(LINES[:9])
        for other in (LINES[9][:-1] + b"x", LINES[10][:300], LINES[8][:300], b"x", b'{"format":1 '):
            self.assert_found(verified(log + other), 10)

    def test_torn_again(self) -> None:
        """So it is if the line that was to close a torn one is torn itself, and not if it is not.

        A crash leaves no line feed behind what it has left.
        """
        log, left = b"".join(LINES[:9]), LINES[9][:150]
        closing, _ = seal(head_of(LINES[8]), b'{"kind":"start"}', Torn.of(left))
        for size in (1, 40, 200):
            report = verified(log + left + b"\n" + closing[:size])
            self.assert_well(report)
            self.assertIn(f"behind {len(left) + 1 + size} bytes", report.notes[0].sentence)
        for other in (b"", b"\n", b"\n\n{", b"x", closing[:40] + b"\n"):
            self.assert_found(verified(log + left + b"\n" + other), 10)

    def test_much(self) -> None:
        """Very many lines that are none of ours take no time for each other."""
        began = monotonic()
        self.assert_found(verified(LINES[0] + b"x\n" * 200_000), 2)
        self.assertLess(monotonic() - began, 20)

    def test_closed(self) -> None:
        """What a line says was torn is noted; zeros and line feeds too."""
        for left in (LINES[10][:100], b"{", b"\0" * 4096, b"\0\n\0\n", b"\n"):
            report = verified(b"".join(self.torn(left)))
            self.assert_well(report)
            self.assertEqual([note.place.line for note in report.notes], [11])
            self.assertIn(f"{len(left)} bytes", report.notes[0].sentence)

    def test_no_crash(self) -> None:
        """What no crash leaves is found, also if a start has taken it for torn."""
        for left in (b"a\nb", b"x" + LINES[10][1:-1], LINES[11][:100], LINES[9][:100]):
            report = verified(b"".join(self.torn(left)))
            self.assert_found(report, 11)
            self.assertIn("before line 11", report.wrong[0].sentence)

    def test_changed_afterwards(self) -> None:
        """What was torn cannot be changed, removed, made longer or added later."""
        log = self.torn(LINES[10][:100])
        front, left, behind = b"".join(log[:10]), log[10], b"".join(log[11:])
        for other in (
            b"",
            b"\n",
            left[1:],
            left[:-2] + b"\n",
            left[:50] + b"x" + left[51:],
            left + left,
            LINES[10],
        ):
            self.assert_found(verified(front + other + behind), 11, 12)
        whole = [*LINES[:10], left, *LINES[10:20]]
        self.assert_found(verified(b"".join(whole)), 11)


class FilesTests(MutationCase):
    """Several files, one behind the other."""

    def rotated(self) -> tuple[bytes, bytes, bytes]:
        """Three files of one chain."""
        one = log_of(4)
        two = log_of(3, head_of(one[-1]))
        three = log_of(2, head_of(two[-1]))
        return b"".join(one), b"".join(two), b"".join(three)

    def test_in_order(self) -> None:
        """The first line of a file goes on with the last one of the file before."""
        report = verified(*self.rotated())
        self.assert_well(report)
        self.assertEqual((report.lines, report.first), (9, 1))

    def test_older_ones_are_gone(self) -> None:
        """Without the oldest files it is said with which line the log begins."""
        report = verified(*self.rotated()[1:])
        self.assert_well(report)
        self.assertEqual(report.first, 5)
        self.assertIn("begins with line 5", report.notes[0].sentence)

    def test_one_is_missing(self) -> None:
        """A file that is missing in the middle is found; so is one in the wrong place."""
        one, two, three = self.rotated()
        report = verified(one, three)
        self.assertIn("lines 5 to 7 are missing", report.wrong[0].sentence)
        self.assertEqual(report.wrong[0].place.file, "1")
        self.assertNotEqual(verified(two, one, three).wrong, [])

    def test_begins_in_the_middle(self) -> None:
        """A file of which the first lines are missing is found, whichever line is the first."""
        one = log_of(4)
        for index in range(1, 4):
            report = verified(b"".join(one[index:]))
            self.assert_found(report, 1)
            self.assertIn("is missing", report.wrong[0].sentence)

    def test_torn_before_a_rotation(self) -> None:
        """What was torn at the end of a file may be told in the first line of the next one."""
        one = log_of(4)
        left = b'{"format":1,"num'
        fields = b'{"kind":"file"}'
        two, _ = seal(head_of(one[-1]), fields, Torn.of(left))
        report = verified(b"".join(one) + left, two)
        self.assert_well(report)
        self.assertEqual(str(report.notes[0].place), "0:5")
        self.assert_well(verified(two))  # without the older file, which is deleted some day
        self.assertNotEqual(verified(b"".join(one), two).wrong, [])
        first, _ = seal(Head(), fields, Torn.of(left))
        self.assert_well(verified(left + b"\n" + first))
        self.assertNotEqual(verified(first).wrong, [])

    def test_deep(self) -> None:
        """A line whose hash is right may have anything in it."""
        line, _ = seal(Head(), b'{"kind":' + b"[" * 200_000 + b"}")
        self.assert_found(verified(line), 1)

    def test_nothing(self) -> None:
        """A file without a line is none to be content with."""
        for nothing in (b"", b"\0" * 10):
            self.assertNotEqual(verified(nothing).wrong, [])

    def test_later_format(self) -> None:
        """A line of a later version is told from a change."""
        report = verified(b"".join([*log_of(3), b'{"format":2,"whatever":1}\n', log_of(4)[3]]))
        self.assertIn("format 2, which a later version", report.wrong[0].sentence)

    def test_head_of_another_log(self) -> None:
        """A head that is known and not in these files is said to be so."""
        _, two, three = self.rotated()
        report = verified(two, three, heads=(Head(2, "ab" * 32),))
        self.assertIn("is not in these files", report.wrong[0].sentence)
