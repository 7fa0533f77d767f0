"""The command `tezio-signer`: look at the configuration, the devices and the watermarks."""

import argparse
import json
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

from attrs import asdict
from twisted.internet.defer import Deferred

from tezio_signer import __version__, console, watermarkcli
from tezio_signer.commands import (
    CommandError,
    command,
    config_option,
    json_option,
    print_rows,
    run,
)
from tezio_signer.doorconfig import unprotected_by_token
from tezio_signer.endpoints import check_endpoints
from tezio_signer.errors import StartupError, Unavailable
from tezio_signer.hsm.boards import Board, find_boards
from tezio_signer.hsm.firmware import Firmware
from tezio_signer.hsm.simulator import Simulator
from tezio_signer.hsmdevice import HsmDevice
from tezio_signer.reactors import Reactor
from tezio_signer.serialhsm import open_port
from tezio_signer.settings import Settings
from tezio_signer.tap import load_settings
from tezio_signer.watermarks.store import StoreError

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

    check = command(commands, "check", _check, "read the configuration, say what it means")
    config_option(check)
    json_option(check)

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
    from tezio_signer.run import run as run_daemon
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


def _check(options: argparse.Namespace) -> None:
    settings = load_settings(options.config, simulate=False)
    rows = _meaning(settings)
    warnings = [
        *settings.warnings,
        *check_endpoints([*settings.http, *settings.octez_socket], settings.client_ca),
        *unprotected_by_token(settings.request_token, settings.octez_socket),
    ]
    if options.json:
        doors = {"http": list(settings.http), **_protections(settings)}
        print(json.dumps({"keys": rows, **doors, "warnings": warnings}, indent=2))
        return
    print_rows(rows, as_json=False)
    checked = settings.security.remote_ip_check
    networks = ", ".join(map(str, settings.allowed_ips)) or "nowhere"
    print(f"\nfrom: {networks if checked else 'everywhere'}")
    if settings.allowed_uids is not None:
        users = ", ".join(map(str, sorted(settings.allowed_uids)))
        print(f"users at Unix sockets: {users or 'nobody'}")
    print(f"authenticated by: {', '.join(map(str, settings.authorized or ())) or 'nobody'}")
    print(f"watermarks: {settings.store}")
    protections = _protections(settings)
    print(f"HTTP: {', '.join(settings.http)}")
    print(f"Octez socket: {', '.join(settings.octez_socket) or 'nowhere'}")
    print(f"request token: {protections['request_token'] or 'none'}")
    print(f"client certificates: {protections['client_ca'] or 'not asked for'}")
    limits = (f"{name} {value}" for name, value in protections["limits"].items())
    print(f"limits: {', '.join(limits)}")
    for warning in warnings:
        print(f"warning: {warning}")


def _meaning(settings: Settings) -> list[dict[str, Any]]:
    checked = settings.security.signing_policy_check
    return [
        {
            "key": str(key.key),
            "signs": sorted(map(str, key.allowed_ops)) if checked else ["everything"],
            "authenticated": settings.security.auth_check and key.auth_req,
            "chains": sorted(key.chains) if key.chains is not None else ["any"],
        }
        for key in settings.signing_keys.values()
    ]


def _protections(settings: Settings) -> dict[str, Any]:
    token, client_ca = settings.request_token, settings.client_ca
    limits = asdict(settings.limits)
    return {
        "request_token": token and token.header,
        "client_ca": client_ca and f"of {client_ca.path}, on HTTPS",
        "limits": {name: value for name, value in limits.items() if value is not None},
    }


def _keys(options: argparse.Namespace) -> None:
    settings = None if options.simulate else load_settings(options.config, simulate=False)
    run(lambda reactor: Deferred.fromCoroutine(_list_keys(reactor, settings, options.json)))


async def _list_keys(reactor: Reactor, settings: Settings | None, as_json: bool) -> None:
    simulator = Simulator(reactor, Firmware())
    if settings is None:
        simulator.startService()
        boards = simulator.boards()
    else:
        boards = find_boards(settings.hsms)
    rows, troubles = [], []
    for board in boards:
        try:
            rows += _rows(await _read_device(reactor, board))
        except Unavailable as error:
            troubles.append(f"{board}: {error}")
    if settings is None:
        simulator.stopService()
    print_rows(rows, as_json)
    for trouble in troubles:
        print(f"tezio-signer: {trouble}", file=sys.stderr)
    if not rows:
        raise CommandError("no Tezio HSM found" if not troubles else "no HSM could be read")


async def _read_device(reactor: Reactor, board: Board) -> HsmDevice:
    """A device that has said its keys and is closed again; raises Unavailable."""
    changed: Deferred[None] = Deferred()
    device = HsmDevice(reactor, board, partial(open_port, reactor), lambda: changed.callback(None))
    device.plugged_in(board)
    if device.connection is not None:
        await changed
    changed = Deferred()  # closing it is a change too
    device.close()
    if not device.keys:
        raise Unavailable(device.trouble)
    return device


def _rows(device: HsmDevice) -> list[dict[str, Any]]:
    return [
        {
            "device": str(device.board),
            "slot": int(slot),
            "key_hash": str(key.hash),
            "public_key": str(key),
        }
        for slot, key in device.keys.items()
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
