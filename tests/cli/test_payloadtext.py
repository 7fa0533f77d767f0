"""What a payload is, as `explain` shows it."""

import json
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.support.operationpayloads import payload_of
from tests.support.vectors import MORE_PAYLOADS, OPERATIONS, PAYLOADS, TZ3, consensus
from tezio_signer.cli.payloadtext import payload_json, payload_lines
from tezio_signer.cli.wrapping import COLUMNS, wrapped
from tezio_signer.tezos import jsontext

BRANCH = bytes(range(32))
DEEP = b"\x05" + b"\x05\x05" * 5000 + b"\x03\x0b"  # Left (Left (… Unit))


def said(data: bytes) -> Any:
    """The JSON of a payload, written and read."""
    return json.loads(jsontext.dumps(payload_json(data)))


def text(data: bytes) -> str:
    """The lines of a payload."""
    return "\n".join(payload_lines(data))


class PayloadTests(SynchronousTestCase):
    """Payloads of all kinds."""

    def test_every_vector(self) -> None:
        """Each has lines that fit, without anything that a terminal would obey, and JSON."""
        recorded = [*PAYLOADS.values(), *(bytes.fromhex(p["hex"]) for p in MORE_PAYLOADS)]
        recorded += [b"\x03" + bytes.fromhex(operation) for operation in OPERATIONS.values()]
        for data in recorded:
            lines = list(payload_lines(data))
            self.assertLessEqual(max(map(len, lines)), COLUMNS)
            self.assertTrue(all(line.isprintable() for line in lines), lines)
            self.assertEqual(bytes.fromhex(said(data)["hex"]), data)

    def test_transfer(self) -> None:
        """Each field of an operation, amounts in tez for people and in mutez for programs."""
        lines = [line.split() for line in payload_lines(PAYLOADS["transfer"])]
        self.assertIn(["operation", "transaction"], lines)
        self.assertIn(["amount", "1", "tez"], lines)
        self.assertIn(["entrypoint", "default"], lines)
        self.assertIn(["value", "none"], lines)
        (content,) = said(PAYLOADS["transfer"])["contents"]
        self.assertEqual(content["kind"], "transaction")
        self.assertEqual((content["amount"], content["value"]), ("1000000", None))
        self.assertIn(["source", content["source"]], lines)

    def test_staking(self) -> None:
        """What stakes is of a kind of its own for the rules, which is said beside Octez' name."""
        stakes = {"kind": "transaction", "destination": str(TZ3), "entrypoint": "stake"}
        lines = [line.split() for line in payload_lines(payload_of(stakes))]
        self.assertIn(["operation", "transaction", "(stake)"], lines)

    def test_batch(self) -> None:
        """Operations of a group are numbered."""
        one = PAYLOADS["transfer"][33:]
        batch = b"\x03" + BRANCH + one * 2
        lines = [line.strip() for line in payload_lines(batch)]
        self.assertIn("operation 1 of 2    transaction", lines)
        self.assertIn("operation 2 of 2    transaction", lines)
        self.assertEqual(len(said(batch)["contents"]), 2)

    def test_noop(self) -> None:
        """Bytes that are a text are shown as one, with escapes; others are not."""
        for arbitrary, words in (
            (b"hello", "68656c6c6f ('hello')"),
            ("é".encode(), "c3a9 ('\\xe9')"),
            (b"\x1b[2J", "1b5b324a"),
            (b"\xff", "ff"),
            (b"", "empty"),
        ):
            payload = b"\x03" + BRANCH + b"\x11" + len(arbitrary).to_bytes(4, "big") + arbitrary
            (line,) = (line for line in payload_lines(payload) if "arbitrary" in line)
            self.assertEqual(line.split(maxsplit=1)[1], words)
        long = b"\x03" + BRANCH + b"\x11" + (2000).to_bytes(4, "big") + b"a" * 2000
        self.assertIn("… (2000 bytes)", text(long))

    def test_attestation(self) -> None:
        """What a baker signs, with hashes as Octez writes them."""
        fields = said(consensus("att_dal_5", 7, 2))
        self.assertEqual((fields["level"], fields["round"], fields["slot"]), (7, 2, 42))
        self.assertEqual(fields["dal_content"], "05")
        self.assertTrue(fields["branch"].startswith("BK"))
        self.assertTrue(fields["block_payload_hash"].startswith("vh"))

    def test_not_understood(self) -> None:
        """Contents that no protocol has are said to be so, and where."""
        payload = b"\x03" + BRANCH + b"\xf0\x01"
        self.assertIn("unknown kind 0xF0, at byte 33", " ".join(text(payload).split()))
        self.assertIsNone(said(payload)["contents"])
        self.assertIn("unknown kind 0xF0", said(payload)["error"])

    def test_unreadable(self) -> None:
        """What cannot be signed at all has a size, a digest and the reason."""
        for payload in (b"", b"\x01", b"\xff\xff", PAYLOADS["att"][:-1]):
            self.assertIn("that cannot be signed: ", text(payload))
            self.assertIsNone(said(payload)["operation"])

    def test_michelson(self) -> None:
        """Packed data are shown as Michelson; nested deeper than Python can follow, too."""
        packed = b"\x05\x07\x07\x00\x01\x01\x00\x00\x00\x01a"  # Pair 1 "a"
        self.assertIn('Pair 1 "a"', text(packed))
        self.assertEqual(
            said(packed)["value"], {"prim": "Pair", "args": [{"int": "1"}, {"string": "a"}]}
        )
        self.assertIn("Left (Left (", text(DEEP))
        self.assertIn('{"prim": "Unit"}', jsontext.dumps(payload_json(DEEP)))

    def test_large_numbers(self) -> None:
        """Numbers that readers of JSON would round are text, as in Octez."""
        recorded = [b"\x03" + bytes.fromhex(operation) for operation in OPERATIONS.values()]
        for data in [*recorded, DEEP]:
            self.assertEqual(_numbers_above(payload_json(data), 2**53), [])

    def test_wrapping(self) -> None:
        """A name that fills its column, and a text that is none, are lines too."""
        self.assertEqual(wrapped("", "  name  ", "    "), ["  name"])
        self.assertEqual(wrapped("a " * 60, "name ", "    ")[1][:6], "    a ")


def _numbers_above(value: Any, most: int) -> list[int]:
    waiting, found = [value], []
    while waiting:
        one = waiting.pop()
        if isinstance(one, int) and abs(one) > most:
            found.append(one)
        elif isinstance(one, dict):
            waiting += one.values()
        elif isinstance(one, list | tuple):
            waiting += one
    return found
