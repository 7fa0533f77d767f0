"""Which events may wait: orders that differ only in what is independent are gone through once.

Two events are independent if it does not matter which of them comes first, as with a frame that
reaches a board and whatever happens at another daemon. From a state it is enough to go on with a
set of events if all others are independent of it, and stay so until one of the set has happened
(a persistent set: Godefroid, 1996). No end is lost by it; and a signature is only released sooner,
when the store holds less. Two kinds of sets are looked for:

- what may happen to a frame on its way to a board, which nobody but the board notices; a board
  that is pulled out or loses its power has forgotten the frame, whether it came or not;
- all that may happen at one daemon and its boards, unless etcd has yet to carry out what the
  daemon has asked for: others may come first, and decide about the answer.

Time passes only when nothing is under way that is not late; so there is to be such a message in
the set. A daemon that does not run, or not now, is left out: it begins by reading the store, or
goes on at another time. Faults belong to what they happen to. In another order of the same events
there are as many of them, so that their limit changes nothing.

That a message is lost or late, and that a daemon pauses, is noticed by nobody before time passes,
or everything is over. So these happen last: when those faults that are left are enough to have
nothing under way any more.
"""

from collections.abc import Collection, Sequence
from itertools import chain, combinations

from tests.campaigns.histories.daemons import Machine
from tests.campaigns.histories.events import Event
from tests.campaigns.histories.world import World

_UNNOTICED = ("lose", "late", "pause")


def enough(
    world: World, events: Sequence[Event], faults: Sequence[Event], left: int
) -> tuple[list[Event], list[Event]]:
    """Those of all events, and of all faults, with which it is enough to go on.

    :param left: how many faults may still happen.
    """
    places = _places(world)
    chosen = [event for event in events if places is None or _is_at(event.where, places)]
    pending = [way for way in _blocking(world) if places is None or _is_at(way, places)]
    return chosen, [
        fault
        for fault in faults
        if (places is None or _is_at(fault.where, places))
        and (fault.kind not in _UNNOTICED or _is_last(world, fault, pending, left - 1))
    ]


def _is_at(where: str, places: Collection[str]) -> bool:
    """Whether an event's place, or both ends of a way, are among these."""
    return where in places or all(end in places for end in where.split(">"))


def _places(world: World) -> Collection[str] | None:
    """Where the events of a persistent set happen; None if it is everywhere."""
    for machine in world.machines.values():
        for way in (f"{machine.name}>{board.name}" for board in machine.boards):
            if way in world.network.ways and not world.network.is_late(way):
                return (way,)
    for machine in world.machines.values():
        if _is_alone(world, machine):
            return (machine.name, *(board.name for board in machine.boards), "etcd")
    return None


def _is_alone(world: World, machine: Machine) -> bool:
    """Whether nothing else has to do with what happens at a machine until it does something."""
    asked = any(way.startswith(f"{machine.name}>etcd") for way in world.network.ways)
    arriving = any(way.endswith(f">{machine.name}") for way in _blocking(world))
    return machine.running is not None and arriving and not asked


def _blocking(world: World) -> list[str]:
    """The ways of what is to arrive before time passes, as often as they have to be freed of it."""
    ways: list[str] = []
    for way, messages in world.network.ways.items():
        if world.is_waited_for(way):
            ways += [way] * (sum(not m.late for m in messages) if "etcd" in way else 1)
    return ways


def _is_last(world: World, fault: Event, pending: Sequence[str], left: int) -> bool:
    """Whether so many other faults like this are enough to have nothing under way."""
    if fault.kind == "pause":
        pending = [way for way in pending if not way.endswith(f">{fault.where}")]
    elif len(world.network.ways[fault.where]) > 1 and "etcd" not in fault.where:
        return True  # what is behind it, in this order, is noticed
    elif fault.where in pending:
        pending = list(pending)
        pending.remove(fault.where)
    running = [name for name, machine in world.machines.items() if machine.running is not None]
    return any(
        len(paused) + sum(way.partition(">")[2] not in paused for way in pending) <= left
        for paused in chain.from_iterable(
            combinations(running, number) for number in range(len(running) + 1)
        )
    )
