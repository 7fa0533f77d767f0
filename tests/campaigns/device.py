"""Every fault of a device, at random, under load: `python -m tests.campaigns.device`.

Simulated HSMs on real pseudo-terminals go wrong in a share of all exchanges, while clients
ask over HTTP. Every answer is checked: a signature has to verify, by code that is not the
signer's, for its own key and payload, and a refusal has to be one that the faults explain.
"""

import argparse
import json
import sys
from collections import Counter
from functools import partial
from random import Random
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred, gatherResults

from tests.campaigns.rig import Rig, resident_memory, run
from tests.support.harness import Client, reactor
from tests.support.hsmfaults import Fault, FaultyHsm, Pace, at_random
from tests.support.octezclient import verifies
from tests.support.vectors import TZ1, TZ2, TZ3, block, consensus, noop
from tezio_signer.hsm.exchange import Timing
from tezio_signer.inflight import DEADLINE
from tezio_signer.simulator.firmware import Firmware
from tezio_signer.tezos.keys import PublicKeyHash

DEVICES = 4
CLIENTS = 8
SHARE = 0.2
FIRST = 5_000
"""Exchanges after which the memory is measured for the first time."""
TIMING = Timing(answer=0.15, quiet=0.02, noise=0.2, first_rest=0.05, last_rest=0.5)
"""Shorter than in earnest, by which a run is shorter too; the device takes no time here."""
PACE = Pace(late=0.16, away=0.2, gap=0.0002, stuck=0.4)
SLACK = 1.0
"""Seconds that an answer may take beyond its deadline on a machine that has much to do."""
_EXPLAINED = {
    403: ("the HSM answered B",),
    409: ("the HSM answered D4", "high watermark"),
    502: ("HSM", "withdrawn"),
}


@define
class Report:
    """What a run has found."""

    exchanges: int = 0
    signatures: int = 0
    statuses: Counter[int] = field(factory=Counter)
    faults: Counter[str] = field(factory=Counter)
    unverified: list[str] = field(factory=list)
    unexplained: list[str] = field(factory=list)
    slowest: float = 0.0
    memory_first: int = 0
    memory_last: int = 0
    healthy: bool = False

    @property
    def passed(self) -> bool:
        """Whether nothing happened that must not."""
        grown = self.memory_last > 1.1 * self.memory_first if self.memory_first else False
        late = self.slowest > DEADLINE + SLACK
        return self.healthy and not (self.unverified or self.unexplained or grown or late)


class Campaign:
    """Devices, signer and clients of one run."""

    def __init__(self, exchanges: int, seed: int) -> None:
        self._wanted = exchanges
        self._random = Random(seed)
        plan = at_random(self._random, SHARE)
        self._hsms = [
            FaultyHsm(
                reactor, Firmware(), partial(self._count, plan), self._random, 0, PACE, f"hsm-{n}"
            )
            for n in range(DEVICES)
        ]
        self._rig = Rig(self._hsms, TIMING, patience=1.0)
        self._level = 0
        self._public_keys: dict[PublicKeyHash, str] = {}
        self.report = Report()

    def _count(self, plan: Any, packet: bytes) -> Fault | None:
        self.report.exchanges += 1
        if self.report.exchanges == FIRST:
            self.report.memory_first = resident_memory()
        fault: Fault | None = plan(packet) if self._public_keys else None
        return fault

    async def run(self) -> Report:
        """Run until there were enough exchanges; then see whether all is well again."""
        client = await self._rig.start()
        self._public_keys.update(self._rig.public_keys)
        await gatherResults([Deferred.fromCoroutine(self._ask(client)) for _ in range(CLIENTS)])
        self.report.memory_last = resident_memory()
        self.report.healthy = await self._recovers(client)
        for hsm in self._hsms:
            self.report.faults.update({fault.name: n for fault, n in hsm.counts.items()})
        await self._rig.stop()
        return self.report

    async def _ask(self, client: Client) -> None:
        while self.report.exchanges < self._wanted:
            await self._sign(client, *self._something())

    def _something(self) -> tuple[PublicKeyHash, bytes]:
        """A key and a payload: an operation, or a baking operation above all before."""
        choice = self._random.random()
        if choice < 0.6:
            return self._random.choice((TZ1, TZ2, TZ3)), noop(self._random.getrandbits(64))
        self._level += 1
        if choice < 0.7:
            return TZ3, block(self._level, 0)
        return TZ3, consensus(self._random.choice(("preatt", "att", "att_dal_5")), self._level, 0)

    async def _sign(self, client: Client, key: PublicKeyHash, payload: bytes) -> bool:
        began = reactor.seconds()
        answer = await client.sign(key, payload)
        report = self.report
        report.slowest = max(report.slowest, reactor.seconds() - began)
        report.statuses[answer.status] += 1
        if answer.status == 200:
            report.signatures += 1
            signature = json.loads(answer.body)["signature"]
            if not verifies(self._public_keys[key], payload, signature):
                report.unverified.append(f"{key} {payload.hex()} {signature}")
            return True
        message = json.loads(answer.body)[0]["msg"]
        if not any(part in message for part in _EXPLAINED.get(answer.status, ())):
            report.unexplained.append(f"{answer.status} {message}")
        return False

    async def _recovers(self, client: Client) -> bool:
        """Without faults, every key signs again, on every device, before long."""
        for hsm in self._hsms:
            hsm.plan = lambda _: None
        recovered = await self._rig.all_ready()
        signed = [
            await self._sign(client, key, noop(n))
            for n in range(DEVICES)
            for key in (TZ1, TZ2, TZ3)
        ]
        return recovered and all(signed)


def main() -> None:
    """Run a campaign, print what it found, and exit with 1 if that must not be."""
    parser = argparse.ArgumentParser(prog="python -m tests.campaigns.device", description=__doc__)
    parser.add_argument("--exchanges", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    report = run(Campaign(options.exchanges, options.seed).run)
    print(f"{report.exchanges} exchanges, {report.signatures} signatures, seed {options.seed}")
    print(f"answers: {dict(sorted(report.statuses.items()))}")
    print(f"faults: {dict(sorted(report.faults.items()))}")
    print(f"unverified: {len(report.unverified)}, unexplained: {len(report.unexplained)}")
    print(f"slowest answer: {report.slowest:.2f} s")
    print(f"memory: {report.memory_first / 1e6:.1f} MB, then {report.memory_last / 1e6:.1f} MB")
    print(f"healthy at the end: {report.healthy}")
    for finding in (report.unverified + report.unexplained)[:10]:
        print(f"  {finding}")
    sys.exit(0 if report.passed else 1)


if __name__ == "__main__":
    main()
