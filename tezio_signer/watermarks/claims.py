"""Claims on watermarks: decided in memory at once, made durable while the HSM signs."""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import partial
from typing import NoReturn

from attrs import evolve, frozen
from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from tezio_signer.errors import Conflict, StartupError, Unavailable
from tezio_signer.tezos.keys import PublicKeyHash, Signature, digest
from tezio_signer.tezos.payload import Baking, Operation
from tezio_signer.watermarks.rule import Mark, MarkId, judge, settle
from tezio_signer.watermarks.store import Kept, StoreAwayError, StoreError, WatermarkStore

MAX_CHAINS = 16
"""Chains on which a key may have marks."""
REFRESH_INTERVAL = 5.0
"""Seconds after which the marks that other daemons may have moved are read again."""
_RETRY_INTERVAL = 1.0
_REMEMBERED_PAYLOADS = 1024
_Payload = tuple[MarkId, bytes]


@frozen(eq=False)
class Claim:
    """The right to sign one payload.

    :ivar signature: the signature, if this payload was signed before.
    :ivar durable: fires when the mark, with its signature if it has one, is in the store,
        with the signature that may leave, if there is one: another daemon's, it may be.
        Fails with `Unavailable` if it cannot be stored, and with `Conflict` if another
        daemon was there first. Until then no signature may leave.
    :ivar complete: stores the signature with the mark, and gives the one that may leave:
        the first that came for this payload; fails like `durable`.
    :ivar found: the signature that has come for this payload meanwhile, if one has.
    """

    signature: Signature | None
    durable: Deferred[Signature | None]
    complete: Callable[[Signature], Deferred[Signature]]
    found: Callable[[], Signature | None]


class Watermarks(Service):
    """The marks of all keys; the only place where they move.

    :param open_store: called when the service starts; raises StoreError.
    :param floors: level and round at or below which nothing is signed.
    :param give_up: called when a store that answers late turns out to be none.
    """

    _log = Logger()

    def __init__(
        self,
        open_store: Callable[[], WatermarkStore],
        floors: Mapping[Operation, tuple[int, int]],
        clock: IReactorTime,
        give_up: Callable[[StartupError], object] = bool,
    ) -> None:
        self._open_store = open_store
        self._floors = floors
        self._give_up = give_up
        self._reading = LoopingCall(self._read)
        self._reading.clock = clock
        self._started = False
        self._was_read = False
        self._refused: StartupError | None = None
        self._missing: str | None = "the watermark store has not been read yet"
        self._marks: dict[MarkId, Mark] = {}
        self._stored: dict[MarkId, Mark] = {}
        self._lost: dict[MarkId, Mark] = {}
        self._doubtful: dict[MarkId, int] = {}
        self._passed: OrderedDict[_Payload, Signature | None] = OrderedDict()

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
        self._reading.start(_RETRY_INTERVAL).addErrback(self._faulty)
        if self._refused is not None:
            raise self._refused
        self._started = True

    def stopService(self) -> Deferred[None]:
        """Close the store."""
        super().stopService()
        if self._reading.running:
            self._reading.stop()
        return self._store.close()

    async def _read(self) -> None:
        """Learn what the store holds: once, or again and again if others write to it."""
        doubtful = dict(self._doubtful)
        try:
            marks = await self._store.load()
        except CancelledError:
            return
        except StoreError as error:
            self._unreadable(error)
            return
        self._notice_losses(marks)
        for mark_id, mark in marks.items():
            self._learn(mark_id, mark)
        if self._was_read and self._missing is not None:
            self._log.info("the watermark store is well again")
        self._was_read = True
        self._missing = None
        self._write_back()
        for mark_id, failures in doubtful.items():
            if self._doubtful.get(mark_id) == failures:  # no other write has failed meanwhile
                del self._doubtful[mark_id]
        self._reading.interval = _RETRY_INTERVAL if self._doubtful else REFRESH_INTERVAL
        if not self._store.shared:
            self._reading.stop()

    def _unreadable(self, error: StoreError) -> None:
        """A store that is away is waited for, and so is one that went bad after it was read.

        Ending then would lose what this daemon remembers of the marks, which may be all
        that is left of them. Only one that has been none from the beginning ends it.
        """
        away = isinstance(error, StoreAwayError)
        if not away and not self._was_read:
            self._reading.stop()
            self._end(StartupError(str(error)))
            return
        missing = f"no signature without a stored watermark: {error}"
        if missing != self._missing and not (away and self._missing is None):
            self._missing = missing
            say = self._log.warn if away else self._log.critical
            say("{sentence}", sentence=error)
        self._reading.interval = _RETRY_INTERVAL

    def _notice_losses(self, marks: Mapping[MarkId, Mark]) -> None:
        """Marks that were in the store, and are there no more, or lower: a backup was restored."""
        for mark_id, mark in list(self._stored.items()):
            if settle(marks.get(mark_id), mark) != marks.get(mark_id):
                # What is lost twice is the higher one, which may not be back yet.
                mark = self._lost[mark_id] = settle(self._lost.get(mark_id), mark)
                del self._stored[mark_id]
                self._log.critical(
                    "the mark of {key} for {operation} on {chain} is written back to the "
                    "watermark store: level {mark.level} round {mark.round}",
                    key=mark_id.key,
                    operation=mark_id.operation,
                    chain=mark_id.chain_id,
                    mark=mark,
                )

    def _write_back(self) -> None:
        """Who starts now knows only what is in the store."""
        for mark_id, mark in list(self._lost.items()):
            self._store.keep(mark_id, mark).addCallbacks(
                partial(self._is_back, mark_id),
                lambda failure: failure.trap(StoreError),  # and tried again after the next reading
            )

    def _is_back(self, mark_id: MarkId, kept: Kept) -> None:
        self._kept(mark_id, kept)
        self._lost.pop(mark_id, None)

    def _faulty(self, failure: Failure) -> None:
        self._log.failure("the watermark store is read no more", failure)
        self._end(StartupError("the watermark store cannot be read: a fault, see the log"))

    def _end(self, error: StartupError) -> None:
        self._refused = error
        if self._started:
            self._give_up(error)

    def _learn(self, mark_id: MarkId, mark: Mark) -> None:
        """A mark that stands in the store holds here too."""
        self._stored[mark_id] = mark
        known = self._marks.get(mark_id)
        # What stands there at the same position came before what was claimed here.
        if (
            known is None
            or mark.position > known.position
            or (mark.position == known.position and settle(mark, known) == mark)
        ):
            self._marks[mark_id] = mark

    def claim(
        self,
        key: PublicKeyHash,
        payload: Baking,
        data: bytes,
        max_level_jump: int | None = None,
    ) -> Claim:
        """Claim the position of a payload for it, for ever.

        A claim stays although its signature fails: another payload is then refused,
        the same one may be claimed again.

        :param max_level_jump: how many levels the mark may move at once, and the first one on a
            chain lie above the key's highest on any; None for any number.
        :raises Conflict: if another payload has it, or a higher one, or it is too far ahead.
        :raises Unavailable: while the marks are not known.
        """
        if self._missing is not None:
            raise Unavailable(self._missing)
        mark_id = MarkId.of(key, payload)
        asked = Mark(payload.level, payload.round, digest(data))
        floor = self._floors.get(payload.operation, (0, 0))
        standing = self._marks.get(mark_id)
        highest = self._highest(key) if standing is None else None
        try:
            mark = judge(mark_id, standing, asked, floor, max_level_jump, highest)
        except Conflict as conflict:
            if mark_id in self._doubtful:
                raise Unavailable(
                    f"not known until the watermark store answers: {conflict}"
                ) from None
            raise
        if standing is None:
            self._check_chains(mark_id)
        if standing is None and floor[0] == 0 and (highest is None or max_level_jump is None):
            self._log.warn(
                "the first {operation} of {key} on {chain}, level {mark.level} round "
                "{mark.round}, is taken as it comes: there is no floor to hold it to",
                operation=mark_id.operation,
                key=key,
                chain=mark_id.chain_id,
                mark=mark,  # `level` means the one of the event to Twisted
            )
        self._marks[mark_id] = mark
        return Claim(
            mark.signature,
            self._keep(mark_id, mark).addCallback(partial(_granted, mark_id, mark)),
            lambda signature: Deferred.fromCoroutine(self._complete(mark_id, mark, signature)),
            partial(self._found, mark_id, mark),
        )

    def _highest(self, key: PublicKeyHash) -> Mark | None:
        """The highest mark of a key, of any operation on any chain."""
        marks = [mark for mark_id, mark in self._marks.items() if mark_id.key == key]
        return max(marks, key=lambda mark: mark.position, default=None)

    def _check_chains(self, mark_id: MarkId) -> None:
        """Nobody may fill memory and disk with chains that he has invented."""
        chains = {other.chain_id for other in self._marks if other.key == mark_id.key}
        if mark_id.chain_id not in chains and len(chains) >= MAX_CHAINS:
            raise Conflict(
                f"{mark_id.key} has marks on {len(chains)} chains, and {mark_id.chain_id} would be "
                "one more; name the chains that it bakes on in its configuration (chains)"
            )

    def _keep(self, mark_id: MarkId, mark: Mark) -> Deferred[Mark]:
        """Write a mark, unless the store has it; the one that stands there then.

        Fails with Unavailable.
        """
        if self._stored.get(mark_id) == mark:
            return succeed(mark)
        return self._store.keep(mark_id, mark).addCallbacks(
            partial(self._kept, mark_id), partial(self._not_kept, mark_id)
        )

    def _kept(self, mark_id: MarkId, kept: Kept) -> Mark:
        self._learn(mark_id, kept.now)
        before = kept.before
        if before is not None and before.position < kept.now.position:
            # Who moves a mark knows whether the payload below has a signature that may have
            # left. Nobody else can store one for it any more.
            self._passed[mark_id, before.payload_hash] = before.signature
            if len(self._passed) > _REMEMBERED_PAYLOADS:
                self._passed.popitem(last=False)
        return kept.now

    def _not_kept(self, mark_id: MarkId, failure: Failure) -> NoReturn:
        failure.trap(StoreError)
        if self._store.shared and self._reading.running:
            # It may stand there all the same, or what another daemon has signed meanwhile.
            self._doubtful[mark_id] = self._doubtful.get(mark_id, 0) + 1
            if self._reading.interval != _RETRY_INTERVAL:  # each reset puts the reading off
                self._reading.interval = _RETRY_INTERVAL
                self._reading.reset()
        raise Unavailable(f"no signature without a stored watermark: {failure.value}")

    def _found(self, mark_id: MarkId, mark: Mark) -> Signature | None:
        standing = self._marks[mark_id]
        if standing.payload_hash == mark.payload_hash:
            return standing.signature
        return self._passed.get((mark_id, mark.payload_hash))

    async def _complete(self, mark_id: MarkId, mark: Mark, signature: Signature) -> Signature:
        # Several devices, here or at another daemon, may have signed one payload. Only one
        # signature of it may ever leave: with another signature, a block has another hash.
        mark = evolve(mark, signature=self._found(mark_id, mark) or signature)
        if self._marks[mark_id].payload_hash == mark.payload_hash:
            self._marks[mark_id] = mark
        now = await self._keep(mark_id, mark)
        if now.payload_hash == mark.payload_hash and now.signature is not None:
            return now.signature
        passed = mark_id, mark.payload_hash
        if passed not in self._passed:
            raise Conflict(
                f"another signer has moved the high watermark to level {now.level} round "
                f"{now.round} meanwhile, and may have signed this too"
            )
        first = self._passed[passed] or signature
        self._passed[passed] = first
        return first


def _granted(mark_id: MarkId, mark: Mark, now: Mark) -> Signature | None:
    """The signature that stands for this payload; raises Conflict if another payload does."""
    return judge(mark_id, now, mark).signature
