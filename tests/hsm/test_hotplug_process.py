"""A whole daemon where the kernel tells nothing of ports, or that their directory has gone."""

import contextlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from unittest import SkipTest

from tests.support.daemonprocess import COMMAND, FREE_PORT, Process, serving, spawn
from tests.support.harness import reactor
from tests.support.processcase import ProcessTestCase
from tests.support.vectors import PAYLOADS, TZ3, block
from tezio_signer.simulator.firmware import Firmware
from tezio_signer.simulator.service import Simulator

_LIMITS = "/proc/sys/user"
_UNSHARE = ("unshare", "--user", "--map-root-user")


class ExhaustedTests(ProcessTestCase):
    """A daemon whose user has used up what the kernel gives, really: in a namespace of its own."""

    def _exhausted(self, limit: str) -> Process:
        """A daemon with this limit at nought, of which nothing outside is affected."""
        unshare = shutil.which(_UNSHARE[0])
        if unshare is None:
            raise SkipTest("there is no unshare(1) to run the daemon in a user namespace")
        setting = f"echo 0 > {_LIMITS}/{limit}"
        tried = subprocess.run(  # noqa: S603
            [unshare, *_UNSHARE[1:], "sh", "-c", setting], capture_output=True, check=False
        )
        if tried.returncode:
            raise SkipTest(f"no limits in a user namespace here: {tried.stderr.decode().strip()}")
        command = f'{setting}; exec "$0" "$@"'
        daemon = spawn(
            [
                *(unshare, *_UNSHARE[1:], "sh", "-c", command),
                *(sys.executable, "-c", COMMAND, "run", "--simulate", "--http", FREE_PORT),
            ],
            self.directory,
            {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        self.addCleanup(daemon.kill)
        return daemon

    async def _serves(self, limit: str, reason: str) -> None:
        daemon = self._exhausted(limit)
        client = await serving(daemon)
        answer = await client.sign(TZ3, block(10, 0))
        self.assertEqual(answer.status, 200)
        self.assertEqual(daemon.log.count("the kernel does not tell of changes in /dev"), 1)
        self.assertIn(reason, daemon.log)
        daemon.send("TERM")
        self.assertEqual(await daemon.exits(), 0)
        self.assert_quiet(daemon)

    async def test_no_instances(self) -> None:
        """Without an inotify instance the daemon finds boards by looking, and says so once."""
        await self._serves("max_inotify_instances", "INotify initialization error")

    async def test_no_watches(self) -> None:
        """So it does when no watch is left."""
        await self._serves("max_inotify_watches", "Failed to add watch")


class VanishingTests(ProcessTestCase):
    """A port in a directory that goes with its last board."""

    async def test_directory_goes_and_comes(self) -> None:
        """The board is used again when directory and link are back, and the stop is clean."""
        board = Simulator(reactor, Firmware(), 0)
        board.startService()
        self.addCleanup(board.stopService)
        by_id = self.directory / "serial" / "by-id"
        link = by_id / "usb-Arduino"

        def lay_down() -> None:
            by_id.mkdir(parents=True)
            link.symlink_to(str(board.port))

        lay_down()
        self.configure(f"hsms: [{{port: {link}}}]")
        daemon = self.start()
        client = await serving(daemon)
        for level in (10, 11):
            shutil.rmtree(by_id.parent)
            board.unplug()
            await self._says_times(daemon, "was unplugged", level - 9)
            board.firmware.power_cycle()
            board.plug_in()
            lay_down()
            await self._says_times(daemon, r"HSM \S+ is ready", level - 8)
            self.assertEqual((await client.sign(TZ3, PAYLOADS["noop"])).status, 200)
            # It may have been found by looking; each answer lets the daemon go on by a turn.
            while self._watched(daemon) != 2:  # /dev and the directory of the link
                await client.request("GET", "/")
        daemon.send("TERM")
        self.assertEqual(await daemon.exits(), 0)
        self.assert_quiet(daemon)
        self.assertNotIn("INotify", daemon.log)

    def _watched(self, daemon: Process) -> int:
        """How many inotify descriptors a daemon has open."""
        assert daemon.transport is not None
        opened = Path(f"/proc/{daemon.transport.pid}/fd")
        watched = 0
        for link in opened.iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                watched += "inotify" in str(link.readlink())
        return watched

    async def _says_times(self, daemon: Process, words: str, times: int) -> None:
        await daemon.says(f"(?s)({words}.*){{{times}}}")
