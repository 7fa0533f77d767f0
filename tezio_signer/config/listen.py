"""What the configuration says of the listeners: limits, request token, client certificates."""

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from tezio_signer.config.fields import ConfigError, Field
from tezio_signer.config.setting import read_section, settings_of
from tezio_signer.config.settings import ClientCa, Limits, RequestToken

SHORTEST_TOKEN = 16
"""Bytes; drawn at random from letters and digits, these are beyond guessing."""
_HEADER = re.compile("x-[a-z0-9-]+")
_SECRET = re.compile(b"[!-~]+")  # printable ASCII without blanks


def limits_from(field: Field) -> Limits:
    """The section `limits`; raises ConfigError."""
    values = read_section(Limits, field)
    limits = Limits(**values)
    if limits.connections_per_peer > limits.connections and "connections_per_peer" in values:
        raise field.error(
            f"connections_per_peer is {limits.connections_per_peer}, "
            f"more than connections, {limits.connections}"
        )
    return limits


def request_token_from(field: Field, directory: Path) -> RequestToken:
    """The section `request_token`; raises ConfigError, also for what is in its file."""
    keys = [each.key for each in settings_of(RequestToken)]
    entries = field.mapping(keys, required=keys)
    header = entries["header"].text().lower()
    if not _HEADER.fullmatch(header):
        raise entries["header"].error(
            f"{header!r:.60} is not a header that octez-client sends (TEZOS_SIGNER_HTTP_HEADERS): "
            "its name has to begin with x-, followed by letters, digits and hyphens"
        )
    at = entries["file"]
    path = directory / at.text()
    secret = _read(at, path, path.read_bytes).rstrip(b"\r\n")
    if len(secret) < SHORTEST_TOKEN:
        raise at.error(
            f"{path} holds {len(secret)} bytes; a request token needs {SHORTEST_TOKEN} at least: "
            "openssl rand -hex 32"
        )
    if not _SECRET.fullmatch(secret):
        raise at.error(
            f"{path} holds something else than a token: one line of printable ASCII without blanks"
        )
    return RequestToken(header, secret, path)


def unprotected_by_token(token: RequestToken | None, sockets: Iterable[str]) -> tuple[str, ...]:
    """What to warn of when there are listeners of the socket protocol, which knows no token."""
    if token is None:
        return ()
    return tuple(
        f"request_token protects HTTP only: who can connect to {endpoint} needs none"
        for endpoint in sockets
    )


def client_ca_from(field: Field, directory: Path) -> ClientCa:
    """What `client_ca` says; raises ConfigError if there are no certificates in its file."""
    from cryptography.x509 import load_pem_x509_certificates  # slow to import, and seldom needed

    path = directory / field.text()
    try:
        load_pem_x509_certificates(_read(field, path, path.read_bytes))
    except ValueError as error:
        raise field.error(
            f"{path} holds no certificates in PEM; name the file of the authorities that sign "
            "client certificates"
        ) from error
    return ClientCa(path)


def _read(field: Field, path: Path, read: Callable[[], Any]) -> Any:
    try:
        return read()
    except OSError as error:
        problem: ConfigError = field.error(f"{path} cannot be read: {error.strerror}")
        raise problem from error
