"""The path of a request when two things happen at once: answers, faults, clients, the stop."""

import gc
from ipaddress import ip_network
from typing import Any, cast

from attrs import evolve
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.logger import LogLevel, capturedLogs, formatEvent

from tests.support.changedclaim import changed_claim
from tests.support.fakeboard import ANSWER, QUIET, FakeBoard, FakePorts
from tests.support.harness import settings_with, submission
from tests.support.octezclient import HSM_AUTH_KEY
from tests.support.racecase import DEADLINE, RaceTestCase
from tests.support.stores import HeldWriter
from tests.support.vectors import AUTH, PAYLOADS, TZ1, TZ3, block
from tezio_signer.config.settings import Limits, RequestToken, Settings, SigningKey
from tezio_signer.errors import (
    Conflict,
    Forbidden,
    NotAdmitted,
    TooMany,
    UnknownKey,
)
from tezio_signer.hsm import framing
from tezio_signer.hsm.boards import Board
from tezio_signer.hsm.pool import HsmOptions, HsmPool
from tezio_signer.request import Credentials, Peer, Submission
from tezio_signer.signer import Signer
from tezio_signer.tezos.keys import Signature
from tezio_signer.tezos.payload import Operation
from tezio_signer.watermarks.claims import Claim, Watermarks
from tezio_signer.watermarks.store import StoreError

NOOP = PAYLOADS["noop"]


class _Overruled:
    """Watermarks on a store where another daemon's signature is stored meanwhile."""

    def __init__(self, watermarks: Watermarks, stored: Signature) -> None:
        self._watermarks = watermarks
        self._stored = stored
        self.ledger = watermarks.ledger

    def claim(self, *arguments: Any) -> Claim:
        claim = self._watermarks.claim(*arguments)
        return changed_claim(
            claim, complete=lambda _: succeed(self._stored), found=lambda: self._stored
        )


class OtherSignatureTests(RaceTestCase):
    """The store gives another signature than the HSM has made: that of another daemon."""

    def overruled(self, stored: Signature) -> Deferred[Signature]:
        """Ask where this signature of the payload is stored already."""
        watermarks = cast(Watermarks, _Overruled(self.watermarks, stored))
        signer = Signer(settings_with(), self.pool, watermarks, self.clock)
        request = signer.submit(submission(block(7, 0)))
        self.board.serve()
        return request

    def test_good(self) -> None:
        """The one that is stored leaves."""
        stored = self.as_another_daemon_had_it(block(7, 0))
        self.assertEqual(self.signed(self.overruled(stored), block(7, 0)), stored)

    def test_hsm_refuses(self) -> None:
        """It leaves also when the HSM will not sign any more what it has signed for the other."""
        made = self.pool.sign(TZ3, block(7, 0)).result
        self.board.serve()
        stored = self.successResultOf(made)
        self.assertEqual(self.signed(self.overruled(stored), block(7, 0)), stored)
        self.assertEqual(self.board.serve(), [])

    def test_wrong(self) -> None:
        """One that does not verify leaves for nobody, wherever it is stored."""
        stored = self.as_another_daemon_had_it(block(8, 0))
        with capturedLogs() as events:
            request = self.overruled(stored)
        self.assertEqual(self.told(request), "the signature does not verify and is not released")
        self.assertEqual(
            [formatEvent(e) for e in events if e["log_level"] is LogLevel.critical],
            [f"a signature for {TZ3} does not verify"],
        )


class FailingTests(RaceTestCase):
    """Disk and HSM fail one after the other."""

    def test_disk_then_hsm(self) -> None:
        """What neither has done is done when it is asked for again, of a board that forgot it."""
        self.store.error = StoreError("disk full")
        request = self.submit(block(7, 0))
        self.assertIn("disk full", self.told(request))
        self.board.firmware.failing.add("begin")
        self.board.serve()
        self.board.firmware.failing.clear()
        self.board.firmware.power_cycle()
        self.store.error = None
        again = self.submit(block(7, 0))
        self.board.serve()
        self.signed(again, block(7, 0))
        self.successResultOf(self.signer.drained())

    def test_disk_then_late_signature(self) -> None:
        """What the HSM signs although its mark was not stored is kept for the next time."""
        self.store.error = self.store.signature_error = StoreError("disk full")
        self.told(self.submit(block(7, 0)))
        self.store.error = self.store.signature_error = None
        self.assertEqual(len(self.board.serve()), 1)
        again = self.submit(block(7, 0))
        self.signed(again, block(7, 0))
        self.assertEqual(self.board.serve(), [])

    def test_disk_fails_twice(self) -> None:
        """When its signature is not stored either, nobody hears of a fault, and it is kept."""
        self.store.error = self.store.signature_error = StoreError("disk full")
        self.told(self.submit(block(7, 0)))
        self.board.serve()
        self.told(self.submit(block(7, 0)))
        self.store.error = self.store.signature_error = None
        self.signed(self.submit(block(7, 0)), block(7, 0))
        gc.collect()
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_two_wait_for_one_disk(self) -> None:
        """Both are told when the mark is not stored, and no error is left behind."""
        disk = HeldWriter()
        self.signer = self.made(disk=disk)
        requests = [self.submit(block(7, 0)) for _ in range(2)]
        self.store.error = self.store.signature_error = StoreError("disk full")
        disk.write()
        for request in requests:
            self.assertIn("disk full", self.told(request))
        self.board.serve()
        disk.write()
        # Whose failure nobody has taken is told when it is collected; an error has hold of it.
        del request, requests
        self.store.error = self.store.signature_error = None
        gc.collect()
        self.assertEqual(self.flushLoggedErrors(), [])


class LateTests(RaceTestCase):
    """An answer to an earlier request comes while a later one is at another board."""

    boards = 2

    def test_second_board_fails(self) -> None:
        """The late signature is the answer to both."""
        first, second = self.plugged.values()
        request = self.submit(block(7, 0))
        (frame,) = first.asked()
        self.clock.advance(ANSWER)
        self.assertNoResult(request)
        first.answer(frame)
        second.firmware.failing.add("sign")
        second.serve()
        late = self.signed(request, block(7, 0))
        self.assertEqual(self.signed(self.submit(block(7, 0)), block(7, 0)), late)

    def test_second_board_signs(self) -> None:
        """The late signature, which is stored, is the one that leaves."""
        first, second = self.plugged.values()
        request = self.submit(block(7, 0))
        (frame,) = first.asked()
        self.clock.advance(ANSWER)
        first.answer(frame)
        (stored,) = self.store.load().values()
        second.serve()
        self.assertEqual(self.signed(request, block(7, 0)), stored.signature)

    def test_without_a_mark(self) -> None:
        """Of what has no mark a late signature is nobody's; the failure is told."""
        first, second = self.plugged.values()
        first.firmware.failing.add("sign")
        second.firmware.failing.add("sign")
        request = self.submit(NOOP)
        first.serve()
        second.serve()
        self.assertIn("the HSM answered", self.told(request))


class WantedAgainTests(RaceTestCase):
    """Somebody asks for what has just been signed, or for what a client has left behind."""

    def test_asked_within_the_call(self) -> None:
        """Whoever asks for the same in the moment of the answer begins anew, and is served."""
        again: list[Deferred[Signature]] = []
        request = self.submit(NOOP)
        request.addCallback(lambda _: again.append(self.submit(NOOP)))
        self.assertEqual(len(self.board.serve()), 2)
        self.signed(again[0], NOOP)

    def test_lost(self) -> None:
        """When its answer is lost, the HSM is asked once more: somebody wants it."""
        leaving = self.submit(block(7, 0))
        (frame,) = self.board.asked()
        leaving.cancel()
        self.failureResultOf(leaving, CancelledError)
        again = self.submit(block(7, 0))
        self.clock.advance(ANSWER)
        self.clock.advance(QUIET)
        self.assertIn(frame, self.board.serve())
        self.signed(again, block(7, 0))


class DeviceMarkTests(RaceTestCase):
    """The HSM refuses by a mark of its own what ours allow."""

    def test_no_level(self) -> None:
        """For what has no level there is none, and nothing is advised."""
        request = self.submit(NOOP)
        self.board.asked()
        self.board.protocol.dataReceived(framing.reply(b"\xd4"))
        sentence = self.told(request, Conflict)
        self.assertTrue(
            sentence.endswith("; which is not known to happen for what has no level"), sentence
        )


class DrainingTests(RaceTestCase):
    """Who waits when the daemon stops."""

    def test_waits_in_the_rules(self) -> None:
        """A request that has not got as far as the HSM is waited for, too."""
        pool = HsmPool(self.clock, FakePorts(self.clock, list))
        pool.startService()
        self.addCleanup(pool.stopService)
        settings = settings_with(auth_req=True, auth_key=AUTH)
        signer = Signer(settings, pool, self.watermarks, self.clock)
        signature = Signature.parse(
            "edsigtkpiSSschcaCt9pUVrpNPf7TTcgvgDEDD6NCEHMy8NNQJCGnMfLZzYoQj74yLjo9wx6MPVV29CvVzgi7qEcEUok3k7AuMg"
        )
        asked = submission(NOOP)
        assert asked.request is not None
        authenticated = evolve(asked.request, authentication=signature)
        request = signer.submit(evolve(asked, asked=authenticated))
        drained = signer.drained()
        self.assertNoResult(drained)
        self.clock.advance(DEADLINE)
        self.assertIn(f"no connected HSM holds {AUTH}", self.told(request))
        self.successResultOf(drained)

    def test_client_left_in_the_rules(self) -> None:
        """One that left from there is waited for no longer."""
        disk = HeldWriter()
        self.signer = self.made(disk=disk)
        request = self.submit(block(7, 0))
        request.cancel()
        self.failureResultOf(request, CancelledError)
        drained = self.signer.drained()
        self.assertNoResult(drained)
        self.board.serve()
        disk.write()
        self.successResultOf(drained)


class ReplacedTests(RaceTestCase):
    """Another configuration while requests are served."""

    def authenticated(self, payload: bytes) -> Submission:
        """A request with the authentication of the HSM's auth key."""
        asked = submission(payload)
        assert asked.request is not None
        signature = HSM_AUTH_KEY.authenticate(str(TZ3), payload)
        return evolve(asked, asked=evolve(asked.request, authentication=Signature.parse(signature)))

    def without_boards(self) -> list[Board]:
        """Have a pool that waits for a board; those that it will find."""
        found: list[Board] = []
        ports = FakePorts(
            self.clock,
            lambda: found,
            lambda protocol, port: self.plugged[port].open(protocol, port),
        )
        self.pool = HsmPool(self.clock, ports, HsmOptions(patience=5.0))
        self.pool.startService()
        self.addCleanup(self.pool.stopService)
        self.plugged = {"other": FakeBoard()}
        return found

    def test_rules_of_the_beginning(self) -> None:
        """A request that waits in the rules is decided by those with which it began, all of them.

        Key, chain, floor and watermarks differ, so that any other mixture would refuse it.
        """
        found = self.without_boards()
        settings = settings_with(auth_req=True, auth_key=AUTH)
        signer = self.made(settings)
        request = signer.submit(self.authenticated(block(7, 0)))
        self.assertNoResult(request)
        signer.go_by(
            settings_with(
                (Operation.GENERIC,), chains=("NetXo5iVw1vBoxM",), floors={Operation.BLOCK: (9, 0)}
            )
        )
        found.append(Board("other", "serial"))
        self.clock.pump([0.5] * 5)
        self.board.serve()
        self.clock.pump([0.1] * 3)
        self.board.serve()
        self.signed(request, block(7, 0))
        self.assertIn("chain", self.told(signer.submit(submission(block(8, 0))), Forbidden))

    def test_in_flight(self) -> None:
        """What the HSM is at goes on when its key is removed, and its signature is given out."""
        request = self.submit(block(7, 0))
        keys = settings_with().signing_keys
        others = {key: each for key, each in keys.items() if key != TZ3}
        self.signer.go_by(evolve(settings_with(), signing_keys=others))
        self.told(self.submit(block(7, 0)), UnknownKey)
        self.board.serve()
        signature = self.signed(request, block(7, 0))
        self.signer.go_by(settings_with())
        again = self.submit(block(7, 0))
        self.assertEqual(self.successResultOf(again), signature)

    def test_at_once(self) -> None:
        """All that listeners ask of the signer is answered by the new configuration."""
        token = RequestToken("x-a", b"0123456789abcdef")
        keys = {TZ1: SigningKey(TZ1, frozenset({Operation.GENERIC}))}
        self.assertIsNone(self.signer.authorized_keys())
        self.signer.go_by(
            evolve(
                settings_with(),
                signing_keys=keys,
                auth_key=AUTH,
                list_known_keys=True,
                request_token=token,
                allowed_ips=(ip_network("192.0.2.1"),),
            )
        )
        self.assertEqual(self.signer.authorized_keys(), (AUTH,))
        self.assertEqual(self.signer.known_keys(), (TZ1,))
        self.assertEqual(self.signer.settings.request_token, token)
        unknown = Deferred.fromCoroutine(self.signer.public_key(TZ3))
        self.failureResultOf(unknown, UnknownKey)
        self.assertRaises(NotAdmitted, self.signer.admit, Peer())
        self.signer.admit(Peer.at("192.0.2.1"))

    def test_floors(self) -> None:
        """A floor that is raised binds at once, and one that is lowered no longer."""
        floors = {Operation.BLOCK: (100, 0)}
        self.signer.go_by(settings_with(floors=floors))
        self.assertIn("configured floor", self.told(self.submit(block(100, 0)), Conflict))
        self.signer.go_by(settings_with())
        request = self.submit(block(100, 0))
        self.board.serve()
        self.signed(request, block(100, 0))

    def test_counted(self) -> None:
        """What was counted of a rate stays counted, however often it is replaced."""

        def rate(most: int | None) -> Settings:
            return settings_with(limits=Limits(signatures_per_minute=most))

        def ask() -> Deferred[Signature]:
            request = self.submit(NOOP)
            self.board.serve()
            return request

        self.signer.go_by(rate(2))
        for _ in range(2):
            self.signed(ask(), NOOP)
        for most in (2, 4, 1):
            self.signer.go_by(rate(most))
            says = f"more than {most} generic operations a minute"
            self.assertIn(says, self.told(ask(), TooMany))
        self.signer.go_by(rate(None))
        self.signed(ask(), NOOP)
        self.signer.go_by(rate(2))
        self.told(ask(), TooMany)
        self.clock.advance(30)
        self.signed(ask(), NOOP)


class AdmissionTests(RaceTestCase):
    """Which peers may ask for anything."""

    def test_addresses(self) -> None:
        """Those of `allowed_ips` may, and nobody else."""
        self.signer.admit(Peer())
        self.assertRaises(NotAdmitted, self.signer.admit, Peer.at("192.0.2.1"))

    def test_switched_off(self) -> None:
        """Where addresses are not looked at, all may; users still count."""
        settings = settings_with(allowed_uids=frozenset({1000}))
        security = evolve(settings.security, remote_ip_check=False)
        signer = self.made(evolve(settings, security=security))
        signer.admit(Peer())
        signer.admit(Peer.at("192.0.2.1"))
        unauthorized = Peer(credentials=Credentials(pid=1, uid=1001, gid=1))
        self.assertRaises(NotAdmitted, signer.admit, unauthorized)
        request = signer.submit(submission(NOOP, peer=Peer.at("192.0.2.1")))
        self.board.serve()
        self.signed(request, NOOP)


class LineTests(RaceTestCase):
    """What the line of a request says."""

    def test_milliseconds(self) -> None:
        """The time is that of the request alone."""
        with capturedLogs() as events:
            request = self.submit(NOOP)
            self.clock.advance(0.25)
            self.board.serve()
            self.signed(request, NOOP)
        self.assertEqual(
            formatEvent(events[-1]), f"signed failing_noop 'hi', for {TZ3} from 127.0.0.1 in 250 ms"
        )

    def test_long_key(self) -> None:
        """Of what is written in the place of a key, the first sixty characters are shown."""
        asked = evolve(submission(NOOP), key="k" * 61, asked=Conflict("no"))
        with capturedLogs() as events:
            self.told(self.signer.submit(asked), Conflict)
        self.assertIn(f"refused a request for {'k' * 60} from", formatEvent(events[-1]))
        self.assertEqual((events[-1]["status"], events[-1]["reason"]), (409, "watermark"))

    def test_who_is_late(self) -> None:
        """Who has waited too long is told for what: HSM or store."""
        disk = HeldWriter()
        self.signer = self.made(disk=disk)
        at_store, at_hsm = self.submit(block(7, 0)), self.signer.submit(submission(NOOP, TZ1))
        frame = self.board.asked()[0]
        self.board.answer(frame)
        self.clock.advance(QUIET)
        self.board.asked()
        self.clock.advance(DEADLINE - QUIET)
        self.assertIn("the watermark store has not written within 6 s", self.told(at_store))
        self.assertIn("the HSM", self.told(at_hsm))
