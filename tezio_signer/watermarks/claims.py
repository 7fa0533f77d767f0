"""Claims on watermarks: decided in memory at once, made durable while the HSM signs."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Protocol, TypeVar

from attrs import evolve, frozen
from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorFromThreads
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool

from tezio_signer.errors import StartupError, Unavailable
from tezio_signer.tezos.keys import PublicKeyHash, Signature, digest
from tezio_signer.tezos.payload import Baking, Operation
from tezio_signer.watermarks.rule import Mark, MarkId, judge
from tezio_signer.watermarks.sqlite import StoreError

_Result = TypeVar("_Result")


class WatermarkStore(Protocol):
    """Keeps marks where they survive a crash. Its methods may block and raise StoreError."""

    def load(self) -> dict[MarkId, Mark]:
        """All marks of the store."""

    def keep(self, mark_id: MarkId, mark: Mark) -> None:
        """Write a mark; it survives a power cut when this returns."""

    def keep_signature(self, mark_id: MarkId, mark: Mark) -> None:
        """Add the signature to a mark; it survives a crash of the process on return."""

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
    :ivar durable: fires when the mark is on the disk; fails with `Unavailable` if it
        cannot be. Until then no signature may leave.
    :ivar complete: stores the signature with the mark; its Deferred always succeeds.
    """

    signature: Signature | None
    durable: Deferred[None]
    complete: Callable[[Signature], Deferred[None]]


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

    def startService(self) -> None:
        """Open the store and read its marks; raises StartupError."""
        super().startService()
        try:
            self._store = self._open_store()
            self._marks = self._store.load()
        except StoreError as error:
            raise StartupError(str(error)) from error
        self._writer = self._make_writer()

    def stopService(self) -> None:
        super().stopService()
        self._writer.stop()
        self._store.close()

    def claim(self, key: PublicKeyHash, payload: Baking, data: bytes) -> Claim:
        """Claim the position of a payload for it, for ever.

        A claim stays although its signature fails: another payload is then refused,
        the same one may be claimed again.

        :raises Conflict: if another payload has it, or a higher one.
        """
        mark_id = MarkId.of(key, payload)
        asked = Mark(payload.level, payload.round, digest(data))
        floor = self._floors.get(payload.operation, (0, 0))
        mark = judge(mark_id, self._marks.get(mark_id), asked, floor)
        self._marks[mark_id] = mark
        if mark.signature is not None:
            durable: Deferred[None] = Deferred()
            durable.callback(None)
        else:
            durable = self._writer.run(partial(self._store.keep, mark_id, mark))
            durable.addErrback(_not_kept)
        return Claim(mark.signature, durable, partial(self._complete, mark_id, mark))

    def _complete(self, mark_id: MarkId, mark: Mark, signature: Signature) -> Deferred[None]:
        signed = evolve(mark, signature=signature)
        if self._marks[mark_id] == mark:  # else a later payload has it by now
            self._marks[mark_id] = signed
        kept = self._writer.run(partial(self._store.keep_signature, mark_id, signed))
        kept.addErrback(self._signature_not_kept)
        return kept

    def _signature_not_kept(self, failure: Failure) -> None:
        # The position is durable, so the signature may leave; only a repeated
        # request after a restart would have to be signed anew.
        failure.trap(StoreError)
        self._log.error("signature not stored: {error}", error=failure.value)


def _not_kept(failure: Failure) -> None:
    failure.trap(StoreError)
    raise Unavailable(f"no signature without a stored watermark: {failure.value}")
