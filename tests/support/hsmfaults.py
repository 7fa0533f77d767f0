"""A simulated HSM that misbehaves, for the tests of everything that uses it."""

from collections.abc import Callable
from enum import Enum
from functools import partial
from random import Random
from typing import Any

from attrs import frozen
from twisted.internet.interfaces import IDelayedCall

from tezio_signer.hsm.framing import Status, reply
from tezio_signer.hsm.slots import CURVES
from tezio_signer.reactors import Reactor
from tezio_signer.simulator.firmware import Answer, Firmware
from tezio_signer.simulator.keys import SoftKey
from tezio_signer.simulator.service import SerialLine, Simulator


class Fault(Enum):
    """What goes wrong in one exchange."""

    LOST = "the command never reaches the device"
    SILENCE = "the command is carried out, its reply never comes"
    DELAY = "the reply comes after the host has given up"
    CUT = "the reply ends early"
    DROPPED = "bytes of the reply are lost"
    FLIPPED = "a bit of the reply is flipped"
    FORGED = "a bit of the reply is flipped, and its CRC is right"
    PREVIOUS = "the reply is that of the exchange before"
    DOUBLED = "the reply comes twice"
    GARBAGE = "bytes without meaning come ahead of the reply"
    CHATTER = "the chip's library prints 15 ahead of the reply"
    STATUS = "a status comes instead of the answer"
    UNPLUGGED_BEFORE = "unplugged before the command is carried out"
    UNPLUGGED_DURING = "unplugged in the middle of the reply"
    UNPLUGGED_AFTER = "unplugged right behind the reply"
    OTHER_KEY = "the signature is of another key"
    SLOW = "the reply comes byte by byte"
    STUCK = "nothing is read from the host any more"


Plan = Callable[[bytes], Fault | None]
"""What happens in the exchange that a packet (from its length bytes on) begins."""


@frozen
class Pace:
    """Seconds for what a fault does later.

    :ivar late: until a delayed reply; drawn between this and twice this.
    :ivar away: until an unplugged device is back, drawn up to this.
    :ivar gap: between the bytes of a slow reply.
    :ivar stuck: until a device that is stuck is unplugged by somebody.
    """

    late: float = 3.2
    away: float = 0.5
    gap: float = 0.001
    stuck: float = 5.0


def at_random(random: Random, share: float, faults: tuple[Fault, ...] = tuple(Fault)) -> Plan:
    """One of the faults in this share of all exchanges."""
    return lambda _: random.choice(faults) if random.random() < share else None


class FaultyHsm(Simulator):
    """A simulated HSM that follows a plan of faults.

    :ivar counts: how often each fault has happened.
    """

    def __init__(
        self,
        reactor: Reactor,
        firmware: Firmware,
        plan: Plan,
        random: Random,
        latency: float | None = 0,
        pace: Pace = Pace(),
        serial_number: str = "faulty",
    ) -> None:
        super().__init__(reactor, firmware, latency, serial_number=serial_number)
        self.plan = plan
        self._due: set[IDelayedCall] = set()
        self.counts: dict[Fault, int] = dict.fromkeys(Fault, 0)
        self.random = random
        self.reactor = reactor
        self.pace = pace

    def _make_line(self, write: Callable[[bytes], None]) -> SerialLine:
        return _FaultyLine(self, write, self._latency)

    def leave(self) -> None:
        """Be unplugged for a while; it loses its power, or only the connection."""
        self.unplug()
        if self.random.random() < 0.5:
            self.firmware.power_cycle()
        self.later(self.random.uniform(0, self.pace.away), self._return)

    def _return(self) -> None:
        if self.port is None:
            self.plug_in()

    def get_stuck(self) -> None:
        """Read nothing more, until somebody pulls the plug."""
        self._pty.stopReading()
        self.later(self.pace.stuck, self.leave)

    def later(self, seconds: float, call: Callable[[], object]) -> None:
        """Do something later, if the service still runs then."""

        def due() -> None:
            self._due.remove(delayed)
            call()

        delayed = self._reactor.callLater(seconds, due)
        self._due.add(delayed)

    def stopService(self) -> None:
        super().stopService()
        for delayed in self._due:
            delayed.cancel()
        self._due.clear()


class _FaultyLine(SerialLine):
    """The reading loop of a device in which things go wrong."""

    def __init__(self, hsm: FaultyHsm, write: Callable[[bytes], None], *args: Any) -> None:
        super().__init__(hsm.firmware, hsm.reactor, write, *args)
        self._hsm = hsm
        self._fault: Fault | None = None
        self._previous = b""

    def stop(self) -> None:
        super().stop()
        self._write = self._discard

    def _discard(self, data: bytes) -> None:
        """What is still to come goes nowhere."""

    def _perform(self, packet: bytes) -> Answer | None:
        self._fault = self._hsm.plan(packet)
        if self._fault is not None:
            self._hsm.counts[self._fault] += 1
        match self._fault:
            case Fault.LOST:
                pass
            case Fault.UNPLUGGED_BEFORE:
                self._hsm.later(0, self._hsm.leave)
            case Fault.STUCK:
                self._hsm.later(0, self._hsm.get_stuck)
            case Fault.OTHER_KEY:
                return self._answer_of_another(packet)
            case _:
                return super()._perform(packet)
        return None

    def _answer_of_another(self, packet: bytes) -> Answer | None:
        own = self._firmware.keys
        self._firmware.keys = {
            slot: SoftKey(CURVES[slot], self._hsm.random.randbytes(32)) for slot in own
        }
        answer = super()._perform(packet)
        self._firmware.keys = own
        return answer

    def _deliver(self, packet: bytes) -> None:
        random, pace, later = self._hsm.random, self._hsm.pace, self._hsm.later
        previous, self._previous = self._previous, packet
        somewhere = random.randrange(len(packet))
        match self._fault:
            case Fault.SILENCE:
                pass
            case Fault.DELAY:
                later(random.uniform(pace.late, 2 * pace.late), lambda: self._write(packet))
            case Fault.CUT:
                self._write(packet[:somewhere])
            case Fault.DROPPED:
                self._write(packet[:somewhere] + packet[somewhere + random.randint(1, 3) :])
            case Fault.FLIPPED:
                self._write(_flipped(packet, random))
            case Fault.FORGED:
                self._write(reply(_flipped(packet[2:-2], random)))
            case Fault.PREVIOUS:
                self._write(previous)
            case Fault.DOUBLED:
                self._write(packet)
                later(random.choice((0, 10 * pace.gap)), lambda: self._write(packet))
            case Fault.GARBAGE:
                self._write(random.randbytes(random.randint(1, 20)) + packet)
            case Fault.CHATTER:
                self._write(b"15\r\n" + packet)
            case Fault.STATUS:
                self._write(reply(bytes([random.choice(list(Status))])))
            case Fault.UNPLUGGED_DURING:
                self._write(packet[:somewhere])
                later(pace.gap, self._hsm.leave)
            case Fault.UNPLUGGED_AFTER:
                self._write(packet)
                later(pace.gap, self._hsm.leave)
            case Fault.SLOW:
                for at in range(len(packet)):
                    later(at * pace.gap, partial(self._write_byte, packet, at))
            case _:
                self._write(packet)

    def _write_byte(self, packet: bytes, at: int) -> None:
        self._write(packet[at : at + 1])


def _flipped(data: bytes, random: Random) -> bytes:
    at = random.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << random.randrange(8)]) + data[at + 1 :]
