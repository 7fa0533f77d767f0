"""A case for what is said of payloads, with a store and a configuration that a test may change."""

import json
from collections.abc import Mapping
from typing import Any

from yaml import safe_dump, safe_load

from tests.support.commandtest import CommandTestCase, Outcome
from tests.support.vectors import TZ3
from tezio_signer.watermarks.entry import NOTHING_SPENT, Spending
from tezio_signer.watermarks.rule import Mark, MarkId
from tezio_signer.watermarks.sqlite import store as sqlite
from tezio_signer.watermarks.sqlite.store import SqliteStore


class ExplainTestCase(CommandTestCase):
    """Has a store, and a configuration that a test may change."""

    def setUp(self) -> None:
        super().setUp()
        self.path = self.directory / "watermarks.sqlite"
        sqlite.create(self.path)

    def put(self, marks: dict[MarkId, Mark], spending: Spending = NOTHING_SPENT) -> None:
        """Put marks, and what was spent, into the store."""
        store = SqliteStore(self.path)
        store.replace(marks, spending)
        store.close()

    def configure(self, **changes: object) -> None:
        """Change the configuration."""
        self.config.write_text(safe_dump({**safe_load(self.config.read_text()), **changes}))

    def ask_for_authentication(self, **changes: object) -> None:
        """Have all keys ask for it; None for no auth key."""
        policy = safe_load(self.config.read_text())["policy"]
        for key in policy["signing_keys"].values():
            key["auth_req"] = True
        policy.update(changes)
        if policy["auth_key"] is None:
            del policy["auth_key"]
        self.configure(policy=policy)

    def explain(self, payload: bytes, *options: str, key: object = TZ3) -> Outcome:
        """What is said of a payload."""
        return self.run_command("explain", payload.hex(), "--key", str(key), *options)

    def decision(self, payload: bytes, *options: str, key: object = TZ3) -> Mapping[str, Any]:
        """What would be decided."""
        outcome = self.explain(payload, "--json", *options, key=key)
        (explained,) = json.loads(outcome.out)["keys"]
        self.assertEqual(outcome.code, 0 if explained["decision"]["signed"] else 1)
        self.assertEqual(outcome.err, "")
        decision: Mapping[str, Any] = explained["decision"]
        return decision
