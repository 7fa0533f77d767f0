"""Boards in memory: the firmware of the simulator behind a port that the history answers."""

from collections.abc import Callable
from typing import cast

from attrs import define
from twisted.internet.error import ConnectionAborted, ConnectionDone
from twisted.python.failure import Failure

from tests.campaigns.histories.keys import Cryptography
from tests.campaigns.histories.network import Message, Network
from tests.support.harness import EVERY_MAGIC_BYTE
from tezio_signer.hsm.boards import Board
from tezio_signer.hsm.framing import Opcode, Slot, reply
from tezio_signer.serialhsm import ExclusiveSerialPort, HsmProtocol
from tezio_signer.simulator.firmware import Firmware


@define(eq=False)
class Reply(Message):
    """What a board says.

    :ivar packet: its bytes.
    """

    packet: bytes = b""


class MemoryPort:
    """What a daemon has of a serial port that it has opened.

    :ivar is_open: False once it was closed, or its daemon has crashed.
    """

    def __init__(self, board: "MemoryBoard", protocol: HsmProtocol) -> None:
        self.is_open = True
        self._board = board
        self._protocol = protocol
        protocol.makeConnection(cast(ExclusiveSerialPort, self))

    def write(self, frame: bytes) -> None:
        """Send a frame to the board."""
        if self.is_open:
            self._board.written(frame)

    def forget_input(self) -> None:
        """What has arrived is read at once here; what is under way may arrive later."""

    @property
    def unsent(self) -> bool:
        """Whether the board does not take what is written."""
        return self._board.stuffed

    def abort(self) -> None:
        """Close at once."""
        if self.is_open:
            self._board.closed()
            self.lose(Failure(ConnectionAborted()))

    def lose(self, why: Failure) -> None:
        """Tell the daemon that the port is gone."""
        self.is_open = False
        self._protocol.connectionLost(why)

    def receive(self, data: bytes) -> None:
        """Hand over what the board has said."""
        if self.is_open:
            self._protocol.dataReceived(data)


class MemoryBoard:
    """A board at one daemon's machine, whichever process has its port.

    :ivar plugged: whether it is plugged in.
    :ivar mute: it takes frames and does nothing, until it is without power once.
    :ivar stuffed: while it is mute it takes no bytes either.
    """

    def __init__(
        self, name: str, daemon: str, network: Network, cryptography: Cryptography
    ) -> None:
        self.name = name
        self.daemon = daemon
        self.firmware = Firmware(keys={}, enabled=EVERY_MAGIC_BYTE)
        self.firmware.keys = {slot: cryptography.key(slot, name) for slot in Slot}
        self.plugged = True
        self.mute = False
        self.stuffed = False
        self._node = 1
        self._network = network
        self._inward, self._outward = f"{daemon}>{name}", f"{name}>{daemon}"
        self.port: MemoryPort | None = None

    def board(self) -> Board:
        """As the system lists it."""
        return Board(f"/dev/{self.name}", self.name, (self._node, self._node))

    def open(self, protocol: HsmProtocol) -> ExclusiveSerialPort:
        """Open its port; raises OSError if it is not plugged in."""
        if not self.plugged:
            raise OSError(f"no such port: {self.name}")
        self.port = MemoryPort(self, protocol)
        return cast(ExclusiveSerialPort, self.port)

    def closed(self) -> None:
        """The daemon has closed the port; what the board has not taken is dropped."""
        self.port = None
        if self.stuffed:
            self._network.clear(self._inward)

    def written(self, frame: bytes) -> None:
        """A frame leaves the daemon. Those that ask for keys come through, and at once."""
        signs = frame[3] == Opcode.SIGN
        what = "a payload to sign" if signs else "a question for a key"
        self._network.send(
            self._inward, Message(what, lambda: self._execute(frame, signs), prompt=not signs)
        )

    def _execute(self, frame: bytes, signs: bool) -> None:
        answer = None if self.mute else self.firmware.execute(frame[1:])
        if answer is not None:
            self._send(answer.packet, prompt=not signs)

    def _send(self, packet: bytes, prompt: bool) -> None:
        what = f"a reply of {len(packet) - 4} bytes"
        self._network.send(
            self._outward, Reply(what, lambda: self._say(packet), prompt, packet=packet)
        )

    def _say(self, packet: bytes) -> None:
        if self.port is not None:
            self.port.receive(packet)

    def spoil(self, message: Message, kind: int) -> None:
        """Let a reply arrive otherwise than it was sent: wrong, broken, or cut off."""
        assert isinstance(message, Reply)
        packet = message.packet
        wrong = bytearray(packet[2:-2])
        wrong[-1] ^= 1
        self._say((reply(bytes(wrong)), packet[:-1] + bytes([packet[-1] ^ 1]), packet[:-3])[kind])

    def lose_power(self) -> None:
        """Forget the marks, and whatever was being done."""
        self.firmware.power_cycle()
        self.mute = self.stuffed = False
        self._network.clear(self._inward)
        self._network.clear(self._outward)

    def pull(self) -> Callable[[], object] | None:
        """Pull it out; how its daemon notices, if it has the port open."""
        self.plugged = False
        self.lose_power()
        port, self.port = self.port, None
        if port is None or not port.is_open:
            return None
        lost = port

        def notice() -> None:
            if lost.is_open:
                lost.lose(Failure(ConnectionDone()))

        return notice

    def plug_in(self) -> None:
        """Plug it in again."""
        self.plugged = True
        self._node += 1
