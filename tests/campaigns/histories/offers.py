"""The events that a world offers: all that may happen at a moment."""

from collections.abc import Iterator

from tests.campaigns.histories.daemons import Machine
from tests.campaigns.histories.etcd import Etcd
from tests.campaigns.histories.events import Offer
from tests.campaigns.histories.world import MOST_CLIENTS, World


def offers(world: World) -> Iterator[Offer]:
    """All events that may happen now."""
    kinds = world.setup.kinds
    for offer in _all(world):
        if offer.kind in kinds:
            yield offer


def _all(world: World) -> Iterator[Offer]:
    yield Offer("time")
    for way, messages in world.network.ways.items():
        yield from _of_way(world, way, len(messages))
    for name, machine in world.machines.items():
        yield from _of_machine(world, name, machine)
    for name, board in world.boards.items():
        if board.plugged:
            yield Offer("pull", name)
            yield Offer("power", name)
            if not board.mute:
                yield Offer("mute", name, 2)
        else:
            yield Offer("plug", name)
    yield Offer("advance", "", 3 * len(world.setup.marks))
    yield from _of_store(world)


def _of_way(world: World, way: str, count: int) -> Iterator[Offer]:
    source, _, destination = way.partition(">")
    waits = destination in world.machines and world.machines[destination].paused
    if not waits:
        # Each connection to etcd is one of many; everything else keeps its order.
        yield Offer("arrive", way, count if "etcd" in way else 1)
        if source in world.boards:
            yield Offer("spoil", way, 3)
    if "disk" not in way:
        yield Offer("lose", way, count)
        yield Offer("late", way, count if "etcd" in way else 1)
    if destination == "etcd" or (source in world.boards and not waits):
        yield Offer("double", way, count if destination == "etcd" else 1)


def _of_machine(world: World, name: str, machine: Machine) -> Iterator[Offer]:
    if machine.process is None:
        yield Offer("start", name)
        return
    if machine.paused:
        yield Offer("resume", name, 2)
    else:
        waiting = len(machine.process.clients)
        if waiting < MOST_CLIENTS:
            yield Offer("ask", name, 4 * world.setup.sides * len(world.setup.marks))
        if waiting:
            yield Offer("leave", name, waiting)
        yield Offer("pause", name)
    if not world.restored:  # what it knows may be all that is left
        yield Offer("crash", name)
        if not machine.paused:
            yield Offer("stop", name)


def _of_store(world: World) -> Iterator[Offer]:
    marks = len(world.setup.marks)
    if isinstance(world.store, Etcd):
        yield Offer("raise", "", marks)
        yield Offer("wipe" if world.store.wiped is None else "back")
        yield Offer("backup")
        if world.may_restore():
            yield Offer("restore")
    else:
        down = all(machine.process is None for machine in world.machines.values())
        if down:
            yield Offer("raise", "", marks)
            yield Offer("back" if world.store.missing else "wipe")
        yield Offer("fail", "", 2)
