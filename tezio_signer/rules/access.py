"""Rules on who asks, and for which key: address, user, key, authentication."""

from collections.abc import AsyncIterator, Awaitable, Callable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from itertools import chain
from socket import if_nametoindex

from twisted.internet.defer import Deferred

from tezio_signer.config.settings import Settings
from tezio_signer.errors import NotAdmitted, Unauthenticated, UnknownKey
from tezio_signer.request import Peer, SigningRequest
from tezio_signer.rules.rule import Admission, Check, Demands
from tezio_signer.tezos.keys import PublicKey, PublicKeyHash

FindKey = Callable[[PublicKeyHash], Awaitable[PublicKey]]


def allowed_address(allowed: tuple[IPv4Network | IPv6Network, ...]) -> Admission:
    """Only from the addresses and networks of `allowed_ips`."""

    def rule(peer: Peer) -> None:
        if not any(_is_in(peer.address, network) for network in allowed):
            raise NotAdmitted(f"address {peer.address} is not among allowed_ips")

    return rule


def address_wanted(allowed: tuple[IPv4Network | IPv6Network, ...]) -> Callable[[Peer], str]:
    """Which addresses those are."""
    single = (net.network_address if net.num_addresses == 1 else net for net in allowed)
    words = "comes from " + (" or ".join(map(str, single)) or "nowhere (allowed_ips is empty)")
    return lambda _: words


def _is_in(address: IPv4Address | IPv6Address, network: IPv4Network | IPv6Network) -> bool:
    if address not in network:
        return False
    zone = getattr(network.network_address, "scope_id", None)
    return zone is None or _same_zone(zone, getattr(address, "scope_id", None))


def _same_zone(one: str, other: str | None) -> bool:
    """Whether two names, or numbers, are of the same interface of this machine."""
    return one == other or (other is not None and _zone_number(one) == _zone_number(other))


def _zone_number(zone: str) -> int | str:
    try:
        return int(zone) if zone.isdecimal() else if_nametoindex(zone)
    except OSError:
        return zone  # of an interface that is not there


def allowed_user(allowed: frozenset[int] | None) -> Admission:
    """At a Unix socket, only the users of `allowed_uids`; None are all."""

    def rule(peer: Peer) -> None:
        if allowed is not None and peer.credentials and peer.credentials.uid not in allowed:
            raise NotAdmitted(f"user id {peer.credentials.uid} is not among allowed_uids")

    return rule


def user_wanted(allowed: frozenset[int] | None) -> Callable[[Peer], str]:
    """Which users those are."""
    if allowed is None:
        words = "comes from any user, if at a Unix socket"
    else:
        users = " or ".join(map(str, sorted(allowed))) or "nobody (allowed_uids is empty)"
        words = f"comes from user id {users}, if at a Unix socket"
    return lambda _: words


def known_key(settings: Settings) -> Check:
    """Only for keys of the configuration."""

    def rule(request: SigningRequest) -> None:
        if request.key not in settings.signing_keys:
            raise UnknownKey(f"no keys for the source contract {request.key}")

    return rule


def key_wanted(_: SigningRequest) -> str:
    """What `known_key` wants."""
    return "is for a key of the configuration"


def authentication_wanted(settings: Settings) -> Demands:
    """Who may authenticate for the key."""

    def words(request: SigningRequest) -> str:
        allowed = settings.authorized_for(request.key)
        if allowed is None:
            return "needs no authentication (auth_req)"
        return "is authenticated by " + (" or ".join(map(str, allowed)) or "nobody: no key may")

    return words


def authenticated(settings: Settings, public_key: FindKey) -> Check:
    """Only with the authentication signature of an authorized key, if the key asks for it."""
    own_lists = [key.authorized_keys for key in settings.signing_keys.values()]
    others: tuple[PublicKey, ...] = ()
    if any(own_lists):  # else there is one list, of which none is another's
        all_lists = (keys or () for keys in own_lists)
        others = tuple(dict.fromkeys(chain(settings.authorized_keys, *all_lists)))

    async def candidates(own: tuple[PublicKey, ...] | None) -> AsyncIterator[PublicKey]:
        for key in settings.authorized_keys if own is None else own:
            yield key
        if own is None and settings.auth_key is not None:
            yield await public_key(settings.auth_key)

    async def check(request: SigningRequest) -> None:
        policy = settings.signing_keys[request.key]
        if not policy.auth_req:
            return
        if request.authentication is None:
            raise Unauthenticated("missing authentication signature field")
        async for key in candidates(policy.authorized_keys):
            if key.verifies(request.authenticated_bytes, request.authentication):
                return
        for key in others:  # octez-client takes the first of its wallet that is for any key
            if key.verifies(request.authenticated_bytes, request.authentication):
                raise Unauthenticated(
                    f"invalid authentication signature: {key.hash} is not among the "
                    f"authorized_keys of {request.key}"
                )
        raise Unauthenticated("invalid authentication signature")

    return lambda request: Deferred.fromCoroutine(check(request))
