"""The short form of the campaign with other people's forgers, and what it would notice."""

from random import Random
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.campaigns.forgers import Report, Specification, examine, pytezos, run, taquito
from tests.campaigns.randomoperations import ANYTHING, KINDS, RandomOperations, forged
from tests.support.genericpayloads import integer, natural
from tests.support.operationjson import as_json
from tezio_signer.tezos import operations

Json = Any
_ROLLUP = "sr1Ghq66tYK9y3r8CC1Tf8i8m5nxh8nTvZEf"


def _groups(count: int) -> list[Json]:
    makes = RandomOperations(Random(count), ANYTHING)
    return [makes.group() for _ in range(count)]


def _transaction(**changed: str) -> Json:
    content = next(
        content
        for group in _groups(500)
        for content in group["contents"]
        if content["kind"] == "transaction" and "parameters" not in content
    )
    return {"branch": _groups(1)[0]["branch"], "contents": [{**content, **changed}]}


class ForgersTests(SynchronousTestCase):
    """Groups of random operations, forged by others."""

    timeout = 60

    def test_others(self) -> None:
        """What PyTezos and Taquito forge is what Octez would, and is decoded to what it is of."""
        report = run(300, seed=1)
        self.assertEqual(report.differences, [])
        for forger in (pytezos(), taquito()):
            missing = {kind for kind in forger.kinds if not report.operations[forger.name, kind]}
            self.assertEqual(missing, set(), forger.name)

    def test_every_kind(self) -> None:
        """Every kind that there is, as the layouts say, is decoded to what it is of."""
        report = Report()
        examine(report, Specification(), _groups(500))
        self.assertEqual(report.differences, [])
        self.assertEqual({kind for _, kind in report.operations}, set(KINDS))
        self.assertEqual(set(KINDS), operations.KINDS)

    def test_rollup_as_destination(self) -> None:
        """Both forgers send money to a smart rollup; Octez cannot read that, and we do not."""
        group = _transaction(destination=_ROLLUP)
        for forger in (pytezos(), taquito()):
            (answer,) = forger.forge([group])
            with self.assertRaises(operations.Undecodable) as raised:
                operations.decode(bytes.fromhex(answer), 1)
            self.assertIn("destination", str(raised.exception))

    def test_signed_number(self) -> None:
        """What Taquito 25 forges to pay for 128 bytes pays for 64, and is shown as that."""
        makes = RandomOperations(Random(1), ANYTHING)
        content = {"amount": "64"}
        while content.get("kind") != "increase_paid_storage":
            group = makes.group()
            content = group["contents"][0]
        group["contents"] = [{**content, "amount": "64"}]
        data = forged(group)
        self.assertEqual(natural(128), integer(64))
        self.assertEqual(data[-24:-22], natural(128))
        (decoded,) = as_json(operations.decode(data, 1))["contents"]
        self.assertEqual(decoded["amount"], "64")


class ReportTests(SynchronousTestCase):
    """What counts as a difference."""

    def setUp(self) -> None:
        self.group = _transaction(amount="1000000")
        self.report = Report()

    def _examine(self, answer: Json) -> list[str]:
        self.report.examine("somebody", self.group, answer)
        return self.report.differences

    def test_same(self) -> None:
        """What is forged and decoded rightly is none, and is counted."""
        self.assertEqual(self._examine(forged(self.group).hex()), [])
        self.assertEqual(self.report.groups["somebody"], 1)
        self.assertEqual(self.report.operations["somebody", "transaction"], 1)

    def test_another_amount(self) -> None:
        """Another amount is seen in the bytes, and in the fields with its name."""
        other = forged(_transaction(amount="1000001")).hex()
        bytes_differ, fields_differ = self._examine(other)
        self.assertIn("forged otherwise than the layouts, from byte ", bytes_differ)
        self.assertIn("group.contents[0].amount is '1000000', not '1000001'", fields_differ)

    def test_cut(self) -> None:
        """What is cut off is seen in the bytes, and is refused."""
        bytes_differ, refused = self._examine(forged(self.group)[:-1].hex())
        self.assertIn(f"from byte {len(forged(self.group)) - 1}: ", bytes_differ)
        self.assertIn("forged what is refused", refused)

    def test_error(self) -> None:
        """A forger that cannot forge what it was said to be able to is one, too."""
        (difference,) = self._examine({"error": "KeyError: 'reveal'"})
        self.assertIn("somebody cannot forge", difference)
        self.assertIn("KeyError: 'reveal'", difference)
