"""What the commands of `tezio-signer` have in common: options, tables and errors."""

import argparse
import json
from typing import Any

from tezio_signer.config.locate import SEARCHED
from tezio_signer.errors import OperatorError


class CommandError(OperatorError):
    """The answer is no, or the input is bad."""


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
