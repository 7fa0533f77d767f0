"""Endpoint strings as Twisted reads them, and what is to be said of them before they are opened."""

import difflib
import os
import re
from collections.abc import Iterable
from ipaddress import IPv6Address, ip_address
from itertools import combinations
from pathlib import Path

from attrs import frozen
from twisted.internet.endpoints import (
    _parse,  # what reads it otherwise may be deceived
    quoteStringArgument,
)
from twisted.internet.interfaces import IStreamServerEndpointStringParser
from twisted.plugin import getPlugins

from tezio_signer.certificates import CertificateFiles, Source, SourceDirectory
from tezio_signer.errors import StartupError
from tezio_signer.samedoor import same_address, same_path
from tezio_signer.settings import ClientCa

UNIX_MODE = "600"
"""Of a Unix socket, unless it is given: who can open it counts as 127.0.0.1. Twisted's is 666."""
_PROXY = "haproxy"
_TLS = ("ssl", "tls")
_METHODS = ("TLS_METHOD", "TLSv1_2_METHOD")
_ARGUMENTS = {
    "tcp": ("port", "interface", "backlog"),
    "tcp6": ("port", "backlog", "interface"),
    "ssl": (
        "port",
        "privateKey",
        "certKey",
        "sslmethod",
        "interface",
        "backlog",
        "extraCertChain",
        "dhParameters",
    ),
    "tls": ("path", "port", "backlog", "interface"),
    "unix": ("address", "mode", "backlog", "lockfile"),
    "systemd": ("domain", "index", "name"),
}
"""Those that may stand without their name, in the order of Twisted's parsers."""
_PATHS = ("privateKey", "certKey", "extraCertChain", "dhParameters", "path", "address")
_REQUIRED = {"unix": "address", "tls": "path", "systemd": "domain"}
_LONGEST_SOCKET = 107
"""Bytes of the path of a Unix socket (unix(7))."""
_HIGHEST_PORT = 0xFFFF
_SAMPLE = "tcp:6732:interface=127.0.0.1"
_INTERFACE = re.compile(r"interface=(\[[^\]]*\]|[0-9A-Fa-f:.%\w-]*)")
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?")


@frozen
class Endpoint:
    """Where to listen.

    :ivar text: as it was given.
    :ivar description: what Twisted is to listen on.
    :ivar kind: tcp, ssl, unix, …, in small letters.
    :ivar proxied: whether clients come through a proxy that says who they are.
    :ivar surplus: arguments without a name that are more than this kind takes.
    """

    text: str
    description: str
    kind: str
    proxied: bool
    arguments: dict[str, str]
    surplus: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str, directory: Path | None = None) -> "Endpoint":
        """Read an endpoint string; raises StartupError for what nobody could read.

        :param directory: what its paths are relative to; None leaves them as they are.
        """
        description = _with_escaped_address(text)
        try:
            given, named = _parse(description)
        except RuntimeError as error:
            raise StartupError(f"{text!r} is no endpoint: it ends in a backslash") from error
        proxied = given[:1] != [] and given[0].lower() == _PROXY
        if proxied:
            description = description.partition(":")[2]
            given = given[1:] or [""]
        kind = given[0].lower() if given else ""
        if kind == _PROXY:
            raise StartupError(f"{text!r} names {_PROXY} twice")
        if description.lower().startswith(kind):  # which Twisted wants in small letters
            description = kind + description[len(kind) :]
        names = _ARGUMENTS.get(kind, ())
        arguments = dict(zip(names, given[1:], strict=False)) | named
        if directory is not None and _resolve(kind, arguments, directory):
            description = _described(kind, arguments)
        if kind == "unix" and "mode" not in arguments:
            description += f":mode={UNIX_MODE}"
        surplus = tuple(given[1 + len(names) :])
        return cls(text, description, kind, proxied, arguments, surplus)

    @property
    def is_tls(self) -> bool:
        """Whether what comes is encrypted."""
        return self.kind in _TLS

    @property
    def is_known(self) -> bool:
        """Whether this is a kind of Twisted's own, and not a plugin's."""
        return self.kind in _ARGUMENTS

    @property
    def is_private(self) -> bool:
        """Whether nobody on another machine can connect to it."""
        if self.kind == "unix" or self.arguments.get("domain") == "UNIX":
            return True
        interface = self.arguments.get("interface", "")
        try:
            address = ip_address(interface)
        except ValueError:
            return interface == "localhost"
        if isinstance(address, IPv6Address) and address.ipv4_mapped:
            address = address.ipv4_mapped
        return address.is_loopback

    @property
    def transport(self) -> str:
        """What Twisted is to listen on for what is inside TLS, or else all of it."""
        if not self.is_tls:
            return self.description
        by_default = {"ssl": ("", ""), "tls": ("443", "::")}
        port, interface = by_default[self.kind]
        below = {
            "port": self.arguments.get("port", port),
            "interface": self.arguments.get("interface", interface),
            "backlog": self.arguments.get("backlog", "50"),
        }
        return _described("tcp", below)

    @property
    def address(self) -> tuple[int, str]:
        """The port and the interface of what is checked, and listens on TCP."""
        by_default = {"tcp6": "::", "tls": "::"}.get(self.kind, "")
        port = self.arguments.get("port", "443")
        return int(port), self.arguments.get("interface", by_default)

    def certificates(self, client_ca: ClientCa | None = None) -> Source | None:
        """Where its certificates are; None for an endpoint without TLS."""
        arguments = self.arguments
        if self.kind == "tls":
            return SourceDirectory(self.text, Path(arguments.get("path", "")))
        if self.kind != "ssl":
            return None
        key = arguments.get("privateKey", "server.pem")
        chain, parameters = (arguments.get(name) for name in ("extraCertChain", "dhParameters"))
        return CertificateFiles(
            self.text,
            Path(key),
            Path(arguments.get("certKey", key)),
            Path(chain) if chain else None,
            Path(parameters) if parameters else None,
            arguments.get("sslmethod"),
            client_ca,
        )


def resolved(text: str, directory: Path) -> str:
    """An endpoint string whose paths are absolute; raises StartupError.

    :param directory: what its paths are relative to: that of the configuration, or for one of the
        command line the one where the command was given.
    """
    endpoint = Endpoint.parse(text)
    arguments = dict(endpoint.arguments)
    if endpoint.surplus or not _resolve(endpoint.kind, arguments, directory):
        return text
    return (f"{_PROXY}:" if endpoint.proxied else "") + _described(endpoint.kind, arguments)


def check_endpoints(texts: Iterable[str], client_ca: ClientCa | None) -> tuple[str, ...]:
    """What an operator should be warned of; raises StartupError for what cannot be opened.

    Reads what the endpoints need: names and values of their arguments, certificates and keys.
    Opens nothing.

    :param texts: of all doors, since a protection that leaves out some of them may be none.
    """
    endpoints = [Endpoint.parse(text) for text in texts]
    for endpoint in endpoints:
        _check_arguments(endpoint)
        _check_method(endpoint)
    check_each_once(endpoints)
    warnings = [
        f"whoever can connect to {endpoint.text} chooses the address that it counts as: let "
        "nobody but the proxy, by interface=127.0.0.1 or a firewall"
        for endpoint in endpoints
        if endpoint.proxied and not endpoint.is_private
    ]
    if client_ca is not None:
        warnings += _check_client_ca(endpoints)
    for endpoint in endpoints:
        source = endpoint.certificates(client_ca)
        if source is not None:
            source.load()
    return tuple(warnings)


def check_each_once(endpoints: Iterable[Endpoint]) -> None:
    """Raises StartupError if two endpoints are one place, of which the second cannot be opened."""
    for one, other in combinations(endpoints, 2):
        if _same_place(one, other):
            raise StartupError(
                f"{other.text!r} is where {one.text!r} listens already, and nothing can listen "
                "there twice: leave one of them out, or give it another place"
            )


def _same_place(one: Endpoint, other: Endpoint) -> bool:
    if "systemd" in (one.kind, other.kind):
        # Both would listen on one socket, and share its clients between them by chance.
        same = [one.arguments.get(name) == other.arguments.get(name) for name in ("index", "name")]
        return one.kind == other.kind and all(same)
    if "unix" in (one.kind, other.kind):
        paths = (one.arguments.get("address"), other.arguments.get("address"))
        return one.kind == other.kind and same_path(*map(str, paths))
    if not one.is_known or not other.is_known:
        return False
    (port, interface), (other_port, other_interface) = one.address, other.address
    return port == other_port != 0 and same_address(interface, other_interface)


def _resolve(kind: str, arguments: dict[str, str], directory: Path) -> bool:
    """Make paths absolute; whether there was one that was not."""
    changed = False
    for name in _PATHS if kind in _ARGUMENTS else ():
        path = arguments.get(name)
        if path and not os.path.isabs(path):
            whole = os.path.normpath(directory.absolute() / path)
            if name == "address" and len(os.fsencode(whole)) > _LONGEST_SOCKET:
                whole = min(os.path.relpath(whole), whole, key=len)
            arguments[name] = whole
            changed = True
    return changed


def _described(kind: str, arguments: dict[str, str]) -> str:
    first, *_ = _ARGUMENTS[kind]
    return ":".join(
        [
            kind,
            *(
                ("" if name == first and "=" not in value else f"{name}=")
                + quoteStringArgument(value)
                for name, value in sorted(arguments.items(), key=lambda given: given[0] != first)
            ),
        ]
    )


def _with_escaped_address(text: str) -> str:
    """An endpoint string with the colons of an IPv6 address escaped, as Twisted wants them.

    Both `interface=[::1]` and `interface=::1` mean what they say; an address with escaped
    colons stays as it is.
    """

    def escaped(match: re.Match[str]) -> str:
        value = match[1]
        if value.startswith("["):
            address, rest = value[1:-1], ""
        else:
            address, rest = _longest_address(value)
        if not _is_ipv6(address):
            return match[0]
        return f"interface={quoteStringArgument(address)}{rest}"

    return _INTERFACE.sub(escaped, text)


def _longest_address(value: str) -> tuple[str, str]:
    """The IPv6 address that a value begins with, and what is behind it."""
    parts = value.split(":")
    for count in range(len(parts), 1, -1):
        address = ":".join(parts[:count])
        if _is_ipv6(address):
            return address, value[len(address) :]
    return "", value


def _is_ipv6(text: str) -> bool:
    try:
        return ip_address(text).version == 6 and ":" not in text.partition("%")[2]
    except ValueError:
        return False


def _check_arguments(endpoint: Endpoint) -> None:
    names = _ARGUMENTS.get(endpoint.kind)
    if names is None:
        _check_kind(endpoint)
        return
    if endpoint.surplus:
        sample = "tcp6:6732:interface=::1" if endpoint.kind == "tcp6" else _SAMPLE
        raise _no_endpoint(endpoint, f"nobody knows what {endpoint.surplus[0]!r} is for", sample)
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
    if any("\0" in arguments.get(name, "") for name in _PATHS):
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
    if len(os.fsencode(address)) > _LONGEST_SOCKET:
        raise _no_endpoint(
            endpoint,
            f"the path of a Unix socket has {_LONGEST_SOCKET} bytes at most; {address} has "
            f"{len(os.fsencode(address))}",
        )


def _check_kind(endpoint: Endpoint) -> None:
    """A kind that is none of Twisted's own may be a plugin's, who knows its arguments."""
    kinds = ", ".join(_ARGUMENTS)
    plugins = [plugin.prefix.lower() for plugin in getPlugins(IStreamServerEndpointStringParser)]
    if endpoint.kind not in plugins:
        raise _no_endpoint(endpoint, f"{endpoint.kind!r} is none of {kinds}", _meant(endpoint.text))


def _meant(text: str) -> str:
    """The endpoint that somebody means who writes an address or a URL."""
    scheme, separator, rest = text.partition("://")
    address = rest.partition("/")[0] if separator else text
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    number = port if port.isascii() and port.isdecimal() else "6732"
    tls = ":privateKey=key.pem:certKey=cert.pem" if scheme == "https" and separator else ""
    kind = "ssl" if tls else "tcp6" if _is_ipv6(host) else "tcp"
    try:
        ip_address(host)
    except ValueError:
        host = "127.0.0.1"
    return f"{kind}:{number}:interface={host}{tls}"


def _no_endpoint(endpoint: Endpoint, why: str, sample: str = _SAMPLE) -> StartupError:
    return StartupError(
        f"{endpoint.text!r} is no endpoint to listen on: {why}; one that works is {sample}"
    )


def _check_client_ca(endpoints: list[Endpoint]) -> list[str]:
    if not any(endpoint.is_tls for endpoint in endpoints):
        raise StartupError(
            "client_ca protects nothing: no endpoint is TLS, such as "
            "ssl:6732:privateKey=key.pem:certKey=cert.pem"
        )
    for endpoint in endpoints:
        if endpoint.kind == "tls":
            raise StartupError(
                f"{endpoint.text!r} cannot ask for the certificates of client_ca: use ssl: instead"
            )
    return [
        f"{endpoint.text} asks for no client certificate: client_ca is for TLS only"
        for endpoint in endpoints
        if not endpoint.is_tls
    ]


def _check_method(endpoint: Endpoint) -> None:
    method = endpoint.arguments.get("sslmethod")
    if method is not None and method not in _METHODS:
        raise StartupError(
            f"{endpoint.text!r}: sslmethod={method} is not possible, TLS 1.2 is the oldest that "
            "is spoken; leave sslmethod out"
        )
