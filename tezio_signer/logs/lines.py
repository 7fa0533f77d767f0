"""Events of the log as lines: for a person or a file, or for journald."""

import os
import re
import time
from collections.abc import Callable, Mapping
from typing import Any

from twisted.logger import (
    ILogObserver,
    LogEvent,
    LogLevel,
    eventAsText,
    formatTime,
)
from zope.interface import implementer

from tezio_signer.logs.writing import Line, Lines, LogWriter

_LEVELS = tuple(LogLevel.iterconstants())
"""From debug to critical; a level's place here is the importance of its lines."""
_PRIORITIES = dict(zip(_LEVELS, (7, 6, 4, 3, 2), strict=True))
"""Those of syslog, as sd-daemon(3) has them."""
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")
"""What a terminal would obey instead of showing it; neither tab nor end of line."""
_Format = Callable[[Any, str, float | None], str]


def shown(text: str, encoding: str) -> bytes:
    r"""A text in an encoding, with escapes such as \xe9 for all that cannot be shown in it."""
    text = _CONTROLS.sub(lambda found: f"\\x{ord(found[0]):02x}", text)
    return text.encode(encoding, "backslashreplace")


def text_line(level: Any, text: str, when: float | None) -> str:
    """Time, level and text; further lines of the same event are indented by a tab."""
    return f"{formatTime(when)} {level.name} {text}".replace("\n", "\n\t") + "\n"


def journal_line(level: Any, text: str, when: float | None) -> str:  # noqa: ARG001
    """The text behind its priority, in each of its lines; journald knows the time."""
    priority = f"<{_PRIORITIES[level]}>"
    return "".join(f"{priority}{line}\n" for line in text.split("\n"))


def reaches_journald(descriptor: int, environment: Mapping[str, str]) -> bool:
    """Whether a descriptor is one of journald's (JOURNAL_STREAM, systemd.exec(5))."""
    device, _, inode = environment.get("JOURNAL_STREAM", "").partition(":")
    try:
        status = os.fstat(descriptor)
        return (int(device), int(inode)) == (status.st_dev, status.st_ino)
    except (OSError, ValueError):
        return False


@implementer(ILogObserver)
class LineObserver:
    """Makes lines of the events from a level on, and hands them over.

    :param least: the level below which events are left out.
    """

    def __init__(self, lines: Lines, form: _Format, encoding: str, least: Any) -> None:
        self._lines = lines
        self._form = form
        self._encoding = encoding
        self._least = _LEVELS.index(least)

    def show_from(self, least: Any) -> None:
        """Leave out events below this level from now on."""
        self._least = _LEVELS.index(least)

    def __call__(self, event: LogEvent) -> None:
        level = event.get("log_level", LogLevel.info)
        importance = _LEVELS.index(level)
        if importance < self._least:
            return
        text = eventAsText(event, includeTimestamp=False, includeSystem=False)
        if text:
            line = self._form(level, text.rstrip("\n"), event.get("log_time"))
            self._lines.put(Line(importance, shown(line, self._encoding)))

    def finish(self) -> None:
        """Have all lines written before the process ends, if somebody reads them."""
        self._lines.finish()


def observer_of(
    descriptor: int, encoding: str, least: Any, environment: Mapping[str, str]
) -> LineObserver:
    """What writes the log to a descriptor, never waiting for whoever reads it."""
    form = text_line
    if reaches_journald(descriptor, environment):
        form, encoding = journal_line, "utf-8"

    def left_out(counts: Mapping[int, int]) -> bytes:
        numbers = ", ".join(f"{counts[i]} {_LEVELS[i].name}" for i in sorted(counts))
        text = (
            f"{sum(counts.values())} lines of the log were left out ({numbers}): they were not "
            "read in time"
        )
        return shown(form(LogLevel.warn, text, time.time()), encoding)

    return LineObserver(LogWriter(descriptor, left_out), form, encoding, least)
