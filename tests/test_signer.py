"""The path of a request behind the listeners: rules, claim, HSM, verification, release."""

import re
from collections.abc import Sequence

from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.interfaces import ITCPTransport
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.task import Clock
from twisted.logger import LogEvent, LogLevel, capturedLogs, formatEvent
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from tests.support.harness import (
    FAULT,
    Harness,
    HeldHarness,
    failure_of,
    reactor,
    settings_with,
    submission,
)
from tests.support.octezclient import HSM_AUTH_KEY, good, text_in
from tests.support.stores import FailingStore, HeldWriter, watermarks_on
from tests.support.vectors import AUTH, OCTEZ, PAYLOADS, TZ1, TZ2, TZ3, block, consensus, noop
from tezio_signer.errors import Conflict, Refused, Unavailable
from tezio_signer.signer import Signer
from tezio_signer.tezos.keys import PublicKeyHash
from tezio_signer.watermarks.claims import Claim

NOOP = PAYLOADS["noop"]
ANOTHER = noop(2)
DEADLINE = 6.0


class SharingTests(TestCase):
    """Requests for the same at the same time."""

    async def test_share_one_exchange(self) -> None:
        """Two requests for one payload get the same signature from one exchange."""
        harness = HeldHarness()
        await harness.start(self)
        for payload in (NOOP, block(7, 0)):
            harness.written.clear()
            first = harness.signer.submit(submission(payload))
            second = harness.signer.submit(submission(payload))
            await harness.asked()
            harness.answer()
            one, other = await gatherResults([first, second])
            self.assertEqual(one, other)
            self.assertTrue(good(TZ3, payload, one))
            self.assertEqual(harness.messages(), [payload])

    async def test_share_a_refusal(self) -> None:
        """What the device refuses is refused to everybody who waits for it."""
        harness = HeldHarness()
        await harness.start(self)
        requests = [harness.signer.submit(submission(block(0, 0))) for _ in range(3)]
        await harness.asked()
        harness.answer()
        for request in requests:
            self.assertIsInstance(await failure_of(request), Conflict)

    async def test_keys_and_payloads_apart(self) -> None:
        """Another key or another payload is another exchange."""
        harness = HeldHarness()
        await harness.start(self)
        asked = [(TZ1, NOOP), (TZ2, NOOP), (TZ2, ANOTHER)]
        requests = [harness.signer.submit(submission(payload, key)) for key, payload in asked]
        for _ in asked:
            await harness.asked()
            harness.answer()
        for (key, payload), signature in zip(asked, await gatherResults(requests), strict=True):
            self.assertTrue(good(key, payload, signature))

    async def test_many_at_once_over_http(self) -> None:
        """Ten clients that want the same block get the same bytes, signed once."""
        harness = Harness(settings_with())
        await harness.start(self)
        answers = await gatherResults(
            [Deferred.fromCoroutine(harness.sign(TZ3, block(7, 0))) for _ in range(10)]
        )
        self.assertEqual({answer.status for answer in answers}, {200})
        self.assertEqual(len({answer.body for answer in answers}), 1)
        self.assertEqual(harness.written.count(block(7, 0)), 1)

    async def test_two_blocks_at_once(self) -> None:
        """Of two different blocks at one level and round that come at once, one is signed."""
        harness = HeldHarness()
        await harness.start(self)
        first = harness.signer.submit(submission(block(7, 0, 1)))
        second = harness.signer.submit(submission(block(7, 0, 2)))
        self.assertIsInstance(await failure_of(second), Conflict)
        await harness.asked()
        harness.answer()
        self.assertTrue(good(TZ3, block(7, 0, 1), await first))
        self.assertEqual(harness.messages(), [block(7, 0, 1)])

    async def test_urgent_ones_first(self) -> None:
        """While the device is busy, blocks overtake votes, and votes anything else."""
        harness = HeldHarness()
        await harness.start(self)
        payloads = [NOOP, ANOTHER, consensus("att", 7, 0), consensus("preatt", 7, 0), block(7, 0)]
        requests = [harness.signer.submit(submission(payload)) for payload in payloads]
        for _ in payloads:
            await harness.asked()
            harness.answer()
        await gatherResults(requests)
        busy, other, attestation, preattestation, urgent = payloads
        self.assertEqual(harness.messages(), [busy, urgent, attestation, preattestation, other])


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

    async def _ask(self, harness: Harness, key: PublicKeyHash, payload: bytes) -> _Impatient:
        body = b'"%b"' % payload.hex().encode("ascii")
        head = f"POST /keys/{key} HTTP/1.1\r\nContent-Length: {len(body)}\r\n\r\n"
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", harness.port)
        client = _Impatient(head.encode("ascii") + body)
        connected: _Impatient = await connectProtocol(endpoint, client)
        return connected

    async def test_next_one_is_not_disturbed(self) -> None:
        """Who asks after one that left gets the signature of his own payload."""
        harness = HeldHarness()
        await harness.start(self)
        client = await self._ask(harness, TZ3, NOOP)
        await harness.asked()
        client.leave()
        await client.closed
        self.assertEqual(client.received, b"")
        following = Deferred.fromCoroutine(harness.sign(TZ2, ANOTHER))
        harness.answer()
        await harness.asked()
        harness.answer()
        answer = await following
        self.assertEqual(answer.status, 200)
        self.assertTrue(good(TZ2, ANOTHER, text_in(answer.body, "signature")))
        self.assertEqual(harness.messages(), [NOOP, ANOTHER])

    async def test_signature_of_a_block_is_not_lost(self) -> None:
        """A block whose client left is there when it is asked for again."""
        harness = HeldHarness()
        await harness.start(self)
        client = await self._ask(harness, TZ3, block(7, 0))
        await harness.asked()
        client.leave()
        await client.closed
        harness.answer()
        await harness.signer.drained()
        answer = await harness.sign(TZ3, block(7, 0))
        self.assertTrue(good(TZ3, block(7, 0), text_in(answer.body, "signature")))
        self.assertEqual(harness.messages(), [block(7, 0)])

    async def test_who_waits_is_dropped(self) -> None:
        """A request whose client left before its turn does not reach the device."""
        harness = HeldHarness()
        await harness.start(self)
        first = harness.signer.submit(submission(NOOP))
        gone = harness.signer.submit(submission(ANOTHER))
        gone.cancel()
        self.assertIsInstance(await failure_of(gone), CancelledError)
        await harness.asked()
        harness.answer()
        self.assertTrue(good(TZ3, NOOP, await first))
        await harness.signer.drained()
        self.assertEqual(harness.messages(), [NOOP])

    async def test_one_of_two_leaves(self) -> None:
        """Who waits for the same payload as one that left still gets it."""
        harness = HeldHarness()
        await harness.start(self)
        busy = harness.signer.submit(submission(ANOTHER))
        leaving = harness.signer.submit(submission(NOOP))
        staying = harness.signer.submit(submission(NOOP))
        leaving.cancel()
        self.assertIsInstance(await failure_of(leaving), CancelledError)
        for _ in range(2):
            await harness.asked()
            harness.answer()
        self.assertTrue(good(TZ3, ANOTHER, await busy))
        self.assertTrue(good(TZ3, NOOP, await staying))

    async def test_next_one_does_not_inherit_a_withdrawn_request(self) -> None:
        """Who asks for what another client has just withdrawn is served all the same."""
        harness = HeldHarness()
        await harness.start(self)
        disk = HeldWriter()
        watermarks = watermarks_on(make_writer=lambda: disk)
        watermarks.startService()
        self.addCleanup(watermarks.stopService)
        signer = Signer(harness.settings, harness.hsms, watermarks, reactor)
        busy = signer.submit(submission(NOOP))
        leaving = signer.submit(submission(block(7, 0)))
        leaving.cancel()
        self.failureResultOf(leaving, CancelledError)
        following = signer.submit(submission(block(7, 0)))
        disk.write()
        self.assertNoResult(following)
        last = signer.submit(submission(ANOTHER, TZ1))
        for _ in range(2):
            await harness.asked()
            harness.answer()
        await harness.asked()
        disk.write()
        self.assertTrue(good(TZ3, block(7, 0), self.successResultOf(following)))
        harness.answer()
        await gatherResults([busy, last])

    async def test_drained(self) -> None:
        """`drained` waits for what clients asked for, and for what they left behind."""
        harness = HeldHarness()
        await harness.start(self)
        self.successResultOf(harness.signer.drained())
        staying = harness.signer.submit(submission(NOOP))
        leaving = harness.signer.submit(submission(ANOTHER, TZ1))
        await harness.asked()
        drained, given_up = harness.signer.drained(), harness.signer.drained()
        given_up.cancel()
        self.assertIsInstance(await failure_of(given_up), CancelledError)
        harness.answer()
        await staying
        await harness.asked()
        self.assertNoResult(drained)
        leaving.cancel()
        self.assertIsInstance(await failure_of(leaving), CancelledError)
        self.assertNoResult(drained)
        harness.answer()
        await drained
        self.successResultOf(harness.signer.drained())


class StoppingTests(TestCase):
    """The end of the daemon."""

    async def test_close(self) -> None:
        """What is asked for from then on is refused, what was asked for before is served."""
        harness = HeldHarness()
        await harness.start(self)
        before = harness.signer.submit(submission(block(7, 0)))
        harness.signer.close("the signer is stopping")
        for payload in (block(7, 0), NOOP):
            failure = self.failureResultOf(harness.signer.submit(submission(payload)), Unavailable)
            self.assertEqual(failure.getErrorMessage(), "the signer is stopping")
        await harness.asked()
        harness.answer()
        self.assertTrue(good(TZ3, block(7, 0), await before))
        self.assertEqual(harness.messages(), [block(7, 0)])

    async def test_refuse_all(self) -> None:
        """Everybody who waits is told; what the device still signs is kept for the next time."""
        harness = HeldHarness()
        await harness.start(self)
        requests = [
            harness.signer.submit(submission(payload))
            for payload in (block(7, 0), block(7, 0), consensus("att", 7, 0), NOOP)
        ]
        await harness.asked()
        harness.signer.refuse_all("the signer is stopping")
        for request in requests:
            failure = self.failureResultOf(request, Unavailable)
            self.assertEqual(failure.getErrorMessage(), "the signer is stopping")
        drained = harness.signer.drained()
        self.assertNoResult(drained)
        for _ in range(2):
            harness.answer()
            await harness.asked()
        harness.answer()
        await drained
        again = self.successResultOf(harness.signer.submit(submission(block(7, 0))))
        self.assertTrue(good(TZ3, block(7, 0), again))


class DeadlineTests(TestCase):
    """A device that does not come to an end."""

    async def test_deadline(self) -> None:
        """After six seconds the client is told; the signature that comes later is kept."""
        harness = HeldHarness()
        await harness.start(self)
        clock = Clock()
        signer = Signer(harness.settings, harness.hsms, harness.watermarks, clock)
        late = signer.submit(submission(block(7, 0)))
        await harness.asked()
        clock.advance(DEADLINE - 0.01)
        self.assertNoResult(late)
        clock.advance(0.01)
        failure = self.failureResultOf(late, Unavailable)
        self.assertEqual(failure.getErrorMessage(), "the HSM has not signed within 6 s")
        harness.answer()
        await signer.drained()
        again = self.successResultOf(signer.submit(submission(block(7, 0))))
        self.assertTrue(good(TZ3, block(7, 0), again))
        self.assertEqual(harness.messages(), [block(7, 0)])
        self.assertEqual(clock.getDelayedCalls(), [])

    async def test_behind_another(self) -> None:
        """Who has waited for the HSM all the time is told so, and is not signed for any more."""
        harness = HeldHarness()
        await harness.start(self)
        clock = Clock()
        signer = Signer(harness.settings, harness.hsms, harness.watermarks, clock)
        busy = signer.submit(submission(ANOTHER))
        await harness.asked()
        for payload in (NOOP, block(7, 0)):
            waiting = signer.submit(submission(payload, TZ1))
            clock.advance(DEADLINE)
            failure = self.failureResultOf(waiting, Unavailable)
            self.assertEqual(failure.getErrorMessage(), "the HSM has not signed within 6 s")
        self.failureResultOf(busy, Unavailable)
        harness.answer()
        await signer.drained()
        self.assertEqual(harness.messages(), [ANOTHER])


class LogTests(TestCase):
    """One line for each decision."""

    def _decisions(self, events: Sequence[LogEvent]) -> list[LogEvent]:
        return [event for event in events if "milliseconds" in event]

    async def test_lines(self) -> None:
        """Each request to sign leaves one line: key, peer, outcome, time."""
        harness = Harness(settings_with(auth_req=True, auth_key=AUTH))
        await harness.start(self)
        unknown = OCTEZ["keys"][0]["pkh"]
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
            (TZ1, NOOP, True, 200, f"signed failing_noop 'hi', for {TZ1} from HERE in MS"),
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
                "the generic operation is cut off in its branch: 0 of 32 bytes, at byte 1",
            ),
            (
                unknown,
                NOOP,
                True,
                404,
                f"refused failing_noop 'hi', for {unknown} from HERE in MS: 404 "
                f"no keys for the source contract {unknown}",
            ),
        ]
        for key, payload, authenticated, status, line in cases:
            signature = HSM_AUTH_KEY.authenticate(str(key), payload)
            query = f"?authentication={signature}" if authenticated else ""
            with capturedLogs() as events:
                answer = await harness.sign(key, payload, query)
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
        harness = Harness()
        await harness.start(self)
        with capturedLogs() as events:
            for path in ("/", "/authorized_keys", "/known_keys", f"/keys/{TZ3}", "/nowhere"):
                await harness.request("GET", path)
        self.assertEqual(self._decisions(events), [])

    async def test_key_of_a_client_in_the_log(self) -> None:
        """What a client writes into the path can neither break a line nor fill the log."""
        harness = Harness()
        await harness.start(self)
        for key in ("a%0d%0asigned%20everything", "%1b%5b2J", "{log_source}", "1" * 5000):
            with capturedLogs() as events:
                answer = await harness.request("POST", f"/keys/{key}", b'"03"')
            self.assertEqual(answer.status, 400)
            (decision,) = self._decisions(events)
            line = formatEvent(decision)
            self.assertRegex(line, r"\A[ -~…]{20,400}\Z")
            self.assertTrue(line.startswith("refused a request for "), line)

    async def test_time_and_leaving(self) -> None:
        """The time is that of the request; a client that left has his line as well."""
        harness = HeldHarness()
        await harness.start(self)
        clock = Clock()
        signer = Signer(harness.settings, harness.hsms, harness.watermarks, clock)
        with capturedLogs() as events:
            staying = signer.submit(submission(NOOP))
            leaving = signer.submit(submission(ANOTHER, TZ1))
            await harness.asked()
            clock.advance(0.25)
            leaving.cancel()
            self.failureResultOf(leaving, CancelledError)
            clock.advance(1)
            harness.answer()
            await staying
        left, signed = self._decisions(events)
        self.assertEqual(
            formatEvent(left),
            f"client 127.0.0.1 went away after 250 ms: failing_noop 'hi', for {TZ1}",
        )
        self.assertEqual(
            formatEvent(signed), f"signed failing_noop 'hi', for {TZ3} from 127.0.0.1 in 1250 ms"
        )

    async def test_fault_has_its_line(self) -> None:
        """A fault of ours leaves one line like any decision, with the traceback in it."""
        store = FailingStore()
        harness = Harness(settings_with(), store=lambda: store)
        await harness.start(self)
        store.error = RuntimeError("a detail from inside")
        with capturedLogs() as events:
            await harness.sign(TZ3, block(7, 0))
        (decision,) = self._decisions(events)
        self.assertRegex(
            formatEvent(decision), rf"fault.* block 7/0 for {TZ3} from 127\.0\.0\.1 in \d+ ms"
        )
        self.assertIn("log_failure", decision)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)


class FaultTests(TestCase):
    """What goes wrong in the signer itself."""

    async def test_every_failure_is_a_refusal(self) -> None:
        """The listeners see nothing else than refusals, even of what fails in a rule."""
        harness = Harness(settings_with())
        await harness.start(self)

        def broken(*_: object) -> Claim:
            raise KeyError("a detail from inside")

        self.patch(harness.watermarks, "claim", broken)
        fault = await failure_of(harness.signer.submit(submission(block(7, 0))))
        self.assertIs(type(fault), Refused)
        self.assertEqual(str(fault), FAULT)
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)
        self.successResultOf(harness.signer.drained())
