"""A whole signer in this process: simulated HSM on a real pseudo-terminal, HTTP on loopback.

`Harness` answers at once; `HeldHarness` signs when a test says so. `Client` speaks HTTP to either.
"""

import re
from collections.abc import Callable, Iterable
from http.client import HTTPResponse
from io import BytesIO
from typing import Any, cast

from attrs import evolve, frozen
from twisted.application.service import IService
from twisted.internet import reactor as installed
from twisted.internet.defer import Deferred, DeferredQueue
from twisted.internet.endpoints import clientFromString, connectProtocol, serverFromString
from twisted.internet.interfaces import (
    IDelayedCall,
    IProtocolFactory,
    IReactorTime,
    IReadDescriptor,
    IWriteDescriptor,
)
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from tests.support.stores import watermarks_on
from tests.support.vectors import TZ3
from tezio_signer.config.settings import ClientCa, Settings, SigningKey
from tezio_signer.hsm.framing import Opcode, Slot
from tezio_signer.hsm.pool import HsmOptions, HsmPool
from tezio_signer.listeners.httpsite import SignerSite
from tezio_signer.listeners.limits import Connections
from tezio_signer.listeners.service import listener
from tezio_signer.listeners.unknownaddress import RefusingFactory
from tezio_signer.listeners.wrapping import LimitedFactory
from tezio_signer.octezsocket import OctezSocketFactory
from tezio_signer.reactors import Reactor
from tezio_signer.request import Admitted, Listener, Peer, SigningRequest, Submission
from tezio_signer.resource import SignerResource
from tezio_signer.serialhsm import SerialPorts
from tezio_signer.signer import Signer
from tezio_signer.simulator import firmware as simulated
from tezio_signer.simulator.firmware import Firmware
from tezio_signer.simulator.service import Simulator
from tezio_signer.simulator.settings import built_in_settings
from tezio_signer.tezos.keys import PublicKeyHash
from tezio_signer.tezos.payload import Operation
from tezio_signer.watermarks.sqlite.grouped import BlockingStore

reactor = cast(Reactor, installed)
FAULT = "internal error of the signer, see its log"
SIGNING_SECONDS = 1.0
PATIENCE_OF_TESTS = 5.0
EVERY_MAGIC_BYTE = dict.fromkeys(Slot, (0x03, 0x05, 0x11, 0x12, 0x13))
"""A policy of the device that lets all keys sign everything."""


def settings_with(
    operations: Iterable[Operation] = tuple(Operation),
    auth_req: bool = False,
    chains: Iterable[str] | None = None,
    **changes: Any,
) -> Settings:
    """The built-in settings of the simulated HSM, with these for each of its keys."""
    allowed = None if chains is None else frozenset(chains)
    built_in = built_in_settings()
    keys = {
        key: SigningKey(key, frozenset(operations), auth_req, allowed)
        for key in built_in.signing_keys
    }
    return evolve(built_in, signing_keys=keys, **changes)


def hex_body(payload: bytes) -> bytes:
    """A payload as the JSON string of a request."""
    return b'"%b"' % payload.hex().encode("ascii")


@frozen
class Answer:
    """What came back over one connection."""

    status: int
    headers: dict[str, str]
    body: bytes


class _Collector(Protocol):
    def __init__(self) -> None:
        self.received = b""
        self.closed: Deferred[bytes] = Deferred()

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.closed.callback(self.received)


class _Socket:
    def __init__(self, received: bytes) -> None:
        self._received = received

    def makefile(self, _: str) -> BytesIO:
        return BytesIO(self._received)


def parse_response(received: bytes, method: str = "GET") -> Answer:
    """Read one HTTP response with Python's own parser."""
    response = HTTPResponse(cast("object", _Socket(received)), method=method)  # type: ignore[arg-type]
    response.begin()
    return Answer(
        response.status, {name.lower(): v for name, v in response.getheaders()}, response.read()
    )


class Client:
    """Talks HTTP to a signer on loopback or at another endpoint, as other programs do."""

    def __init__(self, port: int, endpoint: str | None = None) -> None:
        self.port = port
        self.endpoint = endpoint or f"tcp:127.0.0.1:{port}"

    async def raw(self, data: bytes, closing: bool = False) -> bytes:
        """Write bytes to a new connection; all that comes until the server closes it.

        :param closing: close this side behind the bytes.
        """
        protocol = await connectProtocol(clientFromString(reactor, self.endpoint), _Collector())
        assert protocol.transport is not None
        protocol.transport.write(data)
        if closing:
            protocol.transport.loseWriteConnection()
        received: bytes = await protocol.closed
        return received

    async def request(
        self, method: str, path: str, body: bytes | None = None, headers: str = ""
    ) -> Answer:
        """One request on a connection of its own, with a Content-Length if it has a body."""
        length = "" if body is None else f"Content-Length: {len(body)}\r\n"
        head = (
            f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\n"
            f"Connection: close\r\n{length}{headers}\r\n"
        )
        return parse_response(await self.raw(head.encode("latin-1") + (body or b"")), method)

    async def sign(self, key: object, payload: bytes, query: str = "?version=3") -> Answer:
        """Ask for a signature as a client does."""
        body = hex_body(payload)
        return await self.request("POST", f"/keys/{key}{query}", body)


def opened(service: IService) -> str:
    """Open a listener; where it listens, as it says in the log."""
    with capturedLogs() as events:
        service.privilegedStartService()
    (at,) = re.findall(" starting on (.*)", "\n".join(map(formatEvent, events)))
    return str(at)


class Harness(Client):
    """Started by `start`, and stopped when the test ends.

    :ivar written: every byte that was written to the HSM.
    :param device_reactor: what the simulated HSM runs on.
    :param site_clock: by which connections have their time.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        firmware: Firmware | None = None,
        store: Callable[[], BlockingStore] | None = None,
        latency: float | None = 0,
        device_reactor: Reactor = reactor,
        site_clock: IReactorTime = reactor,
    ) -> None:
        self.settings = evolve(settings or built_in_settings(), http=())
        self.firmware = firmware or Firmware()
        self.simulator = Simulator(device_reactor, self.firmware, latency)
        self.written = bytearray()
        self.hsms = HsmPool(
            reactor,
            SerialPorts(reactor, reactor, self.simulator.boards),
            HsmOptions(self.settings.hsm_wait_seconds, self.settings.limits.requests_waiting),
        )
        self.watermarks = watermarks_on(store, floors=self.settings.floors)
        self.signer = Signer(self.settings, self.hsms, self.watermarks, reactor)
        self.connections = Connections(
            self.settings.limits, site_clock, self.signer.admit, self.signer.decisions
        )
        resource = SignerResource(self.signer)
        self.site = SignerSite(
            resource.app.resource(), self.settings.limits, site_clock, self.signer.decisions
        )
        self.sockets = OctezSocketFactory(self.signer, reactor)

    async def start(self, test: TestCase) -> None:
        """Start all services, and wait until the HSM has said its keys."""
        self.simulator.startService()
        test.addCleanup(self.simulator.stopService)
        self.simulator.observer = self.written.extend
        self.watermarks.startService()
        test.addCleanup(self.watermarks.stopService)
        self.hsms.startService()
        test.addCleanup(self.hsms.stopService)
        test.addCleanup(self.connections.stopService)
        port = reactor.listenTCP(  # type: ignore[attr-defined]
            0, self._limited(self.site), interface="127.0.0.1"
        )
        test.addCleanup(port.stopListening)
        super().__init__(port.getHost().port)
        await self.hsms.public_key(TZ3)
        self.written.clear()

    def be_impatient(self) -> None:
        """Have requests not wait for an HSM to be plugged in again, which takes real time."""
        self.hsms._options = evolve(self.hsms._options, patience=0.0)

    def _limited(self, factory: Any) -> LimitedFactory:
        """A factory as a listener has it, for whose unknown clients there is an answer."""
        refusing = RefusingFactory(factory, factory.refusal, reactor, True)
        return LimitedFactory(factory, self.connections, refusing)

    async def open(self, test: TestCase, factory: IProtocolFactory, path: str | None = None) -> str:
        """Open a listener on a free port, or on a Unix socket; the endpoint for a client of it."""
        description = f"unix:{path}" if path else "tcp:0:interface=127.0.0.1"
        port = await serverFromString(reactor, description).listen(self._limited(factory))
        test.addCleanup(port.stopListening)
        return f"unix:{path}" if path else f"tcp:127.0.0.1:{port.getHost().port}"

    def open_listener(
        self,
        test: TestCase,
        endpoint: str,
        factory: IProtocolFactory,
        client_ca: ClientCa | None = None,
    ) -> str:
        """Open a listener as the daemon does; where it listens, as it says in the log."""
        service = listener(endpoint, factory, reactor, self.connections, client_ca)
        at = opened(service)
        test.addCleanup(service.stopService)
        return at


class _DeviceReactor(Clock):
    """What the simulated HSM runs on: descriptors as they are, time as the test says.

    :ivar asked: has an item for each signature that the device began to make.
    """

    def __init__(self) -> None:
        super().__init__()
        self.asked: DeferredQueue[None] = DeferredQueue()

    def callLater(
        self,
        delay: float,
        callable: Callable[..., object],  # noqa: A002
        *args: object,
        **kw: object,
    ) -> IDelayedCall:
        if delay == SIGNING_SECONDS:
            reactor.callLater(0, self.asked.put, None)
        return super().callLater(delay, callable, *args, **kw)

    def addReader(self, reader: IReadDescriptor) -> None:
        reactor.addReader(reader)

    def removeReader(self, reader: IReadDescriptor) -> None:
        reactor.removeReader(reader)

    def addWriter(self, writer: IWriteDescriptor) -> None:
        reactor.addWriter(writer)

    def removeWriter(self, writer: IWriteDescriptor) -> None:
        reactor.removeWriter(writer)


class _SlowToSign(Firmware):
    """Says its keys at once, and takes its time to sign."""

    def execute(self, packet: bytes) -> simulated.Answer | None:
        answer = super().execute(packet)
        seconds = SIGNING_SECONDS if packet[2] == Opcode.SIGN else 0.0
        return answer and evolve(answer, seconds=seconds)


class HeldHarness(Harness):
    """A harness whose HSM signs when it is told to.

    :param clock: the time of the host's waiting for the HSM.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        store: Callable[[], BlockingStore] | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.device = _DeviceReactor()
        firmware = _SlowToSign(enabled=EVERY_MAGIC_BYTE)
        super().__init__(
            settings or settings_with(),
            firmware,
            store,
            latency=None,
            device_reactor=cast(Reactor, self.device),
        )
        if clock is not None:
            self.hsms = HsmPool(clock, SerialPorts(reactor, clock, self.simulator.boards))
            self.signer = Signer(self.settings, self.hsms, self.watermarks, reactor)

    async def asked(self) -> None:
        """Wait until the device was asked for one more signature; fails if it is not."""
        await self.device.asked.get().addTimeout(PATIENCE_OF_TESTS, reactor)

    def answer(self) -> None:
        """Let the device answer."""
        self.device.advance(SIGNING_SECONDS)

    def messages(self) -> list[bytes]:
        """What the device was asked to sign."""
        messages, written = [], bytes(self.written)
        while written:
            end = 1 + int.from_bytes(written[1:3], "little")
            if written[3] == Opcode.SIGN:
                messages.append(written[8 : end - 2])
            written = written[end:]
        return messages


def submission(payload: bytes, key: PublicKeyHash = TZ3, peer: Peer | None = None) -> Submission:
    """A request as a listener would hand it in."""
    whose = Admitted(peer or Peer())
    asked = SigningRequest.read(key, payload, whose)
    return Submission(whose, Listener.HTTP, str(key), asked)


def failure_of(deferred: Deferred[Any]) -> Deferred[BaseException]:
    """What a Deferred fails with."""
    failure: Deferred[BaseException] = deferred.addCallbacks(
        lambda result: AssertionError(f"no failure, but {result!r}"), lambda failed: failed.value
    )
    return failure
