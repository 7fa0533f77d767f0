"""What the state machine sees of a daemon, and expects it to remember."""

from attrs import define, evolve, field
from twisted.internet.task import Clock

from tests.support.stores import Faults, Model, WatchedStore
from tezio_signer.tezos.keys import Signature
from tezio_signer.watermarks.claims import Claim, Watermarks
from tezio_signer.watermarks.rule import Mark, MarkId


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
