"""Signatures a second with more and more boards: `python -m tests.campaigns.throughput`."""

import argparse
import sys

from twisted.internet.defer import Deferred, gatherResults

from tests.campaigns.rig import Rig, run
from tests.support.harness import Client, reactor
from tests.support.vectors import TZ3, noop
from tezio_signer.simulator.firmware import Firmware
from tezio_signer.simulator.service import Simulator

LATENCY = 0.150
"""Seconds that a simulated board takes for an operation."""
CLIENTS_PER_BOARD = 3
_LINEAR = 0.95


async def rate(boards: int, rounds: int) -> float:
    """Signatures a second with this many boards that hold the same keys."""
    hsms = [
        Simulator(reactor, Firmware(), LATENCY, serial_number=f"hsm-{n}") for n in range(boards)
    ]
    rig = Rig(hsms)
    client = await rig.start()
    payloads = iter(range(boards * rounds))
    done: list[float] = []

    async def sign(client: Client) -> None:
        for number in payloads:
            payload = noop(number)
            answer = await client.sign(TZ3, payload)
            assert answer.status == 200, answer.body
            done.append(reactor.seconds())

    began = reactor.seconds()
    asking = [Deferred.fromCoroutine(sign(client)) for _ in range(boards * CLIENTS_PER_BOARD)]
    await gatherResults(asking)
    await rig.stop()
    return len(done) / (max(done) - began)


def main() -> None:
    """Measure 1, 2, 4 and 8 boards; exit with 1 if the rate does not grow with them."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.campaigns.throughput", description=__doc__
    )
    parser.add_argument("--rounds", type=int, default=60, help="signatures for each board")
    options = parser.parse_args()

    async def measure() -> dict[int, float]:
        return {boards: await rate(boards, options.rounds) for boards in (1, 2, 4, 8)}

    rates = run(measure)
    shares = {boards: rate / (boards * rates[1]) for boards, rate in rates.items()}
    for boards, rate_ in rates.items():
        print(f"{boards} boards: {rate_:.2f} signatures/s, {shares[boards]:.1%} of linear")
    sys.exit(0 if min(shares.values()) >= _LINEAR else 1)


if __name__ == "__main__":
    main()
