"""Endpoint strings as Twisted reads them, and what is to be said of them before they are opened."""

from collections.abc import Iterable
from ipaddress import IPv6Address, ip_address

from attrs import frozen
from twisted.internet.endpoints import _parse  # what reads it otherwise may be deceived

from tezio_signer.errors import StartupError
from tezio_signer.settings import ClientCa

UNIX_MODE = "600"
"""Of a Unix socket, unless it is given: who can open it counts as 127.0.0.1. Twisted's is 666."""
_PROXY = "haproxy"
_TLS = ("ssl", "tls")
_METHODS = ("TLS_METHOD", "TLSv1_2_METHOD")
_ARGUMENTS = {
    "tcp": ("port", "interface"),
    "tcp6": ("port", "backlog", "interface"),
    "ssl": ("port", "privateKey", "certKey", "sslmethod", "interface"),
    "tls": ("path", "port", "backlog", "interface"),
    "unix": ("address", "mode"),
    "systemd": ("domain",),
}
"""Those that may stand without their name, in order, as far as they matter here."""


@frozen
class Endpoint:
    """Where to listen.

    :ivar text: as it was given.
    :ivar description: what Twisted is to listen on.
    :ivar kind: tcp, ssl, unix, …, in small letters.
    :ivar proxied: whether clients come through a proxy that says who they are.
    """

    text: str
    description: str
    kind: str
    proxied: bool
    arguments: dict[str, str]

    @classmethod
    def parse(cls, text: str) -> "Endpoint":
        """Read an endpoint string; raises StartupError for what nobody could read."""
        try:
            given, named = _parse(text)
        except RuntimeError as error:
            raise StartupError(f"{text!r} is no endpoint: it ends in a backslash") from error
        description = text
        proxied = given[:1] != [] and given[0].lower() == _PROXY
        if proxied:
            description = text.partition(":")[2]
            given = given[1:] or [""]
        kind = given[0].lower()
        if kind == _PROXY:
            raise StartupError(f"{text!r} names {_PROXY} twice")
        arguments = dict(zip(_ARGUMENTS.get(kind, ()), given[1:], strict=False)) | named
        if kind == "unix" and "mode" not in arguments:
            description += f":mode={UNIX_MODE}"
        return cls(text, description, kind, proxied, arguments)

    @property
    def is_tls(self) -> bool:
        """Whether what comes is encrypted."""
        return self.kind in _TLS

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


def check_endpoints(texts: Iterable[str], client_ca: ClientCa | None) -> tuple[str, ...]:
    """What an operator should be warned of; raises StartupError for what must not be.

    :param texts: of all doors, since a protection that leaves out some of them may be none.
    """
    endpoints = [Endpoint.parse(text) for text in texts]
    for endpoint in endpoints:
        _check_method(endpoint)
    warnings = [
        f"whoever can connect to {endpoint.text} chooses the address that it counts as: let "
        "nobody but the proxy, by interface=127.0.0.1 or a firewall"
        for endpoint in endpoints
        if endpoint.proxied and not endpoint.is_private
    ]
    if client_ca is not None:
        warnings += _check_client_ca(endpoints)
    return tuple(warnings)


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
