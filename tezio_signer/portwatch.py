"""Notice at once when a serial port appears, where the kernel tells of it (inotify)."""

import os
from collections.abc import Callable, Iterable

from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IReactorFDSet
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.python.filepath import FilePath

from tezio_signer.hsm.boards import BoardSelector

_log = Logger()
_DEVICES = "/dev"


def watch_ports(
    reactor: IReactorFDSet, selectors: Iterable[BoardSelector], callback: Callable[[], object]
) -> Callable[[], object]:
    """Call back whenever a port may have appeared, vanished or changed its rights.

    :return: how to stop; without inotify nothing is watched, and it does nothing.
    """
    try:
        from twisted.internet import inotify

        notifier = inotify.INotify(reactor)
    except (ImportError, OSError) as error:
        _log.info("no inotify ({error}): plugged-in boards are found by looking", error=error)
        return bool
    notifier.startReading()
    # udev grants the rights to a new port only after it has appeared: hence IN_ATTRIB.
    events = inotify.IN_CREATE | inotify.IN_MOVED_TO | inotify.IN_ATTRIB | inotify.IN_DELETE
    ports = [selector.port for selector in selectors if selector.port is not None]
    for directory in {_DEVICES, *map(os.path.dirname, ports)}:
        if os.path.isdir(directory):
            notifier.watch(FilePath(directory), events, callbacks=[lambda *_: callback()])
    return lambda: notifier.connectionLost(Failure(ConnectionDone()))
