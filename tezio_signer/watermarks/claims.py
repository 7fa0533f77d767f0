"""Claims on watermarks: decided in memory at once, made durable while the HSM signs.

What is known of each mark, and how it changes, is written in `heldmark`; when the store is read,
in `readingloop`. This module judges what is asked, and brings marks to the store.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import partial
from time import time
from typing import NoReturn, TypeVar

from attrs import evolve, frozen
from twisted.application.service import Service
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from tezio_signer.decision import Moved
from tezio_signer.errors import Conflict, StartupError, Unavailable
from tezio_signer.noop import do_nothing
from tezio_signer.tezos.keys import PublicKeyHash, Signature, digest
from tezio_signer.tezos.payload import Baking, Operation
from tezio_signer.watermarks.heldmark import HeldMark, Passed
from tezio_signer.watermarks.ledger import Ledger
from tezio_signer.watermarks.readingloop import ReadingLoop
from tezio_signer.watermarks.rule import Mark, MarkId, judge
from tezio_signer.watermarks.store import Kept, StoreError, WatermarkStore

_Result = TypeVar("_Result")
MAX_CHAINS = 16
"""Chains on which a key may have marks."""


@frozen(eq=False)
class Claim:
    """The right to sign one payload.

    :ivar signature: the signature, if this payload was signed before.
    :ivar durable: fires when the mark, with its signature if it has one, is in the store,
        with the signature that may leave, if there is one: another daemon's, it may be.
        Fails with `Unavailable` if it cannot be stored, and with `Conflict` if another
        daemon was there first. Until then no signature may leave.
    :ivar moved: the mark as it was known here before, and as it is with this claim.
    """

    signature: Signature | None
    durable: Deferred[Signature | None]
    moved: Moved
    _asked: Mark
    _keep: Callable[[Mark], Deferred[Mark]]
    _held: HeldMark

    def found(self) -> Signature | None:
        """The signature that has come for this payload meanwhile, if one has."""
        return self._held.found(self._asked.payload_hash)

    def complete(self, signature: Signature) -> Deferred[Signature]:
        """Store the signature with the mark, and give the one that may leave.

        This is the first that came for the payload, here or at another daemon: with another
        signature, a block has another hash. Fails like `durable`.
        """
        return Deferred.fromCoroutine(self._complete(signature))

    async def _complete(self, signature: Signature) -> Signature:
        mark = self._held.claimed(evolve(self._asked, signature=signature))
        now = await self._keep(mark)
        return self._held.released(self._asked, signature, now)


class Watermarks(Service):
    """The marks of all keys; the only place where they move.

    :param open_store: called when the service starts; raises StoreError.
    :param floors: level and round at or below which nothing is signed, for claims without a floor
        of their own.
    :param now: the wall clock, in Unix seconds, for the daily ledger.
    :param give_up: called when a store that answers late turns out to be none.
    :ivar ledger: what keys have spent, in the same store.
    """

    _log = Logger()

    def __init__(
        self,
        open_store: Callable[[], WatermarkStore],
        floors: Mapping[Operation, tuple[int, int]],
        clock: IReactorTime,
        give_up: Callable[[StartupError], object] = do_nothing,
        now: Callable[[], float] = time,
    ) -> None:
        self._open_store = open_store
        self._floors = floors
        self._reading = ReadingLoop(self._read, clock, give_up)
        self.ledger = Ledger(lambda: self._store, clock, now)
        self._marks: dict[MarkId, HeldMark] = {}
        self._passed: Passed = OrderedDict()

    def startService(self) -> None:
        """Open the store and read its marks; raises StartupError if they can never be read.

        A store that is away for the time being is read when it is back; until then
        nothing can be claimed.
        """
        super().startService()
        try:
            self._store = self._open_store()
        except StoreError as error:
            raise StartupError(str(error)) from error
        self._reading.start()

    def stopService(self) -> Deferred[None]:
        """Close the store."""
        super().stopService()
        self._reading.stop()
        return self._store.close()

    async def _read(self) -> bool:
        """Learn what the store holds; whether nothing is in doubt then. Raises StoreError."""
        failures = {mark_id: held.failures for mark_id, held in self._marks.items()}
        marks = await self._store.load()
        for mark_id, mark in marks.items():
            self._marks.setdefault(mark_id, HeldMark(mark_id, mark, self._passed))
        for mark_id, held in self._marks.items():
            shown, before = marks.get(mark_id), failures.get(mark_id, 0)
            self._show(held, partial(held.learned, shown, before))
        self._write_back()
        if not self._store.shared:
            self._reading.stop()
        return not any(held.failures for held in self._marks.values())

    def _show(self, held: HeldMark, transition: Callable[[], _Result]) -> _Result:
        """Have a mark take over what the store shows; told when that is less than before."""
        was_lost = held.lost
        result = transition()
        if held.lost and not was_lost:
            self._log.critical(
                "the mark of {key} for {operation} on {chain} is written back to the "
                "watermark store: level {mark.level} round {mark.round}",
                key=held.mark_id.key,
                operation=held.mark_id.operation,
                chain=held.mark_id.chain_id,
                mark=held.lost,
            )
        return result

    def _stored(self, held: HeldMark, kept: Kept) -> Mark:
        return self._show(held, partial(held.stored, kept))

    def _write_back(self) -> None:
        """Store what the store has lost: a daemon that starts now knows nothing else."""
        for mark_id, held in self._marks.items():
            if held.lost:
                self._store.keep(mark_id, held.lost).addCallbacks(
                    partial(self._stored, held),
                    lambda failure: failure.trap(StoreError),  # tried again at the next reading
                )

    def claim(
        self,
        key: PublicKeyHash,
        payload: Baking,
        data: bytes,
        max_level_jump: int | None = None,
        floor: tuple[int, int] | None = None,
    ) -> Claim:
        """Claim the position of a payload for it, for ever.

        A claim stays although its signature fails: another payload is then refused,
        the same one may be claimed again.

        :param max_level_jump: how many levels the mark may move at once, and the first one on a
            chain lie above the key's highest on any; None for any number.
        :param floor: level and round at or below which nothing is signed; None for that of all.
        :raises Conflict: if another payload has it, or a higher one, or it is too far ahead.
        :raises Unavailable: while the marks are not known.
        """
        if self._reading.missing is not None:
            raise Unavailable(self._reading.missing)
        mark_id = MarkId.of(key, payload)
        asked = Mark(payload.level, payload.round, digest(data))
        if floor is None:
            floor = self._floors.get(payload.operation, (0, 0))
        held = self._marks.get(mark_id)
        before = None if held is None else held.standing.position
        if held is None:
            self._judge_first(mark_id, asked, floor, max_level_jump)
            held = self._marks[mark_id] = HeldMark(mark_id, asked, self._passed)
        else:
            try:
                judge(mark_id, held.standing, asked, floor, max_level_jump)
            except Conflict as conflict:
                if held.failures:
                    raise Unavailable(
                        f"not known until the watermark store answers: {conflict}"
                    ) from None
                raise
        moved = Moved(before, asked.position)
        mark = held.claimed(asked)
        durable = self._keep(held, mark).addCallback(partial(_granted, mark_id, mark))
        return Claim(mark.signature, durable, moved, asked, partial(self._keep, held), held)

    def _judge_first(
        self, mark_id: MarkId, asked: Mark, floor: tuple[int, int], max_level_jump: int | None
    ) -> None:
        """Judge the first mark of a key for an operation on a chain; raises Conflict."""
        others = [held for held in self._marks.values() if held.mark_id.key == mark_id.key]
        highest = max(
            (held.standing for held in others), key=lambda mark: mark.position, default=None
        )
        judge(mark_id, None, asked, floor, max_level_jump, highest)
        # Nobody may fill memory and disk with chains that he has invented.
        chains = {held.mark_id.chain_id for held in others}
        if mark_id.chain_id not in chains and len(chains) >= MAX_CHAINS:
            raise Conflict(
                f"{mark_id.key} has marks on {len(chains)} chains, and {mark_id.chain_id} would be "
                "one more; name the chains that it bakes on in its configuration (chains)"
            )
        if floor[0] == 0 and (highest is None or max_level_jump is None):
            self._log.warn(
                "the first {operation} of {key} on {chain}, level {mark.level} round "
                "{mark.round}, could not be compared with anything: there is no earlier mark and "
                "no floor (high_water_marks); if that is not about the level of the chain, stop "
                "the signer and lower the mark (tezio-signer watermarks set --lower)",
                operation=mark_id.operation,
                key=mark_id.key,
                chain=mark_id.chain_id,
                mark=asked,  # `level` means the one of the event to Twisted
            )

    def _keep(self, held: HeldMark, mark: Mark) -> Deferred[Mark]:
        """Bring a mark to the store, unless it has it; the mark that is there then.

        Fails with Unavailable.
        """
        if held.is_stored(mark):
            return succeed(mark)
        return self._store.keep(held.mark_id, mark).addCallbacks(
            partial(self._stored, held), partial(self._not_kept, held)
        )

    def _not_kept(self, held: HeldMark, failure: Failure) -> NoReturn:
        failure.trap(StoreError)
        if self._reading.soon():
            # It may be there all the same, or what another daemon has signed meanwhile.
            held.failed()
        raise Unavailable(f"no signature without a stored watermark: {failure.value}")


def _granted(mark_id: MarkId, mark: Mark, now: Mark) -> Signature | None:
    """The signature that is stored for this payload; raises Conflict if another payload is."""
    return judge(mark_id, now, mark).signature
