"""A command that needs the reactor."""

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import react
from twisted.python.failure import Failure

from tezio_signer.cli.common import CommandError
from tezio_signer.errors import OperatorError
from tezio_signer.reactors import Reactor, leave_threads_behind


def run_reactor(main: Callable[[Reactor], Deferred[None]]) -> None:
    """Run the reactor for one command, once in a process.

    :raises CommandError: for what `main` fails with and the operator can put right.
    :raises BrokenPipeError: if who reads the output has gone.
    """
    failed: list[Failure] = []

    def started(reactor: Any) -> Deferred[None]:
        def failure(failure: Failure) -> None:
            failure.trap(OperatorError, OSError)
            failed.append(failure)

        leave_threads_behind(reactor)
        return maybeDeferred(main, reactor).addErrback(failure)

    try:
        react(started)
    except SystemExit as done:
        if failed:
            if failed[0].check(BrokenPipeError):
                failed[0].raiseException()
            raise CommandError(failed[0].getErrorMessage()) from None
        if done.code:
            raise
