"""Lines of the log on their way to whoever reads it, which may be nobody.

A pipe that is full, a socket whose reader hangs, a terminal that was stopped, a disk that
hangs: each blocks who writes to it. So a thread of its own writes, and whoever logs only
hands over a line. What waits for that thread is bounded: of what is too much, the least
important lines go first, and the oldest of them; how many is said as soon as lines flow again.
"""

import os
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from select import POLLOUT, poll
from threading import Condition, RLock, Thread
from time import monotonic
from typing import Protocol

from attrs import field, frozen

MOST_BYTES = 4 * 2**20
"""Of lines that wait; what is more is dropped."""
BATCH_BYTES = 4096
"""Written at once: what a pipe takes whole, or not at all."""
STALLED_SECONDS = 0.4
"""At the end, a reader that has taken nothing for so long is not waited for."""
END_SECONDS = 2.0
"""At the end, one that does read is given so long to read the rest."""
_COUNTS = Callable[[Mapping[int, int]], bytes]


@frozen
class Line:
    """A line that is to be written.

    :ivar importance: lines of less are dropped first.
    :ivar data: the line as it is written, with its end.
    :ivar missing: the lines that it says are missing, by their importance; for others, None.
    :ivar told: is called once, in any thread, when it is known whether the line was written.
    """

    importance: int
    data: bytes
    missing: Mapping[int, int] | None = field(default=None, kw_only=True)
    told: Callable[[bool], object] | None = field(default=None, kw_only=True, eq=False)


class LineQueue:
    """Lines in their order, up to a number of bytes.

    :param left_out: the line that says how many were left out, by their importance.
    :param batch_bytes: what is taken at once.
    """

    def __init__(
        self, left_out: _COUNTS, most_bytes: int = MOST_BYTES, batch_bytes: int = BATCH_BYTES
    ) -> None:
        self._left_out = left_out
        self._most_bytes = most_bytes
        self._batch_bytes = batch_bytes
        self._bytes = 0
        self._next = 0
        self._waiting: dict[int, deque[tuple[int, Line]]] = {}
        self._dropped: Counter[int] = Counter()
        self._gap = 0  # where the first of the dropped lines was

    def __bool__(self) -> bool:
        return self._bytes > 0

    def put(self, line: Line) -> None:
        """Append a line; if that is too much, drop the oldest of the least important ones."""
        self._waiting.setdefault(line.importance, deque()).append((self._next, line))
        self._next += 1
        self._bytes += len(line.data)
        while self._bytes > self._most_bytes:
            least = min(importance for importance, lines in self._waiting.items() if lines)
            place, dropped = self._waiting[least].popleft()
            self._bytes -= len(dropped.data)
            self.count_lost([dropped], place)

    def count_lost(self, lines: Sequence[Line], place: int = 0) -> None:
        """Count lines that nobody will see; they were at this place, or before all others."""
        self._gap = min(self._gap, place) if self._dropped else place
        for line in lines:
            self._dropped.update({line.importance: 1} if line.missing is None else line.missing)
            if line.told is not None:
                line.told(False)

    def take(self) -> list[Line]:
        """The next lines, as many as are written at once; [] if none waits.

        Where lines are missing, one says how many.
        """
        batch: list[Line] = []
        size = 0
        while (head := self._head()) is not None:
            place, line = head
            if batch and size + len(line.data) > self._batch_bytes:
                break
            if self._dropped and self._gap <= place:
                batch.append(self._missing(line.importance))
                size += len(batch[-1].data)
            self._waiting[line.importance].popleft()
            self._bytes -= len(line.data)
            batch.append(line)
            size += len(line.data)
        if batch and self._dropped and head is None:  # those behind the last that is there
            batch.append(self._missing(batch[-1].importance))
        return batch

    def _missing(self, importance: int) -> Line:
        missing, self._dropped = self._dropped, Counter()
        return Line(importance, self._left_out(missing), missing=missing)

    def _head(self) -> tuple[int, Line] | None:
        heads = (lines[0] for lines in self._waiting.values() if lines)
        return min(heads, key=lambda head: head[0], default=None)


class Destination(Protocol):
    """Where lines are written."""

    def write(self, lines: Sequence[Line], progress: Callable[[], None]) -> Sequence[Line]:
        """Write lines, which may take any time; those that could not be written.

        :param progress: is called whenever some of it was written.
        """


class LineWriter:
    """Writes lines in a thread of its own, and never waits for it but at the end.

    What is logged may come from anywhere: from another thread, from a signal's handler, from
    the garbage collector in the middle of this very code. Hence the lock that its holder may
    take again, and `_arrived`, whose `append` cannot be interrupted.

    :param queue: of the lines that wait.
    :param name: of the thread.
    """

    def __init__(self, destination: Destination, queue: LineQueue, name: str) -> None:
        self._destination = destination
        self._queue = queue
        self._name = name
        self._arrived: deque[Line] = deque()
        self._changed = Condition(RLock())
        self._sorting = False
        self._writing = False
        self._ended = False
        self._last_written = monotonic()
        self._ends_since: float | None = None
        self._thread: Thread | None = None

    def put(self, line: Line) -> None:
        """Have a line written; returns at once, unless the end has come (`finish`)."""
        self._arrived.append(line)
        with self._changed:
            if self._sorting:  # further up in this thread, and goes on with what has arrived
                return
            self._sort()
            if self._thread is None:
                self._start()
            self._changed.notify_all()
        if self._ends_since is not None:
            self.finish()

    def finish(self) -> bool:
        """Wait until all lines are written, as long as they are read; whether they are.

        From now on that is done behind every line: the process is about to end.
        """
        if self._ends_since is None:
            self._ends_since = monotonic()
        with self._changed:
            while self._queue or self._writing:
                stalled = max(self._ends_since, self._last_written) + STALLED_SECONDS
                left = min(self._ends_since + END_SECONDS, stalled) - monotonic()
                if left <= 0:
                    return False
                self._changed.wait(left)
        return True

    def end(self) -> None:
        """Let the thread end when it has written what waits; returns at once."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _start(self) -> None:
        # Not one that Python waits for at its end.
        self._thread = Thread(target=self._work, name=self._name, daemon=True)
        try:
            self._thread.start()
        except RuntimeError:  # there are too many: the next line tries again
            self._thread = None

    def _sort(self) -> None:
        while self._arrived:  # again: a signal may come behind the last look and before the end
            self._sorting = True
            try:
                while self._arrived:
                    self._queue.put(self._arrived.popleft())
            finally:
                self._sorting = False

    def _work(self) -> None:
        while True:
            with self._changed:
                self._writing = False
                self._changed.notify_all()
                while not (lines := self._queue.take()):
                    if self._ended:
                        return
                    self._changed.wait()
                self._writing = True
            lost = self._destination.write(lines, self._progress)
            if lost:
                with self._changed:
                    self._queue.count_lost(lost)

    def _progress(self) -> None:
        self._last_written = monotonic()


class LogWriter(LineWriter):
    """Writes lines to a descriptor.

    :param descriptor: is left as it is, blocking or not: others may share it.
    """

    def __init__(self, descriptor: int, left_out: _COUNTS, most_bytes: int = MOST_BYTES) -> None:
        super().__init__(_Descriptor(descriptor), LineQueue(left_out, most_bytes), "log")


class _Descriptor:
    """A descriptor that somebody reads, or nobody."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def write(self, lines: Sequence[Line], progress: Callable[[], None]) -> Sequence[Line]:
        try:
            self._write(b"".join(line.data for line in lines), progress)
        except OSError:  # a full disk, or nobody can ever read it: later ones may get through
            return lines
        return ()

    def _write(self, data: bytes, progress: Callable[[], None]) -> None:
        while data:
            try:
                written = os.write(self._descriptor, data)
            except BlockingIOError:
                ready = poll()
                ready.register(self._descriptor, POLLOUT)
                ready.poll()
            else:
                data = data[written:]
                progress()


class Lines(Protocol):
    """What takes lines."""

    def put(self, line: Line) -> None:
        """Have a line written."""

    def finish(self) -> bool:
        """Have all of them written; whether they are."""
