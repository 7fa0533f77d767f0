"""The log of a daemon in the foreground, on its standard output."""

import os
import sys

from twisted.logger import ILogObserver, LogLevel, LogPublisher

from tezio_signer.logs.lines import LineObserver, observer_of


def standard_log(verbose: bool) -> LineObserver | None:
    """What writes the log to the standard output; None if there is none.

    :param verbose: whether events for debugging are in it too.
    """
    try:
        descriptor = sys.stdout.fileno()
    except (AttributeError, OSError, ValueError):  # it is None where it was closed
        return None
    least = LogLevel.debug if verbose else LogLevel.info
    return observer_of(descriptor, sys.stdout.encoding or "utf-8", least, os.environ)


def as_observer(log: LineObserver | None) -> ILogObserver:
    """A log as Twisted takes it, also where there is none."""
    return LogPublisher() if log is None else log  # without observers it tells nobody
