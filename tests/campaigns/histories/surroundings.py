"""What is the same for all histories of a campaign: cryptography, the log, and the garbage."""

import gc
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from uuid import UUID, uuid4

from attrs import frozen
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from zope.interface import provider

from tests.campaigns.histories.keys import Cryptography
from tests.campaigns.histories.patching import everywhere, remembered


@frozen
class Surroundings:
    """What histories run in.

    :ivar tracebacks: failures that were logged, until somebody takes note of them.
    """

    cryptography: Cryptography
    tracebacks: list[str]


@contextmanager
def surroundings(real: bool = False) -> Iterator[Surroundings]:
    """Let histories run: what is pure is worked out once, and garbage is collected seldom.

    :param real: sign and verify with the curves of Tezos.
    """
    outside = Surroundings(Cryptography(real), [])

    @provider(ILogObserver)
    def observe(event: LogEvent) -> None:
        failure = event.get("log_failure")
        if failure is not None:
            outside.tracebacks.append(f"{failure.type.__name__}: {failure.getErrorMessage()}")

    with ExitStack() as undoing:
        undoing.enter_context(remembered())
        undoing.enter_context(everywhere(uuid4, lambda: UUID(int=1)))
        undoing.enter_context(outside.cryptography.in_use())
        globalLogPublisher.addObserver(observe)
        undoing.callback(globalLogPublisher.removeObserver, observe)
        undoing.callback(gc.collect)  # what has failed in the last histories is theirs
        if gc.isenabled():
            undoing.callback(gc.enable)
        gc.collect()
        gc.freeze()
        undoing.callback(gc.unfreeze)
        gc.disable()
        yield outside
