"""The daemon under supervisord, with the configuration file that is shipped for it."""

import os
import pwd
import re
import shutil
import signal
import tempfile
from configparser import RawConfigParser
from pathlib import Path

from twisted.internet import error
from twisted.trial.unittest import TestCase

from tests.support.daemonprocess import reserve_port
from tests.support.filewatch import FileWatch
from tests.support.harness import Answer, Client, reactor
from tests.support.programs import (
    ROOT,
    command,
    run,
    signer_script,
    start,
    start_signer_command,
)
from tests.support.vectors import TZ3, block
from tezio_signer.launch.foreground import RESTART_PAUSE

_SHIPPED = ROOT / "deploy" / "supervisor" / "tezio-signer.conf"
_PROGRAM = "program:tezio-signer"

# Includes what is shipped as it is, and after it what differs on this machine.
_SUPERVISORD = """
[supervisord]
nodaemon=true
pidfile={root}/supervisord.pid
logfile={root}/supervisord.log
childlogdir={root}

[unix_http_server]
file={root}/supervisor.sock

[supervisorctl]
serverurl=unix://{root}/supervisor.sock

[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface

[include]
files = {shipped} {root}/tezio-signer.local.conf
"""
_CONFIGURATION = """
policy: {{signing_keys: {{{key}: {{allowed_ops: [block], auth_req: False}}}}}}
hsms: [{{port: {root}/hsm}}]
listen: {{http: ["tcp:{port}:interface=127.0.0.1"]}}
watermarks: {{store: "sqlite:{root}/var/lib/tezio-signer/watermarks.sqlite"}}
"""


def _local_lines(root: Path) -> str:
    """The shipped lines with paths, moved below a directory, and the user of these tests."""
    shipped = RawConfigParser()
    shipped.read(_SHIPPED)
    lines = [f"[{_PROGRAM}]", f"user={pwd.getpwuid(os.getuid()).pw_name}"]
    # supervisord gives up after so many starts that count as failed: there must be none.
    lines.append("startretries=1")
    for name, value in shipped[_PROGRAM].items():
        moved = re.sub("/(opt|etc|var)/", rf"{root}/\1/", value)
        if moved != value:
            lines.append(f"{name}={moved}")
    return "\n".join(lines)


class SupervisorTests(TestCase):
    """A signer under supervisord, with a simulated HSM in a process of its own."""

    timeout = 60

    async def setUp(self) -> None:  # type: ignore[override]
        self.supervisorctl = command("supervisorctl")
        # Not in the directory of the test: the path of a Unix socket has to be short.
        root = Path(tempfile.mkdtemp(prefix="tezio-"))
        self.addCleanup(shutil.rmtree, root)
        self.main_file = root / "supervisord.conf"
        self.main_file.write_text(_SUPERVISORD.format(root=root, shipped=_SHIPPED))
        (root / "tezio-signer.local.conf").write_text(_local_lines(root))
        program = root / "opt" / "tezio-signer" / "bin" / "tezio-signer"
        config = root / "etc" / "tezio-signer" / "config.yaml"
        for directory in (program.parent, config.parent, root / "var" / "lib" / "tezio-signer"):
            directory.mkdir(parents=True)
        self.log = root / "var" / "log" / "supervisor" / "tezio-signer.log"
        self.log.parent.mkdir(parents=True)
        self.heard = 0
        self.written = FileWatch(self, self.log.parent)
        program.write_text(signer_script())
        program.chmod(0o755)
        self.client = Client(self.free_port())
        self.config = config
        config.write_text(_CONFIGURATION.format(root=root, key=TZ3, port=self.client.port))
        hsm = start_signer_command(self, "simulate", "--latency", "0", "--link", f"{root}/hsm")
        await hsm.says("simulated HSM at")
        init = start_signer_command(self, "watermarks", "init", "--config", str(config))
        await init.says("created ")
        arguments = [command("supervisord"), "-c", str(self.main_file)]
        if os.geteuid() == 0:  # with the rights of any other user, as where it is installed
            arguments = [command("setpriv"), "--bounding-set=-all", *arguments]
        self.supervisord = start(self, arguments)

    def free_port(self) -> int:
        """A port that nobody else gets while the test runs, but on which we can listen."""
        reserved = reserve_port()
        self.addCleanup(reserved.close)
        port: int = reserved.getsockname()[1]
        return port

    async def running(self) -> int:
        """The process id of the daemon that supervisord has started, once it serves its key.

        supervisord knows that the process runs, and not that it serves: that is in its log.
        """
        spawned = await self.supervisord.says(r"spawned: 'tezio-signer' with pid (\d+)\n")
        await self.written.until(lambda: "is ready: slot" in self.said_since())
        self.heard += len(self.said_since())
        return int(spawned[1])

    def said_since(self) -> str:
        """What the daemon has logged since it was waited for the last time."""
        return self.log.read_text()[self.heard :] if self.log.exists() else ""

    async def sign_block(self, payload_byte: int) -> Answer:
        """Ask for one of the blocks at one level and round."""
        return await self.client.sign(TZ3, block(7_000_000, 0, payload_byte))

    async def test_killed(self) -> None:
        """The watermark survives SIGKILL: the same block, the same signature; no other block."""
        first_process = await self.running()
        before = await self.sign_block(0x41)
        self.assertEqual(before.status, 200, before.body)
        await self.supervisord.says("tezio-signer entered RUNNING state")
        os.kill(first_process, signal.SIGKILL)
        await self.supervisord.says("exited: tezio-signer .terminated by SIGKILL")
        self.assertNotEqual(await self.running(), first_process)
        again = await self.sign_block(0x41)
        self.assertEqual((again.status, again.body), (200, before.body))
        other = await self.sign_block(0x42)
        self.assertEqual(other.status, 409)
        self.assertIn(b"already signed with different data", other.body)

    async def test_stopped(self) -> None:
        """`supervisorctl stop` ends it by SIGTERM, in good order, and it stays stopped."""
        await self.running()
        said = await self.ask_supervisorctl("stop", "tezio-signer")
        self.assertEqual(said, "tezio-signer: stopped\n")
        await self.supervisord.says(r"stopped: tezio-signer \(exit status 0\)\n")
        self.assertIn("info the signer has stopped\n", self.log.read_text())
        with self.assertRaises(error.ConnectionRefusedError):
            await self.client.request("GET", "/")

    async def test_reloaded(self) -> None:
        """`supervisorctl signal HUP` has the same process go by another configuration."""
        process = await self.running()
        text = self.config.read_text()
        for line, says in (
            ("verbose: 1", "verbose: True or False is expected"),
            ("list_known_keys: True", "changed: list_known_keys"),
        ):
            self.config.write_text(f"{text}{line}\n")
            said = await self.ask_supervisorctl("signal", "HUP", "tezio-signer")
            self.assertEqual(said, "tezio-signer: signalled\n")
            await self.written.until(lambda says=says: says in self.said_since())  # type: ignore[misc]
        self.assertEqual((await self.client.request("GET", "/known_keys")).status, 200)
        os.kill(process, 0)
        self.assertNotIn("exited:", self.supervisord.said)

    async def test_store_that_comes_late(self) -> None:
        """However often it cannot start, the next start follows soon, until it can."""
        await self.running()
        await self.ask_supervisorctl("stop", "tezio-signer")
        store = self.main_file.parent / "var" / "lib" / "tezio-signer" / "watermarks.sqlite"
        away = self.main_file.parent / "away"
        os.rename(store, away)
        await self.ask_supervisorctl("start", "tezio-signer")
        pids, began = [], reactor.seconds()
        for _ in range(4):
            ended = await self.supervisord.says(
                r"spawned: 'tezio-signer' with pid (\d+)\n(?:.*\n)*?.*exited: .*exit status 1"
            )
            pids.append(ended[1])
        took = reactor.seconds() - began
        self.assertEqual(len(set(pids)), 4)
        self.assertTrue(4 * RESTART_PAUSE < took < 4 * 6, f"4 starts took {took:.1f} s")
        self.assertIn("watermarks.sqlite was here before", self.log.read_text())
        os.rename(away, store)
        await self.running()
        self.assertEqual((await self.sign_block(0x41)).status, 200)
        for word in ("FATAL", "gave up", "BACKOFF"):
            self.assertNotIn(word, self.supervisord.said)

    async def ask_supervisorctl(self, *arguments: str) -> str:
        """What a supervisorctl command says."""
        return await run(self, [self.supervisorctl, "-c", str(self.main_file), *arguments])
