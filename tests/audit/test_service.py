"""The audit log of a daemon: what is written, and who waits for it."""

import errno
import json
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from threading import Event
from typing import Any
from unittest import mock

from attrs import evolve
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock, deferLater
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import TestCase

from tests.support.auditlogs import NOON, decision
from tests.support.harness import (
    Harness,
    HeldHarness,
    failure_of,
    reactor,
    settings_with,
    submission,
)
from tests.support.octezclient import message_in
from tests.support.vectors import PAYLOADS, TZ3, block
from tezio_signer.audit import service
from tezio_signer.audit.chain import Head
from tezio_signer.audit.files import AuditFile, Written
from tezio_signer.audit.service import KEEP_SECONDS, LINES_PER_MINUTE, AuditLog
from tezio_signer.audit.verifying import Report, verify
from tezio_signer.decision import Decision, Outcome, Stage
from tezio_signer.errors import Malformed, NotAdmitted, StartupError, Unavailable
from tezio_signer.request import Listener, Peer

NOOP = PAYLOADS["noop"]
CANNOT = "the audit log cannot be written (No space left on device)"


class Disk:
    """What becomes of lines: they are written, are refused, or hang."""

    def __init__(self, test: TestCase) -> None:
        self.full = False
        self.hangs = Event()
        self.hangs.set()
        self.began = Event()
        self._append = AuditFile.append
        test.addCleanup(self.hangs.set)
        disk = self

        def append(file: AuditFile, entries: Any, sync: bool) -> Written:
            disk.began.set()
            disk.hangs.wait(20)
            if disk.full:
                return Written(0, "No space left on device", file.head)
            return disk._append(file, entries, sync)

        test.patch(AuditFile, "append", append)


class ServiceCase(TestCase):
    """An audit log with the real thread, on a disk that does what the test says."""

    timeout = 30

    def setUp(self) -> None:
        directory = Path(self.mktemp()).absolute()
        directory.mkdir()
        self.path = directory / "audit.jsonl"
        self.disk = Disk(self)
        self.clock = Clock()

    def start(self, required: bool = False, clock: Any = None) -> AuditLog:
        """Start a log, which is stopped at the end of the test."""
        log = AuditLog(
            self.path, required, clock or self.clock, reactor.callFromThread, lambda: NOON
        )
        log.startService()
        self.addCleanup(self.stop, log)
        return log

    async def stop(self, log: AuditLog) -> None:
        """Stop it, on a disk that is well."""
        self.disk.hangs.set()
        self.disk.full = False
        if log.running:
            await log.stopService()

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait for what the thread does."""
        while not condition():
            await deferLater(reactor, 0.001)

    async def idle(self, log: AuditLog) -> None:
        """Wait until the thread has done with everything so far."""
        await self.until(lambda: not log._writer._queue and not log._writer._writing)  # type: ignore[union-attr]

    def lines(self) -> list[dict[str, Any]]:
        """What is written so far."""
        return [json.loads(line) for line in self.path.read_bytes().split(b"\n")[:-1]]

    def decisions(self) -> list[dict[str, Any]]:
        """The lines of decisions."""
        return [line for line in self.lines() if line["kind"] == "decision"]

    def report(self) -> Report:
        """Whether the chain is whole."""
        with self.path.open("rb") as file:
            report = verify([("audit.jsonl", file)])
        self.assertEqual(list(map(str, report.wrong)), [])
        return report


class LinesTests(ServiceCase):
    """What is written."""

    async def test_life(self) -> None:
        """A file begins with a line of its own; each start and each stop has one."""
        for _ in range(2):
            log = self.start()
            log.decided(decision(1))
            await log.stopService()
        self.assertEqual(
            [line["kind"] for line in self.lines()],
            ["file", *["start", "decision", "stop"] * 2],
        )
        self.assertEqual(self.report().lines, 7)

    async def test_heads_are_logged(self) -> None:
        """The log of the daemon has the end of the chain at the start, at the stop and between."""
        self.patch(service, "LINES_PER_HEAD", 5)
        with capturedLogs() as events:
            log = self.start()
            for number in range(12):
                log.decided(decision(number))
                await self.until(lambda number=number: len(self.decisions()) > number)  # type: ignore[misc]
            await log.stopService()
        said = [formatEvent(event) or "" for event in events]
        heads = {Head.parse(line.rpartition(" ")[2]) for line in said if "line " in line}
        written = {Head(line["number"], line["hash"]) for line in self.lines()}
        self.assertEqual(heads - written, set())
        self.assertIn(f"the audit log {self.path} begins", said)
        self.assertIn(self.report().head, heads)
        self.assertEqual(len(heads), 3)

    async def test_fields(self) -> None:
        """A line has the facts of the decision, and nothing that it has not."""
        log = self.start()
        asked = Decision.on(submission(block(7, 2)))
        log.decided(evolve(asked, outcome=Outcome.SIGNED, milliseconds=152, device="A1B2"))
        log.decided(Decision("GET /nowhere", Peer(), Listener.HTTP, status=404))
        await log.stopService()
        signed, answered = self.decisions()
        for place in (signed, answered):
            for name in ("format", "number", "prev", "hash"):
                del place[name]
        self.assertEqual(
            signed,
            {
                "time": "2026-11-28T12:00:00.000Z",
                "kind": "decision",
                "listener": "http",
                "peer": "127.0.0.1",
                "key": str(TZ3),
                "operation": "block",
                "chain": "NetXdQprcVkpaWU",
                "level": 7,
                "round": 2,
                "what": f"block 7/2 for {TZ3}",
                "digest": blake2b(block(7, 2), digest_size=32).hexdigest(),
                "data": block(7, 2).hex(),
                "outcome": "signed",
                "stage": "request",
                "status": 200,
                "device": "A1B2",
                "milliseconds": 152,
            },
        )
        self.assertEqual(answered["what"], "GET /nowhere")
        self.assertEqual(answered["status"], 404)
        self.assertNotIn("key", answered)

    async def test_long_texts(self) -> None:
        """What a client can make long is cut, so that a line has a bounded length."""
        log = self.start()
        asked = Decision.on(submission(NOOP))
        log.decided(evolve(asked, data=b"\x03" * 60_000, what="x" * 90_000))
        await log.stopService()
        self.assertLess(self.path.stat().st_size, 5000)
        (line,) = self.decisions()
        self.assertNotIn("data", line)
        self.assertEqual(len(line["digest"]), 64)

    async def test_flood(self) -> None:
        """Who may not ask, or what cannot be read, has some lines a minute; the rest is counted.

        Each listener has as many.
        """
        log = self.start()
        stranger = Decision("a connection", Peer(), Listener.HTTP).refused(NotAdmitted("no"))
        unread = Decision("bytes", Peer(), Listener.OCTEZ_SOCKET).unanswered(Malformed("no"))
        for _ in range(LINES_PER_MINUTE + 500):
            log.decided(stranger)
            log.decided(evolve(stranger, listener=Listener.OCTEZ_SOCKET))
            log.decided(unread)
        log.decided(decision(2))
        self.clock.advance(61)
        log.decided(stranger)
        await log.stopService()
        lines = self.decisions()
        self.assertEqual(len(lines), 3 * LINES_PER_MINUTE + 2)
        self.assertEqual(LINES_PER_MINUTE, 60, "docs/audit.md says so")
        self.assertEqual(lines[-1]["left_out"], 500)
        self.assertEqual(stranger.stage, Stage.CONNECTION)

    async def test_rotation(self) -> None:
        """When it is told to reopen, the file with the name is there at once, with a line."""
        log = self.start()
        await self.until(self.path.exists)
        await self.until(lambda: len(self.lines()) == 2)
        older = self.path.rename(self.path.with_name("audit.jsonl.1"))
        log.reopen()
        await self.until(self.path.exists)
        await self.until(lambda: len(self.lines()) == 2)
        self.assertEqual([line["kind"] for line in self.lines()], ["file", "reopen"])
        self.assertEqual(self.lines()[0]["number"], 3)
        self.assertEqual(len(older.read_bytes().splitlines()), 2)

    async def test_cannot_start(self) -> None:
        """A file that another signer has keeps this one from starting."""
        self.start()
        error = self.assertRaises(StartupError, self.start)
        self.assertIn("in use by a running signer", str(error))


class UnrequiredTests(ServiceCase):
    """A log without which signing goes on."""

    async def test_lost_lines(self) -> None:
        """A full disk is logged once; the next line that is written says how many are lost."""
        with capturedLogs() as events:
            log = self.start()
            await self.until(lambda: self.path.exists() and len(self.lines()) == 2)
            self.disk.full = True
            for number in range(30):
                log.decided(decision(number))
            await self.idle(log)
            self.disk.full = False
            log.decided(decision(30))
            await log.stopService()
        kinds = [line["kind"] for line in self.lines()]
        self.assertEqual(kinds, ["file", "start", "lost", "decision", "stop"])
        lost = self.lines()[2]
        self.assertEqual((lost["lines"], lost["of"]), (30, {"refused": 10, "signed": 20}))
        self.report()
        said = [formatEvent(event) or "" for event in events]
        (cannot,) = [line for line in said if "cannot be written" in line]
        self.assertIn("No space left on device; the signer goes on without it", cannot)
        (again,) = [line for line in said if "written again" in line]
        self.assertIn("30 lines", again)

    async def test_hanging_disk(self) -> None:
        """A disk that hangs holds up no signature; too many lines are counted, not kept."""
        harness = Harness(settings_with())
        await harness.start(self)
        log = self.start(clock=reactor)
        harness.signer.decisions.add(log)
        await self.until(lambda: self.path.exists() and len(self.lines()) == 2)
        self.disk.hangs.clear()
        for level in range(5, 10):
            self.assertEqual((await harness.sign(TZ3, block(level, 0))).status, 200)
        self.assertEqual(self.decisions(), [])
        for number in range(12_000):
            log.decided(decision(number))
        self.disk.hangs.set()
        await log.stopService()
        lost = sum(line["lines"] for line in self.lines() if line["kind"] == "lost")
        self.assertGreater(lost, 1000)
        self.assertEqual(len(self.decisions()) + lost, 12_005)
        self.report()

    async def test_fault(self) -> None:
        """A fault of ours while writing is logged, and the thread goes on."""
        log = self.start()
        await self.until(lambda: self.path.exists() and len(self.lines()) == 2)
        with mock.patch.object(AuditFile, "append", side_effect=ZeroDivisionError):
            log.decided(decision(1))
            await self.until(lambda: log._trouble)
            await self.idle(log)
        log.decided(decision(2))
        await log.stopService()
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        kinds = [line["kind"] for line in self.lines()]
        self.assertEqual(kinds, ["file", "start", "lost", "decision", "stop"])

    async def test_stop_on_a_hanging_disk(self) -> None:
        """The daemon stops although its last lines cannot be written."""
        log = self.start()
        await self.until(lambda: self.path.exists() and len(self.lines()) == 2)
        self.disk.hangs.clear()
        stopping = log.stopService()
        self.assertNoResult(stopping)
        self.clock.advance(2)
        self.successResultOf(stopping)
        log.decided(decision(1))  # which is too late


class RequiredTests(ServiceCase):
    """A log without which nothing is signed."""

    async def harness(self, harness: Harness | None = None) -> Harness:
        """A whole signer with such a log."""
        self.harnessed = harness or Harness(settings_with())
        await self.harnessed.start(self)
        self.log = self.start(required=True, clock=reactor)
        self.harnessed.signer.decisions.require(self.log)
        await self.until(lambda: self.path.exists() and len(self.lines()) == 2)
        return self.harnessed

    async def test_one_line(self) -> None:
        """Each answer has one line, whether it was waited for or not."""
        harness = await self.harness()
        self.assertEqual((await harness.sign(TZ3, block(5, 0))).status, 200)
        self.assertEqual((await harness.sign(TZ3, block(5, 0, 9))).status, 409)
        await self.log.stopService()
        outcomes = [(line["outcome"], line["status"]) for line in self.decisions()]
        self.assertEqual(outcomes, [("signed", 200), ("refused", 409)])

    async def test_synced(self) -> None:
        """Lines are synced before anybody is told of them."""
        harness = await self.harness()
        with mock.patch("os.fdatasync", side_effect=OSError(errno.EIO, "broken")) as sync:
            answer = await harness.sign(TZ3, NOOP)
        sync.assert_called()
        self.assertEqual(answer.status, 502)
        self.assertIn("cannot be written (broken)", message_in(answer.body))

    async def test_waits_for_its_line(self) -> None:
        """A signature leaves when its line is written, and not before."""
        harness = await self.harness()
        self.disk.began.clear()
        self.disk.hangs.clear()
        answering = Deferred.fromCoroutine(harness.sign(TZ3, block(5, 0)))
        await self.until(self.disk.began.is_set)
        await deferLater(reactor, 0)
        self.assertNoResult(answering)
        self.assertEqual(self.decisions(), [])
        self.disk.hangs.set()
        self.assertEqual((await answering).status, 200)
        self.assertEqual(self.decisions()[0]["outcome"], "signed")

    async def test_full_disk(self) -> None:
        """What cannot be recorded is a 502 that says so; when it can be, it is signed."""
        harness = await self.harness()
        self.disk.full = True
        answer = await harness.sign(TZ3, block(5, 0))
        self.assertEqual(answer.status, 502)
        self.assertEqual(
            message_in(answer.body), f"{CANNOT}, and nothing is signed without it (audit.required)"
        )
        self.disk.full = False
        await self.log.keep(decision(1))  # whatever is written next
        answer = await harness.sign(TZ3, block(5, 0))
        self.assertEqual(answer.status, 200)
        await self.log.stopService()
        self.assertIn("lost", [line["kind"] for line in self.lines()])
        self.report()

    async def test_refuses_at_once(self) -> None:
        """Until a line could be written again, no board is asked; the refusal itself tries it."""
        harness = await self.harness()
        self.disk.full = True
        self.assertEqual((await harness.sign(TZ3, block(5, 0))).status, 502)
        harness.written.clear()
        self.assertEqual((await harness.sign(TZ3, block(6, 0))).status, 502)
        self.assertEqual(bytes(harness.written), b"")
        await self.idle(self.log)
        self.disk.full = False
        self.assertEqual((await harness.sign(TZ3, block(7, 0))).status, 502)
        await self.until(lambda: self.log._trouble is None)
        self.assertEqual((await harness.sign(TZ3, block(8, 0))).status, 200)
        self.assertEqual([line["rule"] for line in self.decisions()[:-1]], ["audit"])

    async def test_nothing_is_given_back(self) -> None:
        """A signature that was made and did not leave counts: its rate is not given back."""
        settings = settings_with()
        limits = evolve(settings.limits, signatures_per_minute=1)
        harness = await self.harness(Harness(evolve(settings, limits=limits)))
        await self.idle(self.log)  # else it may refuse for its own first line
        with mock.patch("os.fdatasync", side_effect=OSError(errno.EIO, "broken")):
            self.assertEqual((await harness.sign(TZ3, NOOP)).status, 502)
        await self.log.keep(decision(1))
        self.assertEqual((await harness.sign(TZ3, NOOP)).status, 429)

    async def test_too_late(self) -> None:
        """On a disk that hangs, there is a 502 within two seconds, and at once from then on."""
        log = self.start(required=True)
        await self.until(lambda: self.path.exists() and len(self.lines()) == 2)
        self.disk.hangs.clear()
        failing = failure_of(log.keep(decision(1)))
        self.clock.advance(KEEP_SECONDS - 0.1)
        self.assertNoResult(failing)
        self.clock.advance(0.2)
        error = self.successResultOf(failing)
        self.assertIsInstance(error, Unavailable)
        self.assertIn("was not written within 2 s", str(error))
        self.assertRaises(Unavailable, log.check)
        self.disk.hangs.set()
        await self.until(lambda: log._trouble is None)
        log.check()

    async def test_client_leaves(self) -> None:
        """A client that leaves while its line is written changes nothing of the line."""
        harness = HeldHarness()
        await self.harness(harness)
        asking = harness.signer.submit(submission(block(5, 0)))
        await harness.asked()
        self.disk.began.clear()
        self.disk.hangs.clear()
        harness.answer()
        await self.until(self.disk.began.is_set)
        asking.cancel()
        self.assertIsInstance(await failure_of(asking), CancelledError)
        self.disk.hangs.set()
        await self.log.stopService()
        outcomes = [line["outcome"] for line in self.decisions()]
        self.assertEqual(outcomes, ["signed", "left"])
