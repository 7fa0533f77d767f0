"""`tezio-signer run`: the daemon in the foreground."""

import argparse
from functools import partial
from importlib import import_module

from tezio_signer import __version__
from tezio_signer.cli.common import config_option
from tezio_signer.launch import foreground

TAP = "tezio_signer.tap"
"""By its name, as twistd's plugin has it: no command needs the tap but this one."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Let it take what `twistd tezio-signer` takes."""
    config_option(parser)
    parser.add_argument("--version", action="version", version=f"Tezio Signer {__version__}")
    parser.add_argument(
        "--simulate",
        action="store_true",
        help="sign with a simulated HSM, its public test keys and no lasting watermarks",
    )
    parser.add_argument(
        "--http",
        action="append",
        default=[],
        metavar="ENDPOINT",
        help="where the Octez HTTP API listens, as tcp:6732:interface=127.0.0.1; repeatable",
    )
    parser.add_argument(
        "--octez-socket",
        action="append",
        default=[],
        metavar="ENDPOINT",
        help="where the Octez socket protocol listens, as unix:/run/signer.sock; repeatable",
    )


def run(options: argparse.Namespace) -> None:
    """Run the daemon until it is told to stop, and end this process."""
    tap = import_module(TAP)
    chosen = tap.Options()
    chosen["config"], chosen["simulate"] = options.config, options.simulate
    chosen["http"], chosen["octez-socket"] = options.http, options.octez_socket
    foreground.run(partial(tap.makeService, chosen))
