"""The log of a daemon in the foreground, on its standard output."""

import os
import sys
from typing import Any

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
    encoding = sys.stdout.encoding or "utf-8"
    return observer_of(descriptor, encoding, least_level(verbose), os.environ)


def least_level(verbose: bool) -> Any:
    """The level from which events are in the log."""
    return LogLevel.debug if verbose else LogLevel.info


def as_observer(log: LineObserver | None) -> ILogObserver:
    """A log as Twisted takes it, also where there is none."""
    return LogPublisher() if log is None else log  # without observers it tells nobody
