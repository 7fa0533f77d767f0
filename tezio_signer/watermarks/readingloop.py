"""When a store of watermarks is read, and what follows when it cannot be read.

A store that nobody else writes to is read once, a shared one again and again. Its marks are

- *unread* until the first reading has ended well: nothing can be claimed;
- *known* from then on, also while the store does not answer for some time;
- *withheld* when what is found in its place is not the store: nothing can be claimed until a
  reading ends well. To end the daemon would lose what it remembers of the marks, which may be
  all that is left of them;
- *given up* when what was found was no store from the beginning, or by a fault of ours: the store
  is read no more, and the daemon ends.

Transitions: a reading that ends well leads from *unread* and *withheld* to *known*; one that fails
because the store is away changes nothing; any other `StoreError` leads from *unread* to
*given up*, and from *known* to *withheld*; any other exception leads to *given up*.

Invariants, each with a test of its name in `tests/watermarks/test_readingloop.py`:

1. *Only known marks*: `missing` is None when the marks are known, and at no other time.
2. *One at a time*: a reading begins only when the one before it has ended.
3. *Soon is soon*: after `soon` a reading begins within a second, however often it is called.
4. *Who has read stays*: after a reading that ended well no `StoreError` ends the daemon.
5. *Told once*: that the store is given up is either raised by `start`, or told to `give_up` later.
"""

from collections.abc import Awaitable, Callable

from twisted.internet.defer import CancelledError
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from tezio_signer.errors import StartupError
from tezio_signer.watermarks.store import StoreAwayError, StoreError

REFRESH_INTERVAL = 5.0
"""Seconds after which the marks that other daemons may have moved are read again."""
RETRY_INTERVAL = 1.0
"""Seconds after which a reading is repeated that has failed, or has left something in doubt."""


class ReadingLoop:
    """Reads a store at its times; the states are explained above.

    :ivar missing: why nothing can be claimed; None when the marks are known.
    :param read: reads all marks and takes them over; gives whether nothing is in doubt then.
        Fails with StoreError, or with CancelledError when the store is closed meanwhile.
    :param give_up: called with the reason when the store is given up after the start.
    """

    _log = Logger()

    def __init__(
        self,
        read: Callable[[], Awaitable[bool]],
        clock: IReactorTime,
        give_up: Callable[[StartupError], object],
    ) -> None:
        self.missing: str | None = "the watermark store has not been read yet"
        self._read = read
        self._give_up = give_up
        self._was_read = False
        self._loop = LoopingCall(self._turn)
        self._loop.clock = clock

    def start(self) -> None:
        """Read the store, and go on reading it; raises StartupError if it is given up at once."""
        ended = self._loop.start(RETRY_INTERVAL).addErrback(self._reason)
        if ended.called and isinstance(ended.result, StartupError):
            raise ended.result
        ended.addCallback(self._ended)

    def stop(self) -> None:
        """Read no more."""
        if self._loop.running:
            self._loop.stop()

    def soon(self) -> bool:
        """Read in a second at the latest; False if the store is not read any more."""
        if self._loop.running and self._loop.interval != RETRY_INTERVAL:
            self._loop.interval = RETRY_INTERVAL  # once: each reset puts the reading off
            self._loop.reset()
        return self._loop.running

    async def _turn(self) -> None:
        try:
            certain = await self._read()
        except CancelledError:
            return
        except StoreError as error:
            self._unreadable(error)
            return
        if self._was_read and self.missing is not None:
            self._log.info("the watermark store is well again")
        self._was_read = True
        self.missing = None
        self._loop.interval = REFRESH_INTERVAL if certain else RETRY_INTERVAL

    def _unreadable(self, error: StoreError) -> None:
        """A reading has failed; raises StartupError if the store is given up."""
        away = isinstance(error, StoreAwayError)
        if not away and not self._was_read:
            raise StartupError(str(error))
        missing = f"no signature without a stored watermark: {error}"
        if missing != self.missing and not (away and self.missing is None):
            self.missing = missing
            say = self._log.warn if away else self._log.critical
            say("{sentence}", sentence=error)
        self._loop.interval = RETRY_INTERVAL

    def _reason(self, failure: Failure) -> StartupError:
        reason = failure.value
        if not isinstance(reason, StartupError):
            self._log.failure("the watermark store is read no more", failure)
            reason = StartupError("the watermark store cannot be read: a fault, see the log")
        self.missing = str(reason)
        return reason

    def _ended(self, reason: object) -> None:
        if isinstance(reason, StartupError):
            self._give_up(reason)
