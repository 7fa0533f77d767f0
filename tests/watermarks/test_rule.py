"""The watermark rule: what was signed before decides what may be signed now."""

from typing import cast

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from tests.support.vectors import PAYLOADS, TZ1, TZ3
from tezio_signer.errors import Conflict
from tezio_signer.tezos.keys import Curve, Signature
from tezio_signer.tezos.payload import Baking, Operation, decode
from tezio_signer.watermarks.rule import NO_PAYLOAD, Mark, MarkId, judge, settle

MAINNET = "NetXdQprcVkpaWU"
BLOCK = MarkId(MAINNET, TZ3, Operation.BLOCK)
ONE, OTHER = b"\x01" * 32, b"\x02" * 32
SIGNED = Mark(100, 2, ONE, Signature(Curve.P256, bytes(64)))
UNSIGNED = Mark(100, 2, ONE)
NEW, STANDING = "the new mark", "the standing mark"

# Octez's own table (`bin_signer/handler.ml`), with one difference: what was claimed for
# a payload, but got no signature, may be claimed for that payload again.
CASES: list[tuple[str, Mark | None, tuple[int, int, bytes], str]] = [
    ("no entry", None, (0, 0, ONE), NEW),
    ("no entry", None, (100, 2, ONE), NEW),
    ("higher level", SIGNED, (101, 2, OTHER), NEW),
    ("higher level, lower round", SIGNED, (101, 0, OTHER), NEW),
    ("higher level, higher round", SIGNED, (2**31 - 1, 2**31 - 1, OTHER), NEW),
    ("higher level, same payload", SIGNED, (101, 2, ONE), NEW),
    ("higher round", SIGNED, (100, 3, OTHER), NEW),
    ("higher round, same payload", SIGNED, (100, 3, ONE), NEW),
    ("again", SIGNED, (100, 2, ONE), STANDING),
    ("again, not signed", UNSIGNED, (100, 2, ONE), STANDING),
    ("other payload", SIGNED, (100, 2, OTHER), "already signed with different data"),
    ("other payload, not signed", UNSIGNED, (100, 2, OTHER), "different data"),
    ("lower round", SIGNED, (100, 1, ONE), "not above the high watermark, level 100 round 2"),
    ("lower round, not signed", UNSIGNED, (100, 1, ONE), "not above the high watermark"),
    ("lower level", SIGNED, (99, 2, OTHER), "not above the high watermark, level 100 round 2"),
    ("lower level, higher round", SIGNED, (99, 7, OTHER), "not above the high watermark"),
    ("lower level, same payload", SIGNED, (99, 2, ONE), "not above the high watermark"),
    ("lower level, not signed", UNSIGNED, (99, 7, ONE), "not above the high watermark"),
    ("nothing but zero", SIGNED, (0, 0, ONE), "not above the high watermark"),
]
FLOORS: list[tuple[str, Mark | None, tuple[int, int], tuple[int, int, bytes], str]] = [
    ("above in level", None, (100, 2), (101, 0, ONE), NEW),
    ("above in round", None, (100, 2), (100, 3, ONE), NEW),
    ("on it", None, (100, 2), (100, 2, ONE), "not above the configured floor, level 100 round 2"),
    ("below in round", None, (100, 2), (100, 1, ONE), "not above the configured floor"),
    ("below in level", None, (100, 2), (99, 9, ONE), "not above the configured floor"),
    ("a level without a round", None, (100, 0), (100, 0, ONE), "not above the configured floor"),
    ("a level without a round", None, (100, 0), (100, 1, ONE), NEW),
    ("a round without a level", None, (0, 1), (0, 1, ONE), "not above the configured floor"),
    ("a round without a level", None, (0, 1), (0, 2, ONE), NEW),
    ("none", None, (0, 0), (0, 0, ONE), NEW),
    ("below the mark", SIGNED, (50, 0), (99, 0, ONE), "not above the high watermark"),
    ("below the mark", SIGNED, (50, 0), (101, 0, ONE), NEW),
    ("over the mark", SIGNED, (150, 0), (120, 0, ONE), "not above the configured floor"),
    ("over the mark, again", SIGNED, (150, 0), (100, 2, ONE), "not above the configured floor"),
]
# A mark, a floor, the position asked for, and whether a jump of at most ten levels reaches it.
JUMPS: list[tuple[str, Mark | None, tuple[int, int], tuple[int, int, bytes], str]] = [
    ("just near enough", SIGNED, (0, 0), (110, 9, OTHER), NEW),
    (
        "one too far",
        SIGNED,
        (0, 0),
        (111, 0, OTHER),
        "11 levels above the high watermark, level 100",
    ),
    ("the highest level", SIGNED, (0, 0), (2**31 - 1, 0, OTHER), "max_level_jump is 10"),
    ("not signed either", UNSIGNED, (0, 0), (111, 0, ONE), "11 levels above the high watermark"),
    ("any round", SIGNED, (0, 0), (100, 2**31 - 1, OTHER), NEW),
    ("again", SIGNED, (0, 0), (100, 2, ONE), STANDING),
    ("lower", SIGNED, (0, 0), (50, 0, ONE), "not above the high watermark"),
    ("first, nothing to go by", None, (0, 0), (2**31 - 1, 0, ONE), NEW),
    ("first, a round is no level", None, (0, 7), (5000, 0, ONE), NEW),
    ("first, near the floor", None, (200, 3), (210, 0, ONE), NEW),
    (
        "first, far from the floor",
        None,
        (200, 3),
        (211, 0, ONE),
        "above the configured floor, level 200 round 3",
    ),
    ("a floor above the mark", SIGNED, (200, 0), (210, 0, ONE), NEW),
    (
        "a floor above the mark, too far",
        SIGNED,
        (200, 0),
        (211, 0, ONE),
        "11 levels above the configured floor",
    ),
    ("a floor below the mark", SIGNED, (95, 0), (110, 0, ONE), NEW),
    (
        "a mark at level 0",
        Mark(0, 0, ONE),
        (0, 0),
        (11, 0, OTHER),
        "11 levels above the high watermark",
    ),
]


class JudgeTests(SynchronousTestCase):
    """Which mark is kept, or why none."""

    def check(
        self,
        name: str,
        standing: Mark | None,
        floor: tuple[int, int],
        position: tuple[int, int, bytes],
        expected: str,
        max_level_jump: int | None = None,
    ) -> None:
        """Judge one case of a table."""
        asked = Mark(*position)
        if expected in (NEW, STANDING):
            mark = judge(BLOCK, standing, asked, floor, max_level_jump)
            self.assertIs(mark, asked if expected == NEW else standing, name)
            return
        error = self.assertRaises(Conflict, judge, BLOCK, standing, asked, floor, max_level_jump)
        level, round_, _ = position
        self.assertIn(f"block at level {level} round {round_} is ", str(error))
        self.assertIn(expected, str(error), name)

    def test_table(self) -> None:
        """Only what is above the mark may be signed, or the very same payload again."""
        for name, standing, position, expected in CASES:
            self.check(name, standing, (0, 0), position, expected)

    def test_floors(self) -> None:
        """Nothing at or below a floor is signed, whatever the mark says."""
        for name, standing, floor, position, expected in FLOORS:
            self.check(name, standing, floor, position, expected)

    def test_jumps(self) -> None:
        """A mark moves by no more levels than it may; a first one is held to its floor."""
        for name, standing, floor, position, expected in JUMPS:
            self.check(name, standing, floor, position, expected, 10)
            if "levels above" in expected:
                self.check(name, standing, floor, position, NEW)

    def test_highest(self) -> None:
        """A first mark is held to the highest one of its key, or to the floor above that."""
        for floor, level, words in [
            (
                (0, 0),
                111,
                "11 levels above the highest watermark of the key, on any chain, level 100",
            ),
            ((105, 0), 116, "11 levels above the configured floor, level 105"),
            ((50, 0), 111, "11 levels above the highest watermark"),
        ]:
            far, near = Mark(level, 0, ONE), Mark(level - 1, 0, ONE)
            error = self.assertRaises(Conflict, judge, BLOCK, None, far, floor, 10, SIGNED)
            self.assertIn(words, str(error))
            self.assertIs(judge(BLOCK, None, near, floor, 10, SIGNED), near)
            self.assertIs(judge(BLOCK, None, far, floor, None, SIGNED), far)
        low = Mark(1, 0, ONE)
        self.assertIs(judge(BLOCK, None, low, (0, 0), 10, SIGNED), low)

    def test_how_to_go_on(self) -> None:
        """Who is refused for a jump is told the command that allows it."""
        error = self.assertRaises(Conflict, judge, BLOCK, SIGNED, Mark(900, 1, ONE), (0, 0), 10)
        self.assertIn(
            f"tezio-signer watermarks set --chain {MAINNET} --key {TZ3} --operation block "
            "--level 899",
            str(error),
        )
        raised = Mark(899, 0, NO_PAYLOAD)
        self.assertEqual(judge(BLOCK, raised, Mark(900, 1, ONE), (0, 0), 10).level, 900)

    def test_closed_mark(self) -> None:
        """At a mark without a payload nothing is signed, above it everything."""
        mark = Mark(100, 2, NO_PAYLOAD)
        for payload_hash in (ONE, NO_PAYLOAD):
            position = (100, 2, payload_hash)
            self.check("closed", mark, (0, 0), position, "not above the high watermark")
        self.check("above", mark, (0, 0), (100, 3, ONE), NEW)

    def test_conflict(self) -> None:
        """A refusal is a conflict for the client, and says which operation it is about."""
        for operation in ("block", "preattestation", "attestation"):
            mark_id = evolve(BLOCK, operation=Operation[operation.upper()])
            error = self.assertRaises(Conflict, judge, mark_id, SIGNED, Mark(1, 0, ONE))
            self.assertEqual(error.status, 409)
            self.assertTrue(str(error).startswith(f"{operation} at level 1 round 0"), error)


class MarkIdTests(SynchronousTestCase):
    """Which payloads share a mark."""

    def of(self, name: str) -> MarkId:
        """The mark that a recorded payload moves for tz3."""
        return MarkId.of(TZ3, cast(Baking, decode(PAYLOADS[name])))

    def test_kinds(self) -> None:
        """Blocks, preattestations and attestations have marks of their own."""
        self.assertEqual(self.of("block_locked_nonce_off"), BLOCK)
        self.assertEqual(self.of("preatt"), MarkId(MAINNET, TZ3, Operation.PREATTESTATION))
        self.assertEqual(self.of("att"), MarkId(MAINNET, TZ3, Operation.ATTESTATION))

    def test_dal_content(self) -> None:
        """An attestation with DAL content moves the mark of one without."""
        for name in ("att_dal_0", "att_dal_5", "att_dal_big"):
            self.assertEqual(self.of(name), self.of("att"))

    def test_chains_and_keys(self) -> None:
        """Another chain or another key is another mark."""
        payload = cast(Baking, decode(PAYLOADS["att"]))
        elsewhere = cast(
            Baking, decode(PAYLOADS["att"].replace(bytes.fromhex("7a06a770"), bytes(4)))
        )
        ids = {MarkId.of(key, p) for key in (TZ1, TZ3) for p in (payload, elsewhere)}
        self.assertEqual(len(ids), 4)


class SettleTests(SynchronousTestCase):
    """Which of two marks is in a store afterwards."""

    def test_never_lower(self) -> None:
        """The higher one is kept, whatever its payload, in whichever order they come."""
        higher = [Mark(100, 3, ONE), Mark(101, 0, OTHER), Mark(101, 0, NO_PAYLOAD)]
        for low in (SIGNED, UNSIGNED, Mark(100, 2, NO_PAYLOAD)):
            for high in higher:
                self.assertIs(settle(low, high), high)
                self.assertIs(settle(high, low), high)

    def test_closed_marks(self) -> None:
        """Of two closed marks, whose payloads are the same, the higher one is kept."""
        for low, high in [((100, 2), (100, 3)), ((99, 7), (100, 0))]:
            below, above = Mark(*low, NO_PAYLOAD), Mark(*high, NO_PAYLOAD)
            self.assertIs(settle(below, above), above)
            self.assertIs(settle(above, below), above)

    def test_first(self) -> None:
        """Where nothing is stored, anything may."""
        self.assertIs(settle(None, SIGNED), SIGNED)

    def test_same_position(self) -> None:
        """At one position the first payload is kept, and its first signature."""
        second = Mark(100, 2, ONE, Signature(Curve.P256, b"\x01" * 64))
        self.assertIs(settle(UNSIGNED, SIGNED), SIGNED)
        self.assertIs(settle(SIGNED, UNSIGNED), SIGNED)
        self.assertIs(settle(SIGNED, second), SIGNED)
        for standing in (SIGNED, UNSIGNED, Mark(100, 2, NO_PAYLOAD)):
            self.assertIs(settle(standing, Mark(100, 2, OTHER, second.signature)), standing)


class DefaultTests(SynchronousTestCase):
    """What holds where a caller names no floor."""

    def test_lowest_position(self) -> None:
        """There is none: the very first position may be signed."""
        asked = Mark(0, 0, ONE)
        self.assertIs(judge(BLOCK, None, asked), asked)


class JumpSentenceTests(SynchronousTestCase):
    """The numbers in a refusal of a jump."""

    def test_numbers(self) -> None:
        """It says how far the level is ahead, and of what."""
        cases = [
            (SIGNED, (0, 0), 800, "high watermark, level 100 round 2"),
            (None, (100, 3), 800, "configured floor, level 100 round 3"),
        ]
        for standing, floor, ahead, above in cases:
            error = self.assertRaises(
                Conflict, judge, BLOCK, standing, Mark(900, 1, ONE), floor, 10
            )
            self.assertIn(
                f"block at level 900 round 1 is {ahead} levels above the {above}, and "
                "max_level_jump is 10",
                str(error),
            )
