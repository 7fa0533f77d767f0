"""Tells why a port of TCP cannot be listened on, and whether it could be, without listening."""

from collections.abc import Iterator
from contextlib import contextmanager
from errno import EACCES, EADDRINUSE, EADDRNOTAVAIL, EAFNOSUPPORT, EINVAL, ENODEV
from ipaddress import IPv6Address, ip_address
from socket import (
    AF_INET,
    AF_INET6,
    AI_NUMERICHOST,
    AI_NUMERICSERV,
    SO_REUSEADDR,
    SOCK_STREAM,
    SOL_SOCKET,
    gaierror,
    getaddrinfo,
    socket,
)

from twisted.internet.error import CannotListenError

from tezio_signer.errors import InUseError, StartupError

_FIRST_FREE = 1024
"""Ports below it are root's, unless the system says otherwise (ip(7))."""


@contextmanager
def listening_errors(port: int, interface: str) -> Iterator[None]:
    """Raise StartupError for what keeps this process from listening on a port.

    :raises InUseError: if somebody listens there already.
    """
    try:
        yield
    except (CannotListenError, OSError, OverflowError, UnicodeError) as error:
        reason = error.socketError if isinstance(error, CannotListenError) else error
        kind = InUseError if getattr(reason, "errno", None) == EADDRINUSE else StartupError
        host = f"[{interface}]" if ":" in interface else interface or "0.0.0.0"  # noqa: S104
        raise kind(f"cannot listen on {host}:{port}: {_why(reason, port, interface)}") from error


def _why(error: Exception, port: int, interface: str) -> str:
    number = error.errno if isinstance(error, OSError) else None
    said = getattr(error, "strerror", None) or str(error)
    try:
        address = ip_address(interface) if interface else None
    except ValueError:  # a host name
        if number == EADDRNOTAVAIL:
            return f"{interface} is the name of another machine; use an address of this one"
        if isinstance(error, gaierror | UnicodeError):
            return f"this host name is not known ({said}); use an address of this machine"
        return _why(error, port, "")
    if isinstance(address, IPv6Address):
        zone = address.scope_id
        if zone is None and number == EINVAL and address.is_link_local:
            return f"this address needs the name of a network interface, as in {address}%eth0"
        if zone is not None and (isinstance(error, gaierror) or number in (EINVAL, ENODEV)):
            return f"this machine has no network interface {zone} (`ip link` shows what it has)"
    if number == EADDRNOTAVAIL:
        return "this machine does not have this address (`ip address` shows those that it has)"
    if number == EADDRINUSE:
        return "this port is in use by another program; stop it first, or use another port"
    if number == EACCES and port < _FIRST_FREE:
        return (
            f"this user may not use a port below {_FIRST_FREE}; use a higher one, or allow it "
            "(AmbientCapabilities=CAP_NET_BIND_SERVICE in the unit of systemd)"
        )
    if number == EAFNOSUPPORT:
        return "this kind of address is not enabled on this machine; use another one"
    return said


def try_tcp(port: int, interface: str) -> None:
    """Raise StartupError if a port could not be listened on; nobody notices that it was tried.

    It is bound as Twisted's `tcp.Port` binds it, and no further. With a port that is in use by a
    daemon this is harmless: SO_REUSEADDR lets others listen on one that is bound only.

    :raises InUseError: if somebody listens there now.
    """
    with listening_errors(port, interface):
        family, address = AF_INET, (interface, port)
        if ":" in interface:
            family = AF_INET6
            numeric = AI_NUMERICHOST | AI_NUMERICSERV
            address = getaddrinfo(interface, port, flags=numeric)[0][4]  # type: ignore[assignment]
        with socket(family, SOCK_STREAM) as bound:
            bound.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)
            bound.bind(address)
