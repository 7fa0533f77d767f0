"""Lines in the log about what anybody can cause: not all of them, so that nobody fills the disk."""

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from tezio_signer.rates import Rate

LINES_PER_MINUTE = 30


class SparingLog:
    """Warns a limited number of times a minute, and says how many lines it has left out."""

    def __init__(self, log: Logger, clock: IReactorTime) -> None:
        self._log = log
        self._rate = Rate(LINES_PER_MINUTE, clock)
        self._left_out = 0

    def warn(self, sentence: str, /, **facts: object) -> None:
        """A line, unless there were too many.

        :param sentence: a format, as of `Logger.warn`.
        """
        if not self._rate.take(None):
            self._left_out += 1
            return
        if self._left_out:
            sentence += " (and {left_out} lines of this kind before, which were left out)"
        self._log.warn(sentence, left_out=self._left_out, **facts)
        self._left_out = 0
