"""Commands of a document in a directory of their own, which replaces the whole machine."""

import os
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from shutil import which

from twisted.trial.unittest import SkipTest, TestCase

from tests.support.daemonprocess import COMMAND, reserve_port, spawn
from tests.support.pages import Step
from tests.support.vectors import SHIPPED

_SYSTEM = ("/etc/", "/opt/", "/run/", "/usr/local/", "/var/lib/")
"""Directories of the machine that have a replacement below that of the session."""
_PORTS = ("6732", "7732")
_MARK = "--- step "
_UNTIL_READY = """
until_ready() {
    timeout 120 "$@" > daemon.log 2>&1 &
    local pid=$!
    grep -q "ready\\|test keys" <(tail --pid=$pid -n +1 -f daemon.log) || cat daemon.log
    kill -TERM $pid
    wait $pid || [ $? -eq 143 ]
}
"""
"""Runs a command that goes on until it is told to stop, and stops it when it is ready.

It may die of the signal: it says that it is ready before it can obey one.
"""
_IN_FOREGROUND = re.compile(r"tezio-signer (run|simulate)\b")
_SHIMS = {
    "tezio-signer": f'exec {shlex.quote(sys.executable)} -c {shlex.quote(COMMAND)} "$@"',
    "runuser": 'while [ "$1" != -- ]; do shift; done; shift; exec "$@"',
    # Only root can give files away.
    "install": """
for argument; do
    shift
    case "$skip$argument" in -o|-g) skip=x;; x*) skip=;; *) set -- "$@" "$argument";; esac
done
exec /usr/bin/install "$@"
""",
    "python": f'exec {shlex.quote(sys.executable)} "$@"',
}


class Session:
    """A shell in which the commands of a document are run, and what they write is compared.

    Paths such as `/etc/tezio-signer` are below the session's directory, ports are free ones,
    and `runuser` and `install` leave the user as it is.

    :ivar root: replaces the root directory of the machine.
    :ivar port: replaces 6732.
    """

    def __init__(self, test: TestCase, directory: Path) -> None:
        if missing := [name for name in ("bash", "curl", "openssl") if which(name) is None]:
            raise SkipTest(f"there is no {missing[0]}")
        self._test = test
        self.root = directory
        self._exports: dict[str, str] = {}
        self._ports = {}
        for name in _PORTS:
            reserved = reserve_port()
            test.addCleanup(reserved.close)
            self._ports[name] = str(reserved.getsockname()[1])
        self.port = self._ports[_PORTS[0]]
        for name in ("bin", "opt/tezio-signer/bin", ".venv/bin"):
            self.path(name).mkdir(parents=True)
        for name, body in _SHIMS.items():
            for directory_name in ("bin", "opt/tezio-signer/bin", ".venv/bin"):
                shim = self.path(f"{directory_name}/{name}")
                shim.write_text(f"#!/bin/sh\n{body}\n")
                shim.chmod(0o755)
        self.write("config.yaml", SHIPPED.read_text("utf-8"))

    def path(self, name: str) -> Path:
        """Where a path of the document is here."""
        return self.root / name.lstrip("/")

    def write(self, name: str, text: str) -> None:
        """Make a file, and its directory."""
        path = self.path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self._here(text), "utf-8")

    def export(self, name: str, value: str) -> None:
        """Have a variable in the environment of the commands."""
        self._exports[name] = self._here(value)

    async def follow(self, steps: Sequence[Step], replacements: Mapping[str, str] = {}) -> None:
        """Run commands behind each other in one shell, and compare what they write.

        A command without output in the document has to succeed; `…` there matches anything.

        :param replacements: what is put in the place of other texts of the document.
        """
        replaced = [
            Step(_replaced(step.command, replacements), _replaced(step.output, replacements))
            for step in steps
        ]
        lines = [_UNTIL_READY]
        for number, step in enumerate(replaced):
            command = self._here(step.command)
            if _IN_FOREGROUND.match(command):
                command = f"until_ready {command}"
            lines.append(f"{command}\nprintf '\\n{_MARK}%s %s\\n' {number} $?")
        outputs = await self._run("\n".join(lines))
        self._test.assertEqual(len(outputs), len(replaced), outputs)
        for step, (code, output) in zip(replaced, outputs, strict=True):
            if step.output.strip():
                self._test.assertRegex(output, _pattern(step.output), step.command)
            else:
                self._test.assertEqual(code, 0, f"{step.command}: {output}")

    async def _run(self, script: str) -> list[tuple[int, str]]:
        environment = {
            "PATH": os.pathsep.join([str(self.path("bin")), os.environ["PATH"]]),
            "HOME": str(self.root),
            "LANG": "C.UTF-8",
            "PYTHONPATH": os.pathsep.join(sys.path),
            **self._exports,
        }
        bash = which("bash")
        assert bash is not None
        process = spawn([bash, "-c", f"exec 2>&1\n{script}"], self.root, environment)
        self._test.addCleanup(process.kill)
        await process.exits()
        parts = re.split(rf"\n{_MARK}\d+ (\d+)\n", process.out)
        codes, outputs = parts[1::2], parts[0:-1:2]
        return [
            (int(code), self._there(output)) for code, output in zip(codes, outputs, strict=True)
        ]

    def _here(self, text: str) -> str:
        for place in _SYSTEM:
            text = re.sub(rf"(?<![\w.]){place}", f"{self.root}{place}", text)
        for name, port in self._ports.items():
            text = text.replace(name, port)
        return text

    def _there(self, text: str) -> str:
        return text.replace(str(self.root), "")


def _replaced(text: str, replacements: Mapping[str, str]) -> str:
    for old, new in replacements.items():
        text = text.replace(old, new)
    return text


def _pattern(shown: str) -> str:
    """What matches the output that a document shows."""
    return rf"\A\s*{'.*'.join(map(re.escape, shown.strip().split('…')))}\s*\Z".replace(
        ".*", "(?s:.*)"
    )
