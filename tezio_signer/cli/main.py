"""The command `tezio-signer`: which commands there are, and how each of them ends."""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

from tezio_signer import __version__
from tezio_signer.cli import console
from tezio_signer.errors import OperatorError

COMMANDS = {
    "run": ("tezio_signer.cli.run", "run the signer in the foreground"),
    "check": ("tezio_signer.cli.check", "say what the configuration means and what is amiss"),
    "keys": ("tezio_signer.cli.keys", "list the keys of every connected HSM"),
    "explain": ("tezio_signer.cli.explain", "say what a payload is, and what would be decided"),
    "watermarks": ("tezio_signer.cli.watermarks", "the watermark store"),
    "audit": ("tezio_signer.cli.audit", "the audit log"),
    "simulate": ("tezio_signer.cli.simulate", "run a simulated HSM on a pseudo-terminal"),
}
"""Each with its module, which is imported when the command is given, and a line for the help.

A module has `add_arguments(parser)` and `run(options)`; `run` raises OperatorError for an answer
that is no, or for what the operator can put right.
"""
INTERRUPTED = 130
"""The exit code of what Ctrl-C has ended, as shells have it."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and exit: 0 done, 1 the answer is no or the input is bad, 2 usage."""
    console.prepare()
    try:
        try:
            options = _options(sys.argv[1:] if arguments is None else arguments)
            options.run(options)
        finally:
            console.finish()
    except OperatorError as error:
        sys.exit(f"tezio-signer: {error}")
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        sys.exit(1)
    except OSError as error:
        if error.filename is not None:
            raise
        sys.exit(f"tezio-signer: the output cannot be written: {error.strerror}")


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="tezio-signer", description="Octez remote signer for the Tezio HSM."
    )
    parser.add_argument("--version", action="version", version=f"Tezio Signer {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, (module, about) in COMMANDS.items():
        command = commands.add_parser(name, help=about, description=about)
        if name in arguments:
            implementation = import_module(module)
            command.set_defaults(run=implementation.run)
            implementation.add_arguments(command)
    if not arguments:
        parser.print_help(sys.stderr)
        parser.exit(2)
    return parser.parse_args(arguments)
