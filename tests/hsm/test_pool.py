"""All HSMs together: who is asked, on fakes and on real pseudo-terminals."""

import fcntl
import os
import tty
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import Clock
from twisted.logger import LogLevel, capturedLogs, formatEvent
from twisted.trial.unittest import TestCase

from tests.support.boardscase import TwoBoardsTestCase
from tests.support.fakeboard import ANSWER, ASK_KEY, QUIET, FakeBoard
from tests.support.harness import EVERY_MAGIC_BYTE, reactor
from tests.support.hsmdevice import KEYS, is_signature
from tests.support.vectors import OCTEZ, PAYLOADS, TZ1, TZ2, TZ3, block, noop
from tezio_signer import serialhsm
from tezio_signer.config.settings import DEFAULT_WAITING
from tezio_signer.errors import Forbidden, Unavailable
from tezio_signer.hsm.boards import Board
from tezio_signer.hsm.discovery import Expected
from tezio_signer.hsm.exchange import NoAnswer
from tezio_signer.hsm.framing import Slot, StatusReply
from tezio_signer.hsm.pool import HsmOptions, HsmPool
from tezio_signer.hsm.signing import Priority
from tezio_signer.noop import do_nothing
from tezio_signer.serialhsm import (
    HsmProtocol,
    SerialPorts,
    open_port,
)
from tezio_signer.simulator.firmware import Firmware
from tezio_signer.simulator.service import Simulator
from tezio_signer.tezos.keys import PublicKeyHash, Signature


class ChoosingTests(TwoBoardsTestCase):
    """Which board is asked, and which one next when something goes wrong."""

    def sign(self, message: bytes, priority: int = 2) -> Deferred[Signature]:
        """Ask for a signature."""
        self.late: list[Signature] = []
        return self.pool.sign(TZ3, message, Priority(priority), self.late.append).result

    def signed(self, result: Deferred[Signature], message: bytes) -> None:
        """Check that the signature of a message has come."""
        signature = self.successResultOf(result)
        self.assertTrue(is_signature(Slot.TZ3, 3, message, signature.data))

    def stay_silent(self, board: FakeBoard) -> str:
        """Leave a command without an answer, and let the board come to itself again."""
        (frame,) = board.asked()
        self.clock.advance(ANSWER)
        self.clock.advance(QUIET)
        return frame

    def test_once_more(self) -> None:
        """What may be signed twice is asked for once more when its answer is lost, not thrice."""
        self.start(1)
        asked = self.sign(noop(1))
        frame = self.stay_silent(self.first)
        self.assertEqual(self.first.serve()[-1], frame)
        self.signed(asked, noop(1))
        asked = self.sign(noop(2))
        self.stay_silent(self.first)
        for _ in Slot:
            self.first.answer(self.first.asked()[0])
        self.assertNoResult(asked)
        self.stay_silent(self.first)
        self.failureResultOf(asked, NoAnswer)

    def test_silent_board(self) -> None:
        """Another board is asked for what a silent one does not answer, also for a block."""
        self.start(2)
        asked = self.sign(block(9, 0), 0)
        self.stay_silent(self.first)
        self.second.serve()
        self.signed(asked, block(9, 0))

    def test_wrong_signature(self) -> None:
        """A signature that does not verify is a critical matter, and another board is asked."""
        self.start(2)
        self.first.firmware.keys[Slot.TZ3] = self.first.firmware.keys[Slot.AUTH]
        asked = self.sign(noop(1))
        with capturedLogs() as events:
            self.first.answer(self.first.asked()[0])
        (critical,) = (event for event in events if event["log_level"] is LogLevel.critical)
        self.assertEqual(
            formatEvent(critical),
            "the HSM serial of port1 at port1 gave a signature that does not verify",
        )
        self.second.serve()
        self.signed(asked, noop(1))

    def test_refusing_board(self) -> None:
        """Another board is asked for what one refuses; when all refuse, that is the answer."""
        self.start(2)
        self.first.firmware = Firmware(enabled=dict.fromkeys(Slot, ()))
        asked = self.sign(noop(1))
        self.first.serve()
        self.second.serve()
        self.signed(asked, noop(1))
        self.second.firmware = self.first.firmware
        asked = self.sign(noop(2))
        self.first.serve()
        self.second.serve()
        self.assertEqual(self.failureResultOf(asked, StatusReply).value.byte, 0xB8)

    def test_least_busy(self) -> None:
        """Requests are shared out; as many wait as the boards together can take."""
        self.start(2)
        results = [self.sign(noop(number)) for number in range(2 * DEFAULT_WAITING + 2)]
        self.failureResultOf(self.sign(noop(2 * DEFAULT_WAITING + 2)), Unavailable)
        for _ in range(DEFAULT_WAITING + 1):
            for board in (self.first, self.second):
                (frame,) = board.asked()
                board.answer(frame)
        for number, result in enumerate(results):
            self.signed(result, noop(number))


class PoolTestCase(TestCase):
    """Simulated boards on real pseudo-terminals; the pool's own time is the test's."""

    timeout = 20

    def setUp(self) -> None:
        self.clock = Clock()
        self.hsm = self.board()
        self.pool = self.made(lambda: self.hsm.boards())

    def made(
        self,
        boards: Callable[[], list[Board]],
        watch: Callable[[Callable[[], object]], Callable[[], object]] = lambda _: do_nothing,
        options: HsmOptions = HsmOptions(),  # noqa: B008
    ) -> HsmPool:
        """A pool of what is plugged in."""
        return HsmPool(self.clock, SerialPorts(reactor, self.clock, boards, watch), options)

    def board(self, serial_number: str = "first", link: str | None = None) -> Simulator:
        """A board that is plugged in."""
        firmware = Firmware(enabled=EVERY_MAGIC_BYTE)
        hsm = Simulator(reactor, firmware, 0, link, serial_number)
        hsm.startService()
        self.addCleanup(hsm.stopService)
        return hsm

    def start(self, pool: HsmPool | None = None) -> None:
        """Start a pool that ends with the test."""
        running = pool or self.pool
        running.startService()
        self.addCleanup(lambda: running.stopService() if running.running else None)

    async def pull(self) -> None:
        """Pull the board out, and wait until the pool has noticed."""
        noticed = Deferred.fromCoroutine(self.pool.changed(60))
        self.hsm.unplug()
        await noticed

    async def signed(self, message: bytes = PAYLOADS["transfer"]) -> None:
        """Check that messages are signed."""
        signature = await self.pool.sign(TZ3, message).result
        self.assertTrue(is_signature(Slot.TZ3, 3, message, signature.data))

    async def refused(self, message: bytes = PAYLOADS["transfer"]) -> str:
        """Why a message is not signed now, nor for as long as a request has patience."""
        asked: Deferred[Any] = self.pool.sign(TZ3, message).result
        self.clock.advance(2)
        return str(await self.assertFailure(asked, Unavailable))


class PoolTests(PoolTestCase):
    """Boards that are found, lost, and found again."""

    async def test_signs(self) -> None:
        """A board is found and opened, and signs for each of its addresses with its slot."""
        self.start()
        for key, slot in [(TZ1, Slot.TZ1), (TZ2, Slot.TZ2), (TZ3, Slot.TZ3)]:
            self.assertEqual(await self.pool.public_key(key), KEYS[slot])
            signature = await self.pool.sign(key, PAYLOADS["transfer"]).result
            self.assertTrue(is_signature(slot, 3, PAYLOADS["transfer"], signature.data))

    async def test_missing_keys(self) -> None:
        """Keys of the configuration that no board holds are named, once, when all are read."""
        other = PublicKeyHash.parse(OCTEZ["keys"][0]["pkh"])
        pool = self.made(self.hsm.boards, options=HsmOptions(expected=Expected((TZ1, other))))
        with capturedLogs() as events:
            self.start(pool)
            await pool.public_key(TZ3)
            self.clock.advance(2)
        (error,) = [e for e in events if e["log_level"] is LogLevel.error]
        self.assertEqual(
            formatEvent(error),
            f"no connected board holds these keys of the configuration: {other}; plug in the "
            "board, or correct policy (signing_keys, auth_key)",
        )

    async def test_other_keys_are_missing(self) -> None:
        """With other keys in the configuration, those that no board holds now are named at once."""
        other = PublicKeyHash.parse(OCTEZ["keys"][0]["pkh"])
        self.start()
        await self.pool.public_key(TZ3)
        for expected, missing in (((TZ1,), None), ((TZ1, other), other), ((TZ1, other), None)):
            with capturedLogs() as events:
                self.pool.go_by(HsmOptions(0.5, expected=Expected(expected)))
            lines = [formatEvent(e) for e in events if e["log_level"] is LogLevel.error]
            self.assertEqual(len(lines), 0 if missing is None else 1)
            self.assertTrue(all(str(missing) in line for line in lines))
        await self.pull()
        asked = self.pool.sign(TZ3, PAYLOADS["transfer"]).result
        self.clock.advance(0.4)
        self.assertNoResult(asked)
        self.clock.advance(0.1)
        self.failureResultOf(asked, Unavailable)

    async def test_no_board(self) -> None:
        """Without a board a request has patience for two seconds, and is refused then."""
        self.hsm.unplug()
        self.start()
        self.assertEqual(await self.refused(), f"no connected HSM holds {TZ3}")
        asked = Deferred.fromCoroutine(self.pool.public_key(TZ3))
        self.clock.advance(1.9)
        self.assertNoResult(asked)
        self.clock.advance(0.1)
        self.failureResultOf(asked, Unavailable)

    async def test_gone_and_back(self) -> None:
        """A board that was pulled out is known further on, and used again when it is back."""
        self.start()
        await self.pool.public_key(TZ3)
        await self.pull()
        self.assertEqual(await self.pool.public_key(TZ3), KEYS[Slot.TZ3])
        self.assertIn(f"no connected HSM holds {TZ3}", await self.refused())
        self.hsm.plug_in()
        back = Deferred.fromCoroutine(self.pool.changed(60))
        self.clock.advance(2)
        await back
        await self.signed()

    async def test_request_outlasts_replugging(self) -> None:
        """A request that comes while the board is away is signed when it is back in time."""
        self.start()
        await self.pool.public_key(TZ3)
        await self.pull()
        asked = self.pool.sign(TZ3, PAYLOADS["transfer"])
        self.clock.advance(1)
        self.hsm.plug_in()
        self.clock.advance(0.5)
        signature = await asked.result
        self.assertTrue(is_signature(Slot.TZ3, 3, PAYLOADS["transfer"], signature.data))

    async def test_unplugged_but_not_noticed(self) -> None:
        """A request in the moment of unplugging fails as any without a board."""
        self.start()
        await self.pool.public_key(TZ3)
        self.hsm.unplug()
        self.pool.sign(TZ1, PAYLOADS["transfer"]).result.addErrback(lambda _: None)
        asked = self.pool.sign(TZ3, block(9, 0), Priority.BLOCK).result
        noticed = Deferred.fromCoroutine(self.pool.changed(60))
        noticed.addCallback(lambda _: self.clock.pump([0.5] * 10))
        await self.assertFailure(asked, Unavailable)
        await noticed

    async def test_withdrawn(self) -> None:
        """A request that has not reached a board can be withdrawn, one that has cannot."""
        self.hsm.unplug()
        self.start()
        waiting = self.pool.sign(TZ3, PAYLOADS["transfer"])
        waiting.withdraw()
        self.clock.advance(2)
        await self.assertFailure(waiting.result, Unavailable)
        self.hsm.plug_in()
        self.clock.advance(2)
        await self.pool.public_key(TZ3)
        sent = self.pool.sign(TZ3, PAYLOADS["transfer"])
        sent.withdraw()
        await sent.result

    async def test_told_of_a_change(self) -> None:
        """When something happens to the ports, the pool does not wait for its next look."""
        tell: list[Callable[[], object]] = []
        ended: list[bool] = []

        def watch(callback: Callable[[], object]) -> Callable[[], object]:
            tell.append(callback)
            return lambda: ended.append(True)

        self.hsm.unplug()
        self.pool = self.made(self.hsm.boards, watch)
        self.start()
        self.clock.pump([0.5] * 10)
        self.hsm.plug_in()
        tell[0]()
        self.clock.advance(0.06)
        await self.pool.public_key(TZ3)
        self.pool.stopService()
        self.assertEqual(ended, [True])

    async def test_search_goes_on(self) -> None:
        """A look for boards that fails does not end the search."""

        def find() -> list[Board]:
            if self.clock.seconds() < 1:
                raise OSError(5, "a board vanished while it was looked at")
            return self.hsm.boards()

        self.pool = self.made(find)
        self.start()
        self.clock.pump([0.25] * 12)
        await self.pool.public_key(TZ3)
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 2)

    async def test_two_boards(self) -> None:
        """Of two boards with one key, the other takes over when one is pulled out."""
        other = self.board("second")
        self.pool = self.made(lambda: self.hsm.boards() + other.boards())
        self.start()
        while sum(device.ready for device in self.pool.devices.values()) < 2:
            await self.pool.changed(60)
        used: list[str] = []
        self.hsm.observer = lambda _: used.append("first")
        other.observer = lambda _: used.append("second")
        await gatherResults([self.pool.sign(TZ3, noop(n)).result for n in range(4)])
        self.assertEqual(set(used), {"first", "second"})
        await self.pull()
        used.clear()
        await self.signed()
        self.assertEqual(set(used), {"second"})

    async def test_stop(self) -> None:
        """When the pool stops, its ports are free, and nothing is left to happen."""
        self.start()
        await self.pool.public_key(TZ3)
        self.pool.stopService()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.pool = self.made(self.hsm.boards)
        self.start()
        await self.pool.public_key(TZ3)


class PortTests(PoolTestCase):
    """Who may have a port open."""

    async def test_exclusive(self) -> None:
        """A port that one pool has open is refused to a second, which harms the first in no way."""
        self.start()
        await self.pool.public_key(TZ3)
        second = self.made(self.hsm.boards)
        with capturedLogs() as events:
            self.start(second)
            self.clock.pump([0.5] * 10)
        errors = [formatEvent(e) for e in events if e["log_level"] is LogLevel.error]
        self.assertEqual(len(errors), 1)
        self.assertIn(f"first at {self.hsm.port}: cannot be opened: ", errors[0])
        await self.signed()
        self.pool.stopService()
        self.clock.pump([0.5] * 4)
        self.assertEqual(await second.public_key(TZ3), KEYS[Slot.TZ3])

    async def test_at_once(self) -> None:
        """A command is on its way before the reactor has its next turn."""
        master, slave = os.openpty()
        self.addCleanup(os.close, master)
        tty.setraw(slave)
        protocol = HsmProtocol(self.clock, do_nothing, "x")
        port = open_port(reactor, protocol, os.ttyname(slave))
        os.close(slave)
        protocol.exchange(ASK_KEY).addErrback(lambda _: None)
        self.assertEqual(os.read(master, 4096), ASK_KEY.request.frame())
        port.abort()

    async def test_missing_port(self) -> None:
        """A port of the configuration that is not there is reported once, and found later."""
        link = Path(self.mktemp()).absolute()
        self.pool = self.made(lambda: [Board(str(link))])
        with capturedLogs() as events:
            self.start()
            self.clock.pump([0.5] * 20)
        errors = [formatEvent(e) for e in events if e["log_level"] is LogLevel.error]
        self.assertEqual(len(errors), 1)
        self.assertIn(f"{link}: cannot be opened: ", errors[0])
        self.assertIn("there is no such port; is the board plugged in?", errors[0])
        link.symlink_to(str(self.hsm.port))
        self.clock.advance(1)
        await self.pool.public_key(TZ3)

    async def test_no_serial_port(self) -> None:
        """What is no terminal is refused, not a fault."""
        file = Path(self.mktemp())
        file.write_text("no port")
        self.pool = self.made(lambda: [Board(str(file))])
        with capturedLogs() as events:
            self.start()
            self.clock.advance(1)
        self.assertIn("cannot be opened", str([formatEvent(event) for event in events]))
        self.assertEqual(file.read_text(), "no port")

    def locked_by_the_kernel(self, link: str | None) -> bool:
        """Whether the kernel refuses the port to everybody while it is open here."""
        hsm = self.board("other", link)
        protocol = HsmProtocol(self.clock, do_nothing, "other")
        port = open_port(reactor, protocol, link or str(hsm.port))
        flag = fcntl.ioctl(port.fileno(), 0x80045440, bytes(4))  # TIOCGEXCL, which Python has not
        port.abort()
        return any(flag)

    async def test_kernel_lock(self) -> None:
        """A serial port is locked for all programs; a pseudo-terminal would stay so for ever."""
        self.assertFalse(self.locked_by_the_kernel(None))
        self.assertFalse(self.locked_by_the_kernel(str(Path(self.mktemp()).absolute())))
        self.patch(serialhsm, "_PSEUDO_TERMINALS", "/none")
        self.assertTrue(self.locked_by_the_kernel(None))

    async def test_abort(self) -> None:
        """A port is left at once, also when its device is gone or takes nothing, and only once."""
        for gone in (False, True):
            lost: list[bool] = []
            hsm = self.board("other")
            protocol = HsmProtocol(self.clock, lambda lost=lost: lost.append(True), "x")  # type: ignore[misc]
            port = open_port(reactor, protocol, str(hsm.port))
            self.assertFalse(port.unsent)
            if gone:
                hsm.unplug()
                port.forget_input()
                self.assertTrue(port.unsent)
            else:
                port.write(bytes(100_000))
                self.assertTrue(port.unsent)
            port.abort()
            port.abort()
            self.assertEqual(lost, [True])


class NonceTests(PoolTestCase):
    """A nonce that comes twice exposes the secret key."""

    async def test_repeated_nonce(self) -> None:
        """The second message with one r is not signed, nor any after it, and the log cries out."""
        self.hsm.firmware.failing.add("nonce")
        self.start()
        await self.pool.public_key(TZ3)
        await self.signed(noop(1))
        await self.signed(noop(1))
        with capturedLogs() as events:
            asked = self.pool.sign(TZ3, noop(2))
            error = await self.assertFailure(asked.result, Forbidden)
        self.assertIn("exposes the secret key", str(error))
        (critical,) = [e for e in events if e["log_level"] is LogLevel.critical]
        self.assertIn(str(TZ3), formatEvent(critical))
        self.hsm.observer = lambda data: self.fail(data.hex())
        await self.assertFailure(self.pool.sign(TZ3, noop(1)).result, Forbidden)
        self.hsm.observer = bytes
        await self.pool.sign(TZ1, noop(2)).result
