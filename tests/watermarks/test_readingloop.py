"""The invariants of the loop that reads a store, by their names in `readingloop`."""

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.logger import LogLevel, capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from tezio_signer.errors import StartupError
from tezio_signer.watermarks.readingloop import REFRESH_INTERVAL, RETRY_INTERVAL, ReadingLoop
from tezio_signer.watermarks.store import StoreAwayError, StoreError

AWAY, NONE = StoreAwayError("it is away"), StoreError("it is none")


class ReadingLoopTests(SynchronousTestCase):
    """A loop whose readings end as the test says.

    :ivar outcome: whether the next reading leaves nothing in doubt, or what it fails with.
    :ivar under_way: a reading that waits, if it is slow.
    """

    def setUp(self) -> None:
        self.clock = Clock()
        self.outcome: bool | Exception = True
        self.slow = False
        self.under_way: Deferred[bool] = Deferred()
        self.readings: list[float] = []
        self.ended: list[StartupError] = []
        self.loop = ReadingLoop(self.read, self.clock, self.ended.append)
        self.addCleanup(lambda: self.loop.stop())

    def read(self) -> Deferred[bool]:
        self.readings.append(self.clock.seconds())
        self.under_way = Deferred()
        reading = self.under_way
        if not self.slow:
            self.end()
        return reading

    def end(self) -> None:
        """End the reading that is under way."""
        if isinstance(self.outcome, Exception):
            self.under_way.errback(self.outcome)
        else:
            self.under_way.callback(self.outcome)

    def turn(self, outcome: bool | Exception) -> str | None:
        """What is missing after the next reading."""
        self.outcome = outcome
        with capturedLogs():
            self.clock.advance(REFRESH_INTERVAL)
        return self.loop.missing

    def test_only_known_marks(self) -> None:
        """Nothing is missing from the first good reading on, but while the store is another."""
        away = "no signature without a stored watermark: it is away"
        none = "no signature without a stored watermark: it is none"
        self.assertEqual(self.loop.missing, "the watermark store has not been read yet")
        self.outcome = AWAY
        with capturedLogs() as events:
            self.loop.start()
        self.assertEqual([e["log_level"] for e in events], [LogLevel.warn])
        self.assertEqual(self.loop.missing, away)
        for outcome, missing in (
            (True, None),
            (AWAY, None),
            (NONE, none),
            (AWAY, away),
            (False, None),
        ):
            self.assertEqual(self.turn(outcome), missing)
        fault = "the watermark store cannot be read: a fault, see the log"
        self.assertEqual(self.turn(ZeroDivisionError()), fault)
        self.flushLoggedErrors(ZeroDivisionError)

    def test_told_when_it_changes(self) -> None:
        """The reason is told once, as long as it is the same, and that it is well again once."""
        self.loop.start()
        said = []
        for outcome in (AWAY, NONE, NONE, StoreError("it is another"), True, True):
            self.outcome = outcome
            with capturedLogs() as events:
                self.clock.advance(REFRESH_INTERVAL)
            said.append([(e["log_level"], formatEvent(e)) for e in events])
        critical = LogLevel.critical
        well = [(LogLevel.info, "the watermark store is well again")]
        self.assertEqual(
            said, [[], [(critical, "it is none")], [], [(critical, "it is another")], well, []]
        )

    def test_one_at_a_time(self) -> None:
        """A reading that takes long is the only one; the next is one interval later."""
        self.slow = True
        self.loop.start()
        self.clock.pump([RETRY_INTERVAL] * 10)
        self.assertTrue(self.loop.soon())
        self.clock.pump([RETRY_INTERVAL] * 2)
        self.assertEqual(self.readings, [0])
        self.slow = False
        self.end()
        self.clock.pump([RETRY_INTERVAL] * 10)
        self.assertEqual(len(self.readings), 3)

    def test_soon_is_soon(self) -> None:
        """It is read within a second, however often that is asked for; then at its own times."""
        self.loop.start()
        self.clock.advance(1.5)
        for _ in range(8):
            self.assertTrue(self.loop.soon())
            self.clock.advance(0.125)
        self.assertEqual(self.readings, [0, 2.5])
        self.clock.pump([0.5] * 10)
        self.assertEqual(self.readings, [0, 2.5, 6.5])

    def test_again_in_doubt(self) -> None:
        """A reading that failed, or left something in doubt, is repeated after a second."""
        self.outcome = AWAY
        with capturedLogs():
            self.loop.start()
        self.outcome = False
        self.clock.pump([0.5] * 4)
        self.assertEqual(self.readings, [0, 1, 2])
        self.outcome = True
        self.clock.pump([0.5] * 12)
        self.assertEqual(self.readings, [0, 1, 2, 3, 5])

    def test_who_has_read_stays(self) -> None:
        """No error of the store ends what has read it once."""
        self.loop.start()
        for outcome in (NONE, AWAY, NONE, True):
            self.turn(outcome)
        self.assertEqual(self.ended, [])
        self.assertTrue(self.loop.soon())

    def test_told_once(self) -> None:
        """A store that was none from the beginning is told to who starts, or later, not twice."""
        for outcome, reason in (
            (NONE, "it is none"),
            (ZeroDivisionError(), "the watermark store cannot be read: a fault, see the log"),
        ):
            self.loop = ReadingLoop(self.read, self.clock, self.ended.append)
            self.outcome = outcome
            error = self.assertRaises(StartupError, self.loop.start)
            self.assertEqual((str(error), self.ended), (reason, []))
            self.assertFalse(self.loop.soon())

            self.loop = ReadingLoop(self.read, self.clock, self.ended.append)
            self.outcome = AWAY
            with capturedLogs():
                self.loop.start()
            self.assertEqual(self.turn(outcome), reason)
            self.assertEqual([str(error) for error in self.ended], [reason])
            self.assertFalse(self.loop.soon())
            self.assertEqual(self.clock.getDelayedCalls(), [])
            self.ended.clear()
        self.flushLoggedErrors(ZeroDivisionError)

    def test_stopped(self) -> None:
        """It can be stopped at any time, also twice and in a reading, which is no fault."""
        self.loop.stop()
        self.slow = True
        self.loop.start()
        with capturedLogs() as events:
            self.loop.stop()
            self.loop.stop()
            self.under_way.errback(CancelledError())
        self.assertFalse(self.loop.soon())
        self.assertEqual((list(events), self.ended, self.clock.getDelayedCalls()), ([], [], []))
