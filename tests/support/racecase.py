"""A case whose boards, store and disk do what the test says, when it says it."""

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.support.fakeboard import FakeBoard, FakePorts
from tests.support.harness import settings_with, submission
from tests.support.octezclient import good
from tests.support.stores import FailingStore, HeldWriter, watermarks_on
from tests.support.vectors import TZ3
from tezio_signer.config.settings import Settings
from tezio_signer.errors import (
    Unavailable,
)
from tezio_signer.hsm.boards import Board
from tezio_signer.hsm.pool import HsmPool
from tezio_signer.signer import Signer
from tezio_signer.tezos.keys import Signature

DEADLINE = 6.0
"""Seconds after which a client is told that its signature is not there."""


class RaceTestCase(SynchronousTestCase):
    """A signer on boards that answer when the test says so, on a store and a disk that obey it."""

    boards = 1

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(1000)  # as any clock has run for a while
        self.store = FailingStore()
        self.disk: HeldWriter | None = None
        self.plugged = {f"port{number}": FakeBoard() for number in range(self.boards)}
        self.pool = HsmPool(
            self.clock,
            FakePorts(
                self.clock,
                lambda: [Board(port, f"serial of {port}") for port in self.plugged],
                lambda protocol, port: self.plugged[port].open(protocol, port),
            ),
        )
        self.pool.startService()
        self.addCleanup(self.pool.stopService)
        for board in self.plugged.values():
            board.serve()
        self.signer = self.made()

    def made(self, settings: Settings | None = None, disk: HeldWriter | None = None) -> Signer:
        """A signer, on a disk that writes at once unless another is given."""
        if disk is None:
            self.watermarks = watermarks_on(lambda: self.store)
        else:
            self.watermarks = watermarks_on(lambda: self.store, lambda: disk)
        self.watermarks.startService()
        self.addCleanup(self.watermarks.stopService)
        return Signer(settings or settings_with(), self.pool, self.watermarks, self.clock)

    @property
    def board(self) -> FakeBoard:
        """The first board."""
        return next(iter(self.plugged.values()))

    def submit(self, payload: bytes) -> Deferred[Signature]:
        """Ask for a signature of tz3."""
        return self.signer.submit(submission(payload))

    def as_another_daemon_had_it(self, payload: bytes) -> Signature:
        """A signature by the same key, of which the board's own watermark knows nothing."""
        made = self.pool.sign(TZ3, payload).result
        self.board.serve()
        self.board.firmware.power_cycle()
        return self.successResultOf(made)

    def told(self, request: Deferred[Signature], kind: type[Exception] = Unavailable) -> str:
        """Why a request has been refused."""
        return str(self.failureResultOf(request, kind).value)

    def signed(self, request: Deferred[Signature], payload: bytes) -> Signature:
        """The signature that a request has got."""
        signature = self.successResultOf(request)
        self.assertTrue(good(TZ3, payload, signature))
        return signature
