"""SIGHUP: reads the configuration again, and has the daemon go by it, as one.

States, and their transitions:

- STOPPED: the daemon does not run yet, or not any more. To RESTING when it starts.
- RESTING: nothing is read. To READING with a SIGHUP.
- READING: the file is read and checked, in a thread. To RESTING with its result. A SIGHUP that
  comes meanwhile is remembered: the file may have been written since it was read.

From each, it is STOPPED when the daemon stops.

Invariants (each with its test in `tests/test_reloading.py`):

1. Nothing is changed by a file in which something is wrong, or by a fault (`test_wrong`,
   `test_fault`).
2. What is changed is changed in one call, in a turn of the reactor of its own: no request sees a
   part of it (`test_right`; in `tests/test_signer_races.py`, `test_rules_of_the_beginning`; under
   load, `tests.campaigns.reload`).
3. One reading at a time, and what was written before the last SIGHUP is read (`test_again`).
4. In STOPPED nothing is read and nothing changed (`test_not_running`, `test_stopped_meanwhile`).
5. The reactor waits for no file (`test_in_a_thread`), and the end of the daemon for no reading
   (in `tests/test_daemon_reload.py`, `test_hangs`).
"""

import signal
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import TypeVar

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from tezio_signer.config.settings import Settings
from tezio_signer.errors import StartupError
from tezio_signer.reactors import Alarm, Reactor
from tezio_signer.startup.source import Loaded

SLOW_SECONDS = 10.0
"""After which the log says that a file is still being read."""
_Result = TypeVar("_Result")
_log = Logger()


def in_thread(reactor: Reactor, call: Callable[[], _Result]) -> Deferred[_Result]:
    """Call something in a thread of its own, which nobody waits for at the end of the process."""
    result: Deferred[_Result] = Deferred()

    def work() -> None:
        try:
            outcome: _Result | Failure = call()
        except BaseException:
            outcome = Failure()
        reactor.callFromThread(result.callback, outcome)

    Thread(target=work, name="reading the configuration", daemon=True).start()
    return result


class HangUps:
    """SIGHUP, which would end the process, is taken from now on, and passed on by the reactor.

    One that comes before the reactor runs is passed on when it does.

    :ivar then: what is called with each.
    """

    def __init__(self, reactor: Reactor) -> None:
        self.then: Callable[[], object] | None = None
        self._reactor = reactor
        signal.signal(signal.SIGHUP, self._hung_up)

    def _hung_up(self, number: int, frame: object) -> None:
        self._reactor.callFromThread(self._pass_on)

    def _pass_on(self) -> None:
        if self.then is not None:
            self.then()


class Reloading(Service):
    """What a running daemon does on SIGHUP; see the top of this module.

    :param path: the configuration file, for the log; None if there is none to read.
    :param running: what the daemon goes by now.
    :param read: reads and checks the configuration without blocking; given what the daemon goes
        by. Its Deferred fails with StartupError.
    :param replace: has the daemon go by other settings, all of it or nothing.
    """

    def __init__(
        self,
        clock: IReactorTime,
        path: Path | None,
        running: Callable[[], Settings],
        read: Callable[[Settings], Deferred[Loaded]],
        replace: Callable[[Settings], object],
    ) -> None:
        self._path = path
        self._running = running
        self._read = read
        self._replace = replace
        self._hooks: list[Callable[[], object]] = []
        self._reading = self._again = False
        self._slow = Alarm(clock)

    def add(self, hook: Callable[[], object]) -> None:
        """Have something called at each SIGHUP, before the configuration is read.

        As for files that are opened again when they were moved away; it must not block.
        """
        self._hooks.append(hook)

    def stopService(self) -> None:
        """Read nothing more, and change nothing."""
        super().stopService()
        self._slow.end()

    def hang_up(self) -> None:
        """A SIGHUP has come."""
        if not self.running:
            _log.info("SIGHUP: the signer is stopping, and does not read its configuration again")
            return
        for hook in self._hooks:
            try:
                hook()
            except Exception:
                _log.failure("fault at SIGHUP")
        if self._path is None:
            _log.info("SIGHUP: there is no configuration file to read; the settings are built in")
        elif self._reading:
            self._again = True
        else:
            self._begin()

    def _begin(self) -> None:
        self._reading, self._again = True, False
        self._slow.set(SLOW_SECONDS, self._say_slow)
        reading = self._read(self._running())
        reading.addCallback(self._use).addErrback(self._keep).addBoth(self._ended)

    def _say_slow(self) -> None:
        _log.warn(
            "SIGHUP: {path}, or a file that it names, is still being read; until then the "
            "configuration stays as it was: look at the disk and at the resolver",
            path=self._path,
        )

    def _use(self, loaded: Loaded) -> None:
        if not self.running:
            return
        self._replace(loaded.settings)
        if loaded.changes.now:
            sentence = "SIGHUP: the signer goes by {path} as it is now; changed: {changes}"
        elif loaded.changes.by_restart:
            sentence = "SIGHUP: {path} was read, and changes nothing without a restart"
        else:
            sentence = "SIGHUP: {path} was read, and says what it said before"
        _log.info(sentence, path=self._path, changes=", ".join(loaded.changes.now))
        if loaded.changes.by_restart:
            _log.warn(
                "SIGHUP: {keys}: this is changed only by a restart, and stays as it was until then",
                keys=", ".join(loaded.changes.by_restart),
            )
        for warning in loaded.warnings:
            _log.warn("{sentence}", sentence=warning)

    def _keep(self, failure: Failure) -> None:
        if not self.running:
            return
        if failure.check(StartupError):
            _log.error(
                "SIGHUP: the configuration stays as it was, since there is an error in the new "
                "one: {sentence}",
                sentence=failure.value,
            )
        else:
            _log.failure("SIGHUP: the configuration stays as it was; this is a fault", failure)

    def _ended(self, _: object) -> None:
        self._reading = False
        if self._again and self.running:
            self._begin()
        else:
            self._slow.end()
