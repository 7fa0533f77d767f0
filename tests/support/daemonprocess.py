"""The daemon and the command as real processes, on free loopback ports."""

import os
import re
import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessDone, ProcessExitedAlready, ProcessTerminated
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from tests.support.harness import Client, reactor

FREE_PORT = "tcp:0:interface=127.0.0.1"
TWISTD = "from twisted.scripts.twistd import run; run()"
COMMAND = "from tezio_signer.cli.main import main; main()"
_ACTIVATED = (
    "import os; os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1', "
    f"LISTEN_FDNAMES='listener'); {COMMAND}"
)


class Process(ProcessProtocol):
    """A process that was started here, and what it says.

    :ivar out: what it has written to its standard output so far.
    :ivar log: the same with its standard error.
    """

    def __init__(self) -> None:
        self.out = ""
        self.log = ""
        self._code: int | None = None
        self._awaited: list[tuple[str, Deferred[re.Match[str]]]] = []
        self._endings: list[Deferred[int]] = []

    def says(self, pattern: str) -> Deferred[re.Match[str]]:
        """Fires when its output matches, now or later; fails when it ends without."""
        said: Deferred[re.Match[str]] = Deferred()
        self._awaited.append((pattern, said))
        self._listen()
        return said

    def exits(self) -> Deferred[int]:
        """Fires with its exit code when it has ended; a signal that ended it is negative."""
        ended: Deferred[int] = Deferred()
        self._endings.append(ended)
        self._tell_end()
        return ended

    def send(self, signal: str | int) -> None:
        """Send it a signal, by its number or as HUP, INT, KILL, STOP or TERM."""
        assert self.transport is not None
        self.transport.signalProcess(signal)

    def kill(self) -> Deferred[int]:
        """End it at once, if it still runs."""
        with suppress(ProcessExitedAlready):
            self.send("KILL")
        return self.exits()

    def outReceived(self, data: bytes) -> None:
        self.out += data.decode()
        self.errReceived(data)

    def errReceived(self, data: bytes) -> None:
        self.log += data.decode()
        self._listen()

    def processEnded(self, reason: Failure) -> None:
        ended = reason.value
        assert isinstance(ended, ProcessDone | ProcessTerminated)
        self._code = -ended.signal if ended.signal else ended.exitCode
        self._listen()
        self._tell_end()

    def _listen(self) -> None:
        awaited, self._awaited = self._awaited, []
        for pattern, said in awaited:
            if found := re.search(pattern, self.log):
                said.callback(found)
            elif self._code is not None:
                said.errback(AssertionError(f"ended without {pattern!r}:\n{self.log}"))
            else:
                self._awaited.append((pattern, said))

    def _tell_end(self) -> None:
        if self._code is not None:
            endings, self._endings = self._endings, []
            for ended in endings:
                ended.callback(self._code)


def reserve_port() -> socket.socket:
    """A bound socket: until it is closed nobody else gets its port, but a process may listen on it.

    The process has to allow for the reuse of addresses, as Twisted does, and Go.
    """
    bound = socket.socket()
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind(("127.0.0.1", 0))
    return bound


def spawn(
    arguments: Sequence[str],
    directory: Path,
    environment: Mapping[str, str],
    descriptors: Mapping[int, int] | None = None,
) -> Process:
    """Start a program in a directory; its first argument is its path.

    :param descriptors: of ours, by what they are for it, besides its standard output and input.
    """
    process = Process()
    reactor.spawnProcess(  # type: ignore[attr-defined]
        process,
        arguments[0],
        arguments,
        environment,
        str(directory),
        childFDs={0: "w", 1: "r", 2: "r", **(descriptors or {})},
    )
    return process


def _spawn_ours(
    program: str,
    arguments: Sequence[str],
    directory: Path,
    changes: Mapping[str, str],
    descriptors: Mapping[int, int] | None = None,
    before: Sequence[str] = (),
) -> Process:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **changes}
    environment.pop("TEZIO_SIGNER_CONFIG", None)
    whole = [*before, sys.executable, "-c", program, *arguments]
    return spawn(whole, directory, environment, descriptors)


def spawn_daemon(
    directory: Path, *options: str, before: Sequence[str] = (), **environment: str
) -> Process:
    """Run `tezio-signer run` with these options; whoever starts it has to end it.

    :param before: a command that runs it, such as `unshare`.
    """
    return _spawn_ours(COMMAND, ("run", *options), directory, environment, before=before)


def spawn_command(directory: Path, *arguments: str) -> Process:
    """Run `tezio-signer` with these arguments; whoever starts it has to end it."""
    return _spawn_ours(COMMAND, arguments, directory, {})


def start_daemon(test: TestCase, directory: Path, *options: str) -> Process:
    """Run `tezio-signer run` with these options in a directory, for a test."""
    process = spawn_daemon(directory, *options)
    test.addCleanup(process.kill)
    return process


def start_twistd(test: TestCase, directory: Path, *arguments: str) -> Process:
    """Run `twistd` with these arguments in a directory, for a test."""
    process = _spawn_ours(TWISTD, arguments, directory, {})
    test.addCleanup(process.kill)
    return process


def start_activated(
    test: TestCase, directory: Path, listening: socket.socket, *options: str
) -> Process:
    """The same as systemd starts it, with a socket called `listener`."""
    process = _spawn_ours(_ACTIVATED, ("run", *options), directory, {}, {3: listening.fileno()})
    test.addCleanup(process.kill)
    return process


def start_command(test: TestCase, directory: Path, *arguments: str) -> Process:
    """Run `tezio-signer` with these arguments in a directory, for a test."""
    process = spawn_command(directory, *arguments)
    test.addCleanup(process.kill)
    return process


async def serving(process: Process) -> Client:
    """A client of a daemon that listens on FREE_PORT, when it has an HSM."""
    port = await process.says(r"SignerSite starting on (\d+)\n")
    await process.says(r"HSM .* is ready: .*\n")
    return Client(int(port[1]))
