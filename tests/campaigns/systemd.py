"""The shipped unit under a real systemd: `python -m tests.campaigns.systemd`.

Boots a Debian 12 in a container (systemd-nspawn), made once with debootstrap and kept in
`--root`, installs the wheel in it, and starts the signer by `deploy/systemd/`: `ssl:` and
`tls:` listeners, Unix sockets in its runtime directory, the journal, `systemctl reload`,
`kill -9`, and etcd over HTTPS. Needs root, systemd-nspawn, debootstrap, and for the first time
the network.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.support.vectors import block

ROOT = Path("/var/cache/tezio-signer-systemd/root")
SHIPPED = Path(__file__).parents[2] / "deploy" / "systemd" / "tezio-signer.service"
STORIES = ("prepare", "listeners", "journald", "reloaded", "killed", "etcd")
_INSIDE = Path(__file__).parent / "insidesystemd.py"
_PACKAGES = (
    "systemd,systemd-sysv,dbus,python3,python3-venv,etcd-server,openssl,ca-certificates,curl"
)
_UNIT = """\
[Unit]
After=basic.target
[Service]
Type=oneshot
ExecStart=/usr/bin/python3 /campaign/insidesystemd.py
ExecStopPost=/bin/systemctl poweroff --force
[Install]
WantedBy=multi-user.target
"""
_SECONDS = 300


def missing(root: Path) -> str | None:
    """Why it cannot run here; None if it can."""
    if os.geteuid() != 0:
        return "this boots a container, and needs root"
    for program in ("systemd-nspawn", *(() if (root / "usr").exists() else ("debootstrap",))):
        if shutil.which(program) is None:
            return f"there is no {program}"
    return None


def do(*command: object) -> None:
    """Run a command that has to succeed."""
    subprocess.run([str(part) for part in command], check=True)  # noqa: S603


def make_root(root: Path, wheel: Path) -> None:
    """A Debian 12 with the wheel in /opt/tezio-signer; what is there already is used again."""
    if not (root / "usr").exists():
        root.parent.mkdir(parents=True, exist_ok=True)
        do("debootstrap", "--variant=minbase", f"--include={_PACKAGES}", "bookworm", root)
    shutil.copy("/etc/ssl/certs/ca-certificates.crt", root / "etc/ssl/certs/ca-certificates.crt")
    shutil.copy(wheel, root / "root" / wheel.name)
    pip = "/opt/tezio-signer/bin/pip"
    if not (root / pip[1:]).exists():
        do("chroot", root, "python3", "-m", "venv", "/opt/tezio-signer")
        do("chroot", root, pip, "install", "--quiet", f"/root/{wheel.name}")
    do("chroot", root, pip, "install", "--quiet", "--force-reinstall", "--no-deps",
       f"/root/{wheel.name}")  # fmt: skip
    for left in ("etc/tezio-signer", "var/lib/tezio-signer", "var/lib/etcd", "var/log/journal"):
        shutil.rmtree(root / left, ignore_errors=True)
    (root / "etc/tezio-signer").mkdir()
    unit = root / "etc/systemd/system/campaign.service"
    unit.write_text(_UNIT)
    wanted = root / "etc/systemd/system/multi-user.target.wants/campaign.service"
    wanted.unlink(missing_ok=True)
    wanted.symlink_to(unit.relative_to(root).as_posix().join(("/", "")))


def boot(root: Path, more: Sequence[str] = ()) -> dict[str, str]:
    """What was seen in the machine, by story; its directory is given back as it was.

    :param more: lines for a drop-in of the service's unit.
    """
    with TemporaryDirectory() as made:
        shared = Path(made)
        shutil.copy(_INSIDE, shared)
        shutil.copy(SHIPPED, shared)
        blocks = {
            level: [block(level, 0, byte).hex() for byte in (0x40, 0x41)] for level in range(8, 24)
        }
        (shared / "blocks.json").write_text(json.dumps(blocks))
        if more:
            (shared / "more.conf").write_text("\n".join(("[Service]", *more, "")))
        container = subprocess.run(  # noqa: S603
            [
                str(shutil.which("systemd-nspawn")), "--boot", "--quiet",
                "--register=no", "--keep-unit", "--private-network",
                f"--directory={root}", f"--bind={shared}:/campaign",
            ],
            check=False,
            capture_output=True,
            timeout=_SECONDS,
        )  # fmt: skip
        report = shared / "report.json"
        if not report.exists():
            said = (container.stdout + container.stderr)[-3000:].decode(errors="replace")
            return {"boot": f"the machine has left no report:\n{said}"}
        found: dict[str, str] = json.loads(report.read_text())
        return found


def main() -> None:
    """Run it, and exit with 1 if something was wrong."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--root", type=Path, default=ROOT, help=f"[default: {ROOT}]")
    parser.add_argument("--wheel", type=Path, help="[default: the one in build/wheel]")
    parser.add_argument(
        "--with", dest="more", action="append", default=[], metavar="LINE",
        help="one more line for the unit, such as MemoryDenyWriteExecute=yes",
    )  # fmt: skip
    options = parser.parse_args()
    why = missing(options.root)
    if why is not None:
        sys.exit(why)
    wheels = sorted((Path(__file__).parents[2] / "build" / "wheel").glob("*.whl"))
    make_root(options.root, options.wheel or wheels[-1])
    report = boot(options.root, options.more)
    for story, outcome in report.items():
        print(f"{story}: {outcome}")
    sys.exit(0 if all(report.get(story) == "well" for story in STORIES) else 1)


if __name__ == "__main__":
    main()
