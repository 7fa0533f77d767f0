"""The first five minutes on a bare Debian: what README says there, run as it is written.

Makes a Debian with `debootstrap`, clones this repository into it, and runs README's quick start
and `make test` in it: once as root, once as a user of a machine without sudo, where `make run`
has to say which package is missing before root installs it. Needs root, debootstrap and port 6732.
"""

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from attrs import frozen

from tests.support.pages import Step, section

CHECKOUT = Path(__file__).resolve().parent.parent.parent
MIRROR = "http://deb.debian.org/debian"
USER = "baker"
TEST_SECONDS = 1800
_INSIDE = (
    'mount --rbind /dev "$0/dev" && mount -t proc proc "$0/proc" && mount -t tmpfs tmpfs "$0/run" '
    '&& exec chroot "$0" "$@"'
)
_OWN_NAMESPACES = ("unshare", "--mount", "--pid", "--fork", "--kill-child")
_MARK = "--- step "


class Unlike(Exception):
    """Something is not as README says."""


def steps(text: str, heading: str) -> list[Step]:
    """The commands in the `console` blocks of a section; raises Unlike."""
    try:
        return section(text, heading).steps()
    except LookupError as error:
        raise Unlike(f"README: {error}") from error


@frozen
class Root:
    """The root of a Debian.

    :ivar path: where it is on this machine.
    :ivar environment: what commands in it have besides a home and a path.
    :ivar copied: files of this machine that it is to have.
    """

    path: Path
    environment: dict[str, str]
    copied: Sequence[str]

    def copy(self) -> None:
        """Copy what it is to have; installing packages may have made it otherwise."""
        for name in self.copied:
            target = self.path / name.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(name, target)

    def start(
        self, command: str, user: str = "root", home: str = "/root"
    ) -> "subprocess.Popen[str]":
        """Start a command of a shell in it; what it writes is read from its stdout."""
        environment = {
            "HOME": home,
            "LANG": "C.UTF-8",
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            **self.environment,
        }
        inside = ["runuser", "-u", user, "--", "sh", "-c", command]
        return subprocess.Popen(  # noqa: S603
            [*_OWN_NAMESPACES, "sh", "-c", _INSIDE, str(self.path), *inside],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(
        self, command: str, user: str = "root", home: str = "/root", seconds: int = 600
    ) -> tuple[int, str]:
        """Run a command in it: its exit code and what it wrote, which goes into the log too."""
        print(f"[{self.path.name} {user}] {command}", flush=True)
        process = self.start(command, user, home)
        try:
            written, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired as error:
            process.kill()
            raise Unlike(f"{command}: not done in {seconds} s") from error
        print(written, end="", flush=True)
        return process.returncode, written

    def must(
        self, command: str, user: str = "root", home: str = "/root", seconds: int = 600
    ) -> str:
        """Run a command that has to succeed."""
        code, written = self.run(command, user, home, seconds)
        if code:
            raise Unlike(f"{command}: exit code {code}")
        return written


def checks(root: Root, user: str, readme: str, skip_tests: bool) -> None:
    """Do as README says in a clean clone; raises Unlike."""
    root.copy()
    home = "/root" if user == "root" else f"/home/{user}"
    place = f"{home}/tezio-signer"
    if user != "root":
        root.must(f"useradd --create-home {user}")
    subprocess.run(  # noqa: S603
        ["git", "clone", "--quiet", "--no-hardlinks", CHECKOUT, f"{root.path}{place}"],  # noqa: S607
        check=True,
    )
    root.must(f"chown -R {user}: {place}")
    install, run, *requests = steps(readme, "Try it")
    packages = re.search(r"git make curl python3-venv", install.command)
    if packages is None or run.command != "make run":
        raise Unlike("README does not begin with the packages and `make run`")
    root.must(
        "apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq git make curl",
        seconds=1200,
    )
    if user != "root":
        _without_the_package(root, user, home, place)
        root.must(
            f"DEBIAN_FRONTEND=noninteractive; export DEBIAN_FRONTEND; {install.command} -y -qq",
            seconds=1200,
        )
    root.copy()
    # As root, `make run` installs by itself what is missing.
    _quick_start(root, user, home, place, requests)
    if not skip_tests:
        written = root.must(f"cd {place} && make test", user, home, TEST_SECONDS)
        if not re.search(r"^PASSED ", written, re.M):
            raise Unlike("make test: does not end in PASSED")


def _without_the_package(root: Root, user: str, home: str, place: str) -> None:
    code, written = root.run(f"cd {place} && make run", user, home)
    if code == 0 or "apt-get install --no-install-recommends python3-venv" not in written:
        raise Unlike("make run: does not say which package root has to install")
    if "not found" in written or "Error 127" in written:
        raise Unlike("make run: runs what is not there")


def _quick_start(root: Root, user: str, home: str, place: str, requests: Sequence[Step]) -> None:
    print(f"[{root.path.name} {user}] make run", flush=True)
    daemon = root.start(f"cd {place} && exec make run", user, home)
    assert daemon.stdout is not None
    try:
        for line in daemon.stdout:
            print(line, end="", flush=True)
            if "ready" in line:
                break
        else:
            raise Unlike("make run: ends, and does not say that it is ready")
        script = f"cd {place}\n" + "\n".join(
            f"printf '\\n{_MARK}{n}\\n'\n{step.command}" for n, step in enumerate(requests)
        )
        written = root.must(f"exec bash -c {shlex.quote(script)}", user, home)
    finally:
        daemon.kill()  # unshare(1) does not heed TERM; with it go those that it has started
        daemon.wait()
    outputs = re.split(rf"^{_MARK}\d+\n", written, flags=re.M)[1:]
    for step, output in zip(requests, outputs, strict=True):
        if output.rstrip() != step.output.rstrip():
            raise Unlike(f"{step.command}: {output!r}, and README has {step.output!r}")


def _bare(path: Path, suite: str, mirror: str) -> None:
    print(f"debootstrap {suite} {path}", flush=True)
    subprocess.run(  # noqa: S603
        ["debootstrap", "--variant=minbase", suite, path, mirror],  # noqa: S607
        check=True,
        stdout=subprocess.DEVNULL,
    )


def main() -> None:
    """Run what the arguments say; ends with 1 if something is not as README says."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.campaigns.baredebian", description=__doc__
    )
    parser.add_argument("--suite", action="append", help="[default: bookworm, trixie]")
    parser.add_argument("--user", action="append", choices=["root", USER], help="[default: both]")
    parser.add_argument("--mirror", default=MIRROR)
    parser.add_argument("--directory", type=Path, default=Path("/var/tmp/bare-debian"))  # noqa: S108
    parser.add_argument(
        "--copy",
        action="append",
        default=[],
        metavar="PATH",
        help="a file that the network needs here, as /etc/pip.conf; repeatable",
    )
    parser.add_argument(
        "--env",
        action="append",
        default=[],
        metavar="NAME",
        help="a variable that the network needs here, as PIP_CERT; repeatable",
    )
    parser.add_argument("--skip-tests", action="store_true", help="the quick start only")
    options = parser.parse_args()
    if os.geteuid() != 0 or not shutil.which("debootstrap"):
        sys.exit("this needs root, and debootstrap: apt-get install debootstrap")
    options.directory.mkdir(parents=True, exist_ok=True)
    environment = {name: os.environ[name] for name in options.env if name in os.environ}
    readme = (CHECKOUT / "README.md").read_text("utf-8")
    unlike = []
    for suite in options.suite or ["bookworm", "trixie"]:
        for user in options.user or ["root", USER]:
            path = options.directory / f"{suite}-{user}"
            shutil.rmtree(path, ignore_errors=True)
            outcome = "as README says"
            try:
                _bare(path, suite, options.mirror)
                checks(Root(path, environment, options.copy), user, readme, options.skip_tests)
            except (Unlike, subprocess.CalledProcessError) as error:
                outcome = f"not as README says: {error}"
                unlike.append(f"{suite} {user}: {error}")
            print(f"== {suite} {user}: {outcome}", flush=True)
            shutil.rmtree(path, ignore_errors=True)
    for line in unlike:
        print(line)
    sys.exit(1 if unlike else 0)


if __name__ == "__main__":
    main()
