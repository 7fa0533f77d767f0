"""Whether `check` refuses what the start refuses: `python -m tests.campaigns.agreement`.

Each configuration of `agreementcases.py` goes through `tezio-signer check` and through the start
of the daemon. Both have to refuse it, or neither, and what the start says has to be among what
`check` says. By itself it runs both commands; in the suite the same code runs in one process.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import ExitStack, chdir, contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from socket import socket
from tempfile import TemporaryDirectory
from unittest.mock import patch

from attrs import define, field
from twisted.internet.defer import Deferred, maybeDeferred

from tests.campaigns.agreementcases import CASES, Case, lay_out
from tests.campaigns.findings import Findings, tell
from tests.support.certificates import Authority
from tests.support.commandtest import OwnReactor
from tests.support.daemonprocess import COMMAND, reserve_port
from tezio_signer import tap
from tezio_signer.cli import main as cli
from tezio_signer.cli import reacting
from tezio_signer.config.locate import CONFIG_VARIABLE
from tezio_signer.errors import StartupError
from tezio_signer.watermarks.sqlite import store as sqlite

CHECK = ("check", "--json", "--without-boards")
_LINE = "tezio-signer: "
_STARTED = re.compile(r"Tezio Signer \S+ has started")
_TIMEOUT = 60
_PROGRAM = (sys.executable, "-c", COMMAND)
_ROOT = str(Path(cli.__file__).parents[2])
_NOBODY = 65534

_POWERLESS = ("setpriv", "--bounding-set=-all", "--inh-caps=-all")
"""Has root be a user like others, who may only what the modes of his files let him (setpriv(1))."""

Check = Callable[[bool], Awaitable["Refusal"]]
"""Is told whether it is for a user who may not everything."""
Start = Callable[[bool], Awaitable[str | None]]


@define
class Refusal:
    """What `check` says.

    :ivar refused: whether it ends with an error.
    :ivar sentences: all that it says is wrong.
    """

    refused: bool
    sentences: list[str]


@define
class Report:
    """What a run has found."""

    cases: int = 0
    refused: int = 0
    differing: list[str] = field(factory=list)
    other_words: list[str] = field(factory=list)
    unexpected: list[str] = field(factory=list)

    @property
    def findings(self) -> Findings:
        """What must not be there."""
        return {
            "refused by one only": self.differing,
            "refused in other words": self.other_words,
            "not as it was expected": self.unexpected,
        }

    @property
    def passed(self) -> bool:
        """Whether nothing was found."""
        return not any(self.findings.values())

    def note(self, case: Case, check: Refusal, start: str | None) -> None:
        """Compare what both have said of a case."""
        self.cases += 1
        self.refused += start is not None
        told = f"{case.name}: the start says {start!r}, check {check.sentences!r}"
        if check.refused != (start is not None):
            self.differing.append(told)
        elif start is not None and start not in check.sentences:
            self.other_words.append(told)
        if case.starts is not None and case.starts != (start is None):
            self.unexpected.append(told)


async def compare(cases: Iterable[Case], check: Check, start: Start) -> Report:
    """Have both read each of some cases, each in a directory of its own, in which they work."""
    report = Report()
    with ExitStack() as undoing:
        directory = Path(undoing.enter_context(TemporaryDirectory()))
        directory.chmod(0o711)  # other users have cases in it
        source = directory / "source"
        source.mkdir()
        _make_source(source)
        ports = [undoing.enter_context(reserve_port()) for _ in range(4)]
        taken = ports.pop()
        taken.listen()
        for number, case in enumerate(cases):
            here = directory / f"{number}"
            lay_out(source, here)
            (here / "config.yaml").write_text(_filled(case.text, here, taken, *ports), "utf-8")
            with chdir(here):
                case.prepare(here)
                said = await check(case.without_root)
                report.note(case, said, await start(case.without_root))
    return report


@contextmanager
def _user(without_root: bool) -> Iterator[None]:
    """Be another user than root, who has the directory that this is in, and what is in it."""
    if not without_root or os.geteuid() != 0:
        yield
        return
    for path in (Path.cwd(), *Path.cwd().iterdir()):
        os.chown(path, _NOBODY, _NOBODY, follow_symlinks=False)
    os.setegid(_NOBODY)
    os.seteuid(_NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


def _make_source(source: Path) -> None:
    authority = Authority(source)
    for name in ("cert", "foreign"):
        authority.certify(name, server=True, days=90)
    (source / "cert-key.pem").rename(source / "key.pem")
    (source / "site").mkdir()
    both = (source / "key.pem").read_bytes() + (source / "cert.pem").read_bytes()
    (source / "site" / "localhost.pem").write_bytes(both)
    sqlite.create(source / "watermarks.sqlite")
    sqlite.SqliteStore(source / "watermarks.sqlite").close()  # as a daemon leaves it, with a lock


def _filled(text: str, here: Path, taken: socket, *ports: socket) -> str:
    values = {"<here>": str(here), "<taken>": str(taken.getsockname()[1])}
    values |= {
        name: str(port.getsockname()[1])
        for name, port in zip(("<port>", "<other>", "<third>"), ports, strict=True)
    }
    for name, value in values.items():
        text = text.replace(name, value)
    return text


def _refusal(code: int, out: str, err: str) -> Refusal:
    sentences = json.loads(out)["errors"] if out else [err.strip().removeprefix(_LINE)]
    return Refusal(code != 0, sentences)


async def check_here(without_root: bool) -> Refusal:
    """`check` in this process; nothing may have to be waited for."""
    code = 0
    out, err = StringIO(), StringIO()
    acting = patch.object(reacting, "react", OwnReactor().react)
    with acting, redirect_stdout(out), redirect_stderr(err), _user(without_root):
        try:
            cli.main(CHECK)
        except SystemExit as end:
            if isinstance(end.code, str):
                err.write(end.code)
            code = 1 if isinstance(end.code, str) else end.code or 0
    return _refusal(code, out.getvalue(), err.getvalue())


async def start_here(without_root: bool) -> str | None:
    """What the start says in this process, as `run` makes it; None if it has started."""
    options = tap.Options()
    options["config"], options["simulate"] = None, False
    daemon = None
    hang_up = signal.getsignal(signal.SIGHUP)
    with patch.object(tap, "standard_log", lambda _: None), _user(without_root):
        try:
            daemon = tap.makeService(options)
            daemon.privilegedStartService()
            daemon.startService()
        except StartupError as error:
            if daemon is not None:  # its process would end, with all that it has open
                _, listeners = daemon
                await maybeDeferred(listeners.stopService)
            return str(error)
        finally:
            signal.signal(signal.SIGHUP, hang_up)
    await daemon.stopService()
    return None


async def check_process(without_root: bool) -> Refusal:
    """`tezio-signer check`."""
    done = subprocess.run(  # noqa: S603
        [*_program(without_root), *CHECK],
        env=_ours(),
        capture_output=True,
        text=True,
        timeout=_TIMEOUT,
        check=False,
    )
    return _refusal(done.returncode, done.stdout, done.stderr)


async def start_process(without_root: bool) -> str | None:
    """What `tezio-signer run` says; it is ended when it has started."""
    with subprocess.Popen(  # noqa: S603
        [*_program(without_root), "run"],
        env=_ours(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        said = ""
        for line in process.stdout:
            said += line
            if _STARTED.search(line):
                process.terminate()
                process.stdout.read()
                return None
    _, found, sentence = said.rpartition(_LINE)
    return sentence.strip() if found else f"(no word, but) {said}"


def _program(without_root: bool) -> list[str]:
    before = _POWERLESS if without_root and os.geteuid() == 0 else ()
    return [*before, *_PROGRAM]


def _ours() -> dict[str, str]:
    """The environment in which a process has the same code as this one."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join([_ROOT, *sys.path[1:]])}


def main() -> None:
    """Run both commands on all cases."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default="", help="cases with this in their names")
    options = parser.parse_args()
    cases = [case for case in CASES if options.only in case.name]
    with patch.dict(os.environ):
        os.environ.pop(CONFIG_VARIABLE, None)
        reports: list[Report] = []
        running = compare(cases, check_process, start_process)
        Deferred.fromCoroutine(running).addCallback(reports.append)  # which waits for no reactor
    (report,) = reports
    print(f"{report.cases} configurations, {report.refused} of them refused")
    tell(report.findings)
    sys.exit(0 if report.passed else 1)


if __name__ == "__main__":
    main()
