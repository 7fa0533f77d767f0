"""What tests of the daemon as a process have in common."""

from pathlib import Path

from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase

from tests.support.daemonprocess import FREE_PORT, Process, serving, start_daemon
from tests.support.harness import Answer, HeldHarness
from tests.support.octezsocketclient import (
    OctezSocketClient,
)
from tests.support.vectors import SHIPPED, TZ3, block
from tezio_signer.watermarks.sqlite import store as sqlite


class ProcessTestCase(TestCase):
    """Runs daemons in a directory of its own."""

    timeout = 60

    def setUp(self) -> None:
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir()

    def configure(self, more: str = "", store: bool = True) -> None:
        """Lay down the shipped configuration with something added, and a store."""
        text = SHIPPED.read_text("utf-8")
        (self.directory / "config.yaml").write_text(f"{text}\n{more}\n", "utf-8")
        if store:
            sqlite.create(self.directory / "watermarks.sqlite")

    def start(self, *options: str) -> Process:
        """Start a daemon on a free port."""
        return start_daemon(self, self.directory, "--http", FREE_PORT, *options)

    async def socket_client(self, daemon: Process) -> OctezSocketClient:
        """A client of a daemon that speaks the socket protocol on a free port."""
        port = await daemon.says(r"OctezSocketFactory starting on (\d+)\n")
        return OctezSocketClient(f"tcp:127.0.0.1:{port[1]}")

    def assert_quiet(self, daemon: Process) -> None:
        """Check that a log has neither traces of faults nor of developers."""
        for word in ("Traceback", "Unhandled", " debug ", " critical "):
            self.assertNotIn(word, daemon.log)

    async def signing(
        self, *options: str, more: str = ""
    ) -> tuple[HeldHarness, Process, Deferred[Answer]]:
        """A board that has been asked for a signature, the daemon, and who waits for it."""
        board = HeldHarness()
        board.simulator.startService()
        self.addCleanup(board.simulator.stopService)
        self.configure(f"hsms: [{{port: {board.simulator.port}}}]\n{more}")
        daemon = self.start(*options)
        client = await serving(daemon)
        answering = Deferred.fromCoroutine(client.sign(TZ3, block(10, 0)))
        await board.asked()
        return board, daemon, answering
