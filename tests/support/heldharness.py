"""A signer whose HSM signs, and whose store writes or fails, when a test says so."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar, cast

from attrs import evolve
from twisted.internet.defer import Deferred, DeferredQueue
from twisted.internet.interfaces import IDelayedCall, IReadDescriptor, IWriteDescriptor
from twisted.internet.task import Clock

from tests.support.harness import EVERY_MAGIC_BYTE, ImmediateWriter, Stand, reactor, settings_with
from tests.support.octezclient import HSM_KEYS, verifies
from tests.support.vectors import TZ3
from tezio_signer.config.settings import Settings
from tezio_signer.hsm.framing import Opcode
from tezio_signer.hsm.pool import HsmPool
from tezio_signer.reactors import Reactor
from tezio_signer.request import Admitted, Listener, Peer, SigningRequest, Submission
from tezio_signer.serialhsm import open_port
from tezio_signer.signer import Signer
from tezio_signer.simulator.firmware import Answer, Firmware
from tezio_signer.tezos.keys import PublicKeyHash
from tezio_signer.watermarks.rule import Mark, MarkId
from tezio_signer.watermarks.sqlite.grouped import BlockingStore
from tezio_signer.watermarks.sqlite.store import SqliteStore
from tezio_signer.watermarks.store import Kept

FAULT = "internal error of the signer, see its log"
SIGNING_SECONDS = 1.0
PATIENCE_OF_TESTS = 5.0
_Result = TypeVar("_Result")


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

    def execute(self, packet: bytes) -> Answer | None:
        answer = super().execute(packet)
        seconds = SIGNING_SECONDS if packet[2] == Opcode.SIGN else 0.0
        return answer and evolve(answer, seconds=seconds)


class HeldStand(Stand):
    """A stand whose HSM signs when it is told to.

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
            self.hsms = HsmPool(clock, self.simulator.boards, partial(open_port, reactor))
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


def good(key: PublicKeyHash, payload: bytes, signature: object) -> bool:
    """Whether a signature is the HSM's for this payload."""
    public_keys = {hsm_key.pkh: hsm_key.public_key for hsm_key in HSM_KEYS}
    return verifies(public_keys[str(key)], payload, str(signature))


def failure_of(deferred: Deferred[Any]) -> Deferred[BaseException]:
    """What a Deferred fails with."""
    failure: Deferred[BaseException] = deferred.addCallbacks(
        lambda result: AssertionError(f"no failure, but {result!r}"), lambda failed: failed.value
    )
    return failure


class FailingStore:
    """A store in memory that can be told to fail.

    :ivar signed: has an item for each signature that was stored.
    """

    def __init__(self) -> None:
        self.signed: DeferredQueue[Mark] = DeferredQueue()
        self._store = SqliteStore(None)
        self.error: Exception | None = None
        self.signature_error: Exception | None = None

    def load(self) -> dict[MarkId, Mark]:
        return self._store.load()

    def keep(self, marks: Sequence[tuple[MarkId, Mark]]) -> list[Kept]:
        for _, mark in marks:
            error = self.error if mark.signature is None else self.signature_error
            if error is not None:
                raise error
        kept = self._store.keep(marks)
        for _, mark in marks:
            if mark.signature is not None:
                self.signed.put(mark)
        return kept

    def tidy(self) -> None:
        """Nothing to tidy."""

    def close(self) -> None:
        self._store.close()


class SlowDisk(ImmediateWriter):
    """Writes when it is told to."""

    def __init__(self) -> None:
        self._waiting: list[Deferred[None]] = []

    def run(self, work: Callable[[], _Result]) -> Deferred[_Result]:
        turn: Deferred[None] = Deferred()
        self._waiting.append(turn)
        return turn.addCallback(lambda _: work())

    def write_one(self) -> None:
        """Do what has waited longest."""
        self._waiting.pop(0).callback(None)

    def write(self) -> int:
        """Do all that waits, also what comes up meanwhile, and say how much it was."""
        done = 0
        while self._waiting:
            self.write_one()
            done += 1
        return done
