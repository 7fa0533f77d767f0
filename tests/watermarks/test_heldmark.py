"""The invariants of a mark as one daemon knows it, by their names in `heldmark`."""

from collections import OrderedDict
from collections.abc import Iterator
from itertools import product
from typing import Any

from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.support.vectors import TZ3
from tezio_signer.errors import Conflict
from tezio_signer.tezos.keys import Curve, Signature
from tezio_signer.tezos.payload import Operation
from tezio_signer.watermarks.heldmark import HeldMark
from tezio_signer.watermarks.rule import Mark, MarkId, judge, settle
from tezio_signer.watermarks.store import Kept

BLOCK = MarkId("NetXdQprcVkpaWU", TZ3, Operation.BLOCK)
FIRST, SECOND = (Signature(Curve.P256, bytes([number]) * 64) for number in (1, 2))
_POSITIONS = tuple(product((1, 2), (0, 1)))
MARKS = tuple(
    Mark(level, round_, bytes([level, round_, side]), signature)
    for (level, round_), side in product(_POSITIONS, (0, 1))
    for signature in (None, FIRST, SECOND)
)
OURS, LATER = MARKS[0], MARKS[-3]
UNSIGNED = tuple(mark for mark in MARKS if mark.signature is None)

_searched = settings(derandomize=True, deadline=None)
_marks = st.sampled_from(MARKS)
_unsigned = st.sampled_from(UNSIGNED)
_history = st.lists(
    st.one_of(
        st.tuples(st.just("claimed"), _marks),
        st.tuples(st.just("stored"), _marks),
        st.tuples(st.just("failed"), st.none()),
        st.tuples(st.just("begins"), st.none()),
        st.tuples(st.just("learned"), st.one_of(st.none(), _marks)),
    ),
    max_size=30,
)
_Step = tuple[str, Mark | None]


def held_mark(standing: Mark = OURS) -> HeldMark:
    """A mark of which nothing is in the store yet."""
    return HeldMark(BLOCK, standing, OrderedDict())


def steps(history: list[_Step]) -> Iterator[tuple[str, Mark | None, HeldMark, HeldMark]]:
    """What happens, the mark before, and the mark after; what may not happen is left out."""
    held = held_mark()
    failures: int | None = None  # when the reading began that is under way
    for what, mark in history:
        before = evolve(held)
        if what == "claimed":
            assert mark is not None
            try:  # only what is judged to be allowed, or the signature of what was
                judge(BLOCK, held.standing, mark)
            except Conflict:
                continue
            held.claimed(mark)
        elif what == "stored":
            assert mark is not None
            held.stored(Kept(None, mark))
        elif what == "failed":
            held.failed()
        elif what == "begins":
            failures = held.failures
        elif failures is not None:
            held.learned(mark, failures)
            failures = None
        else:
            continue
        yield what, mark, before, held


class InvariantTests(SynchronousTestCase):
    """What holds whatever is claimed, shown and lost, in any order."""

    @_searched
    @given(_history)
    def test_never_back(self, history: list[_Step]) -> None:
        """The standing mark never sinks; at one position it yields only to what the store shows."""
        for what, mark, before, after in steps(history):
            old, new = before.standing, after.standing
            self.assertGreaterEqual(new.position, old.position)
            if new.position == old.position and new != old:
                signed = old.signature is None and old == evolve(new, signature=None)
                shown = what in ("stored", "learned") and new == mark
                self.assertTrue(signed or shown, (what, mark, old, new))

    @_searched
    @given(_history)
    def test_covers_the_store(self, history: list[_Step]) -> None:
        """The standing mark is above whatever the store has shown, or is the same."""
        for _, _, _, after in steps(history):
            if after.shown is not None:
                self.assertEqual(settle(after.standing, after.shown), after.standing)

    @_searched
    @given(_history)
    def test_stored_is_shown(self, history: list[_Step]) -> None:
        """A mark counts as stored when the store has shown it, and nothing less since."""
        for what, mark, before, after in steps(history):
            for stored in filter(after.is_stored, MARKS):
                if what in ("learned", "stored"):
                    self.assertEqual(stored, mark)
                else:
                    self.assertTrue(before.is_stored(stored), (what, mark, stored))

    def test_stored(self) -> None:
        """What the store has shown needs not be written again, until it has lost it."""
        held = held_mark()
        self.assertFalse(held.is_stored(OURS))
        held.stored(Kept(None, OURS))
        self.assertTrue(held.is_stored(OURS))
        self.assertFalse(held.is_stored(evolve(OURS, signature=FIRST)))
        held.learned(None, 0)
        self.assertFalse(held.is_stored(OURS))

    @_searched
    @given(_history)
    def test_lost_until_shown(self, history: list[_Step]) -> None:
        """What is lost stays so until the store shows it, or what is above it."""
        for what, mark, before, after in steps(history):
            if what in ("learned", "stored") and before.shown is not None:
                less = mark is None or settle(mark, before.shown) != mark
                self.assertEqual(after.lost, before.shown if less else None)
            else:
                self.assertEqual(after.lost, before.lost)

    def test_late_answer_hides_no_loss(self) -> None:
        """A write of before, answered with less than was shown, makes nothing of it forgotten."""
        held = held_mark()
        held.stored(Kept(None, LATER))
        held.stored(Kept(OURS, OURS))  # a late signature, brought to a backup that was restored
        self.assertEqual(held.lost, LATER)
        self.assertFalse(held.is_stored(LATER))
        held.learned(OURS, 0)
        self.assertEqual(held.lost, LATER)
        held.stored(Kept(OURS, OURS))
        self.assertEqual(held.lost, LATER)
        held.stored(Kept(OURS, LATER))
        self.assertIsNone(held.lost)

    @_searched
    @given(_history)
    def test_doubt_outlives_the_failure(self, history: list[_Step]) -> None:
        """Only a reading that began after the last failed write ends the doubt."""
        failed, began_since = False, False
        for what, _, _, after in steps(history):
            if what == "failed":
                failed, began_since = True, False
            elif what == "begins":
                began_since = True
            elif what == "learned" and began_since:
                failed = False
            self.assertEqual(after.failures > 0, failed)


class Daemons:
    """A mark of one daemon on a store that another daemon moves too, and what both release."""

    def __init__(self) -> None:
        self.held: HeldMark | None = None
        self.store: Mark | None = None
        self.claims: list[Mark] = []
        self.waiting: list[tuple[Mark, Mark, Signature | None]] = []
        self.released: dict[bytes, set[Signature]] = {}

    def release(self, payload_hash: bytes, signature: Signature) -> None:
        """A signature leaves."""
        self.released.setdefault(payload_hash, set()).add(signature)

    def claim(self, asked: Mark) -> None:
        """A payload is claimed, and is on its way to the store."""
        self.held = self.held or held_mark(asked)
        try:
            judge(BLOCK, self.held.standing, asked)
        except Conflict:
            return
        self.claims.append(asked)
        self._bring(asked, None)

    def sign(self, which: int, signature: Signature) -> None:
        """The HSM has signed what was claimed some time ago."""
        if self.claims:
            self._bring(self.claims[which % len(self.claims)], signature)

    def _bring(self, asked: Mark, signature: Signature | None) -> None:
        assert self.held is not None
        mark = self.held.claimed(evolve(asked, signature=signature))
        if self.held.is_stored(mark):
            self._arrived(asked, signature, mark)
        else:
            self.waiting.append((asked, mark, signature))

    def _arrived(self, asked: Mark, signature: Signature | None, now: Mark) -> None:
        assert self.held is not None
        if signature is None:
            return
        try:
            self.release(asked.payload_hash, self.held.released(asked, signature, now))
        except Conflict:
            return

    def write(self, done: bool = True, heard: bool = True) -> None:
        """What was brought first is written, and answered."""
        if not self.waiting:
            return
        asked, mark, signature = self.waiting.pop(0)
        assert self.held is not None
        before = self.store
        now = settle(before, mark)
        if done:
            self.store = now
        if done and heard:
            self._arrived(asked, signature, self.held.stored(Kept(before, now)))
        else:
            self.held.failed()

    def other(self, asked: Mark, signature: Signature) -> None:
        """Another daemon claims and signs, if the store lets it."""
        self.store = settle(self.store, asked)
        if self.store.payload_hash == asked.payload_hash:
            self.store = settle(self.store, evolve(asked, signature=signature))
            assert self.store.signature is not None
            self.release(asked.payload_hash, self.store.signature)

    def read(self) -> None:
        """The store is read."""
        if self.held is not None:
            self.held.learned(self.store, self.held.failures)


_numbers, _signatures = st.integers(0, 4), st.integers(1, 200)
_deeds = st.lists(
    st.one_of(
        st.tuples(st.just("claim"), _unsigned),
        st.tuples(st.just("sign"), _numbers, _signatures),
        st.tuples(st.just("write"), st.booleans(), st.booleans()),
        st.tuples(st.just("write")),
        st.tuples(st.just("other"), _unsigned, _signatures),
        st.tuples(st.just("read")),
    ),
    max_size=40,
)


class ReleaseTests(SynchronousTestCase):
    """Which signature may leave."""

    @_searched
    @given(_deeds)
    def test_one_signature(self, deeds: list[tuple[Any, ...]]) -> None:
        """Two daemons never release two signatures of one payload, nor two payloads."""
        daemons = Daemons()
        for what, *arguments in deeds:
            if what in ("sign", "other"):
                arguments[-1] = Signature(Curve.P256, bytes([arguments[-1]]) * 64)
            getattr(daemons, what)(*arguments)
        for signatures in daemons.released.values():
            self.assertEqual(len(signatures), 1)
        positions = [payload_hash[:2] for payload_hash in daemons.released]
        self.assertEqual(len(positions), len(set(positions)))

    def test_passed_by_others(self) -> None:
        """A signature may leave after the mark has moved on, unless others have moved it."""
        for before in (None, LATER):
            held = held_mark()
            held.stored(Kept(before, LATER))
            error = self.assertRaises(Conflict, held.released, OURS, FIRST, LATER)
            self.assertIn("another signer has moved the high watermark to level 2", str(error))
        held = held_mark()
        held.stored(Kept(OURS, LATER))
        self.assertEqual(held.released(OURS, FIRST, LATER), FIRST)

    def test_first_of_a_passed_one(self) -> None:
        """The first signature stays the only one, also when a restored mark is passed again."""
        held = held_mark()
        held.claimed(LATER)
        for signature in (FIRST, SECOND):
            held.stored(Kept(OURS, LATER))
            self.assertEqual(held.released(OURS, signature, LATER), FIRST)
            self.assertEqual(held.found(OURS.payload_hash), FIRST)
            self.assertEqual(held.claimed(evolve(OURS, signature=SECOND)).signature, FIRST)

    def test_stored_before_it_was_passed(self) -> None:
        """The signature that was stored for a payload is the one that may leave."""
        held = held_mark()
        held.stored(Kept(evolve(OURS, signature=SECOND), LATER))
        self.assertEqual(held.released(OURS, FIRST, LATER), SECOND)

    def test_not_signed_in_the_store(self) -> None:
        """Without a signature in the store, none of the standing payload leaves."""
        self.assertRaises(Conflict, held_mark().released, OURS, FIRST, OURS)
