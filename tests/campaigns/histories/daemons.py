"""One signer's machine, and the process on it: the real signer, watermarks and pool of boards."""

from collections.abc import Callable, Sequence
from functools import partial

from attrs import define
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from tests.campaigns.histories.boards import MemoryBoard
from tests.campaigns.histories.referee import Referee
from tests.campaigns.signing import Asked
from tests.support.fakeboard import FakePorts
from tests.support.harness import settings_with, submission
from tezio_signer.errors import Conflict, StartupError
from tezio_signer.hsm.pool import HsmPool
from tezio_signer.serialhsm import HsmProtocol
from tezio_signer.signer import Signer
from tezio_signer.tezos.keys import PublicKeyHash, Signature
from tezio_signer.tezos.payload import Baking
from tezio_signer.watermarks.claims import Claim, Watermarks
from tezio_signer.watermarks.entry import Entries
from tezio_signer.watermarks.rule import Mark, MarkId
from tezio_signer.watermarks.store import Kept, Spent, WatermarkStore

OpenStore = Callable[[str, Clock, Callable[[], bool]], WatermarkStore]
"""Opens the store for a daemon, on its clock, which is asked nothing once it is dead."""
_SETTINGS = settings_with()
_STOPPING = "the signer is stopping"
_LOOK = "_look"  # what the pool calls when it looks for boards


class WatchedStore:
    """A store of whose answers it is remembered what they leave in doubt.

    :ivar doubtful: marks whose move has failed, and none has been read since.
    :ivar was_read: whether its marks have been read.
    """

    def __init__(self, store: WatermarkStore) -> None:
        self._store = store
        self.shared = store.shared
        self.doubtful: set[MarkId] = set()
        self.was_read = False
        self._highest: dict[MarkId, tuple[int, int]] = {}
        self._failed: set[MarkId] = set()

    def load(self) -> Deferred[dict[MarkId, Mark]]:
        """Read all marks."""
        doubtful, self._failed = set(self.doubtful), set()

        def read(marks: dict[MarkId, Mark]) -> dict[MarkId, Mark]:
            self.was_read = True
            self.doubtful -= doubtful - self._failed
            for mark_id, mark in marks.items():
                self._note(mark_id, mark)
            return marks

        return self._store.load().addCallback(read)

    def keep(self, mark_id: MarkId, mark: Mark) -> Deferred[Kept]:
        """Write a mark."""

        def kept(done: Kept) -> Kept:
            self._note(mark_id, done.now)
            return done

        def failed(failure: Failure) -> Failure:
            # What was there once is certain, although it is written once more.
            if self.shared and mark.position > self._highest.get(mark_id, (-1, -1)):
                self._failed.add(mark_id)
                self.doubtful.add(mark_id)
            return failure

        return self._store.keep(mark_id, mark).addCallbacks(kept, failed)

    def spent(self, key: PublicKeyHash) -> Deferred[Entries]:
        """All entries of a key."""
        return self._store.spent(key)

    def spend(self, spent: Spent) -> Deferred[Entries | None]:
        """Write entries."""
        return self._store.spend(spent)

    def _note(self, mark_id: MarkId, mark: Mark) -> None:
        self._highest[mark_id] = max(mark.position, self._highest.get(mark_id, mark.position))

    def close(self) -> Deferred[None]:
        """Close what is beneath."""
        return self._store.close()


class WatchedWatermarks(Watermarks):
    """Watermarks that must not refuse for good what is in doubt.

    :ivar watched: the store, once it is open.
    """

    def __init__(
        self,
        open_store: Callable[[], WatermarkStore],
        clock: Clock,
        give_up: Callable[[StartupError], object],
        referee: Referee,
    ) -> None:
        super().__init__(self._open_watched, {}, clock, give_up)
        self.watched: WatchedStore | None = None
        self._open_below = open_store
        self._referee = referee

    def _open_watched(self) -> WatchedStore:
        self.watched = WatchedStore(self._open_below())
        return self.watched

    def claim(
        self,
        key: PublicKeyHash,
        payload: Baking,
        data: bytes,
        max_level_jump: int | None = None,
        floor: tuple[int, int] | None = None,
    ) -> Claim:
        mark_id = MarkId.of(key, payload)
        doubtful = self.watched is not None and mark_id in self.watched.doubtful
        try:
            return super().claim(key, payload, data, max_level_jump, floor)
        except Conflict as conflict:
            if doubtful:
                self._referee.violated("certain in doubt", conflict)
            raise


@define(eq=False)
class _Asking:
    """A client that waits."""

    asked: Asked
    waiting: Deferred[Signature]


class Process:
    """A signer process from its start to its end.

    :ivar alive: False once it has ended, however that was.
    :ivar clients: who waits for a signature, in the order in which they came.
    :param ended: called when the process decides to end.
    :raises StartupError: as the daemon's command does.
    """

    def __init__(
        self,
        name: str,
        now: float,
        open_store: OpenStore,
        boards: Sequence[MemoryBoard],
        referee: Referee,
        ended: Callable[[], object],
    ) -> None:
        self.alive = True
        self.clients: list[_Asking] = []
        self.clock = Clock()
        self.clock.rightNow = now
        self._name = name
        self._boards = boards
        self._referee = referee
        self._look: Callable[[], object] | None = None

        self.watermarks = WatchedWatermarks(
            partial(open_store, name, self.clock, self.is_alive),
            self.clock,
            lambda _: ended(),
            referee,
        )
        self.pool = HsmPool(
            self.clock,
            FakePorts(
                self.clock,
                lambda: [board.board() for board in boards if board.plugged],
                self._open_port,
                self._watch,
            ),
        )
        self.signer = Signer(_SETTINGS, self.pool, self.watermarks, self.clock)
        self.watermarks.startService()
        self.pool.startService()

    def is_alive(self) -> bool:
        """Whether it has not ended."""
        return self.alive

    @property
    def was_read(self) -> bool:
        """Whether it knows the marks of the store."""
        return self.watermarks.watched is not None and self.watermarks.watched.was_read

    def _open_port(self, protocol: HsmProtocol, port: str) -> object:
        (board,) = (board for board in self._boards if board.board().port == port)
        return board.open(protocol)

    def _watch(self, look: Callable[[], object]) -> Callable[[], object]:
        self._look = look
        return self._unwatch

    def _unwatch(self) -> None:
        self._look = None

    def look(self) -> None:
        """A board came or went."""
        if self._look is not None:
            self._look()

    def ask(self, asked: Asked) -> None:
        """A client asks for a signature."""
        self._referee.asks(asked)
        waiting = self.signer.submit(submission(asked.data, asked.mark_id.key))
        asking = _Asking(asked, waiting)
        self.clients.append(asking)
        waiting.addCallbacks(self._signed, self._refused, (asking,), errbackArgs=(asking,))

    def _signed(self, signature: Signature, asking: _Asking) -> None:
        if self.alive:
            self.clients.remove(asking)
            self._referee.signed(self._name, asking.asked, signature)

    def _refused(self, failure: Failure, asking: _Asking) -> None:
        if not self.alive:
            return
        self.clients.remove(asking)
        if not failure.check(CancelledError):
            assert failure.value is not None
            self._referee.refused(asking.asked, failure.value)

    def leave(self, number: int) -> None:
        """A client goes away."""
        self.clients[number].waiting.cancel()

    def next_call(self) -> float | None:
        """When it has something to do by itself."""
        return min((call.getTime() for call in self.clock.calls), default=None)

    def only_looks(self, until: float) -> bool:
        """Whether all that it does until then is to look for boards."""
        due = [call for call in self.clock.calls if call.getTime() <= until]
        return all(getattr(call.func, "__name__", "") == _LOOK for call in due)

    def besides_looks(self) -> object:
        """What a look for boards changes, unless it finds what was known."""
        later = [
            call.getTime()
            for call in self.clock.calls
            if getattr(call.func, "__name__", "") != _LOOK
        ]
        ready = [device.ready for device in self.pool.devices.values()]
        return later, ready, list(self.clients)

    def advance(self, now: float) -> bool:
        """Let it do what is due; whether something was."""
        self.clock.rightNow = now
        due = self.next_call()
        if due is None or due > now:
            return False
        self.clock.advance(0)
        return True

    def crash(self) -> None:
        """End at once."""
        self.alive = False
        self.clients.clear()
        for board in self._boards:
            if board.port is not None:
                board.port.is_open = False
                board.port = None

    def stop(self) -> None:
        """End in order, without the time that requests in progress are given."""
        self.signer.close(_STOPPING)
        self.signer.refuse_all(_STOPPING)
        self.pool.stopService()
        self.watermarks.stopService()
        self.crash()


class Machine:
    """Where a daemon runs, with its boards.

    :ivar process: None while it does not run.
    :ivar paused: the process gets no time; what is sent to it waits.
    :ivar noticed: what it will notice when it goes on.
    """

    def __init__(self, name: str, boards: Sequence[MemoryBoard]) -> None:
        self.name = name
        self.boards = boards
        self.process: Process | None = None
        self.paused = False
        self.noticed: list[Callable[[], object]] = []

    @property
    def running(self) -> Process | None:
        """The process, if it gets time."""
        return None if self.paused else self.process

    def notice(self, what: Callable[[], object]) -> None:
        """Something that the process sees now, or when it goes on."""
        if self.paused:
            self.noticed.append(what)
        elif self.process is not None:
            what()
