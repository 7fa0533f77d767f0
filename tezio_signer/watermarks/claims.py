"""Claims on watermarks: decided in memory at once, made durable while the HSM signs."""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import partial
from typing import NoReturn, Protocol, TypeVar

from attrs import evolve, frozen
from twisted.application.service import Service
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorFromThreads
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool

from tezio_signer.errors import Conflict, StartupError, Unavailable
from tezio_signer.tezos.keys import PublicKeyHash, Signature, digest
from tezio_signer.tezos.payload import Baking, Operation
from tezio_signer.watermarks.rule import Mark, MarkId, judge
from tezio_signer.watermarks.sqlite import StoreError

MAX_CHAINS = 16
"""Chains on which a key may have marks."""
_REMEMBERED_SIGNATURES = 1024
_Result = TypeVar("_Result")


class WatermarkStore(Protocol):
    """Keeps marks where they survive a crash. Its methods may block and raise StoreError."""

    def load(self) -> dict[MarkId, Mark]:
        """All marks of the store."""

    def keep(self, mark_id: MarkId, mark: Mark) -> None:
        """Write a mark; it survives a power cut when this returns."""

    def close(self) -> None:
        """Give the store free for others."""


class Writer(Protocol):
    """Runs what blocks, in order, one after the other."""

    def run(self, work: Callable[[], _Result]) -> Deferred[_Result]:
        """The result of the work, when its turn has come and it is done."""

    def stop(self) -> None:
        """Finish the work that was given, and end."""


class ThreadWriter:
    """A single thread, so that a slow disk stops no reactor and writes keep their order."""

    def __init__(self, reactor: IReactorFromThreads) -> None:
        self._reactor = reactor
        self._thread = ThreadPool(1, 1, "watermarks")
        self._thread.start()

    def run(self, work: Callable[[], _Result]) -> Deferred[_Result]:
        """The result of the work, delivered in the reactor's thread."""
        return deferToThreadPool(self._reactor, self._thread, work)

    def stop(self) -> None:
        """Wait for the work that was given."""
        self._thread.stop()


@frozen(eq=False)
class Claim:
    """The right to sign one payload.

    :ivar signature: the signature, if this payload was signed before.
    :ivar durable: fires when the mark, with its signature if it has one, is on the disk;
        fails with `Unavailable` if it cannot be. Until then no signature may leave.
    :ivar complete: stores the signature with the mark, and gives the one that may leave:
        the first that came for this payload; raises `Unavailable` if it cannot be stored.
    :ivar found: the signature that has come for this payload meanwhile, if one has.
    """

    signature: Signature | None
    durable: Deferred[None]
    complete: Callable[[Signature], Deferred[Signature]]
    found: Callable[[], Signature | None]


class Watermarks(Service):
    """The marks of all keys; the only place where they move.

    :param open_store: called when the service starts; raises StoreError.
    :param floors: level and round at or below which nothing is signed.
    """

    _log = Logger()

    def __init__(
        self,
        open_store: Callable[[], WatermarkStore],
        make_writer: Callable[[], Writer],
        floors: Mapping[Operation, tuple[int, int]],
    ) -> None:
        self._open_store = open_store
        self._make_writer = make_writer
        self._floors = floors
        self._marks: dict[MarkId, Mark] = {}
        self._stored: dict[MarkId, Mark] = {}
        self._signatures: OrderedDict[tuple[MarkId, bytes], Signature] = OrderedDict()

    def startService(self) -> None:
        """Open the store and read its marks; raises StartupError."""
        super().startService()
        try:
            self._store = self._open_store()
            self._stored = self._store.load()
        except StoreError as error:
            raise StartupError(str(error)) from error
        self._marks = dict(self._stored)
        self._writer = self._make_writer()

    def stopService(self) -> None:
        super().stopService()
        self._writer.stop()
        self._store.close()

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

        :param max_level_jump: how many levels the mark may move at once; None for any.
        :raises Conflict: if another payload has it, or a higher one, or it is too far ahead.
        """
        mark_id = MarkId.of(key, payload)
        asked = Mark(payload.level, payload.round, digest(data))
        floor = self._floors.get(payload.operation, (0, 0))
        standing = self._marks.get(mark_id)
        mark = judge(mark_id, standing, asked, floor, max_level_jump)
        if standing is None:
            self._check_chains(mark_id)
        if standing is None and floor[0] == 0:
            self._log.warn(
                "the first {operation} of {key} on {chain}, level {mark.level} round "
                "{mark.round}, is taken as it comes: there is no floor to hold it to",
                operation=mark_id.operation,
                key=key,
                chain=mark_id.chain_id,
                mark=mark,  # `level` means the one of the event to Twisted
            )
        self._marks[mark_id] = mark
        durable = self._keep(mark_id, mark)
        payload_id = mark_id, mark.payload_hash
        return Claim(
            mark.signature,
            durable,
            partial(self._complete, mark_id, mark),
            partial(self._signatures.get, payload_id),
        )

    def _check_chains(self, mark_id: MarkId) -> None:
        """Nobody may fill memory and disk with chains that he has invented."""
        chains = {other.chain_id for other in self._marks if other.key == mark_id.key}
        if mark_id.chain_id not in chains and len(chains) >= MAX_CHAINS:
            raise Conflict(
                f"{mark_id.key} has marks on {len(chains)} chains, and {mark_id.chain_id} would be "
                "one more; name the chains that it bakes on in its configuration (chains)"
            )

    def _keep(self, mark_id: MarkId, mark: Mark) -> Deferred[None]:
        """Write a mark, unless it is on the disk as it is; fails with Unavailable."""
        if self._stored.get(mark_id) == mark:
            return succeed(None)

        def written(_: None) -> None:
            self._stored[mark_id] = mark

        return self._writer.run(partial(self._store.keep, mark_id, mark)).addCallbacks(
            written, _not_kept
        )

    def _complete(self, mark_id: MarkId, mark: Mark, signature: Signature) -> Deferred[Signature]:
        # Two devices may have signed one payload. Only one signature of it may ever
        # leave: with another signature, a block has another hash.
        payload = mark_id, mark.payload_hash
        first = self._signatures.setdefault(payload, signature)
        if len(self._signatures) > _REMEMBERED_SIGNATURES:
            self._signatures.popitem(last=False)
        if self._marks[mark_id].position != mark.position:  # a later payload has it by now
            return succeed(first)
        self._marks[mark_id] = evolve(mark, signature=first)
        return self._keep(mark_id, self._marks[mark_id]).addCallback(lambda _: first)


def _not_kept(failure: Failure) -> NoReturn:
    failure.trap(StoreError)
    raise Unavailable(f"no signature without a stored watermark: {failure.value}")
