"""Commands whose output cannot be written, or not in that encoding."""

import os
import sys
from subprocess import PIPE, CompletedProcess, run

from twisted.trial.unittest import SynchronousTestCase

from tests.support.vectors import TZ3

_COMMAND = "from tezio_signer.cli.main import main; main()"
_PREPARED = """
import os
for number in range(3):
    os.close(number)
from tezio_signer.cli import console
console.prepare()
first = os.open("/", os.O_RDONLY)
os._exit(first if all(os.readlink(f"/proc/self/fd/{n}") == "/dev/null" for n in range(3)) else 99)
"""


class ConsoleTests(SynchronousTestCase):
    """Whatever a command is connected to, it does its work and says so as well as can be."""

    def command(self, *arguments: str, **options: object) -> "CompletedProcess[str]":
        """Run a command to its end."""
        paths = {"PYTHONPATH": os.pathsep.join(sys.path)}
        environment = {**os.environ, **paths, **options.pop("environment", {})}  # type: ignore[dict-item]
        # With it, every `print` writes by itself, and nothing is left that could fail at the end.
        environment.pop("PYTHONUNBUFFERED", None)
        return run(  # type: ignore[call-overload,no-any-return]  # noqa: S603
            [sys.executable, "-c", _COMMAND, *arguments],
            env=environment,
            check=False,
            text=True,
            **{"stdout": PIPE, "stderr": PIPE, **options},
        )

    def test_encoding(self) -> None:
        """What an encoding cannot show is shown as escapes, in every help and every error."""
        for environment in ({"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0"}):
            for arguments in (
                ("watermarks", "set", "--help"),
                ("watermarks", "import", "--help"),
                ("check", "--config", "/ключ/нет.yaml"),
            ):
                done = self.command(*arguments, environment=environment)
                self.assertEqual(done.returncode, 1 if "check" in arguments else 0, done.stderr)
                self.assertNotIn("Traceback", done.stderr)
        done = self.command(
            "watermarks", "set", "--help", environment={"PYTHONIOENCODING": "ascii"}
        )
        self.assertIn("NetX\\u2026", done.stdout)

    def test_work_is_done(self) -> None:
        """A path that cannot be shown does not turn a success into an error."""
        directory = f"{self.mktemp()}-ключ"
        os.mkdir(directory)
        config = os.path.join(directory, "config.yaml")
        with open(config, "w") as file:
            file.write(
                f"policy: {{signing_keys: {{{TZ3}: {{allowed_ops: [block], auth_req: False}}}}}}"
            )
        ascii_only = {"PYTHONIOENCODING": "ascii"}
        done = self.command("watermarks", "init", "--config", config, environment=ascii_only)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertIn("\\u043a\\u043b\\u044e\\u0447", done.stdout)
        self.assertTrue(os.path.exists(os.path.join(directory, "watermarks.sqlite")))

    def test_full_disk(self) -> None:
        """Output that cannot be written is one line, and an error, a help as well."""
        for arguments in (("keys", "--simulate"), ("--version",), ("run", "--help")):
            with open("/dev/full", "w") as full:
                done = self.command(*arguments, stdout=full)
            self.assertEqual(done.returncode, 1)
            self.assertRegex(done.stderr, r"\Atezio-signer: .*No space left on device\n\Z")

    def test_no_reader(self) -> None:
        """A reader that has gone is no reason for words."""
        reader, writer = os.pipe()
        os.close(reader)
        done = self.command("keys", "--simulate", stdout=writer)
        os.close(writer)
        self.assertEqual((done.returncode, done.stderr), (1, ""))

    def test_closed_output(self) -> None:
        """Without an output a command does its work."""
        closed = {"preexec_fn": lambda: os.close(1)}
        done = self.command("keys", "--simulate", "--json", **closed)
        self.assertEqual((done.returncode, done.stdout, done.stderr), (0, "", ""))

    def test_descriptors(self) -> None:
        """No file that is opened later gets the number of an output."""
        paths = {"PYTHONPATH": os.pathsep.join(sys.path)}
        done = run([sys.executable, "-c", _PREPARED], env={**os.environ, **paths}, check=False)  # noqa: S603
        self.assertEqual(done.returncode, 3)
