"""A mark as one daemon knows it: what it has claimed, and what its store is known to hold.

Claims are judged against `standing`, in memory and at once. The store learns of it later and may
fail, and other daemons may write to it as well. `shown` is the highest mark that the store has
ever shown to this daemon. A mark is, each independently of the others:

- *unwritten* while `standing` is not `shown`: it is being written, or writing it has failed;
- *lost* when the store shows less than it has shown before, as after the restoring of a backup:
  `shown` has to be written back, since a daemon that starts now knows only what is in the store;
- *doubtful* when a write has failed, which may have been done all the same: what is in the
  store is not known, and a conflict with `standing` may be no conflict.

Nothing but these transitions changes a mark:

- `claimed`: a payload was judged to be allowed, or its signature has come.
- `stored`: the store has answered a write.
- `failed`: a write has failed.
- `learned`: a reading of the store has ended well.
- `released`: a signature is about to leave.

Invariants, each with a test of its name in `tests/watermarks/test_heldmark.py`:

1. *Never back*: the position of `standing` never sinks, and at one position its payload and its
   signature give way only to those that the store shows.
2. *Covers the store*: `standing` is above whatever the store has shown, or is the same.
3. *Stored is shown*: a mark counts as stored only while it is the last that the store has shown.
4. *Lost until shown*: a lost mark is lost until the store shows it again, or one above it.
5. *Doubt outlives the failure*: only a reading that began after the last failed write ends it.
6. *One signature*: when one of a payload was released, no other one is, as long as the payload
   is the standing one, or among the last that were passed.
7. *Passed by others*: no signature is released of a payload that only another daemon can have
   moved the mark above, since that one may have stored another signature for it.
"""

from collections import OrderedDict

from attrs import define, evolve

from tezio_signer.errors import Conflict
from tezio_signer.tezos.keys import Signature
from tezio_signer.watermarks.rule import Mark, MarkId, settle
from tezio_signer.watermarks.store import Kept

REMEMBERED_PAYLOADS = 1024
"""Payloads, of all marks together, of which it is remembered that this daemon moved past them."""
Passed = OrderedDict[tuple[MarkId, bytes], Signature | None]
"""Payloads above which this daemon has moved a mark, with the signature that may have left.

Nobody else can store a signature for one of them any more.
"""


@define(eq=False)
class HeldMark:
    """What a daemon knows of one mark; the states are explained above.

    :ivar standing: the highest mark that was claimed here, or shown by the store.
    :ivar shown: the highest mark that the store has shown; None if it has shown none.
    :ivar failures: how many writes have failed that no reading has cleared up: if any, the mark
        is doubtful.
    """

    mark_id: MarkId
    standing: Mark
    _passed: Passed
    shown: Mark | None = None
    _is_lost: bool = False
    failures: int = 0

    @property
    def lost(self) -> Mark | None:
        """The mark that the store has shown, and shows no more; None if it shows it."""
        return self.shown if self._is_lost else None

    def is_stored(self, mark: Mark) -> bool:
        """Whether the store is known to hold exactly this mark."""
        return mark == self.shown and not self._is_lost

    def found(self, payload_hash: bytes) -> Signature | None:
        """The signature that is known for a payload, if one is."""
        if self.standing.payload_hash == payload_hash:
            return self.standing.signature
        return self._passed.get((self.mark_id, payload_hash))

    def claimed(self, asked: Mark) -> Mark:
        """Move to a mark that was judged to be allowed, or to its signature.

        Returns what is to be brought to the store: the mark, with the first signature that came
        for its payload.
        """
        self.standing = settle(self.standing, asked)
        return evolve(asked, signature=self.found(asked.payload_hash) or asked.signature)

    def stored(self, kept: Kept) -> Mark:
        """Take over what has become of a write; the mark that is in the store then."""
        self._is_lost = not self._show(kept.now)
        before = kept.before
        if before is not None and before.position < kept.now.position:
            passed = self.mark_id, before.payload_hash
            # Where a backup was restored, it may be passed again, and a signature may have left.
            self._passed[passed] = self._passed.get(passed) or before.signature
            if len(self._passed) > REMEMBERED_PAYLOADS:
                self._passed.popitem(last=False)
        return kept.now

    def failed(self) -> None:
        """A write has failed: what is in the store is not known any more."""
        self.failures += 1

    def learned(self, mark: Mark | None, failures: int) -> None:
        """A reading has shown this mark, or none.

        :param failures: what they were when the reading began.
        """
        self._is_lost = not self._show(mark)
        if self.failures == failures:
            self.failures = 0

    def released(self, asked: Mark, signature: Signature, now: Mark) -> Signature:
        """The signature of a payload that may leave, after one of its own was brought to the store.

        :param now: the mark that is in the store since then.
        :raises Conflict: if another daemon may have released another signature.
        """
        if now.payload_hash == asked.payload_hash and now.signature is not None:
            return now.signature
        passed = self.mark_id, asked.payload_hash
        if passed not in self._passed:
            raise Conflict(
                f"another signer has moved the high watermark to level {now.level} round "
                f"{now.round} meanwhile, and may have signed this too"
            )
        first = self._passed[passed] or signature
        self._passed[passed] = first
        return first

    def _show(self, mark: Mark | None) -> bool:
        """Take over what is in the store; whether it is no less than it has shown before."""
        # What is there came before what was claimed here at the same position.
        self.standing = settle(mark, self.standing)
        self.shown = mark if self.shown is None else settle(mark, self.shown)
        return self.shown == mark
