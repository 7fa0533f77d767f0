"""What is said of boards and keys of the configuration that are not there."""

from twisted.internet.defer import Deferred
from twisted.logger import LogLevel, capturedLogs, formatEvent

from tests.support.boardscase import BoardsTestCase
from tests.support.fakeboard import ANSWER, QUIET
from tests.support.missingcurve import without_curve
from tests.support.usbports import MKR, NANO
from tests.support.vectors import AUTH, OCTEZ, TZ1, TZ2, TZ3, noop
from tezio_signer.errors import Unavailable
from tezio_signer.hsm import boards
from tezio_signer.hsm.boards import BoardSelector
from tezio_signer.hsm.discovery import CALM_LOOK
from tezio_signer.tezos.keys import Curve, PublicKey, PublicKeyHash

OTHER = PublicKeyHash.parse(OCTEZ["keys"][3]["pkh"])


class ConfiguredTestCase(BoardsTestCase):
    """A pool that is to have certain boards and keys."""

    def setUp(self) -> None:
        super().setUp()
        self.patch(boards, "comports", lambda: [MKR, NANO])

    def begin(
        self,
        *selectors: BoardSelector,
        wanted: tuple[PublicKeyHash, ...] = (),
        auth_key: PublicKeyHash | None = None,
    ) -> list[str]:
        """Start a pool and let its boards say their keys; the errors that it logs."""
        self.pool = self.made(wanted, selectors, auth_key)
        with capturedLogs() as events:
            self.run_pool(list(self.plugged.values()))
        return [formatEvent(e) for e in events if e["log_level"] is LogLevel.error]

    def vanish(self, port: str) -> None:
        """Have the board of a port be found no more."""
        self.plugged = {b: fake for b, fake in self.plugged.items() if b.port != port}

    def look(self) -> list[str]:
        """Wait for a look; the errors and the news that it brings."""
        with capturedLogs() as events:
            self.clock.advance(CALM_LOOK)
            for fake in self.plugged.values():
                fake.serve()
        return [formatEvent(e) for e in events if e["log_level"] in (LogLevel.error, LogLevel.info)]

    def refusal(self, key: PublicKeyHash) -> str:
        """Why a signature of a key is refused."""
        asked = self.pool.sign(key, noop(1)).result
        self.clock.pump([0.5] * 5)
        return str(self.failureResultOf(asked, Unavailable).value)


class AbsentBoardTests(ConfiguredTestCase):
    """Boards that are configured by serial number."""

    selectors = (BoardSelector(serial_number="A1"), BoardSelector(serial_number="C3"))
    sentence = (
        "no Tezio board with the serial number C3 of the configuration (hsms) is plugged in; "
        "plugged in: B2 at /dev/ttyACM0, A1 at /dev/ttyACM1"
    )

    def test_mistyped(self) -> None:
        """One that no board says is named at the start, once, with what is plugged in."""
        self.plug_in("port1", "A1")
        self.assertEqual(self.begin(*self.selectors), [self.sentence])
        self.assertEqual([self.look() for _ in range(3)], [[]] * 3)

    def test_lost(self) -> None:
        """One that is lost is named again each time, and its coming back is told."""
        self.plug_in("port1", "A1")
        self.plug_in("port3", "C3")
        self.assertEqual(self.begin(*self.selectors), [])
        for _ in range(2):
            self.vanish("port3")
            self.assertEqual(self.look(), ["HSM C3 at port3: was unplugged", self.sentence])
            self.plug_in("port3", "C3")
            (ready,) = self.look()
            self.assertIn("HSM C3 at port3 is ready: ", ready)

    def test_refusal(self) -> None:
        """Who is refused for want of a key is told which board is not there."""
        self.plug_in("port1", "A1")
        self.begin(*self.selectors)
        self.assertEqual(
            self.refusal(OTHER),
            f"no connected HSM holds {OTHER}; the board with the serial number C3 "
            "is not plugged in",
        )


class ClonesTests(ConfiguredTestCase):
    """Two boards that say one serial number."""

    def names(self) -> dict[str, str]:
        """The ports of the devices that are in use."""
        return {name: d.board.port for name, d in self.pool.devices.items() if d.ready}

    def test_both_are_used(self) -> None:
        """Both are used, and each stays itself when another comes, goes or moves."""
        first, second = self.plug_in("port1", "A1"), self.plug_in("port2", "A1")
        self.begin(BoardSelector(serial_number="A1"))
        self.assertEqual(self.names(), {"A1": "port1", "A1 at port2": "port2"})
        asked = [self.pool.sign(TZ3, noop(number)).result for number in range(2)]
        self.assertEqual([len(fake.serve()) for fake in (first, second)], [1, 1])
        for result in asked:
            self.successResultOf(result)
        self.vanish("port1")
        self.look()
        self.assertEqual(self.names(), {"A1 at port2": "port2"})
        self.plug_in("port0", "A1")  # the first one, elsewhere; found before the other
        self.look()
        self.assertEqual(self.names(), {"A1": "port0", "A1 at port2": "port2"})
        self.assertEqual(second.opened, 1)

    def test_comes_first(self) -> None:
        """A clone that comes later, at a port before the other, does not take its place."""
        self.plug_in("port2", "A1")
        self.begin()
        self.plug_in("port1", "A1")
        self.look()
        self.assertEqual(self.names(), {"A1": "port2", "A1 at port1": "port1"})
        self.assertEqual(self.at("port2").opened, 1)

    def test_without_serial_numbers(self) -> None:
        """Boards without any are told apart by their ports."""
        self.plug_in("port1", None)
        self.plug_in("port2", None)
        self.begin()
        self.assertEqual(self.names(), {"port1": "port1", "port2": "port2"})


class AuthKeyTests(ConfiguredTestCase):
    """An auth key that the configuration has wrong."""

    def test_wrong(self) -> None:
        """It is said at the start, and to who is refused for it, what slot 0 holds instead."""
        self.plug_in("port1", "A1")
        why = (
            f"the configuration names it as auth_key, but slot 0 of the HSM A1 at port1 holds "
            f"{AUTH}: correct policy.auth_key"
        )
        (error,) = self.begin(wanted=(TZ3, OTHER), auth_key=OTHER)
        self.assertEqual(
            error,
            f"no connected board holds these keys of the configuration: {OTHER} ({why}); plug in "
            "the board, or correct policy (signing_keys, auth_key)",
        )
        asked: Deferred[PublicKey] = Deferred.fromCoroutine(self.pool.public_key(OTHER))
        self.clock.pump([0.5] * 5)
        self.assertEqual(
            str(self.failureResultOf(asked, Unavailable).value),
            f"no connected HSM holds {OTHER}: {why}",
        )

    def test_auth_key_as_signing_key(self) -> None:
        """A key of slot 0 that is to sign is said to sign nothing."""
        self.plug_in("port1", "A1")
        (error,) = self.begin(wanted=(TZ3, AUTH), auth_key=None)
        self.assertIn(f"{AUTH} (it is the auth key (slot 0) of the HSM A1 at port1", error)
        self.assertIn("which signs nothing", self.refusal(AUTH))

    def test_right(self) -> None:
        """When all are where they belong there is nothing to say."""
        self.plug_in("port1", "A1")
        self.assertEqual(self.begin(wanted=(TZ3, TZ1, AUTH), auth_key=AUTH), [])


class SilentBoardTests(ConfiguredTestCase):
    """A board that does not answer for a while."""

    def test_answers_again(self) -> None:
        """That it answers again is in the log, as that it did not was."""
        fake = self.plug_in("port1", "A1")
        self.begin()
        with capturedLogs() as events:
            asked = self.pool.sign(TZ3, noop(1)).result
            fake.asked()
            self.clock.advance(ANSWER)
            self.clock.advance(QUIET)
            fake.serve()
        self.successResultOf(asked)
        said = [formatEvent(event) for event in events]
        self.assertEqual(said[0], "HSM A1 at port1 out of step: did not answer within 3 s")
        self.assertIn("HSM A1 at port1 is ready: ", said[1])
        self.assertEqual(len(said), 2)

    def test_stray_bytes(self) -> None:
        """So it is for one that sent what nobody asked for."""
        fake = self.plug_in("port1", "A1")
        self.begin()
        with capturedLogs() as events:
            fake.protocol.dataReceived(b"15\r\n")
            asked = self.pool.sign(TZ3, noop(1)).result
            self.clock.advance(QUIET)
            fake.serve()
        self.successResultOf(asked)
        self.assertIn("is ready", formatEvent(events[-1]))


class MissingCurveTests(ConfiguredTestCase):
    """An OpenSSL that cannot verify what one of the slots signs."""

    def test_one_key_only(self) -> None:
        """That slot is left out, with one warning and a refusal that say why; the others sign."""
        without_curve(self, Curve.SECP256K1)
        fake = self.plug_in("port1", "A1")
        with capturedLogs() as events:
            (error,) = self.begin(wanted=(TZ1, TZ2, TZ3))
        self.assertIn(f"no connected board holds these keys of the configuration: {TZ2};", error)
        warnings = [formatEvent(e) for e in events if e["log_level"] is LogLevel.warn]
        self.assertEqual(len(warnings), 1)
        self.assertIn("HSM A1 at port1, slot 2: the OpenSSL of this machine has no", warnings[0])
        for key in (TZ1, TZ3):
            asked = self.pool.sign(key, noop(1)).result
            fake.serve()
            self.successResultOf(asked)
        self.assertIn("slot 2: the OpenSSL of this machine has no SECP256K1", self.refusal(TZ2))
        self.assertEqual(fake.serve(), [])
