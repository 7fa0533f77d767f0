"""What a configuration means, as plain values for JSON and as lines for people."""

from collections.abc import Iterator, Sequence
from typing import Any

from attrs import asdict

from tezio_signer.config.settings import Settings, SigningKey
from tezio_signer.tezos.payload import BAKING_OPERATIONS

Meaning = dict[str, Any]
_WIDTH = 18


def meaning_of(settings: Settings) -> Meaning:
    """All that settings say, with the names that JSON has for it."""
    token, client_ca, security = settings.request_token, settings.client_ca, settings.security
    limits = asdict(settings.limits)
    users = settings.allowed_uids
    return {
        "keys": [_key(settings, key) for key in settings.signing_keys.values()],
        "auth_key": None if settings.auth_key is None else {"key": str(settings.auth_key)},
        "authorized_keys": None
        if settings.authorized is None
        else list(map(str, settings.authorized)),
        "security": asdict(security),
        "allowed_ips": list(map(str, settings.allowed_ips)) if security.remote_ip_check else None,
        "allowed_uids": None if users is None else sorted(users),
        "watermarks": {"store": str(settings.store)},
        "http": list(settings.http),
        "octez_socket": list(settings.octez_socket),
        "request_token": token and token.header,
        "client_ca": client_ca and str(client_ca.path),
        "list_known_keys": settings.list_known_keys,
        "hsm_wait_seconds": settings.hsm_wait_seconds,
        "limits": {name: value for name, value in limits.items() if value is not None},
    }


def _key(settings: Settings, key: SigningKey) -> Meaning:
    authorized = settings.authorized_for(key.key)
    checked = settings.security.high_water_mark_check
    bakes = [operation for operation in BAKING_OPERATIONS if operation in settings.signed_with(key)]
    return {
        "key": str(key.key),
        "signs": sorted(map(str, key.allowed_ops))
        if settings.security.signing_policy_check
        else ["everything"],
        "authenticated": authorized is not None,
        "authorized_keys": [] if authorized is None else list(map(str, authorized)),
        "chains": sorted(key.chains) if key.chains is not None else ["any"],
        "max_level_jump": key.max_level_jump if checked and bakes else None,
        "floors": {
            str(operation): dict(
                zip(("level", "round"), settings.floors.get(operation, (0, 0)), strict=True)
            )
            for operation in (bakes if checked else ())
        },
    }


def lines_of(meaning: Meaning) -> Iterator[str]:
    """The same for people: what is general, then a block for each key."""
    yield from _general(meaning)
    for key in meaning["keys"]:
        yield ""
        yield key["key"]
        for name, text in _of_key(key):
            yield f"  {name:{_WIDTH - 2}}{text}"


def line(name: str, text: str) -> str:
    """One line of what is general; a name that fills its column is kept apart from the text."""
    return f"{name:{_WIDTH - 1}} {text}"


def _general(meaning: Meaning) -> Iterator[str]:
    allowed, users, token = (meaning[n] for n in ("allowed_ips", "allowed_uids", "request_token"))
    yield line("asked from", "everywhere" if allowed is None else _listed(allowed, "nowhere"))
    if users is not None:
        yield line("at Unix sockets", _listed([f"user {uid}" for uid in users], "nobody"))
    yield line("HTTP at", _listed(meaning["http"], "nowhere"))
    yield line("Octez socket at", _listed(meaning["octez_socket"], "nowhere"))
    yield line("request token", f"in the header {token}, for HTTP" if token else "none")
    authority = meaning["client_ca"]
    yield line("client certs", f"of {authority}, for TLS" if authority else "not asked for")
    yield line("GET /known_keys", "answered" if meaning["list_known_keys"] else "refused")
    limits = [f"{name} {value}" for name, value in meaning["limits"].items()]
    limits.append(f"hsm_wait_seconds {meaning['hsm_wait_seconds']:g}")
    yield line("limits", ", ".join(limits))


def _of_key(key: Meaning) -> Iterator[tuple[str, str]]:
    yield "signs", _listed(key["signs"], "nothing")
    bakes = key["max_level_jump"] is not None
    if bakes or key["chains"] != ["any"]:
        yield "chains", _listed(key["chains"], "none")
    if bakes:
        floors = [
            f"{operation} {floor['level']}/{floor['round']}"
            for operation, floor in key["floors"].items()
            if any(floor.values())
        ]
        yield "floors", _listed(floors, "none")
        yield "max_level_jump", str(key["max_level_jump"])
    yield (
        "authenticated",
        f"by {_listed(key['authorized_keys'], '-')}" if key["authenticated"] else "no",
    )
    if "board" in key:
        yield "HSM", key["board"]


def _listed(texts: Sequence[str], nothing: str) -> str:
    return ", ".join(texts) or nothing
