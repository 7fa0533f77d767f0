"""What a daemon says of itself when it has started: everything that decides what it signs."""

from collections.abc import Iterator
from pathlib import Path

from tezio_signer import __version__
from tezio_signer.config.endpoints import UNIX_MODE, Endpoint
from tezio_signer.config.settings import Settings, SigningKey
from tezio_signer.tezos.payload import BAKING_OPERATIONS


def banner(settings: Settings, source: Path | None) -> str:
    """Version, configuration, store, listeners with their protection, keys with their rules.

    :param source: the configuration file; None if the settings are built in.
    """
    return "\n".join(
        [
            f"Tezio Signer {__version__} has started",
            f"configuration: {'built in' if source is None else source.absolute()}",
            f"watermarks: {settings.store or 'in memory, and gone when it stops'}",
            *_audit(settings),
            *(f"HTTP at {text}: {_protection(settings, text, True)}" for text in settings.http),
            *(
                f"Octez socket at {text}: {_protection(settings, text, False)}"
                for text in settings.octez_socket
            ),
            f"who may ask: {', '.join(_askers(settings))}",
            *(
                f"{key.key}: {', '.join(_rules(settings, key))}"
                for key in settings.signing_keys.values()
            ),
            _ready(settings),
        ]
    )


def _audit(settings: Settings) -> Iterator[str]:
    if settings.audit is not None:
        required = ", required" if settings.audit.required else ""
        yield f"audit log: {settings.audit.path}{required}"


def _ready(settings: Settings) -> str:
    """A last line: that requests may come, and one to try if this machine can send it as it is."""
    for endpoint in map(Endpoint.parse, settings.http):
        port = endpoint.arguments.get("port", "0")
        plain = endpoint.kind == "tcp" and not endpoint.proxied and port != "0"
        if plain and settings.request_token is None:
            host = endpoint.arguments.get("interface") or "127.0.0.1"
            path = "known_keys" if settings.list_known_keys else ""
            return f"ready; try it with: curl -s http://{host}:{port}/{path}"
    return "ready"


def _protection(settings: Settings, text: str, is_http: bool) -> str:
    endpoint = Endpoint.parse(text)
    kinds = []
    if endpoint.kind == "unix":
        kinds.append(f"mode {endpoint.arguments.get('mode', UNIX_MODE)}")
    else:
        kinds.append("this machine only" if endpoint.is_private else "open to other machines")
    kinds.append("TLS" if endpoint.is_tls else "not encrypted")
    if endpoint.is_tls and settings.client_ca is not None:
        kinds.append("client certificates")
    if is_http and settings.request_token is not None:
        kinds.append(f"token in {settings.request_token.header}")
    if endpoint.proxied:
        kinds.append("the proxy says who asks")
    return ", ".join(kinds)


def _askers(settings: Settings) -> Iterator[str]:
    if settings.security.remote_ip_check:
        yield from map(str, settings.allowed_ips or ("nobody",))
    else:
        yield "every address"
    if settings.allowed_uids is not None:
        users = " ".join(map(str, sorted(settings.allowed_uids))) or "nobody"
        yield f"at Unix sockets only users {users}"


def _rules(settings: Settings, key: SigningKey) -> Iterator[str]:
    if settings.security.signing_policy_check:
        yield ", ".join(sorted(map(str, key.allowed_ops))) or "nothing"
    else:
        yield "everything"
    if not settings.signed_with(key).isdisjoint(BAKING_OPERATIONS):
        yield f"chains {' '.join(sorted(key.chains))}" if key.chains is not None else "any chain"
        if settings.security.high_water_mark_check:
            yield f"at most {key.max_level_jump} levels at once"
        else:
            yield "no watermarks"
    authenticated = settings.security.auth_check and key.auth_req
    yield "authenticated" if authenticated else "without authentication"
