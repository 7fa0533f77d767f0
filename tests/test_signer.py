"""The path of a request behind the doors: rules, claim, HSM, verification, release."""

import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar, cast

from attrs import evolve
from twisted.internet.defer import CancelledError, Deferred, DeferredQueue, gatherResults
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.interfaces import (
    IDelayedCall,
    IReadDescriptor,
    ITCPTransport,
    IWriteDescriptor,
)
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.task import Clock
from twisted.logger import LogEvent, LogLevel, capturedLogs, formatEvent
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from tests.octezclient import HSM_AUTH_KEY, HSM_KEYS, message_in, text_in, verifies
from tests.stand import ImmediateWriter, Stand, reactor, settings_with, watermarks_on
from tests.vectors import AUTH, OCTEZ, PAYLOADS, TZ1, TZ2, TZ3, block, consensus
from tezio_signer.errors import Conflict, Forbidden, Refused, Unavailable
from tezio_signer.hsm.firmware import SKETCH_POLICY, Answer, Firmware
from tezio_signer.hsm.framing import Opcode, Slot
from tezio_signer.hsm.softkeys import SoftKey
from tezio_signer.hsmpool import HsmPool
from tezio_signer.policy import Peer, SigningRequest
from tezio_signer.reactors import Reactor
from tezio_signer.serialhsm import open_port
from tezio_signer.settings import Settings
from tezio_signer.signer import Signer, Submission
from tezio_signer.tezos.keys import Curve, PublicKeyHash, Signature
from tezio_signer.watermarks.grouped import BlockingStore
from tezio_signer.watermarks.rule import Mark, MarkId
from tezio_signer.watermarks.sqlite import SqliteStore
from tezio_signer.watermarks.store import Kept, StoreError

NOOP = PAYLOADS["noop"]
TRANSFER = PAYLOADS["transfer"]
FAULT = "internal error of the signer, see its log"
SIGNING_SECONDS = 1.0
DEADLINE = 6.0
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
        firmware = _SlowToSign(enabled=dict.fromkeys(Slot, (0x03, 0x11, 0x12, 0x13)))
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
    """A request as a door would hand it in."""
    whose = peer or Peer()
    return Submission(whose, str(key), lambda: SigningRequest.read(key, payload, whose))


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


class SharingTests(TestCase):
    """Requests for the same at the same time."""

    async def test_share_one_exchange(self) -> None:
        """Two requests for one payload get the same signature from one exchange."""
        stand = HeldStand()
        await stand.start(self)
        for payload in (NOOP, block(7, 0)):
            stand.written.clear()
            first = stand.signer.submit(submission(payload))
            second = stand.signer.submit(submission(payload))
            await stand.asked()
            stand.answer()
            one, other = await gatherResults([first, second])
            self.assertEqual(one, other)
            self.assertTrue(good(TZ3, payload, one))
            self.assertEqual(stand.messages(), [payload])

    async def test_share_a_refusal(self) -> None:
        """What the device refuses is refused to everybody who waits for it."""
        stand = HeldStand()
        await stand.start(self)
        requests = [stand.signer.submit(submission(block(0, 0))) for _ in range(3)]
        await stand.asked()
        stand.answer()
        for request in requests:
            self.assertIsInstance(await failure_of(request), Conflict)

    async def test_keys_and_payloads_apart(self) -> None:
        """Another key or another payload is another exchange."""
        stand = HeldStand()
        await stand.start(self)
        asked = [(TZ1, NOOP), (TZ2, NOOP), (TZ2, TRANSFER)]
        requests = [stand.signer.submit(submission(payload, key)) for key, payload in asked]
        for _ in asked:
            await stand.asked()
            stand.answer()
        for (key, payload), signature in zip(asked, await gatherResults(requests), strict=True):
            self.assertTrue(good(key, payload, signature))

    async def test_many_at_once_over_http(self) -> None:
        """Ten clients that want the same block get the same bytes, signed once."""
        stand = Stand(settings_with())
        await stand.start(self)
        answers = await gatherResults(
            [Deferred.fromCoroutine(stand.sign(TZ3, block(7, 0))) for _ in range(10)]
        )
        self.assertEqual({answer.status for answer in answers}, {200})
        self.assertEqual(len({answer.body for answer in answers}), 1)
        self.assertEqual(stand.written.count(block(7, 0)), 1)

    async def test_two_blocks_at_once(self) -> None:
        """Of two different blocks at one level and round that come at once, one is signed."""
        stand = HeldStand()
        await stand.start(self)
        first = stand.signer.submit(submission(block(7, 0, 1)))
        second = stand.signer.submit(submission(block(7, 0, 2)))
        self.assertIsInstance(await failure_of(second), Conflict)
        await stand.asked()
        stand.answer()
        self.assertTrue(good(TZ3, block(7, 0, 1), await first))
        self.assertEqual(stand.messages(), [block(7, 0, 1)])

    async def test_urgent_ones_first(self) -> None:
        """While the device is busy, blocks overtake votes, and votes anything else."""
        stand = HeldStand()
        await stand.start(self)
        payloads = [NOOP, TRANSFER, consensus("att", 7, 0), consensus("preatt", 7, 0), block(7, 0)]
        requests = [stand.signer.submit(submission(payload)) for payload in payloads]
        for _ in payloads:
            await stand.asked()
            stand.answer()
        await gatherResults(requests)
        busy, other, attestation, preattestation, urgent = payloads
        self.assertEqual(stand.messages(), [busy, urgent, attestation, preattestation, other])


class _Impatient(Protocol):
    """Asks, and leaves without waiting for the answer.

    :ivar closed: fires when the server has noticed.
    """

    transport: ITCPTransport

    def __init__(self, request: bytes) -> None:
        self._request = request
        self.received = b""
        self.closed: Deferred[None] = Deferred()

    def connectionMade(self) -> None:
        self.transport.write(self._request)

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def leave(self) -> None:
        """Close this side; the other side closes when it sees that."""
        self.transport.loseWriteConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.closed.callback(None)


class LeavingTests(TestCase):
    """Clients that do not wait for their answer."""

    async def _ask(self, stand: Stand, key: PublicKeyHash, payload: bytes) -> _Impatient:
        body = b'"%b"' % payload.hex().encode("ascii")
        head = f"POST /keys/{key} HTTP/1.1\r\nContent-Length: {len(body)}\r\n\r\n"
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", stand.port)
        client = _Impatient(head.encode("ascii") + body)
        connected: _Impatient = await connectProtocol(endpoint, client)
        return connected

    async def test_next_one_is_not_disturbed(self) -> None:
        """Who asks after one that left gets the signature of his own payload."""
        stand = HeldStand()
        await stand.start(self)
        client = await self._ask(stand, TZ3, NOOP)
        await stand.asked()
        client.leave()
        await client.closed
        self.assertEqual(client.received, b"")
        following = Deferred.fromCoroutine(stand.sign(TZ2, TRANSFER))
        stand.answer()
        await stand.asked()
        stand.answer()
        answer = await following
        self.assertEqual(answer.status, 200)
        self.assertTrue(good(TZ2, TRANSFER, text_in(answer.body, "signature")))
        self.assertEqual(stand.messages(), [NOOP, TRANSFER])

    async def test_signature_of_a_block_is_not_lost(self) -> None:
        """A block whose client left is there when it is asked for again."""
        stand = HeldStand()
        await stand.start(self)
        client = await self._ask(stand, TZ3, block(7, 0))
        await stand.asked()
        client.leave()
        await client.closed
        stand.answer()
        await stand.signer.drained()
        answer = await stand.sign(TZ3, block(7, 0))
        self.assertTrue(good(TZ3, block(7, 0), text_in(answer.body, "signature")))
        self.assertEqual(stand.messages(), [block(7, 0)])

    async def test_who_waits_is_dropped(self) -> None:
        """A request whose client left before its turn does not reach the device."""
        stand = HeldStand()
        await stand.start(self)
        first = stand.signer.submit(submission(NOOP))
        gone = stand.signer.submit(submission(TRANSFER))
        gone.cancel()
        self.assertIsInstance(await failure_of(gone), CancelledError)
        await stand.asked()
        stand.answer()
        self.assertTrue(good(TZ3, NOOP, await first))
        await stand.signer.drained()
        self.assertEqual(stand.messages(), [NOOP])

    async def test_one_of_two_leaves(self) -> None:
        """Who waits for the same payload as one that left still gets it."""
        stand = HeldStand()
        await stand.start(self)
        busy = stand.signer.submit(submission(TRANSFER))
        leaving = stand.signer.submit(submission(NOOP))
        staying = stand.signer.submit(submission(NOOP))
        leaving.cancel()
        self.assertIsInstance(await failure_of(leaving), CancelledError)
        for _ in range(2):
            await stand.asked()
            stand.answer()
        self.assertTrue(good(TZ3, TRANSFER, await busy))
        self.assertTrue(good(TZ3, NOOP, await staying))

    async def test_next_one_does_not_inherit_a_withdrawn_request(self) -> None:
        """Who asks for what another client has just withdrawn is served all the same."""
        stand = HeldStand()
        await stand.start(self)
        disk = _SlowDisk()
        watermarks = watermarks_on(make_writer=lambda: disk)
        watermarks.startService()
        self.addCleanup(watermarks.stopService)
        signer = Signer(stand.settings, stand.hsms, watermarks, reactor)
        busy = signer.submit(submission(NOOP))
        leaving = signer.submit(submission(block(7, 0)))
        leaving.cancel()
        self.failureResultOf(leaving, CancelledError)
        following = signer.submit(submission(block(7, 0)))
        disk.write()
        self.assertNoResult(following)
        last = signer.submit(submission(TRANSFER, TZ1))
        for _ in range(2):
            await stand.asked()
            stand.answer()
        await stand.asked()
        disk.write()
        self.assertTrue(good(TZ3, block(7, 0), self.successResultOf(following)))
        stand.answer()
        await gatherResults([busy, last])

    async def test_drained(self) -> None:
        """`drained` waits for what clients asked for, and for what they left behind."""
        stand = HeldStand()
        await stand.start(self)
        self.successResultOf(stand.signer.drained())
        staying = stand.signer.submit(submission(NOOP))
        leaving = stand.signer.submit(submission(TRANSFER, TZ1))
        await stand.asked()
        drained, given_up = stand.signer.drained(), stand.signer.drained()
        given_up.cancel()
        self.assertIsInstance(await failure_of(given_up), CancelledError)
        stand.answer()
        await staying
        await stand.asked()
        self.assertNoResult(drained)
        leaving.cancel()
        self.assertIsInstance(await failure_of(leaving), CancelledError)
        self.assertNoResult(drained)
        stand.answer()
        await drained
        self.successResultOf(stand.signer.drained())


class StoppingTests(TestCase):
    """The end of the daemon."""

    async def test_close(self) -> None:
        """What is asked for from then on is refused, what was asked for before is served."""
        stand = HeldStand()
        await stand.start(self)
        before = stand.signer.submit(submission(block(7, 0)))
        stand.signer.close("the signer is stopping")
        for payload in (block(7, 0), NOOP):
            failure = self.failureResultOf(stand.signer.submit(submission(payload)), Unavailable)
            self.assertEqual(failure.getErrorMessage(), "the signer is stopping")
        await stand.asked()
        stand.answer()
        self.assertTrue(good(TZ3, block(7, 0), await before))
        self.assertEqual(stand.messages(), [block(7, 0)])

    async def test_refuse_all(self) -> None:
        """Everybody who waits is told; what the device still signs is kept for the next time."""
        stand = HeldStand()
        await stand.start(self)
        requests = [
            stand.signer.submit(submission(payload))
            for payload in (block(7, 0), block(7, 0), consensus("att", 7, 0), NOOP)
        ]
        await stand.asked()
        stand.signer.refuse_all("the signer is stopping")
        for request in requests:
            failure = self.failureResultOf(request, Unavailable)
            self.assertEqual(failure.getErrorMessage(), "the signer is stopping")
        drained = stand.signer.drained()
        self.assertNoResult(drained)
        for _ in range(2):
            stand.answer()
            await stand.asked()
        stand.answer()
        await drained
        again = self.successResultOf(stand.signer.submit(submission(block(7, 0))))
        self.assertTrue(good(TZ3, block(7, 0), again))


class DeadlineTests(TestCase):
    """A device that does not come to an end."""

    async def test_deadline(self) -> None:
        """After six seconds the client is told; the signature that comes later is kept."""
        stand = HeldStand()
        await stand.start(self)
        clock = Clock()
        signer = Signer(stand.settings, stand.hsms, stand.watermarks, clock)
        late = signer.submit(submission(block(7, 0)))
        await stand.asked()
        clock.advance(DEADLINE - 0.01)
        self.assertNoResult(late)
        clock.advance(0.01)
        failure = self.failureResultOf(late, Unavailable)
        self.assertEqual(failure.getErrorMessage(), "the HSM has not signed within 6 s")
        stand.answer()
        await signer.drained()
        again = self.successResultOf(signer.submit(submission(block(7, 0))))
        self.assertTrue(good(TZ3, block(7, 0), again))
        self.assertEqual(stand.messages(), [block(7, 0)])
        self.assertEqual(clock.getDelayedCalls(), [])


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


class _SlowDisk(ImmediateWriter):
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


class LateTests(TestCase):
    """Answers of the device that come when it was given up."""

    async def _given_up(self, stand: HeldStand, clock: Clock, payload: bytes) -> BaseException:
        request = failure_of(stand.signer.submit(submission(payload)))
        await stand.asked()
        while not request.called:
            self.assertLess(clock.seconds(), 10)
            clock.advance(0.1)
        return await request

    async def test_late_signature_is_kept(self) -> None:
        """A signature that comes after the request has failed is there when it is repeated."""
        store, clock = FailingStore(), Clock()
        stand = HeldStand(store=lambda: store, clock=clock)
        await stand.start(self)
        failure = await self._given_up(stand, clock, block(7, 0))
        self.assertIsInstance(failure, Unavailable)
        self.assertIn("did not answer within", str(failure))
        stand.answer()
        await store.signed.get()
        again = await stand.signer.submit(submission(block(7, 0)))
        self.assertTrue(good(TZ3, block(7, 0), again))
        self.assertEqual(stand.messages(), [block(7, 0)])

    async def test_late_and_without_a_mark(self) -> None:
        """A signature whose mark could not be stored brings it along when it comes late."""
        store, clock = FailingStore(), Clock()
        stand = HeldStand(store=lambda: store, clock=clock)
        await stand.start(self)
        store.error = StoreError("disk full")
        failure = await self._given_up(stand, clock, block(7, 0))
        self.assertEqual(str(failure), "no signature without a stored watermark: disk full")
        store.error = None
        stand.answer()
        stored = await store.signed.get()
        self.assertEqual((stored.level, stored.round), (7, 0))
        again = await stand.signer.submit(submission(block(7, 0)))
        self.assertEqual(again, stored.signature)


class StoreTests(TestCase):
    """No signature leaves without a watermark that lasts."""

    def setUp(self) -> None:
        self.store = FailingStore()
        self.stand = Stand(settings_with(), store=lambda: self.store)

    async def test_failing_store(self) -> None:
        """Without a stored mark there is no signature, and everything else is signed."""
        await self.stand.start(self)
        self.store.error = StoreError("disk full")
        answers = await gatherResults(
            [Deferred.fromCoroutine(self.stand.sign(TZ3, block(7, 0))) for _ in range(2)]
        )
        for answer in answers:
            self.assertEqual(answer.status, 502)
            self.assertEqual(
                message_in(answer.body), "no signature without a stored watermark: disk full"
            )
        # What needs no watermark is signed, and so is what comes when the disk is well again.
        self.assertEqual((await self.stand.sign(TZ3, NOOP)).status, 200)
        self.store.error = None
        answer = await self.stand.sign(TZ3, block(8, 0))
        self.assertTrue(good(TZ3, block(8, 0), text_in(answer.body, "signature")))
        self.assertEqual((await self.stand.sign(TZ3, block(7, 0, 9))).status, 409)

    async def test_same_payload_when_the_disk_is_back(self) -> None:
        """What the HSM signed while the disk was full leaves when it can be stored.

        The HSM would refuse to sign it a second time.
        """
        await self.stand.start(self)
        self.store.error = self.store.signature_error = StoreError("disk full")
        for _ in range(2):
            self.assertEqual((await self.stand.sign(TZ3, block(7, 0))).status, 502)
        self.store.error = self.store.signature_error = None
        answer = await self.stand.sign(TZ3, block(7, 0))
        self.assertEqual(answer.status, 200, answer.body)
        self.assertTrue(good(TZ3, block(7, 0), text_in(answer.body, "signature")))

    async def test_said_at_once(self) -> None:
        """That the mark is not stored is said before the HSM has signed, whose answer is kept."""
        stand = HeldStand(store=lambda: self.store)
        await stand.start(self)
        self.store.error = self.store.signature_error = StoreError("disk full")
        answering = Deferred.fromCoroutine(stand.sign(TZ3, block(7, 0)))
        await stand.asked()
        self.assertEqual((await answering).status, 502)
        self.store.error = self.store.signature_error = None
        stand.answer()
        stored = await self.store.signed.get()
        assert stored.signature is not None
        answer = await stand.sign(TZ3, block(7, 0))
        self.assertEqual(text_in(answer.body, "signature"), str(stored.signature))
        self.assertEqual(stand.messages(), [block(7, 0)])

    async def test_not_stored_while_the_hsm_is_busy(self) -> None:
        """What waits for the HSM when its mark is not stored does not reach it."""
        stand = HeldStand(store=lambda: self.store)
        await stand.start(self)
        first = Deferred.fromCoroutine(stand.sign(TZ3, NOOP))
        await stand.asked()
        self.store.error = StoreError("disk full")
        for _ in range(3):
            self.assertEqual((await stand.sign(TZ3, block(7, 0))).status, 502)
        stand.answer()
        self.assertEqual((await first).status, 200)
        await stand.signer.drained()
        self.assertEqual(stand.messages(), [NOOP])

    async def test_signature_not_stored(self) -> None:
        """A signature that is not stored does not leave; the same one does when it is.

        Otherwise the block might be signed anew after a restart: with another signature
        it has another hash, and two blocks at one level and round are punished.
        """
        await self.stand.start(self)
        self.store.signature_error = StoreError("disk full")
        for _ in range(2):
            answer = await self.stand.sign(TZ3, block(7, 0))
            self.assertEqual(answer.status, 502)
        self.store.signature_error = None
        answer = await self.stand.sign(TZ3, block(7, 0))
        self.assertTrue(good(TZ3, block(7, 0), text_in(answer.body, "signature")))

    async def test_stored_signature_is_verified(self) -> None:
        """A stored signature that does not verify, as of a damaged import, is not released."""
        await self.stand.start(self)
        await self.stand.sign(TZ3, block(7, 0))
        watermarks = self.stand.watermarks
        for marks in (watermarks._marks, watermarks._stored):
            for mark_id, mark in marks.items():
                marks[mark_id] = evolve(mark, signature=Signature(Curve.P256, bytes(64)))
        answer = await self.stand.sign(TZ3, block(7, 0))
        self.assertEqual(answer.status, 502)
        self.assertIn("does not verify", message_in(answer.body))

    async def test_fault(self) -> None:
        """What nobody expected is a 500 that gives nothing away; the log has the traceback."""
        await self.stand.start(self)
        self.store.error = RuntimeError("a detail from inside")
        answer = await self.stand.sign(TZ3, block(7, 0))
        self.assertEqual((answer.status, message_in(answer.body)), (500, FAULT))
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
        self.assertEqual((await self.stand.sign(TZ3, NOOP)).status, 200)

    async def test_hanging_disk(self) -> None:
        """Whoever waits for a disk that hangs is told so in time, for the first and again.

        What needs no watermark is signed meanwhile.
        """
        await self.stand.start(self)
        disk, clock = _SlowDisk(), Clock()
        watermarks = watermarks_on(make_writer=lambda: disk)
        watermarks.startService()
        self.addCleanup(watermarks.stopService)
        signer = Signer(self.stand.settings, self.stand.hsms, watermarks, clock)
        told = "the watermark store has not written within 6 s"
        late = signer.submit(submission(block(7, 0)))
        await signer.submit(submission(NOOP))  # behind it at the HSM
        clock.advance(DEADLINE)
        self.assertEqual(self.failureResultOf(late, Unavailable).getErrorMessage(), told)
        disk.write_one()  # the mark; now the signature hangs
        for _ in range(2):
            late = signer.submit(submission(block(7, 0)))
            self.assertNoResult(late)
            clock.advance(DEADLINE)
            self.assertEqual(self.failureResultOf(late, Unavailable).getErrorMessage(), told)
        last = signer.submit(submission(block(7, 0)))
        signer.refuse_all("the signer is stopping")
        self.failureResultOf(last, Unavailable)
        drained = signer.drained()
        self.assertNoResult(drained)
        disk.write()
        self.successResultOf(drained)
        again = self.successResultOf(signer.submit(submission(block(7, 0))))
        self.assertTrue(good(TZ3, block(7, 0), again))

    async def test_waits_for_the_disk(self) -> None:
        """The signature is made while its mark is written, and leaves after that."""
        held = HeldStand()
        await held.start(self)
        disk = _SlowDisk()
        watermarks = watermarks_on(make_writer=lambda: disk)
        watermarks.startService()
        self.addCleanup(watermarks.stopService)
        signer = Signer(held.settings, held.hsms, watermarks, reactor)
        # The disk first, then the HSM; the signature itself is written as well.
        request = signer.submit(submission(block(7, 0)))
        await held.asked()
        self.assertEqual(disk.write(), 1)
        self.assertNoResult(request)
        held.answer()
        # The HSM first: that its answer was read shows in the next command.
        second = signer.submit(submission(block(8, 0), TZ2))
        await held.asked()
        self.assertNoResult(request)
        self.assertEqual(disk.write(), 2)
        self.assertTrue(good(TZ3, block(7, 0), self.successResultOf(request)))
        held.answer()
        third = signer.submit(submission(NOOP))
        await held.asked()
        self.assertEqual(disk.write(), 1)
        self.assertTrue(good(TZ2, block(8, 0), self.successResultOf(second)))
        held.answer()
        await third


def _be_impatient(test: TestCase, stand: Stand) -> None:
    """Have requests not wait for an HSM to be plugged in again, which takes real time."""
    test.patch(stand.hsms, "_patience", 0.0)


class DeviceTests(TestCase):
    """What a device answers instead of a signature."""

    async def test_statuses(self) -> None:
        """Statuses of the device become those of the API, and are named."""
        cases: list[tuple[str, int, Firmware, str]] = [
            ("D4", 409, Firmware(marks={(Slot.TZ3, 0x11): (2**31 - 1, 0)}), ""),
            ("B8", 403, Firmware(enabled={**SKETCH_POLICY, Slot.TZ3: (0x03,)}), ""),
            ("B0", 403, Firmware(disabled=[(Slot.TZ3, Opcode.SIGN)]), ""),
            ("AF", 502, Firmware(), "sign"),
            ("A1", 502, Firmware(), "begin"),
        ]
        for status, code, firmware, failing in cases:
            stand = Stand(settings_with(), firmware)
            await stand.start(self)
            firmware.failing |= {failing}
            answer = await stand.sign(TZ3, block(7, 0))
            self.assertEqual((status, answer.status), (status, code))
            self.assertIn(f"the HSM answered {status}: ", message_in(answer.body))

    async def test_chip_comes_to_itself(self) -> None:
        """A secure element that failed once signs the next time."""
        stand = Stand()
        await stand.start(self)
        stand.firmware.failing.add("sign")
        self.assertEqual((await stand.sign(TZ3, NOOP)).status, 502)
        stand.firmware.failing.clear()
        answer = await stand.sign(TZ3, NOOP)
        self.assertTrue(good(TZ3, NOOP, text_in(answer.body, "signature")))

    async def test_signature_that_does_not_verify(self) -> None:
        """A signature by another key is not released."""
        for payload in (NOOP, block(7, 0)):
            stand = Stand(settings_with())
            await stand.start(self)
            _be_impatient(self, stand)
            stand.firmware.keys[Slot.TZ3] = SoftKey.parse(OCTEZ["keys"][3]["sk"])
            answer = await stand.sign(TZ3, payload)
            self.assertEqual(answer.status, 502)
            self.assertIn("does not verify", message_in(answer.body))
            self.assertIn(payload, stand.written)

    async def test_pool_is_not_believed(self) -> None:
        """Whatever says that it is the signature, the signer verifies it itself."""
        stand = Stand(settings_with())
        await stand.start(self)
        answer = await stand.sign(TZ3, block(7, 0))
        other = Signature.parse(text_in(answer.body, "signature"))
        genuine = stand.hsms.sign

        def lie(*args: Any) -> object:
            signing = genuine(*args)
            signing.result.addCallback(lambda _: other)
            return signing

        self.patch(stand.hsms, "sign", lie)
        for payload in (block(8, 0), NOOP):
            answer = await stand.sign(TZ3, payload)
            self.assertEqual(answer.status, 502)
            self.assertIn("does not verify", message_in(answer.body))
        self.patch(stand.hsms, "sign", genuine)
        self.assertEqual((await stand.sign(TZ3, NOOP)).status, 200)

    async def test_no_hsm(self) -> None:
        """A key that no connected HSM holds is a 502, to sign and to read."""
        key = PublicKeyHash.parse(OCTEZ["keys"][3]["pkh"])
        settings = settings_with()
        keys = {**settings.signing_keys, key: evolve(settings.signing_keys[TZ3], key=key)}
        stand = Stand(evolve(settings, signing_keys=keys))
        await stand.start(self)
        _be_impatient(self, stand)
        for payload in (NOOP, block(7, 0)):
            answer = await stand.sign(key, payload)
            self.assertEqual(answer.status, 502)
            self.assertEqual(message_in(answer.body), f"no connected HSM holds {key}")
        answer = await stand.request("GET", f"/keys/{key}")
        self.assertEqual(answer.status, 502)
        self.assertEqual(message_in(answer.body), f"no connected HSM holds {key}")
        self.assertEqual(stand.written, b"")

    async def test_unplugged(self) -> None:
        """An HSM that is pulled out is a 502, for who waits for it and for who comes then."""
        stand = HeldStand()
        await stand.start(self)
        _be_impatient(self, stand)
        waiting = Deferred.fromCoroutine(stand.sign(TZ3, NOOP))
        await stand.asked()
        stand.simulator.unplug()
        self.assertEqual((await waiting).status, 502)
        self.assertEqual((await stand.sign(TZ3, TRANSFER)).status, 502)
        # Its public key is known by now.
        answer = await stand.request("GET", f"/keys/{TZ3}")
        self.assertEqual(text_in(answer.body, "public_key"), HSM_KEYS[2].public_key)

    async def test_fault_of_a_route(self) -> None:
        """A fault outside of signing is a 500 without a traceback, too."""
        stand = Stand()
        await stand.start(self)

        def broken(key: PublicKeyHash) -> Deferred[object]:
            raise RuntimeError(f"a detail about {key}")

        self.patch(stand.hsms, "public_key", broken)
        answer = await stand.request("GET", f"/keys/{TZ3}")
        self.assertEqual((answer.status, message_in(answer.body)), (500, FAULT))
        self.assertEqual(answer.headers["content-type"], "application/json")
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)


class LogTests(TestCase):
    """One line for each decision."""

    def _decisions(self, events: Sequence[LogEvent]) -> list[LogEvent]:
        return [event for event in events if "milliseconds" in event]

    async def test_lines(self) -> None:
        """Each request to sign leaves one line: key, peer, outcome, time."""
        stand = Stand(settings_with(auth_req=True, auth_key=AUTH))
        await stand.start(self)
        stranger = OCTEZ["keys"][0]["pkh"]
        cases: list[tuple[object, bytes, bool, int, str]] = [
            (TZ3, block(7, 2), True, 200, f"signed block 7/2 for {TZ3} from HERE in MS"),
            (TZ3, block(7, 2), True, 200, f"signed block 7/2 for {TZ3} from HERE in MS"),
            (
                TZ3,
                block(7, 1),
                True,
                409,
                f"refused block 7/1 for {TZ3} from HERE in MS: 409 block at level 7 round 1 is "
                "not above the high watermark, level 7 round 2",
            ),
            (TZ1, NOOP, True, 200, f"signed generic for {TZ1} from HERE in MS"),
            (
                TZ3,
                consensus("att_dal_5", 8, 0),
                True,
                200,
                f"signed attestation 8/0 for {TZ3} from HERE in MS",
            ),
            (
                TZ3,
                consensus("preatt", 8, 0),
                False,
                401,
                f"refused preattestation 8/0 for {TZ3} from HERE in MS: 401 "
                "missing authentication signature field",
            ),
            (
                TZ1,
                b"\x03",
                True,
                400,
                f"refused a request for {TZ1} from HERE in MS: 400 "
                "the generic operation is cut off in its branch",
            ),
            (
                stranger,
                NOOP,
                True,
                404,
                f"refused generic for {stranger} from HERE in MS: 404 "
                f"no keys for the source contract {stranger}",
            ),
        ]
        for key, payload, authenticated, status, line in cases:
            signature = HSM_AUTH_KEY.authenticate(str(key), payload)
            query = f"?authentication={signature}" if authenticated else ""
            with capturedLogs() as events:
                answer = await stand.sign(key, payload, query)
            self.assertEqual((line, answer.status), (line, status))
            (decision,) = self._decisions(events)
            expected = re.escape(line).replace("HERE", re.escape("127.0.0.1"))
            self.assertRegex(formatEvent(decision), f"^{expected.replace('MS', '[0-9]+ ms')}$")
            level = LogLevel.info if status == 200 else LogLevel.warn
            self.assertIs(decision["log_level"], level)
            self.assertEqual(str(decision["peer"]), "127.0.0.1")
            for event in events:
                self.assertNotIn(signature, f"{formatEvent(event)} {event!r}")

    async def test_other_requests_are_no_decisions(self) -> None:
        """Probes and keys are asked for all the time, and leave no line."""
        stand = Stand()
        await stand.start(self)
        with capturedLogs() as events:
            for path in ("/", "/authorized_keys", "/known_keys", f"/keys/{TZ3}", "/nowhere"):
                await stand.request("GET", path)
        self.assertEqual(self._decisions(events), [])

    async def test_key_of_a_client_in_the_log(self) -> None:
        """What a client writes into the path can neither break a line nor fill the log."""
        stand = Stand()
        await stand.start(self)
        for key in ("a%0d%0asigned%20everything", "%1b%5b2J", "{log_source}", "1" * 5000):
            with capturedLogs() as events:
                answer = await stand.request("POST", f"/keys/{key}", b'"03"')
            self.assertEqual(answer.status, 400)
            (decision,) = self._decisions(events)
            line = formatEvent(decision)
            self.assertRegex(line, r"\A[ -~…]{20,400}\Z")
            self.assertTrue(line.startswith("refused a request for "), line)

    async def test_time_and_leaving(self) -> None:
        """The time is that of the request; a client that left has his line as well."""
        stand = HeldStand()
        await stand.start(self)
        clock = Clock()
        signer = Signer(stand.settings, stand.hsms, stand.watermarks, clock)
        with capturedLogs() as events:
            staying = signer.submit(submission(NOOP))
            leaving = signer.submit(submission(TRANSFER, TZ1))
            await stand.asked()
            clock.advance(0.25)
            leaving.cancel()
            self.failureResultOf(leaving, CancelledError)
            clock.advance(1)
            stand.answer()
            await staying
        left, signed = self._decisions(events)
        self.assertEqual(
            formatEvent(left), f"client 127.0.0.1 went away after 250 ms: generic for {TZ1}"
        )
        self.assertEqual(formatEvent(signed), f"signed generic for {TZ3} from 127.0.0.1 in 1250 ms")

    async def test_fault_has_its_line(self) -> None:
        """A fault of ours leaves one line like any decision, with the traceback in it."""
        store = FailingStore()
        stand = Stand(settings_with(), store=lambda: store)
        await stand.start(self)
        store.error = RuntimeError("a detail from inside")
        with capturedLogs() as events:
            await stand.sign(TZ3, block(7, 0))
        (decision,) = self._decisions(events)
        self.assertRegex(
            formatEvent(decision), rf"fault.* block 7/0 for {TZ3} from 127\.0\.0\.1 in \d+ ms"
        )
        self.assertIn("log_failure", decision)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)


class AdmissionTests(TestCase):
    """What the doors ask besides signatures."""

    async def test_peer_is_asked_about_first(self) -> None:
        """A peer that may ask nothing does not even get his request read."""
        stand = Stand(settings_with())
        await stand.start(self)

        def unread() -> SigningRequest:
            self.fail("the request was read")

        peer = Peer.at("192.0.2.1")
        refused = await failure_of(stand.signer.submit(Submission(peer, str(TZ3), unread)))
        self.assertIsInstance(refused, Forbidden)
        self.assertEqual(str(refused), "address 192.0.2.1 is not among allowed_ips")
        self.assertRaises(Forbidden, stand.signer.admit, peer)
        stand.signer.admit(Peer())

    async def test_every_failure_is_a_refusal(self) -> None:
        """The doors see nothing else than refusals, even of what fails to be read."""
        stand = Stand(settings_with())
        await stand.start(self)

        def broken() -> SigningRequest:
            raise KeyError("a detail from inside")

        fault = await failure_of(stand.signer.submit(Submission(Peer(), str(TZ3), broken)))
        self.assertIs(type(fault), Refused)
        self.assertEqual(str(fault), FAULT)
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)
        self.successResultOf(stand.signer.drained())
