"""Tells who is at the other end of a connection."""

import socket
import struct
from collections.abc import Callable
from typing import cast

from attrs import frozen
from twisted.internet.interfaces import IAddress, ITransport
from twisted.internet.tcp import Connection
from zope.interface import implementer

from tezio_signer.errors import NotAdmitted
from tezio_signer.listeners.slots import slot_of
from tezio_signer.request import Admitted, Credentials, Peer

NO_PROOF = "Proof of possession can only be requested for BLS keys."
_UCRED = struct.Struct("iII")
_NOBODY = Credentials(-1, -1, -1)


@implementer(IAddress)
@frozen
class UnsaidAddress:
    """The address of a client of which its proxy says nothing."""

    def __str__(self) -> str:
        return "a client of a proxy that does not say whose"


def peer_at(address: object, credentials: Credentials | None = None) -> Peer:
    """Who asks from an address; raises NotAdmitted if it is not known.

    A proxy that speaks the PROXY protocol (`haproxy:` endpoints) says on whose behalf it asks;
    at a Unix socket, the credentials are its own then. Whom it says nothing of is nobody.

    :param credentials: of who has connected to a Unix socket.
    """
    host = getattr(address, "host", None)
    try:
        if host is not None:
            peer = Peer.at(host)
            return peer if credentials is None else Peer(peer.address, credentials)
    except ValueError:
        pass  # not even an address
    else:
        if credentials is not None and not isinstance(address, UnsaidAddress):
            return Peer(credentials=credentials)
    if isinstance(address, UnsaidAddress):
        raise NotAdmitted("the proxy did not say whose connection this is").by("address")
    raise NotAdmitted("the address of the client is not known").by("address")


def peer_of(transport: ITransport) -> Peer:
    """Who asks, by the connection itself; raises NotAdmitted if its address is not known."""
    return peer_at(transport.getPeer(), credentials_at(transport))


def admitted_at(transport: ITransport, admit: Callable[[Peer], Admitted]) -> Admitted:
    """Who asks over a connection; raises NotAdmitted for who may ask nothing.

    That was decided when the connection was accepted, or when its proxy had said whose it is, and
    holds for all its requests. Where it is still open, as for a proxy's own connections and under
    another configuration (`Connections.go_by`), the next request decides.
    """
    slot = slot_of(transport)
    if slot.admission is None:
        try:
            slot.admission = admit(peer_of(transport))
        except NotAdmitted as refused:
            slot.admission = refused
    if isinstance(slot.admission, NotAdmitted):
        # Or it would hold on to the frames of each request.
        raise slot.admission.with_traceback(None)
    return slot.admission


def named(transport: ITransport) -> str:
    """Return a peer for the log, also one whose address is not known."""
    try:
        return str(peer_of(transport))
    except NotAdmitted:
        return str(transport.getPeer())


def credentials_at(transport: object) -> Credentials | None:
    """Return the credentials of a Unix socket's client, or None for any other connection."""
    try:
        handle = cast(Connection, transport).getHandle()
    except AttributeError:  # so Twisted's transports say that they are closed
        return None
    if getattr(handle, "family", None) != socket.AF_UNIX:
        return None
    return credentials_of(handle)


def credentials_of(connection: socket.socket) -> Credentials:
    """Return whose process is at the other end of a Unix socket."""
    option = getattr(socket, "SO_PEERCRED", None)
    if option is None:
        return _NOBODY  # not on Linux: where users are checked, nobody passes
    return Credentials(
        *_UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, option, _UCRED.size))
    )
