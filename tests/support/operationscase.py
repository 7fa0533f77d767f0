"""Recorded generic operations, and assertions on what is decoded of bytes."""

from collections.abc import Mapping
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.support.genericpayloads import BRANCH, SOURCE
from tests.support.octezclient import to_base58check
from tests.support.vectors import MORE_PAYLOADS, OCTEZ, OPERATIONS
from tezio_signer.tezos.operations import Content, Mutez, Undecodable, Value, decode

RECORDED: dict[str, bytes] = {
    **{n: bytes.fromhex(text) for n, text in OPERATIONS.items() if "block_header" not in n},
    **{p["name"]: bytes.fromhex(p["hex"])[1:] for p in OCTEZ["payloads"] if "level" not in p},
    **{
        f"more {at}": bytes.fromhex(p["hex"])[1:]
        for at, p in enumerate(MORE_PAYLOADS)
        if p["kind"] == "generic"
    },
}
"""All recorded operations by name, branch first. The block header among them is none."""
ROLLUP = to_base58check(bytes.fromhex("067c75"), b"\x11" * 20)
COMMITMENT = to_base58check(bytes.fromhex("11a5868a"), b"\x22" * 32)
STATE = to_base58check(bytes.fromhex("11a5ebf0"), b"\x33" * 32)
PAYLOAD_HASH = to_base58check(bytes.fromhex("016af2"), bytes(32))
HEADER: dict[str, object] = {
    "source": SOURCE,
    "fee": Mutez(404),
    "counter": 2,
    "gas_limit": 1521,
    "storage_limit": 257,
}
"""The fields of what `genericpayloads.manager` makes."""


def one(data: bytes) -> Content:
    """The only operation of these bytes, which have no branch."""
    (content,) = decode(BRANCH + data).contents
    return content


def plain(value: Value) -> Any:
    """A value with dictionaries, and Michelson as text."""
    if isinstance(value, Mapping):
        return {name: plain(each) for name, each in value.items()}
    if isinstance(value, tuple):
        return [plain(each) for each in value]
    return value if isinstance(value, (int, str, bytes)) or value is None else str(value)


class OperationsTestCase(SynchronousTestCase):
    """Assertions on operations."""

    def refused(self, data: bytes, *words: str) -> Undecodable:
        """These bytes, branch first, are refused in these words."""
        with self.assertRaises(Undecodable) as raised:
            decode(data, 1)
        for word in words:
            self.assertIn(word, str(raised.exception))
        error: Undecodable = raised.exception
        return error

    def holds(self, data: bytes, kind: str, **fields: object) -> None:
        """These bytes, without a branch, are one operation with exactly these fields."""
        content = one(data)
        self.assertEqual((content.kind, plain(content.fields)), (kind, fields))
        self.assertEqual(list(content.fields), list(fields))
