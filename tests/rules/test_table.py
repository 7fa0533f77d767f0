"""The table of rules, payloads, decisions and sentences, which is documentation too."""

from twisted.python.failure import Failure

from tests.support.deciding import DecidingTestCase
from tests.support.policytable import PAGE, SIGNED, Example, Row, Table
from tezio_signer.errors import Refused
from tezio_signer.policy import Policy
from tezio_signer.request import Peer, SigningRequest


class TableTests(DecidingTestCase):
    """What the page says is what the policy does."""

    def setUp(self) -> None:
        super().setUp()
        self.table = Table()

    def answered(self, policy: Policy, row: Row) -> tuple[str, str]:
        """What becomes of a row's payload, and what the client is told."""
        self.now = row.at
        try:
            request = SigningRequest.read(self.table.key, row.payload, Peer())
        except Refused as refused:
            return f"{refused.status} reading", str(refused)
        result: list[object] = []
        policy.decide(request).addBoth(result.append)
        if not isinstance(result[0], Failure):
            return SIGNED, ""
        why = result[0].value
        assert isinstance(why, Refused), result[0].getTraceback()
        return f"{why.status} {why.rule}", str(why)

    def differences(self, example: Example) -> list[str]:
        """Rows of an example that are answered otherwise than they say."""
        policy = self.policy(example.settings)
        found = []
        for row in example.rows:
            answer = self.answered(policy, row)
            if answer != (row.answer, row.sentence):
                found.append(f"{example.title}: {row.asked}: {answer[0]}: {answer[1]}")
        return found

    def test_rows(self) -> None:
        """Each payload gets its answer, by its rule and in its words, under the rules above it."""
        self.assertEqual([line for e in self.table.examples for line in self.differences(e)], [])

    def test_enough(self) -> None:
        """Each rule refuses something and lets something of its example pass."""
        rows = [row for example in self.table.examples for row in example.rows]
        self.assertGreaterEqual(len(rows), 80)
        refusing = {row.answer.partition(" ")[2] for row in rows} - {""}
        (example, *_) = self.table.examples
        policy = self.policy(example.settings)
        asked = {rule.name for rule in policy.checks} | {rule.name for rule in policy.reservations}
        self.assertEqual(asked - refusing, {"key", "authentication", "chain", "size", "watermark"})

    def test_page(self) -> None:
        """The page is made anew when the table changes: `make page`."""
        self.assertEqual(PAGE.read_text("utf-8"), self.table.page())
