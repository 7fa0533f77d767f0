"""The command `tezio-signer`: look at the configuration, the devices and the watermarks."""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import react

from tezio_signer import __version__
from tezio_signer.errors import StartupError, Unavailable
from tezio_signer.hsm.boards import Board, find_boards
from tezio_signer.hsm.firmware import Firmware
from tezio_signer.hsm.simulator import Simulator
from tezio_signer.hsmdevice import HsmDevice
from tezio_signer.reactors import Reactor
from tezio_signer.serialhsm import open_port
from tezio_signer.settings import Settings
from tezio_signer.tap import load_settings
from tezio_signer.watermarks import sqlite
from tezio_signer.watermarks.sqlite import StoreError

_MILLISECONDS = 1000


class CommandError(Exception):
    """The answer is no, or the input is bad; `str()` is one line."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and exit: 0 done, 1 the answer is no or the input is bad, 2 usage."""
    options = _parser().parse_args(arguments)
    try:
        options.command(options)
    except (CommandError, StartupError, StoreError) as error:
        sys.exit(f"tezio-signer: {error}")
    except BrokenPipeError:
        sys.exit(1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tezio-signer", description="Octez remote signer for the Tezio HSM."
    )
    parser.add_argument("--version", action="version", version=f"Tezio Signer {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    check = _command(commands, "check", _check, "read the configuration, say what it means")
    _config_option(check)
    _json_option(check)

    keys = _command(commands, "keys", _keys, "list the keys of every connected HSM")
    _config_option(keys)
    keys.add_argument("--simulate", action="store_true", help="of a simulated HSM instead")
    _json_option(keys)

    watermarks = commands.add_parser("watermarks", help="the watermark store")
    actions = watermarks.add_subparsers(required=True, metavar="ACTION")
    init = _command(actions, "init", _watermarks_init, "create the store; refused if it exists")
    _config_option(init)
    listing = _command(actions, "list", _watermarks_list, "list all marks")
    _config_option(listing)
    _json_option(listing)

    simulate = _command(commands, "simulate", _simulate, "run a simulated HSM on a pseudo-terminal")
    simulate.add_argument("--link", metavar="PATH", help="symbolic link to the pseudo-terminal")
    simulate.add_argument(
        "--latency",
        metavar="MS",
        type=_milliseconds,
        help="milliseconds for every operation [default: those of the device]",
    )
    return parser


def _command(
    commands: Any, name: str, command: Callable[[argparse.Namespace], None], description: str
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=description, description=description)
    parser.set_defaults(command=command)
    return cast(argparse.ArgumentParser, parser)


def _config_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config",
        "-c",
        metavar="PATH",
        help="configuration file [default: $TEZIO_SIGNER_CONFIG or config.yaml]",
    )


def _json_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="as JSON")


def _milliseconds(text: str) -> float:
    value = float(text)
    if not 0 <= value < 1e6:
        raise argparse.ArgumentTypeError("from 0 to 999999 are possible")
    return value


def _print(rows: list[dict[str, Any]], as_json: bool) -> None:
    """Rows of equal keys as a table, or as a JSON list."""
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    if not rows:
        return
    names = list(rows[0])
    table = [names, *([_text(row[name]) for name in names] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for line in table:
        print(
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        )


def _text(value: object) -> str:
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case list():
            return ",".join(value) or "nothing"
        case _:
            return str(value)


def _check(options: argparse.Namespace) -> None:
    settings = load_settings(options.config, simulate=False)
    rows = _meaning(settings)
    if options.json:
        print(json.dumps({"keys": rows, "warnings": list(settings.warnings)}, indent=2))
        return
    _print(rows, as_json=False)
    checked = settings.security.remote_ip_check
    networks = ", ".join(map(str, settings.allowed_ips)) or "nowhere"
    print(f"\nfrom: {networks if checked else 'everywhere'}")
    print(f"authenticated by: {', '.join(map(str, settings.authorized or ())) or 'nobody'}")
    print(f"watermarks: {settings.store}")
    print(f"HTTP: {', '.join(settings.http)}")
    for warning in settings.warnings:
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


def _run(main: Callable[[Reactor], Deferred[None]]) -> None:
    """Run the reactor for one command."""
    failed: list[str] = []

    def started(reactor: Any) -> Deferred[None]:
        def failure(failure: Any) -> None:
            failure.trap(CommandError, OSError)
            failed.append(failure.getErrorMessage())

        return maybeDeferred(main, reactor).addErrback(failure)

    try:
        react(started)
    except SystemExit as done:
        if failed:
            raise CommandError(failed[0]) from None
        if done.code:
            raise


def _keys(options: argparse.Namespace) -> None:
    settings = None if options.simulate else load_settings(options.config, simulate=False)
    _run(lambda reactor: Deferred.fromCoroutine(_list_keys(reactor, settings, options.json)))


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
    _print(rows, as_json)
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


def _watermarks_init(options: argparse.Namespace) -> None:
    path = _store(options)
    sqlite.create(path)
    print(f"created {path}")


def _watermarks_list(options: argparse.Namespace) -> None:
    marks = sqlite.read(_store(options))
    rows = [
        {
            "chain": mark_id.chain_id,
            "key": str(mark_id.key),
            "operation": str(mark_id.operation),
            "level": mark.level,
            "round": mark.round,
            "payload_hash": mark.payload_hash.hex(),
            "signature": mark.signature and str(mark.signature),
        }
        for mark_id, mark in sorted(marks.items(), key=str)
    ]
    if rows or options.json:
        _print(rows, options.json)
    else:
        print("no marks yet")


def _store(options: argparse.Namespace) -> Path:
    path = load_settings(options.config, simulate=False).store
    assert path is not None
    return path


def _simulate(options: argparse.Namespace) -> None:
    latency = None if options.latency is None else options.latency / _MILLISECONDS

    def started(reactor: Reactor) -> Deferred[None]:
        simulator = Simulator(reactor, Firmware(), latency, options.link)
        simulator.startService()
        print(f"simulated HSM at {options.link or simulator.port}; public test keys", flush=True)
        reactor.addSystemEventTrigger("before", "shutdown", simulator.stopService)
        return Deferred()

    _run(started)
