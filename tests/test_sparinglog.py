"""Lines in the log about what anybody can cause."""

from twisted.internet.task import Clock
from twisted.logger import Logger, capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from tezio_signer.sparinglog import LINES_PER_MINUTE, SparingLog


class SparingLogTests(SynchronousTestCase):
    """Thirty lines a minute."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.log = SparingLog(Logger(), self.clock)

    def test_left_out(self) -> None:
        """What is too much is left out, and the next line says how much that was."""
        with capturedLogs() as events:
            for number in range(LINES_PER_MINUTE + 20):
                self.log.warn("{number}: {sentence}", number=number, sentence="no")
            self.clock.advance(60 / LINES_PER_MINUTE)
            self.log.warn("{number}", number="next")
            self.clock.advance(60)
            self.log.warn("{number}", number="last")
        texts = [formatEvent(event) for event in events]
        self.assertEqual(texts[:2], ["0: no", "1: no"])
        self.assertEqual(len(texts), LINES_PER_MINUTE + 2)
        self.assertIn("next (and 20 lines of this kind before", texts[-2])
        self.assertEqual(texts[-1], "last")
