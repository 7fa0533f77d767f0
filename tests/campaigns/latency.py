"""Milliseconds for a signature over HTTP and over a socket: `python -m tests.campaigns.latency`."""

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from itertools import count
from statistics import median
from tempfile import TemporaryDirectory
from typing import Protocol

from attrs import define, field

from tests.campaigns.rig import Rig, percentile, run
from tests.support.harness import reactor, submission
from tests.support.octezclient import OctezClient, verifies
from tests.support.octezsocketclient import OctezSocketClient
from tests.support.vectors import TZ3, consensus, noop
from tezio_signer.hsm import framing
from tezio_signer.hsm.framing import Slot
from tezio_signer.signer import Signer
from tezio_signer.simulator.firmware import Answer, Firmware
from tezio_signer.simulator.service import Simulator

NO_LISTENER = "no listener"
GOAL = 0.5
"""What a signature over a TCP socket may take at most, as a share of one over HTTP."""
_WARM_UP = 20
"""Signatures of each kind that are not counted."""


class Listener(Protocol):
    """Where signatures are asked for, and when the last one was there, in the reactor's seconds.

    What a client does with a signature that it has, such as to hang up, does not count.
    """

    answered: float

    async def sign(self, pkh: str, payload: bytes) -> str:
        """The signature of a payload."""


class ReadyFirmware(Firmware):
    """Signs what it is told beforehand, so that its answers take no time when they are asked for.

    The simulated HSM is a part of this process, and what it computes would count.
    """

    def __init__(self) -> None:
        super().__init__()
        self._ready: dict[bytes, Answer | None] = {}

    def prepare(self, payload: bytes) -> None:
        """Sign this; the answer is kept for the first who asks for it."""
        packet = framing.sign(Slot.TZ3, payload).frame()[1:]
        self._ready[packet] = super().execute(packet)

    def execute(self, packet: bytes) -> Answer | None:
        return self._ready.pop(packet) if packet in self._ready else super().execute(packet)


@define
class Course:
    """One way to one kind of signature, and how long it took each time."""

    name: str
    kind: str
    listener: Listener
    payloads: Iterator[bytes]
    prepare: Callable[[bytes], None]
    seconds: list[float] = field(factory=list)

    async def go(self, public_key: str) -> None:
        """Ask for one signature."""
        payload = next(self.payloads)
        self.prepare(payload)
        began = reactor.seconds()
        signature = await self.listener.sign(str(TZ3), payload)
        self.seconds.append(self.listener.answered - began)
        assert verifies(public_key, payload, signature), payload.hex()


@define
class NoListener:
    """Asks behind the listeners: what this takes, no listener can save."""

    signer: Signer
    answered: float = 0.0

    async def sign(self, pkh: str, payload: bytes) -> str:
        signature = await self.signer.submit(submission(payload))
        self.answered = reactor.seconds()
        return str(signature)


async def measure(signatures: int) -> list[Course]:
    """Ask at each listener in turn, so that whatever else the machine does slows all alike."""
    firmware = ReadyFirmware()
    rig = Rig([Simulator(reactor, firmware, latency=0)])
    http = await rig.start()
    with TemporaryDirectory() as directory:
        listeners: dict[str, Listener] = {
            "HTTP": OctezClient(http.port),
            "TCP socket": OctezSocketClient(rig.open()),
            "Unix socket": OctezSocketClient(rig.open(os.path.join(directory, "socket"))),
            NO_LISTENER: NoListener(rig.signer),
        }
        generic = map(noop, count())
        attestations = (consensus("att", level, 0) for level in count(1))
        courses = [
            Course(name, kind, listener, payloads, firmware.prepare)
            for kind, payloads in (("generic", generic), ("attestation", attestations))
            for name, listener in listeners.items()
        ]
        for _ in range(_WARM_UP + signatures):
            for course in courses:
                await course.go(rig.public_keys[TZ3])
        await rig.stop()
    for course in courses:
        del course.seconds[:_WARM_UP]
    return courses


def main() -> None:
    """Measure; exit with 1 if TCP sockets miss their goal."""
    parser = argparse.ArgumentParser(prog="python -m tests.campaigns.latency", description=__doc__)
    parser.add_argument("--signatures", type=int, default=500, help="of each kind at each listener")
    options = parser.parse_args()
    courses = run(lambda: measure(options.signatures))
    medians = {(course.kind, course.name): median(course.seconds) for course in courses}
    for course in courses:
        middle, http, behind = (
            medians[course.kind, listener] for listener in (course.name, "HTTP", NO_LISTENER)
        )
        print(
            f"{course.kind} over {course.name}: median {middle * 1000:.2f} ms, "
            f"99 % within {percentile(course.seconds, 0.99) * 1000:.2f} ms, "
            f"{middle / http:.0%} of HTTP; of it the listener {(middle - behind) * 1000:.2f} ms, "
            f"{(middle - behind) / (http - behind):.0%} of HTTP's"
        )
    shares = {kind: medians[kind, "TCP socket"] / medians[kind, "HTTP"] for kind, _ in medians}
    missed = [kind for kind, share in shares.items() if share > GOAL]
    for kind in missed:
        print(f"{kind} over a TCP socket: {shares[kind]:.1%} of HTTP, more than {GOAL:.0%}")
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
