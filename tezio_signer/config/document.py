"""The configuration file: YAML to frozen settings.

The `config.yaml` of the original Tezio Signer is read unchanged. A key that is not
known is an error: a typing error must not switch a protection off.
"""

from collections.abc import Collection
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path

from tezio_signer.config.fields import Field, read
from tezio_signer.config.listen import (
    client_ca_from,
    limits_from,
    request_token_from,
)
from tezio_signer.config.settings import (
    DEFAULT_HTTP,
    DEFAULT_LEVEL_JUMP,
    DEFAULT_PATIENCE,
    EXAMPLE_SOCKET,
    SIGNED_OPERATIONS,
    Security,
    Settings,
    SigningKey,
)
from tezio_signer.config.store import store_address
from tezio_signer.errors import StartupError
from tezio_signer.hsm.boards import BoardSelector
from tezio_signer.hsm.framing import Slot
from tezio_signer.hsm.slots import CURVES, SIGNING_SLOTS
from tezio_signer.listeners.endpoints import resolved
from tezio_signer.request import network_of
from tezio_signer.tezos import base58check
from tezio_signer.tezos.keys import Curve, PublicKey, PublicKeyHash
from tezio_signer.tezos.payload import Operation
from tezio_signer.watermarks.rule import BAKING_OPERATIONS

_LOOPBACK = (ip_network("127.0.0.1"), ip_network("::1"))
_TOP = (
    "security",
    "verbose",
    "high_water_marks",
    "allowed_ips",
    "allowed_uids",
    "policy",
    "authorized_keys",
    "request_token",
    "client_ca",
    "limits",
    "list_known_keys",
    "hsms",
    "hsm_wait_seconds",
    "listen",
    "watermarks",
)


def load(path: Path) -> Settings:
    """Read a configuration file; raises ConfigError."""
    return settings_from(read(path), path.absolute().parent)


def settings_from(root: Field, directory: Path) -> Settings:
    """The settings of a document; relative paths in it start at `directory`."""
    top = root.mapping(_TOP, required=["policy"])
    policy = top["policy"].mapping(("signing_keys", "auth_key"), required=["signing_keys"])
    security = _security(top.get("security"))
    signing_keys, warnings = _signing_keys(policy["signing_keys"])
    authorized_keys = tuple(map(_public_key, _items(top, "authorized_keys")))
    auth_key = _auth_key(policy["auth_key"]) if "auth_key" in policy else None
    listen = top["listen"].mapping(("http", "octez_socket")) if "listen" in top else {}
    sockets = (
        _endpoints(listen["octez_socket"], directory, EXAMPLE_SOCKET)
        if "octez_socket" in listen
        else ()
    )
    settings = Settings(
        signing_keys=signing_keys,
        security=security,
        verbose=top["verbose"].boolean() if "verbose" in top else False,
        allowed_ips=_networks(top["allowed_ips"]) if "allowed_ips" in top else _LOOPBACK,
        allowed_uids=frozenset(map(_uid, _items(top, "allowed_uids")))
        if "allowed_uids" in top
        else None,
        auth_key=auth_key,
        authorized_keys=authorized_keys,
        list_known_keys=top["list_known_keys"].boolean() if "list_known_keys" in top else False,
        floors=_floors(top["high_water_marks"]) if "high_water_marks" in top else {},
        hsms=_hsms(top["hsms"]) if "hsms" in top else (BoardSelector(),),
        hsm_wait_seconds=(
            _seconds(top["hsm_wait_seconds"]) if "hsm_wait_seconds" in top else DEFAULT_PATIENCE
        ),
        http=_endpoints(listen["http"], directory, DEFAULT_HTTP)
        if "http" in listen
        else (DEFAULT_HTTP,),
        octez_socket=sockets,
        request_token=request_token_from(top.get("request_token"), directory),
        client_ca=client_ca_from(top.get("client_ca"), directory),
        limits=limits_from(top.get("limits")),
        store=store_address(top.get("watermarks"), directory),
        warnings=(*_switched_off(security), *warnings),
    )
    if auth_key in signing_keys:
        raise policy["auth_key"].error("the auth key of the HSM cannot be a signing key too")
    for name, entry in policy["signing_keys"].entries().items():
        if settings.authorized_for(_hash(name, entry)) == ():
            raise entry.error(
                "this key asks for authentication (auth_req, True unless it says False), "
                "but there is neither policy.auth_key nor authorized_keys"
            )
    return settings


def _items(entries: dict[str, Field], name: str) -> list[Field]:
    return entries[name].items() if name in entries else []


def _security(field: Field | None) -> Security:
    if field is None:
        return Security()
    names = [attribute.name for attribute in Security.__attrs_attrs__]
    return Security(**{name: value.boolean() for name, value in field.mapping(names).items()})


def _switched_off(security: Security) -> list[str]:
    return [
        f"security.{attribute.name} is switched off"
        for attribute in Security.__attrs_attrs__
        if not getattr(security, attribute.name)
    ]


def _networks(field: Field) -> tuple[IPv4Network | IPv6Network, ...]:
    networks = []
    for item in field.items():
        try:
            networks.append(network_of(item.text()))
        except ValueError as error:
            raise item.error(f"an address or a network such as 10.0.0.0/24: {error}") from error
    return tuple(networks)


def _signing_keys(field: Field) -> tuple[dict[PublicKeyHash, SigningKey], list[str]]:
    keys = {}
    warnings: list[str] = []
    for name, entry in field.entries().items():
        key = _hash(name, entry)
        keys[key] = _signing_key(key, entry)
        warnings += [
            f"{name}: {operation} is among allowed_ops, but is never signed"
            for operation in sorted(keys[key].allowed_ops - SIGNED_OPERATIONS, key=str)
        ]
    if not keys:
        raise field.error("no signing key")
    return keys, warnings


def _signing_key(key: PublicKeyHash, field: Field) -> SigningKey:
    slots = {CURVES[slot]: slot for slot in SIGNING_SLOTS}
    if key.curve not in slots:
        raise field.error("a Tezio HSM holds tz1, tz2 and tz3 keys only")
    entries = field.mapping(
        (
            "curve_alias",
            "allowed_ops",
            "auth_req",
            "auth_prefix",
            "chains",
            "max_level_jump",
            "authorized_keys",
        ),
        required=["allowed_ops"],
    )
    _check_alias(entries, slots[key.curve])
    prefix = f"0401{key.curve.value:02x}"
    if "auth_prefix" in entries and entries["auth_prefix"].text() != prefix:
        raise entries["auth_prefix"].error(f'for this key it is "{prefix}"')
    return SigningKey(
        key,
        frozenset(_operation(item, tuple(Operation)) for item in entries["allowed_ops"].items()),
        entries["auth_req"].boolean() if "auth_req" in entries else True,
        frozenset(map(_chain, entries["chains"].items())) if "chains" in entries else None,
        _level_jump(entries["max_level_jump"])
        if "max_level_jump" in entries
        else DEFAULT_LEVEL_JUMP,
        _own_authorized_keys(entries),
    )


def _own_authorized_keys(entries: dict[str, Field]) -> tuple[PublicKey, ...] | None:
    field = entries.get("authorized_keys")
    if field is None:
        return None
    if "auth_req" in entries and not entries["auth_req"].boolean():
        raise field.error("this key asks for no authentication: auth_req is False")
    keys = tuple(map(_public_key, field.items()))
    if not keys:
        raise field.error(
            "nobody could authenticate; leave authorized_keys out for the general ones and "
            "policy.auth_key"
        )
    return keys


def _level_jump(field: Field) -> int:
    value = _natural(field)
    if value == 0:
        raise field.error("with 0 no level could follow another; 1 is the least")
    return value


def _check_alias(entries: dict[str, Field], slot: Slot) -> None:
    if "curve_alias" in entries and entries["curve_alias"].integer() != slot:
        raise entries["curve_alias"].error(f"for this key it is {slot:d}, its slot in the HSM")


def _operation(field: Field, allowed: Collection[Operation]) -> Operation:
    value = field.value()
    if type(value) is int:
        value = field.integer()
    for operation in allowed:
        if type(value) in (int, str) and value in (operation.value, str(operation)):
            return operation
    names = ", ".join(f"{operation} (0x{operation.value:02x})" for operation in allowed)
    raise field.error(f"{field.written} is no operation here; allowed: {names}")


def _hash(text: str, field: Field) -> PublicKeyHash:
    try:
        return PublicKeyHash.parse(text)
    except ValueError as error:
        raise field.error(f"a public key hash (tz1…, tz2…, tz3…) is expected: {error}") from error


def _public_key(field: Field) -> PublicKey:
    try:
        return PublicKey.parse(field.text())
    except ValueError as error:
        raise field.error(f"a public key (edpk…, sppk…, p2pk…) is expected: {error}") from error


def _chain(field: Field) -> str:
    try:
        return base58check.chain_id(field.text())
    except ValueError as error:
        raise field.error(f"a chain id (Net…) is expected: {error}") from error


def _auth_key(field: Field) -> PublicKeyHash:
    entries = field.mapping(("pkh", "curve_alias"), required=["pkh"])
    _check_alias(entries, Slot.AUTH)
    key = _hash(entries["pkh"].text(), entries["pkh"])
    if key.curve is not Curve.P256:
        raise entries["pkh"].error("the auth key of a Tezio HSM is a tz3 key")
    return key


def _floors(field: Field) -> dict[Operation, tuple[int, int]]:
    parts = {part: _numbers(entry) for part, entry in field.mapping(("level", "round")).items()}
    levels, rounds = parts.get("level", {}), parts.get("round", {})
    return {
        operation: (levels.get(operation, 0), rounds.get(operation, 0))
        for operation in BAKING_OPERATIONS
    }


def _numbers(field: Field) -> dict[Operation, int]:
    numbers: dict[Operation, int] = {}
    for name, value in field.entries().items():
        operation = _operation_named(name, value)
        if operation in numbers:
            raise value.error(f"{operation} stands here twice")
        numbers[operation] = _natural(value)
    return numbers


def _operation_named(name: str, field: Field) -> Operation:
    for operation in BAKING_OPERATIONS:
        if name == str(operation) or name.lower() in (
            f"0x{operation.value:02x}",
            str(operation.value),
        ):
            return operation
    names = ", ".join(f"{operation} (0x{operation.value:02x})" for operation in BAKING_OPERATIONS)
    raise field.error(f"{name} has no watermark; allowed: {names}")


def _natural(field: Field) -> int:
    value = field.integer()
    if not 0 <= value < 2**31:
        raise field.error(f"a number from 0 to {2**31 - 1} is expected, not {field.written}")
    return value


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


def _seconds(field: Field) -> float:
    value = field.number()
    if not 0 <= value <= 60:
        raise field.error(f"seconds from 0 to 60 are expected, not {field.written}")
    return float(value)


def _uid(field: Field) -> int:
    value = field.integer()
    if not 0 <= value < 2**32 - 1:
        raise field.error(f"the number of a user is expected, not {field.written}")
    return value


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
