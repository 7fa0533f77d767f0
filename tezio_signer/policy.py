"""Who may have what signed: a chain of rules, each a function on the signing request.

A rule returns the request, or a Deferred of it, or raises what is refused. To add
one, write a function and name it in `rules_for`.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from functools import lru_cache, partial
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
)
from itertools import chain
from socket import if_nametoindex

from attrs import evolve, frozen
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime

from tezio_signer.config.settings import Settings
from tezio_signer.errors import (
    Forbidden,
    Malformed,
    NotAdmitted,
    TooLarge,
    TooMany,
    Unauthenticated,
    UnknownKey,
)
from tezio_signer.hsm.framing import MAX_MESSAGE
from tezio_signer.rates import Rate
from tezio_signer.tezos import payload as payloads
from tezio_signer.tezos.keys import PublicKey, PublicKeyHash, Signature
from tezio_signer.tezos.payload import Consensus, Generic, Payload
from tezio_signer.watermarks.claims import Claim, Watermarks

_LOCALHOST = ip_address("127.0.0.1")
_AUTHENTICATION_PREFIX = b"\x04\x01"


@frozen
class Credentials:
    """Whose process is at the other end of a Unix socket, as the kernel says."""

    pid: int
    uid: int
    gid: int

    def __str__(self) -> str:
        return f"uid {self.uid}, gid {self.gid}, pid {self.pid}"


@frozen
class Peer:
    """Who asks. Someone on a Unix socket is on this machine, and counts as 127.0.0.1.

    :ivar credentials: None unless the connection is a Unix socket's.
    """

    address: IPv4Address | IPv6Address = _LOCALHOST
    credentials: Credentials | None = None

    @classmethod
    @lru_cache(maxsize=256)  # a baker asks from one address all day
    def at(cls, host: str) -> "Peer":
        """The peer of an IP address, with its zone; IPv4 mapped into IPv6 is IPv4."""
        address = ip_address(host)
        if isinstance(address, IPv6Address) and address.ipv4_mapped:
            address = address.ipv4_mapped
        return cls(address)

    def __str__(self) -> str:
        return f"{self.address} ({self.credentials})" if self.credentials else str(self.address)


@frozen
class SigningRequest:
    """A request to sign, decoded completely.

    :ivar data: the payload as it came, magic byte first.
    :ivar claim: the watermark's claim, once the rules have made it.
    :ivar uncount: undoes what the rules have counted, for a request that could not be served.
    """

    key: PublicKeyHash
    data: bytes
    payload: Payload
    peer: Peer
    authentication: Signature | None = None
    claim: Claim | None = None
    uncount: Callable[[], object] = bool

    @classmethod
    def read(
        cls, key: PublicKeyHash, data: bytes, peer: Peer, authentication: Signature | None = None
    ) -> "SigningRequest":
        """Decode a payload; raises Malformed, or Forbidden for what is never signed."""
        try:
            payload = payloads.decode(data)
        except payloads.NeverSigned as error:
            raise Forbidden(str(error)) from error
        except ValueError as error:
            raise Malformed(str(error)) from error
        if isinstance(payload, Consensus) and payload.slot is None:
            raise Malformed(
                f"the {payload.operation} has the form for tz4 keys, which a Tezio HSM has not"
            )
        return cls(key, data, payload, peer, authentication)

    @property
    def authenticated_bytes(self) -> bytes:
        """What an authentication signature has to be of (Octez `Sign.Request.to_sign`)."""
        return _AUTHENTICATION_PREFIX + bytes(self.key) + self.data


Rule = Callable[[SigningRequest], SigningRequest | Deferred[SigningRequest]]


FindKey = Callable[[PublicKeyHash], Awaitable[PublicKey]]


def rules_for(
    settings: Settings, public_key: FindKey, watermarks: Watermarks, clock: IReactorTime
) -> list[Rule]:
    """The rules of a configuration, in the order in which they are asked."""
    security = settings.security
    per_minute = settings.limits.signatures_per_minute
    rules: list[tuple[bool, Rule]] = [
        (security.remote_ip_check, allowed_peer(settings.allowed_ips)),
        (settings.allowed_uids is not None, allowed_user(settings.allowed_uids)),
        (True, known_key(settings)),
        (security.auth_check, authenticated(settings, public_key)),
        (True, allowed_chain(settings)),
        (security.signing_policy_check, allowed_operation(settings)),
        (True, fitting_the_device),
        *([(True, within_rate(Rate(per_minute, clock)))] if per_minute else []),
        (security.high_water_mark_check, claimed(settings, watermarks)),
    ]
    return [rule for switched_on, rule in rules if switched_on]


def decide(rules: Iterable[Rule], request: SigningRequest) -> Deferred[SigningRequest]:
    """Ask all rules in turn; fails with the `Refused` of the first that refuses."""
    deciding = succeed(request)
    for rule in rules:
        deciding.addCallback(rule)
    return deciding


def check_peer(peer: Peer, allowed: tuple[IPv4Network | IPv6Network, ...]) -> None:
    """Raises NotAdmitted unless the peer is in one of the networks."""
    if not any(_is_in(peer.address, network) for network in allowed):
        raise NotAdmitted(f"address {peer.address} is not among allowed_ips")


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


def check_user(peer: Peer, allowed: frozenset[int] | None) -> None:
    """Raises NotAdmitted for a user at a Unix socket that is not among these; None are all."""
    if allowed is not None and peer.credentials and peer.credentials.uid not in allowed:
        raise NotAdmitted(f"user id {peer.credentials.uid} is not among allowed_uids")


def allowed_peer(allowed: tuple[IPv4Network | IPv6Network, ...]) -> Rule:
    """Only from the addresses and networks of `allowed_ips`."""

    def rule(request: SigningRequest) -> SigningRequest:
        check_peer(request.peer, allowed)
        return request

    return rule


def allowed_user(allowed: frozenset[int] | None) -> Rule:
    """At a Unix socket, only the users of `allowed_uids`."""

    def rule(request: SigningRequest) -> SigningRequest:
        check_user(request.peer, allowed)
        return request

    return rule


def known_key(settings: Settings) -> Rule:
    """Only for keys of the configuration."""

    def rule(request: SigningRequest) -> SigningRequest:
        if request.key not in settings.signing_keys:
            raise UnknownKey(f"no keys for the source contract {request.key}")
        return request

    return rule


def authenticated(settings: Settings, public_key: FindKey) -> Rule:
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

    async def check(request: SigningRequest) -> SigningRequest:
        policy = settings.signing_keys[request.key]
        if not policy.auth_req:
            return request
        if request.authentication is None:
            raise Unauthenticated("missing authentication signature field")
        async for key in candidates(policy.authorized_keys):
            if key.verifies(request.authenticated_bytes, request.authentication):
                return request
        for key in others:  # octez-client takes the first of its wallet that is for any key
            if key.verifies(request.authenticated_bytes, request.authentication):
                raise Unauthenticated(
                    f"invalid authentication signature: {key.hash} is not among the "
                    f"authorized_keys of {request.key}"
                )
        raise Unauthenticated("invalid authentication signature")

    return lambda request: Deferred.fromCoroutine(check(request))


def allowed_chain(settings: Settings) -> Rule:
    """Only for the chains of the key; a generic operation names none."""

    def rule(request: SigningRequest) -> SigningRequest:
        chains = settings.signing_keys[request.key].chains
        payload = request.payload
        if chains is None or isinstance(payload, Generic) or payload.chain_id in chains:
            return request
        raise Forbidden(
            f"chain {payload.chain_id} is not allowed for {request.key}; "
            f"allowed: {', '.join(sorted(chains))}"
        )

    return rule


def allowed_operation(settings: Settings) -> Rule:
    """Only the operations in `allowed_ops` of the key."""

    def rule(request: SigningRequest) -> SigningRequest:
        allowed = settings.signing_keys[request.key].allowed_ops
        operation = request.payload.operation
        if operation in allowed:
            return request
        names = ", ".join(str(o) for o in sorted(allowed, key=lambda o: o.value)) or "none"
        raise Forbidden(
            f"magic byte 0x{operation.value:02X} ({operation}) not allowed for {request.key}; "
            f"allowed: {names}"
        )

    return rule


def fitting_the_device(request: SigningRequest) -> SigningRequest:
    """Only what the frame buffer of the HSM can take."""
    if len(request.data) > MAX_MESSAGE:
        raise TooLarge(
            f"the payload has {len(request.data)} bytes; a Tezio HSM signs {MAX_MESSAGE} at most"
        )
    return request


def within_rate(rate: Rate) -> Rule:
    """Only so many generic operations a minute, for each address and key.

    Blocks and attestations are not counted: one too few costs the baker money, and the
    watermarks let through one for each level and round anyway.
    """

    def rule(request: SigningRequest) -> SigningRequest:
        if not isinstance(request.payload, Generic):
            return request
        address = request.peer.address  # another process of the same machine is no other client
        who = address, request.key
        if not rate.take(who):
            raise TooMany(
                f"more than {rate.most} generic operations a minute for {request.key} from "
                f"{address}; try again later"
            )
        return evolve(request, uncount=partial(rate.give_back, who))

    return rule


def claimed(settings: Settings, watermarks: Watermarks) -> Rule:
    """Only above the watermark, which moves with it; generic operations have none."""

    def rule(request: SigningRequest) -> SigningRequest:
        if isinstance(request.payload, Generic):
            return request
        jump = settings.signing_keys[request.key].max_level_jump
        claim = watermarks.claim(request.key, request.payload, request.data, jump)
        return evolve(request, claim=claim)

    return rule
