"""What a configuration means, as plain values for JSON and as lines for people.

A new setting is told by itself, under its key; one that wants other words has a line here.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from attrs import asdict

from tezio_signer.config.setting import Known, settings_of
from tezio_signer.config.settings import (
    Audit,
    ClientCa,
    Limits,
    RequestToken,
    Security,
    Settings,
    SigningKey,
)
from tezio_signer.config.words import may
from tezio_signer.tezos.payload import BAKING_OPERATIONS

Meaning = dict[str, Any]
_WIDTH = 18
_WITH_THE_KEYS = ("signing_keys", "auth_key", "authorized_keys", "floors", "store")
"""These are told in other ways: with each key, or with what is there of them."""


def meaning_of(settings: Settings) -> Meaning:
    """All that settings say, with the names that JSON has for it."""
    meaning: Meaning = {
        "keys": [_key(settings, key) for key in settings.signing_keys.values()],
        "auth_key": None if settings.auth_key is None else {"key": str(settings.auth_key)},
        "authorized_keys": None
        if settings.authorized is None
        else list(map(str, settings.authorized)),
        "watermarks": {"store": str(settings.store)},
    }
    for known in _told():
        meaning[known.attribute] = _plain(getattr(settings, known.attribute))
    if not settings.security.remote_ip_check:
        meaning["allowed_ips"] = None
    return meaning


def _told() -> Iterator[Known]:
    return (each for each in settings_of(Settings) if each.attribute not in _WITH_THE_KEYS)


def _plain(value: object) -> Any:
    """A value as JSON has it; of a secret only where it is sent."""
    match value:
        case None | bool() | int() | float():
            return value
        case Security() | Limits():
            return {name: each for name, each in asdict(value).items() if each is not None}
        case RequestToken():
            return value.header
        case Audit():
            return {"file": str(value.path), "required": value.required}
        case ClientCa():
            return str(value.path)
        case frozenset():
            return sorted(value)
        case tuple():
            return list(map(str, value))
    raise AssertionError(f"nobody tells what {value!r} means")


def _key(settings: Settings, key: SigningKey) -> Meaning:
    authorized = settings.authorized_for(key.key)
    checked = settings.security.high_water_mark_check
    bakes = [operation for operation in BAKING_OPERATIONS if operation in settings.signed_with(key)]
    return {
        "key": str(key.key),
        "signs": sorted(map(str, key.allowed_ops))
        if settings.security.signing_policy_check
        else ["everything"],
        "may": list(may(settings, key)),
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


def _audit(audit: Meaning | None) -> str:
    if audit is None:
        return "none"
    return f"{audit['file']}{', without which nothing is signed' if audit['required'] else ''}"


_LINES: dict[str, tuple[str, Callable[[Any], str | None]]] = {
    "allowed_ips": (
        "asked from",
        lambda networks: "everywhere" if networks is None else _listed(networks, "nowhere"),
    ),
    "allowed_uids": (
        "at Unix sockets",
        lambda users: (
            None if users is None else _listed([f"user {uid}" for uid in users], "nobody")
        ),
    ),
    "http": ("HTTP at", lambda endpoints: _listed(endpoints, "nowhere")),
    "octez_socket": ("Octez socket at", lambda endpoints: _listed(endpoints, "nowhere")),
    "request_token": (
        "request token",
        lambda header: f"in the header {header}, for HTTP" if header else "none",
    ),
    "client_ca": ("client certs", lambda path: f"of {path}, for TLS" if path else "not asked for"),
    "audit": ("audit log", _audit),
    "list_known_keys": ("GET /known_keys", lambda on: "answered" if on else "refused"),
    "security": ("", lambda _: None),  # warnings say what is switched off
}
"""The name of a setting in front of its line, and what it says; None for no line."""


def _general(meaning: Meaning) -> Iterator[str]:
    for attribute, (name, tell) in _LINES.items():
        said = tell(meaning[attribute])
        if said is not None:
            yield line(name, said)
    limits = dict(meaning["limits"])
    for known in _told():
        value = meaning[known.attribute]
        if known.kind in (int, float):
            limits[known.key] = value
        elif known.attribute not in (*_LINES, "limits"):
            yield line(known.key, _listed(value, "none") if isinstance(value, list) else str(value))
    yield line("limits", ", ".join(f"{name} {_number(value)}" for name, value in limits.items()))


def _number(value: float) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _of_key(key: Meaning) -> Iterator[tuple[str, str]]:
    yield "signs", _listed(key["signs"], "nothing")
    *others, last = key["may"] or ["-"]
    for number, clause in enumerate((*(f"{each};" for each in others), last)):
        yield "" if number else "may", clause
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
