"""The daemon: its services in order, and as a real process that is stopped, killed and misused."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from attrs import define, field
from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.endpoints import clientFromString, connectProtocol
from twisted.internet.error import CannotListenError
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from tests.support.certificates import Authority
from tests.support.daemonprocess import FREE_PORT, Process, serving, start_command, start_daemon
from tests.support.filewatch import FileWatch
from tests.support.genericpayloads import transfer_from
from tests.support.harness import Client, parse_response, reactor
from tests.support.octezclient import HSM_KEYS, SecretKey, post, text_in, verifies
from tests.support.octezsocketclient import (
    AUTHORIZED_KEYS,
    OctezSocketClient,
    result_in,
    sign,
    signature_in,
)
from tests.support.processcase import ProcessTestCase
from tests.support.vectors import OCTEZ, PAYLOADS, SHIPPED, TZ1, TZ3, block, consensus
from tezio_signer.daemon import Daemon
from tezio_signer.errors import StartupError
from tezio_signer.signer import Signer
from tezio_signer.watermarks.sqlite import reading

STOP_SECONDS = 3.0
TRANSFER = transfer_from(TZ1)
CLOSE = "close: the signer is stopping"


class RecordingService(Service):
    """Tells when it is started and stopped; stopping takes until the test says so."""

    def __init__(self, name: str, events: list[str]) -> None:
        self._called = name
        self._events = events
        self.stopped: Deferred[None] = Deferred()

    def privilegedStartService(self) -> None:
        self._events.append(f"open {self._called}")

    def startService(self) -> None:
        super().startService()
        self._events.append(f"start {self._called}")

    def stopService(self) -> Deferred[None]:
        super().stopService()
        self._events.append(f"stop {self._called}")
        return self.stopped


@define
class BusySigner:
    """A signer with a request in progress."""

    events: list[str]
    idle: Deferred[None] = field(factory=lambda: Deferred(lambda _: None))

    def drained(self) -> Deferred[None]:
        return self.idle

    def close(self, why: str) -> None:
        self.events.append(f"close: {why}")

    def refuse_all(self, why: str) -> None:
        self.events.append(f"refuse all: {why}")


class DaemonTests(SynchronousTestCase):
    """The order of starting and stopping."""

    def setUp(self) -> None:
        self.events: list[str] = []
        self.clock = Clock()
        self.signer = BusySigner(self.events)
        self.listener = RecordingService("listener", self.events)
        self.inner = [RecordingService(name, self.events) for name in ("store", "hsms")]
        for service in self.inner:
            service.stopped.callback(None)
        self.daemon = Daemon(self.clock, cast(Signer, self.signer), self.inner, [self.listener])

    def started(self) -> None:
        """Start the daemon, and forget how."""
        self.daemon.privilegedStartService()
        self.daemon.startService()
        self.events.clear()

    def test_start(self) -> None:
        """The inner services run before requests can come in."""
        self.daemon.privilegedStartService()
        self.daemon.startService()
        self.assertEqual(
            self.events,
            [
                "open store",
                "open hsms",
                "open listener",
                "start store",
                "start hsms",
                "start listener",
            ],
        )
        self.assertTrue(self.daemon.running)

    def test_stop(self) -> None:
        """First nobody else is let in, then requests are finished, then the rest stops."""
        self.started()
        stopped = self.daemon.stopService()
        self.assertFalse(self.daemon.running)
        self.assertEqual(self.events, ["stop listener"])
        self.clock.advance(1)
        self.listener.stopped.callback(None)  # what was half sent is here
        self.assertEqual(self.events, ["stop listener", CLOSE])
        self.clock.advance(1)
        self.signer.idle.callback(None)
        self.assertNoResult(stopped)
        self.clock.advance(0.1)
        self.assertEqual(self.events, ["stop listener", CLOSE, "stop hsms", "stop store"])
        self.successResultOf(stopped)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_stop_is_not_held_up(self) -> None:
        """A request that does not end in time is refused, so that all is over in three seconds."""
        self.started()
        stopped = self.daemon.stopService()
        self.listener.stopped.callback(None)
        self.clock.pump([0.1] * 24)
        self.assertEqual(self.events, ["stop listener", CLOSE])
        self.clock.pump([0.1] * 5)
        self.successResultOf(stopped)
        self.assertEqual(
            self.events,
            [
                "stop listener",
                CLOSE,
                "refuse all: the signer is stopping",
                "stop hsms",
                "stop store",
            ],
        )

    def test_listener_cannot_open(self) -> None:
        """A port that cannot be had ends start-up with a sentence; a fault stays as it is."""

        def fail(error: Exception) -> Callable[[], None]:
            def open_listener() -> None:
                raise error

            return open_listener

        for error, words in [
            (CannotListenError("127.0.0.1", 6732, OSError("in use")), "127.0.0.1:6732: in use"),
            (PermissionError(13, "Permission denied"), "Permission denied"),
            (OverflowError("bind(): port must be 0-65535."), "port must be 0-65535"),
        ]:
            self.patch(self.listener, "privilegedStartService", fail(error))
            refused = self.assertRaises(StartupError, self.daemon.privilegedStartService)
            self.assertIn(words, str(refused))
        self.patch(self.listener, "privilegedStartService", fail(ZeroDivisionError()))
        self.assertRaises(ZeroDivisionError, self.daemon.privilegedStartService)


class Asking(Protocol):
    """Collects what comes until the connection is closed."""

    transport: Any

    def __init__(self) -> None:
        self.received = b""
        self.closed: Deferred[bytes] = Deferred()

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.closed.callback(self.received)


class SigningTests(ProcessTestCase):
    """A daemon that does its work."""

    async def test_simulated(self) -> None:
        """`--simulate` listens, says loudly what it is, and signs without any file."""
        daemon = self.start("--simulate")
        client = await serving(daemon)
        self.assertIn("SIMULATED HSM", daemon.log)
        answer = await client.sign(TZ3, PAYLOADS["block_unlocked_nononce_on"])
        self.assertEqual(answer.status, 200)
        self.assertTrue(json.loads(answer.body)["signature"].startswith("p2sig"))
        self.assertEqual((await client.sign(TZ1, PAYLOADS["block_locked_nonce_off"])).status, 403)
        await daemon.says("signed block 5000000/1 for tz3")
        self.assert_quiet(daemon)
        self.assertEqual(os.listdir(self.directory), [])

    async def test_sockets(self) -> None:
        """The socket protocol is spoken on TCP and on a Unix socket, which goes with the daemon."""
        # Relative paths: that of a socket has 107 bytes at most.
        path = Path(os.path.relpath(self.directory / "signer.sock"))
        options = ("--octez-socket", FREE_PORT, "--octez-socket", "unix:signer.sock:mode=600")
        daemon = self.start("--simulate", *options)
        await serving(daemon)
        on_tcp, on_unix = await self.socket_client(daemon), OctezSocketClient(f"unix:{path}")
        self.assertEqual(path.stat().st_mode & 0o777, 0o600)
        for asking in (on_tcp, on_unix):
            signature = await asking.sign(str(TZ1), TRANSFER)
            self.assertTrue(verifies(HSM_KEYS[0].public_key, TRANSFER, signature))
        whose = rf"for {TZ1} from 127.0.0.1 \(uid {os.getuid()}, "
        await daemon.says(rf"signed transaction of 1 tez to tz1\w+, fee 0.000404 tez, {whose}")
        daemon.send("TERM")
        await daemon.exits()
        self.assert_quiet(daemon)
        self.assertEqual(os.listdir(self.directory), [])

    async def test_half_sent(self) -> None:
        """A request of which half has come when SIGTERM does is signed, and the daemon ends."""
        daemon = self.start("--simulate")
        client = await serving(daemon)
        payload = TRANSFER
        request = post("127.0.0.1", f"/keys/{TZ1}", payload)
        asking = await connectProtocol(clientFromString(reactor, client.endpoint), Asking())
        asking.transport.write(request[:-9])
        other = await client.request("GET", "/authorized_keys")  # so that the half was read
        self.assertEqual(other.status, 200)
        daemon.send("TERM")
        await daemon.says("Received SIGTERM")
        self.assertNoResult(asking.closed)
        asking.transport.write(request[-9:])
        answer = parse_response(await asking.closed)
        self.assertEqual(answer.status, 200)
        signature = text_in(answer.body, "signature")
        self.assertTrue(verifies(HSM_KEYS[0].public_key, payload, signature))
        await daemon.exits()
        self.assert_quiet(daemon)

    async def test_requests_waiting(self) -> None:
        """No more requests wait for the HSM than the configuration allows."""
        board, daemon, answering = await self.signing(more="limits: {requests_waiting: 1}")
        port = await daemon.says(r"SignerSite starting on (\d+)\n")
        client = Client(int(port[1]))
        waiting = [
            Deferred.fromCoroutine(client.sign(TZ1, payload))
            for payload in (TRANSFER, PAYLOADS["noop"])
        ]
        refused, number = await DeferredList(waiting, fireOnOneCallback=True)
        self.assertEqual(refused.status, 502)
        self.assertIn(b"1 requests wait for the HSM", refused.body)
        board.answer()
        await board.asked()
        board.answer()
        for served in (answering, waiting[1 - number]):
            self.assertEqual((await served).status, 200)

    async def test_log(self) -> None:
        """The log never has an authentication signature, whatever comes of the request."""
        client_key = SecretKey(OCTEZ["keys"][1]["sk"])
        self.configure(f"authorized_keys: [{client_key.public_key}]", store=False)
        config = self.directory / "config.yaml"
        config.write_text(config.read_text("utf-8").replace("auth_req: False", "auth_req: True"))
        daemon = self.start("--simulate")
        client = await serving(daemon)
        secret = client_key.authenticate(str(TZ1), TRANSFER)
        query = f"?authentication={secret}&version=3"
        for payload, status in [
            (TRANSFER, 200),
            (PAYLOADS["noop"], 401),
            (PAYLOADS["att"], 401),
            (b"\x03", 400),
        ]:
            self.assertEqual((await client.sign(TZ1, payload, query)).status, status)
        self.assertEqual((await client.request("GET", f"/nothing{query}")).status, 404)
        await daemon.says("refused a request for tz1.* 400 ")
        self.assertNotIn(secret[:20], daemon.log)
        self.assert_quiet(daemon)

    async def test_verbose(self) -> None:
        """With `verbose` the commands to the HSM are logged, not what they sign."""
        self.configure(store=False)
        config = self.directory / "config.yaml"
        config.write_text(config.read_text("utf-8").replace("verbose: False", "verbose: True"))
        daemon = self.start("--simulate")
        client = await serving(daemon)
        self.assertEqual((await client.sign(TZ1, TRANSFER)).status, 200)
        await daemon.says(f"{len(TRANSFER) + 10} bytes, opcode 21, slot 1")
        self.assertNotIn(TRANSFER.hex()[:32], daemon.log.lower())


class MistakeTests(ProcessTestCase):
    """A daemon that cannot work does not run."""

    async def refused(self, daemon: Process, *words: str) -> None:
        """Check that a daemon ends with exactly one line to the point."""
        self.assertEqual(await daemon.exits(), 1, daemon.log)
        said = [line for line in daemon.log.splitlines() if "tezio-signer: " in line]
        self.assertEqual(len(said), 1, daemon.log)
        for word in words:
            self.assertIn(word, said[0])
        self.assert_quiet(daemon)

    async def test_options(self) -> None:
        """A port in use, a wrong endpoint or configuration ends start-up with one line each."""
        taken = reactor.listenTCP(0, Factory(), interface="127.0.0.1")  # type: ignore[attr-defined]
        self.addCleanup(taken.stopListening)
        port = taken.getHost().port
        (self.directory / "wrong.yaml").write_text("policy: {}\nverbos: True\n")
        authority = Authority(self.directory)
        server = authority.certify("server", server=True)
        https = f"ssl:0:interface=127.0.0.1:privateKey={server.key}:certKey={server.certificate}"
        shipped = SHIPPED.read_text("utf-8")
        (self.directory / "ca.yaml").write_text(f"{shipped}\nclient_ca: ca.pem\n", "utf-8")
        mistakes = {
            ("--http", f"tcp:{port}:interface=127.0.0.1"): (f"127.0.0.1:{port}", "in use"),
            ("--octez-socket", f"tcp:{port}:interface=127.0.0.1"): (f"127.0.0.1:{port}", "in use"),
            ("--octez-socket", "tpc:7732"): ("'tpc:7732' is not an endpoint", "tpc"),
            ("--http", "tpc:6732"): ("'tpc:6732' is not an endpoint", "tpc"),
            ("--http", "tcp:99999"): ("port is a number from 0 to 65535",),
            ("--http", "unix:/nonexistent/socket"): ("there is no directory /nonexistent",),
            ("--config", "ca.yaml"): ("client_ca protects nothing", "ssl:6732"),
            ("--http", f"{https}:sslmethod=TLSv1_METHOD"): ("TLSv1_METHOD", "TLS 1.2"),
            ("--http", f"ssl:0:privateKey={authority.path}"): ("holds no key in PEM",),
            ("--config", "wrong.yaml"): ("wrong.yaml:2: verbos: unknown key", "verbose"),
            ("--config", "none.yaml"): ("none.yaml: cannot be read: No such file",),
        }
        daemons = {
            options: start_daemon(
                self,
                self.directory,
                "--simulate",
                *options,
                *(() if "--http" in options else ("--http", FREE_PORT)),
            )
            for options in mistakes
        }
        for options, words in mistakes.items():
            await self.refused(daemons[options], *words)

    async def test_missing_store(self) -> None:
        """Without its store nothing is signed, and the command that creates it is named."""
        self.configure(store=False)
        daemon = self.start()
        await self.refused(
            daemon, "watermarks.sqlite does not exist", "tezio-signer watermarks init"
        )
        self.assertFalse((self.directory / "watermarks.sqlite").exists())

    async def test_second_daemon(self) -> None:
        """A store that one daemon uses is refused to a second, which harms the first in no way."""
        self.configure("hsms: [{port: /dev/none}]")
        first = self.start()
        await first.says("cannot be opened")
        second = self.start()
        await self.refused(second, "watermarks.sqlite is in use by a running signer")
        port = await first.says(r"SignerSite starting on (\d+)\n")
        self.assertEqual((await Client(int(port[1])).request("GET", "/")).status, 200)


class StoppingTests(ProcessTestCase):
    """A daemon that is told to stop."""

    async def stopped(self, daemon: Process) -> float:
        """Seconds until a daemon that was told to stop has ended."""
        since = reactor.seconds()
        await daemon.exits()
        return reactor.seconds() - since

    async def test_terminate(self) -> None:
        """SIGTERM ends it cleanly within three seconds, with all that it had to say in the log."""
        daemon = self.start("--simulate")
        await serving(daemon)
        daemon.send("TERM")
        self.assertLess(await self.stopped(daemon), STOP_SECONDS)
        self.assert_quiet(daemon)
        self.assertTrue(daemon.log.endswith(" info the signer has stopped\n"), daemon.log)
        self.assertEqual(await daemon.exits(), 0)

    async def test_request_in_flight(self) -> None:
        """A request that the HSM is working on when SIGTERM comes is answered."""
        board, daemon, answering = await self.signing()
        daemon.send("TERM")
        await daemon.says(r"\(TCP Port \d+ Closed\)")
        self.assertFalse(answering.called)
        board.answer()
        answer = await answering
        self.assertEqual(answer.status, 200)
        self.assertLess(await self.stopped(daemon), STOP_SECONDS)
        self.assert_quiet(daemon)
        stored = reading.read(self.directory / "watermarks.sqlite")
        self.assertEqual(
            [str(mark.signature) for mark in stored.values()],
            [json.loads(answer.body)["signature"]],
        )

    async def test_idle_connections(self) -> None:
        """Connections without a request are closed and hold up nothing."""
        daemon = self.start("--simulate", "--octez-socket", FREE_PORT)
        await serving(daemon)
        asking = await self.socket_client(daemon)
        idle = [await asking.connect() for _ in range(3)]
        for conversation in idle:
            await conversation.ask(AUTHORIZED_KEYS)
        daemon.send("TERM")
        self.assertLess(await self.stopped(daemon), STOP_SECONDS / 2)
        for conversation in idle:
            self.assertEqual(await conversation.ended, b"")
        self.assert_quiet(daemon)

    async def test_requests_on_open_connections(self) -> None:
        """Connections without a request are closed when the stop begins, others are served."""
        board, daemon, answering = await self.signing("--octez-socket", FREE_PORT)
        asking = await self.socket_client(daemon)
        waiting, late = await asking.connect(), await asking.connect()
        await late.ask(AUTHORIZED_KEYS)
        await waiting.ask(AUTHORIZED_KEYS)
        served = waiting.ask(sign(str(TZ1), TRANSFER))
        await late.ask(AUTHORIZED_KEYS)  # so that the request before it was read
        daemon.send("TERM")
        await daemon.says(r"\(TCP Port \d+ Closed\)")
        self.assertEqual(await late.ended, b"")
        board.answer()
        await board.asked()
        board.answer()
        self.assertEqual((await answering).status, 200)
        signature = signature_in(result_in(await served), str(TZ1))
        self.assertTrue(verifies(HSM_KEYS[0].public_key, TRANSFER, signature))
        self.assertLess(await self.stopped(daemon), STOP_SECONDS)
        self.assertEqual(await waiting.ended, b"")
        self.assert_quiet(daemon)

    async def test_wedged_device(self) -> None:
        """With a device that never answers, the client is told so, and the daemon ends in time."""
        _, daemon, answering = await self.signing()
        daemon.send("TERM")
        self.assertLess(await self.stopped(daemon), STOP_SECONDS)
        answer = await answering
        self.assertEqual(answer.status, 502)
        self.assertIn(b"the signer is stopping", answer.body)


class RestartTests(ProcessTestCase):
    """What was signed stays signed, whatever happens to the daemon."""

    async def assert_kept(self, client: Client, answers: dict[bytes, bytes]) -> None:
        """Check that the answers come again, and nothing else at their positions."""
        for payload, expected in answers.items():
            again = await client.sign(TZ3, payload)
            self.assertEqual((again.status, again.body), (200, expected))
        for other in (block(10, 0, 0x41), block(9, 5), consensus("att_dal_5", 10, 0)):
            self.assertEqual((await client.sign(TZ3, other)).status, 409)

    async def test_restart_and_kill(self) -> None:
        """After `kill -9` right behind an answer, and after a restart, the same answers come."""
        link = self.directory / "hsm"
        board = start_command(self, self.directory, "simulate", "--link", str(link), "--latency=0")
        await board.says("simulated HSM at ")
        self.configure(f"hsms: [{{port: {link}}}]")
        payloads = [block(10, 0), consensus("preatt", 10, 0), consensus("att", 10, 0)]
        answers: dict[bytes, bytes] = {}
        daemon = self.start()
        client = await serving(daemon)
        for payload in payloads:
            answer = await client.sign(TZ3, payload)
            self.assertEqual(answer.status, 200)
            answers[payload] = answer.body
        self.assertEqual(await daemon.kill(), -9)
        self.assert_quiet(daemon)
        for signal in ("TERM", "KILL"):
            daemon = self.start()
            client = await serving(daemon)
            await self.assert_kept(client, answers)
            daemon.send(signal)
            await daemon.exits()
            self.assert_quiet(daemon)
        daemon = self.start()
        client = await serving(daemon)
        self.assertEqual((await client.sign(TZ3, block(10, 1))).status, 200)
        self.assertEqual((await client.sign(TZ3, block(10, 0))).status, 409)

    def is_marked(self) -> bool:
        """Whether the files hold a mark; of a copy, as the open store shows it without a write."""
        copy = Path(self.mktemp())
        copy.mkdir()
        for file in self.directory.glob("watermarks.sqlite*"):
            if file.suffix in (".sqlite", ".sqlite-wal"):
                shutil.copy(file, copy)
        return bool(reading.read(copy / "watermarks.sqlite"))

    async def test_killed_while_signing(self) -> None:
        """What the HSM is signing when the daemon is killed keeps its position for ever."""
        written = FileWatch(self, self.directory)
        board, daemon, lost = await self.signing()
        lost.addErrback(lambda _: None)  # there will be no answer
        await written.until(self.is_marked)
        await daemon.kill()
        await lost
        board.answer()
        client = await serving(self.start())
        answer = await client.sign(TZ3, block(10, 0, 0x41))
        self.assertEqual(answer.status, 409)
        self.assertIn(b"already signed with different data", answer.body)
