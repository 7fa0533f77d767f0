"""Tezio HSMs on serial ports: one command in flight on each, and no reply taken for another's.

`HsmProtocol` is the conversation with one device, `HsmDevice` a device with the
keys that it holds, `HsmPool` the service that finds, opens and re-opens them.
"""

import fcntl
import termios
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, TypeVar

from attrs import define, field, frozen
from serial import Serial, SerialException
from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionAborted
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.serialport import SerialPort
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from tezio_signer.errors import Unavailable
from tezio_signer.hsm import framing
from tezio_signer.hsm.boards import Board
from tezio_signer.hsm.framing import FramingError, Slot, Status, StatusReply
from tezio_signer.hsm.slots import CURVES, SIGNING_SLOTS
from tezio_signer.tezos.keys import PublicKey, PublicKeyHash, Signature

BAUD_RATE = 57600
"""Of the sketch. Never 1200: that makes an Arduino enter its boot loader."""
EXCHANGE_TIMEOUT = 3.0
"""Seconds for the answer to a command; the slowest operations take some hundred ms."""
QUIET_TIME = 0.2
"""Seconds without a byte after which a device is taken to be ready again."""
SEARCH_INTERVAL = 1.0
"""Seconds between two looks for boards that were plugged in."""
_FRAME_REFUSALS = {Status.FRAME_TOO_SHORT, Status.WRONG_CRC, Status.WRONG_LENGTH}
_PSEUDO_TERMINALS = "/dev/pts/"

_Answer = TypeVar("_Answer")


class ExclusiveSerialPort(SerialPort):
    """A serial port that no other program can open beside us."""

    class _serialFactory(Serial):  # noqa: N801
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **{**kwargs, "exclusive": True})

    def abort(self) -> None:
        """Close at once, whatever is still to be written; `loseConnection` would wait for it."""
        self.flushOutput()
        self.connectionLost(Failure(ConnectionAborted()))


@define(eq=False)
class _Exchange:
    """A command, how to read its reply, and who waits for it."""

    frame: bytes
    read: Callable[[bytes], object]
    result: Deferred[Any] = field(init=False)


class HsmProtocol(Protocol):
    """The conversation with one device.

    Commands wait for their turn. A caller may cancel his Deferred at any time: a
    command that waits is dropped, one in flight goes on to its end unheard.
    Every failure of a Deferred is a `StatusReply` or an `Unavailable`.

    :param lost: called once with the reason when the port is gone.
    :param verbose: log the commands.
    """

    _log = Logger()
    transport: ExclusiveSerialPort

    def __init__(
        self,
        clock: IReactorTime,
        lost: Callable[[Failure], object],
        name: str,
        verbose: bool = False,
    ) -> None:
        self._clock = clock
        self._verbose = verbose
        self._lost = lost
        self._name = name
        self._queue: deque[_Exchange] = deque()
        self._current: _Exchange | None = None
        self._received = b""
        self._timeout: IDelayedCall | None = None
        self._quiet: IDelayedCall | None = None
        self._gone = False

    def exchange(
        self, request: framing.Request, read: Callable[[bytes], _Answer]
    ) -> Deferred[_Answer]:
        """Send a command and have its reply body read.

        :raises FramingError: at once, if the command cannot be framed.
        """
        exchange = _Exchange(request.frame(), read)
        exchange.result = Deferred(lambda _: self._forget(exchange))
        if self._gone:
            exchange.result.errback(Unavailable(f"the HSM {self._name} is unplugged"))
        else:
            self._queue.append(exchange)
            self._start_next()
        return exchange.result

    def _forget(self, exchange: _Exchange) -> None:
        if exchange in self._queue:
            self._queue.remove(exchange)

    def _start_next(self) -> None:
        if self._current is not None or self._quiet is not None or not self._queue:
            return
        self._current = self._queue.popleft()
        self._received = b""
        # What came since the last reply belongs to nobody.
        self.transport.flushInput()
        self.transport.write(self._current.frame)
        if self._verbose:
            self._log.debug(
                "HSM {name}: {count} bytes, opcode {opcode:02X}, slot {slot}",
                name=self._name,
                count=len(self._current.frame),
                opcode=self._current.frame[3],
                slot=self._current.frame[4],
            )
        self._timeout = self._clock.callLater(EXCHANGE_TIMEOUT, self._timed_out)

    def dataReceived(self, data: bytes) -> None:
        if self._current is None:
            self._log.warn("HSM {name}: {count} stray bytes", name=self._name, count=len(data))
            self._drain()
            return
        self._received += data
        try:
            body = framing.parse_reply(self._received)
            if body is None:
                return
            answer = self._current.read(body)
        except StatusReply as status:
            self._finish(Failure(status), drain=status.status in _FRAME_REFUSALS)
        except FramingError as error:
            self._fail(f"the HSM {self._name} sent {error}")
        else:
            self._finish(answer)

    def _timed_out(self) -> None:
        self._fail(f"the HSM {self._name} did not answer within {EXCHANGE_TIMEOUT:g} s")

    def _fail(self, sentence: str) -> None:
        self._log.error("{sentence}", sentence=sentence)
        self._finish(Failure(Unavailable(sentence)), drain=True)

    def _finish(self, result: object, drain: bool = False) -> None:
        exchange, self._current = self._current, None
        assert exchange is not None
        if self._timeout is not None and self._timeout.active():
            self._timeout.cancel()
        if drain:
            self._drain()
        # The next command first: whoever gets this result may take his time.
        self._start_next()
        if not exchange.result.called:  # else its caller has gone
            exchange.result.callback(result)

    def _drain(self) -> None:
        """Stay quiet until the device has been quiet, so that nothing late meets a command."""
        if self._quiet is None:
            self._quiet = self._clock.callLater(QUIET_TIME, self._drained)
        else:
            self._quiet.reset(QUIET_TIME)

    def _drained(self) -> None:
        self._quiet = None
        self._start_next()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._gone = True
        for call in (self._timeout, self._quiet):
            if call is not None and call.active():
                call.cancel()
        self._quiet = None
        left = [self._current] if self._current is not None else []
        left += self._queue
        self._current = None
        self._queue.clear()
        for exchange in left:
            if not exchange.result.called:
                exchange.result.errback(Unavailable(f"the HSM {self._name} was unplugged"))
        self._lost(reason)


@frozen(eq=False)
class HsmDevice:
    """A connected device and the public keys that it said it holds."""

    _log: ClassVar = Logger()
    board: Board
    protocol: HsmProtocol
    keys: dict[Slot, PublicKey]

    @classmethod
    async def read(cls, board: Board, protocol: HsmProtocol) -> "HsmDevice":
        """Ask a device for the keys of all its slots.

        :raises Unavailable: if it does not answer as a Tezio HSM does.
        """
        keys = {}
        for slot in Slot:
            try:
                keys[slot] = await protocol.exchange(
                    framing.get_public_key(slot), partial(_public_key_from, slot)
                )
            except StatusReply as status:
                cls._log.warn("HSM {board}, slot {slot}: {why}", board=board, slot=slot, why=status)
        if not keys:
            raise Unavailable(f"the device {board} gives no public key")
        return cls(board, protocol, keys)

    def slot_of(self, key: PublicKeyHash) -> Slot | None:
        """The slot that may sign for an address."""
        for slot in SIGNING_SLOTS:
            if slot in self.keys and self.keys[slot].hash == key:
                return slot
        return None

    def sign(self, slot: Slot, message: bytes) -> Deferred[Signature]:
        """The signature of a message as the device made it, not yet verified."""
        curve = CURVES[slot]
        return self.protocol.exchange(
            framing.sign(slot, message),
            lambda body: Signature(curve, framing.signature_from(body)),
        )

    def verify(self, slot: Slot, message: bytes, signature: Signature) -> Deferred[bool]:
        """What the device says of a signature; False also means that its chip failed."""
        return self.protocol.exchange(
            framing.verify(slot, message, signature.data), framing.verdict_from
        )


async def read_device(reactor: IReactorTime, board: Board) -> HsmDevice:
    """Open a device, ask it for its keys, and close it again; raises Unavailable."""
    protocol = HsmProtocol(reactor, bool, str(board))
    try:
        port = _open_port(reactor, protocol, board.port)
    except (SerialException, OSError) as error:
        raise Unavailable(f"cannot open it: {error}") from error
    try:
        return await HsmDevice.read(board, protocol)
    finally:
        port.abort()


def _public_key_from(slot: Slot, body: bytes) -> PublicKey:
    data = framing.key_from(slot, body)
    try:
        return PublicKey.of(CURVES[slot], data)
    except ValueError as error:  # the firmware does not notice a failing read
        raise FramingError(f"a public key of slot {slot} that is no point of its curve") from error


class HsmPool(Service):
    """The connected HSMs: found, opened, asked for their keys, and looked for again when lost.

    :param find: the boards to use, as they are plugged in now.
    :param open_port: opens a port for a protocol; raises SerialException or OSError.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: IReactorTime,
        find: Callable[[], list[Board]],
        open_port: Callable[[HsmProtocol, str], ExclusiveSerialPort] | None = None,
        verbose: bool = False,
    ) -> None:
        self._reactor = reactor
        self._find = find
        self._verbose = verbose
        self._open_port = open_port or partial(_open_port, reactor)
        self._search = LoopingCall(self._look)
        self._search.clock = reactor
        self._ports: dict[Board, ExclusiveSerialPort] = {}
        self._troubles: dict[Board, str] = {}
        self._public_keys: dict[PublicKeyHash, PublicKey] = {}
        self._awaited: list[tuple[PublicKeyHash, Deferred[None]]] = []
        self.devices: dict[Board, HsmDevice] = {}

    def startService(self) -> None:
        super().startService()
        self._search.start(SEARCH_INTERVAL)

    def stopService(self) -> None:
        super().stopService()
        self._search.stop()
        for port in list(self._ports.values()):
            port.abort()

    def public_key(self, key: PublicKeyHash) -> PublicKey:
        """The public key of an address, of an HSM that is or was connected.

        :raises Unavailable: if no HSM with this key has been seen.
        """
        if key not in self._public_keys:
            raise Unavailable(f"no connected HSM holds {key}")
        return self._public_keys[key]

    def sign(self, key: PublicKeyHash, message: bytes) -> Deferred[Signature]:
        """Have a message signed by a connected HSM that holds the key.

        :raises Unavailable: if there is none.
        """
        for device in self.devices.values():
            slot = device.slot_of(key)
            if slot is not None:
                return device.sign(slot, message)
        raise Unavailable(f"no connected HSM holds {key}")

    def connected(self, key: PublicKeyHash) -> Deferred[None]:
        """Fires when an HSM that holds the key is connected, now or later."""
        waiting: Deferred[None] = Deferred(lambda _: None)
        self._awaited.append((key, waiting))
        self._announce()
        return waiting

    def _announce(self) -> None:
        held = {key.hash for device in self.devices.values() for key in device.keys.values()}
        awaited, self._awaited = self._awaited, []
        for key, waiting in awaited:
            if waiting.called:
                continue
            if key in held:
                waiting.callback(None)
            else:
                self._awaited.append((key, waiting))

    def _look(self) -> None:
        for board in self._find():
            if board not in self._ports:
                self._open(board)

    def _open(self, board: Board) -> None:
        protocol = HsmProtocol(
            self._reactor, partial(self._disconnected, board), str(board), self._verbose
        )
        try:
            self._ports[board] = self._open_port(protocol, board.port)
        except (SerialException, OSError) as error:
            self._trouble(board, f"cannot open it: {error}")
            return
        reading = Deferred.fromCoroutine(HsmDevice.read(board, protocol))
        reading.addCallback(self._connected)
        reading.addErrback(self._not_read, board)

    def _connected(self, device: HsmDevice) -> None:
        self.devices[device.board] = device
        self._troubles.pop(device.board, None)
        for key in device.keys.values():
            self._public_keys[key.hash] = key
        self._log.info(
            "HSM {board} connected: {keys}",
            board=device.board,
            keys=", ".join(f"slot {slot} {key.hash}" for slot, key in device.keys.items()),
        )
        self._announce()

    def _not_read(self, failure: Failure, board: Board) -> None:
        failure.trap(Unavailable)
        self._trouble(board, failure.getErrorMessage())
        if board in self._ports:
            self._ports[board].abort()

    def _trouble(self, board: Board, sentence: str) -> None:
        """Report what keeps a board from being used, once until it changes."""
        if self._troubles.get(board) != sentence:
            self._troubles[board] = sentence
            self._log.error("HSM {board}: {sentence}", board=board, sentence=sentence)

    def _disconnected(self, board: Board, reason: Failure) -> None:
        self._ports.pop(board, None)
        if self.devices.pop(board, None) is not None and self.running:
            self._log.warn("HSM {board} is gone", board=board)


def _open_port(reactor: IReactorTime, protocol: HsmProtocol, port: str) -> ExclusiveSerialPort:
    opened = ExclusiveSerialPort(protocol, port, reactor, baudrate=BAUD_RATE)
    if not port.startswith(_PSEUDO_TERMINALS):
        # The lock of pyserial binds only programs that ask for it, this one binds all. The
        # kernel would keep it on a pseudo-terminal after we are gone, with nobody to lift it.
        fcntl.ioctl(opened.fileno(), termios.TIOCEXCL)
    return opened
