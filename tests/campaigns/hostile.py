"""A baker that signs while others attack the daemon: `python -m tests.campaigns.hostile`.

The daemon is a process of its own, so are the attackers, who come from other loopback
addresses than the baker and once from the baker's own. During an attack no signature
may take more than twice what 99 of 100 take in quiet, and the daemon stays small.
"""

import argparse
import json
import os
import re
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from subprocess import PIPE, Popen
from threading import Thread

from attrs import field, frozen
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from tests.campaigns.attackers import ATTACKS
from tests.campaigns.rig import percentile, run
from tests.certificates import Authority
from tests.octezclient import HSM_KEYS, OctezClient, verifies
from tests.stand import reactor
from tests.vectors import TZ3, consensus

PERIOD = 0.1
"""Seconds from one request of the baker to the next, at least."""
MOST_MEMORY = 120 * 2**20
BAKER, STRANGER = "127.0.0.1", "127.0.0.2"
_TWISTD = "from twisted.scripts.twistd import run; run()"
_ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))}
_MEGABYTE = 2**20


@frozen
class Outcome:
    """What the baker saw during an attack.

    :ivar seconds: how long each signature took.
    :ivar memory: the most bytes of the daemon in memory.
    """

    name: str
    seconds: tuple[float, ...]
    failed: tuple[str, ...]
    memory: int
    made: int = 0
    refused: int = 0

    def __str__(self) -> str:
        p50, p99 = (1000 * percentile(self.seconds, share) for share in (0.5, 0.99))
        return (
            f"{self.name:34} {len(self.seconds):5} signed {len(self.failed):3} failed  "
            f"p50 {p50:4.0f}  p99 {p99:4.0f}  max {1000 * max(self.seconds):4.0f} ms  "
            f"RSS {self.memory / _MEGABYTE:5.1f} MB  "
            f"{self.made:7} connections, {self.refused} refused or closed"
        )


@frozen
class Report:
    """The quiet time, and each attack."""

    quiet: Outcome
    attacks: list[Outcome] = field(factory=list)

    @property
    def allowed(self) -> float:
        """Seconds that a signature may take during an attack."""
        return 2 * percentile(self.quiet.seconds, 0.99)

    @property
    def broken(self) -> list[str]:
        """The names of attacks during which a promise was not kept."""
        return [
            outcome.name
            for outcome in self.attacks
            if outcome.failed or max(outcome.seconds) > self.allowed or outcome.memory > MOST_MEMORY
        ]


class Daemon:
    """`twistd tezio-signer` on free ports of loopback, with HTTP and HTTPS."""

    def __init__(self, directory: Path) -> None:
        server = Authority(directory).certify("server", server=True)
        tls = f"ssl:0:interface=127.0.0.1:privateKey={server.key}:certKey={server.certificate}"
        config = directory / "config.yaml"
        config.write_text(
            "policy:\n"
            f"  signing_keys: {{{TZ3}: {{allowed_ops: [attestation], auth_req: False}}}}\n"
            "allowed_ips: [127.0.0.0/8]\n"
            "listen:\n"
            f"  http: ['tcp:0:interface=127.0.0.1', '{tls}']\n"
            "  octez_socket: ['tcp:0:interface=127.0.0.1']\n"
        )
        arguments = ["-n", "--pidfile=", "tezio-signer", "--simulate", "--config", str(config)]
        self._process = Popen(  # noqa: S603
            [sys.executable, "-c", _TWISTD, *arguments],
            stdout=PIPE,
            stderr=PIPE,
            text=True,
            env=_ENVIRONMENT,
        )
        self.port = self._told(r"SignerSite starting on (\d+)")
        self.tls_port = self._told(r"SignerSite \(TLS\) starting on (\d+)")
        self.socket_port = self._told(r"OctezSocketFactory starting on (\d+)")
        self._told(r"HSM .* is ready()")
        # What it logs from now on has to go somewhere, or it would wait for a reader.
        for stream in (self._process.stdout, self._process.stderr):
            assert stream is not None
            Thread(target=stream.read, daemon=True).start()

    def _told(self, pattern: str) -> int:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if found := re.search(pattern, line):
                return int(found[1] or 0)
        assert self._process.stderr is not None
        raise AssertionError(f"the daemon has ended: {self._process.stderr.read()}")

    @property
    def memory(self) -> int:
        """Bytes of it in memory."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) * 1024

    def stop(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait()


class Baker:
    """Has attestations of rising levels signed, as Octez does, and counts the time."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._client = OctezClient(daemon.port)
        self._level = 1

    async def bake(self, name: str, seconds: float, attacker: list[str] | None = None) -> Outcome:
        """Sign for a while, during an attack or in quiet."""
        process = attacker and Popen(  # noqa: S603
            attacker, stdout=PIPE, text=True, env=_ENVIRONMENT
        )
        until = reactor.seconds() + seconds
        took, failed, memory = [], [], 0
        while reactor.seconds() < until:
            began = reactor.seconds()
            self._level += 1
            payload = consensus("att", self._level, 0)
            try:
                signature = await self._client.sign(str(TZ3), payload)
            except Exception as error:
                failed.append(repr(error))
            else:
                took.append(reactor.seconds() - began)
                if not verifies(HSM_KEYS[2].public_key, payload, signature):
                    failed.append(f"level {self._level} does not verify")
            memory = max(memory, self._daemon.memory)
            pause = max(0.0, began + PERIOD - reactor.seconds())
            await deferLater(reactor, pause)
        self._client.sent.clear()
        said = {}
        if process:
            said = json.loads((await deferToThread(process.communicate))[0])
        return Outcome(name, tuple(took) or (seconds,), tuple(failed), memory, **said)


async def campaign(
    seconds: float,
    names: Sequence[str] = tuple(ATTACKS),
    own: Sequence[str] | None = None,
    say: Callable[[str], object] = bool,
) -> Report:
    """Measure in quiet, then during each attack for so many seconds.

    :param own: the attacks that come from the baker's own address too; all by default.
    :param say: told of each outcome as soon as it is there.
    """
    with tempfile.TemporaryDirectory() as directory:
        daemon = await deferToThread(Daemon, Path(directory))
        baker = Baker(daemon)
        try:
            await baker.bake("warming up", 1)
            report = Report(await baker.bake("quiet", seconds))
            say(str(report.quiet))
            for source, attacks in ((STRANGER, names), (BAKER, names if own is None else own)):
                for name in attacks:
                    command = [
                        *(sys.executable, "-m", "tests.campaigns.attackers", name),
                        *("--port", str(daemon.port), "--tls-port", str(daemon.tls_port)),
                        *("--socket-port", str(daemon.socket_port)),
                        *("--source", source, "--seconds", str(seconds)),
                    ]
                    outcome = await baker.bake(f"{name} from {source}", seconds, command)
                    report.attacks.append(outcome)
                    say(str(outcome))
        finally:
            await deferToThread(daemon.stop)
    return report


def main() -> None:
    """Run all attacks; exit with 1 if a promise was not kept."""
    parser = argparse.ArgumentParser(prog="python -m tests.campaigns.hostile", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="for each attack")
    parser.add_argument("--attack", action="append", choices=ATTACKS, help="only these")
    options = parser.parse_args()
    names = options.attack or list(ATTACKS)
    report = run(lambda: campaign(options.seconds, names, say=partial(print, flush=True)))
    print(f"allowed: {1000 * report.allowed:.0f} ms and {MOST_MEMORY // _MEGABYTE} MB")
    for name in report.broken:
        print(f"broken: {name}")
    sys.exit(1 if report.broken else 0)


if __name__ == "__main__":
    main()
