"""Notice at once when a serial port appears, where the kernel tells of it (inotify)."""

import os
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IReactorFDSet
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.python.filepath import FilePath

from tezio_signer.hsm.boards import BoardSelector

_DEVICES = "/dev"
_DELETE_SELF, _MOVE_SELF, _UNMOUNT, _IGNORED = 0x400, 0x800, 0x2000, 0x8000
"""What inotify(7) says of a directory that is not there any more."""


def watch_ports(
    reactor: IReactorFDSet, selectors: Iterable[BoardSelector], callback: Callable[[], object]
) -> Callable[[], object]:
    """Call back whenever a port may have appeared, vanished or changed its rights.

    :return: how to stop; where the kernel does not tell, it does nothing.
    """
    ports = [selector.port for selector in selectors if selector.port is not None]
    directories = {_DEVICES, *(os.path.dirname(os.path.abspath(port)) for port in ports)}
    watch = PortWatch(reactor, directories, callback)
    watch.start()
    return watch.stop


class PortWatch:
    """Directories of ports, of which any may come and go, as /dev/serial/by-id does.

    In the place of a directory that is not there, the nearest one above it is watched. Each
    has an inotify descriptor of its own: Twisted closes it when its directory vanishes, and
    the others have to go on. A directory that cannot be watched, because the kernel has no
    more of what it takes or because it may not be read, is left to those who look by
    themselves; that is said once.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: IReactorFDSet,
        directories: Iterable[str],
        callback: Callable[[], object],
    ) -> None:
        self._reactor = reactor
        self._wanted = tuple(directories)
        self._callback = callback
        self._notifiers: dict[str, Any] = {}
        self._failed: set[str] = set()
        self._said = False
        self._running = False

    def start(self) -> None:
        """Watch what is there; never fails."""
        self._running = True
        self._watch_all()

    def stop(self) -> None:
        """Watch nothing any more."""
        self._running = False
        for directory in list(self._notifiers):
            self._close(directory)

    def _watch_all(self) -> None:
        """Watch all that should be, also what appears while this is done."""
        while missing := self._targets() - self._notifiers.keys() - self._failed:
            for directory in missing:
                self._watch(directory)
        for directory in self._notifiers.keys() - self._targets():
            self._close(directory)

    def _targets(self) -> set[str]:
        return set(map(_nearest, self._wanted))

    def _watch(self, directory: str) -> None:
        try:
            from twisted.internet import inotify
        except ImportError as error:  # no Linux
            self._cannot(directory, error)
            return
        # udev grants the rights to a new port only after it has appeared: hence IN_ATTRIB.
        events = inotify.IN_CREATE | inotify.IN_MOVED_TO | inotify.IN_ATTRIB | inotify.IN_DELETE
        notifier = None
        try:
            notifier = inotify.INotify(self._reactor)
            notifier.watch(
                FilePath(directory),
                events | _MOVE_SELF,
                callbacks=[partial(self._happened, directory, notifier)],
            )
        except (inotify.INotifyError, OSError) as error:
            if notifier is not None:
                _end(notifier)
            if os.path.isdir(directory):  # else it has vanished in this moment
                self._cannot(directory, error)
            return
        notifier.startReading()
        self._notifiers[directory] = notifier

    def _cannot(self, directory: str, error: Exception) -> None:
        if not self._said:
            self._said = True
            self._log.warn(
                "the kernel does not tell of changes in {directory} ({error}; see "
                "fs.inotify.max_user_instances and max_user_watches, and its rights): boards "
                "that are plugged in are found by looking, up to two seconds later",
                directory=directory,
                error=error,
            )
        self._failed.add(directory)

    def _happened(self, directory: str, notifier: object, _: object, __: object, mask: int) -> None:
        if self._notifiers.get(directory) is not notifier:
            return  # what was read together with the end of its directory
        if mask & _DELETE_SELF:  # Twisted closes it, now that it is told
            del self._notifiers[directory]
        elif mask & (_MOVE_SELF | _UNMOUNT | _IGNORED):
            self._close(directory)
        self._failed.clear()  # rights may have changed
        self._watch_all()
        self._callback()

    def _close(self, directory: str) -> None:
        _end(self._notifiers.pop(directory))


def _end(notifier: Any) -> None:
    notifier.connectionLost(Failure(ConnectionDone()))


def _nearest(directory: str) -> str:
    """A directory, or the nearest one above it that is there."""
    while not os.path.isdir(directory) and directory != os.path.dirname(directory):
        directory = os.path.dirname(directory)
    return directory
