"""The simulated HSM: recorded exchanges, its times, and its life on a pseudo-terminal."""

import os
import re
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.serialport import SerialPort
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase

from tests.support.harness import reactor
from tests.support.hsmdevice import is_signature, sign
from tests.support.vectors import EXCHANGES, PAYLOADS, TZ1, TZ3
from tezio_signer.hsm import framing
from tezio_signer.hsm.boards import Board
from tezio_signer.hsm.framing import KeyFormat, Opcode, Request, Slot
from tezio_signer.simulator.firmware import Firmware
from tezio_signer.simulator.service import SerialLine, Simulator

ADDRESS = framing.get_public_key(Slot.TZ1, KeyFormat.ADDRESS).frame()
ADDRESS_REPLY = framing.reply(str(TZ1).encode())
OTHER_ADDRESS = framing.get_public_key(Slot.TZ3, KeyFormat.ADDRESS).frame()
OTHER_REPLY = framing.reply(str(TZ3).encode())
CUT_OFF = bytes.fromhex("0500a79583")  # A7
TOO_SHORT = bytes.fromhex("0500a69003")  # A6

# The groups in which one exchange depends on those before it.
_IN_ORDER = ("policy", "watermark")
_NUMBER = r"(0x[0-9a-f]+|\d+)"


def device_of(options: str) -> tuple[Firmware, float | None]:
    """The device with the options that a recorded one was started with, and its latency."""

    def given(option: str, fields: int) -> list[list[int]]:
        pattern = f"--{option} " + ":".join([_NUMBER] * fields) + r"\b"
        return [
            [int(number, 0) for number in match.groups()] for match in re.finditer(pattern, options)
        ]

    disabled = [(Slot(slot), Opcode(opcode)) for slot, opcode in given("disable", 2)]
    levels = {(Slot(slot), magic): level for slot, magic, level in given("level-hwm", 3)}
    rounds = {(Slot(slot), magic): round_ for slot, magic, round_ in given("round-hwm", 3)}
    marks = {at: (level, rounds[at]) for at, level in levels.items()}
    delay = given("delay-ms", 1)
    return Firmware(disabled=disabled, marks=marks), delay[0][0] / 1000 if delay else None


class Line:
    """A device on a line with a clock of its own, and all that came out of it."""

    def __init__(self, firmware: Firmware | None = None, latency: float | None = None) -> None:
        self.clock = Clock()
        self.firmware = firmware or Firmware()
        self.written = b""
        self.line = SerialLine(self.firmware, self.clock, self._write, latency)

    def _write(self, data: bytes) -> None:
        self.written += data

    def send(self, data: bytes, after: float = 0) -> None:
        """Write to the device, now or in some seconds."""
        if after:
            self.clock.callLater(after, self.line.received, data)
        else:
            self.line.received(data)

    def take(self) -> bytes:
        """What has come since the last time."""
        taken, self.written = self.written, b""
        return taken

    def pass_time(self, seconds: float) -> bytes:
        """Let time pass in steps of a tenth of a millisecond; what has come then."""
        self.clock.pump([0.0001] * round(seconds * 10000))
        return self.take()

    def settle(self) -> bytes:
        """Let time pass until nothing more is to happen; what has come then."""
        while calls := self.clock.getDelayedCalls():
            self.clock.advance(min(call.getTime() for call in calls) - self.clock.seconds())
        return self.take()


class ReplayTests(SynchronousTestCase):
    """The simulated device answers as the recorded one."""

    def replay(self, *groups: str) -> None:
        """Replay all exchanges of some groups."""
        exchanges = [e for e in EXCHANGES if e["group"] in groups]
        self.assertTrue(exchanges)
        line, device = Line(), ""
        for number, exchange in enumerate(exchanges):
            options = exchange.get("device_options", "")
            in_order = exchange["group"] in _IN_ORDER
            wanted = exchange["group"] + options if in_order else str(number)
            if wanted != device:
                line, device = Line(*device_of(options)), wanted
            self.replay_one(line, exchange)

    def replay_one(self, line: Line, exchange: dict[str, Any]) -> None:
        """Replay one exchange, its request in the pieces and at the times that it was sent in."""
        what = exchange["what"]
        request = bytes.fromhex(exchange["request_hex"])
        if what.startswith("after a restart"):
            line.firmware.power_cycle()
        if chunks := re.search(r"in (\d) chunks, (\d+) ms apart", what):
            count, gap = int(chunks[1]), int(chunks[2]) / 1000
            size = -(-len(request) // count)
            for chunk in range(count):
                line.send(request[chunk * size : (chunk + 1) * size], chunk * gap)
        elif late := re.search(r"the missing byte (\d+) ms later", what):
            line.send(request[:-1])
            line.send(request[-1:], int(late[1]) / 1000)
        else:
            line.send(request)
        self.judge(exchange, request, line.settle())

    def judge(self, exchange: dict[str, Any], request: bytes, reply: bytes) -> None:
        """Compare a reply with the recorded one: signatures by meaning, all else byte for byte."""
        what = exchange["what"]
        recorded = bytes.fromhex(exchange["reply_hex"])
        opcode, slot, mode = request[3:6].ljust(3, b"\x00")
        random = opcode == Opcode.SIGN and slot in (0, 2, 3) and mode and len(recorded) > 5
        if not random:
            self.assertEqual(reply, recorded, what)
            return
        self.assertIsNot(exchange["deterministic"], True, what)
        self.assertEqual(len(reply), len(recorded), what)
        for packet in (recorded, reply):
            split = framing.split_reply(packet)
            assert split is not None
            body, rest = split
            self.assertEqual(rest, b"")
            self.assertTrue(is_signature(Slot(slot), mode, request[8:-2], body), what)

    def test_groups(self) -> None:
        """All groups of exchanges are replayed here."""
        self.assertEqual(
            {e["group"] for e in EXCHANGES},
            {
                "get_pk",
                "sign",
                "verify",
                "real-device",
                "policy",
                "policy-bypass",
                "prehash",
                "watermark",
                "disabled",
                "framing",
                "stale",
            },
        )

    def test_keys(self) -> None:
        """Keys of all slots in all forms, and requests for keys that do not exist."""
        self.replay("get_pk")

    def test_signatures(self) -> None:
        """Signatures in all modes, and requests for them that are wrong."""
        self.replay("sign")

    def test_verdicts(self) -> None:
        """Verdicts on good, bad, malleated and malformed signatures."""
        self.replay("verify")

    def test_real_device(self) -> None:
        """What is published of a real board."""
        self.replay("real-device")

    def test_policy(self) -> None:
        """The magic bytes that the device signs, and those that it should not."""
        self.replay("policy", "policy-bypass", "prehash")

    def test_watermarks(self) -> None:
        """The device's own watermarks, across a restart and with marks compiled in."""
        self.replay("watermark")

    def test_disabled(self) -> None:
        """Operations that are disabled for a key."""
        self.replay("disabled")

    def test_framing(self) -> None:
        """Broken, cut, slow, false and joined frames."""
        self.replay("framing")

    def test_stale(self) -> None:
        """A client reads the reply to the command of the one before it."""
        (exchange,) = (e for e in EXCHANGES if e["group"] == "stale")
        earlier = "sign key 1 (tz1) mode 4 75-byte message starting 03"
        (first,) = (e["request_hex"] for e in EXCHANGES if e["what"] == earlier)
        line = Line(*device_of(exchange["device_options"]))
        line.send(bytes.fromhex(first))
        line.send(bytes.fromhex(exchange["request_hex"]), 0.5)
        self.assertEqual(line.settle().hex(), exchange["reply_hex"])


class TimingTests(SynchronousTestCase):
    """The device's own times, by the table of its description."""

    def test_operations(self) -> None:
        """Each operation takes its time: no reply before it, and one at its end."""
        prepared = Firmware()
        signature = b"\x01" * 64
        for request, least, most in (
            (sign(Slot.AUTH, b"\x03"), 150, 150),
            (sign(Slot.TZ3, b"\x03"), 150, 150),
            (sign(Slot.TZ1, b"\x03"), 152, 152),
            (sign(Slot.TZ2, b"\x03"), 215, 215),
            *((framing.get_public_key(s, f), 23, 32) for s in Slot for f in list(KeyFormat)[:3]),
            *((framing.get_public_key(s, KeyFormat.ADDRESS), 123, 132) for s in Slot),
            (framing.verify(Slot.AUTH, b"\x03", signature), 142, 142),
            (framing.verify(Slot.TZ3, b"\x03", signature), 142, 142),
            (framing.verify(Slot.TZ1, b"\x03", signature), 23, 23),
            (framing.verify(Slot.TZ2, b"\x03", signature), 32, 32),
            (Request(0x31, 0, 0), 2, 4),
            (sign(Slot.TZ3, b"\x01"), 2, 4),
            (sign(Slot.TZ3, b"\x13"), 2, 4),
        ):
            line = Line(prepared)
            line.send(request.frame())
            self.assertEqual(line.pass_time(least / 1000 - 0.0005), b"", request)
            self.assertNotEqual(line.pass_time((most - least) / 1000 + 0.001), b"", request)

    def test_no_latency(self) -> None:
        """With a latency of zero each command is answered at once."""
        line = Line(latency=0)
        line.send(ADDRESS + sign(Slot.TZ1, b"\x01").frame())
        self.assertEqual(line.take(), ADDRESS_REPLY + bytes.fromhex("0500b8d403"))
        self.assertEqual(line.clock.getDelayedCalls(), [])

    def test_fixed_latency(self) -> None:
        """Another latency is that of every command."""
        line = Line(latency=0.5)
        for frame in (ADDRESS, Request(0x31, 0, 0).frame()):
            line.send(frame)
            self.assertEqual(line.pass_time(0.4995), b"")
            self.assertNotEqual(line.pass_time(0.001), b"")

    def test_one_after_the_other(self) -> None:
        """Commands that wait are answered in order, each in its own time."""
        line = Line()
        line.send(ADDRESS)
        line.send(OTHER_ADDRESS)
        self.assertEqual(line.pass_time(0.133), ADDRESS_REPLY)
        self.assertEqual(line.pass_time(0.110), b"")
        self.assertEqual(line.pass_time(0.030), OTHER_REPLY)

    def test_garbage(self) -> None:
        """Every byte of garbage takes a millisecond, also for a frame that comes meanwhile."""
        for garbage in (b"\xaa" * 50, bytes([*range(3), *range(4, 51)])):
            line = Line()
            line.send(garbage + ADDRESS)
            self.assertEqual(line.pass_time(0.050 + 0.1225), b"")
            self.assertEqual(line.pass_time(0.010), ADDRESS_REPLY)
        line = Line()
        line.send(b"\xaa" * 50)
        self.assertEqual(line.pass_time(0.025), b"")
        line.send(ADDRESS)
        self.assertEqual(line.pass_time(0.025 + 0.1225), b"")
        self.assertEqual(line.pass_time(0.010), ADDRESS_REPLY)

    def test_garbage_only(self) -> None:
        """Garbage alone is never answered."""
        line = Line()
        line.send(b"15\r\n" * 100)
        self.assertEqual(line.settle(), b"")
        line.send(ADDRESS)
        self.assertEqual(line.settle(), ADDRESS_REPLY)

    def test_false_start(self) -> None:
        """A 03 in garbage begins a false frame, which swallows the good one behind it."""
        line = Line()
        line.send(b"\xaa\x03" + ADDRESS)
        self.assertEqual(line.settle(), CUT_OFF)
        line.send(ADDRESS)
        self.assertEqual(line.settle(), ADDRESS_REPLY)

    def test_length_limit(self) -> None:
        """The length bytes have to come within 100 ms of the start byte."""
        for pieces in ((b"\x03", ADDRESS[1:]), (b"\x03\x07", ADDRESS[2:])):
            for delay, reply in ((0.099, ADDRESS_REPLY), (0.101, TOO_SHORT)):
                line = Line()
                line.send(pieces[0])
                line.send(pieces[1], delay)
                self.assertEqual(line.settle(), reply, delay)

    def test_rest_limit(self) -> None:
        """The rest has to come within 100 ms of the length, all of it together."""
        for pieces, reply in (
            (((1, 3, 0.099), (3, 8, 0.198)), ADDRESS_REPLY),
            (((1, 3, 0.099), (3, 8, 0.201)), TOO_SHORT),  # there was nothing but the length
            (((1, 3, 0), (3, 6, 0.050), (6, 8, 0.099)), ADDRESS_REPLY),
            (((1, 3, 0), (3, 6, 0.060), (6, 8, 0.120)), CUT_OFF),
        ):
            line = Line()
            line.send(ADDRESS[:1])
            for start, end, delay in pieces:
                line.send(ADDRESS[start:end], delay)
            # Nothing in the bytes that come too late looks like a start.
            self.assertEqual(line.settle(), reply, pieces)

    def test_time_of_refusal(self) -> None:
        """A cut frame is refused when its 100 ms are over."""
        for cut, reply in ((1, TOO_SHORT), (3, TOO_SHORT), (5, TOO_SHORT), (7, CUT_OFF)):
            line = Line()
            line.send(ADDRESS[:cut])
            self.assertEqual(line.pass_time(0.100), b"", cut)
            self.assertEqual(line.pass_time(0.005), reply, cut)

    def test_impossible_length(self) -> None:
        """A length that the length bytes themselves fill takes nothing of the next frame."""
        for length in (b"\x00\x00", b"\x01\x00", b"\x02\x00"):
            line = Line()
            line.send(b"\x03" + length + ADDRESS)
            self.assertEqual(line.settle(), TOO_SHORT + ADDRESS_REPLY, length)

    def test_swallowed_frame(self) -> None:
        """A cut frame takes what it misses from the next one, and is refused at once."""
        line = Line()
        line.send(ADDRESS[:5])
        line.send(ADDRESS)
        self.assertEqual(line.pass_time(0.005), CUT_OFF)
        self.assertEqual(line.settle(), b"")

    def test_overlong_frame(self) -> None:
        """A message over 1015 bytes is refused once, then there is silence until power is cut."""
        line = Line()
        line.send(b"\x03" + framing.reply(b"\x21\x01\x03\x00\x00" + b"\x07" * 1024))
        self.assertEqual(line.settle(), CUT_OFF)
        line.send(ADDRESS)
        self.assertEqual(line.settle(), b"")
        line.firmware.power_cycle()
        line.send(ADDRESS)
        self.assertEqual(line.settle(), ADDRESS_REPLY)

    def test_longest_frame(self) -> None:
        """A message of 1015 bytes is signed."""
        line = Line()
        message = b"\x03" + b"\x07" * 1014
        line.send(framing.sign(Slot.TZ3, message).frame())
        self.assertTrue(is_signature(Slot.TZ3, 3, message, line.settle()[2:-2]))

    def test_silence(self) -> None:
        """A block with a fitness length of 8000 is not answered, nor is anything after it."""
        line = Line()
        payload = PAYLOADS["block_unlocked_nononce_on"]
        line.send(framing.sign(Slot.TZ3, payload[:83] + b"\x00\x00\x80\x00").frame())
        line.send(ADDRESS)
        self.assertEqual(line.settle(), b"")
        line.firmware.power_cycle()
        line.send(ADDRESS)
        self.assertEqual(line.settle(), ADDRESS_REPLY)

    def test_noise(self) -> None:
        """What the chip's library prints comes with the reply, ahead of it."""
        line = Line()
        line.firmware.noisy = True
        line.firmware.failing.add("begin")
        line.send(ADDRESS)
        self.assertEqual(line.settle(), b"15\r\n" + bytes.fromhex("0500a18183"))

    def test_stop(self) -> None:
        """An unplugged device answers nothing, neither what it was asked nor what it will be."""
        for begun in (ADDRESS, ADDRESS[:1], ADDRESS[:5], b"\xaa" * 9 + ADDRESS, b""):
            line = Line()
            line.send(begun)
            line.line.stop()
            line.send(ADDRESS)
            self.assertEqual(line.clock.getDelayedCalls(), [])
            self.assertEqual(line.settle(), b"")


class Host(Protocol):
    """A program that has the port open."""

    def __init__(self) -> None:
        self.received = b""
        self.closed: Deferred[None] = Deferred()
        self._wanted: list[tuple[int, Deferred[bytes]]] = []

    def dataReceived(self, data: bytes) -> None:
        self.received += data
        for wanted in list(self._wanted):
            count, waiting = wanted
            if len(self.received) >= count:
                self._wanted.remove(wanted)
                waiting.callback(self.received)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.closed.callback(None)

    def ask(self, frame: bytes, count: int) -> Deferred[bytes]:
        """Write to the device; fires with all bytes since then, when there are so many."""
        assert self.transport is not None
        self.received = b""
        waiting: Deferred[bytes] = Deferred()
        self._wanted.append((count, waiting))
        self.transport.write(frame)
        return waiting


class SimulatorTests(TestCase):
    """The service on its pseudo-terminal."""

    def start(self, **options: Any) -> Simulator:
        """A device that is plugged in for as long as the test runs."""
        simulator = Simulator(reactor, Firmware(), 0, **options)
        self.addCleanup(lambda: simulator.stopService() if simulator.running else None)
        simulator.startService()
        return simulator

    def open(self, simulator: Simulator | str) -> Host:
        """Open the device's port, or another."""
        host = Host()
        port = simulator if isinstance(simulator, str) else simulator.port
        serial = SerialPort(host, port, reactor)

        async def close() -> None:
            if not host.closed.called:
                serial.loseConnection()
            await host.closed

        self.addCleanup(close)
        return host

    async def close(self, host: Host) -> None:
        """Close a port, as a program does that ends."""
        assert host.transport is not None
        host.transport.loseConnection()
        await host.closed

    async def assert_alive(self, simulator: Simulator) -> None:
        """Check that a program can open the port and be answered."""
        host = self.open(simulator)
        self.assertEqual(await host.ask(ADDRESS, len(ADDRESS_REPLY)), ADDRESS_REPLY)
        await self.close(host)

    async def test_exchanges(self) -> None:
        """A program that opens the port is answered, several times."""
        host = self.open(self.start())
        for _ in range(3):
            self.assertEqual(await host.ask(ADDRESS, len(ADDRESS_REPLY)), ADDRESS_REPLY)
            self.assertEqual(await host.ask(OTHER_ADDRESS, len(OTHER_REPLY)), OTHER_REPLY)

    async def test_every_byte_value(self) -> None:
        """The line leaves all bytes as they are, in both directions."""
        host = self.open(self.start())
        message = b"\x03" + bytes(range(256)) * 3
        # Raw signatures have any byte in them; a terminal would change some.
        for end in range(30):
            frame = framing.sign(Slot.TZ1, message + bytes([end])).frame()
            reply = await host.ask(frame, 68)
            self.assertTrue(is_signature(Slot.TZ1, 3, message + bytes([end]), reply[2:-2]))

    async def test_longest_frame(self) -> None:
        """The longest frame goes through in one piece."""
        host = self.open(self.start())
        message = b"\x03" + b"\n" * 1014
        reply = await host.ask(framing.sign(Slot.TZ3, message).frame(), 68)
        self.assertTrue(is_signature(Slot.TZ3, 3, message, reply[2:-2]))

    async def test_open_again(self) -> None:
        """The port can be closed and opened again; the device keeps its watermarks meanwhile."""
        simulator = self.start()
        frame = framing.sign(Slot.TZ3, PAYLOADS["att"]).frame()
        host = self.open(simulator)
        self.assertEqual(len(await host.ask(frame, 68)), 68)
        await self.close(host)
        host = self.open(simulator)
        self.assertEqual(await host.ask(frame, 5), bytes.fromhex("0500d4bc02"))

    async def test_observer(self) -> None:
        """The observer is told every byte that the host writes, garbage included."""
        simulator = self.start()
        seen = bytearray()
        simulator.observer = seen.extend
        host = self.open(simulator)
        await host.ask(b"\xaa\xbb" + ADDRESS, len(ADDRESS_REPLY))
        await host.ask(ADDRESS, len(ADDRESS_REPLY))
        self.assertEqual(bytes(seen), b"\xaa\xbb" + ADDRESS + ADDRESS)

    async def test_boards(self) -> None:
        """It is to be found at its port while it runs, and nowhere before and after."""
        simulator = Simulator(reactor, Firmware(), 0)
        self.assertEqual(simulator.boards(), [])
        simulator.startService()
        port = simulator.port
        assert port is not None
        self.assertEqual(simulator.boards(), [Board(port, "simulated")])
        await self.assert_alive(simulator)
        simulator.stopService()
        self.assertEqual(simulator.boards(), [])
        self.assertFalse(os.path.exists(port))

    def test_serial_number(self) -> None:
        """Another serial number tells it from others of its kind."""
        simulator = self.start(serial_number="second")
        self.assertEqual([board.serial_number for board in simulator.boards()], ["second"])

    async def test_restart(self) -> None:
        """It can be stopped and started again, and serves on its new port."""
        simulator = self.start()
        for _ in range(3):
            await self.assert_alive(simulator)
            simulator.stopService()
            simulator.startService()

    async def test_unplugged(self) -> None:
        """A program that has the port open is hung up when the device goes."""
        simulator = self.start()
        host = self.open(simulator)
        await host.ask(ADDRESS, len(ADDRESS_REPLY))
        simulator.stopService()
        await host.closed

    async def test_plugged_in_again(self) -> None:
        """Unplugged and plugged in again, it serves without the service being started anew."""
        simulator = self.start()
        host = self.open(simulator)
        simulator.unplug()
        await host.closed
        self.assertEqual(simulator.boards(), [])
        simulator.unplug()  # nothing to unplug
        simulator.plug_in()
        await self.assert_alive(simulator)

    async def test_unplugged_in_a_frame(self) -> None:
        """Stopped in the middle of a frame, it leaves no timer behind."""
        simulator = self.start()
        heard: Deferred[bytes] = Deferred()
        simulator.observer = heard.callback
        host = self.open(simulator)
        assert host.transport is not None
        host.transport.write(ADDRESS[:5])
        self.assertEqual(await heard, ADDRESS[:5])
        simulator.stopService()  # trial complains of what is left
        await host.closed

    async def test_link(self) -> None:
        """The link leads to the port while it runs, and is gone afterwards."""
        link = os.path.abspath(self.mktemp())
        simulator = self.start(link=link)
        self.assertEqual(os.readlink(link), simulator.port)
        host = self.open(link)
        self.assertEqual(await host.ask(ADDRESS, len(ADDRESS_REPLY)), ADDRESS_REPLY)
        await self.close(host)
        simulator.stopService()
        self.assertFalse(os.path.lexists(link))

    def test_stale_link(self) -> None:
        """A link that was left over is replaced."""
        link = os.path.abspath(self.mktemp())
        os.symlink("/dev/pts/left-over", link)
        simulator = self.start(link=link)
        self.assertEqual(os.readlink(link), simulator.port)

    def test_removed_link(self) -> None:
        """That somebody removed the link does not keep it from stopping."""
        link = os.path.abspath(self.mktemp())
        simulator = self.start(link=link)
        os.unlink(link)
        simulator.stopService()
        self.assertEqual(simulator.boards(), [])

    def test_real_file(self) -> None:
        """A real file is never replaced by the link, nor removed."""
        path = os.path.abspath(self.mktemp())
        with open(path, "w", encoding="utf-8") as file:
            file.write("precious")
        with self.assertRaises(FileExistsError):
            self.start(link=path)
        with open(path, encoding="utf-8") as file:
            self.assertEqual(file.read(), "precious")
