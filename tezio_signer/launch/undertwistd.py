"""What makes `twistd -n tezio-signer` the same daemon as `tezio-signer run`.

twistd writes its log from the reactor, waits at its end for nothing that writes elsewhere,
does not start where it finds a pid file that it does not understand, and shows errors in
options with a list of all plugins there are. Each can be changed by its options or by an
interface of its application.
"""

import atexit
import os
import sys
from types import TracebackType
from typing import Any

from tezio_signer.daemon import Daemon, obey_one_signal
from tezio_signer.errors import StartupError
from tezio_signer.reactors import Reactor

PID_FILE = "twistd.pid"
"""What twistd calls it unless it is told otherwise."""
USAGE = 2


def runs_in_foreground(twistd: Any) -> bool:
    """Whether a `ServerOptions` has `-n`, or what implies it."""
    return bool(twistd["nodaemon"] or twistd["debug"])


def prepare(twistd: Any) -> None:
    """Have twistd say errors at start in one line, and use no pid file unless it was asked for.

    A number left by a kill or a power cut says nothing: it is another process's by now, or
    1 in a container. The lock of the watermark store is what keeps a second daemon off.
    Without `-n` the file stays: there it is how the daemon is found again. One of another name
    was asked for, and stays as well.
    """
    sys.excepthook = _say_in_one_line
    if runs_in_foreground(twistd) and twistd["pidfile"] == PID_FILE:
        twistd["pidfile"] = ""


def refuse_usage(words: str, usage: str) -> None:
    """End with what is wrong with the options, and only those of the signer."""
    print(usage, file=sys.stderr)
    print(f"twistd tezio-signer: {words}", file=sys.stderr)
    sys.exit(USAGE)


def attach(daemon: Daemon, twistd: Any, reactor: Reactor) -> None:
    """Have twistd log where the daemon does, write all of it, and exit with its exit code.

    A log of the operator's own choice (`--logger`, `--logfile`, `--syslog`) is left to twistd,
    and so is that of a twistd that forks, to a file.
    """
    elsewhere = twistd["logger"] or twistd["syslog"] or twistd["logfile"] not in (None, "", "-")
    daemon.sets_log = runs_in_foreground(twistd) and not elsewhere
    obey_one_signal(reactor)
    # twistd logs one more line behind this, and then ends itself by the signal that it got.
    reactor.addSystemEventTrigger("after", "shutdown", daemon.finish_log)
    atexit.register(_end, daemon)


def _end(daemon: Daemon) -> None:
    daemon.finish_log()
    if daemon.exit_code:  # twistd exits with 0 whatever has stopped the reactor
        os._exit(daemon.exit_code)


def _say_in_one_line(
    kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    """An operator's mistake wants a sentence, not a traceback; twistd lets both through."""
    if isinstance(error, StartupError):
        print(f"tezio-signer: {error}", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, traceback)
