"""What the commands of `tezio-signer` have in common: options, tables and errors."""

import argparse
import json
from collections.abc import Callable
from typing import Any, cast

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import react
from twisted.python.failure import Failure

from tezio_signer.config.locate import SEARCHED
from tezio_signer.reactors import Reactor, leave_threads_behind
from tezio_signer.watermarks.store import StoreError


class CommandError(Exception):
    """The answer is no, or the input is bad; `str()` is one line."""


def command(
    commands: Any, name: str, run: Callable[[argparse.Namespace], None], description: str
) -> argparse.ArgumentParser:
    """The parser of a command that `run` carries out."""
    parser = commands.add_parser(name, help=description, description=description)
    parser.set_defaults(command=run)
    return cast(argparse.ArgumentParser, parser)


def config_option(parser: argparse.ArgumentParser) -> None:
    """Let a command take `--config`."""
    parser.add_argument(
        "--config",
        "-c",
        metavar="PATH",
        help=f"configuration file [default: {SEARCHED}]",
    )


def json_option(parser: argparse.ArgumentParser) -> None:
    """Let a command take `--json`."""
    parser.add_argument("--json", action="store_true", help="as JSON")


def print_rows(rows: list[dict[str, Any]], as_json: bool) -> None:
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


def run(main: Callable[[Reactor], Deferred[None]]) -> None:
    """Run the reactor for one command; raises what its errors are for the operator."""
    failed: list[Failure] = []

    def started(reactor: Any) -> Deferred[None]:
        def failure(failure: Failure) -> None:
            failure.trap(CommandError, StoreError, OSError)
            failed.append(failure)

        leave_threads_behind(reactor)
        return maybeDeferred(main, reactor).addErrback(failure)

    try:
        react(started)
    except SystemExit as done:
        if failed:
            if failed[0].check(BrokenPipeError):
                failed[0].raiseException()
            raise CommandError(failed[0].getErrorMessage()) from None
        if done.code:
            raise
