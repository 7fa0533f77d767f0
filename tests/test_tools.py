"""The tools that make an environment, where packages or sudo are missing."""

import os
import subprocess
import sys
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

TOOLS = Path(__file__).parent.parent / "tools"


class InstallingTests(SynchronousTestCase):
    """`install-debian-packages`, with commands of its own in the place of Debian's."""

    def setUp(self) -> None:
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir()
        self.called = self.directory / "called"
        self.called.touch()
        for name in ("env", "sh"):
            os.symlink(f"/usr/bin/{name}", self.directory / name)
        self.command("id", "echo 1000")
        self.command("dpkg-query", 'case "$3" in there) echo installed;; *) exit 1;; esac')
        self.command("apt-get", f'echo "apt-get $*" >> {self.called}')

    def command(self, name: str, body: str) -> None:
        """Make a command that does this."""
        path = self.directory / name
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)

    def install(self, *packages: str) -> tuple[int, str]:
        """Its exit code and what it says."""
        done = subprocess.run(  # noqa: S603
            [TOOLS / "install-debian-packages", *packages],
            env={"PATH": str(self.directory)},
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    def test_without_sudo(self) -> None:
        """Root is told what to install, and only what is missing; nothing is tried."""
        code, said = self.install("there", "python3-venv")
        self.assertEqual(code, 1)
        self.assertIn("apt-get install --no-install-recommends python3-venv\n", said)
        self.assertNotIn("not found", said)
        self.assertEqual(self.called.read_text(), "")

    def test_with_sudo_that_refuses(self) -> None:
        """Who may not use sudo is told the same."""
        self.command("sudo", "echo 'baker is not in the sudoers file' >&2; exit 1")
        code, said = self.install("python3-venv")
        self.assertEqual(code, 1)
        self.assertIn("apt-get install --no-install-recommends python3-venv\n", said)

    def test_with_sudo(self) -> None:
        """What is missing is installed through sudo."""
        self.command("sudo", 'exec "$@"')
        code, said = self.install("there", "python3-venv")
        self.assertEqual(code, 0, said)
        self.assertEqual(
            self.called.read_text().splitlines(),
            ["apt-get update -qq", "apt-get install -y -qq --no-install-recommends python3-venv"],
        )

    def test_nothing_missing(self) -> None:
        """Apt is not troubled for what is there."""
        self.assertEqual(self.install("there"), (0, ""))
        self.assertEqual(self.called.read_text(), "")


class LowestTests(SynchronousTestCase):
    """`lowest-requirements`."""

    def test_all_have_one(self) -> None:
        """Everything that setup.cfg requires has a lower bound, and that is what is printed."""
        printed = subprocess.run(  # noqa: S603
            [TOOLS / "lowest-requirements"], capture_output=True, text=True, check=True
        ).stdout
        self.assertIn("twisted[tls,serial]==26.10\n", printed)
        for line in printed.splitlines():
            self.assertRegex(line, r"\A[\w.\-\[\],]+==[\d.]+\Z")


class MovedTests(SynchronousTestCase):
    """The virtual environment of a checkout."""

    def planned(self, directory: Path) -> str:
        """What make would do for the environment there."""
        makefile = str(TOOLS.parent / "Makefile")
        arguments = ["make", "-n", "-C", str(directory), "-f", makefile, ".venv/made-for"]
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}
        done = subprocess.run(  # noqa: S603
            [*arguments, f"PYTHON={sys.executable}"],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout

    def test_made_anew(self) -> None:
        """It is kept where it was made, and made anew in another place or for another Python."""
        directory = Path(self.mktemp()).absolute()
        stamp = directory / ".venv" / "made-for"
        stamp.parent.mkdir(parents=True)
        python = f"{os.path.normpath(sys.executable)} {sys.version_info[0]} {sys.version_info[1]}"
        stamp.write_text(f"{directory} {python}\n")
        self.assertNotIn("make-environment", self.planned(directory))
        for other in (f"/elsewhere {python}", f"{directory} /usr/bin/python3 3 10"):
            stamp.write_text(f"{other}\n")
            self.assertIn("make-environment", self.planned(directory))
