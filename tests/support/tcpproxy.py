"""A network between processes of this machine that can be cut, slowed down and reset.

A `Link` is all that lies between one client and one server. A `Proxy` listens in front of
a server, and carries every connection over the link of the client that makes it.
"""

import os
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from enum import Enum
from pathlib import Path
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IAddress, IDelayedCall, IListeningPort, ITCPTransport
from twisted.internet.protocol import ClientFactory, Protocol, ServerFactory, connectionDone
from twisted.python.failure import Failure

from tests.support.harness import reactor


class Way(Enum):
    """The direction in which something goes over a link."""

    REQUESTS = "from the client to the server"
    ANSWERS = "from the server to the client"


class Link:
    """What lies between a client and a server.

    Whatever is held on its way arrives when the way is open again, as it does with TCP when
    packets were lost for a while; unless the connection is reset before.

    :ivar delay: seconds that everything takes from now on, either way; the order stays.
    """

    def __init__(self) -> None:
        self.delay = 0.0
        self._held: frozenset[Way] = frozenset()
        self._refusing = False
        self._cutting: Way | None = None
        self._connections: set[_Connection] = set()

    def hold(self, *ways: Way) -> None:
        """Let nothing through any more: either way, or on these."""
        self._held = frozenset(ways or Way)

    def reset(self) -> None:
        """Break all connections; what was held on them is lost."""
        for connection in list(self._connections):
            connection.abort()

    def refuse(self) -> None:
        """Break all connections, and every new one."""
        self._refusing = True
        self.reset()

    def reset_at(self, way: Way) -> None:
        """Break each connection as soon as something would go this way; it is lost.

        With ANSWERS, the server has done what it was asked for, and the client never knows.
        """
        self._cutting = way

    def open(self) -> None:
        """Let everything through again, at once."""
        self.delay = 0.0
        self._held = frozenset()
        self._refusing = False
        self._cutting = None
        for connection in list(self._connections):
            connection.advance()

    @property
    def disturbed(self) -> bool:
        """Whether anything is not as it is when the link is open."""
        return bool(self._held or self._refusing or self._cutting or self.delay)

    def takes(self, connection: "_Connection") -> bool:
        """Have a connection go over this link; False if it is refused."""
        if self._refusing:
            return False
        self._connections.add(connection)
        return True

    def forget(self, connection: "_Connection") -> None:
        """A connection is over."""
        self._connections.discard(connection)

    def holds(self, way: Way) -> bool:
        """Whether nothing gets through this way."""
        return way in self._held

    def cuts(self, way: Way) -> bool:
        """Whether a connection breaks at what comes this way now."""
        return way is self._cutting


class _Stream:
    """One way of a connection: what has come, and is not passed on yet."""

    def __init__(self, way: Way, connection: "_Connection") -> None:
        self._way = way
        self._connection = connection
        self._waiting: deque[tuple[float, bytes | None]] = deque()
        self._timer: IDelayedCall | None = None
        self.to: ITCPTransport | None = None

    def put(self, data: bytes | None) -> None:
        """Pass on data, or, with None, that there will be no more."""
        link = self._connection.link
        self._waiting.append((reactor.seconds() + (link.delay if link else 0.0), data))
        self.advance()

    def advance(self) -> None:
        """Pass on what is due, if it may."""
        link = self._connection.link
        if self.to is None or link is None or link.holds(self._way):
            return
        while self._waiting:
            due, data = self._waiting[0]
            if due > reactor.seconds() and link.delay:
                self._advance_at(due)
                return
            if link.cuts(self._way):
                self._connection.abort()
                return
            self._waiting.popleft()
            if data is None:
                self.to.loseConnection()
            else:
                self.to.write(data)

    def drop(self) -> None:
        """Nothing is passed on any more."""
        self._waiting.clear()
        self.to = None
        if self._timer is not None and self._timer.active():
            self._timer.cancel()

    def _advance_at(self, due: float) -> None:
        if self._timer is None or not self._timer.active():
            self._timer = reactor.callLater(max(0.0, due - reactor.seconds()), self.advance)


class _Connection:
    """A client's connection, and the one to the server that is made for it."""

    def __init__(self, link: Link | None, port: int) -> None:
        self._port = port
        self._ends: list[ITCPTransport] = []
        self._broken = False
        self._ended = 0
        self.link = link
        self._streams = {way: _Stream(way, self) for way in Way}

    def made(self, way: Way, transport: ITCPTransport) -> None:
        """One of the two connections is there; this way comes from it."""
        self._ends.append(transport)
        if self._broken:
            transport.abortConnection()
            return
        transport.setTcpNoDelay(True)
        back = Way.ANSWERS if way is Way.REQUESTS else Way.REQUESTS
        self._streams[back].to = transport
        if way is Way.REQUESTS:
            self._connect()
        self.advance()

    def came(self, way: Way, data: bytes | None) -> None:
        """Data, or the end of one of the two connections."""
        if data is None:
            self._ended += 1
            if self._ended == len(Way):
                self._over()
        self._streams[way].put(data)

    def advance(self) -> None:
        """Pass on what may be."""
        for stream in self._streams.values():
            stream.advance()

    def abort(self) -> None:
        """Break both connections."""
        for stream in self._streams.values():
            stream.drop()
        self._broken = True
        for end in self._ends:
            end.abortConnection()
        self._over()

    def _over(self) -> None:
        if self.link is not None:
            self.link.forget(self)

    def _connect(self) -> None:
        if self.link is None or not self.link.takes(self):
            self.abort()
            return
        factory: Any = ClientFactory.forProtocol(lambda: _End(self, Way.ANSWERS))
        factory.clientConnectionFailed = lambda *_: self.abort()
        factory.noisy = False
        reactor.connectTCP("127.0.0.1", self._port, factory)  # type: ignore[attr-defined]


class _End(Protocol):
    """One of the two connections of a `_Connection`."""

    transport: ITCPTransport

    def __init__(self, connection: _Connection, way: Way) -> None:
        self._connection = connection
        self._way = way

    def connectionMade(self) -> None:
        self._connection.made(self._way, self.transport)

    def dataReceived(self, data: bytes) -> None:
        self._connection.came(self._way, data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if reason.check(ConnectionDone):
            self._connection.came(self._way, None)
        else:
            self._connection.abort()


class Proxy(ServerFactory):
    """Listens on loopback in front of a server.

    :ivar port: where it listens.
    :param server_port: where the server listens.
    :param route: called with the port from which a client comes; the link that it comes over,
        or None if there is no such client any more.
    """

    noisy = False

    def __init__(self, server_port: int, route: Callable[[int], Link | None]) -> None:
        self._server_port = server_port
        self._route = route
        self._listening: IListeningPort = reactor.listenTCP(  # type: ignore[attr-defined]
            0, self, interface="127.0.0.1"
        )
        self.port: int = self._listening.getHost().port

    def buildProtocol(self, addr: IAddress | None) -> Protocol:
        assert isinstance(addr, IPv4Address)
        return _End(_Connection(self._route(addr.port), self._server_port), Way.REQUESTS)

    async def stop(self) -> None:
        """Listen no more; the connections of its links stay."""
        await self._listening.stopListening()  # type: ignore[misc]


def owns(pid: int, port: int, to: int) -> bool:
    """Whether a process has a connection from this port of loopback to that one."""
    wanted = f"0100007F:{port:04X} 0100007F:{to:04X} "
    with open("/proc/net/tcp", encoding="ascii") as table:
        sockets = {f"socket:[{line.split()[9]}]" for line in table if wanted in line}
    if not sockets:
        return False
    with suppress(FileNotFoundError):  # it may end meanwhile
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(FileNotFoundError):
                if os.readlink(descriptor) in sockets:
                    return True
    return False
