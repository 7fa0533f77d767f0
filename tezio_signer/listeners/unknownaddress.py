"""Tells unknown addresses and users that they may ask nothing, and reads nothing of theirs.

The answer is written as soon as it is known who connects. What comes meanwhile is thrown
away, up to a limit: closing at once would have the system reset the connection, and the
client would not see the answer.
"""

from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IHalfCloseableProtocol,
    IProtocolFactory,
    IReactorTime,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from tezio_signer.errors import NotAdmitted
from tezio_signer.listeners.slots import slot_of
from tezio_signer.listeners.wrapping import name_of
from tezio_signer.reactors import cancel

MAX_DISCARDED = 64 * 1024
"""Bytes that are thrown away before the connection is cut."""
LINGER = 2.0
"""Seconds that a client has to read the answer, and under TLS to finish the handshake."""


@implementer(IHalfCloseableProtocol)
class _Refusing(Protocol):
    transport: Any
    factory: "RefusingFactory"
    _discarded = 0
    _alarm: IDelayedCall | None = None

    def connectionMade(self) -> None:
        self._alarm = self.factory.clock.callLater(LINGER, self._cut)
        refused = slot_of(self.transport).admission
        assert isinstance(refused, NotAdmitted)
        self.transport.write(self.factory.answer(refused))
        if self.factory.closes_one_side:
            self.transport.loseWriteConnection()
        else:
            self.transport.loseConnection()

    def dataReceived(self, data: bytes) -> None:
        self._discarded += len(data)
        if self._discarded > MAX_DISCARDED:
            self._cut()

    def readConnectionLost(self) -> None:
        self.transport.loseConnection()

    def writeConnectionLost(self) -> None:
        """The client still has to read what was written."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        cancel(self._alarm)

    def _cut(self) -> None:
        self.transport.abortConnection()


class RefusingFactory(Factory):
    """Makes connections whose client is told that it may ask nothing.

    :param served: the factory that it replaces.
    :param answer: the bytes that tell of a refusal in its protocol.
    :param closes_one_side: the client's side stays open for what is thrown away; not under TLS,
        which says itself that there will be no more.
    """

    noisy = False
    protocol = _Refusing  # type: ignore[assignment]

    def __init__(
        self,
        served: IProtocolFactory,
        answer: Callable[[NotAdmitted], bytes],
        clock: IReactorTime,
        closes_one_side: bool,
    ) -> None:
        self.answer = answer
        self.clock = clock
        self.closes_one_side = closes_one_side
        self._served = served

    def buildProtocol(self, addr: IAddress | None) -> Protocol:
        protocol = _Refusing()
        protocol.factory = self
        return protocol

    def logPrefix(self) -> str:
        """Return the name of the factory that it replaces."""
        return name_of(self._served)
