"""The parts of layouts: numbers, flags, signatures."""

from collections.abc import Mapping

from tests.support import genericpayloads as made
from tests.support.genericpayloads import BRANCH, CONTRACT, OTHER, sized
from tests.support.operationscase import (
    RECORDED,
    OperationsTestCase,
    one,
)
from tezio_signer.tezos.operations import (
    Mutez,
    Undecodable,
    decode,
)


class NumbersTests(OperationsTestCase):
    """Numbers are written in one way only."""

    def test_natural(self) -> None:
        """Every number has one form; a superfluous zero and an eleventh byte are refused."""
        for number in (0, 1, 127, 128, 16383, 16384, 2**63 - 1):
            content = one(made.transaction(number, counter=number, gas_limit=number))
            self.assertEqual(
                [content.fields[name] for name in ("amount", "counter", "gas_limit")], [number] * 3
            )
        self.assertEqual(one(made.transaction(counter=2**70 - 1)).fields["counter"], 2**70 - 1)
        self.refused(BRANCH + made.transaction(counter=2**70), "counter of more than 10 bytes")
        for amount in (2**63, 2**70 - 1):
            self.refused(BRANCH + made.transaction(amount), "amount", f"{amount} mutez, above 2^63")
        self.refused(BRANCH + made.transaction(fee=2**63), "fee", "above 2^63 - 1")
        head, tail = made.manager(0x6C), made.transaction(0)[len(made.manager(0x6C)) + 1 :]
        for form in (b"\x80\x00", b"\xff\x80\x00"):
            self.refused(BRANCH + head + form + tail, "amount with a superfluous zero")
        self.refused(BRANCH + head + b"\x80" * 3, "cut off in its amount")

    def test_integer(self) -> None:
        """A number with a sign has one form, and is not negative where the protocol wants none."""
        tail = made.contract(CONTRACT)
        head = BRANCH + made.manager(0x71)
        for number in (0, 1, 63, 64, 8191, 8192, 2**100):
            content = decode(head + made.integer(number) + tail).contents[0]
            self.assertEqual(content.fields["amount"], number)
        for data, words in (
            (b"\x40", "amount of minus zero"),
            (b"\xc0\x00", "amount with a superfluous zero"),
            (b"\x80\x00", "amount with a superfluous zero"),
            (made.integer(-1), "negative amount"),
            (made.integer(-(2**70)), "negative amount"),
            (b"\x80" * 1024 + b"\x01", "amount of more than 1024 bytes"),
        ):
            self.refused(head + data + tail, words)

    def test_long_numbers(self) -> None:
        """The longest number that is read can be written in decimal."""
        head = made.manager(0x9E) + sized(made.UNIT) * 2 + made.contract(CONTRACT)
        tail = made.contract(OTHER) + sized(b"do")
        content = one(head + made.natural(2 ** (7 * 1024) - 1) + tail)
        self.assertEqual(len(str(content.fields["ticket_amount"])), 2158)
        data = BRANCH + head + made.natural(2 ** (7 * 1024)) + tail
        self.refused(data, "ticket_amount of more than 1024 bytes")

    def test_levels(self) -> None:
        """A level, a round or a number of ticks is not negative; a period may be anything."""
        negative = b"\xff\xff\xff\xff"
        self.refused(BRANCH + b"\x01" + negative + bytes(32), "negative level: -1, at byte 34")
        rollup = made.manager(0xCB) + b"\x11" * 20 + bytes(32) + bytes(4) + bytes(32)
        self.refused(BRANCH + rollup + negative * 2, "negative number_of_ticks: -1")
        self.assertEqual(one(made.ballot(period=2**32 - 1)).fields["period"], -1)
        operations = made.manager(0xFA) + sized(b"") * 3
        low = 2**32 - 2**30
        for number, good in ((2**30 - 1, True), (2**30, False), (low, True), (low - 1, False)):
            data = operations + number.to_bytes(4, "big")
            if good:
                one(data)
            else:
                self.refused(BRANCH + data, "nb_ops of more than 31 bits")

    def test_flags(self) -> None:
        """What may be absent has 00 or ff in front, and nothing else."""
        head = BRANCH + made.manager(0x6E)
        for byte in range(1, 255):
            words = f"the delegation has 0x{byte:02X} in front of its delegate, where 00 or ff"
            self.refused(head + bytes([byte]) + made.key_hash(OTHER), words)

    def test_tez(self) -> None:
        """An amount of money is exact, and written in tez without superfluous zeros."""
        for mutez, text in (
            (0, "0 tez"),
            (1, "0.000001 tez"),
            (289, "0.000289 tez"),
            (2_000_000, "2 tez"),
            (2_500_000, "2.5 tez"),
            (10_000_001, "10.000001 tez"),
            (2**63 - 1, "9223372036854.775807 tez"),
            (-1_500_000, "-1.5 tez"),
        ):
            self.assertEqual(str(Mutez(mutez)), text)
            self.assertEqual(f"{Mutez(mutez)}", text)
            self.assertEqual(Mutez(mutez), mutez)

    def test_signatures(self) -> None:
        """An operation in evidence may have a signature of any curve, or none."""
        data = RECORDED["unsigned-double-attestation-evidence"]
        shown = data[39:114]
        found = []
        for length in (0, 63, 64, 65, 96, 2420):
            operation = sized(shown + bytes(length))
            try:
                (content,) = decode(data[:35] + operation * 2).contents
            except Undecodable as error:
                self.assertIn(f"signature of {length} bytes", str(error))
                continue
            operation_shown = content.fields["op1"]
            assert isinstance(operation_shown, Mapping)
            found.append((length, str(operation_shown["signature"])[:5]))
        self.assertEqual([length for length, _ in found], [0, 64, 96, 2420])
        self.assertEqual([text[:3] for _, text in found], ["Non", "sig", "BLs", "mds"])
