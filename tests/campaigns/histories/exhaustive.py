"""Every order of events, with a few faults among them; equal states are visited once.

A state is made again from its events, which are few, and known by its fingerprint. States are
visited in the order of the faults that may still come, so that each is visited once, with as
many of them as it can be reached with.
"""

import gc
from collections import Counter
from collections.abc import Callable, Iterator
from typing import NamedTuple

from attrs import define, field

from tests.campaigns.histories.ending import finish
from tests.campaigns.histories.events import Event, Setup
from tests.campaigns.histories.fingerprint import fingerprint
from tests.campaigns.histories.independence import enough
from tests.campaigns.histories.offers import offers
from tests.campaigns.histories.random_search import History, Outcome, replay
from tests.campaigns.histories.referee import Figures
from tests.campaigns.histories.surroundings import Surroundings
from tests.campaigns.histories.world import World

FAULTS = frozenset(
    ("lose", "late", "double", "crash", "pause", "pull", "power", "leave", "raise", "spoil", "stop")
)
_FREE = frozenset(("arrive", "start", "resume", "plug"))
SETUP = Setup(daemons=2, sides=2, kinds=FAULTS | _FREE, prompt_readings=True, idle_looks=False)
"""Two daemons with a board each, on one etcd, and two payloads for one position."""
ONCE = (Event("ask", "d0", 4), Event("ask", "d1", 5))
"""Each payload is asked for at one daemon."""
CROSSWISE = (*ONCE, Event("ask", "d1", 4), Event("ask", "d0", 5))
"""Each payload is asked for at both daemons."""
_COLLECT_EVERY = 100


class _Path(NamedTuple):
    """How a state is reached.

    :ivar before: the path without the last event.
    """

    before: "_Path | None"
    event: Event
    length: int

    def events(self) -> list[Event]:
        """From the first on."""
        events: list[Event] = []
        path: _Path | None = self
        while path is not None:
            events.append(path.event)
            path = path.before
        return events[::-1]


@define
class Found:
    """What a search has found.

    :ivar states: how many there are, by the faults that had happened.
    :ivar transitions: events that have happened on all paths.
    :ivar ends: of those, where nothing is under way, and faults were ended.
    :ivar longest: events to the state that is furthest away.
    :ivar paths: ways that were gone from the beginning.
    :ivar left: ways that are still to be gone.
    :ivar complete: whether there is no state that was not visited.
    :ivar outcome: the first history that breaks a rule.
    """

    states: Counter[int] = field(factory=Counter)
    transitions: int = 0
    ends: int = 0
    longest: int = 0
    paths: int = 0
    left: int = 0
    complete: bool = False
    figures: Figures = field(factory=Figures)
    outcome: Outcome | None = None


class Search:
    """One search through all states.

    :param asks: what clients ask for, in any order, each once.
    :param faults: how many may happen.
    :param kinds: of faults.
    :param most_states: after which the search ends, complete or not.
    :param reduced: go through one order only of what is independent (`independence`).
    """

    def __init__(
        self,
        outside: Surroundings,
        asks: tuple[Event, ...] = ONCE,
        faults: int = 2,
        kinds: frozenset[str] = FAULTS,
        most_states: int | None = None,
        reduced: bool = True,
    ) -> None:
        self._outside = outside
        self._asks = asks
        self._faults = faults
        self._kinds = kinds
        self._most_states = most_states
        self._reduced = reduced
        self._seen: set[bytes] = set()
        self._recent: list[_Path] = []
        self._left: list[list[_Path]] = [[] for _ in range(faults + 1)]
        self.found = Found()

    def run(self, progress: Callable[[Found], object] = bool) -> Found:
        """Visit all states, up to the first that breaks a rule."""
        found = self.found
        self._walk(None, 0)
        for faults, paths in enumerate(self._left):
            while paths and found.outcome is None:
                self._walk(paths.pop(), faults)
                found.paths += 1
                if found.paths % _COLLECT_EVERY == 0 or not paths:
                    self._collect()
                    found.left = sum(map(len, self._left))
                    progress(found)
                if self._most_states is not None and len(self._seen) >= self._most_states:
                    return found
        if found.outcome is not None:
            return found
        found.complete = True
        return found

    def _collect(self) -> None:
        gc.collect()
        gc.freeze()  # what is left are paths, of which there are many
        recent, self._recent = self._recent, []
        if not self._outside.tracebacks or self.found.outcome is not None:
            return
        self._outside.tracebacks.clear()
        for path in recent:  # of which of them did nobody see the failure?
            outcome = replay(History(SETUP, tuple(path.events())), self._outside, collect=True)
            if outcome.violations:
                self.found.outcome = outcome
                return

    def _walk(self, path: _Path | None, faults: int) -> None:
        """Go on from the end of a path until a state is reached that was seen."""
        world = World(SETUP, self._outside)
        asks = list(self._asks)
        for event in path.events() if path is not None else ():
            self._do(world, event, asks)
        while not world.referee.violations:
            events, strikes = self._next(world, asks, faults)
            over = is_over(world, asks)
            # Where only one thing can happen it is not looked whether this was seen before.
            if strikes or over or len(events) != 1 or events[0].kind == "time":
                if not self._is_new(world, asks):
                    break
                self.found.states[faults] += 1
            for event in strikes:
                self._leave(path, event, faults + 1)
            if over or not events:  # or a client waits for nothing
                self.found.ends += over
                for event in events:
                    self._leave(path, event, faults)
                finish(world)
                break
            for event in events[1:]:
                self._leave(path, event, faults)
            path = self._longer(path, events[0])
            self._do(world, events[0], asks)
        if world.referee.violations:
            told = tuple(path.events()) if path is not None else ()
            referee = world.referee
            self.found.outcome = Outcome(
                History(SETUP, told), tuple(referee.violations), referee.figures
            )
        if path is not None:
            self._recent.append(path)
        self.found.figures.add(world.referee.figures)

    def _next(
        self, world: World, asks: list[Event], faults: int
    ) -> tuple[list[Event], list[Event]]:
        """What may happen next, and what faults."""
        events = list(self._events_of(world, asks))
        strikes = list(self._faults_of(world)) if faults < self._faults else []
        if self._reduced:
            return enough(world, events, strikes, self._faults - faults)
        return events, strikes

    def _is_new(self, world: World, asks: list[Event]) -> bool:
        """Whether this state is met for the first time."""
        state = fingerprint(world) + bytes(self._asks.index(ask) for ask in asks)
        if state in self._seen:
            return False
        self._seen.add(state)
        return True

    def _do(self, world: World, event: Event, asks: list[Event]) -> None:
        self.found.transitions += 1
        assert world.do(event), event
        if event.kind == "ask":
            asks.remove(event)

    def _longer(self, path: _Path | None, event: Event) -> _Path:
        length = 1 if path is None else path.length + 1
        self.found.longest = max(self.found.longest, length)
        return _Path(path, event, length)

    def _leave(self, path: _Path | None, event: Event, faults: int) -> None:
        """Remember to go this way later."""
        self._left[faults].append(self._longer(path, event))

    def _faults_of(self, world: World) -> Iterator[Event]:
        for offer in offers(world):
            if offer.kind in self._kinds:
                for number in range(offer.choices):
                    message = world.network.peek(offer.where, number)
                    if not (offer.kind == "late" and message is not None and message.late):
                        yield Event(offer.kind, offer.where, number)

    def _events_of(self, world: World, asks: list[Event]) -> Iterator[Event]:
        for ask in asks:
            if world.machines[ask.where].running is not None:
                yield ask
        for offer in offers(world):
            if offer.kind in _FREE:
                # A long pause is no way to have what is under way arrive late.
                long = offer.kind == "resume" and not world.is_quiet()
                for number in range(1 if long else offer.choices):
                    yield Event(offer.kind, offer.where, number)
        if world.waits_for_time():
            yield Event("time")


def is_over(world: World, asks: list[Event]) -> bool:
    """Whether all that was asked for has had its answer, and nothing is under way."""
    processes = [machine.process for machine in world.machines.values()]
    waiting = any(process.clients for process in processes if process is not None)
    return not (asks or waiting or world.network.ways)
