"""What a configuration says, as frozen values. How to add a setting: see `setting.py`."""

from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated

from attrs import Factory, field, frozen

from tezio_signer.config.operations import OperationRules
from tezio_signer.config.setting import Setting
from tezio_signer.hsm.boards import BoardSelector
from tezio_signer.tezos.keys import PublicKey, PublicKeyHash
from tezio_signer.tezos.payload import Operation

DEFAULT_PATIENCE = 2.0
DEFAULT_WAITING = 64
"""At 150 ms each, the last of them waits for ten seconds."""
DEFAULT_HTTP = "tcp:6732:interface=127.0.0.1"
SIGNED_OPERATIONS = frozenset(
    {
        Operation.GENERIC,
        Operation.MICHELSON,
        Operation.BLOCK,
        Operation.PREATTESTATION,
        Operation.ATTESTATION,
    }
)
"""All others are decoded, but never signed."""
EXAMPLE_SOCKET = "tcp:7732:interface=127.0.0.1"
LOOPBACK = (ip_network("127.0.0.1"), ip_network("::1"))


@frozen
class Security:
    """The four protections; each can be switched off."""

    remote_ip_check: Annotated[bool, Setting("Only the addresses in `allowed_ips` may ask.")] = True
    auth_check: Annotated[
        bool, Setting("Keys with `auth_req: True` want an authentication signature.")
    ] = True
    signing_policy_check: Annotated[
        bool, Setting("Only the operations in `allowed_ops` are signed.")
    ] = True
    high_water_mark_check: Annotated[
        bool, Setting("No two different blocks or attestations are signed at one level and round.")
    ] = True


@frozen
class SigningKey:
    """What may be signed with a key.

    :ivar chains: chain ids, or None for any.
    :ivar authorized_keys: in the place of the general ones and of the HSM's auth key; None for
        those.
    """

    key: PublicKeyHash
    allowed_ops: Annotated[
        frozenset[Operation],
        Setting(
            "What is signed. Others are refused.",
            form="a list of generic (0x03), michelson (0x05), block (0x11), preattestation (0x12) "
            "and attestation (0x13), by name or number",
        ),
    ]
    auth_req: Annotated[
        bool,
        Setting(
            "Clients authenticate with `policy.auth_key` or one of the authorized keys. Octez "
            "clients then authenticate for all keys."
        ),
    ] = True
    chains: Annotated[
        frozenset[str] | None,
        Setting(
            "Blocks and attestations of these chains only. A made-up chain could have levels that "
            "stop the HSM, which knows no chains, from signing for the real one.",
            form="a list of chain ids, such as NetXdQprcVkpaWU for mainnet",
            without="any chain",
        ),
    ] = None
    max_level_jump: Annotated[
        int,
        Setting(
            "How many levels a watermark may move at once; 500000 blocks, one every six seconds, "
            "are more than a month.",
            least=1,
        ),
    ] = 500_000
    authorized_keys: Annotated[
        tuple[PublicKey, ...] | None,
        Setting(
            "Who may authenticate for this key, in the place of all others.",
            form="a list of public keys (edpk…, sppk…, p2pk…)",
            without="the general `authorized_keys` and `policy.auth_key`",
        ),
    ] = None
    operations: Annotated[
        OperationRules | None,
        Setting(
            "What generic operations may contain.",
            form="a section",
            without="whatever can be decoded, but for the kinds that have to be named",
        ),
    ] = None


@frozen
class EtcdAddress:
    """An etcd cluster, and how to be let in.

    :ivar endpoints: the URLs of its members, `https://host:2379`.
    """

    endpoints: tuple[str, ...]
    ca: Annotated[
        Path | None,
        Setting(
            "The authorities that the certificates of etcd come from.",
            form="a PEM file",
            without="the authorities of the system",
        ),
    ] = None
    certificate: Annotated[
        Path | None,
        Setting(
            "The client certificate without a common name, and its chain.",
            form="a PEM file",
            without="none is shown",
        ),
    ] = None
    private_key: Annotated[
        Path | None, Setting("Its key, not encrypted.", form="a PEM file", without="none")
    ] = None
    user: Annotated[
        str | None, Setting("The user, if etcd has users.", form="a name", without="none")
    ] = None
    password_file: Annotated[
        Path | None,
        Setting("Its password, in the first line.", form="a file", without="none"),
    ] = None

    def __str__(self) -> str:
        return f"etcd at {', '.join(self.endpoints)}"


StoreAddress = Path | EtcdAddress
"""Where the watermarks are: an SQLite file, or an etcd cluster."""


@frozen
class Limits:
    """What clients may take of the daemon."""

    connections: Annotated[
        int, Setting("Connections at once, over all listeners.", least=1, most=100_000)
    ] = 512
    connections_per_peer: Annotated[
        int, Setting("Connections at once, from one IP address.", least=1, most=100_000)
    ] = 128
    request_seconds: Annotated[
        float,
        Setting(
            "From connecting, or from the first byte of a request, to its last; and for reading "
            "an answer after which the client is disconnected.",
            least=1,
            most=600,
        ),
    ] = 10
    idle_seconds: Annotated[
        float, Setting("How long a connection without a request is kept.", least=1, most=3600)
    ] = 60
    # A payload of 1015 bytes, the most that an HSM signs, is 2033 bytes of JSON.
    body_bytes: Annotated[int, Setting("Of a request.", least=2048, most=1024 * 1024)] = 128 * 1024
    header_bytes: Annotated[
        int, Setting("Of an HTTP request, its first line included.", least=1024, most=64 * 1024)
    ] = 16 * 1024
    headers: Annotated[int, Setting("Lines, of an HTTP request.", least=8, most=500)] = 100
    requests_waiting: Annotated[
        int,
        Setting(
            "For one HSM: of blocks, of votes and of generic operations each.", least=1, most=10_000
        ),
    ] = DEFAULT_WAITING
    signatures_per_minute: Annotated[
        int | None,
        Setting(
            "Generic operations and Michelson data for each IP address and key, above which the "
            "answer is 429. Blocks and attestations are never counted.",
            least=1,
            most=1_000_000,
            without="any number",
        ),
    ] = None

    @property
    def most_aborted(self) -> int:
        """How many connections may have been aborted and not be closed yet.

        Twisted closes them in its next turn only, after it has accepted others.
        """
        return max(1, self.connections // 2)

    @property
    def open_files(self) -> int:
        """The most file descriptors that connections can take."""
        return self.connections + 1 + self.most_aborted


@frozen
class RequestToken:
    """A secret that HTTP clients send with every request.

    :ivar header: in lower case.
    :ivar path: the file that it is in, for `check`.
    """

    header: Annotated[
        str,
        Setting(
            'The header that octez-client sends: `TEZOS_SIGNER_HTTP_HEADERS="x-tezio-token: …"`.',
            form="a name that begins with x-",
        ),
    ]
    secret: bytes = field(repr=False)
    path: Annotated[
        Path | None,
        Setting(
            "The secret, one line of 16 bytes or more.",
            key="file",
            form="a file",
            without="required",
        ),
    ] = field(default=None, eq=False)


@frozen
class Audit:
    """The audit log.

    :ivar path: its file.
    """

    path: Annotated[
        Path,
        Setting(
            "The audit log, one JSON line for each decision, [audit.md](audit.md). Its directory "
            "has to be there.",
            key="file",
            form="a file",
        ),
    ]
    required: Annotated[
        bool,
        Setting(
            "Nothing is signed whose line is not on the disk: a disk that is full stops the signer."
        ),
    ] = False


@frozen
class ClientCa:
    """Whose client certificates are accepted.

    :ivar path: the file of their certificates, which is read by each endpoint that asks for them.
    """

    path: Path


@frozen
class Settings:
    """A whole configuration.

    :ivar allowed_uids: None for anybody.
    :ivar floors: level and round at or below which nothing is signed.
    :ivar store: None for in memory only.
    :ivar warnings: what the file gives cause for.
    """

    signing_keys: Annotated[
        dict[PublicKeyHash, SigningKey],
        Setting(
            "The keys that are signed with, and what each of them signs.",
            key="policy.signing_keys",
            form="a mapping of public key hashes (tz1…, tz2…, tz3…) to sections",
        ),
    ]
    auth_key: Annotated[
        PublicKeyHash | None,
        Setting(
            "The key in slot 0 of the HSM, with which clients may authenticate; such as "
            '`{pkh: "tz3…"}`.',
            key="policy.auth_key",
            form="a mapping of pkh to the hash of a tz3 key",
            without="the HSM's own is not asked for",
        ),
    ] = None
    security: Annotated[Security, Setting("The four protections.", form="a section")] = Security()
    verbose: Annotated[bool, Setting("Log every command to the HSM.")] = False
    allowed_ips: Annotated[
        tuple[IPv4Network | IPv6Network, ...],
        Setting(
            "Who may ask. Behind a proxy this is the proxy's address. A proxy is believed only at "
            "`haproxy:` endpoints; let nobody but the proxy reach those.",
            form="a list of addresses and networks",
        ),
    ] = LOOPBACK
    allowed_uids: Annotated[
        frozenset[int] | None,
        Setting(
            "The users that may ask at Unix sockets.",
            form="a list of their numbers",
            without="whoever can open one",
        ),
    ] = None
    authorized_keys: Annotated[
        tuple[PublicKey, ...],
        Setting(
            "Who may authenticate besides `policy.auth_key`.",
            form="a list of public keys (edpk…, sppk…, p2pk…)",
        ),
    ] = ()
    list_known_keys: Annotated[bool, Setting("`GET /known_keys` lists the signing keys.")] = False
    floors: Annotated[
        dict[Operation, tuple[int, int]],
        Setting(
            "Nothing at or below these is signed; level 0, round 0 is no floor. Such as "
            "`{level: {block: 5000000}, round: {block: 0}}`.",
            key="high_water_marks",
            form="level and round, each with block, preattestation and attestation",
            without="no floors",
        ),
    ] = Factory(dict)
    hsms: Annotated[
        tuple[BoardSelector, ...],
        Setting(
            "Which boards are used.",
            form="a list of `{serial_number: …}` and `{port: /dev/…}`",
            without="every Tezio board that is plugged in",
            restart=True,
        ),
    ] = (BoardSelector(),)
    hsm_wait_seconds: Annotated[
        float, Setting("How long a request waits for an HSM to be plugged in again.", most=60)
    ] = DEFAULT_PATIENCE
    http: Annotated[
        tuple[str, ...],
        Setting(
            "Where the Octez HTTP API listens. HTTPS, with TLS 1.2 or 1.3: "
            "`ssl:6732:interface=192.168.1.2:privateKey=key.pem:certKey=cert.pem`.",
            key="listen.http",
            form="a list of Twisted endpoint strings",
            restart=True,
        ),
    ] = (DEFAULT_HTTP,)
    octez_socket: Annotated[
        tuple[str, ...],
        Setting(
            "Where the Octez socket protocol listens: one connection for a signature instead of "
            "two. A Unix socket is for the daemon's own user unless it has a mode (600); who can "
            "open it counts as 127.0.0.1.",
            key="listen.octez_socket",
            form="a list of Twisted endpoint strings",
            without="nowhere",
            restart=True,
        ),
    ] = ()
    request_token: Annotated[
        RequestToken | None,
        Setting(
            "HTTP wants this header with the secret.", form="a section", without="none is wanted"
        ),
    ] = None
    client_ca: Annotated[
        ClientCa | None,
        Setting(
            "`ssl:` endpoints want client certificates of these authorities.",
            form="a PEM file",
            without="none are asked for",
            restart=True,
        ),
    ] = None
    limits: Annotated[Limits, Setting("What clients may take of the daemon.", form="a section")] = (
        Limits()
    )
    store: Annotated[
        StoreAddress | None,
        Setting(
            "Where the watermarks are; `tezio-signer watermarks init` creates them once.",
            key="watermarks",
            form="a section",
            without='`{store: "sqlite:watermarks.sqlite"}`',
            restart=True,
        ),
    ] = None
    audit: Annotated[
        Audit | None,
        Setting(
            "What was decided, for later.",
            form="a section",
            without="there is no audit log",
            restart=True,
        ),
    ] = None
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
