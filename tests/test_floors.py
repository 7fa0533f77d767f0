"""What may be imported without the reactor, in processes of their own.

Which room may import which is checked by `lint-imports`, with the contracts in pyproject.toml.
"""

import json
import subprocess
import sys
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

import tezio_signer
from tests.support.vectors import SHIPPED

PURE = (
    "tezio_signer.tezos.base58check",
    "tezio_signer.tezos.binary",
    "tezio_signer.tezos.keys",
    "tezio_signer.tezos.payload",
    "tezio_signer.octez.json",
    "tezio_signer.octez.messages",
    "tezio_signer.hsm.framing",
    "tezio_signer.watermarks.rule",
)
"""Bytes and values only, and no Twisted at all."""
WITHOUT_REACTOR = (
    "tezio_signer.config.locate",
    "tezio_signer.listeners.limits",
    "tezio_signer.request",
    "tezio_signer.policy",
    "tezio_signer.startup.warnings",
    "tezio_signer.cli.main",
    "tezio_signer.cli.watermarks",
)
"""These may use Twisted's types, but nothing is decided about a reactor."""
_ROOT = str(Path(tezio_signer.__file__).parents[1])
_END = "\nprint(json.dumps(sorted(sys.modules)))"


class FloorTests(SynchronousTestCase):
    """What comes with what."""

    def setUp(self) -> None:
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir()

    def imported(self, program: str) -> set[str]:
        """All that a program has imported when it has run."""
        done = subprocess.run(  # noqa: S603 # a program of this file
            (sys.executable, "-c", f"import json, sys\n{program}{_END}"),
            cwd=self.directory,
            env={"PYTHONPATH": _ROOT},
            capture_output=True,
            check=True,
        )
        return set(json.loads(done.stdout.splitlines()[-1]))

    def run_command(self, *arguments: str) -> set[str]:
        """All that a command has imported when it has ended well."""
        return self.imported(
            "from tezio_signer.cli.main import main\n"
            f"try:\n    main({arguments!r})\n"
            "except SystemExit as end:\n    assert not end.code, end.code"
        )

    def test_pure(self) -> None:
        """Pure rooms know no Twisted."""
        modules = self.imported(f"import {', '.join(PURE)}")
        self.assertEqual([name for name in modules if name.startswith("twisted")], [])

    def test_without_reactor(self) -> None:
        """What reads the configuration, and decides about limits, leaves the reactor alone."""
        modules = self.imported(f"import {', '.join(WITHOUT_REACTOR)}")
        self.assertNotIn("twisted.internet.reactor", modules)

    def test_help(self) -> None:
        """No command is imported for the help."""
        ours = {name for name in self.run_command("--help") if name.startswith("tezio_signer.")}
        cli = "tezio_signer.cli"
        self.assertEqual(ours, {cli, f"{cli}.main", f"{cli}.console", "tezio_signer.errors"})

    def test_check(self) -> None:
        """`check` of plain endpoints and an SQLite store imports nothing that is slow."""
        text = SHIPPED.read_text("utf-8").replace("tcp:6732:", "tcp:0:")
        (self.directory / "config.yaml").write_text(text, "utf-8")
        self.run_command("watermarks", "init")
        modules = self.run_command("check", "--without-boards")
        slow = {"twisted.internet.reactor", "twisted.internet.defer", "klein", "treq", "OpenSSL"}
        self.assertEqual(modules & slow, set())
