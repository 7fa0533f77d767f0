"""Checks endpoints before they are opened: what cannot be, and what an operator is warned of."""

import difflib
import os
import re
from collections.abc import Iterable
from ipaddress import ip_address
from itertools import combinations

from tezio_signer.config.endpoints import (
    ARGUMENTS,
    LONGEST_SOCKET,
    PATHS,
    UNIX_MODE,
    Endpoint,
    is_ipv6,
)
from tezio_signer.config.settings import ClientCa
from tezio_signer.errors import StartupError
from tezio_signer.listeners.overlap import same_address, same_path

_REQUIRED = {"unix": "address", "tls": "path", "systemd": "domain"}
_HIGHEST_PORT = 0xFFFF
_SAMPLE = "tcp:6732:interface=127.0.0.1"
_METHODS = ("TLS_METHOD", "TLSv1_2_METHOD")
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?")


def check_endpoints(texts: Iterable[str], client_ca: ClientCa | None) -> tuple[str, ...]:
    """Return what an operator is to be warned of; raises StartupError for what cannot be opened.

    Reads what the endpoints need: names and values of their arguments, certificates and keys.
    Opens nothing.

    :param texts: of all listeners, since a protection that leaves out some may be none.
    """
    endpoints = [Endpoint.parse(text) for text in texts]
    for endpoint in endpoints:
        _check_arguments(endpoint)
        _check_method(endpoint)
    check_each_once(endpoints)
    warnings = [
        f"whoever can connect to {endpoint.text} can claim any client address: let only the proxy "
        "connect, by interface=127.0.0.1 or a firewall"
        for endpoint in endpoints
        if endpoint.proxied and not endpoint.is_private
    ]
    if client_ca is not None:
        warnings += _check_client_ca(endpoints)
    for endpoint in endpoints:
        if endpoint.is_tls:
            _check_certificates(endpoint, client_ca)
    return tuple(warnings)


def _check_certificates(endpoint: Endpoint, client_ca: ClientCa | None) -> None:
    from tezio_signer.listeners.tls.certificates import certificates_of  # which takes OpenSSL

    source = certificates_of(endpoint, client_ca)
    if source is not None:
        source.load()


def check_each_once(endpoints: Iterable[Endpoint]) -> None:
    """Raises StartupError if two endpoints are the same, so that the second cannot be opened."""
    for one, other in combinations(endpoints, 2):
        if _are_the_same(one, other):
            what = (
                f"{one.text!r} is named twice"
                if one.text == other.text
                else f"{other.text!r} is where {one.text!r} listens already"
            )
            raise StartupError(
                f"{what}, and nothing can listen there twice: leave one of them out, or give it "
                "another port or path"
            )


def _are_the_same(one: Endpoint, other: Endpoint) -> bool:
    if "systemd" in (one.kind, other.kind):
        # Both would listen on one socket, and share its clients between them by chance.
        return one.kind == other.kind and _handed_over(one) == _handed_over(other)
    if "unix" in (one.kind, other.kind):
        paths = (one.arguments.get("address"), other.arguments.get("address"))
        return one.kind == other.kind and same_path(*map(str, paths))
    if not one.is_known or not other.is_known:
        return False
    (port, interface), (other_port, other_interface) = one.address, other.address
    return port == other_port != 0 and same_address(interface, other_interface)


def _handed_over(endpoint: Endpoint) -> tuple[int, str]:
    """Return which socket of systemd this is: its index, or its name."""
    arguments = endpoint.arguments
    return int(arguments.get("index", "-1")), arguments.get("name", "")


def _check_arguments(endpoint: Endpoint) -> None:
    names = ARGUMENTS.get(endpoint.kind)
    if names is None:
        _check_kind(endpoint)
        return
    if endpoint.surplus:
        sample = "tcp6:6732:interface=::1" if endpoint.kind == "tcp6" else _SAMPLE
        raise _no_endpoint(endpoint, f"{endpoint.surplus[0]!r} is one argument too many", sample)
    for name in endpoint.arguments:
        if name not in names:
            near = difflib.get_close_matches(name, names, 1)
            known = f"did you mean {near[0]}?" if near else f"there are {', '.join(names)}"
            raise _no_endpoint(endpoint, f"{endpoint.kind}: has no argument {name}; {known}")
    required = _REQUIRED.get(endpoint.kind, "port")
    if endpoint.kind != "tls" and not endpoint.arguments.get(required):
        raise _no_endpoint(endpoint, f"it has no {required}")
    _check_values(endpoint)


def _check_values(endpoint: Endpoint) -> None:
    arguments = endpoint.arguments
    if any("\0" in arguments.get(name, "") for name in PATHS):
        raise _no_endpoint(endpoint, "a path has no zero byte")
    if "port" in arguments:
        _check_number(endpoint, "port", _HIGHEST_PORT)
    if "backlog" in arguments:
        _check_number(endpoint, "backlog", 0x7FFFFFFF)
    if "index" in arguments:
        _check_number(endpoint, "index", 0xFFFF)
    if endpoint.kind == "unix":
        _check_unix(endpoint)
    elif endpoint.kind == "tls" and not arguments.get("path"):
        raise _no_endpoint(endpoint, "it has no path of a directory with certificates")
    elif endpoint.kind == "systemd":
        _check_systemd(endpoint)
    interface = arguments.get("interface", "")
    try:
        ip_address(interface)
    except ValueError as error:
        if interface and not _HOST.fullmatch(interface):
            raise _no_endpoint(
                endpoint, f"{interface!r} is no address of an interface", "tcp6:6732:interface=::1"
            ) from error


def _check_systemd(endpoint: Endpoint) -> None:
    arguments = endpoint.arguments
    sample = "systemd:domain=INET:index=0"
    if arguments["domain"] not in ("INET", "INET6", "UNIX"):
        given = arguments["domain"]
        sentence = f"domain is INET, INET6 or UNIX, not {given!r:.60}"
        raise _no_endpoint(endpoint, sentence, sample)
    if ("index" in arguments) == ("name" in arguments):
        sentence = "it wants either index or name of the socket"
        raise _no_endpoint(endpoint, sentence, sample)


def _check_number(endpoint: Endpoint, name: str, most: int) -> None:
    value = endpoint.arguments[name]
    if not value.isascii() or not value.isdecimal() or int(value) > most:
        sentence = f"{name} is a number from 0 to {most}, not {value!r:.60}"
        if value.strip("[]").count(":") or endpoint.kind == "tcp6":
            raise _no_endpoint(endpoint, sentence, "tcp6:6732:interface=::1")
        raise _no_endpoint(endpoint, sentence)


def _check_unix(endpoint: Endpoint) -> None:
    arguments = endpoint.arguments
    mode = arguments.get("mode", UNIX_MODE)
    if not re.fullmatch("0?[0-7]{3}", mode):
        raise _no_endpoint(
            endpoint, f"mode is three octal digits, not {mode!r:.60}", "unix:signer.sock:mode=660"
        )
    if arguments.get("lockfile", "1") not in ("0", "1"):
        raise _no_endpoint(endpoint, "lockfile is 0 or 1")
    address = arguments["address"]
    if len(os.fsencode(address)) > LONGEST_SOCKET:
        raise _no_endpoint(
            endpoint,
            f"the path of a Unix socket has {LONGEST_SOCKET} bytes at most; {address} has "
            f"{len(os.fsencode(address))}",
        )


def _check_kind(endpoint: Endpoint) -> None:
    """Raise StartupError for a kind that neither Twisted nor a plugin of it has."""
    from twisted.internet.interfaces import IStreamServerEndpointStringParser
    from twisted.plugin import getPlugins

    kinds = ", ".join(ARGUMENTS)
    plugins = [plugin.prefix.lower() for plugin in getPlugins(IStreamServerEndpointStringParser)]
    if endpoint.kind not in plugins:
        raise _no_endpoint(endpoint, f"{endpoint.kind!r} is none of {kinds}", _meant(endpoint.text))


def _meant(text: str) -> str:
    """Return the endpoint that somebody means who writes an address or a URL."""
    scheme, separator, rest = text.partition("://")
    address = rest.partition("/")[0] if separator else text
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    number = port if port.isascii() and port.isdecimal() else "6732"
    tls = ":privateKey=key.pem:certKey=cert.pem" if scheme == "https" and separator else ""
    kind = "ssl" if tls else "tcp6" if is_ipv6(host) else "tcp"
    try:
        ip_address(host)
    except ValueError:
        host = "127.0.0.1"
    return f"{kind}:{number}:interface={host}{tls}"


def _no_endpoint(endpoint: Endpoint, why: str, sample: str = _SAMPLE) -> StartupError:
    return StartupError(
        f"{endpoint.text!r} is not an endpoint to listen on: {why}; one that works is {sample}"
    )


def _check_client_ca(endpoints: list[Endpoint]) -> list[str]:
    if not any(endpoint.is_tls for endpoint in endpoints):
        raise StartupError(
            "client_ca protects nothing, since no endpoint is TLS: leave it out, or add one such "
            "as ssl:6732:privateKey=key.pem:certKey=cert.pem"
        )
    for endpoint in endpoints:
        if endpoint.kind == "tls":
            raise StartupError(
                f"{endpoint.text!r} cannot ask for the certificates of client_ca: use ssl: instead"
            )
    return [
        f"{endpoint.text} does not ask for a client certificate: client_ca is for TLS only"
        for endpoint in endpoints
        if not endpoint.is_tls
    ]


def _check_method(endpoint: Endpoint) -> None:
    method = endpoint.arguments.get("sslmethod")
    if method is not None and method not in _METHODS:
        raise StartupError(
            f"{endpoint.text!r}: sslmethod={method} is not possible: TLS 1.2 is the oldest that "
            "is spoken; leave sslmethod out"
        )
