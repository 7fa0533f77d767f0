"""Histories as text: to be kept, to be made again, and to be read."""

import json
from typing import Any

from attrs import asdict
from twisted.logger import ILogObserver, LogEvent, formatEvent, globalLogPublisher
from zope.interface import provider

from tests.campaigns.histories.ending import finish
from tests.campaigns.histories.events import Event, Setup
from tests.campaigns.histories.random_search import EVERY_KIND, History, Outcome
from tests.campaigns.histories.referee import Figures
from tests.campaigns.histories.surroundings import Surroundings
from tests.campaigns.histories.world import BEGINNING, World

_LONGEST_LINE = 160


def to_text(history: History) -> str:
    """One line of JSON, for `from_text`."""
    setup = asdict(history.setup)
    setup["kinds"] = sorted(history.setup.kinds) if history.setup.kinds != EVERY_KIND else []
    return json.dumps({"setup": setup, "events": [list(event) for event in history.events]})


def from_text(text: str) -> History:
    """What `to_text` has written."""
    told: dict[str, Any] = json.loads(text)
    setup = told["setup"]
    setup["kinds"] = frozenset(setup["kinds"] or EVERY_KIND)
    setup["marks"] = tuple(setup["marks"])
    return History(Setup(**setup), tuple(Event(*event) for event in told["events"]))


def narrate(history: History, outside: Surroundings) -> None:
    """Print what happens in a history: its events, the log, and what is under way."""
    world: World | None = None

    @provider(ILogObserver)
    def observe(event: LogEvent) -> None:
        print(f"            {formatEvent(event)[:_LONGEST_LINE]}")

    globalLogPublisher.addObserver(observe)
    try:
        world = World(history.setup, outside)
        for event in history.events:
            world.do(event)
            under_way = ", ".join(
                f"{way} {message.what}"
                for way, messages in world.network.ways.items()
                for message in messages
            )
            print(f"{world.now - BEGINNING:10.3f}  {event}   [{under_way}]")
        print("            all faults end")
        finish(world)
    finally:
        globalLogPublisher.removeObserver(observe)
    for violation in world.referee.violations:
        print(f"  {violation}")


def show(figures: Figures) -> None:
    """Print what has happened in all."""
    print(f"{figures.histories} histories, {figures.steps} steps")
    print(f"released signatures: {figures.released}")
    print(f"refused: {_counted(figures.refusals)}")
    print(f"events: {_counted(figures.events)}")


def show_violation(outcome: Outcome) -> None:
    """Print a history that has broken a rule."""
    for violation in outcome.violations:
        print(f"VIOLATION {violation}")
    print(f"with {len(outcome.history.events)} events; --replay makes it again from this line:")
    print(to_text(outcome.history))


def _counted(counted: dict[str, int]) -> str:
    return ", ".join(f"{name} {n}" for name, n in sorted(counted.items(), key=lambda i: -i[1]))
