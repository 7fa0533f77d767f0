"""Endpoint strings, read as Twisted reads them, but without Twisted.

Whoever reads an endpoint otherwise than Twisted may be deceived about what is listened on:
a test holds `parse` and `quote` to Twisted's own functions.
"""

import os
import re
from ipaddress import IPv6Address, ip_address
from pathlib import Path

from attrs import frozen

from tezio_signer.errors import StartupError

UNIX_MODE = "600"
"""Of a Unix socket, unless it is given: who can open it counts as 127.0.0.1. Twisted's is 666."""
PROXY = "haproxy"
"""What is written in front of an endpoint for clients that come through a proxy."""
_TLS = ("ssl", "tls")
ARGUMENTS = {
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
"""Those that may be written without their name, in the order of Twisted's parsers."""
PATHS = ("privateKey", "certKey", "extraCertChain", "dhParameters", "path", "address")
LONGEST_SOCKET = 107
"""Bytes of the path of a Unix socket (unix(7))."""
_INTERFACE = re.compile(r"interface=(\[[^\]]*\]|[0-9A-Fa-f:.%\w-]*)")


@frozen
class Endpoint:
    """An endpoint says where to listen, and how.

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
            given, named = parse(description)
        except ValueError as error:
            raise StartupError(f"{text!r} is not an endpoint: it ends in a backslash") from error
        proxied = given[:1] != [] and given[0].lower() == PROXY
        if proxied:
            description = description.partition(":")[2]
            given = given[1:] or [""]
        kind = given[0].lower() if given else ""
        if kind == PROXY:
            raise StartupError(f"{text!r} names {PROXY} twice; leave one of them out")
        if description.lower().startswith(kind):  # which Twisted wants in small letters
            description = kind + description[len(kind) :]
        names = ARGUMENTS.get(kind, ())
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
        return self.kind in ARGUMENTS

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

    @property
    def certificate_files(self) -> tuple[Path, Path] | None:
        """The private key and the certificate of an `ssl:` endpoint; None for other kinds."""
        if self.kind != "ssl":
            return None
        key = self.arguments.get("privateKey", "server.pem")
        return Path(key), Path(self.arguments.get("certKey", key))


def parse(description: str) -> tuple[list[str], dict[str, str]]:
    """The arguments of an endpoint string without a name, and those with one.

    A backslash takes away the meaning of what is behind it; raises ValueError if that is nothing.
    """
    given: list[str] = []
    named: dict[str, str] = {}
    name: str | None = None
    value = ""
    characters = iter(description)
    for character in characters:
        if character == "\\":
            try:
                value += next(characters)
            except StopIteration:
                raise ValueError("nothing is behind the last backslash") from None
        elif character == "=" and name is None:
            name, value = value, ""
        elif character == ":":
            _add(given, named, name, value)
            name, value = None, ""
        else:
            value += character
    _add(given, named, name, value)
    return given, named


def _add(given: list[str], named: dict[str, str], name: str | None, value: str) -> None:
    if name is None:
        given.append(value)
    else:
        named[name] = value


def quote(argument: str) -> str:
    """An argument in an endpoint string, with its backslashes and colons escaped."""
    return argument.replace("\\", "\\\\").replace(":", "\\:")


def resolved(text: str, directory: Path) -> str:
    """Return an endpoint string whose paths are absolute; raises StartupError.

    :param directory: what its paths are relative to: that of the configuration, or for one of the
        command line the one where the command was given.
    """
    endpoint = Endpoint.parse(text)
    arguments = dict(endpoint.arguments)
    if endpoint.surplus or not _resolve(endpoint.kind, arguments, directory):
        return text
    return (f"{PROXY}:" if endpoint.proxied else "") + _described(endpoint.kind, arguments)


def _resolve(kind: str, arguments: dict[str, str], directory: Path) -> bool:
    """Make paths absolute; return whether there was one that was not."""
    changed = False
    for name in PATHS if kind in ARGUMENTS else ():
        path = arguments.get(name)
        if path and not os.path.isabs(path):
            whole = os.path.normpath(directory.absolute() / path)
            if name == "address" and len(os.fsencode(whole)) > LONGEST_SOCKET:
                whole = min(os.path.relpath(whole), whole, key=len)
            arguments[name] = whole
            changed = True
    return changed


def _described(kind: str, arguments: dict[str, str]) -> str:
    first, *_ = ARGUMENTS[kind]
    return ":".join(
        [
            kind,
            *(
                ("" if name == first and "=" not in value else f"{name}=") + quote(value)
                for name, value in sorted(arguments.items(), key=lambda given: given[0] != first)
            ),
        ]
    )


def _with_escaped_address(text: str) -> str:
    """Return an endpoint string with the colons of an IPv6 address escaped, as Twisted wants.

    Both `interface=[::1]` and `interface=::1` mean what they say; an address with escaped
    colons stays as it is.
    """

    def escaped(match: re.Match[str]) -> str:
        value = match[1]
        if value.startswith("["):
            address, rest = value[1:-1], ""
        else:
            address, rest = _longest_address(value)
        if not is_ipv6(address):
            return match[0]
        return f"interface={quote(address)}{rest}"

    return _INTERFACE.sub(escaped, text)


def _longest_address(value: str) -> tuple[str, str]:
    """Split a value into the IPv6 address that it begins with, and what is behind it."""
    parts = value.split(":")
    for count in range(len(parts), 1, -1):
        address = ":".join(parts[:count])
        if is_ipv6(address):
            return address, value[len(address) :]
    return "", value


def is_ipv6(text: str) -> bool:
    """Whether this is an address of IPv6, with a zone or without."""
    try:
        return ip_address(text).version == 6 and ":" not in text.partition("%")[2]
    except ValueError:
        return False
