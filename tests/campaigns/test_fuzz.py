"""The short form of the fuzzing, whose inputs are always the same ones."""

from pathlib import Path
from random import Random
from time import process_time

from twisted.trial.unittest import SynchronousTestCase

from tests.campaigns.fuzz import MOST_SECONDS, TARGETS, Examination, at_random
from tests.campaigns.fuzzframes import FramesTarget
from tests.campaigns.fuzzhttp import HttpTarget
from tests.campaigns.fuzzlistener import Manner
from tests.campaigns.fuzzoperations import MichelineTarget, OperationsTarget
from tests.campaigns.fuzztargets import Wrong
from tests.campaigns.wellformed import Ask, asked_over_http, asked_over_socket
from tests.support import octezclient, octezsocketclient
from tests.support.genericpayloads import OTHER, drain_delegate, payload
from tests.support.vectors import AUTH, PAYLOADS, TZ1, TZ2, TZ3
from tezio_signer.tezos import kinds, layout, operations
from tezio_signer.tezos.keys import PublicKeyHash


class FuzzTests(SynchronousTestCase):
    """Whatever comes from outside has an answer, in time, and nothing wrong is signed."""

    timeout = 120

    def _fuzz(self, name: str, inputs: int, outcomes: int) -> None:
        """Fuzz a target; the outcomes show that the inputs do not all end at the first check."""
        directory = Path(self.mktemp())
        directory.mkdir()
        report = at_random(TARGETS[name][0](directory), inputs, seed=1)
        self.assertEqual(report.findings, {})
        self.assertTrue(report.passed, report.grown)
        self.assertEqual(report.inputs, inputs)
        self.assertGreater(len(report.outcomes), outcomes)

    def test_payload(self) -> None:
        """Payloads are decoded to what they are by another reading, or are a ValueError."""
        self._fuzz("payload", 30_000, 60)

    def test_operations(self) -> None:
        """Groups of operations are encoded again to the same bytes, or are Undecodable."""
        self._fuzz("operations", 8_000, 300)

    def test_micheline(self) -> None:
        """So is Micheline, or it is a ValueError; its text is a line that nothing else has."""
        self._fuzz("micheline", 8_000, 25)

    def test_frames(self) -> None:
        """Every request on a socket has its answer, and what is none ends the connection."""
        self._fuzz("frames", 4000, 500)

    def test_http(self) -> None:
        """Every HTTP request has its answer, which is never a fault."""
        self._fuzz("http", 4000, 140)

    def test_config(self) -> None:
        """Any file is settings, or a ConfigError of one line."""
        self._fuzz("config", 3000, 60)


class OperationsTargetTests(SynchronousTestCase):
    """What the targets of operations notice."""

    def test_seeds(self) -> None:
        """All recorded operations, and made ones of every kind, are decoded."""
        target = OperationsTarget()
        kinds = {kind for seed in target.seeds for kind in target.run(seed).split()}
        self.assertEqual(kinds, operations.KINDS)
        expressions = MichelineTarget()
        for seed in expressions.seeds:
            self.assertEqual(expressions.run(seed), f"Micheline {seed[0]:02X}")

    def test_another_form(self) -> None:
        """It is a finding if the decoder takes what Octez would write otherwise."""
        whole = operations.decode
        branch, transfer = bytes(32), PAYLOADS["transfer"][1:]
        for data, decode in (
            (transfer + b"\x00", lambda data, offset: whole(data[:-1], offset)),
            (branch + transfer[32:], lambda _, offset: whole(transfer, offset)),
        ):
            self.patch(operations, "decode", decode)
            with self.assertRaises(Wrong):
                OperationsTarget().run(data)

    def test_planted_bugs(self) -> None:
        """A decoder that takes Unit for `default`, or any byte for ff, is found out."""
        for module, name, bug in (
            (kinds, "_UNIT", b""),
            (kinds, "flag", lambda reader, field: reader.number(1, field) != 0),
            (layout, "flag", lambda reader, field: reader.number(1, field) != 0),
        ):
            patch = self.patch(module, name, bug)
            self.assertTrue(self._is_found(), (module, name))
            patch.restore()

    def _is_found(self) -> bool:
        target, random = OperationsTarget(), Random(1)
        for _ in range(50_000):
            try:
                target.run(target.made(random, random.choice(target.seeds)))
            except Wrong:
                return True
        return False


class _Failing:
    """A target on which an input may have every kind of finding.

    :ivar memory: bytes that were ever in use.
    """

    seeds = (b"",)
    tokens = ()
    longest = 5
    memory = 1 << 20

    def made(self, random: Random, data: bytes) -> bytes:
        return data

    def run(self, data: bytes) -> str:
        match data:
            case b"error":
                raise KeyError("what nobody declared")
            case b"slow":
                until = process_time() + 2 * MOST_SECONDS
                while process_time() < until:
                    pass
            case b"large":
                self.memory = 65 << 20
        return "done"


class ExaminationTests(SynchronousTestCase):
    """What counts as a finding."""

    def setUp(self) -> None:
        target = _Failing()
        self.examination = Examination(target, 10, lambda: target.memory)

    def test_findings(self) -> None:
        """An error, too much time and too much memory are found, each with its input."""
        for data, words in (
            (b"error", "KeyError at test_fuzz.py"),
            (b"slow", "took 0."),
            (b"large", "took 64 MiB"),
        ):
            self.setUp()
            self.examination.examine(data)
            ((what, digits),) = self.examination.report.findings.items()
            self.assertIn(words, what)
            self.assertEqual(bytes.fromhex(digits), data)

    def test_good_input(self) -> None:
        """What is answered in time is no finding, and new the first time only."""
        self.assertTrue(self.examination.examine(b"good"))
        self.assertFalse(self.examination.examine(b"good"))
        self.assertEqual(self.examination.report.findings, {})


class AskedTests(SynchronousTestCase):
    """The reading that the listeners are held to."""

    def test_seeds(self) -> None:
        """Recorded connections have signed exactly what they are read to ask for."""
        for target, asked_in, least in (
            (HttpTarget(), asked_over_http, 5),
            (FramesTarget(), asked_over_socket, 4),
        ):
            asking = 0
            for data in target.seeds:
                expected = set(asked_in(data))
                asking += bool(expected)
                asked = target.listener.connect(data, Manner.PATIENT).asked
                self.assertEqual(set(asked), expected, data)
            self.assertGreaterEqual(asking, least)

    def test_what_is_not_allowed(self) -> None:
        """Whoever asks for another key's operation, or does not authenticate, asks for nothing."""
        noop, block = PAYLOADS["noop"], PAYLOADS["block_unlocked_nononce_on"]
        self.assertEqual(self._asked(TZ1, noop), [(str(TZ1), noop)])
        for key, data in (
            (TZ1, block),
            (TZ2, noop),
            (TZ3, noop),
            (AUTH, noop),
            (TZ1, b"\x04" + noop[1:]),
            (TZ1, noop[:-1]),
            (TZ1, noop + b"\x00"),
            (TZ1, PAYLOADS["transfer"]),  # of another account
            (TZ1, payload(drain_delegate(str(TZ1), str(TZ1), OTHER))),
            (TZ3, block[:-1]),
            (TZ3, block[:4] + b"\x00" + block[5:]),
            (TZ3, PAYLOADS["bls_att"]),
        ):
            self.assertEqual(self._asked(key, data), [], data)

    def _asked(self, key: PublicKeyHash, payload: bytes) -> list[Ask]:
        asked = asked_over_http(octezclient.post("h", f"/keys/{key}", payload))
        frame = octezsocketclient.framed(octezsocketclient.sign(str(key), payload))
        self.assertEqual(asked, asked_over_socket(frame))
        return asked
