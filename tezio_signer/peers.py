"""Who is on the other end of a connection."""

import socket
import struct
from typing import cast

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import ITransport
from twisted.internet.tcp import Connection

from tezio_signer.errors import NotAdmitted
from tezio_signer.policy import Credentials, Peer
from tezio_signer.proxies import UnsaidAddress

NO_PROOF = "Proof of possession can only be requested for BLS keys."
_UCRED = struct.Struct("iII")
_NOBODY = Credentials(-1, -1, -1)


def peer_of(transport: ITransport) -> Peer:
    """Who asks, by the connection itself; raises NotAdmitted if its address is not known.

    A proxy that speaks the PROXY protocol (`haproxy:` endpoints) says whom it stands for;
    at a Unix socket, the credentials are its own then. Whom it says nothing of is nobody.
    """
    credentials = _credentials(transport)
    address = transport.getPeer()
    try:
        if isinstance(address, IPv4Address | IPv6Address):
            return Peer(Peer.at(address.host).address, credentials)
    except ValueError:
        pass  # not even an address
    else:
        if credentials is not None and not isinstance(address, UnsaidAddress):
            return Peer(credentials=credentials)
    raise NotAdmitted("the address of the client is not known")


def named(transport: ITransport) -> str:
    """A peer for the log, also one whose address is not known."""
    try:
        return str(peer_of(transport))
    except NotAdmitted:
        return str(transport.getPeer())


def _credentials(transport: ITransport) -> Credentials | None:
    """Of a Unix socket's client; None for any other."""
    try:
        handle = cast(Connection, transport).getHandle()
    except AttributeError:  # so Twisted's transports say that they are closed
        return None
    if getattr(handle, "family", None) != socket.AF_UNIX:
        return None
    option = getattr(socket, "SO_PEERCRED", None)
    if option is None:
        return _NOBODY  # not on Linux: where users are checked, nobody passes
    return Credentials(*_UCRED.unpack(handle.getsockopt(socket.SOL_SOCKET, option, _UCRED.size)))
