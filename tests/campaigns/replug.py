"""Boards pulled out and plugged in again: `python -m tests.campaigns.replug`.

First one board, with a request waiting while it is away; then two with the same keys, one of
which is pulled out in the middle of an exchange, again and again.
"""

import argparse
import json
import sys
from collections.abc import Iterable
from functools import partial
from random import Random

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from tests.campaigns.rig import Rig, percentile, run
from tests.support.harness import Answer, reactor
from tests.support.octezclient import verifies
from tests.support.vectors import TZ3, block
from tezio_signer.simulator.firmware import Firmware
from tezio_signer.simulator.service import Simulator

AWAY = 0.5
"""Seconds, at most, for which a board is away."""


@define
class Report:
    """What a run has found: seconds from the plug to the answer, and answers that were wrong."""

    answered: int = 0
    seconds: list[float] = field(factory=list)
    wrong: list[str] = field(factory=list)

    def check(self, rig: Rig, payload: bytes, answer: Answer) -> None:
        """Count an answer that has to be a signature."""
        body = json.loads(answer.body)
        if answer.status == 200 and verifies(rig.public_keys[TZ3], payload, body["signature"]):
            self.answered += 1
        else:
            self.wrong.append(f"{answer.status} {body}")


async def replug(times: int, seed: int) -> Report:
    """One board of a real board's speed; a request waits whenever it is away."""
    random, report = Random(seed), Report()
    hsm = Simulator(reactor, Firmware(), None)
    rig = Rig([hsm])
    client = await rig.start()
    for level in range(1, times + 1):
        hsm.unplug()
        hsm.firmware.power_cycle()
        payload = block(level, 0)
        waiting = Deferred.fromCoroutine(client.sign(TZ3, payload))
        await deferLater(reactor, random.uniform(0, AWAY))
        hsm.plug_in()
        began = reactor.seconds()
        report.check(rig, payload, await waiting)
        report.seconds.append(reactor.seconds() - began)
    await rig.stop()
    return report


async def pull(times: int, seed: int) -> Report:
    """Two boards with the same keys; the one that signs is pulled out while it does."""
    random, report = Random(seed), Report()
    hsms = [Simulator(reactor, Firmware(), None, serial_number=f"hsm-{n}") for n in range(2)]
    rig = Rig(hsms)
    client = await rig.start()
    for level in range(1, times + 1):
        payload = block(level, 0)
        asked = _first_asked(hsms)
        waiting = Deferred.fromCoroutine(client.sign(TZ3, payload))
        signing = await asked
        await deferLater(reactor, random.uniform(0, 0.15))
        signing.unplug()
        report.check(rig, payload, await waiting)
        signing.plug_in()
        await rig.all_ready()
    await rig.stop()
    return report


def _first_asked(hsms: Iterable[Simulator]) -> Deferred[Simulator]:
    """The next of these HSMs to which a command is written."""
    asked: Deferred[Simulator] = Deferred()

    def observe(hsm: Simulator, _: bytes) -> None:
        for other in hsms:
            other.observer = bytes
        asked.callback(hsm)

    for hsm in hsms:
        hsm.observer = partial(observe, hsm)
    return asked


def main() -> None:
    """Run both, print what they found, and exit with 1 if a signature was lost."""
    parser = argparse.ArgumentParser(prog="python -m tests.campaigns.replug", description=__doc__)
    parser.add_argument("--replugs", type=int, default=200)
    parser.add_argument("--pulls", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()

    async def both() -> tuple[Report, Report]:
        return await replug(options.replugs, options.seed), await pull(options.pulls, options.seed)

    replugs, pulls = run(both)
    times = [percentile(replugs.seconds, share) for share in (0.5, 0.99)]
    print(f"re-plugged {options.replugs} times: {replugs.answered} verified answers")
    print(f"from the plug to the answer: median {times[0]:.3f} s, 99 % within {times[1]:.3f} s")
    print(f"pulled {options.pulls} times in an exchange: {pulls.answered} verified answers")
    for wrong in (replugs.wrong + pulls.wrong)[:10]:
        print(f"  {wrong}")
    sys.exit(1 if replugs.wrong or pulls.wrong or times[1] > 1 else 0)


if __name__ == "__main__":
    main()
