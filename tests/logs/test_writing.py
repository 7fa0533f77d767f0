"""Lines of the log that nobody reads, that somebody reads late, or that cannot be written."""

import contextlib
import os
import pty
import socket
import termios
from collections import deque
from collections.abc import Mapping
from threading import enumerate as threads
from time import monotonic
from unittest import mock

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tezio_signer.logs.writing import BATCH_BYTES, STALLED_SECONDS, Line, LineQueue, LogWriter

INFO, WARN, CRITICAL = 1, 2, 4


def line(number: int, importance: int = INFO) -> Line:
    """A line of eight bytes."""
    return Line(importance, b"%07d\n" % number)


def left_out(counts: Mapping[int, int]) -> bytes:
    """How many lines are missing, by their importance."""
    return f"missing {dict(counts)}\n".encode()


def taken(queue: LineQueue) -> list[bytes]:
    """All that waits in a queue."""
    lines: list[bytes] = []
    while batch := queue.take():
        lines += [line.data for line in batch]
    return lines


class LineQueueTests(SynchronousTestCase):
    """What waits, and what is dropped."""

    def test_order(self) -> None:
        """Lines leave in the order in which they came, however important they are."""
        queue = LineQueue(left_out)
        lines = [line(number, number * 3 % 5) for number in range(50)]
        for one in lines:
            queue.put(one)
        self.assertEqual(taken(queue), [one.data for one in lines])
        self.assertFalse(queue)
        self.assertEqual(queue.take(), [])

    def test_batches(self) -> None:
        """As much is taken at once as a pipe takes whole, and a longer line by itself."""
        queue = LineQueue(left_out)
        for number in range(1000):
            queue.put(line(number))
        queue.put(Line(INFO, b"x" * 2 * BATCH_BYTES))
        sizes = []
        while batch := queue.take():
            sizes.append(sum(len(one.data) for one in batch))
        self.assertEqual(sizes, [4096, 8 * 1000 - 4096, 8192])

    def test_oldest_informational_lines_go_first(self) -> None:
        """What is too much is dropped from the least important on, the oldest first, and said."""
        queue = LineQueue(left_out, most_bytes=5 * 8)
        for number, importance in enumerate((INFO, CRITICAL, INFO, WARN, INFO, WARN, WARN)):
            queue.put(line(number, importance))
        self.assertEqual(
            taken(queue),
            [b"missing {1: 2}\n", *(line(number).data for number in (1, 3, 4, 5, 6))],
        )
        queue.put(line(9))
        self.assertEqual(taken(queue), [line(9).data])

    def test_critical_lines_are_kept_longest(self) -> None:
        """A new line goes too, if only more important ones are there; then those go as well."""
        queue = LineQueue(left_out, most_bytes=3 * 8)
        for number in range(3):
            queue.put(line(number, CRITICAL))
        queue.put(line(3))
        queue.put(line(4, WARN))
        for number in range(5, 8):
            queue.put(line(number, CRITICAL))
        self.assertEqual(
            taken(queue),
            [b"missing {1: 1, 2: 1, 4: 3}\n", *(line(number).data for number in (5, 6, 7))],
        )

    def test_lost(self) -> None:
        """Lines that could not be written are counted, those too that one of them had counted."""
        queue = LineQueue(left_out, most_bytes=16)
        for number in range(5):
            queue.put(line(number))
        queue.count_lost(queue.take())
        queue.put(line(5, WARN))
        self.assertEqual(taken(queue), [b"missing {1: 5}\n", line(5).data])

    def test_missing_at_the_end(self) -> None:
        """Lines that were dropped behind all others are told of with the last of those."""
        queue = LineQueue(left_out, most_bytes=16)
        lines = [line(0, CRITICAL), line(1, CRITICAL)]
        for one in (*lines, line(2), line(3)):
            queue.put(one)
        self.assertEqual(taken(queue), [*(one.data for one in lines), b"missing {1: 2}\n"])
        self.assertFalse(queue)

    @given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), max_size=60))
    def test_every_line_is_accounted_for(self, steps: list[tuple[int, bool]]) -> None:
        """Each line is taken or counted as missing, and never more than the limit waits."""
        queue = LineQueue(lambda counts: b"%d" % sum(counts.values()), most_bytes=64)
        seen, missing = [], 0
        for number, (importance, takes) in enumerate([*steps, (0, True)]):
            queue.put(line(number, importance))
            for one in queue.take() if takes else ():
                if one.missing is None:
                    seen.append(one.data)
                else:
                    missing += sum(one.missing.values())
        while batch := queue.take():
            seen += [one.data for one in batch if one.missing is None]
            missing += sum(sum(one.missing.values()) for one in batch if one.missing is not None)
        self.assertEqual(seen, sorted(seen))
        self.assertEqual(len(seen) + missing, len(steps) + 1)


class LogWriterTests(SynchronousTestCase):
    """A writer whose reader does not read."""

    def pipe(self) -> tuple[int, int]:
        """Both ends of a pipe, closed at the end."""
        ends = os.pipe()
        for end in ends:
            self.addCleanup(self.close, end)
        return ends

    def close(self, descriptor: int) -> None:
        """Close a descriptor that may be closed already."""
        with contextlib.suppress(OSError):
            os.close(descriptor)

    def flood(self, writer: LogWriter, number: int = 3000) -> None:
        """Log a lot, which has to take next to no time."""
        began = monotonic()
        for count in range(number):
            writer.put(Line(INFO, b"%0127d\n" % count))
        writer.put(Line(CRITICAL, b"critical\n"))
        self.assertLess(monotonic() - began, STALLED_SECONDS * 5)

    def assert_hangs(self, writer: LogWriter) -> None:
        """Check that its end is not held up."""
        began = monotonic()
        self.assertFalse(writer.finish())
        self.assertLess(monotonic() - began, STALLED_SECONDS * 5)
        writer.put(line(1))  # nor is anything behind it
        self.assertLess(monotonic() - began, STALLED_SECONDS * 5)

    def assert_flows(self, writer: LogWriter, reader: int) -> None:
        """Check that all lines come, or are counted, once somebody reads."""
        said = b""
        while b"critical\n" not in said:
            said += os.read(reader, 65536)
        lines = said.split(b"\n")
        counted = [one for one in lines if one.startswith(b"missing {1: ")]
        missing = sum(int(one[12:-1]) for one in counted)
        self.assertGreater(missing, 0)
        self.assertEqual(sum(len(one) == 127 for one in lines) + missing, 3000)

    def test_unread_pipe(self) -> None:
        """A full pipe stops nobody, and what waited comes when it is read again."""
        reader, end = self.pipe()
        writer = LogWriter(end, left_out, 64 * 1024)
        self.flood(writer)
        self.assert_hangs(writer)
        self.assert_flows(writer, reader)

    def test_hanging_socket(self) -> None:
        """So it is with a socket, such as that of journald, blocking or not."""
        for blocking in (True, False):
            ours, theirs = socket.socketpair()
            self.addCleanup(ours.close)
            self.addCleanup(theirs.close)
            ours.setblocking(blocking)
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            writer = LogWriter(ours.fileno(), left_out, 64 * 1024)
            self.flood(writer)
            self.assert_hangs(writer)
            self.assert_flows(writer, theirs.fileno())

    def test_stopped_terminal(self) -> None:
        """So it is with a terminal that was stopped with Ctrl-S."""
        screen, terminal = pty.openpty()
        self.addCleanup(self.close, screen)
        self.addCleanup(self.close, terminal)
        attributes = termios.tcgetattr(terminal)
        attributes[1] &= ~termios.OPOST
        termios.tcsetattr(terminal, termios.TCSANOW, attributes)
        termios.tcflow(terminal, termios.TCOOFF)
        writer = LogWriter(terminal, left_out, 64 * 1024)
        self.flood(writer)
        self.assert_hangs(writer)
        termios.tcflow(terminal, termios.TCOON)
        self.assert_flows(writer, screen)

    def test_no_reader(self) -> None:
        """Whoever has closed the other end is no reason to fail."""
        reader, end = self.pipe()
        os.close(reader)
        writer = LogWriter(end, left_out)
        self.flood(writer)
        self.assertTrue(writer.finish())

    def test_nothing_is_lost_at_the_end(self) -> None:
        """All lines are there when the end was waited for, and those behind it at once."""
        file = self.mktemp()
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT)
        self.addCleanup(os.close, descriptor)
        writer = LogWriter(descriptor, left_out)
        for number in range(20_000):
            writer.put(line(number))
        self.assertTrue(writer.finish())
        writer.put(line(20_000))
        with open(file, "rb") as written:
            self.assertEqual(written.read(), b"".join(line(n).data for n in range(20_001)))

    def test_logged_while_logging(self) -> None:
        """What is logged within the writer's own work, as by a garbage collection, comes too."""
        reader, end = self.pipe()
        writer = LogWriter(end, left_out)
        put, interruptions = writer._queue.put, [line(2)]

        def interrupted(one: Line) -> None:
            put(one)
            if interruptions:
                writer.put(interruptions.pop())

        self.patch(writer._queue, "put", interrupted)
        writer.put(line(1))
        self.assertTrue(writer.finish())
        self.assertEqual(os.read(reader, 4096), line(1).data + line(2).data)

    def test_logged_behind_the_last_look(self) -> None:
        """So does what comes when all lines are sorted, and the writer does not know it yet."""
        reader, end = self.pipe()
        writer = LogWriter(end, left_out)

        class Arrived(deque[Line]):
            interruptions = [line(2)]

            def __bool__(self) -> bool:
                if len(self) or not self.interruptions or not writer._queue:
                    return len(self) > 0
                writer.put(self.interruptions.pop())
                return False  # as it was before

        writer._arrived = Arrived()
        writer.put(line(1))
        self.assertTrue(writer.finish())
        self.assertEqual(os.read(reader, 4096), line(1).data + line(2).data)

    def test_no_thread_for_now(self) -> None:
        """Where no thread can be started, the next line tries again, and none is lost."""
        reader, end = self.pipe()
        writer = LogWriter(end, left_out)
        with mock.patch("tezio_signer.logs.writing.Thread.start", side_effect=RuntimeError):
            writer.put(line(1))
        writer.put(line(2))
        self.assertTrue(writer.finish())
        self.assertEqual(os.read(reader, 4096), line(1).data + line(2).data)

    def test_thread(self) -> None:
        """Its thread is none that Python waits for, and there is none before the first line."""
        _, end = self.pipe()
        before = set(threads())
        writer = LogWriter(end, left_out)
        self.assertEqual(set(threads()), before)
        writer.put(line(1))
        (thread,) = set(threads()) - before
        self.assertTrue(thread.daemon)
