"""`tezio-signer keys`: the keys of every board that is plugged in."""

import argparse
import sys
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred

from tezio_signer.cli.boards import BoardCheck, check_boards
from tezio_signer.cli.common import CommandError, config_option, json_option, print_rows
from tezio_signer.cli.reacting import run_reactor
from tezio_signer.config.locate import load_settings
from tezio_signer.config.settings import Settings
from tezio_signer.hsm.boards import find_boards
from tezio_signer.reactors import Reactor
from tezio_signer.serialhsm import SerialPorts
from tezio_signer.simulator.firmware import Firmware
from tezio_signer.simulator.service import Simulator


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Let it take a configuration, or simulate."""
    config_option(parser)
    parser.add_argument("--simulate", action="store_true", help="of a simulated HSM instead")
    json_option(parser)


def run(options: argparse.Namespace) -> None:
    """List the keys; raises CommandError if there are none."""
    settings = None if options.simulate else load_settings(options.config)
    run_reactor(lambda reactor: Deferred.fromCoroutine(list_keys(reactor, settings, options.json)))


async def list_keys(reactor: Reactor, settings: Settings | None, as_json: bool) -> None:
    """Print the keys, and what is amiss with the boards.

    :param settings: those whose boards are meant; None for a simulated one.
    """
    if settings is None:
        simulator = Simulator(reactor, Firmware())
        simulator.startService()
        found = await check_boards(reactor, SerialPorts(reactor, reactor, simulator.boards), ())
        simulator.stopService()
    else:
        ports = SerialPorts(reactor, reactor, partial(find_boards, settings.hsms))
        found = await check_boards(
            reactor, ports, settings.hsms, settings.signing_keys, settings.auth_key
        )
    rows = _rows(found)
    print_rows(rows, as_json)
    problems = [*found.problems]
    if rows:
        problems += [f"{key.key}: {key.sentence}" for key in found.keys if not key.held_by]
    for problem in problems:
        print(f"tezio-signer: {problem}", file=sys.stderr)
    if not rows:
        raise CommandError("no HSM could be read" if found.boards else "no Tezio HSM found")


def _rows(found: BoardCheck) -> list[dict[str, Any]]:
    return [
        {
            "device": str(board.board),
            "slot": int(slot),
            "key_hash": str(key.hash),
            "public_key": str(key),
        }
        for board in found.boards
        for slot, key in board.keys
    ]
