"""What a line of the log says of a group of operations."""

from tests.support import genericpayloads as made
from tests.support.genericpayloads import BRANCH, CONTRACT, OTHER, SOURCE, sized
from tests.support.operationscase import (
    RECORDED,
    ROLLUP,
    OperationsTestCase,
)
from tezio_signer.tezos.operations import (
    Mutez,
    decode,
    summary,
)


class SummaryTests(OperationsTestCase):
    """The line of the log."""

    def says(self, text: str, *contents: bytes) -> None:
        """A group has this summary."""
        self.assertEqual(summary(decode(BRANCH + b"".join(contents))), text)

    def test_single(self) -> None:
        """One operation says what it does, with whole addresses and the fee."""
        fee = ", fee 0.000404 tez"
        transfer = made.transaction
        called = transfer(3_000_000, CONTRACT, call="default", value=b"\x00\x05")
        for text, data in (
            (f"transaction of 2 tez to {OTHER}{fee}", transfer(2_000_000)),
            (f"call of {CONTRACT}%mint with 0 tez{fee}", transfer(0, CONTRACT, call="mint")),
            (f"call of {CONTRACT}%default with 3 tez{fee}", called),
            (f"stake of 100 tez{fee}", transfer(100_000_000, SOURCE, call="stake")),
            (f"unstake of 5 tez{fee}", transfer(5_000_000, SOURCE, call="unstake")),
            (f"finalize_unstake{fee}", transfer(0, SOURCE, call="finalize_unstake")),
            (f"call of {OTHER}%stake with 1 tez{fee}", transfer(call="stake")),
            (f"delegation to {OTHER}{fee}", made.delegation()),
            (f"end of the delegation{fee}", made.delegation(None)),
            (f"end of the deposits limit{fee}", made.manager(0x70) + b"\x00"),
            (f"set_deposits_limit of 0.000005 tez{fee}", made.manager(0x70) + b"\xff\x05"),
            (f"ballot nay on {made.PROTOCOL}", made.ballot(1)),
            (f"proposals of {made.PROTOCOL}", made.proposals(made.PROTOCOL)),
            (f"drain_delegate of {OTHER} to {SOURCE}", made.drain_delegate(SOURCE, OTHER, SOURCE)),
            (f"smart_rollup_cement of {ROLLUP}{fee}", made.manager(0xCA) + b"\x11" * 20),
            ("seed_nonce_revelation of level 9", b"\x01" + bytes(3) + b"\x09" + bytes(32)),
        ):  # fmt: skip
            self.says(text, data)

    def test_text(self) -> None:
        """What the text of a failing_noop says cannot pass for the log's own words."""
        for data, shown in (
            (b"hello", "'hello'"),
            (b"it's\n2026 signed", '"it\'s\\n2026 signed"'),
            ("é\u202e\x1b[0m".encode(), "'\\xe9\\u202e\\x1b[0m'"),
            (b"\xff\x00", "0xff00"),
            (b"", "''"),
        ):
            self.says(f"failing_noop {shown}", made.failing_noop(data))
        for data in (b"x" * 5000, b"\xff" * 5000, "\N{GRINNING FACE}".encode() * 500):
            text = summary(decode(BRANCH + made.failing_noop(data)))
            self.assertEqual((len(text), text[-3:]), (300, "..."))

    def test_batch(self) -> None:
        """A batch names its operations, and the sum of the fees."""
        self.says(
            f"2 operations: transaction of 1 tez to {OTHER}; delegation to {OTHER}; fees "
            "0.000808 tez",
            made.transaction(),
            made.delegation(),
        )
        self.says(
            "40 operations: "
            + f"transaction of 1 tez to {OTHER}; " * 4
            + "and 36 more; fees 0.01616 tez",
            *[made.transaction()] * 40,
        )

    def test_exactly(self) -> None:
        """A batch is told completely if that takes 300 letters, and cut if it takes more."""
        lengths = set()
        for digits in range(30):
            amounts = [10 ** (6 + digits // 4 + (place < digits % 4)) for place in range(4)]
            told = "; ".join(f"transaction of {Mutez(each)} to {OTHER}" for each in amounts)
            whole = f"4 operations: {told}; fees 0.001616 tez"
            said = summary(decode(BRANCH + b"".join(map(made.transaction, amounts))))
            if len(whole) <= 300:
                self.assertEqual(said, whole)
            else:
                self.assertIn("; and ", said)
            lengths.add(len(whole))
        self.assertLess({299, 300, 301}, lengths)

    def test_bounded(self) -> None:
        """However much there is, a summary has at most 300 letters, all printable ASCII."""
        long_key = made.reveal(b"\x04" + bytes(1312))
        ticket = (
            made.manager(0x9E) + sized(made.UNIT) * 2 + made.contract(CONTRACT)
            + made.natural(2**7000) + made.contract(OTHER) + sized(b"x" * 31)
        )  # fmt: skip
        for contents in (
            [long_key],
            [long_key] * 3,
            [made.transaction(), long_key],
            [ticket],
            [ticket, made.transaction(), ticket],
            [made.proposals(*[made.PROTOCOL] * 20)],
            *([made.transaction(fee=2**62)] * n for n in range(1, 12)),
            *([made.delegation(None)] * n for n in range(1, 40)),
        ):
            text = summary(decode(BRANCH + b"".join(contents)))
            self.assertLessEqual(len(text), 300)
            self.assertTrue(text.isascii() and text.isprintable(), text)
        self.assertIn(f"transfer_ticket to {OTHER}%{'x' * 31}, ", summary(decode(BRANCH + ticket)))

    def test_every_kind(self) -> None:
        """Each recorded operation has a summary, which names its kind or what it does."""
        for name, data in RECORDED.items():
            group = decode(data)
            text = summary(group)
            self.assertTrue(3 < len(text) <= 300, name)
