"""SIGHUP: what is read again, and what becomes of it."""

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

from attrs import evolve
from twisted.internet.defer import Deferred, DeferredQueue
from twisted.internet.task import Clock
from twisted.logger import LogLevel, capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase, TestCase

from tests.support.harness import reactor
from tezio_signer.config.changes import Changes
from tezio_signer.config.settings import Settings
from tezio_signer.errors import StartupError
from tezio_signer.reloading import SLOW_SECONDS, HangUps, Reloading, in_thread
from tezio_signer.simulator.settings import built_in_settings
from tezio_signer.startup.source import Loaded

PATH = Path("/etc/signer.yaml")


class ReloadingTests(SynchronousTestCase):
    """A file that is read when the test says so.

    :ivar readings: those that have begun, each with the settings that were in force.
    :ivar used: the settings that were put in force, in their order.
    """

    def setUp(self) -> None:
        self.clock = Clock()
        self.readings: list[tuple[Settings, Deferred[Loaded]]] = []
        self.used: list[Settings] = []
        self.first = built_in_settings()
        self.reloading = self.made(PATH)
        self.reloading.startService()

    def made(self, path: Path | None) -> Reloading:
        return Reloading(self.clock, path, self.running, self.read, self.used.append)

    def running(self) -> Settings:
        return self.used[-1] if self.used else self.first

    def read(self, running: Settings) -> Deferred[Loaded]:
        reading: Deferred[Loaded] = Deferred()
        self.readings.append((running, reading))
        return reading

    def said(self, call: Callable[[], object]) -> list[tuple[object, str]]:
        """The levels and lines of the log while something is done."""
        with capturedLogs() as events:
            call()
        return [(event["log_level"], formatEvent(event)) for event in events]

    def loaded(self, *now: str, restart: tuple[str, ...] = (), warnings: str = "") -> Loaded:
        settings = evolve(self.first, hsm_wait_seconds=float(len(self.used) + 7))
        return Loaded(settings, Changes(now, restart), tuple(warnings.split()))

    def finish(self, loaded: Loaded | Exception) -> list[tuple[object, str]]:
        """End the last reading; what the log says of it."""
        if isinstance(loaded, Exception):
            return self.said(lambda: self.readings[-1][1].errback(loaded))
        return self.said(lambda: self.readings[-1][1].callback(loaded))

    def test_right(self) -> None:
        """What was read is put in force, and one line says what has changed in it."""
        self.assertEqual(self.said(self.reloading.hang_up), [])
        self.assertEqual(self.used, [])
        loaded = self.loaded("allowed_ips", "tz1a is added", restart=("hsms",), warnings="a b")
        self.assertEqual(
            self.finish(loaded),
            [
                (
                    LogLevel.info,
                    f"SIGHUP: the signer goes by {PATH} as it is now; changed: allowed_ips, "
                    "tz1a is added",
                ),
                (
                    LogLevel.warn,
                    "SIGHUP: hsms: this is changed only by a restart, and stays as it was until "
                    "then",
                ),
                (LogLevel.warn, "a"),
                (LogLevel.warn, "b"),
            ],
        )
        self.assertEqual(self.used, [loaded.settings])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_compared_with_what_is_in_force(self) -> None:
        """The next reading is held against what the one before has put in force."""
        self.reloading.hang_up()
        loaded = self.loaded("verbose")
        self.finish(loaded)
        self.reloading.hang_up()
        self.assertEqual([running for running, _ in self.readings], [self.first, loaded.settings])

    def test_nothing_new(self) -> None:
        """A file that says the same is said to do so, and one that would take a restart."""
        self.reloading.hang_up()
        ((_, line),) = self.finish(self.loaded())
        self.assertEqual(line, f"SIGHUP: {PATH} was read, and says what it said before")
        self.reloading.hang_up()
        (_, line), (_, restart) = self.finish(self.loaded(restart=("listen.http", "hsms")))
        self.assertEqual(line, f"SIGHUP: {PATH} was read, and changes nothing without a restart")
        self.assertIn("listen.http, hsms: this is changed only by a restart", restart)

    def test_wrong(self) -> None:
        """An error is one line with its place; what is in force stays until it is replaced."""
        self.reloading.hang_up()
        self.assertEqual(
            self.finish(StartupError("/etc/signer.yaml:7: verbos: unknown key")),
            [
                (
                    LogLevel.error,
                    "SIGHUP: the configuration stays as it was, since there is an error in the "
                    "new one: /etc/signer.yaml:7: verbos: unknown key",
                )
            ],
        )
        self.assertEqual(self.used, [])
        self.reloading.hang_up()
        self.assertEqual(self.readings[-1][0], self.first)
        self.finish(self.loaded("verbose"))
        self.assertEqual(len(self.used), 1)

    def test_fault(self) -> None:
        """A fault, while it is read or put in force, changes nothing and is logged as one."""

        def fail(_: Settings) -> None:
            raise ZeroDivisionError

        self.reloading.hang_up()
        ((level, _),) = self.finish(ZeroDivisionError())
        self.assertEqual(level, LogLevel.critical)
        self.reloading._replace = fail
        self.reloading.hang_up()
        ((level, line),) = self.finish(self.loaded("verbose"))
        self.assertIn("the configuration stays as it was; this is a fault", line)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 2)
        self.reloading.hang_up()
        self.assertEqual(self.readings[-1][0], self.first)

    def test_again(self) -> None:
        """However many come while a file is read, it is read once more behind that."""
        for _ in range(3):
            self.reloading.hang_up()
        self.assertEqual(len(self.readings), 1)
        first = self.loaded("verbose")
        self.finish(first)
        self.assertEqual([running for running, _ in self.readings], [self.first, first.settings])
        self.reloading.hang_up()
        self.finish(StartupError("half written"))
        self.assertEqual(len(self.readings), 3)
        self.finish(self.loaded("verbose"))
        self.assertEqual(len(self.readings), 3)
        self.assertEqual(len(self.used), 2)

    def test_not_running(self) -> None:
        """When the daemon stops, nothing is read any more, which the log says."""
        self.reloading.stopService()
        ((level, line),) = self.said(self.reloading.hang_up)
        self.assertEqual(level, LogLevel.info)
        self.assertIn("SIGHUP: the signer is stopping", line)
        self.assertEqual(self.readings, [])

    def test_stopped_meanwhile(self) -> None:
        """What has been read when the daemon stops changes nothing, and nothing else is read."""
        for outcome in (self.loaded("verbose"), StartupError("no"), ZeroDivisionError()):
            self.reloading.startService()
            self.reloading.hang_up()
            self.reloading.hang_up()
            self.reloading.stopService()
            self.assertEqual(self.clock.getDelayedCalls(), [])  # however long that reads on
            before = len(self.readings)
            self.assertEqual(self.finish(outcome), [])
            self.assertEqual(len(self.readings), before)
        self.assertEqual(self.used, [])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_slow(self) -> None:
        """A disk that hangs is named; what it gives at last is used all the same."""
        self.reloading.hang_up()
        self.assertEqual(self.said(lambda: self.clock.advance(SLOW_SECONDS - 0.1)), [])
        ((level, line),) = self.said(lambda: self.clock.advance(0.1))
        self.assertEqual(level, LogLevel.warn)
        self.assertIn(f"{PATH}, or a file that it names, is still being read", line)
        self.finish(self.loaded("verbose"))
        self.assertEqual(len(self.used), 1)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_no_file(self) -> None:
        """Built-in settings are not read again, and that is said."""
        reloading = self.made(None)
        reloading.startService()
        ((level, line),) = self.said(reloading.hang_up)
        self.assertEqual(level, LogLevel.info)
        self.assertIn("there is no configuration file to read", line)
        self.assertEqual(self.readings, [])

    def test_hooks(self) -> None:
        """Others are called at each SIGHUP, before anything is read; a fault is one's own."""
        called: list[int] = []

        def fail() -> None:
            raise ZeroDivisionError

        self.reloading.add(lambda: called.append(len(self.readings)))
        self.reloading.add(fail)
        self.reloading.add(lambda: called.append(-1))
        self.reloading.hang_up()
        self.reloading.hang_up()
        self.assertEqual(called, [0, -1, 1, -1])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 2)
        self.assertEqual(len(self.readings), 1)


class SignalTests(TestCase):
    """The signal, and the thread."""

    def setUp(self) -> None:
        self.addCleanup(signal.signal, signal.SIGHUP, signal.getsignal(signal.SIGHUP))

    async def test_signal(self) -> None:
        """SIGHUP is passed on by the reactor, also one that comes while the daemon is composed."""
        hang_ups = HangUps(reactor)
        os.kill(os.getpid(), signal.SIGHUP)
        turn: Deferred[None] = Deferred()
        reactor.callLater(0, reactor.callLater, 0, turn.callback, None)
        await turn  # nobody has asked to be told of that one
        os.kill(os.getpid(), signal.SIGHUP)
        passed: DeferredQueue[None] = DeferredQueue()
        hang_ups.then = lambda: passed.put(None)
        self.assertEqual(passed.pending, [])
        await passed.get()
        os.kill(os.getpid(), signal.SIGHUP)
        self.assertEqual(passed.pending, [])  # nothing is done within the handler of a signal
        await passed.get()

    async def test_in_a_thread(self) -> None:
        """What blocks, blocks a thread of its own; the Deferred fails with what it raises."""
        goes_on = threading.Event()

        def block() -> threading.Thread:
            goes_on.wait()
            return threading.current_thread()

        blocked = in_thread(reactor, block)
        turn: Deferred[None] = Deferred()
        reactor.callLater(0, turn.callback, None)
        await turn  # the reactor has not been held up
        self.assertFalse(blocked.called)
        goes_on.set()
        self.assertTrue((await blocked).daemon)  # the end of the process does not wait for it

        def fail() -> None:
            raise StartupError("no")

        await self.assertFailure(in_thread(reactor, fail), StartupError)
