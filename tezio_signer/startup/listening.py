"""What would keep the daemon from listening, found out without listening."""

import resource

from tezio_signer.config.endpoints import Endpoint
from tezio_signer.config.settings import Limits
from tezio_signer.errors import StartupError
from tezio_signer.listeners.portcheck import try_tcp

OTHER_FILES = 64
"""File descriptors for all that is no connection: log, devices, store, listening ports."""


def check_open_files(limits: Limits) -> None:
    """Raises StartupError if this process may not open enough files for its connections."""
    needed = limits.open_files + OTHER_FILES
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if allowed not in (resource.RLIM_INFINITY, -1) and allowed < needed:
        raise StartupError(
            f"limits.connections is {limits.connections}, which may need {needed} open "
            f"files; this process may open {allowed}: lower it, or raise `ulimit -n` (LimitNOFILE "
            "in the unit of systemd)"
        )


def try_endpoint(endpoint: Endpoint) -> None:
    """Raises StartupError for what would keep the daemon from an endpoint; opens nothing.

    A socket of systemd is handed to the daemon itself only, and what a plugin opens is not known.

    :param endpoint: one that `check_endpoints` takes.
    :raises InUseError: if somebody listens there now, who may be the daemon.
    """
    if endpoint.kind == "unix":
        from tezio_signer.listeners.unixpath import SocketPath

        arguments = endpoint.arguments
        SocketPath(arguments["address"], arguments.get("lockfile", "1") != "0").look()
    elif not endpoint.is_known:
        _try_plugin(endpoint)
    elif endpoint.kind != "systemd":
        try_tcp(*endpoint.address)


def _try_plugin(endpoint: Endpoint) -> None:
    # It reads its arguments itself, and wants a reactor for that.
    from twisted.internet import reactor
    from twisted.internet.endpoints import serverFromString

    try:
        serverFromString(reactor, endpoint.description)
    except (ValueError, TypeError, LookupError, AttributeError, OSError) as error:
        raise StartupError(f"{endpoint.text!r} is not an endpoint to listen on: {error}") from error
