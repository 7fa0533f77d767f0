"""The audit log of a daemon as a process: rotation, a second daemon, the stop."""

import json
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from tests.support.daemonprocess import FREE_PORT, Process, serving, start_command, start_daemon
from tests.support.harness import Client, reactor
from tests.support.vectors import SHIPPED, TZ3, block


class ProcessTests(TestCase):
    """A daemon with an audit log that is required."""

    timeout = 60

    def setUp(self) -> None:
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir()
        self.log = self.directory / "audit.jsonl"
        config = f"{SHIPPED.read_text('utf-8')}\naudit: {{file: audit.jsonl, required: True}}\n"
        (self.directory / "config.yaml").write_text(config, "utf-8")

    async def start(self) -> tuple[Process, Client]:
        """Start it, and wait until it serves."""
        daemon = start_daemon(self, self.directory, "--simulate", "--http", FREE_PORT)
        return daemon, await serving(daemon)

    def lines(self, name: str = "audit.jsonl") -> list[dict[str, Any]]:
        """What is in a file of the log."""
        path = self.directory / name
        return [json.loads(line) for line in path.read_bytes().splitlines()]

    async def verified(self, *options: str) -> str:
        """What the command says, which has to be content."""
        command = start_command(self, self.directory, "audit", "verify", *options)
        self.assertEqual(await command.exits(), 0, command.log)
        return command.out

    async def test_life(self) -> None:
        """Each request has its line when its answer is there; the log of the daemon has the head.

        The log is verified beside the daemon too, and behind it with that head.
        """
        daemon, client = await self.start()
        await daemon.says(r"audit log: \S+/audit.jsonl, required\n")
        for level in (5, 6):
            self.assertEqual((await client.sign(TZ3, block(level, 0))).status, 200)
        self.assertEqual((await client.sign(TZ3, block(6, 0, 9))).status, 409)
        signed = [line for line in self.lines() if line.get("outcome") == "signed"]
        self.assertEqual([line["level"] for line in signed], [5, 6])
        self.assertEqual(signed[1]["mark"], {"before": [5, 0], "after": [6, 0]})
        self.assertEqual(len({line["device"] for line in signed}), 1)
        await self.verified()
        daemon.send("TERM")
        self.assertEqual(await daemon.exits(), 0)
        *_, refused, stop = self.lines()
        self.assertEqual((refused["status"], refused["rule"]), (409, "watermark"))
        self.assertEqual(stop["kind"], "stop")
        head = await daemon.says(r"audit log \S+ ends with line (\d+:[0-9a-f]{64})\n")
        self.assertIn(head[1], await self.verified(f"--head={head[1]}"))

    async def test_rotation(self) -> None:
        """SIGHUP has a daemon whose file was moved away go on in a new one, and serve on."""
        daemon, client = await self.start()
        self.log.rename(self.directory / "audit.jsonl.1")
        daemon.send("HUP")
        while not self.log.exists() or len(self.lines()) < 2:
            await deferLater(reactor, 0.01)
        self.assertEqual([line["kind"] for line in self.lines()], ["file", "reopen"])
        self.assertEqual((await client.sign(TZ3, block(5, 0))).status, 200)
        self.assertEqual(self.lines()[-1]["outcome"], "signed")
        self.assertIn("audit.jsonl.1, ", await self.verified())

    async def test_second_daemon(self) -> None:
        """A second daemon with the same audit log does not start, and says why."""
        daemon, client = await self.start()
        second = start_daemon(self, self.directory, "--simulate", "--http", FREE_PORT)
        self.assertEqual(await second.exits(), 1)
        assert daemon.transport is not None
        self.assertIn(
            f"audit.jsonl: it is in use by a running signer (process {daemon.transport.pid}); "
            "stop that one, or name another file",
            second.log,
        )
        self.assertNotIn("Traceback", second.log)
        self.assertEqual((await client.sign(TZ3, block(5, 0))).status, 200)
        await self.verified()

    async def test_no_directory(self) -> None:
        """A directory that is missing is one sentence at the start."""
        config = self.directory / "config.yaml"
        config.write_text(config.read_text("utf-8").replace("audit.jsonl", "none/audit.jsonl"))
        daemon = start_daemon(self, self.directory, "--simulate", "--http", FREE_PORT)
        ended: Deferred[int] = daemon.exits()
        self.assertEqual(await ended, 1)
        self.assertIn(f"there is no directory {self.directory}/none; create it", daemon.log)
        self.assertNotIn("Traceback", daemon.log)
