"""What is behind a fuzzed listener: a signer, and a device that notes what it is asked to sign.

Each input is a connection of its own: its bytes come in pieces, slowly or at once, and the
client may leave before it has its answers. There is room for one connection at a time, so
that one which does not give its place back is noticed.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from enum import Enum
from random import Random
from zlib import crc32

from attrs import evolve, frozen
from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IHalfCloseableProtocol, IProtocolFactory, ITCPTransport
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.logger import ILogObserver, LogEvent, LogLevel, formatEvent, globalLogPublisher
from twisted.python.failure import Failure
from zope.interface import classImplements, implementer

from tests.campaigns.fuzztargets import Wrong
from tests.campaigns.mutation import mutated, pieces
from tests.campaigns.wellformed import Ask
from tests.support.fakeboard import FakePorts
from tests.support.harness import settings_with
from tests.support.stores import watermarks_on
from tests.support.strategies import RECORDED
from tests.support.vectors import AUTH, OCTEZ, TZ1, TZ2, TZ3
from tezio_signer.config.settings import Limits, Settings, SigningKey
from tezio_signer.errors import Unavailable
from tezio_signer.hsm.framing import Status, StatusReply
from tezio_signer.hsm.pool import HsmPool
from tezio_signer.hsm.signing import Priority, Signing
from tezio_signer.listeners.limits import Connections
from tezio_signer.listeners.wrapping import LimitedFactory
from tezio_signer.noop import do_nothing
from tezio_signer.signer import Signer
from tezio_signer.simulator.keys import TEST_KEYS, SoftKey
from tezio_signer.tezos.keys import PublicKey, PublicKeyHash, Signature, digest
from tezio_signer.tezos.payload import Operation

PEER = IPv4Address("TCP", "127.0.0.1", 1025)
_KEYS = {
    key.hash: (key, soft)
    for key, soft in (
        (PublicKey.of(soft.curve, soft.compressed), soft)
        for soft in map(SoftKey.parse, TEST_KEYS.values())
    )
}
_BAKING = frozenset({Operation.BLOCK, Operation.PREATTESTATION, Operation.ATTESTATION})
_GENERIC = frozenset({Operation.GENERIC})
PKHS = [str(key) for key in (TZ1, TZ2, TZ3, AUTH)] + [key["pkh"] for key in OCTEZ["keys"]]
_LIMITS = Limits(connections=1, connections_per_peer=1)
_PAUSE = 3.0
"""Seconds between the pieces of a slow client."""
_LONGER = 1e6
"""Seconds after which nothing waits for anything any more."""


class Manner(Enum):
    """How a client behaves, whatever it sends."""

    PATIENT = "reads its answers, and waits"
    HALF_CLOSING = "closes its side behind its requests"
    CLOGGED = "stops reading now and then"
    SLOW = "takes its time between the pieces"
    LEAVING = "closes the connection ahead of its answers"


_MANNERS = [*[Manner.PATIENT] * 4, Manner.HALF_CLOSING, Manner.CLOGGED, Manner.SLOW, Manner.LEAVING]


def _policy() -> Settings:
    """That of `wellformed.may_be_signed`."""
    signing_keys = {
        TZ1: SigningKey(TZ1, _GENERIC, auth_req=False),
        TZ2: SigningKey(TZ2, _GENERIC, auth_req=True),
        TZ3: SigningKey(TZ3, _BAKING, False, frozenset({"NetXdQprcVkpaWU"})),
    }
    return evolve(settings_with(), signing_keys=signing_keys, auth_key=AUTH)


_SETTINGS = _policy()


class NotingHsms(HsmPool):
    """Signs as boards do, at once or later, and notes for whom.

    :ivar asked: keys and payloads in their order.
    :ivar made: the texts and the bytes of the signatures.
    :ivar behaviour: 0 signs at once, 1 has a watermark, 2 is not there, 3 signs later.
    """

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock, FakePorts(clock, list))
        self.asked: list[Ask] = []
        self.made: set[object] = set()
        self.behaviour = 0
        self._open: list[Signing] = []

    async def public_key(self, key: PublicKeyHash) -> PublicKey:
        return _KEYS[key][0]

    def sign(
        self,
        key: PublicKeyHash,
        message: bytes,
        priority: Priority = Priority.OTHER,
        late: Callable[[Signature], object] = do_nothing,
    ) -> Signing:
        self.asked.append((str(key), message))
        signing = Signing(key, message, priority, late)
        signing.sent(asked_before=False)
        self._open.append(signing)
        if self.behaviour == 0:
            self.answer()
        return signing

    def answer(self) -> bool:
        """Finish what was asked for, well or badly; whether there was anything."""
        waiting, self._open = self._open, []
        for signing in waiting:
            if self.behaviour == 1:
                signing.end(Failure(StatusReply(Status.WATERMARK)))
            elif self.behaviour == 2:
                signing.end(Failure(Unavailable("no board")))
            else:
                signing.end(self._signature(signing))
        return bool(waiting)

    def _signature(self, signing: Signing) -> Signature:
        key, soft = _KEYS[signing.key]
        signature = Signature(key.curve, soft.sign(digest(signing.message)))
        self.made |= {str(signature), signature.data}
        return signature


@frozen
class Connection:
    """What was seen of a connection.

    :ivar closed: whether the listener has closed it, when all was answered that was there.
    :ivar signs: whether the device signs what it is asked to.
    """

    client: Manner
    written: bytes
    asked: list[Ask]
    made: set[object]
    closed: bool
    signs: bool


class _Transport(StringTransport):
    def setTcpNoDelay(self, enabled: bool) -> None:
        """HTTP wants it of TCP."""


classImplements(_Transport, ITCPTransport)  # type: ignore[misc]  # as far as it is used


@implementer(ILogObserver)
class _Faults:
    """What the log has of faults of ours.

    :ivar seen: their texts.
    """

    def __init__(self) -> None:
        self.seen: list[str] = []

    def __call__(self, event: LogEvent) -> None:
        if "log_failure" in event or event.get("log_level", LogLevel.info) >= LogLevel.error:
            self.seen.append(formatEvent(event))


class Listener:
    """A signer behind a listener, new whenever the last one has signed.

    :param factory: makes what is to be behind the limits of connections.
    """

    def __init__(self, factory: Callable[[Signer, Clock], IProtocolFactory]) -> None:
        self._make_factory = factory
        self._faults = _Faults()
        self._renew()

    def _renew(self) -> None:
        self._used = False
        self._clock = Clock()
        self._hsms = NotingHsms(self._clock)
        watermarks = watermarks_on()
        watermarks.startService()
        signer = Signer(_SETTINGS, self._hsms, watermarks, self._clock)
        connections = Connections(_LIMITS, self._clock, signer.admit, signer.decisions)
        self._factory = LimitedFactory(self._make_factory(signer, self._clock), connections)

    def connect(self, data: bytes, client: Manner | None = None) -> Connection:
        """One connection from its beginning to its end; raises Wrong for a fault of ours.

        :param client: None for one that depends on the data.
        """
        if self._used:
            self._renew()
        self._used = True  # also when it ends badly, which must not be seen in the next one
        self._faults.seen.clear()
        globalLogPublisher.addObserver(self._faults)
        try:
            connection = self._connect(data, client or _MANNERS[crc32(data) >> 8 & 7])
        finally:
            globalLogPublisher.removeObserver(self._faults)
        if self._faults.seen:
            raise Wrong(f"logged: {'; '.join(self._faults.seen)}")
        self._used = bool(connection.asked)
        return connection

    def _connect(self, data: bytes, client: Manner) -> Connection:
        self._hsms.behaviour = crc32(data) >> 11 & 3  # of the input alone, to be repeatable
        transport = _Transport(peerAddress=PEER)
        protocol = self._factory.buildProtocol(PEER)
        protocol.makeConnection(transport)
        for piece in pieces(data):
            self._settle(transport)
            if transport.disconnecting:
                break
            protocol.dataReceived(piece)
            if client is Manner.CLOGGED:
                self._clog(transport)
            if client is Manner.SLOW:
                self._clock.advance(_PAUSE)
        if client is Manner.HALF_CLOSING:
            self._settle(transport)
            if not IHalfCloseableProtocol.providedBy(protocol):
                client = Manner.LEAVING
            elif not transport.disconnecting:
                protocol.readConnectionLost()
        if client is not Manner.LEAVING:
            self._settle(transport, to_the_end=True)
        closed, written = transport.disconnecting, transport.value()
        if client is not Manner.LEAVING:
            self._be_silent(transport)
        protocol.connectionLost(Failure(ConnectionDone()))
        while self._hsms.answer():
            self._clock.advance(0)
        transport.disconnecting = False
        self._clock.advance(_LONGER)
        if transport.disconnecting:
            raise Wrong("a connection that is lost is closed once more")
        if self._clock.getDelayedCalls():
            raise Wrong(f"left behind: {self._clock.getDelayedCalls()}")
        self._check_room(transport)
        signs = self._hsms.behaviour in (0, 3)
        return Connection(client, written, self._hsms.asked, self._hsms.made, closed, signs)

    def _settle(self, transport: _Transport, to_the_end: bool = False) -> None:
        """Let happen what happens by itself; a connection that is not read waits for the device."""
        while any(
            call.getTime() <= self._clock.seconds() for call in self._clock.getDelayedCalls()
        ):
            self._clock.advance(0)
        if (to_the_end or transport.producerState == "paused") and self._hsms.answer():
            self._settle(transport, to_the_end)

    def _clog(self, transport: _Transport) -> None:
        """The client does not read for a while."""
        if transport.producer is not None:
            transport.producer.pauseProducing()
        self._settle(transport)
        if transport.producer is not None and not transport.disconnecting:
            transport.producer.resumeProducing()

    def _be_silent(self, transport: _Transport) -> None:
        written = transport.value()
        self._clock.advance(_LONGER)
        if not transport.disconnecting:
            raise Wrong("a connection on which nothing happens is never closed")
        if transport.value() != written:
            raise Wrong(f"said by itself: {transport.value().removeprefix(written)!r}")

    def _check_room(self, transport: _Transport) -> None:
        """Raises Wrong unless there is room for the next one, for which nobody has to go."""
        transport.disconnected = False
        if self._factory.buildProtocol(PEER) is None or transport.disconnected:
            raise Wrong("the place of the connection is still taken")


def check_asked(connection: Connection, allowed: Iterable[Ask]) -> None:
    """Raises Wrong for a signature that the device was asked for, but the connection did not.

    :param allowed: what the client asks for, as often as it does.
    """
    wanted = Counter(allowed)
    for (pkh, payload), times in Counter(connection.asked).items():
        most = wanted[pkh, payload]
        if pkh == str(TZ3) and connection.signs:
            most = min(most, 1)  # what was signed at a level is kept
        if times > most:
            raise Wrong(
                f"the device was asked to sign {payload.hex()} for {pkh} {times} times, "
                f"and may be {most} times"
            )


def key_and_payload(random: Random) -> Ask:
    """Mostly a key with a payload that it may sign, or nearly."""
    payload = random.choice(RECORDED)
    if random.randrange(2):
        payload = mutated(random, payload, RECORDED, ())
    if random.randrange(4) == 0:
        return random.choice(PKHS), payload
    return random.choice((str(TZ1), str(TZ2)) if payload[:1] == b"\x03" else (str(TZ3),)), payload
