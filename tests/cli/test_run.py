"""`tezio-signer run` and `twistd -n tezio-signer` as processes, where the world does not answer."""

import contextlib
import os
import pty
import re
import socket
import sys
import termios
from collections.abc import Sequence
from pathlib import Path
from shutil import which
from subprocess import run

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SkipTest, TestCase

from tests.support.daemonprocess import (
    FREE_PORT,
    TWISTD,
    Process,
    reserve_port,
    serving,
    spawn,
    start_command,
    start_daemon,
    start_twistd,
)
from tests.support.filewatch import FileWatch
from tests.support.harness import Client, reactor
from tests.support.octezsocketclient import OctezSocketClient
from tests.support.processcase import ProcessTestCase
from tests.support.vectors import TZ1, TZ3, block, noop
from tezio_signer import __version__

STOP_SECONDS = 7.0
"""What README says; `deploy/` gives ten."""
_RUN = "from tezio_signer.cli.main import main; main(['run', *__import__('sys').argv[1:]])"
_UNDER_TWISTD = (
    f"import sys; sys.argv[:1] = ['twistd', '-n', '--pidfile=', 'tezio-signer']; {TWISTD}"
)
_BOTH = (_RUN, _UNDER_TWISTD)
_PATH = os.pathsep.join(sys.path)
_LAST = "last.sock"
LAST = ("--octez-socket", f"unix:{_LAST}:lockfile=0")
"""An endpoint more, which is opened when all others are."""


def full_pipe() -> tuple[int, int]:
    """Both ends of a pipe that takes no more."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writer, bytes(4096))
    os.set_blocking(writer, True)
    return reader, writer


async def listening(test: TestCase, directory: Path) -> None:
    """Wait until a daemon that was given LAST listens; its log need not be asked.

    Its socket stays, and goes with it: a daemon looks at it once more when it has made it.
    """
    await FileWatch(test, directory).until((directory / _LAST).exists)


def spawn_logging_to(
    output: int, command: Sequence[str], directory: Path, hear_errors: bool = False
) -> Process:
    """Start a process whose standard output is a descriptor of ours.

    :param hear_errors: whether its errors are heard; else they go there too.
    """
    process = Process()
    reactor.spawnProcess(  # type: ignore[attr-defined]
        process,
        command[0],
        command,
        {**os.environ, "PYTHONPATH": _PATH},
        str(directory),
        childFDs={0: "w", 1: output, 2: "r" if hear_errors else output},
    )
    return process


class LogProcessTests(ProcessTestCase):
    """A daemon whose log nobody reads."""

    def start_logging_to(self, output: int, program: str, *options: str) -> tuple[Process, Client]:
        """A daemon that logs to a descriptor of ours, and a client of it."""
        reserved = reserve_port()
        self.addCleanup(reserved.close)
        port = reserved.getsockname()[1]
        at = f"tcp:{port}:interface=127.0.0.1"
        command = [sys.executable, "-c", program, "--simulate", "--http", at, *LAST, *options]
        process = spawn_logging_to(output, command, self.directory)
        self.addCleanup(process.kill)
        return process, Client(port)

    async def assert_unimpressed(self, process: Process, client: Client) -> None:
        """Check that requests are answered as usual, and SIGTERM is obeyed in time."""
        await listening(self, self.directory)
        began = reactor.seconds()
        for level in range(200):
            # Each is a line, and together more than a pipe holds.
            answer = await client.request("GET", f"/keys/{'x' * 400}{level}")
            self.assertEqual(answer.status, 400)
        self.assertEqual((await client.sign(TZ1, noop(1))).status, 200)
        self.assertLess(reactor.seconds() - began, 10)
        began = reactor.seconds()
        process.send("TERM")
        await process.exits()
        self.assertLess(reactor.seconds() - began, STOP_SECONDS)

    async def test_unread_pipe(self) -> None:
        """A pipe that is full from the beginning holds up nothing."""
        for program in _BOTH:
            reader, writer = full_pipe()
            process, client = self.start_logging_to(writer, program)
            await self.assert_unimpressed(process, client)
            os.close(reader)
            os.close(writer)

    async def test_hanging_socket(self) -> None:
        """Nor does a socket, such as journald's, whose reader hangs."""
        for program in _BOTH:
            ours, theirs = socket.socketpair()
            with ours, theirs:
                ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
                await self.assert_unimpressed(*self.start_logging_to(ours.fileno(), program))

    async def test_stopped_terminal(self) -> None:
        """Nor does a terminal that was stopped with Ctrl-S."""
        for program in _BOTH:
            screen, terminal = pty.openpty()
            termios.tcflow(terminal, termios.TCOOFF)
            await self.assert_unimpressed(*self.start_logging_to(terminal, program))
            os.close(terminal)
            os.close(screen)

    async def test_whole_log(self) -> None:
        """What somebody reads is complete: from the banner to the last line, in order."""
        daemon = self.start("--simulate")
        client = await serving(daemon)
        for number in range(300):
            await client.request("GET", f"/keys/none{number:03}")
            await client.sign(TZ1, b"\x03%d" % number)
        daemon.send("TERM")
        self.assertEqual(await daemon.exits(), 0)
        refused = [line for line in daemon.log.splitlines() if "refused" in line]
        self.assertGreaterEqual(len(refused), 300)
        self.assertTrue(daemon.log.endswith("info the signer has stopped\n"))
        self.assertNotIn("left out", daemon.log)

    async def test_banner(self) -> None:
        """One banner says the version, the configuration, the store, listeners and keys."""
        self.configure("hsms: [{port: /dev/none}]")
        daemon = self.start()
        await daemon.says(r"info Tezio Signer \S+ has started\n")
        await daemon.says(rf"\tconfiguration: {self.directory}/config.yaml\n")
        await daemon.says(rf"\twatermarks: {self.directory}/watermarks.sqlite\n")
        await daemon.says(r"\tHTTP at tcp:0:\S+: this machine only, not encrypted\n")
        await daemon.says(rf"\t{TZ1}: generic, without authentication\n")
        self.assertEqual(daemon.log.count("has started"), 1)

    async def test_unprintable(self) -> None:
        """A path that the encoding of the log cannot show is shown with escapes."""
        (self.directory / "ключ.yaml").write_text("verbos: 1")
        environment = {**os.environ, "PYTHONPATH": _PATH, "PYTHONIOENCODING": "ascii"}
        arguments = [sys.executable, "-c", _RUN, "--config", "ключ.yaml"]
        daemon = spawn(arguments, self.directory, environment)
        self.addCleanup(daemon.kill)
        self.assertEqual(await daemon.exits(), 1)
        self.assertIn("\\u043a\\u043b\\u044e\\u0447.yaml:1: verbos", daemon.log)
        self.assert_quiet(daemon)


class PidFileTests(ProcessTestCase):
    """What another daemon, a kill or a power cut has left keeps none from starting."""

    async def assert_starts(self, daemon: Process) -> None:
        """Check that a daemon serves, and end it."""
        await serving(daemon)
        await daemon.kill()

    async def test_left_behind(self) -> None:
        """A pid file of another process, of process 1, an empty or odd one does not count."""
        file = self.directory / "twistd.pid"
        for content in (str(os.getpid()), "1", "", "abc", "99999999"):
            file.write_text(content)
            await self.assert_starts(self.start("--simulate"))
            arguments = ("-n", "tezio-signer", "--simulate", "--http", FREE_PORT)
            await self.assert_starts(start_twistd(self, self.directory, *arguments))
            self.assertEqual(file.read_text(), content)

    async def test_directory_that_cannot_be_written(self) -> None:
        """Nothing is written where it is started; a file cannot be made there by root either."""
        if os.geteuid() != 0:
            self.directory.chmod(0o500)
        arguments = ("--simulate", "--http", FREE_PORT)
        starts = start_daemon, start_twistd
        nowhere = Path("/proc") if os.geteuid() == 0 else self.directory
        for start, first in zip(starts, ((), ("-n", "tezio-signer")), strict=True):
            await self.assert_starts(start(self, nowhere, *first, *arguments))

    async def test_asked_for(self) -> None:
        """One that was asked for by name is written, and removed at the end."""
        file = self.directory / "mine.pid"
        arguments = ("-n", "--pidfile", "mine.pid", "tezio-signer", "--simulate")
        daemon = start_twistd(self, self.directory, *arguments, "--http", FREE_PORT)
        await serving(daemon)
        assert daemon.transport is not None
        self.assertEqual(file.read_text(), str(daemon.transport.pid))
        daemon.send("TERM")
        self.assertEqual(await daemon.exits(), -15)
        self.assertTrue(daemon.log.endswith("Server Shut Down.\n"), daemon.log)
        self.assertFalse(file.exists())


class LaunchTests(ProcessTestCase):
    """What is asked for on the command line."""

    async def ended(self, process: Process) -> tuple[int, str]:
        """The exit code of a process, and what it has said."""
        return await process.exits(), process.log

    async def test_usage(self) -> None:
        """Wrong options end with 2 and the usage of the signer, not of Twisted."""
        for process in (
            start_command(self, self.directory, "run", "--htp", "tcp:1"),
            start_command(self, self.directory, "run", "extra"),
            start_twistd(self, self.directory, "-n", "tezio-signer", "--htp", "tcp:1"),
            start_twistd(self, self.directory, "-n", "tezio-signer", "extra"),
        ):
            code, said = await self.ended(process)
            self.assertEqual(code, 2, said)
            self.assertIn("tezio-signer", said)
            for word in ("conch", "manhole", "Traceback"):
                self.assertNotIn(word, said)

    async def test_version_and_help(self) -> None:
        """The version and the help are those of the signer."""
        for process in (
            start_command(self, self.directory, "run", "--version"),
            start_twistd(self, self.directory, "tezio-signer", "--version"),
        ):
            self.assertEqual(await self.ended(process), (0, f"Tezio Signer {__version__}\n"))
        code, said = await self.ended(start_command(self, self.directory, "run", "--help"))
        self.assertEqual(code, 0)
        for word in ("--config", "--simulate", "--http", "--octez-socket"):
            self.assertIn(word, said)
        self.assertNotIn("conch", said)

    async def test_log_of_the_operators_choice(self) -> None:
        """What is said to twistd about the log counts."""
        arguments = ("-n", "--logfile", "own.log", "tezio-signer", "--simulate")
        daemon = start_twistd(self, self.directory, *arguments, "--http", FREE_PORT)
        log = self.directory / "own.log"
        written = FileWatch(self, self.directory)
        await written.until(lambda: log.exists() and "is ready" in log.read_text())
        daemon.send("TERM")
        await daemon.exits()
        self.assertEqual(daemon.log, "")
        self.assertIn("Server Shut Down.", log.read_text())

    async def test_no_output(self) -> None:
        """Without a standard output it runs, and no file of its takes that place."""
        program = f"import os; [os.close(n) for n in (0, 1, 2)]; os.execv({sys.executable!r}, "
        program += f"[{sys.executable!r}, '-c', {_RUN!r}, *__import__('sys').argv[1:]])"
        reserved = reserve_port()
        self.addCleanup(reserved.close)
        port = reserved.getsockname()[1]
        self.configure("hsms: [{port: /dev/none}]")
        at = f"tcp:{port}:interface=127.0.0.1"
        daemon = spawn(
            [sys.executable, "-c", program, "--http", at, *LAST],
            self.directory,
            {**os.environ, "PYTHONPATH": _PATH},
        )
        self.addCleanup(daemon.kill)
        await listening(self, self.directory)
        self.assertEqual((await Client(port).request("GET", "/")).status, 200)
        assert daemon.transport is not None
        for number in range(3):
            path = os.readlink(f"/proc/{daemon.transport.pid}/fd/{number}")
            self.assertFalse(path.startswith(str(self.directory)), path)
        daemon.send("TERM")
        self.assertEqual(await daemon.exits(), 0)


_SILENT = """
import os, socket, sys
silent = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
silent.bind(("127.0.0.1", 53))
os.set_inheritable(silent.fileno(), True)
{patch}
{program}
"""
_HANGING_DISK = """
import threading
from tezio_signer.watermarks.sqlite.store import SqliteStore
def hang(*_):
    print("the disk hangs", file=sys.__stderr__, flush=True)
    threading.Event().wait()
SqliteStore.keep = hang
SqliteStore.close = hang
from twisted.internet import reactor
reactor.callWhenRunning(lambda: reactor.callInThread(socket.getaddrinfo, "b.example", 1))
"""


_HANGING_CLOSE = """
import threading
from tezio_signer.launch import foreground
from tezio_signer.watermarks.sqlite.store import SqliteStore
foreground.STOP_LIMIT = 1.0
SqliteStore.close = lambda _: threading.Event().wait()
"""


class SignalTests(ProcessTestCase):
    """More signals than one."""

    async def test_stopped_twice(self) -> None:
        """Whoever is impatient gets a line, no traceback, and the same end."""
        for start, first in ((start_command, ("run",)), (start_twistd, ("-n", "tezio-signer"))):
            daemon = start(self, self.directory, *first, "--simulate", "--http", FREE_PORT)
            client = await serving(daemon)
            with socket.create_connection(("127.0.0.1", client.port)) as half_sent:
                half_sent.sendall(b"POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\n1")
                await client.request("GET", "/")
                for signal, said in (
                    ("TERM", "Received SIGTERM"),
                    ("TERM", "SIGTERM: the signer is stopping already\n"),
                    ("INT", "SIGINT: the signer is stopping already\n"),
                ):
                    daemon.send(signal)
                    await daemon.says(said)
                await daemon.exits()
            self.assertNotIn("Traceback", daemon.log)

    async def test_ignored(self) -> None:
        """Where Ctrl-C is ignored, as behind a shell's &, it stays so."""
        command = ["/bin/sh", "-c", 'trap "" INT; exec "$@"', "sh", sys.executable, "-c", _RUN]
        command += ["--simulate", "--http", FREE_PORT]
        daemon = spawn(command, self.directory, {**os.environ, "PYTHONPATH": _PATH})
        self.addCleanup(daemon.kill)
        client = await serving(daemon)
        daemon.send("INT")
        self.assertEqual((await client.request("GET", "/")).status, 200)
        daemon.send("TERM")
        self.assertEqual(await daemon.exits(), 0)
        for word in ("Traceback", "SIGINT"):
            self.assertNotIn(word, daemon.log)


class LimitTests(ProcessTestCase):
    """A stop in which the reactor itself hangs."""

    async def test_ended(self) -> None:
        """The process is ended when its time is over, and says so."""
        self.configure("hsms: [{port: /dev/none}]")
        program = f"{_HANGING_CLOSE}\n{_RUN}"
        command = [sys.executable, "-c", program, "--http", FREE_PORT]
        daemon = spawn(command, self.directory, {**os.environ, "PYTHONPATH": _PATH})
        self.addCleanup(daemon.kill)
        await daemon.says("has started")
        began = reactor.seconds()
        daemon.send("TERM")
        self.assertEqual(await daemon.exits(), 1)
        self.assertLess(reactor.seconds() - began, STOP_SECONDS)
        self.assertIn(
            "critical the daemon did not stop within 1.0 s, and is ended by force\n", daemon.log
        )


class ResolverTests(ProcessTestCase):
    """A resolver that never answers, in a network and with a `resolv.conf` of its own."""

    def command(self, program: str, patch: str = "") -> list[str]:
        """A daemon where the only name server is a socket that says nothing."""
        unshare = which("unshare")
        probe = [unshare or "unshare", "-mn", "true"]
        if not unshare or os.geteuid() != 0 or run(probe, check=False).returncode:  # noqa: S603
            raise SkipTest("a network of its own needs root and unshare")
        (self.directory / "resolv.conf").write_text(
            "nameserver 127.0.0.1\noptions timeout:30 attempts:5\n"
        )
        (self.directory / "silent.py").write_text(_SILENT.format(program=program, patch=patch))
        prepared = (
            "mount --make-rprivate / && mount --bind resolv.conf /etc/resolv.conf && "
            'ip link set lo up && exec "$@"'
        )
        return [unshare, "-mn", "sh", "-c", prepared, "-", sys.executable, "silent.py"]

    def configure_etcd(self, members: str) -> None:
        """The shipped configuration with its watermarks in etcd."""
        self.configure(store=False)
        config = self.directory / "config.yaml"
        stored = re.sub(r"sqlite:[^\s\"']+", f"etcd:{members}", config.read_text("utf-8"))
        config.write_text(stored, "utf-8")

    def launch(self, arguments: Sequence[str]) -> Process:
        """Start a process here that is killed at the end."""
        daemon = spawn([*arguments], self.directory, {**os.environ, "PYTHONPATH": _PATH})
        self.addCleanup(daemon.kill)
        return daemon

    async def stops(self, daemon: Process) -> None:
        """Check that SIGTERM ends a process in time."""
        began = reactor.seconds()
        daemon.send("TERM")
        await daemon.exits()
        self.assertLess(reactor.seconds() - began, STOP_SECONDS)

    async def test_etcd_by_names(self) -> None:
        """With etcd by names that cannot be resolved, SIGTERM is obeyed in time all the same."""
        self.configure_etcd("http://a.example:2379,http://b.example:2379")
        for program in _BOTH:
            command = self.command(program)
            daemon = self.launch([*command, "--http", FREE_PORT])
            await daemon.says("did not answer in time")
            await self.stops(daemon)

    async def test_command(self) -> None:
        """A command that asks etcd by such names gives up in time too."""
        self.configure_etcd("http://a.example:2379")
        asking = "from tezio_signer.cli.main import main; main(['watermarks', 'list'])"
        began = reactor.seconds()
        listing = self.launch(self.command(asking))
        self.assertEqual(await listing.exits(), 1)
        self.assertIn("did not answer in time", listing.log)
        self.assertLess(reactor.seconds() - began, 2 * STOP_SECONDS)

    async def test_disk_and_log_too(self) -> None:
        """So it is when the resolver, the disk and the log hang at once."""
        link = str(self.directory / "hsm")
        board = start_command(self, self.directory, "simulate", "--link", link, "--latency=0")
        await board.says("simulated HSM at ")
        self.configure(f"hsms: [{{port: {link}}}]")
        path = os.path.relpath(self.directory / "signer.sock")
        for program in _BOTH:
            command = self.command(program, _HANGING_DISK)
            command += ["--octez-socket", "unix:signer.sock", *LAST]
            reader, full = full_pipe()
            daemon = spawn_logging_to(full, command, self.directory, hear_errors=True)
            self.addCleanup(daemon.kill)
            await listening(self, self.directory)
            asking = OctezSocketClient(f"unix:{path}")
            asked = Deferred.fromCoroutine(asking.sign(str(TZ3), block(10, 0)))
            asked.addErrback(lambda _: None)  # the stop leaves it without an answer
            await daemon.says("the disk hangs")
            await self.stops(daemon)
            os.close(reader)
            os.close(full)
            await asked
