"""The command `tezio-signer`: look at the configuration, the devices and the watermarks."""

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred

from tezio_signer import __version__
from tezio_signer.cli import check as checkcli
from tezio_signer.cli import console
from tezio_signer.cli import watermarks as watermarkcli
from tezio_signer.cli.boards import BoardCheck, check_boards
from tezio_signer.cli.common import (
    CommandError,
    command,
    config_option,
    json_option,
    print_rows,
    run,
)
from tezio_signer.config.locate import load_settings
from tezio_signer.config.settings import Settings
from tezio_signer.errors import StartupError
from tezio_signer.hsm.boards import find_boards
from tezio_signer.reactors import Reactor
from tezio_signer.serialhsm import SerialPorts
from tezio_signer.simulator.firmware import Firmware
from tezio_signer.simulator.service import Simulator
from tezio_signer.watermarks.store import StoreError

INTERRUPTED = 130
"""The exit code of what Ctrl-C has ended, as shells have it."""
_MILLISECONDS = 1000


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and exit: 0 done, 1 the answer is no or the input is bad, 2 usage."""
    console.prepare()
    try:
        try:
            options = _parser().parse_args(arguments)
            options.command(options)
        finally:
            console.finish()
    except (CommandError, StartupError, StoreError) as error:
        sys.exit(f"tezio-signer: {error}")
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        sys.exit(1)
    except OSError as error:
        if error.filename is not None:
            raise
        sys.exit(f"tezio-signer: the output cannot be written: {error.strerror}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tezio-signer", description="Octez remote signer for the Tezio HSM."
    )
    parser.add_argument("--version", action="version", version=f"Tezio Signer {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    running = command(commands, "run", _run, "run the signer in the foreground")
    config_option(running)
    running.add_argument("--version", action="version", version=f"Tezio Signer {__version__}")
    running.add_argument(
        "--simulate",
        action="store_true",
        help="sign with a simulated HSM, its public test keys and no lasting watermarks",
    )
    running.add_argument(
        "--http",
        action="append",
        default=[],
        metavar="ENDPOINT",
        help="where the Octez HTTP API listens, as tcp:6732:interface=127.0.0.1; repeatable",
    )
    running.add_argument(
        "--octez-socket",
        action="append",
        default=[],
        metavar="ENDPOINT",
        help="where the Octez socket protocol listens, as unix:/run/signer.sock; repeatable",
    )

    checkcli.add_command(commands)

    keys = command(commands, "keys", _keys, "list the keys of every connected HSM")
    config_option(keys)
    keys.add_argument("--simulate", action="store_true", help="of a simulated HSM instead")
    json_option(keys)

    watermarkcli.add_commands(commands)

    simulate = command(commands, "simulate", _simulate, "run a simulated HSM on a pseudo-terminal")
    simulate.add_argument("--link", metavar="PATH", help="symbolic link to the pseudo-terminal")
    simulate.add_argument(
        "--latency",
        metavar="MS",
        type=_milliseconds,
        help="milliseconds for every operation [default: those of the device]",
    )
    return parser


def _milliseconds(text: str) -> float:
    value = float(text)
    if not 0 <= value < 1e6:
        raise argparse.ArgumentTypeError("from 0 to 999999 are possible")
    return value


def _run(options: argparse.Namespace) -> None:
    # Only here: what it needs is much, and nothing that other commands need.
    from tezio_signer.cli.run import run as run_daemon
    from tezio_signer.tap import Options

    chosen = Options()
    chosen.update(
        {
            "config": options.config,
            "simulate": options.simulate,
            "http": options.http,
            "octez-socket": options.octez_socket,
        }
    )
    run_daemon(chosen)


def _keys(options: argparse.Namespace) -> None:
    settings = None if options.simulate else load_settings(options.config, simulate=False)
    run(lambda reactor: Deferred.fromCoroutine(_list_keys(reactor, settings, options.json)))


async def _list_keys(reactor: Reactor, settings: Settings | None, as_json: bool) -> None:
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


def _simulate(options: argparse.Namespace) -> None:
    latency = None if options.latency is None else options.latency / _MILLISECONDS

    def started(reactor: Reactor) -> Deferred[None]:
        simulator = Simulator(reactor, Firmware(), latency, options.link)
        simulator.startService()
        print(f"simulated HSM at {options.link or simulator.port}; public test keys", flush=True)
        reactor.addSystemEventTrigger("before", "shutdown", simulator.stopService)
        return Deferred()

    run(started)
