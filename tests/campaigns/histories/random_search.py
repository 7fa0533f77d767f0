"""Histories whose events a seed chooses, and the shortening of those that fail."""

import gc
from collections.abc import Callable, Sequence
from random import Random

from attrs import evolve, frozen

from tests.campaigns.histories.ending import finish
from tests.campaigns.histories.events import MARKS, Event, Setup
from tests.campaigns.histories.offers import offers as offers_of
from tests.campaigns.histories.referee import Figures, Violation
from tests.campaigns.histories.surroundings import Surroundings
from tests.campaigns.histories.world import World

STEPS = (60, 250, 250, 400)
"""Events of one history, at most."""
_USUAL = {"arrive": 12.0, "time": 2.0, "ask": 2.0, "advance": 0.6, "start": 1.0, "resume": 1.0}
_USUAL |= {"plug": 1.0, "back": 0.5}
_FAULTS = (
    *("lose", "double", "spoil", "leave", "crash", "stop", "pause", "pull", "power", "mute"),
    *("raise", "wipe", "backup", "restore", "fail"),
)
_RATES = (0.0, 0.0, 0.1, 0.3, 1.0)
_SELDOM = {"pull": 0.3, "power": 0.5, "mute": 0.2, "raise": 0.3, "wipe": 0.2, "restore": 0.3}
_SELDOM |= {"crash": 0.4, "stop": 0.2, "pause": 0.4}
EVERY_KIND = frozenset((*_USUAL, *_FAULTS))
_COLLECT_EVERY = 20


@frozen
class History:
    """What is needed to have everything happen once more."""

    setup: Setup
    events: tuple[Event, ...]


@frozen
class Outcome:
    """What has come of a history."""

    history: History
    violations: tuple[Violation, ...]
    figures: Figures


def setup_of(random: Random) -> Setup:
    """What a history begins with."""
    shared = random.random() < 0.8
    daemons = random.choice((1, 2, 2, 2, 3)) if shared else 1
    return Setup(
        daemons,
        shared,
        random.choice((1, 1, 2)),
        tuple(random.sample(range(len(MARKS)), random.choice((1, 1, 1, 2)))),
        random.choice((1, 2, 2, 3)),
        EVERY_KIND,
    )


def history(seed: str, outside: Surroundings, collect: bool = False) -> Outcome:
    """The history that a seed makes, up to its first violation.

    :param collect: look also for failures that nobody has waited for.
    """
    random = Random(seed)
    world = World(setup_of(random), outside)
    weights = dict(_USUAL)
    for kind in _FAULTS:
        weights[kind] = random.choice(_RATES) * _SELDOM.get(kind, 1.0)
    if len(world.machines) == 1:
        weights["restore"] *= 4  # with several daemons it is not offered
    steps = random.choice(STEPS)
    events: list[Event] = []
    while len(events) < steps and not world.referee.violations:
        offers = list(offers_of(world))
        (offer,) = random.choices(offers, [weights[offer.kind] for offer in offers])
        event = Event(offer.kind, offer.where, random.randrange(offer.choices))
        events.append(event)
        world.do(event)
    outcome = _ended(world, events)
    del world
    return _collected(outcome, outside) if collect else outcome


def replay(told: History, outside: Surroundings, collect: bool = False) -> Outcome:
    """The same events again; those that cannot happen any more are left out."""
    world = World(told.setup, outside)
    events = []
    for event in told.events:
        if world.do(event):
            events.append(event)
        if world.referee.violations:
            break
    outcome = _ended(world, events)
    del world
    return _collected(outcome, outside) if collect else outcome


def _ended(world: World, events: Sequence[Event]) -> Outcome:
    finish(world)
    figures = world.referee.figures
    figures.histories = 1
    return Outcome(History(world.setup, tuple(events)), tuple(world.referee.violations), figures)


def _collected(outcome: Outcome, outside: Surroundings) -> Outcome:
    """An outcome with what comes to light when nothing refers to its world any more."""
    return evolve(outcome, violations=(*outcome.violations, *_unhandled(outside)))


def _unhandled(outside: Surroundings) -> list[Violation]:
    gc.collect()
    tracebacks = list(outside.tracebacks)
    outside.tracebacks.clear()
    return [Violation("a fault", f"{traceback}, which nobody saw") for traceback in tracebacks]


def shortened(outcome: Outcome, outside: Surroundings) -> Outcome:
    """A history with as few events as breaks the same rule (Zeller's ddmin)."""
    rule = outcome.violations[0].rule

    collect = "nobody saw" in outcome.violations[0].what

    def breaks(events: Sequence[Event]) -> Outcome | None:
        again = replay(History(outcome.history.setup, tuple(events)), outside, collect)
        return again if any(v.rule == rule for v in again.violations) else None

    parts = 2
    while len(events := outcome.history.events) > 1:
        size = -(-len(events) // parts)
        for start in range(0, len(events), size):
            shorter = breaks(events[:start] + events[start + size :])
            if shorter is not None and len(shorter.history.events) < len(events):
                outcome, parts = shorter, max(parts - 1, 2)
                break
        else:
            if size == 1:
                break
            parts = min(2 * parts, len(events))
    return outcome


def search(
    seed: str,
    steps: int,
    outside: Surroundings,
    progress: Callable[[Figures], object] = bool,
) -> tuple[Figures, Outcome | None]:
    """Run histories until they have had so many steps, or one has broken a rule."""
    figures = Figures()
    while figures.steps < steps:
        seeds = [f"{seed}-{figures.histories + n}" for n in range(_COLLECT_EVERY)]
        for each in seeds:
            outcome = history(each, outside)
            figures.add(outcome.figures)
            if outcome.violations:
                return figures, outcome
            if figures.steps >= steps:
                break
        del outcome
        if _unhandled(outside):  # by which of them?
            for each in seeds:
                outcome = history(each, outside, collect=True)
                if outcome.violations:
                    return figures, outcome
        progress(figures)
    return figures, None
