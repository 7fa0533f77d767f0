"""Who is at the other end of a connection."""

import os
import socket

from twisted.internet.address import IPv4Address, UNIXAddress
from twisted.internet.interfaces import IAddress
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase

from tezio_signer.errors import Forbidden, NotAdmitted
from tezio_signer.listeners.peers import named, peer_at, peer_of
from tezio_signer.request import Credentials, Peer
from tezio_signer.rules.access import allowed_user


class _Transport(StringTransport):
    """A transport with a socket, or without one as Twisted's are when they are closed."""

    def __init__(self, address: IAddress, handle: socket.socket | None = None) -> None:
        super().__init__(peerAddress=address)
        self._handle = handle

    def getHandle(self) -> socket.socket:
        if self._handle is None:
            raise AttributeError("socket")
        return self._handle


class PeerTests(SynchronousTestCase):
    """Who is on the other end of a transport."""

    def test_closed(self) -> None:
        """Of a closed transport the address is still known, the user at a socket is not."""
        tcp = _Transport(IPv4Address("TCP", "10.0.0.1", 1025))
        self.assertEqual(peer_of(tcp), Peer.at("10.0.0.1"))
        unix = _Transport(UNIXAddress(None))
        self.assertRaises(Forbidden, peer_of, unix)
        self.assertEqual(named(unix), "UNIXAddress(None)")

    def test_no_credentials(self) -> None:
        """Where the kernel does not say who it is, it is none of those that are named."""
        ours, theirs = socket.socketpair()
        self.addCleanup(ours.close)
        self.addCleanup(theirs.close)
        transport = _Transport(UNIXAddress(None), ours)
        allowed_user(frozenset({os.getuid()}))(peer_of(transport))
        self.patch(socket, "SO_PEERCRED", None)
        peer = peer_of(transport)
        self.assertEqual(peer, Peer(credentials=Credentials(-1, -1, -1)))
        self.assertRaises(Forbidden, allowed_user(frozenset({0, os.getuid()})), peer)

    def test_credentials(self) -> None:
        """The kernel says whose process it is."""
        ours, theirs = socket.socketpair()
        self.addCleanup(ours.close)
        self.addCleanup(theirs.close)
        peer = peer_of(_Transport(UNIXAddress(None), ours))
        self.assertEqual(peer.credentials, Credentials(os.getpid(), os.getuid(), os.getgid()))

    def test_address_that_a_proxy_says(self) -> None:
        """A client of a proxy at a Unix socket has its own address, and the proxy's user."""
        user = Credentials(7, 1000, 100)
        peer = peer_at(IPv4Address("TCP", "10.0.0.1", 1025), user)
        self.assertEqual(peer, Peer(Peer.at("10.0.0.1").address, user))

    def test_no_address(self) -> None:
        """What is no address is nobody's, whoever is at the socket."""
        for credentials in (None, Credentials(7, 1000, 100)):
            address = IPv4Address("TCP", "no address", 1025)
            self.assertRaises(NotAdmitted, peer_at, address, credentials)
