"""Tells whether two endpoints overlap, so that the system lets only one of them be opened."""

import os
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from socket import (
    AF_INET6,
    IPPROTO_IPV6,
    IPV6_V6ONLY,
    gethostbyname,
    if_nametoindex,
    socket,
)

_EVERY = (IPv4Address("0.0.0.0"), IPv6Address("::"))  # noqa: S104


def same_path(one: str, other: str) -> bool:
    """Whether two paths of sockets are one, whatever links lead to their directories."""
    return _real(one) == _real(other)


def _real(path: str) -> Path:
    absolute = Path(os.path.abspath(path))
    return Path(os.path.realpath(absolute.parent)) / absolute.name


def same_address(one: str, other: str) -> bool:
    """Whether nothing can listen on a port of one interface and on the same one of the other.

    :param one: an address, the name of a machine, or nothing for all of IPv4.
    """
    first, second = _address(one), _address(other)
    if first is None or second is None:  # which is told where it is opened
        return one == other
    if first == second:
        return True
    if first not in _EVERY and second not in _EVERY:
        return False
    if type(first) is type(second):
        return True
    six = first if isinstance(first, IPv6Address) else second
    return six in _EVERY and _both_kinds()


def _address(interface: str) -> IPv4Address | IPv6Address | None:
    """What the system binds; an address of IPv4 in one of IPv6 is one of IPv4."""
    try:
        address = ip_address(interface or "0.0.0.0")  # noqa: S104
    except ValueError:
        try:
            return IPv4Address(gethostbyname(interface))
        except (OSError, UnicodeError):
            return None
    if not isinstance(address, IPv6Address):
        return address
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.scope_id is not None:
        return IPv6Address(f"{str(address).partition('%')[0]}%{_index(address.scope_id)}")
    return address


def _index(zone: str) -> str:
    try:
        return str(if_nametoindex(zone))
    except OSError:
        return zone


def _both_kinds() -> bool:
    """Whether what listens on every address of IPv6 has those of IPv4 too (ipv6(7))."""
    try:
        with socket(AF_INET6) as asked:
            return not asked.getsockopt(IPPROTO_IPV6, IPV6_V6ONLY)
    except OSError:
        return False
