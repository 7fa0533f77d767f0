"""Watermarks on any store, driven at random beside a model of the rule.

Hypothesis runs in a thread of its own, so that stores which need the reactor can be
driven like the others. A store that may be shared is used by two daemons at once.
"""

from collections.abc import Callable, Coroutine
from enum import Enum
from hashlib import blake2b
from itertools import count
from random import Random
from typing import Any, TypeVar, cast

from attrs import define, evolve, field, frozen
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import Clock
from twisted.internet.threads import blockingCallFromThread, deferToThread
from twisted.python.failure import Failure

from tests.stand import reactor
from tests.vectors import TZ1, TZ3, block, consensus
from tests.watermarks.conformance import Model
from tezio_signer.errors import Conflict, Refused, Unavailable
from tezio_signer.tezos.keys import PublicKeyHash, Signature
from tezio_signer.tezos.payload import Baking, decode
from tezio_signer.watermarks.claims import REFRESH_INTERVAL, Claim, Watermarks
from tezio_signer.watermarks.rule import Mark, MarkId
from tezio_signer.watermarks.store import Kept, StoreAwayError, WatermarkStore

_Result = TypeVar("_Result")
STEPS = 50
"""Steps of one history, at most."""


class Disk(Enum):
    """What happens to the next write."""

    WELL = "it is written"
    FULL = "it is not written"
    LOST = "it is written, but nobody hears of it"


@frozen
class Place:
    """Where a store can be made and opened again and again.

    :ivar make: makes an empty one.
    :ivar open: opens it.
    :ivar read: its marks, past all caches of an open one.
    :ivar daemons: how many may use it.
    """

    make: Callable[[], Deferred[None]]
    open: Callable[[], WatermarkStore]
    read: Callable[[], Deferred[dict[MarkId, Mark]]]
    daemons: int = 1


class FaultyStore:
    """A store whose writes fail when the machine wants it."""

    def __init__(self, store: WatermarkStore) -> None:
        self._store = store
        self.shared = store.shared
        self.disk = Disk.WELL
        self.loaded: Deferred[Any] | None = None

    def load(self) -> Deferred[dict[MarkId, Mark]]:
        """All marks; `loaded` is a Deferred that fires, or fails, after whoever asked."""
        loading = self._store.load()
        self.loaded = Deferred()
        passing: Deferred[dict[MarkId, Mark]] = Deferred()

        def done(result: Any) -> None:
            passing.callback(result)
            # A reading that failed has shown nothing, and the model must not believe it has.
            cast("Deferred[Any]", self.loaded).callback(
                result if isinstance(result, Failure) else None
            )

        loading.addBoth(done)
        return passing

    def keep(self, mark_id: MarkId, mark: Mark) -> Deferred[Kept]:
        """Write, or not."""
        return Deferred.fromCoroutine(self._keep(mark_id, mark))

    async def _keep(self, mark_id: MarkId, mark: Mark) -> Kept:
        disk = self.disk
        if disk is Disk.FULL:
            raise StoreAwayError("disk full")
        kept = await self._store.keep(mark_id, mark)
        if disk is Disk.LOST:
            raise StoreAwayError("no answer")
        return kept

    def close(self) -> Deferred[None]:
        """Close what is beneath."""
        return self._store.close()


@define(eq=False)
class Daemon:
    """Watermarks as one daemon has them, and what the model expects it to remember."""

    store: FaultyStore
    clock: Clock
    watermarks: Watermarks
    memory: Model
    seen: dict[MarkId, Mark]
    claims: list[tuple[MarkId, Mark, Claim]] = field(factory=list)
    doubtful: set[MarkId] = field(factory=set)

    def learn(self, mark_id: MarkId, mark: Mark) -> None:
        """What the store has shown counts, but for a signature that only we know."""
        self.seen[mark_id] = mark
        known = self.memory.marks.get(mark_id)
        if known is None or (
            (mark.level, mark.round) >= (known.level, known.round)
            and mark != evolve(known, signature=None)
        ):
            self.memory.marks[mark_id] = mark


_PAYLOADS = [
    make(level, round_, payload_byte)
    for make in (block, lambda *where: consensus("att", *where))
    for level in (1, 2)
    for round_ in (0, 1)
    for payload_byte in (0x40, 0x41)
]
_payloads, _keys = st.sampled_from(_PAYLOADS), st.sampled_from([TZ1, TZ3])
_numbers = st.integers(0, 1)
_disks = st.sampled_from([Disk.WELL] * 3 + [Disk.FULL, Disk.LOST])


def _in_reactor(work: Callable[[], Any]) -> Any:
    return blockingCallFromThread(reactor, work)


def _await(work: Callable[[], Coroutine[Any, Any, _Result]]) -> _Result:
    return cast(_Result, _in_reactor(lambda: Deferred.fromCoroutine(work())))


def _asked(key: PublicKeyHash, data: bytes) -> tuple[MarkId, Mark]:
    payload = cast(Baking, decode(data))
    asked = Mark(payload.level, payload.round, blake2b(data, digest_size=32).digest())
    return MarkId(payload.chain_id, key, payload.operation), asked


class Machine(RuleBasedStateMachine):
    """Random histories.

    :cvar place: the kind of store.
    :cvar steps: counts what was done.
    """

    place: Place
    steps: "count[int]"

    def __init__(self) -> None:
        super().__init__()
        self.stored = Model({})
        self.released: dict[tuple[MarkId, int, int], tuple[bytes, Signature]] = {}
        self.numbers = count(1)
        _in_reactor(self.place.make)
        self.daemons = [self.started() for _ in range(self.place.daemons)]

    def started(self) -> Daemon:
        """A daemon that knows what the store holds."""

        def start() -> Daemon:
            store, clock = FaultyStore(self.place.open()), Clock()
            watermarks = Watermarks(lambda: store, {}, clock)
            watermarks.startService()
            marks = self.stored.marks
            return Daemon(store, clock, watermarks, Model(dict(marks)), dict(marks))

        daemon = cast(Daemon, _in_reactor(start))
        _in_reactor(lambda: daemon.store.loaded)
        return daemon

    def teardown(self) -> None:
        for daemon in self.daemons:
            _in_reactor(daemon.watermarks.stopService)

    def daemon(self, number: int) -> Daemon:
        """One of those that run."""
        next(self.steps)
        return self.daemons[number % len(self.daemons)]

    def agree(self) -> None:
        """The store holds what the model says."""
        assert _in_reactor(self.place.read) == self.stored.marks

    @rule(number=_numbers, key=_keys, data=_payloads, disk=_disks)
    def claim(self, number: int, key: PublicKeyHash, data: bytes, disk: Disk) -> None:
        """Claim a payload, once or again."""
        daemon = self.daemon(number)
        mark_id, asked = _asked(key, data)
        known = daemon.memory.bring(mark_id, asked)
        if known.payload_hash != asked.payload_hash:
            try:
                self._claim(daemon, key, data)
            except (Conflict, Unavailable) as error:
                # It is not known what the store holds after a write that nobody has heard of.
                assert isinstance(error, Unavailable) == (mark_id in daemon.doubtful)
                self.agree()
                return
            raise AssertionError(f"{asked} claimed against {known}")
        daemon.store.disk = disk
        claim = self._claim(daemon, key, data)
        granted: Signature | Refused | None
        try:
            granted = _await(lambda: _finished(claim.durable))
        except Refused as error:
            granted = error
        daemon.store.disk = Disk.WELL
        expected = self._committed(daemon, mark_id, known, disk)
        if isinstance(expected, Mark):
            assert granted == expected.signature, (granted, expected)
            daemon.claims.append((mark_id, asked, claim))
            if isinstance(granted, Signature):
                self._release(mark_id, asked, granted)
        else:
            assert type(granted) is expected, (granted, expected)
        self.agree()

    def _claim(self, daemon: Daemon, key: PublicKeyHash, data: bytes) -> Claim:
        payload = cast(Baking, decode(data))
        return cast(Claim, _in_reactor(lambda: daemon.watermarks.claim(key, payload, data)))

    def _committed(
        self, daemon: Daemon, mark_id: MarkId, known: Mark, disk: Disk
    ) -> Mark | type[Refused]:
        """What comes of a write: the mark that stands, or how it is refused."""
        if daemon.seen.get(mark_id) == known:
            return known  # nothing to write
        if disk is not Disk.WELL and daemon.store.shared:
            daemon.doubtful.add(mark_id)
        if disk is Disk.FULL:
            return Unavailable
        standing = self.stored.bring(mark_id, known)
        if disk is Disk.LOST:
            return Unavailable
        daemon.learn(mark_id, standing)
        return standing if standing.payload_hash == known.payload_hash else Conflict

    def _release(self, mark_id: MarkId, mark: Mark, signature: Signature) -> None:
        """What has left at one position is one payload with one signature, by whomever."""
        position = mark_id, mark.level, mark.round
        first = self.released.setdefault(position, (mark.payload_hash, signature))
        assert first == (mark.payload_hash, signature), (first, mark, signature)
        standing = self.stored.marks[mark_id]
        assert (standing.level, standing.round) >= (mark.level, mark.round)

    @precondition(lambda self: any(daemon.claims for daemon in self.daemons))
    @rule(number=_numbers, which=st.integers(0, 9), disk=_disks)
    def complete(self, number: int, which: int, disk: Disk) -> None:
        """The HSM has signed what was claimed some time ago."""
        daemon = self.daemon(number)
        if not daemon.claims:
            return
        mark_id, mark, claim = daemon.claims[which % len(daemon.claims)]
        made = Signature(mark_id.key.curve, next(self.numbers).to_bytes(64, "big"))
        daemon.store.disk = disk
        try:
            left: Any = _await(lambda: _finished(claim.complete(made)))
        except Refused as error:
            left = error
        daemon.store.disk = Disk.WELL
        known = daemon.memory.marks[mark_id]
        if known.payload_hash == mark.payload_hash:
            known = daemon.memory.bring(mark_id, evolve(known, signature=known.signature or made))
            expected = self._committed(daemon, mark_id, known, disk)
            if isinstance(expected, Mark):
                assert left == expected.signature, (left, expected)
            else:
                assert type(left) is expected, (left, expected)
        else:
            # A later payload was claimed; but its mark may not have come to the store.
            self._committed(daemon, mark_id, evolve(mark, signature=made), disk)
        if isinstance(left, Signature):
            self._release(mark_id, mark, left)
        self._catch_up(daemon, mark_id)
        self.agree()

    def _catch_up(self, daemon: Daemon, mark_id: MarkId) -> None:
        """A write that came too late for its mark still shows the one that stands."""
        shown = daemon.watermarks._stored.get(mark_id)
        if shown is not None and shown == self.stored.marks.get(mark_id):
            daemon.learn(mark_id, shown)

    @rule(number=_numbers)
    def restart(self, number: int) -> None:
        """A daemon ends, and another one begins with what is in the store."""
        daemon = self.daemon(number)
        _in_reactor(daemon.watermarks.stopService)
        self.daemons[self.daemons.index(daemon)] = self.started()
        self.agree()

    @precondition(lambda self: len(self.daemons) > 1)
    @rule(number=_numbers)
    def refresh(self, number: int) -> None:
        """A daemon looks what the others have done."""
        daemon = self.daemon(number)
        self._refresh(daemon)

    def _refresh(self, daemon: Daemon) -> None:
        _in_reactor(lambda: daemon.clock.advance(REFRESH_INTERVAL))
        _in_reactor(lambda: daemon.store.loaded)
        for mark_id, mark in self.stored.marks.items():
            daemon.learn(mark_id, mark)
        daemon.doubtful.clear()

    @precondition(lambda self: len(self.daemons) > 1)
    @rule(key=_keys, first=_payloads, second=_payloads)
    def race(self, key: PublicKeyHash, first: bytes, second: bytes) -> None:
        """Two daemons claim at the same moment; of two at one position, one is granted."""
        next(self.steps)

        async def claims() -> list[Any]:
            return await gatherResults(
                [
                    Deferred.fromCoroutine(_attempt(daemon, key, data))
                    for daemon, data in zip(self.daemons, (first, second), strict=False)
                ]
            )

        outcomes = _await(claims)
        asked = [_asked(key, data) for data in (first, second)]
        if first != second and asked[0][0] == asked[1][0]:
            positions = {(mark.level, mark.round) for _, mark in asked}
            granted = sum(not isinstance(outcome, Refused) for outcome in outcomes)
            assert granted < 2 or len(positions) == 2, outcomes
        # Who was first is for the store to say.
        self.stored = Model(_in_reactor(self.place.read))
        for (mark_id, mark), outcome in zip(asked, outcomes, strict=True):
            if isinstance(outcome, Signature):
                self._release(mark_id, mark, outcome)
        for daemon in self.daemons:
            self._refresh(daemon)


async def _finished(waiting: Deferred[_Result]) -> _Result:
    return await waiting


async def _attempt(daemon: Daemon, key: PublicKeyHash, data: bytes) -> Any:
    """What one daemon says to a claim: a refusal, a signature, or None for go on."""
    try:
        return await daemon.watermarks.claim(key, cast(Baking, decode(data)), data).durable
    except Refused as refused:
        return refused


def drive(place: Place, steps: int, beginning: int = 0) -> Deferred[int]:
    """Run histories until so many steps are done; how many were done."""

    class OnThisPlace(Machine):
        pass

    OnThisPlace.place = place
    OnThisPlace.steps = count()
    one = settings(
        max_examples=max(1, steps // STEPS),
        stateful_step_count=STEPS,
        deadline=None,
        database=None,
        phases=[Phase.generate],  # shrinking takes minutes, in a thread that nothing can end
        suppress_health_check=list(HealthCheck),
    )

    def run() -> int:
        random = Random(beginning)
        while (done := next(OnThisPlace.steps)) < steps:
            OnThisPlace.steps = count(done)
            seeded = seed(random.getrandbits(64))(OnThisPlace)
            run_state_machine_as_test(seeded, settings=one)
        return done

    return deferToThread(run)
