"""The audit log of a daemon: an observer of decisions, with a thread that writes them.

Nobody waits for it, unless the configuration says `required`. Then a signature leaves when its
line is on the disk, and not before; and when lines cannot be written, nothing is signed.

What holds, and has a test each (`tests/audit/test_service.py`):

1. Without `required`, no disk holds up an answer (`test_hanging_disk`), and how many lines were
   lost is in the next line that is written (`test_lost_lines`).
2. With `required`, no signature leaves before its line is written (`test_waits_for_its_line`); one
   whose line cannot be written is a 502 (`test_full_disk`), and so is every request until a line
   can be written again (`test_refuses_at_once`).
3. What anybody can cause, without a request that may be decided upon, has a limited number of
   lines a minute, and the rest is counted (`test_flood`).
"""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NoReturn

from twisted.application.service import Service
from twisted.internet import defer
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from tezio_signer import __version__
from tezio_signer.audit.chain import Head
from tezio_signer.audit.entries import entry
from tezio_signer.audit.facts import entry_of
from tezio_signer.audit.files import AuditFile
from tezio_signer.decision import Decision, Outcome, Stage
from tezio_signer.errors import AUDIT, Unavailable
from tezio_signer.logs.writing import Line, LineQueue, LineWriter
from tezio_signer.noop import do_nothing
from tezio_signer.rates import Rate

KEEP_SECONDS = 2.0
"""After which a signature whose line is not written is not released; with `required`."""
LINES_PER_MINUTE = 60
"""About connections that may not ask, and as many about what cannot be read, of each listener."""
LINES_PER_HEAD = 1000
"""After so many lines the log of the daemon says where the chain is."""
_STOP_SECONDS = 2.0
_BATCH_BYTES = 64 * 1024
"""Written and synced at once; so that many who wait need one sync."""
_OTHER, _REFUSED, _SIGNED, _EVENT = range(4)
"""The importance of lines: when too many wait, those of less are dropped first."""
_NAMES = {_OTHER: "other", _REFUSED: "refused", _SIGNED: "signed", _EVENT: "events"}
_InReactor = Callable[..., object]


class AuditLog(Service):
    """Writes a line for each decision.

    :param required: whether nothing is signed without its line.
    :param in_reactor: makes a call in the thread of the reactor, from any other (as
        `callFromThread`).
    :param now: the time since 1970.
    """

    _log = Logger()

    def __init__(
        self,
        path: Path,
        required: bool,
        clock: IReactorTime,
        in_reactor: _InReactor,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.path = path
        self.required = required
        self._clock = clock
        self._in_reactor = in_reactor
        self._now = now
        self._file = AuditFile(path, now, partial(in_reactor, self._say))
        self._rates = {
            (stage, name): Rate(LINES_PER_MINUTE, clock)
            for stage in (Stage.CONNECTION, Stage.READING)
            for name in ("http", "octez_socket", None)
        }
        self._left_out: Counter[object] = Counter()
        self._writer: LineWriter | None = None
        self._trouble: str | None = None
        self._lost = 0
        self._told_at = 0

    # -- the service -------------------------------------------------------------------

    def startService(self) -> None:
        """Take the file; raises StartupError if it cannot be written."""
        super().startService()
        self._file.open()
        head = self._file.head
        self._tell_head(head, "goes on behind")
        queue = LineQueue(self._missing, batch_bytes=_BATCH_BYTES)
        self._writer = LineWriter(self, queue, "audit")
        self._event("start", version=__version__)

    async def _stop(self) -> None:
        stopped = self._kept(_EVENT, entry("stop", self._now()))
        try:
            await stopped.addTimeout(_STOP_SECONDS, self._clock)
        except (defer.TimeoutError, Unavailable):
            self._log.warn("the last lines of the audit log {path} are not written", path=self.path)
            return
        finally:
            writer, self._writer = self._writer, None
            if writer is not None:
                writer.end()
        self._tell_head(self._file.head, "ends with")
        self._file.close()

    def stopService(self) -> Deferred[None]:
        """Write what waits, and a last line; fires after two seconds in any case."""
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    def reopen(self) -> None:
        """Go on in the file that has the name now, as is done for every line; returns at once."""
        self._event("reopen")

    # -- decisions ---------------------------------------------------------------------

    def decided(self, decision: Decision) -> None:
        """Have the line of a decision written; returns at once."""
        place = (decision.stage, None if decision.listener is None else decision.listener.value)
        rate = self._rates.get(place)
        if rate is not None and not rate.take(None):
            self._left_out[place] += 1
            return
        fields = entry_of(decision, self._now(), self._left_out.pop(place, 0))
        self._put(Line(_importance(decision), fields, told=self._told))

    def check(self) -> None:
        """Raise Unavailable if lines are required and cannot be written for the time being."""
        if self.required and self._trouble is not None:
            raise self._unavailable(self._trouble)

    def keep(self, decision: Decision) -> Deferred[None]:
        """Have the line of a decision written, and wait for it.

        Fires when it survives a power cut; fails with Unavailable if it cannot be written, or
        was not within `KEEP_SECONDS`.
        """
        kept = self._kept(_importance(decision), entry_of(decision, self._now()))
        return kept.addTimeout(KEEP_SECONDS, self._clock, self._too_late)

    def _kept(self, importance: int, fields: bytes) -> Deferred[None]:
        kept: Deferred[None] = Deferred(do_nothing)

        def told(written: bool) -> None:
            self._told(written)
            self._in_reactor(self._fire, kept, written)

        self._put(Line(importance, fields, told=told))
        return kept

    def _fire(self, kept: Deferred[None], written: bool) -> None:
        if kept.called:
            return
        if written:
            kept.callback(None)
        else:
            kept.errback(self._unavailable(self._trouble or "lines wait too long"))

    def _too_late(self, result: object, seconds: float) -> NoReturn:
        why = f"a line was not written within {seconds:g} s"
        self._fail(why)
        raise self._unavailable(why)

    def _unavailable(self, why: str) -> Unavailable:
        return Unavailable(
            f"the audit log cannot be written ({why}), and nothing is signed without it "
            "(audit.required)"
        ).by(AUDIT)

    def _event(self, kind: str, **facts: object) -> None:
        self._put(Line(_EVENT, entry(kind, self._now(), **facts), told=self._told))

    def _put(self, line: Line) -> None:
        if self._writer is not None:
            self._writer.put(line)
        elif line.told is not None:
            line.told(False)

    # -- in the thread -----------------------------------------------------------------

    def write(self, lines: Sequence[Line], progress: Callable[[], None]) -> Sequence[Line]:
        """Write lines; those that could not be written. For the thread."""
        try:
            written = self._file.append([line.data for line in lines], self.required)
        except Exception:  # else the thread would end, and nobody would see it
            self._in_reactor(self._log.failure, "a fault while writing the audit log", Failure())
            self._fail("there was a fault, see the log")
            return lines
        if written.error is None:
            progress()
            self._well(written.head)
        else:
            self._fail(written.error)
        there = lines[: written.count]
        for line in there:
            if line.told is not None:
                line.told(written.error is None or not self.required)
        return lines[written.count :]

    def _well(self, head: Head) -> None:
        if self._trouble is not None:
            self._trouble = None
            lost, self._lost = self._lost, 0
            self._in_reactor(self._say_well, lost)
        if head.number - self._told_at >= LINES_PER_HEAD:
            self._told_at = head.number
            self._in_reactor(self._tell_head, head, "has come to")

    def _told(self, written: bool) -> None:
        """Take note of what became of a line, in whichever thread."""
        if written:
            return
        self._lost += 1
        self._fail("too many lines wait to be written")

    def _fail(self, why: str) -> None:
        """Take note, in whichever thread, that lines cannot be written; it is said once."""
        if self._trouble is None:
            self._trouble = why
            self._in_reactor(self._say_failing)

    def _missing(self, counts: Mapping[int, int]) -> bytes:
        each = {_NAMES[importance]: count for importance, count in sorted(counts.items())}
        return entry("lost", self._now(), lines=sum(counts.values()), of=each)

    # -- in the reactor ----------------------------------------------------------------

    def _say(self, sentence: str) -> None:
        self._log.warn("{sentence}", sentence=sentence)

    def _say_failing(self) -> None:
        then = (
            "nothing is signed until it can be written (audit.required)"
            if self.required
            else "the signer goes on without it, and its next line says how many lines are lost"
        )
        self._log.critical(
            "the audit log {path} cannot be written: {trouble}; {then}",
            path=self.path,
            trouble=self._trouble,
            then=then,
        )

    def _say_well(self, lost: int) -> None:
        self._log.warn(
            "the audit log {path} is written again; {lost} lines are not in it, or were not synced",
            path=self.path,
            lost=lost,
        )

    def _tell_head(self, head: Head, where: str) -> None:
        self._told_at = head.number
        if not head.number:
            self._log.info("the audit log {path} begins", path=self.path)
            return
        self._log.info(
            "the audit log {path} {where} line {head}", path=self.path, where=where, head=head
        )


def _importance(decision: Decision) -> int:
    if decision.outcome is Outcome.SIGNED:
        return _SIGNED
    of_a_request = decision.stage is Stage.REQUEST and decision.outcome is not Outcome.ANSWERED
    return _REFUSED if of_a_request else _OTHER
