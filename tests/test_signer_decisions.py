"""What a decision on a request to sign says: which rule, which board, where the mark was moved."""

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, succeed

from tests.support.changedclaim import changed_claim
from tests.support.fakeboard import FakePorts
from tests.support.genericpayloads import noop_payload
from tests.support.harness import settings_with
from tests.support.racecase import DEADLINE, RaceTestCase
from tests.support.recorder import Keeper, Recorder
from tests.support.stores import HeldWriter
from tests.support.vectors import PAYLOADS, TZ3, block
from tezio_signer.config.settings import Limits, Settings
from tezio_signer.decision import Decision, Moved, Outcome
from tezio_signer.errors import Malformed, Unavailable
from tezio_signer.hsm.framing import MAX_MESSAGE
from tezio_signer.hsm.pool import HsmPool
from tezio_signer.request import Admitted, Listener, Peer, Submission
from tezio_signer.signer import Signer
from tezio_signer.tezos.keys import Signature
from tezio_signer.watermarks.claims import Claim
from tezio_signer.watermarks.store import StoreError

NOOP = PAYLOADS["noop"]


class DecisionTestCase(RaceTestCase):
    """A signer whose decisions are remembered."""

    def made(self, settings: Settings | None = None, disk: HeldWriter | None = None) -> Signer:
        signer = super().made(settings, disk)
        self.recorder = Recorder()
        signer.decisions.add(self.recorder)
        return signer

    def decided(self, payload: bytes, meanwhile: Callable[[], object] | None = None) -> Decision:
        """The only decision on a request."""
        return self.ended(self.submit(payload), meanwhile)

    def ended(
        self, request: Deferred[Signature], meanwhile: Callable[[], object] | None = None
    ) -> Decision:
        """The only decision on a request that was just handed in, and which the board serves."""
        (meanwhile or self.board.serve)()
        request.addErrback(lambda _: None)
        self.successResultOf(request)
        (decision,) = self.recorder.seen
        self.recorder.seen.clear()
        return decision


class SignedTests(DecisionTestCase):
    """Board and mark of what is signed."""

    boards = 2

    def test_board(self) -> None:
        """The board that has signed is named by its serial number, each its own."""

        def both() -> None:
            for name, board in reversed(self.plugged.items()):
                served[name] = bool(board.serve())

        served: dict[str, bool] = {}
        names = [self.decided(block(7 + number, 0), both).device for number in range(2)]
        self.assertEqual(names, ["serial of port0"] * 2)
        first, second = self.submit(block(10, 0)), self.submit(block(11, 0))
        both()
        self.assertEqual(served, {"port0": True, "port1": True})
        self.signed(first, block(10, 0))
        self.signed(second, block(11, 0))
        told = {decision.position: decision.device for decision in self.recorder.seen}
        chain = "NetXdQprcVkpaWU"
        self.assertEqual(
            told, {(chain, 10, 0): "serial of port0", (chain, 11, 0): "serial of port1"}
        )

    def test_stored(self) -> None:
        """No board has made a signature that was stored before."""
        self.assertEqual(self.decided(block(7, 0)).device, "serial of port0")
        again = self.decided(block(7, 0))
        self.assertEqual((again.outcome, again.device, again.rule), (Outcome.SIGNED, None, ""))
        self.assertEqual(again.mark, Moved((7, 0), (7, 0)))

    def test_signed_by_another_daemon(self) -> None:
        """Nor has one that was stored meanwhile, although a board has signed here too."""
        stored = self.as_another_daemon_had_it(block(7, 0))
        claim = self.watermarks.claim

        def overruled(*arguments: Any) -> Claim:
            return changed_claim(
                claim(*arguments), complete=lambda _: succeed(stored), found=lambda: stored
            )

        self.patch(self.watermarks, "claim", overruled)
        decision = self.decided(block(7, 0))
        self.assertEqual((decision.outcome, decision.device), (Outcome.SIGNED, None))

    def test_generic(self) -> None:
        """What has no level has a board and moves no mark."""
        decision = self.decided(NOOP)
        self.assertEqual((decision.device, decision.mark), ("serial of port0", None))

    def test_mark(self) -> None:
        """The mark is told as it was and as it is, also when no signature has come of it."""
        self.assertEqual(self.decided(block(7, 2)).mark, Moved(None, (7, 2)))
        self.assertEqual(self.decided(block(9, 0)).mark, Moved((7, 2), (9, 0)))
        self.store.error = StoreError("disk full")
        failed = self.decided(block(10, 0))
        self.assertEqual((failed.status, failed.mark), (502, Moved((9, 0), (10, 0))))


class KeptTests(DecisionTestCase):
    """An observer without which nothing is signed."""

    def require(self, rate: int | None = None) -> Keeper:
        """Have a signer require one, which allows so many generic operations a minute."""
        self.signer = self.made(settings_with(limits=Limits(signatures_per_minute=rate)))
        keeper = Keeper()
        self.signer.decisions.require(keeper)
        return keeper

    def test_kept(self) -> None:
        """The signature leaves when its decision is kept, of which the keeper is told once."""
        keeper = self.require()
        request = self.submit(block(7, 0))
        self.board.serve()
        self.assertNoResult(request)
        self.assertEqual(self.recorder.seen, [])
        keeper.keeping.callback(None)
        self.signed(request, block(7, 0))
        self.assertEqual(keeper.asked, self.recorder.seen)
        self.assertEqual(keeper.seen, [])

    def test_not_kept(self) -> None:
        """It does not leave if that fails; it was made, so nothing is given back."""
        keeper = self.require(rate=1)
        keeper.keeping.errback(Unavailable("disk full"))
        decision = self.decided(NOOP)
        self.assertEqual((decision.outcome, decision.sentence), (Outcome.REFUSED, "disk full"))
        self.assertEqual(keeper.seen, [decision])
        self.assertEqual(self.decided(NOOP).rule, "rate")

    def test_cannot_keep(self) -> None:
        """Nothing is claimed, and no board asked, as long as it says that it could not keep it."""
        keeper = self.require()
        keeper.trouble = Unavailable("disk full")
        decision = self.decided(block(9, 0), lambda: self.assertEqual(self.board.asked(), []))
        self.assertEqual((decision.status, decision.mark), (502, None))
        self.assertEqual(keeper.asked, [])
        keeper.trouble = None
        keeper.keeping.callback(None)
        self.assertEqual(self.decided(block(7, 0)).mark, Moved(None, (7, 0)))


class RefusedTests(DecisionTestCase):
    """The rule by whose name a refusal is counted."""

    def test_board(self) -> None:
        """A board that refuses, or does not answer, or is not there."""
        self.board.firmware.failing.add("begin")
        self.assertEqual(self.decided(block(7, 0)).rule, "hsm")
        late = self.submit(block(8, 0))
        self.clock.pump([DEADLINE / 4] * 4)
        self.assertEqual(self.ended(late).rule, "hsm")

    def test_public_key(self) -> None:
        """A public key that no board has said is refused by the board, too."""
        self.signer = Signer(
            settings_with(),
            HsmPool(self.clock, FakePorts(self.clock, list)),
            self.watermarks,
            self.clock,
        )
        asked = Deferred.fromCoroutine(self.signer.public_key(TZ3))
        self.clock.advance(DEADLINE)
        self.assertEqual(self.failureResultOf(asked, Unavailable).value.rule, "hsm")

    def test_claim(self) -> None:
        """What conflicts with the mark."""
        self.decided(block(7, 0))
        decision = self.decided(block(6, 0))
        self.assertEqual((decision.rule, decision.status), ("watermark", 409))
        self.assertIsNone(decision.mark)

    def test_store(self) -> None:
        """A store that cannot write, and one that takes too long."""
        self.store.error = StoreError("disk full")
        self.assertEqual(self.decided(block(7, 0)).rule, "watermark")
        self.store.error = None
        self.signer = self.made(disk=HeldWriter())
        late = self.submit(block(8, 0))
        self.board.serve()
        self.clock.advance(DEADLINE)
        self.assertEqual(self.ended(late).rule, "watermark")

    def test_signature_not_stored(self) -> None:
        """A store that takes the mark, and not the signature."""
        self.store.signature_error = StoreError("disk full")
        self.assertEqual(self.decided(block(7, 0)).rule, "watermark")

    def test_reading(self) -> None:
        """What cannot be read has come to no rule."""
        whose = Admitted(Peer())
        asked = Submission(whose, Listener.HTTP, "tz1", Malformed("no hexadecimal digits"))
        self.assertEqual(self.ended(self.signer.submit(asked)).rule, "reading")

    def test_rule(self) -> None:
        """A rule of the policy has its own name."""
        long = noop_payload(MAX_MESSAGE + 1)
        self.assertEqual(self.decided(long).rule, "size")
        self.signer = self.made(settings_with(()))
        self.assertEqual(self.decided(NOOP).rule, "operation")

    def test_stopping(self) -> None:
        """Who still waits, and who comes, when the daemon stops."""
        waiting = self.submit(block(7, 0))
        self.signer.refuse_all("the signer is stopping")
        self.assertEqual(self.ended(waiting).rule, "stopping")
        self.signer.close("the signer is stopping")
        self.assertEqual(self.decided(block(8, 0)).rule, "stopping")
