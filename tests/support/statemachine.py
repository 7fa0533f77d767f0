"""Watermarks on any store, driven at random beside a model of the rule.

Hypothesis runs in a thread of its own, so that stores which need the reactor can be
driven like the others. A store that may be shared is used by two daemons at once.
"""

from collections import defaultdict
from collections.abc import Callable, Coroutine
from hashlib import blake2b
from itertools import count
from random import Random
from typing import Any, TypeVar, cast

from attrs import evolve, frozen
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import Clock
from twisted.internet.threads import blockingCallFromThread, deferToThread

from tests.support.harness import reactor
from tests.support.modeldaemon import Daemon
from tests.support.stores import Disk, Faults, Model, WatchedStore
from tests.support.vectors import TZ1, TZ3, block, consensus
from tezio_signer.errors import Conflict, Refused, Unavailable
from tezio_signer.tezos.keys import PublicKeyHash, Signature
from tezio_signer.tezos.payload import Baking, decode
from tezio_signer.watermarks.claims import Claim, Watermarks
from tezio_signer.watermarks.readingloop import REFRESH_INTERVAL
from tezio_signer.watermarks.rule import Mark, MarkId
from tezio_signer.watermarks.store import Kept, WatermarkStore

_Result = TypeVar("_Result")
STEPS = 50
"""Steps of one history, at most."""


@frozen
class Place:
    """Where a store can be made and opened again and again.

    :ivar make: makes an empty one.
    :ivar open: opens it, with what strikes it beneath.
    :ivar read: its marks, past all caches of an open one.
    :ivar daemons: how many may use it.
    """

    make: Callable[[], Deferred[None]]
    open: Callable[[Faults], WatermarkStore]
    read: Callable[[], Deferred[dict[MarkId, Mark]]]
    daemons: int = 1


_PAYLOADS = [
    make(level, round_, payload_byte)
    for make in (block, lambda *where: consensus("att", *where))
    for level in (1, 2)
    for round_ in (0, 1)
    for payload_byte in (0x40, 0x41)
]
_payloads, _keys = st.sampled_from(_PAYLOADS), st.sampled_from([TZ1, TZ3])
_numbers = st.integers(0, 1)
_faults = st.tuples(
    st.sampled_from([Disk.WELL] * 3 + [Disk.FULL, Disk.LOST]), st.sampled_from([0, 0, 1])
)
_Fault = tuple[Disk, int]


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
        self.held: defaultdict[MarkId, list[Mark]] = defaultdict(list)
        self.granted: dict[tuple[MarkId, int, int], bytes] = {}
        self.released: dict[tuple[MarkId, int, int], tuple[bytes, Signature]] = {}
        self.numbers = count(1)
        _in_reactor(self.place.make)
        self.daemons = [self.started() for _ in range(self.place.daemons)]

    def started(self) -> Daemon:
        """A daemon that knows what the store holds."""

        def start() -> Daemon:
            faults, clock = Faults(), Clock()
            store = WatchedStore(self.place.open(faults))
            watermarks = Watermarks(lambda: store, {}, clock)
            watermarks.startService()
            return Daemon(store, faults, clock, watermarks, Model(dict(self.stored.marks)))

        daemon = cast(Daemon, _in_reactor(start))
        assert _in_reactor(lambda: daemon.store.loaded)
        assert daemon.store.shown == self.stored.marks
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
        for mark_id, mark in self.stored.marks.items():
            self.held[mark_id].append(mark)

    @rule(number=_numbers, key=_keys, data=_payloads, fault=_faults)
    def claim(self, number: int, key: PublicKeyHash, data: bytes, fault: _Fault) -> None:
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
        shown = daemon.store.shown.get(mark_id)
        daemon.faults.set(*fault)
        claim = self._claim(daemon, key, data)
        assert claim.signature == known.signature
        granted = _outcome(lambda: claim.durable)
        now = self._written(daemon, mark_id, shown, known)
        if now is None:
            assert type(granted) is Unavailable, granted
        elif now.payload_hash != known.payload_hash:
            assert type(granted) is Conflict, (granted, now)
        else:
            assert granted == now.signature, (granted, now)
            self._grant(daemon, mark_id, asked, claim, granted)
        self.agree()

    def _claim(self, daemon: Daemon, key: PublicKeyHash, data: bytes) -> Claim:
        payload = cast(Baking, decode(data))
        return cast(Claim, _in_reactor(lambda: daemon.watermarks.claim(key, payload, data)))

    def _written(
        self, daemon: Daemon, mark_id: MarkId, shown: Mark | None, brought: Mark
    ) -> Mark | None:
        """What the daemon has to believe after a write: what it was shown; None if it failed.

        :param shown: what it was shown before.
        """
        disk, struck, daemon_kept = daemon.faults.disk, daemon.faults.struck, daemon.store.kept
        daemon.faults.set(Disk.WELL)
        before = self.stored.marks.get(mark_id)
        if struck:
            assert not daemon_kept
            if daemon.store.shared:
                daemon.doubtful.add(mark_id)
            self._unheard(disk, mark_id, shown == before, brought)
            return None
        if shown == brought:
            assert not daemon_kept
            return shown  # nothing to write
        now = self.stored.bring(mark_id, brought)
        ((_, kept),) = daemon_kept
        if now != before:
            assert kept == Kept(before, now), (kept, before, now)
        else:
            # It may be outdated; but it has been there, and has kept out what was brought.
            assert kept.before == kept.now
            assert kept.now == now or kept.now in self.held[mark_id]
            assert Model({mark_id: kept.now}).bring(mark_id, brought) == kept.now
        daemon.learn_kept()
        return kept.now

    def _unheard(self, disk: Disk, mark_id: MarkId, current: bool, brought: Mark) -> None:
        """See what a write has done that nobody has heard of.

        :param current: whether it was known what was there; otherwise it may have failed.
        """
        before = dict(self.stored.marks)
        if disk is Disk.LOST:
            self.stored.bring(mark_id, brought)
            if not current and _in_reactor(self.place.read) == before:
                self.stored = Model(before)

    def _grant(
        self, daemon: Daemon, mark_id: MarkId, mark: Mark, claim: Claim, granted: Signature | None
    ) -> None:
        """What may be signed at one position is one payload, by whomever."""
        position = mark_id, mark.level, mark.round
        assert self.granted.setdefault(position, mark.payload_hash) == mark.payload_hash
        standing = self.stored.marks[mark_id]
        assert standing.position > mark.position or standing.payload_hash == mark.payload_hash
        daemon.claims.append((mark_id, mark, claim))
        if granted is not None:
            self._release(mark_id, mark, granted)

    def _release(self, mark_id: MarkId, mark: Mark, signature: Signature) -> None:
        """What has left at one position is one payload with one signature, by whomever."""
        position = mark_id, mark.level, mark.round
        first = self.released.setdefault(position, (mark.payload_hash, signature))
        assert first == (mark.payload_hash, signature), (first, mark, signature)
        standing = self.stored.marks[mark_id]
        kept = standing == evolve(mark, signature=signature)
        assert standing.position > mark.position or kept, (standing, mark, signature)

    # Whether there are claims is no precondition: where a race decides, it could not be repeated.
    @rule(number=_numbers, which=st.integers(0, 9), fault=_faults)
    def complete(self, number: int, which: int, fault: _Fault) -> None:
        """The HSM has signed what was claimed some time ago."""
        daemon = self.daemon(number)
        if not daemon.claims:
            return
        mark_id, mark, claim = daemon.claims[which % len(daemon.claims)]
        made = Signature(mark_id.key.curve, next(self.numbers).to_bytes(64, "big"))
        known, passed = daemon.memory.marks[mark_id], (mark_id, mark.payload_hash)
        still = known.payload_hash == mark.payload_hash  # or a later payload was claimed
        found = known.signature if still else daemon.passed.get(passed)
        assert claim.found() == found
        brought = evolve(mark, signature=found or made)
        if still:
            daemon.memory.marks[mark_id] = brought
        shown = daemon.store.shown.get(mark_id)
        daemon.faults.set(*fault)
        left = _outcome(lambda: claim.complete(made))
        now = self._written(daemon, mark_id, shown, brought)
        if now is None:
            assert type(left) is Unavailable, left
        elif now.payload_hash == mark.payload_hash:
            assert left == now.signature is not None, (left, now)
        elif passed in daemon.passed:
            # Who has moved the mark knows what may have left; nobody else can have signed.
            assert left == (daemon.passed[passed] or made)
            daemon.passed[passed] = left
        else:
            assert type(left) is Conflict, (left, now)
        if isinstance(left, Signature):
            self._release(mark_id, mark, left)
            assert claim.found() in (None, left)
        self.agree()

    @rule(number=_numbers)
    def restart(self, number: int) -> None:
        """A daemon ends, and another one begins with what is in the store."""
        daemon = self.daemon(number)
        _in_reactor(daemon.watermarks.stopService)
        self.daemons[self.daemons.index(daemon)] = self.started()
        self.agree()

    @precondition(lambda self: len(self.daemons) > 1)
    @rule(number=_numbers, fault=_faults)
    def refresh(self, number: int, fault: _Fault) -> None:
        """A daemon looks what the others have done."""
        daemon = self.daemon(number)
        daemon.faults.set(*fault)
        self._refresh(daemon)

    def _refresh(self, daemon: Daemon) -> None:
        _in_reactor(lambda: daemon.clock.advance(REFRESH_INTERVAL))
        read, struck = _in_reactor(lambda: daemon.store.loaded), daemon.faults.struck
        daemon.faults.set(Disk.WELL)
        assert read != struck
        if not read:
            return
        assert daemon.store.shown == self.stored.marks
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
        # Who was first is for the store to say; but no mark goes back.
        before, self.stored = self.stored.marks, Model(_in_reactor(self.place.read))
        for mark_id, mark in before.items():
            assert Model(dict(self.stored.marks)).bring(mark_id, mark) == self.stored.marks[mark_id]
        for daemon in self.daemons:
            for mark_id, kept in daemon.store.kept:
                self.held[mark_id].append(kept.now)
            daemon.learn_kept()
        for daemon, data, (claim, outcome) in zip(
            self.daemons, (first, second), outcomes, strict=True
        ):
            if not isinstance(outcome, Refused):
                self._grant(daemon, *_asked(key, data), claim, outcome)
        for daemon in self.daemons:
            self._refresh(daemon)
        self.agree()


async def _ended(waiting: Callable[[], Deferred[Any]]) -> Any:
    try:
        return await waiting()
    except Refused as refused:
        return refused


def _outcome(waiting: Callable[[], Deferred[Any]]) -> Any:
    """What comes of a claim or its completion: a refusal, a signature, or None for go on."""
    return _await(lambda: _ended(waiting))


async def _attempt(daemon: Daemon, key: PublicKeyHash, data: bytes) -> tuple[Claim | None, Any]:
    """A claim by one daemon, and what comes of it."""
    try:
        claim = daemon.watermarks.claim(key, cast(Baking, decode(data)), data)
    except Refused as refused:
        return None, refused
    return claim, await _ended(lambda: claim.durable)


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
