"""What was asked, and by whom: frozen values, made at a listener and handed down."""

from enum import Enum
from functools import lru_cache
from ipaddress import (
    IPv4Address,
    IPv6Address,
    ip_address,
)
from typing import NewType

from attrs import frozen

from tezio_signer.errors import Forbidden, Malformed, Refused
from tezio_signer.tezos import payload as payloads
from tezio_signer.tezos.keys import PublicKeyHash, Signature
from tezio_signer.tezos.payload import Baking, Consensus, Payload

_LOCALHOST = ip_address("127.0.0.1")
_AUTHENTICATION_PREFIX = b"\x04\x01"
_LONGEST_KEY = 60
"""Letters of what a client wrote in the place of a key, in the log."""


class Listener(Enum):
    """The protocol by which a request came."""

    HTTP = "http"
    OCTEZ_SOCKET = "octez_socket"


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


Admitted = NewType("Admitted", Peer)
"""A peer that may ask: only `Policy.admit` makes one of a peer.

It holds for the configuration that is in force: connections forget it when that is replaced."""


@frozen
class SigningRequest:
    """A request to sign, decoded completely.

    :ivar data: the payload as it came, magic byte first.
    """

    key: PublicKeyHash
    data: bytes
    payload: Payload
    peer: Peer
    authentication: Signature | None = None

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

    def __str__(self) -> str:
        payload = self.payload
        if not isinstance(payload, Baking):
            return f"{payload}, for {self.key}"
        return f"{payload.operation} {payload.level}/{payload.round} for {self.key}"


@frozen
class Submission:
    """A request to sign as it came to a listener.

    :ivar peer: who asks, and may.
    :ivar key: what the client wrote in the place of a key.
    :ivar asked: what is to be signed; or why that cannot be read.
    """

    peer: Admitted
    listener: Listener
    key: str
    asked: SigningRequest | Refused

    @property
    def request(self) -> SigningRequest | None:
        """What is to be signed; None if it cannot be read."""
        return None if isinstance(self.asked, Refused) else self.asked

    @property
    def what(self) -> str:
        """What is asked for, in words for the log."""
        return str(self.request or f"a request for {ascii(self.key)[1:-1][:_LONGEST_KEY]}")
