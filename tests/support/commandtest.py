"""Runs the command `tezio-signer` in this process, in a directory of its own."""

import sys
from collections.abc import Callable
from io import StringIO
from typing import Any

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from tests.support.harness import reactor
from tests.support.owndirectory import own_directory
from tests.support.vectors import SHIPPED
from tezio_signer.cli import main as cli
from tezio_signer.cli import reacting


@frozen
class Outcome:
    """How a command ended, and what it wrote."""

    code: int
    out: str
    err: str


class OwnReactor:
    """Replaces the reactor of a command, which would have to be started."""

    def __init__(self) -> None:
        self.triggers: list[Callable[[], object]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(reactor, name)

    def addSystemEventTrigger(self, phase: str, event: str, function: Callable[[], object]) -> None:
        """Remember what is to be done before the shutdown."""
        assert (phase, event) == ("before", "shutdown")
        self.triggers.append(function)

    def react(self, main: Callable[[Any], Deferred[None]]) -> None:
        """Run a command until it waits, and end as it does."""
        done = main(self)
        failed: list[object] = []
        done.addErrback(failed.append)
        raise SystemExit(1 if failed else 0)


class CommandTestCase(SynchronousTestCase):
    """Runs commands in a directory of its own, with a configuration in it."""

    def setUp(self) -> None:
        self.directory = own_directory(self)
        self.config = self.directory / "config.yaml"
        self.config.write_bytes(SHIPPED.read_bytes())
        self.reactor = OwnReactor()
        self.patch(reacting, "react", self.reactor.react)

    def run_command(self, *arguments: str) -> Outcome:
        """Run a command, as far as it goes until it waits for its reactor."""
        out, err = StringIO(), StringIO()
        self.patch(sys, "stdout", out)
        self.patch(sys, "stderr", err)
        code = 0
        try:
            cli.main(arguments)
        except SystemExit as end:
            # As the interpreter does: a text is an error, and goes to stderr.
            if isinstance(end.code, str):
                err.write(f"{end.code}\n")
            code = 1 if isinstance(end.code, str) else end.code or 0
        return Outcome(code, out.getvalue(), err.getvalue())

    def refused(self, *arguments: str) -> str:
        """The one line of a command that is refused."""
        outcome = self.run_command(*arguments)
        self.assertEqual((outcome.code, outcome.out), (1, ""))
        self.assertRegex(outcome.err, r"\Atezio-signer: [^\n]+\n\Z")
        return outcome.err.removeprefix("tezio-signer: ").strip()
