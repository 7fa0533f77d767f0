"""What the state machine sees of a daemon, and expects it to remember."""

from typing import Any

from attrs import define, evolve, field
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from tests.support.storeconformance import Model
from tests.support.storefaults import Faults
from tezio_signer.tezos.keys import Signature
from tezio_signer.watermarks.claims import Claim, Watermarks
from tezio_signer.watermarks.rule import Mark, MarkId
from tezio_signer.watermarks.store import Kept, WatermarkStore


class WatchedStore:
    """A store whose answers are noted as they pass.

    :ivar shown: the last mark that it has shown for each id.
    :ivar kept: what has become of the marks that were brought to it since it was emptied.
    :ivar loaded: fires after whoever asked for all marks, with whether they were read.
    """

    def __init__(self, store: WatermarkStore) -> None:
        self._store = store
        self.shared = store.shared
        self.shown: dict[MarkId, Mark] = {}
        self.kept: list[tuple[MarkId, Kept]] = []
        self.loaded: Deferred[bool] = Deferred()

    def load(self) -> Deferred[dict[MarkId, Mark]]:
        """All marks."""
        loading = self._store.load()
        loaded = self.loaded = Deferred()
        passing: Deferred[dict[MarkId, Mark]] = Deferred()

        def done(result: Any) -> None:
            failed = isinstance(result, Failure)
            if not failed:
                self.shown.update(result)
            passing.callback(result)
            # A reading that failed has shown nothing, and the model must not believe it has.
            loaded.callback(not failed)

        loading.addBoth(done)
        return passing

    def keep(self, mark_id: MarkId, mark: Mark) -> Deferred[Kept]:
        """Write, or not."""

        def note(kept: Kept) -> Kept:
            self.shown[mark_id] = kept.now
            self.kept.append((mark_id, kept))
            return kept

        return self._store.keep(mark_id, mark).addCallback(note)

    def close(self) -> Deferred[None]:
        """Close what is beneath."""
        return self._store.close()


@define(eq=False)
class Daemon:
    """Watermarks as one daemon has them, and what the model expects it to remember."""

    store: WatchedStore
    faults: Faults
    clock: Clock
    watermarks: Watermarks
    memory: Model
    claims: list[tuple[MarkId, Mark, Claim]] = field(factory=list)
    doubtful: set[MarkId] = field(factory=set)
    passed: dict[tuple[MarkId, bytes], Signature | None] = field(factory=dict)
    """Payloads above which it has moved a mark, with the signature that they had."""

    def learn(self, mark_id: MarkId, mark: Mark) -> None:
        """What the store has shown counts, but for a signature that only we know."""
        known = self.memory.marks.get(mark_id)
        if known is None or (
            (mark.level, mark.round) >= (known.level, known.round)
            and mark != evolve(known, signature=None)
        ):
            self.memory.marks[mark_id] = mark

    def learn_kept(self) -> None:
        """Learn from what has become of the marks that were brought."""
        for mark_id, kept in self.store.kept:
            self.learn(mark_id, kept.now)
            before = kept.before
            if before is not None and before.position < kept.now.position:
                self.passed[mark_id, before.payload_hash] = before.signature
        self.store.kept.clear()
