"""Ports that go on serving the connections that they have while a flood of others comes.

They take the place of those that Twisted's endpoints open, through the reactor that `service.py`
hands to the endpoints: so every kind of endpoint has them, whoever has parsed its string.
"""

import os
from collections.abc import Callable
from errno import EAGAIN
from math import ceil
from socket import (
    AF_INET,
    AF_INET6,
    AF_UNIX,
    IPPROTO_TCP,
    MSG_DONTWAIT,
    MSG_PEEK,
    NI_NUMERICHOST,
    NI_NUMERICSERV,
    SO_ACCEPTCONN,
    SOL_SOCKET,
    TCP_DEFER_ACCEPT,
    getnameinfo,
    socket,
)
from typing import Any, cast

from twisted.internet import tcp, unix
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IProtocolFactory
from twisted.python import log
from twisted.python.failure import Failure

from tezio_signer.errors import StartupError
from tezio_signer.listeners.peers import credentials_of
from tezio_signer.listeners.portcheck import listening_errors
from tezio_signer.listeners.unixpath import SocketPath

BACKLOG = 4096
"""Connections that the system keeps until they are accepted; Twisted's 50 loses some in a flood."""
ACCEPTED_AT_ONCE = 32
MOST_LOOKED_AT = 128
"""Connections taken from the system before others have a turn, most of which may be refused."""


class _ListeningSocket(socket):
    """A socket that hands over no connection that is over already, or that its factory refuses.

    :ivar factory: says of each connection whether to accept it, by its method `arrives`.
    """

    factory: Any = None
    _looks = MOST_LOOKED_AT

    def begin_turn(self) -> None:
        """Allow as many connections to be looked at as one turn of the reactor has time for."""
        self._looks = MOST_LOOKED_AT

    def accept(self) -> tuple[socket, Any]:
        while self._looks > 0:
            self._looks -= 1
            connection, address = super().accept()
            try:
                if self._wants(connection, address):
                    # The path of a client's own socket tells nothing, and Twisted takes one of
                    # four letters for an address of IPv6.
                    return connection, "" if self.family == AF_UNIX else address
            except OSError:
                pass  # it was reset
            except BaseException:
                connection.close()
                raise
            connection.close()
        raise BlockingIOError(EAGAIN, "let others have a turn")

    def _wants(self, connection: socket, address: Any) -> bool:
        try:
            speaks = connection.recv(1, MSG_PEEK | MSG_DONTWAIT) != b""
            if not speaks:
                return False  # it is closed already
        except BlockingIOError:
            speaks = False
        arrives = getattr(self.factory, "arrives", None)
        if arrives is None:
            return True
        if self.family == AF_UNIX:
            return bool(arrives(UNIXAddress(""), credentials_of(connection), speaks))
        kind = IPv6Address if self.family == AF_INET6 else IPv4Address
        return bool(arrives(kind("TCP", _host_of(address), address[1]), None, speaks))


def _host_of(address: Any) -> str:
    """Return the IP address of a client, with its zone if it has one."""
    if len(address) == 4 and address[3]:
        return getnameinfo(address, NI_NUMERICHOST | NI_NUMERICSERV)[0]
    return str(address[0])


class _Port(tcp.Port):
    """A port whose socket filters connections, and which accepts few of them in each turn."""

    def createInternetSocket(self) -> socket:
        listening = _ListeningSocket(fileno=super().createInternetSocket().detach())
        listening.setblocking(False)
        listening.factory = self.factory
        return listening

    def doRead(self) -> None:
        cast(_ListeningSocket, self.socket).begin_turn()
        super().doRead()

    @property
    def numberAccepts(self) -> int:
        """How many are accepted before others have a turn; Twisted would take ever more."""
        return ACCEPTED_AT_ONCE

    @numberAccepts.setter
    def numberAccepts(self, value: int) -> None:
        pass


class _UnixPort(_Port, unix.Port):
    """A port at a path that is taken over from a daemon that was killed."""

    def __init__(self, path: str, lock: bool, *arguments: Any) -> None:
        super().__init__(os.fsencode(path), *arguments)
        self._path = SocketPath(path, lock)

    def startListening(self) -> None:
        self._path.take()
        try:
            super().startListening()
            self._path.bound()
        except CannotListenError as error:
            self._path.release()
            if self.factory is not None:
                self.factory.doStop()  # Twisted starts it ahead of binding
            raise self._path.refusal(error.socketError) from error
        except BaseException:
            self._path.release()
            raise

    def connectionLost(self, reason: Failure) -> None:
        tcp.Port.connectionLost(self, reason)  # not that of unix.Port: the path may be another's
        self._path.release()


class _AdoptedUnixPort(_Port, unix.Port):
    """A port on a socket whose path and mode belong to whoever has handed it over."""

    def startListening(self) -> None:
        assert self._preexistingSocket is not None
        assert self.factory is not None
        tcp._reservedFD.reserve()
        self.socket, self._preexistingSocket = self._preexistingSocket, None
        self._shouldShutdown = False  # it is listened on again after us
        name = os.fsdecode(self._bindPath or b"")
        log.msg(f"{self._getLogPrefix(self.factory)} starting on {name!r}")
        self.factory.doStart()
        self.connected = True
        self.fileno = self.socket.fileno  # type: ignore[method-assign]  # as Twisted does
        self.startReading()

    def connectionLost(self, reason: Failure) -> None:
        tcp.Port.connectionLost(self, reason)


def listen_tcp(
    port: int, factory: IProtocolFactory, backlog: int, interface: str, reactor: Any, seconds: float
) -> tcp.Port:
    """Listen on a port of TCP; raises StartupError if that is not possible.

    :param seconds: for how long the system keeps a connection on which nothing comes.
    """
    opened = _Port(port, factory, max(backlog, BACKLOG), interface, reactor)
    with listening_errors(port, interface):
        opened.startListening()
    _wait_for_data(opened.socket, seconds)
    return opened


def listen_unix(
    path: str, factory: IProtocolFactory, backlog: int, mode: int, reactor: Any, lock: bool
) -> tcp.Port:
    """Listen at a path; raises StartupError if another daemon does."""
    opened = _UnixPort(path, lock, factory, max(backlog, BACKLOG), mode, reactor)
    opened.startListening()
    return opened


def adopt(
    descriptor: int, family: int, factory: IProtocolFactory, reactor: Any, seconds: float
) -> tcp.Port:
    """Listen on a socket that was handed over; raises StartupError if there is no such socket.

    Who has handed it over has it afterwards as it was, as far as others can see.
    """
    try:
        handed_over = _ListeningSocket(fileno=os.dup(descriptor))
        listens = handed_over.getsockopt(SOL_SOCKET, SO_ACCEPTCONN)
    except OSError as error:
        raise StartupError(f"descriptor {descriptor} is not a socket: {error.strerror}") from error
    if handed_over.family != family or not listens:
        handed_over.close()
        raise StartupError(
            f"descriptor {descriptor} is a socket of {handed_over.family.name} which "
            f"{'listens' if listens else 'does not listen'}, not what the endpoint says"
        )
    handed_over.setblocking(False)
    handed_over.factory = factory
    adopting: Callable[..., tcp.Port] = _AdoptedUnixPort if family == AF_UNIX else _Port
    name = handed_over.getsockname()
    if family in (AF_INET, AF_INET6):
        _wait_for_data(handed_over, seconds)
        port = adopting(0, factory, interface=name[0], reactor=reactor)
    else:
        port = adopting(name, factory, reactor=reactor)
    port._preexistingSocket = handed_over
    port.startListening()
    return port


def _wait_for_data(listening: socket, seconds: float) -> None:
    """Have the system keep connections on which nothing comes, since here the client speaks first.

    A flood of them, or thousands that are idle, then costs the daemon nothing.
    """
    listening.setsockopt(IPPROTO_TCP, TCP_DEFER_ACCEPT, ceil(seconds))
