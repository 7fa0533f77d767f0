"""JSON text, of values that the `json` module can write and of deeper ones."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tezio_signer.tezos.jsontext import Json, dumps

_LEAVES = st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False)


class DumpsTests(SynchronousTestCase):
    """The same text as that of the `json` module."""

    @given(
        st.recursive(
            _LEAVES, lambda it: st.lists(it) | st.dictionaries(st.text(), it) | st.tuples(it, it)
        )
    )
    def test_same(self, value: Any) -> None:
        """It differs in nothing from what `json.dumps` writes."""
        self.assertEqual(dumps(value), json.dumps(value))

    def test_deep(self) -> None:
        """Nesting has no limit."""
        value: Json = "within"
        for _ in range(50_000):
            value = {"a": [value]}
        self.assertEqual(dumps(value), '{"a": [' * 50_000 + '"within"' + "]}" * 50_000)
