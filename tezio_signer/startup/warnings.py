"""All that an operator is warned of before the daemon listens: for its log, and for `check`.

What start-up refuses is refused here too, by the same code. Nothing is opened for good: no
port, no device, no store.
"""

from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network, collapse_addresses

from tezio_signer.config.endpoints import UNIX_MODE, Endpoint
from tezio_signer.config.listen import unprotected_by_token
from tezio_signer.config.settings import Settings, SigningKey
from tezio_signer.config.store import store_warnings
from tezio_signer.config.words import MAINNET
from tezio_signer.listeners.endpointcheck import check_endpoints
from tezio_signer.startup.files import exposed, facts_of, named_files
from tezio_signer.startup.spending import can_be_emptied, spending
from tezio_signer.tezos.payload import BAKING_OPERATIONS, Operation


def warnings_of(settings: Settings) -> tuple[str, ...]:
    """What to warn of; raises StartupError for what must not be."""
    return (
        *settings.warnings,
        *store_warnings(settings.store),
        *baking_anywhere(settings),
        *spending(settings),
        *asked_of_octez(settings),
        *without_a_curve(settings),
        *check_endpoints(settings.endpoints, settings.client_ca),
        *unprotected_by_token(settings.request_token, settings.octez_socket),
        *exposed(facts_of(named_files(settings))),
        *open_to_many(settings),
    )


def baking_anywhere(settings: Settings) -> list[str]:
    """Keys that bake on whatever chain is named; none if the HSM is a simulated one."""
    if settings.store is None:
        return []
    return [
        f"{key.key} signs blocks and attestations of any chain, also of one that is made up, with "
        "levels that the HSM, which knows no chains, then holds against the real one: name its "
        f"chains, such as chains: [{MAINNET}] for mainnet"
        for key in settings.signing_keys.values()
        if key.chains is None and settings.signed_with(key).intersection(BAKING_OPERATIONS)
    ]


def asked_of_octez(settings: Settings) -> list[str]:
    """What follows from Octez' asking for the authorized keys of all signing keys at once."""
    asking = [key for key in settings.signing_keys.values() if settings.asks(key)]
    if not asking:
        return []
    warnings = [
        f"auth_req: False of {key.key} has no effect for octez-client and octez-baker: since "
        f"{asking[0].key} asks for authentication, they authenticate every request, and send none "
        "without the secret key of one of the authorized keys"
        for key in settings.signing_keys.values()
        if not key.auth_req
    ]
    if len({settings.authorized_for(key.key) for key in asking}) > 1:
        warnings.append(
            "the keys have different authorized_keys: octez-client and octez-baker authenticate "
            "with the first key of their wallet that is authorized for any key, whichever is to "
            "sign; give the wallet of a client the secret key of one of them only"
        )
    return warnings


def without_a_curve(settings: Settings) -> list[str]:
    """Authorized keys, of all or of one key, with which nothing can be verified here."""
    named = [*settings.authorized_keys]
    for key in settings.signing_keys.values():
        named += key.authorized_keys or ()
    return [
        f"nobody can authenticate with {key} of authorized_keys: {error}"
        for key in dict.fromkeys(named)
        if (error := key.unsupported) is not None
    ]


def open_to_many(settings: Settings) -> list[str]:
    """Who can have signed what without showing anything, at each endpoint.

    One address that is allowed is a client, and may be trusted; a network is more than that.
    """
    unasked = [key for key in settings.signing_keys.values() if not settings.asks(key)]
    warnings = []
    http = [(at, True) for at in settings.http]
    for text, is_http in [*http, *((at, False) for at in settings.octez_socket)]:
        endpoint = Endpoint.parse(text)
        with_token = is_http and settings.request_token is not None
        with_certificate = endpoint.is_tls and settings.client_ca is not None
        who = _who_connects(settings, endpoint)
        if who is None or with_token or with_certificate:
            continue
        warnings += [
            f"{who} can have {key.key} sign {_what(settings, key)}: close it by allowed_ips, "
            "auth_req: True or, for HTTP, request_token"
            for key in unasked
            if settings.signed_with(key)
        ]
    return warnings


def _who_connects(settings: Settings, endpoint: Endpoint) -> str | None:
    """Those who may ask at an endpoint and are more than single machines; None without them."""
    if endpoint.kind == "unix":
        mode = endpoint.arguments.get("mode", UNIX_MODE)
        if settings.allowed_uids is None and mode[-1:] in ("2", "3", "6", "7"):
            return f"EVERY USER of this machine, by {endpoint.text},"
        return None
    if endpoint.is_private:
        return None
    if endpoint.proxied or not settings.security.remote_ip_check:
        return f"ANYBODY who reaches {endpoint.text}"
    networks = _wide(settings.allowed_ips)
    if any(network.prefixlen == 0 for network in networks):
        return f"ANYBODY who reaches {endpoint.text}"
    if not networks:
        return None
    return f"every machine of {', '.join(map(str, networks))} that reaches {endpoint.text}"


def _wide(
    networks: Sequence[IPv4Network | IPv6Network],
) -> list[IPv4Network | IPv6Network]:
    """Networks of several machines; halves that lie side by side are one."""
    of_4 = [network for network in networks if isinstance(network, IPv4Network)]
    of_6 = [network for network in networks if isinstance(network, IPv6Network)]
    together: list[IPv4Network | IPv6Network] = []
    together += collapse_addresses(of_4)
    together += collapse_addresses(of_6)
    return [n for n in together if n.num_addresses > 1 and not n.is_loopback]


def _what(settings: Settings, key: SigningKey) -> str:
    signed = settings.signed_with(key)
    spends = "any operation, also one that empties the account"
    if not can_be_emptied(settings, key.key):
        spends = "any operation that its section operations allows"
    bakes = "blocks and attestations, of levels with which yours are refused"
    orders = "Michelson data, which contracts may take for an order of its owner"
    said = [
        *([spends] if Operation.GENERIC in signed else ()),
        *([orders] if Operation.MICHELSON in signed else ()),
        *([bakes] if signed.intersection(BAKING_OPERATIONS) else ()),
    ]
    return ", and ".join(said)
