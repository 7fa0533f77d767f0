"""A store in etcd that has lost marks, or gone bad, under daemons that go on running."""

from typing import Any, cast

from attrs import define
from twisted.internet.task import Clock
from twisted.logger import LogLevel, capturedLogs, formatEvent
from twisted.python.monkey import MonkeyPatcher
from twisted.trial.unittest import SynchronousTestCase

from tests.support.fakeetcd import FakeEtcd, FakeGateway, store_through
from tests.support.vectors import TZ3, block, consensus
from tezio_signer.errors import Conflict, StartupError, Unavailable
from tezio_signer.tezos.keys import Curve, Signature
from tezio_signer.tezos.payload import Baking, decode
from tezio_signer.watermarks.claims import Claim, Watermarks
from tezio_signer.watermarks.readingloop import REFRESH_INTERVAL
from tezio_signer.watermarks.store import StoreAwayError

OLD, NEW, OTHER = block(100, 0), block(101, 0, 0x40), block(101, 0, 0x41)
SIGNATURE = Signature(Curve.P256, b"\x01" * 64)


@define
class Daemon:
    """The watermarks of a daemon, and its way to etcd."""

    watermarks: Watermarks
    gateway: FakeGateway

    def claim(self, data: bytes) -> Claim:
        """Claim the position of a payload."""
        return self.watermarks.claim(TZ3, cast(Baking, decode(data)), data)


class RecoveryTestCase(SynchronousTestCase):
    """Two daemons on one etcd, which knows that the first has signed."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.etcd = FakeEtcd()
        self.successResultOf(store_through(FakeGateway(self.etcd, self.clock)).create())
        self.ended: list[StartupError] = []
        self.first, self.second = self.started(), self.started()
        self.signed(self.first, OLD)
        self.refresh()
        self.backup = self.etcd.snapshot()

    def started(self) -> Daemon:
        """A daemon that was just started."""
        gateway = FakeGateway(self.etcd, self.clock)
        store = store_through(gateway, self.clock)
        watermarks = Watermarks(lambda: store, {}, self.clock, self.ended.append)
        watermarks.startService()
        self.addCleanup(watermarks.stopService)
        return Daemon(watermarks, gateway)

    def signed(self, daemon: Daemon, data: bytes) -> None:
        """A signature leaves."""
        claim = daemon.claim(data)
        self.successResultOf(claim.durable)
        self.assertEqual(self.successResultOf(claim.complete(SIGNATURE)), SIGNATURE)

    def refresh(self) -> None:
        """All daemons read the store once more."""
        self.clock.advance(REFRESH_INTERVAL)

    def refuse_writes(self) -> MonkeyPatcher:
        """Have no room in etcd, until this is restored."""
        answer = self.etcd.answer

        def read_only(path: str, question: dict[str, Any]) -> dict[str, Any]:
            if any("request_put" in request for request in question.get("success", ())):
                raise StoreAwayError("no space")
            return answer(path, question)

        refusal: MonkeyPatcher = self.patch(self.etcd, "answer", read_only)
        return refusal


class RestoredTests(RecoveryTestCase):
    """A backup was restored: marks are lower, or gone."""

    def setUp(self) -> None:
        super().setUp()
        self.signed(self.first, NEW)
        self.signed(self.first, consensus("att", 7, 0))
        self.etcd.restore(self.backup)

    def test_written_back(self) -> None:
        """Who has seen the marks writes them back, and a daemon that starts then knows them."""
        with capturedLogs() as events:
            self.refresh()
        said = [formatEvent(e) for e in events if e["log_level"] is LogLevel.critical]
        self.assertEqual(sum("is written back" in sentence for sentence in said), 2)
        fresh = self.started()
        self.assertRaises(Conflict, fresh.claim, OTHER)
        self.assertEqual(fresh.claim(NEW).signature, SIGNATURE)
        self.assertRaises(Conflict, fresh.claim, consensus("att_dal_5", 7, 0))

    def test_revision_of_before(self) -> None:
        """Also when others have written since, so that etcd has not gone back in time."""
        self.assert_noticed(4)  # as many as were made since the backup

    def test_revision_far_ahead(self) -> None:
        """Also when the backup was restored with a higher revision (`--bump-revision`)."""
        self.assert_noticed(10**9)

    def assert_noticed(self, further: int) -> None:
        """The marks are written back within a minute, to a daemon that starts then."""
        self.etcd.revision += further
        with capturedLogs():
            for _ in range(12):
                self.refresh()
        self.assertRaises(Conflict, self.started().claim, OTHER)

    def test_failing_writes(self) -> None:
        """However often writing fails, the store is read, and what others sign is learned."""
        with capturedLogs():
            self.refresh()
            self.signed(self.second, block(102, 0))
            self.refuse_writes()
            for number in range(20):
                self.first.claim(consensus("preatt", 200 + number, 0)).durable.addErrback(
                    lambda failure: failure.trap(Unavailable)
                )
                self.clock.advance(0.5)
        conflict = self.assertRaises(Conflict, self.first.claim, block(102, 0, 0x41))
        self.assertIn("already signed with different data", str(conflict))

    def test_not_back_yet(self) -> None:
        """Until a mark is back, nothing leaves at its position, though it was signed before."""
        refusal = self.refuse_writes()
        with capturedLogs():
            self.refresh()
            self.failureResultOf(self.first.claim(NEW).durable, Unavailable)
            refusal.restore()
            self.refresh()
        self.assertEqual(self.successResultOf(self.first.claim(NEW).durable), SIGNATURE)
        self.assertRaises(Conflict, self.started().claim, OTHER)

    def test_tried_again(self) -> None:
        """What could not be written back is tried again after the next reading."""
        with capturedLogs():
            self.first.gateway.lost = 2  # the reading, and what is written first
            self.refresh()
            self.clock.pump([1] * 10)
        self.assertRaises(Conflict, self.started().claim, OTHER)

    def test_others_have_moved_on(self) -> None:
        """What another daemon has signed since the backup is not written over."""
        self.signed(self.second, block(102, 0))
        with capturedLogs():
            self.refresh()
            self.refresh()
        self.assertRaises(Conflict, self.started().claim, block(102, 0, 0x41))
        self.assertRaises(Conflict, self.first.claim, block(102, 0, 0x41))


class GoneBadTests(RecoveryTestCase):
    """What is no store any more, after it was one."""

    def assert_stays(self, words: str) -> None:
        """The daemons stay, refuse with the reason, and go on when the store is well again."""
        with capturedLogs() as events:
            self.refresh()
            self.refresh()
        critical = [formatEvent(e) for e in events if e["log_level"] is LogLevel.critical]
        self.assertEqual(len([said for said in critical if words in said]), 2)  # once for each
        for daemon in (self.first, self.second):
            error = self.assertRaises(Unavailable, daemon.claim, NEW)
            self.assertIn(words, str(error))
        self.etcd.restore(self.backup)
        with capturedLogs() as events:
            self.refresh()
            self.refresh()
        self.assertIn("well again", " ".join(map(formatEvent, events)))
        self.signed(self.second, NEW)
        self.assertEqual(self.ended, [])

    def test_no_marker(self) -> None:
        """The marker was deleted."""
        del self.etcd.kvs[b"tezio-signer/store"]
        self.assert_stays("holds no watermark store")

    def test_made_anew(self) -> None:
        """The store was lost and made anew, which would have forgotten all that was signed."""
        self.etcd.kvs.clear()
        self.successResultOf(store_through(FakeGateway(self.etcd, self.clock)).create())
        self.assert_stays("another than at the start")

    def test_stray_key(self) -> None:
        """Somebody has put a key among the marks."""
        self.etcd.put("tezio-signer/marks/stray", "x")
        self.assert_stays("stray")

    def test_from_the_beginning(self) -> None:
        """A daemon whose store is none when it starts ends."""
        del self.etcd.kvs[b"tezio-signer/store"]
        self.assertRaises(StartupError, self.started)


class FaultTests(RecoveryTestCase):
    """A fault of ours while the store is read."""

    def test_ends(self) -> None:
        """It ends the daemon, which otherwise would know of no other daemon's marks any more."""

        def faulty(*_: object) -> None:
            raise ZeroDivisionError

        self.patch(self.first.gateway, "ask", faulty)
        self.refresh()
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertIn("cannot be read", str(self.ended[0]))
