"""The short form of the campaign that compares `explain` with the daemon."""

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from tests.campaigns.explaining import campaign, disagreement
from tests.support.vectors import TZ3
from tezio_signer.cli.explanation import Explanation
from tezio_signer.decision import Decision, Outcome
from tezio_signer.errors import Forbidden, TooMany
from tezio_signer.request import Peer
from tezio_signer.rules.verdict import Answer, Stage, Verdict

RULES = {"address", "user", "reading", "key", "authentication", "chain", "operation", "rate"}
PASSED = Verdict(Stage.CHECK, "chain", Answer.PASSES)
REFUSED = Verdict(Stage.CHECK, "operation", Answer.REFUSES, "", "no", Forbidden("no"))
ASSUMED = Verdict(Stage.RESERVATION, "rate", Answer.ASSUMED)


class ExplainingTests(SynchronousTestCase):
    """Random configurations and payloads."""

    def test_agree(self) -> None:
        """What is explained is decided, in the same words, and each rule has refused something."""
        report = campaign(1000, 2)
        self.assertEqual(report.differing, [])
        self.assertLessEqual(RULES | {"watermark"}, set(report.refusals))
        self.assertGreater(report.signed, 200)
        self.assertGreater(report.stored, 10)


class DisagreementTests(SynchronousTestCase):
    """What counts as a disagreement."""

    def told(self, decision: Decision, *verdicts: Verdict) -> bool:
        """Whether these differ."""
        return bool(disagreement(Explanation(TZ3, Peer(), list(verdicts)), decision))

    def test_decisions(self) -> None:
        """Another outcome, rule, status, sentence or origin."""
        asked = Decision("a block", Peer(), device="a board")
        signed = evolve(asked, outcome=Outcome.SIGNED)
        refused = asked.refused(Forbidden("no").by("operation"))
        self.assertFalse(self.told(signed, PASSED, ASSUMED))
        self.assertFalse(self.told(refused, PASSED, REFUSED, ASSUMED))
        self.assertTrue(self.told(signed, PASSED, REFUSED))
        self.assertTrue(self.told(evolve(signed, device=None), PASSED))
        self.assertTrue(self.told(refused, PASSED))
        self.assertTrue(self.told(evolve(asked, outcome=Outcome.LEFT), PASSED))
        for change in ({"rule": "chain"}, {"status": 404}, {"sentence": "never"}):
            self.assertTrue(self.told(evolve(refused, **change), PASSED, REFUSED))

    def test_assumed(self) -> None:
        """What was taken for granted may refuse, unless another rule does so before."""
        refused = Decision("a block", Peer()).refused(TooMany("no").by("rate"))
        self.assertFalse(self.told(refused, PASSED, ASSUMED))
        self.assertFalse(self.told(refused, ASSUMED, REFUSED))
        self.assertTrue(self.told(refused, REFUSED, ASSUMED))
        self.assertTrue(self.told(refused, PASSED))
