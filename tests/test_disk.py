"""The daemon as a real process on a disk that takes no more, and later does again."""

import json
from pathlib import Path
from resource import RLIMIT_FSIZE, prlimit

from tests.support.daemonprocess import Process, serving
from tests.support.harness import Client, reactor
from tests.support.octezclient import message_in
from tests.support.processcase import ProcessTestCase
from tests.support.vectors import PAYLOADS, TZ3, block, consensus
from tezio_signer.simulator.firmware import Firmware
from tezio_signer.simulator.service import Simulator
from tezio_signer.watermarks.sqlite import reading

_FRAME = 24 + 4096
"""Bytes that SQLite appends to its log for one changed page."""


class UnwritableDiskTests(ProcessTestCase):
    """A daemon whose files may not grow beyond a size, which binds every user.

    The system refuses what is written beyond it as it does on a full disk, also a part of a write.
    """

    def setUp(self) -> None:
        super().setUp()
        link = str(self.directory / "hsm")
        simulator = Simulator(reactor, Firmware(), 0, link)
        simulator.startService()
        self.addCleanup(simulator.stopService)
        self.configure(f"hsms: [{{port: {link}}}]")
        self.store = self.directory / "watermarks.sqlite"

    async def serving(self) -> tuple[Process, Client]:
        """A daemon with its HSM."""
        daemon = self.start()
        return daemon, await serving(daemon)

    def limit(self, daemon: Process, size: int | None) -> None:
        """Let files of the daemon grow to this size; None: to any."""
        assert daemon.transport is not None
        pid: int = daemon.transport.pid
        _, hard = prlimit(pid, RLIMIT_FSIZE)
        prlimit(pid, RLIMIT_FSIZE, (hard if size is None else size, hard))

    @property
    def log(self) -> Path:
        """What SQLite appends commits to."""
        return self.store.with_name(f"{self.store.name}-wal")

    async def test_refused_and_back(self) -> None:
        """Baking is refused with the reason while nothing can be written, and only baking.

        When the disk is well again, the same payload is signed without a restart, another
        one at its position is not.
        """
        daemon, client = await self.serving()
        stored = await client.sign(TZ3, consensus("att", 10, 0))
        self.limit(daemon, 0)
        payloads = [block(11, 0), consensus("preatt", 11, 0)]
        for payload in payloads * 2:
            answer = await client.sign(TZ3, payload)
            self.assertEqual(answer.status, 502, answer.body)
            self.assertEqual(
                message_in(answer.body),
                f"no signature without a stored watermark: watermark store {self.store}: "
                "disk I/O error: File too large",
            )
        self.assertEqual((await client.sign(TZ3, block(11, 0, 0x41))).status, 409)
        self.assertEqual((await client.sign(TZ3, PAYLOADS["noop"])).status, 200)
        self.assertEqual((await client.sign(TZ3, consensus("att", 10, 0))).body, stored.body)
        self.limit(daemon, None)
        self.assertEqual((await client.sign(TZ3, block(11, 0, 0x41))).status, 409)
        for payload in [*payloads, block(12, 0)]:
            self.assertEqual((await client.sign(TZ3, payload)).status, 200)
        self.assert_quiet(daemon)

    async def test_cut_off_within_a_commit(self) -> None:
        """However much of a commit was still written, the store covers all that has left.

        The daemon is killed then, and the next one opens what is there.
        """
        levels = iter(range(10, 100))
        daemon, client = await self.serving()
        for part in (25, 2000, _FRAME):
            left = {}
            for size in (None, self.log.stat().st_size + part):
                self.limit(daemon, size)
                level = next(levels)
                answer = await client.sign(TZ3, block(level, 0))
                if answer.status == 200:
                    left[level] = json.loads(answer.body)["signature"]
            await daemon.kill()
            (mark,) = reading.read(self.store).values()
            self.assertEqual((answer.status, list(left)), (502, [level - 1]))
            if mark.level < level:
                self.assertEqual((mark.level, str(mark.signature)), (level - 1, left[level - 1]))
            daemon, client = await self.serving()
            self.assertEqual((await client.sign(TZ3, block(level - 1, 0, 0x41))).status, 409)
