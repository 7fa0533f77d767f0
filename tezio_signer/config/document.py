"""The configuration file: YAML to frozen settings.

The `config.yaml` of the original Tezio Signer is read unchanged. A key that is not
known is an error: a typing error must not switch a protection off.
"""

from collections.abc import Mapping
from functools import partial
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Any

from attrs import evolve

from tezio_signer.config.audit import audit_from
from tezio_signer.config.endpoints import resolved
from tezio_signer.config.fields import Field, read
from tezio_signer.config.listen import client_ca_from, limits_from, request_token_from
from tezio_signer.config.networks import network_of
from tezio_signer.config.operations import operation_rules
from tezio_signer.config.setting import Reader, read_section
from tezio_signer.config.settings import (
    DEFAULT_HTTP,
    EXAMPLE_SOCKET,
    SIGNED_OPERATIONS,
    Security,
    Settings,
    SigningKey,
)
from tezio_signer.config.store import default_store, store_address
from tezio_signer.config.values import chains, floors, hash_named, operations, public_keys
from tezio_signer.errors import StartupError
from tezio_signer.hsm.boards import BoardSelector
from tezio_signer.hsm.framing import Slot
from tezio_signer.hsm.slots import CURVES, SIGNING_SLOTS
from tezio_signer.tezos.keys import Curve, PublicKey, PublicKeyHash


def load(path: Path) -> Settings:
    """Read a configuration file; raises ConfigError."""
    return settings_from(read(path), path.absolute().parent)


def settings_from(root: Field, directory: Path) -> Settings:
    """The settings of a document; relative paths in it start at `directory`."""
    values: dict[str, Any] = {"store": default_store(directory)}
    values |= read_section(Settings, root, _readers(directory))
    settings = Settings(**values)
    policy = root.entries()["policy"].entries()
    if settings.auth_key in settings.signing_keys:
        raise policy["auth_key"].error("the auth key of the HSM cannot be a signing key too")
    for name, entry in policy["signing_keys"].entries().items():
        if settings.authorized_for(hash_named(name, entry)) == ():
            raise entry.error(
                "this key asks for authentication (auth_req, True unless it says False), "
                "but there is neither policy.auth_key nor authorized_keys"
            )
    return evolve(settings, warnings=(*_switched_off(settings.security), *_never(settings)))


def _readers(directory: Path) -> Mapping[str, Reader]:
    """What reads the attributes of `Settings` whose type does not say how."""
    return {
        "allowed_ips": _networks,
        "allowed_uids": lambda field: frozenset(map(_uid, field.items())),
        "audit": partial(audit_from, directory=directory),
        "auth_key": _auth_key,
        "authorized_keys": public_keys,
        "client_ca": partial(client_ca_from, directory=directory),
        "floors": floors,
        "hsms": _hsms,
        "http": partial(_endpoints, directory=directory, example=DEFAULT_HTTP),
        "limits": limits_from,
        "octez_socket": partial(_endpoints, directory=directory, example=EXAMPLE_SOCKET),
        "request_token": partial(request_token_from, directory=directory),
        "signing_keys": _signing_keys,
        "store": partial(store_address, directory=directory),
    }


def _switched_off(security: Security) -> list[str]:
    return [
        f"security.{attribute.name} is switched off"
        for attribute in Security.__attrs_attrs__
        if not getattr(security, attribute.name)
    ]


def _never(settings: Settings) -> list[str]:
    return [
        f"{key}: {operation} is among allowed_ops, but is never signed"
        for key, policy in settings.signing_keys.items()
        for operation in sorted(policy.allowed_ops - SIGNED_OPERATIONS, key=str)
    ]


def _networks(field: Field) -> tuple[IPv4Network | IPv6Network, ...]:
    networks = []
    for item in field.items():
        try:
            networks.append(network_of(item.text()))
        except ValueError as error:
            raise item.error(f"an address or a network such as 10.0.0.0/24: {error}") from error
    return tuple(networks)


def _uid(field: Field) -> int:
    value = field.integer()
    if not 0 <= value < 2**32 - 1:
        raise field.error(f"the number of a user is expected, not {field.written}")
    return value


def _signing_keys(field: Field) -> dict[PublicKeyHash, SigningKey]:
    keys = {}
    for name, entry in field.entries().items():
        key = hash_named(name, entry)
        keys[key] = _signing_key(key, entry)
    if not keys:
        raise field.error("no signing key is named; at least one is needed")
    return keys


def _signing_key(key: PublicKeyHash, field: Field) -> SigningKey:
    slots = {CURVES[slot]: slot for slot in SIGNING_SLOTS}
    if key.curve not in slots:
        raise field.error("a Tezio HSM holds tz1, tz2 and tz3 keys only")
    values = read_section(
        SigningKey,
        field,
        {
            "allowed_ops": operations,
            "authorized_keys": _own_authorized_keys,
            "chains": chains,
            "operations": operation_rules,
        },
        {
            "curve_alias": partial(_check_alias, slot=slots[key.curve]),
            "auth_prefix": partial(_check_prefix, prefix=f"0401{key.curve.value:02x}"),
        },
    )
    if values.get("auth_req") is False and "authorized_keys" in values:
        own = field.entries()["authorized_keys"]
        raise own.error("this key asks for no authentication: auth_req is False")
    return SigningKey(key, **values)


def _own_authorized_keys(field: Field) -> tuple[PublicKey, ...]:
    keys = public_keys(field)
    if not keys:
        raise field.error(
            "nobody could authenticate; leave authorized_keys out for the general ones and "
            "policy.auth_key"
        )
    return keys


def _check_alias(field: Field, slot: Slot) -> None:
    if field.integer() != slot:
        raise field.error(f"for this key it is {slot:d}, its slot in the HSM")


def _check_prefix(field: Field, prefix: str) -> None:
    if field.text() != prefix:
        raise field.error(f'for this key it is "{prefix}"')


def _auth_key(field: Field) -> PublicKeyHash:
    entries = field.mapping(("pkh", "curve_alias"), required=["pkh"])
    if "curve_alias" in entries:
        _check_alias(entries["curve_alias"], Slot.AUTH)
    key = hash_named(entries["pkh"].text(), entries["pkh"])
    if key.curve is not Curve.P256:
        raise entries["pkh"].error("the auth key of a Tezio HSM is a tz3 key")
    return key


def _hsms(field: Field) -> tuple[BoardSelector, ...]:
    selectors = []
    for item in field.items():
        entries = item.mapping(("port", "serial_number"))
        if len(entries) != 1:
            raise item.error("either port or serial_number is expected")
        selectors.append(BoardSelector(**{name: value.text() for name, value in entries.items()}))
    if not selectors:
        raise field.error("no HSM; leave hsms out to use every board that is plugged in")
    return tuple(selectors)


def _endpoints(field: Field, directory: Path, example: str) -> tuple[str, ...]:
    endpoints = tuple(_endpoint(item, directory) for item in field.items())
    if not endpoints:
        raise field.error(f"no endpoint; such as {example}")
    return endpoints


def _endpoint(field: Field, directory: Path) -> str:
    try:
        return resolved(field.text(), directory)
    except StartupError as error:
        raise field.error(str(error)) from error
