"""Other people's programs beside the tests, and ours beside them, each in a process of its own."""

import os
import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from shutil import which

from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure
from twisted.trial.unittest import SkipTest, TestCase

from tests.support.harness import Client, reactor
from tests.support.vectors import TZ3

ROOT = Path(__file__).parents[2]
PATIENCE = 30.0
"""Seconds for a program to say or do something, on a machine with much else to do."""
_INSTALLED = Path(os.environ.get("TEZIO_SIGNER_INTEROP") or ROOT / ".interop").absolute()
# Neither our configuration nor our Python is for other people's programs.
_ENVIRONMENT = {
    name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "TEZIO_"))
}
_OURS = {"PYTHONPATH": os.pathsep.join(sys.path)}
_SIGNER = "from tezio_signer.cli.main import main; main()"


def installed(*parts: str) -> str:
    """The path of what `tests/interop/setup` has installed; skips the test if it has not."""
    path = _INSTALLED.joinpath(*parts)
    if not path.exists():
        raise SkipTest(f"there is no {path}: run tests/interop/setup")
    return str(path)


def command(name: str) -> str:
    """The path of a program of this machine; skips the test if there is none."""
    path = which(name)
    if path is None:
        raise SkipTest(f"there is no {name}: run tests/interop/setup")
    return path


class Program(ProcessProtocol):
    """A program that was started, and what it says.

    :ivar stdout: its standard output so far.
    :ivar said: the same with its standard error.
    :ivar ended: fires when it has ended, and all it said is here.
    :ivar exit_code: None until then, and if a signal ended it.
    """

    def __init__(self) -> None:
        self.stdout = ""
        self.said = ""
        self.ended: Deferred[None] = Deferred()
        self.exit_code: int | None = None
        self._heard = 0
        self._awaited: tuple[re.Pattern[str], Deferred[re.Match[str]]] | None = None

    def says(self, pattern: str) -> Deferred[re.Match[str]]:
        """Fires with the next match, after that of the last time, if there will be one."""
        waiting: Deferred[re.Match[str]] = Deferred()
        self._awaited = re.compile(pattern), waiting
        self._listen()
        return waiting.addTimeout(PATIENCE, reactor, lambda *_: Failure(self._missing(pattern)))

    def outReceived(self, data: bytes) -> None:
        self.stdout += data.decode("utf-8", "replace")
        self.errReceived(data)

    def errReceived(self, data: bytes) -> None:
        self.said += data.decode("utf-8", "replace")
        self._listen()

    def processEnded(self, reason: Failure) -> None:
        self.exit_code = getattr(reason.value, "exitCode", None)
        self.ended.callback(None)
        self._listen()

    def _missing(self, pattern: str) -> AssertionError:
        return AssertionError(f"no {pattern!r} after character {self._heard} of:\n{self.said}")

    def _listen(self) -> None:
        if self._awaited is None:
            return
        pattern, waiting = self._awaited
        found = pattern.search(self.said, self._heard)
        if found is not None:
            self._heard = found.end()
            self._awaited = None
            waiting.callback(found)
        elif self.ended.called:
            self._awaited = None
            waiting.errback(self._missing(pattern.pattern))


def start(
    test: TestCase, arguments: Sequence[str], environment: Mapping[str, str] | None = None
) -> Program:
    """Start a program that runs until the test ends, or until it ends by itself."""
    program = Program()
    process = reactor.spawnProcess(  # type: ignore[attr-defined]
        program, arguments[0], arguments, {**_ENVIRONMENT, **(environment or {})}
    )

    def stop() -> Deferred[None]:
        with suppress(ProcessExitedAlready):
            process.signalProcess("TERM")
        return program.ended

    test.addCleanup(stop)
    return program


async def run(
    test: TestCase, arguments: Sequence[str], environment: Mapping[str, str] | None = None
) -> str:
    """The standard output of a program that has to end without an error."""
    program = start(test, arguments, environment)
    await program.ended
    test.assertEqual(program.exit_code, 0, program.said)
    return program.stdout


def start_signer_command(test: TestCase, *arguments: str) -> Program:
    """Start a `tezio-signer` command."""
    return start(test, [sys.executable, "-c", _SIGNER, *arguments], _OURS)


async def start_simulated_signer(test: TestCase) -> Client:
    """Start the daemon with a simulated HSM; a client of it, once its log names the keys."""
    daemon = start_signer_command(test, "run", "--simulate", "--http", "tcp:0:interface=127.0.0.1")
    port = await daemon.says(r"starting on (\d+)\n")
    await daemon.says(str(TZ3))
    return Client(int(port[1]))


def signer_script() -> str:
    """The text of a `tezio-signer` that finds what these tests import, whatever its environment."""
    return f"#!{sys.executable}\nimport sys\nsys.path[:] = {sys.path!r}\n{_SIGNER}\n"
