"""What a configuration says, as frozen values."""

from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

from attrs import Factory, field, frozen

from tezio_signer.hsm.boards import BoardSelector
from tezio_signer.tezos.keys import PublicKey, PublicKeyHash
from tezio_signer.tezos.payload import Operation

DEFAULT_PATIENCE = 2.0
DEFAULT_LEVEL_JUMP = 500_000
"""More than a month of blocks, one every six seconds."""
DEFAULT_WAITING = 64
"""At 150 ms each, the last of them waits for ten seconds."""
DEFAULT_HTTP = "tcp:6732:interface=127.0.0.1"
SIGNED_OPERATIONS = frozenset(
    {
        Operation.GENERIC,
        Operation.BLOCK,
        Operation.PREATTESTATION,
        Operation.ATTESTATION,
    }
)
"""All others are decoded, but never signed."""
EXAMPLE_SOCKET = "tcp:7732:interface=127.0.0.1"


@frozen
class Security:
    """The four protections; each can be switched off."""

    remote_ip_check: bool = True
    auth_check: bool = True
    signing_policy_check: bool = True
    high_water_mark_check: bool = True


@frozen
class SigningKey:
    """What may be signed with a key.

    :ivar chains: chain ids, or None for any.
    :ivar max_level_jump: how many levels a watermark may move at once.
    :ivar authorized_keys: who may authenticate for this key, in the place of the general
        ones and of the HSM's auth key; None for those.
    """

    key: PublicKeyHash
    allowed_ops: frozenset[Operation]
    auth_req: bool = True
    chains: frozenset[str] | None = None
    max_level_jump: int = DEFAULT_LEVEL_JUMP
    authorized_keys: tuple[PublicKey, ...] | None = None


@frozen
class EtcdAddress:
    """An etcd cluster, and how to be let in.

    :ivar endpoints: the URLs of its members, `https://host:2379`.
    :ivar ca: PEM file of the authorities that its certificates come from; None for those
        that this machine trusts.
    :ivar certificate: PEM file of the client certificate, and of its chain.
    :ivar password_file: holds the password of `user` in its first line.
    """

    endpoints: tuple[str, ...]
    ca: Path | None = None
    certificate: Path | None = None
    private_key: Path | None = None
    user: str | None = None
    password_file: Path | None = None

    def __str__(self) -> str:
        return f"etcd at {', '.join(self.endpoints)}"


StoreAddress = Path | EtcdAddress
"""Where the watermarks are: an SQLite file, or an etcd cluster."""


@frozen
class Limits:
    """What clients may take of the daemon.

    :ivar connections: at once, over all doors; `connections_per_peer` for each IP address.
    :ivar request_seconds: from the first byte of a request, or from connecting, to its last;
        and how long a client may take to read an answer after which it is disconnected.
    :ivar idle_seconds: how long a connection is kept for another request.
    :ivar headers: lines of the header of an HTTP request.
    :ivar requests_waiting: for one HSM, of blocks, of votes and of generic operations each.
    :ivar signatures_per_minute: generic operations for each client and key; None for any number.
    """

    connections: int = 512
    connections_per_peer: int = 128
    request_seconds: float = 10
    idle_seconds: float = 60
    body_bytes: int = 128 * 1024
    header_bytes: int = 16 * 1024
    headers: int = 100
    requests_waiting: int = DEFAULT_WAITING
    signatures_per_minute: int | None = None

    @property
    def leaving(self) -> int:
        """The most connections that may have been cut and not closed yet.

        Twisted closes them in its next round only, after it has accepted others.
        """
        return max(1, self.connections // 2)

    @property
    def open_files(self) -> int:
        """The most file descriptors that connections can take."""
        return self.connections + 1 + self.leaving


@frozen
class RequestToken:
    """A secret that HTTP clients send with every request.

    :ivar header: in lower case.
    :ivar path: the file that it is in, for `check`.
    """

    header: str
    secret: bytes = field(repr=False)
    path: Path | None = field(default=None, eq=False)


@frozen
class ClientCa:
    """Whose client certificates are accepted.

    :ivar path: the file of their certificates, which is read by each endpoint that asks for them.
    """

    path: Path


@frozen
class Settings:
    """A whole configuration.

    :ivar allowed_uids: who may ask at a Unix socket, or None for anybody.
    :ivar floors: level and round at or below which nothing is signed.
    :ivar hsm_wait_seconds: how long a request waits for an HSM to be plugged in again.
    :ivar store: where the watermarks are; None for in memory only.
    """

    signing_keys: dict[PublicKeyHash, SigningKey]
    security: Security = Security()
    verbose: bool = False
    allowed_ips: tuple[IPv4Network | IPv6Network, ...] = ()
    allowed_uids: frozenset[int] | None = None
    auth_key: PublicKeyHash | None = None
    authorized_keys: tuple[PublicKey, ...] = ()
    list_known_keys: bool = False
    floors: dict[Operation, tuple[int, int]] = Factory(dict)
    hsms: tuple[BoardSelector, ...] = (BoardSelector(),)
    http: tuple[str, ...] = (DEFAULT_HTTP,)
    octez_socket: tuple[str, ...] = ()
    request_token: RequestToken | None = None
    client_ca: ClientCa | None = None
    limits: Limits = Limits()
    hsm_wait_seconds: float = DEFAULT_PATIENCE
    store: StoreAddress | None = None
    warnings: tuple[str, ...] = ()

    @property
    def endpoints(self) -> tuple[str, ...]:
        """All that is listened at, HTTP first."""
        return (*self.http, *self.octez_socket)

    @property
    def keys(self) -> tuple[PublicKeyHash, ...]:
        """The keys that the HSMs are expected to hold."""
        return (*self.signing_keys, *([self.auth_key] if self.auth_key else []))

    def asks(self, key: SigningKey) -> bool:
        """Whether a signing key asks for authentication."""
        return self.security.auth_check and key.auth_req

    def signed_with(self, key: SigningKey) -> frozenset[Operation]:
        """The operations that a key signs: all, if nobody looks at `allowed_ops`."""
        allowed = key.allowed_ops if self.security.signing_policy_check else SIGNED_OPERATIONS
        return allowed & SIGNED_OPERATIONS

    def authorized_for(self, key: PublicKeyHash) -> tuple[PublicKeyHash, ...] | None:
        """The hashes of the keys that may authenticate for a key; None if it asks for none."""
        policy = self.signing_keys[key]
        if not self.asks(policy):
            return None
        if policy.authorized_keys is not None:
            return tuple(key.hash for key in policy.authorized_keys)
        own = () if self.auth_key is None else (self.auth_key,)
        return own + tuple(key.hash for key in self.authorized_keys)

    @property
    def authorized(self) -> tuple[PublicKeyHash, ...] | None:
        """The hashes of the keys that may authenticate for any key, each once.

        None if no key asks for it. Octez asks for these before each signature, and not for
        those of the key that is to sign.
        """
        lists = [self.authorized_for(key) for key in self.signing_keys]
        asked = [keys for keys in lists if keys is not None]
        return tuple(dict.fromkeys(key for keys in asked for key in keys)) if asked else None
