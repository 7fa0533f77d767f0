"""Where the settings of a daemon come from: the same at its start and whenever they are read again.

Nothing here needs the reactor, and all of it may block: files, and the names of machines.
"""

from collections.abc import Callable
from pathlib import Path
from time import sleep

from attrs import evolve, frozen

from tezio_signer.config.changes import Changes, changes, without_restart
from tezio_signer.config.locate import load_settings
from tezio_signer.config.settings import Settings
from tezio_signer.errors import StartupError
from tezio_signer.startup.listening import check_open_files
from tezio_signer.startup.warnings import warnings_of

STILL_SECONDS = 0.1
"""For so long a file has to be the same behind its reading."""
_READINGS = 20


@frozen
class Loaded:
    """A configuration that was read again, and has nothing wrong in it.

    :ivar settings: to go by; what cannot be changed is as it was.
    :ivar changes: what was different from the settings before.
    :ivar warnings: of these settings.
    """

    settings: Settings
    changes: Changes
    warnings: tuple[str, ...]


@frozen
class Source:
    """What settings are made of.

    :ivar path: the configuration file; None if the settings are built in.
    :ivar chosen: the file as it was asked for, by an option; None if it was looked for.
    :ivar http: endpoints of the command line, in the place of those in the file if there are any.
    :ivar built_in: the settings of a simulated HSM; None if the HSM is none.
    """

    path: Path | None
    chosen: str | None
    http: tuple[str, ...] = ()
    octez_socket: tuple[str, ...] = ()
    built_in: Callable[[], Settings] | None = None

    def load(self) -> Settings:
        """Read the settings; raises StartupError."""
        return self._here(load_settings(self.chosen, self.built_in))

    def load_again(self, running: Settings) -> Loaded:
        """Read and check the same file as before, wherever the process is by now.

        A file of which an editor has written a part may be a right one, without a protection that
        comes further down. So it has to be the same for a moment.

        :param running: what the daemon goes by.
        :raises StartupError: for all that a start with this file would be refused for, by its
            settings and the files that they name.
        """
        assert self.path is not None
        for _ in range(_READINGS):
            before = _stamp(self.path)
            outcome: Loaded | StartupError
            try:
                outcome = self._load_once(running)
            except StartupError as error:
                outcome = error
            sleep(STILL_SECONDS)
            if _stamp(self.path) == before:
                break
        else:
            outcome = StartupError(
                f"{self.path} is being written all the time: send SIGHUP when it is complete"
            )
        if isinstance(outcome, StartupError):
            raise outcome
        return outcome

    def _load_once(self, running: Settings) -> Loaded:
        written = self._here(load_settings(str(self.path), self.built_in))
        check(written)
        settings = without_restart(running, written)
        return Loaded(settings, changes(running, written), check(settings))

    def _here(self, settings: Settings) -> Settings:
        return evolve(
            settings,
            http=self.http or settings.http,
            octez_socket=self.octez_socket or settings.octez_socket,
        )


def _stamp(path: Path) -> tuple[object, ...]:
    """What is another when a file was written or replaced."""
    try:
        status = path.stat()
    except OSError as error:
        return (error.errno,)
    return status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino, status.st_dev


def check(settings: Settings) -> tuple[str, ...]:
    """What to warn of; raises StartupError for what a start is refused for, ports in use apart."""
    warnings = warnings_of(settings)
    check_open_files(settings.limits)
    return warnings
