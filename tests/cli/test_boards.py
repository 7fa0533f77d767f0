"""What is found when boards are looked for without a daemon."""

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase, TestCase

from tests.support.fakeboard import FakeBoard, FakePorts, OpenFake, no_board
from tests.support.harness import reactor
from tests.support.hsmdevice import KEYS
from tests.support.usbports import MKR, NANO, OTHERS
from tests.support.vectors import AUTH, OCTEZ, TZ1, TZ3
from tezio_signer.cli.boards import BoardCheck, check_boards
from tezio_signer.hsm import boards
from tezio_signer.hsm.boards import Board, BoardSelector
from tezio_signer.noop import do_nothing
from tezio_signer.serialhsm import HsmProtocol, SerialPorts, open_port
from tezio_signer.simulator.firmware import Firmware
from tezio_signer.simulator.service import Simulator
from tezio_signer.tezos.keys import PublicKeyHash

OTHER = PublicKeyHash.parse(OCTEZ["keys"][3]["pkh"])


class BoardsOfTests(TestCase):
    """Simulated boards on pseudo-terminals."""

    timeout = 20

    def setUp(self) -> None:
        self.hsm = Simulator(reactor, Firmware(), 0, serial_number="A1")
        self.hsm.startService()
        self.addCleanup(self.hsm.stopService)

    async def check(self, *selectors: BoardSelector, **changes: Any) -> BoardCheck:
        """Look for the keys of a configuration."""
        arguments = {"signing_keys": (TZ3, TZ1), "auth_key": AUTH, **changes}
        ports = SerialPorts(reactor, reactor, self.hsm.boards)
        return await check_boards(reactor, ports, selectors, **arguments)

    async def test_held(self) -> None:
        """Each key of the configuration is found with its board, and its port is free then."""
        for _ in range(2):
            found = await self.check(BoardSelector())
            (board,) = found.boards
            self.assertEqual((dict(board.keys), board.trouble), (KEYS, ""))
            self.assertEqual([each.key for each in found.keys], [TZ3, TZ1, AUTH])
            for each in found.keys:
                self.assertEqual(each.held_by, (f"A1 at {self.hsm.port}",))
                self.assertEqual(each.sentence, f"held by board A1 at {self.hsm.port}")
            self.assertEqual(found.problems, ())

    async def test_not_held(self) -> None:
        """A key that no board holds is said, and the two ways to mix up the auth key."""
        found = await self.check(BoardSelector(), signing_keys=(OTHER, AUTH), auth_key=TZ3)
        sentences = {each.key: each.sentence for each in found.keys}
        self.assertEqual(sentences[OTHER], "no board holds it")
        self.assertIn("is the auth key (slot 0)", sentences[AUTH])
        self.assertIn("which signs nothing", sentences[AUTH])
        found = await self.check(BoardSelector(), auth_key=OTHER)
        self.assertEqual(
            found.keys[-1].sentence,
            "no board holds it: the configuration names it as auth_key, but slot 0 of the HSM "
            f"A1 at {self.hsm.port} holds {AUTH}: correct policy.auth_key",
        )
        self.assertEqual(found.keys[-1].held_by, ())

    async def test_another_has_it(self) -> None:
        """A board that a daemon has is said to be another program's, which one, and left alone."""
        port = open_port(reactor, HsmProtocol(reactor, do_nothing, "daemon"), str(self.hsm.port))
        self.addCleanup(port.abort)
        self.hsm.observer = lambda data: self.fail(data.hex())
        found = await self.check(BoardSelector())
        self.assertIn("cannot be opened: this program has it open", found.boards[0].trouble)
        self.assertEqual(found.problems, (f"HSM A1 at {self.hsm.port}: {found.boards[0].trouble}",))
        for each in found.keys:
            self.assertEqual(
                each.sentence,
                f"no board holds it; not known of A1 at {self.hsm.port}, which could not be read",
            )

    async def test_two_at_once(self) -> None:
        """A port that is missing hides nothing of another board."""
        missing = Board("/dev/none")
        ports = SerialPorts(reactor, reactor, lambda: [missing, *self.hsm.boards()])
        found = await check_boards(reactor, ports, (), (TZ3,))
        self.assertEqual([len(each.keys) for each in found.boards], [0, 4])
        self.assertIn("there is no such port", found.problems[0])
        self.assertEqual(len(found.keys[0].held_by), 1)


class AbsentTests(SynchronousTestCase):
    """Boards that are not there, or say nothing."""

    def setUp(self) -> None:
        self.clock = Clock()

    def checked(
        self,
        *selectors: BoardSelector,
        find: Callable[[], list[Board]] = list,
        open_port: OpenFake = no_board,
    ) -> Deferred[BoardCheck]:
        """Look, in the time of the test."""
        ports = FakePorts(self.clock, find, open_port)
        return Deferred.fromCoroutine(check_boards(self.clock, ports, selectors, (TZ3,)))

    def test_mistyped(self) -> None:
        """A serial number that no board says is named, with all that is plugged in."""
        self.patch(boards, "comports", lambda: [NANO, MKR, *OTHERS])
        wrong = BoardSelector(serial_number="A2")
        found = self.successResultOf(self.checked(wrong))
        (problem,) = found.problems
        self.assertEqual(
            problem,
            "no Tezio board with the serial number A2 of the configuration (hsms) is plugged in; "
            "plugged in: B2 at /dev/ttyACM0, A1 at /dev/ttyACM1, "
            "/dev/ttyACM2 (no Tezio board: 2341:0043), /dev/ttyACM3 (no Tezio board: 239a:8054), "
            "A5 at /dev/ttyACM4 (in its boot loader: press its reset button once), "
            "B6 at /dev/ttyACM5 (in its boot loader: press its reset button once), "
            "/dev/ttyUSB0 (no Tezio board: 0403:6001), /dev/ttyUSB1 (no Tezio board: 1a86:7523)",
        )
        self.assertEqual(found.keys[0].sentence, "no board holds it")

    def test_nothing(self) -> None:
        """Without any board this is the problem."""
        self.patch(boards, "comports", list)
        found = self.successResultOf(self.checked(BoardSelector()))
        self.assertEqual(
            found.problems, ("no Tezio board is plugged in, and no other USB serial port",)
        )

    def test_cannot_look(self) -> None:
        """When the ports cannot be listed this is said, too."""

        def find() -> list[Board]:
            raise OSError(5, "Input/output error")

        found = self.successResultOf(self.checked(find=find))
        self.assertEqual(found.boards, ())
        self.assertIn("the serial ports cannot be listed: ", found.problems[0])

    def test_silent(self) -> None:
        """A board that does not answer is said to be silent; one that vanishes meanwhile, gone."""
        for vanishes in (False, True):
            board = FakeBoard()
            checked = self.checked(find=lambda: [Board("port", "A1")], open_port=board.open)
            if vanishes:
                board.port.lose()
            self.clock.pump([0.1] * 70)
            (found,) = self.successResultOf(checked).boards
            self.assertIn("was unplugged" if vanishes else "did not answer", found.trouble)
            self.assertEqual(found.keys, ())
            self.assertEqual(self.clock.getDelayedCalls(), [])
