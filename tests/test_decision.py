"""Every answer is one decision, of which its observers are told."""

from collections.abc import Callable
from ipaddress import ip_network
from typing import cast

from attrs import evolve, frozen
from twisted.internet.defer import CancelledError, Deferred, DeferredQueue
from twisted.internet.endpoints import clientFromString, connectProtocol
from twisted.internet.interfaces import ITCPTransport
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock, deferLater
from twisted.logger import LogEvent, LogLevel, capturedLogs, formatEvent
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase

from tests.support import octezsocketclient as octezsocket
from tests.support.harness import (
    Harness,
    HeldHarness,
    failure_of,
    reactor,
    settings_with,
    submission,
)
from tests.support.listenercase import ListenersTestCase
from tests.support.octezclient import good
from tests.support.octezsocketclient import OctezSocketClient, OctezSocketError
from tests.support.recorder import Keeper, Recorder
from tests.support.vectors import AUTH, PAYLOADS, TZ1, TZ3, block
from tezio_signer.decision import Decision, DecisionLog, Decisions, Outcome, Stage
from tezio_signer.errors import (
    FAULT,
    Conflict,
    Forbidden,
    Malformed,
    NotAdmitted,
    TooMany,
    Unavailable,
)
from tezio_signer.noop import do_nothing
from tezio_signer.request import Admitted, Listener, Peer, Submission
from tezio_signer.sparinglog import LINES_PER_MINUTE
from tezio_signer.tezos.keys import PublicKey
from tezio_signer.tezos.payload import Operation

NOOP = PAYLOADS["noop"]
MAINNET = "NetXdQprcVkpaWU"
ASKED = Decision("GET /nowhere", Peer(), Listener.HTTP)


class Broken:
    """An observer that fails."""

    def decided(self, decision: Decision) -> None:
        """Raise what nobody expects."""
        raise ZeroDivisionError


@frozen
class Telling:
    """An observer that hands decisions on."""

    decided: Callable[[Decision], object]


class FactsTests(SynchronousTestCase):
    """What a decision says."""

    def test_request_that_was_read(self) -> None:
        """Of a request that was read there are key, payload, bytes, kind and position."""
        decision = Decision.on(submission(block(7, 2)))
        self.assertEqual(decision.what, f"block 7/2 for {TZ3}")
        self.assertEqual((decision.key, decision.data), (TZ3, block(7, 2)))
        self.assertIs(decision.operation, Operation.BLOCK)
        self.assertEqual(decision.position, (MAINNET, 7, 2))
        self.assertEqual((decision.peer, decision.listener), (Peer(), Listener.HTTP))

    def test_without_a_level(self) -> None:
        """A generic operation has a kind and no position."""
        decision = Decision.on(submission(NOOP))
        self.assertEqual((decision.operation, decision.position), (Operation.GENERIC, None))

    def test_request_that_was_not_read(self) -> None:
        """Of another there are words only."""
        asked = Submission(Admitted(Peer()), Listener.OCTEZ_SOCKET, "tz1", Forbidden("no"))
        decision = Decision.on(asked)
        self.assertEqual(decision.what, "a request for tz1")
        facts = decision.key, decision.payload, decision.data, decision.operation, decision.position
        self.assertEqual(facts, (None,) * 5)

    def test_refused(self) -> None:
        """A refusal has the status, the reason and the sentence that its client gets."""
        for refused, status, reason, stage in (
            (Conflict("a mark"), 409, "watermark", Stage.REQUEST),
            (TooMany("a limit"), 429, "too_many", Stage.REQUEST),
            (NotAdmitted("an address"), 403, "forbidden", Stage.CONNECTION),
        ):
            decision = ASKED.refused(refused)
            self.assertIs(decision.outcome, Outcome.REFUSED)
            self.assertEqual((decision.status, decision.reason), (status, reason))
            self.assertEqual((decision.sentence, decision.stage), (str(refused), stage))
        self.assertIs(ASKED.refused(Forbidden("no"), Stage.READING).stage, Stage.READING)

    def test_failed(self) -> None:
        """A fault has its traceback, and the sentence that says nothing of it."""
        failure = Failure(ZeroDivisionError())
        decision = ASKED.failed(failure)
        self.assertEqual((decision.outcome, decision.status), (Outcome.FAULT, 500))
        self.assertEqual((decision.reason, decision.sentence), ("fault", FAULT))
        self.assertIs(decision.failure, failure)


class LogTests(SynchronousTestCase):
    """The line of a decision."""

    def line(self, decision: Decision) -> LogEvent | None:
        """The event of a decision, if there is one."""
        with capturedLogs() as events:
            DecisionLog(Clock()).decided(decision)
        return events[0] if events else None

    def test_lines(self) -> None:
        """Each outcome has its words, and its level."""
        asked = evolve(Decision.on(submission(NOOP)), milliseconds=3)
        generic = f"failing_noop 'hi', for {TZ3}"
        says = "from 127.0.0.1"
        for decision, level, line in (
            (evolve(asked, outcome=Outcome.SIGNED), "info", f"signed {generic} {says} in 3 ms"),
            (
                asked.refused(TooMany("no")),
                "warn",
                f"refused {generic} {says} in 3 ms: 429 no",
            ),
            (
                evolve(asked, outcome=Outcome.LEFT),
                "warn",
                f"client 127.0.0.1 went away after 3 ms: {generic}",
            ),
            (ASKED.refused(Forbidden("no")), "warn", f"refused GET /nowhere {says}: 403 no"),
            (
                ASKED.unanswered(Malformed("cut off")),
                "warn",
                "closed the connection of 127.0.0.1, whose request cannot be read: cut off",
            ),
            (
                asked.failed(Failure(ZeroDivisionError())),
                "critical",
                f"fault while serving {generic} {says} in 3 ms",
            ),
            (
                ASKED.failed(Failure(ZeroDivisionError())),
                "critical",
                f"fault while answering GET /nowhere {says}",
            ),
        ):
            event = self.line(decision)
            assert event is not None
            self.assertEqual((formatEvent(event), event["log_level"].name), (line, level))
            self.assertEqual(event["peer"], Peer())
            self.assertEqual("milliseconds" in event, decision.milliseconds is not None)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 2)

    def test_refusals_fields(self) -> None:
        """A refusal's line has status, reason, rule and sentence as fields."""
        event = self.line(ASKED.refused(Conflict("no").by("hsm")))
        assert event is not None
        self.assertEqual((event["status"], event["reason"]), (409, "watermark"))
        self.assertEqual(event["rule"], "hsm")
        self.assertEqual((event["sentence"], event["what"]), ("no", "GET /nowhere"))

    def test_no_line(self) -> None:
        """What is asked for all the time leaves none, nor does a client that leaves before that."""
        self.assertIsNone(self.line(ASKED))
        self.assertIsNone(self.line(evolve(ASKED, outcome=Outcome.LEFT)))

    def test_floods(self) -> None:
        """Of what anybody can cause there are few lines, but all of requests that were read."""
        for decision, lines in (
            (ASKED.refused(NotAdmitted("no")), LINES_PER_MINUTE),
            (ASKED.refused(Forbidden("no"), Stage.READING), LINES_PER_MINUTE),
            (ASKED.refused(Forbidden("no")), 2 * LINES_PER_MINUTE),
        ):
            log = DecisionLog(Clock())
            with capturedLogs() as events:
                for _ in range(2 * LINES_PER_MINUTE):
                    log.decided(decision)
                log.decided(ASKED.refused(Forbidden("another")))
            self.assertEqual(len(events), lines + 1)

    def test_floods_of_two_listeners(self) -> None:
        """A flood at one listener keeps no line of another from the log."""
        log = DecisionLog(Clock())
        for _ in range(2 * LINES_PER_MINUTE):
            log.decided(ASKED.refused(Forbidden("no"), Stage.READING))
        other = evolve(ASKED, listener=Listener.OCTEZ_SOCKET)
        with capturedLogs() as events:
            log.decided(other.refused(Forbidden("no"), Stage.READING))
        self.assertEqual(len(events), 1)


class ObserverTests(TestCase):
    """Observers, and how little they can do."""

    def test_order(self) -> None:
        """The log is first, and then the others in the order in which they were added."""
        order: list[str] = []

        class Named(Recorder):
            def __init__(self, name: str) -> None:
                self.name = name

            def decided(self, decision: Decision) -> Deferred[None]:
                order.append(self.name)
                return Deferred()

        decisions = Decisions(Clock())
        decisions.add(Named("one"))
        decisions.add(Named("two"))
        with capturedLogs() as events:
            decisions.record(ASKED.refused(Forbidden("no")))
        self.assertEqual(len(events), 1)
        self.assertEqual(order, ["one", "two"])

    async def test_neither_fails_nor_delays_a_signature(self) -> None:
        """One that raises, or never comes to an end, is nothing to who waits for a signature."""
        harness = HeldHarness()
        await harness.start(self)
        recorder = Recorder()
        for observer in (Broken(), recorder, Broken()):
            harness.signer.decisions.add(observer)
        request = harness.signer.submit(submission(block(7, 0)))
        await harness.asked()
        harness.answer()
        self.assertTrue(good(TZ3, block(7, 0), await request))
        refused = harness.signer.submit(submission(block(7, 0, 1)))
        self.assertIsInstance(await failure_of(refused), Conflict)
        outcomes = [decision.outcome for decision in recorder.seen]
        self.assertEqual(outcomes, [Outcome.SIGNED, Outcome.REFUSED])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 4)

    async def test_keeper(self) -> None:
        """Where one is required, a signature leaves, and is told of, when it has its decision."""
        harness = HeldHarness()
        await harness.start(self)
        keeper, recorder = Keeper(), Recorder()
        harness.signer.decisions.add(recorder)
        harness.signer.decisions.require(keeper)
        request = harness.signer.submit(submission(block(7, 0)))
        await harness.asked()
        harness.answer()
        while not keeper.asked:
            await deferLater(reactor, 0.001)
        self.assertNoResult(request)
        self.assertEqual((recorder.seen, keeper.asked[0].outcome), ([], Outcome.SIGNED))
        keeper.keeping.callback(None)
        self.assertTrue(good(TZ3, block(7, 0), await request))
        self.assertEqual((recorder.seen, keeper.seen), (keeper.asked, []))
        refused = harness.signer.submit(submission(block(7, 0, 1)))
        self.assertIsInstance(await failure_of(refused), Conflict)
        self.assertEqual((len(keeper.asked), len(keeper.seen)), (1, 1))

    def test_keeper_among_others(self) -> None:
        """All others are told of what it has kept; and it is asked whether it could keep more."""
        decisions, first, keeper, last = Decisions(Clock()), Recorder(), Keeper(), Recorder()
        decisions.check()
        decisions.add(first)
        decisions.require(keeper)
        decisions.add(last)
        decisions.record(ASKED, kept=True)
        self.assertEqual((first.seen, keeper.seen, last.seen), ([ASKED], [], [ASKED]))
        decisions.check()
        keeper.trouble = Unavailable("full")
        self.assertRaises(Unavailable, decisions.check)

    async def test_keeper_that_fails(self) -> None:
        """By whatever it fails, no signature leaves, and that is told of as what it is."""
        for error, outcome, sentence in (
            (Unavailable("full"), Outcome.REFUSED, "full"),
            (ZeroDivisionError(), Outcome.FAULT, FAULT),
        ):
            harness = Harness(settings_with())
            await harness.start(self)
            keeper = Keeper()
            harness.signer.decisions.require(keeper)
            keeper.keeping.errback(error)
            answer = await failure_of(harness.signer.submit(submission(block(7, 0))))
            self.assertEqual(str(answer), sentence)
            (told,) = keeper.seen
            self.assertEqual((told.outcome, told.sentence), (outcome, sentence))
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_one_that_always_fails(self) -> None:
        """It is told of, with its traceback, but does not fill the log."""
        decisions = Decisions(Clock())
        decisions.add(Broken())
        with capturedLogs() as events:
            for _ in range(2 * LINES_PER_MINUTE):
                decisions.record(ASKED)
        self.assertEqual(len(events), LINES_PER_MINUTE)
        self.assertEqual(formatEvent(events[0]), "Broken has missed a decision: a fault")
        self.assertIs(events[0]["log_level"], LogLevel.warn)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), LINES_PER_MINUTE)


class EveryAnswerTests(ListenersTestCase):
    """Whatever is asked, wherever: one decision."""

    async def begin(self) -> None:
        """Open the listeners."""
        self.harness = Harness(settings_with())
        await self.open(self.harness)
        self.recorder = Recorder()
        self.harness.signer.decisions.add(self.recorder)

    def seen(self) -> list[Decision]:
        """What was decided since this was asked last."""
        seen, self.recorder.seen = self.recorder.seen, []
        return seen

    async def test_http(self) -> None:
        """At HTTP: signatures, other answers, refusals, no routes and what is no request."""
        await self.begin()
        client = self.http["HTTP TCP"]
        await client.sign(TZ1, NOOP)
        (signed,) = self.seen()
        self.assertEqual((signed.outcome, signed.status), (Outcome.SIGNED, 200))
        self.assertEqual((signed.key, signed.listener), (TZ1, Listener.HTTP))
        self.assertIsNotNone(signed.milliseconds)
        for path in ("/", "/authorized_keys", "/known_keys", f"/keys/{TZ3}"):
            self.assertEqual((await client.request("GET", path)).status, 200)
            (answered,) = self.seen()
            self.assertEqual((answered.outcome, answered.what), (Outcome.ANSWERED, f"GET {path}"))
            self.assertEqual((answered.status, answered.listener), (200, Listener.HTTP))
        for method, path, status, reason, stage in (
            ("POST", f"/keys/{TZ3}", 400, "malformed", Stage.REQUEST),
            ("GET", f"/keys/{AUTH}", 404, "unknown_key", Stage.REQUEST),
            ("GET", f"/bls_prove_possession/{TZ3}", 403, "forbidden", Stage.REQUEST),
            ("GET", "/nowhere", 404, "no_route", Stage.READING),
            ("POST", "/known_keys", 405, "no_route", Stage.READING),
            ("GET", "/%2f", 400, "malformed", Stage.READING),
        ):
            answer = await client.request(method, path, b"")
            (refused,) = self.seen()
            self.assertIs(refused.outcome, Outcome.REFUSED)
            self.assertEqual((answer.status, refused.status), (status, status))
            self.assertEqual((refused.reason, refused.stage), (reason, stage))
            self.assertEqual((str(refused.peer), refused.listener), ("127.0.0.1", Listener.HTTP))

    async def test_socket(self) -> None:
        """At the socket protocol: signatures, other answers and refusals."""
        await self.begin()
        client = self.sockets["socket TCP"]
        await client.sign(str(TZ1), NOOP)
        *_, signed = self.seen()  # before, the authorized keys are asked for
        self.assertEqual((signed.outcome, signed.key), (Outcome.SIGNED, TZ1))
        self.assertIs(signed.listener, Listener.OCTEZ_SOCKET)
        await client.authorized_keys()
        (answered,) = self.seen()
        self.assertEqual((answered.outcome, answered.what), (Outcome.ANSWERED, "GetAuthorizedKeys"))
        await self.refused(client, octezsocket.sign(str(TZ3), b"\x03"), 400, "a request for")
        await self.refused(client, octezsocket.public_key(str(AUTH)), 404, "GetPublicKey")

    async def refused(
        self, client: OctezSocketClient, request: bytes, status: int, what: str
    ) -> None:
        """Check the one decision on a request that is refused."""
        with self.assertRaises(OctezSocketError) as told:
            await client.ask(request)
        (refused,) = self.seen()
        self.assertEqual((refused.outcome, refused.status), (Outcome.REFUSED, status))
        self.assertEqual(refused.sentence, told.exception.message)
        self.assertIn(what, refused.what)
        self.assertIs(refused.listener, Listener.OCTEZ_SOCKET)

    async def test_faults(self) -> None:
        """Faults of ours, at both."""
        await self.begin()

        def broken() -> None:
            raise ZeroDivisionError

        self.patch(self.harness.signer, "authorized_keys", broken)
        for listener in (Listener.HTTP, Listener.OCTEZ_SOCKET):
            if listener is Listener.HTTP:
                await self.http["HTTP TCP"].request("GET", "/authorized_keys")
            else:
                with self.assertRaises(OctezSocketError):
                    await self.sockets["socket TCP"].authorized_keys()
            (fault,) = self.seen()
            self.assertEqual((fault.outcome, fault.status), (Outcome.FAULT, 500))
            self.assertEqual((fault.listener, fault.sentence), (listener, FAULT))
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 2)

    async def test_leaving_and_stopping(self) -> None:
        """A client that leaves has no status; one that comes too late has that of a refusal."""
        await self.begin()
        leaving = self.harness.signer.submit(submission(NOOP))
        leaving.cancel()
        self.failureResultOf(leaving, CancelledError)
        self.harness.signer.close("the signer is stopping")
        late = await failure_of(self.harness.signer.submit(submission(NOOP)))
        self.assertIsInstance(late, Unavailable)
        left, refused = self.seen()
        self.assertEqual((left.outcome, left.status), (Outcome.LEFT, None))
        self.assertEqual((refused.status, refused.reason), (502, "unavailable"))

    async def test_no_address(self) -> None:
        """Who may ask nothing is refused before his request is one."""
        self.harness = Harness(settings_with(allowed_ips=(ip_network("10.0.0.0/8"),)))
        await self.open(self.harness)
        self.recorder = Recorder()
        self.harness.signer.decisions.add(self.recorder)
        for client in self.http.values():
            await client.request("GET", "/")
        connection, request = self.seen()
        self.assertEqual((connection.what, request.what), ("a connection", "GET /"))
        for decision in (connection, request):
            self.assertEqual((decision.status, decision.stage), (403, Stage.CONNECTION))

    async def test_no_http(self) -> None:
        """What Twisted itself refuses is one decision too, however many wrong lines it has."""
        await self.begin()
        for client in self.http.values():
            for sent in (b"\x16\x03\x01\r\n\r\n", b"GET / HTTP/1.1\r\nno colon\r\nnone\r\n\r\n"):
                self.assertIn(b"400 Bad Request", await client.raw(sent))
                (refused,) = self.seen()
                self.assertEqual((refused.status, refused.stage), (400, Stage.READING))
                self.assertEqual((refused.rule, refused.listener), ("reading", Listener.HTTP))
                self.assertIn("127.0.0.1", str(refused.peer))

    async def test_leaving_before_a_public_key(self) -> None:
        """A client that does not wait for a public key has left, at both."""
        await self.begin()
        asked: DeferredQueue[None] = DeferredQueue()

        def public_key(_: object) -> Deferred[PublicKey]:
            asked.put(None)
            return Deferred()

        self.patch(self.harness.hsms, "public_key", public_key)
        left: DeferredQueue[Decision] = DeferredQueue()
        self.harness.signer.decisions.add(Telling(left.put))

        async def over_http() -> ITCPTransport:
            client = self.http["HTTP TCP"]
            opened = await connectProtocol(clientFromString(reactor, client.endpoint), Protocol())
            opened.transport.write(f"GET /keys/{TZ3} HTTP/1.1\r\n\r\n".encode("ascii"))
            return cast(ITCPTransport, opened.transport)

        async def over_a_socket() -> ITCPTransport:
            conversation = await self.sockets["socket TCP"].connect()
            conversation.ask(octezsocket.public_key(str(TZ3))).addErrback(do_nothing)
            return conversation.transport

        for ask, listener, what in (
            (over_http, Listener.HTTP, f"GET /keys/{TZ3}"),
            (over_a_socket, Listener.OCTEZ_SOCKET, f"GetPublicKey {TZ3}"),
        ):
            transport = await ask()
            await asked.get()
            transport.abortConnection()
            decision = await left.get()
            self.assertEqual((decision.outcome, decision.status), (Outcome.LEFT, None))
            self.assertEqual((decision.listener, decision.what), (listener, what))
            self.assertEqual(str(decision.peer), "127.0.0.1")
