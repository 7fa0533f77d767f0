"""`tezio-signer simulate`: a simulated HSM on a pseudo-terminal, until Ctrl-C."""

import argparse

from twisted.internet.defer import Deferred

from tezio_signer.cli.reacting import run_reactor
from tezio_signer.reactors import Reactor
from tezio_signer.simulator.firmware import Firmware
from tezio_signer.simulator.service import Simulator

_MILLISECONDS = 1000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Let it take where the HSM is found, and how slow it is."""
    parser.add_argument("--link", metavar="PATH", help="symbolic link to the pseudo-terminal")
    parser.add_argument(
        "--latency",
        metavar="MS",
        type=_milliseconds,
        help="milliseconds for every operation [default: those of the device]",
    )


def _milliseconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number") from None
    if not 0 <= value < 1e6:
        raise argparse.ArgumentTypeError("a number from 0 to 999999")
    return value


def run(options: argparse.Namespace) -> None:
    """Run it until the reactor is stopped."""
    latency = None if options.latency is None else options.latency / _MILLISECONDS

    def started(reactor: Reactor) -> Deferred[None]:
        simulator = Simulator(reactor, Firmware(), latency, options.link)
        simulator.startService()
        print(f"simulated HSM at {options.link or simulator.port}; public test keys", flush=True)
        reactor.addSystemEventTrigger("before", "shutdown", simulator.stopService)
        return Deferred()

    run_reactor(started)
