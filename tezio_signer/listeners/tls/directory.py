"""Limits what Twisted logs of TLS by itself, such as names that clients ask for in vain.

Any client can cause it, so not all of it is said.
"""

from typing import cast

from twisted.internet import _sslverify
from twisted.internet.interfaces import IReactorTime
from twisted.logger import ILogObserver, LogEvent, Logger, formatEvent
from twisted.protocols import _sni
from twisted.python.failure import Failure
from zope.interface import implementer

from tezio_signer.sparinglog import SparingLog


@implementer(ILogObserver)
class _Sparing:
    """An observer that logs not all that clients cause, and no tracebacks of it."""

    def __init__(self, clock: IReactorTime) -> None:
        self._sparing_log = SparingLog(Logger(), clock)

    def __call__(self, event: LogEvent) -> None:
        what, failure = formatEvent(event), event.get("log_failure")
        if failure is not None:
            what += f": {cast(Failure, failure).getErrorMessage()}"
        self._sparing_log.warn("TLS: {what}", what=what)


def speak_sparingly(clock: IReactorTime) -> None:
    """From now on, log 30 lines a minute about the names that clients ask for."""
    sparing = _Sparing(clock)
    for log in (_sni.log, _sslverify._log):
        log.observer = sparing
