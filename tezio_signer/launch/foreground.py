"""The daemon in the foreground, without twistd, as `tezio-signer run` has it."""

import os
import sys
import time
from collections.abc import Callable
from threading import Timer
from typing import NoReturn, cast

from twisted.logger import Logger, globalLogBeginner

from tezio_signer.daemon import Daemon, obey_one_signal
from tezio_signer.errors import StartupError
from tezio_signer.logs.foreground import as_observer
from tezio_signer.reactors import Reactor

STOP_LIMIT = 8.0
"""Seconds for all of the stop; 10 are given in `deploy/`, 5.5 are what is waited for in it."""
FAILED = 1
RESTART_PAUSE = 1.0
"""Seconds before a failed start ends under supervisord, which begins the next one at once."""
_log = Logger()


def run(make: Callable[[], Daemon]) -> NoReturn:
    """Run the daemon until it is told to stop, and end this process.

    The process ends by `os._exit`: whatever Python does at its end beyond what was waited
    for here (joining threads, flushing and closing what hangs) could hold it up, and nothing
    of it is needed. What a stop promises is done by then: answers are with their clients,
    marks on the disk, lines of the log with who reads them.

    :param make: composes the daemon; raises StartupError.
    """
    from twisted.internet import reactor as installed

    reactor = cast(Reactor, installed)
    try:
        daemon = make()
    except StartupError as error:
        print(f"tezio-signer: {error}", file=sys.stderr, flush=True)
        _pause()
        sys.exit(FAILED)
    globalLogBeginner.beginLoggingTo([as_observer(daemon.log)])
    try:
        daemon.privilegedStartService()
        daemon.startService()
    except StartupError as error:
        _log.error("tezio-signer: {sentence}", sentence=error)
        _end(daemon, FAILED)
    except Exception:
        _log.failure(
            "the daemon could not start; this is a fault of its own: report it with this traceback"
        )
        _end(daemon, FAILED)
    obey_one_signal(reactor)
    reactor.addSystemEventTrigger("before", "shutdown", _limit_stop, daemon)
    reactor.addSystemEventTrigger("before", "shutdown", daemon.stopService)
    reactor.run()
    _log.info("the signer has stopped")
    _end(daemon, daemon.exit_code)


def _pause() -> None:
    if "SUPERVISOR_ENABLED" in os.environ:  # what supervisord sets
        time.sleep(RESTART_PAUSE)


def _end(daemon: Daemon, code: int) -> NoReturn:
    daemon.finish_log()
    if code:
        _pause()
    os._exit(code)


def _limit_stop(daemon: Daemon) -> None:
    """End the process if the stop takes too long, even one in which the reactor itself hangs."""

    def end() -> None:
        _log.critical(
            "the daemon did not stop within {seconds} s, and is ended by force", seconds=STOP_LIMIT
        )
        daemon.finish_log()
        os._exit(FAILED)  # with no pause: supervisord waits for it already

    # As after a crash: nothing has left that is not in the store.
    limit = Timer(STOP_LIMIT, end)
    limit.daemon = True
    limit.start()
