"""Events as lines, for people and for journald."""

import os
import re

from twisted.logger import ILogObserver, Logger, LogLevel, LogPublisher
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from tezio_signer.logs.lines import (
    LineObserver,
    journal_line,
    observer_of,
    reaches_journald,
    shown,
    text_line,
)
from tezio_signer.logs.writing import Line


class KeptLines:
    """Takes lines, and keeps them."""

    def __init__(self) -> None:
        self.lines: list[Line] = []

    def put(self, line: Line) -> None:
        self.lines.append(line)

    def finish(self) -> bool:
        return True


class LineObserverTests(SynchronousTestCase):
    """What becomes of an event."""

    def setUp(self) -> None:
        self.kept = KeptLines()

    def said(self) -> list[str]:
        """The lines so far, without their times."""
        lines = "".join(line.data.decode() for line in self.kept.lines).splitlines()
        return [re.sub(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d{4} ", "T ", line) for line in lines]

    def log(self, form: object = text_line, least: object = LogLevel.info) -> Logger:
        """A log that is kept."""
        observer = LineObserver(self.kept, form, "utf-8", least)  # type: ignore[arg-type]
        verifyObject(ILogObserver, observer)
        return Logger("tests", observer=LogPublisher(observer))

    def test_text(self) -> None:
        """A line has time, level and text; what belongs to it is indented."""
        log = self.log()
        log.info("signed {what}", what="block 1/0")
        log.critical("two\nlines")
        self.assertEqual(self.said(), ["T info signed block 1/0", "T critical two", "\tlines"])
        self.assertEqual([line.importance for line in self.kept.lines], [1, 4])

    def test_other_level(self) -> None:
        """The level from which there are lines can be changed at any time."""
        observer = LineObserver(self.kept, text_line, "utf-8", LogLevel.info)
        log = Logger("tests", observer=LogPublisher(observer))
        for level in (LogLevel.debug, LogLevel.warn):
            log.debug("details of {which}", which=level.name)
            log.info("before {which}", which=level.name)
            observer.show_from(level)
            log.debug("details behind {which}", which=level.name)
        self.assertEqual(
            self.said(),
            [
                "T info before debug",
                "T debug details behind debug",
                "T debug details of warn",
                "T info before warn",
            ],
        )

    def test_journal(self) -> None:
        """For journald each line begins with its priority, and has no time."""
        log = self.log(journal_line, LogLevel.debug)
        for level in LogLevel.iterconstants():
            log.emit(level, "a\nb")
        numbers = [number for number in "76432" for _ in "ab"]
        texts = [f"<{number}>{text}" for number, text in zip(numbers, "ab" * 5, strict=True)]
        self.assertEqual(self.said(), texts)

    def test_levels(self) -> None:
        """What is for debugging is left out, unless it is asked for."""
        self.log().debug("detail")
        self.assertEqual(self.said(), [])
        self.log(least=LogLevel.debug).debug("detail")
        self.assertEqual(self.said(), ["T debug detail"])

    def test_failure(self) -> None:
        """A fault has its traceback, every line of it within the same event."""
        log = self.log(journal_line)
        try:
            raise ZeroDivisionError("by zero")
        except ZeroDivisionError:
            log.failure("a fault")
        said = self.said()
        self.assertTrue(all(line.startswith("<2>") for line in said))
        self.assertIn("<2>a fault", said)
        self.assertTrue(any("by zero" in line for line in said))

    def test_unprintable(self) -> None:
        """What an encoding cannot show, or a terminal would obey, is shown as an escape."""
        for text, encoding, expected in (
            ("Zürich", "utf-8", "Zürich".encode()),
            ("Zürich ꜩ", "ascii", b"Z\\xfcrich \\ua729"),
            ("Zürich ꜩ", "latin-1", b"Z\xfcrich \\ua729"),
            ("file \udcff", "utf-8", b"file \\udcff"),
            ("\x1b[2J\rx\x9b\x7f\u2028", "utf-8", b"\\x1b[2J\\x0dx\\x9b\\x7f\\x2028"),
            ("a\tb\n", "ascii", b"a\tb\n"),
        ):
            self.assertEqual(shown(text, encoding), expected)

    def test_broken_event(self) -> None:
        """An event that cannot be formatted is a line too."""
        self.log().info("{missing}")
        self.assertEqual(len(self.said()), 1)
        self.assertIn("missing", self.said()[0])


class JournaldTests(SynchronousTestCase):
    """Whether it is journald that reads."""

    def test_journal_stream(self) -> None:
        """It is if the descriptor is the one that systemd has named."""
        reader, writer = os.pipe()
        self.addCleanup(os.close, reader)
        self.addCleanup(os.close, writer)
        status = os.fstat(writer)
        named = f"{status.st_dev}:{status.st_ino}"
        self.assertTrue(reaches_journald(writer, {"JOURNAL_STREAM": named}))
        for other in ("", "1", "x:y", f"{status.st_dev}:{status.st_ino + 1}"):
            self.assertFalse(reaches_journald(writer, {"JOURNAL_STREAM": other}))
        self.assertFalse(reaches_journald(writer, {}))
        self.assertFalse(reaches_journald(99_999, {"JOURNAL_STREAM": named}))
        for environment, expected in (
            ({"JOURNAL_STREAM": named}, rb"\A<4>careful: Z\xc3\xbcrich\n\Z"),
            ({}, rb"\A\d{4}-\S+ warn careful: Z\\xfcrich\n\Z"),
        ):
            observer = observer_of(writer, "ascii", LogLevel.info, environment)
            Logger("tests", observer=observer).warn("careful: {city}", city="Zürich")
            observer.finish()
            self.assertRegex(os.read(reader, 4096), expected)
