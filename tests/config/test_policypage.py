"""`docs/policy.md` is true: its kinds are those that there are, and its rules can be written so."""

import re
from pathlib import Path

from attrs import fields
from twisted.trial.unittest import SynchronousTestCase

from tests.support.pages import documents, section
from tests.support.vectors import AUTH
from tezio_signer.config.document import settings_from
from tezio_signer.config.fields import parse
from tezio_signer.config.operations import NAMED_ONLY, OperationRules, operation_rules
from tezio_signer.startup.spending import spending
from tezio_signer.tezos.operations import KINDS, STAKING
from tezio_signer.tezos.payload import Operation

PAGE = documents()["docs/policy.md"]


def quoted(text: str) -> list[str]:
    """What stands in backquotes."""
    return re.findall(r"`([^`]+)`", text)


class PageTests(SynchronousTestCase):
    """What a baker reads there."""

    def test_kinds(self) -> None:
        """Each kind is in the table once; those that have to be named are told apart."""
        rows = section(PAGE, "All kinds").text
        firsts = [row.split("|")[1] for row in rows.splitlines() if row.startswith("|")]
        kinds = [kind for first in firsts for kind in quoted(first)]
        self.assertEqual(sorted(kinds), sorted({*KINDS, *STAKING}))
        named = rows.partition("**have to be named**")[2].partition("**valid without")[0]
        self.assertEqual(NAMED_ONLY.intersection(quoted(named)), NAMED_ONLY)
        self.assertNotIn("`transaction`", named)

    def test_needs(self) -> None:
        """Each line of the first table has names of operations, kinds and rules that there are."""
        rows = [
            row.split("|")[1:-1]
            for row in section(PAGE, "What your key needs").text.splitlines()
            if row.startswith("| ") and "`allowed_ops`" not in row
        ]
        self.assertGreater(len(rows), 8)
        rules: set[str] = set()
        for _, operations, kinds, limits in rows:
            for name in quoted(operations):
                Operation[name.upper()]
            if quoted(kinds):
                operation_rules(parse(f"kinds: [{', '.join(quoted(kinds))}]", ""))
            rules.update(limit.partition(":")[0] for limit in quoted(limits))
        self.assertLessEqual(rules - {"chains"}, {field.name for field in fields(OperationRules)})

    def test_example(self) -> None:
        """The example is one of which nothing has to be warned."""
        (example,) = section(PAGE, "What a generic operation may contain").blocks("yaml")
        settings = settings_from(parse(f"{example}    auth_key: {{pkh: {AUTH}}}", ""), Path("/"))
        self.assertIsNotNone(settings.store)
        self.assertEqual(spending(settings), [])
