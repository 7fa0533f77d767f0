"""How a history ends: with all faults, and with everything well again."""

from tests.campaigns.histories.disk import Disk
from tests.campaigns.histories.events import MARKS, Event, competing
from tests.campaigns.histories.referee import short
from tests.campaigns.histories.world import World
from tests.campaigns.signing import Asked


def _heal(world: World) -> None:
    """End all faults: everybody is there again."""
    if isinstance(world.store, Disk):
        world.store.failing = None
    world.happens(Event("back"))
    for name, board in world.boards.items():
        if board.mute:
            world.happens(Event("pull", name))
        world.happens(Event("plug", name))
    for name in world.machines:
        world.happens(Event("resume", name))
        world.happens(Event("start", name))
    world.settle(8.0)
    for name in world.machines:  # its last question may have been answered by an etcd without
        world.happens(Event("start", name))
    world.settle(2.0)
    if world.restored:  # the whole store is read once a minute
        world.settle(65.0)
        world.restored = world.referee.lenient = False


def finish(world: World) -> None:
    """When all faults have ended everything has to be well, and signed again."""
    if world.referee.violations:
        return
    _heal(world)
    for name, machine in world.machines.items():
        if machine.process is None:
            world.referee.violated("does not start", name)
        elif machine.process.clients:
            world.referee.violated("no answer", f"{name} lets a client wait for ever")
    if world.referee.violations:
        return
    world.referee.check_all_covered()
    for asked, signature in world.referee.standing():
        for name in world.machines:
            _sign_again(world, name, asked, world.referee.is_highest(asked))
            given = world.referee.released[asked.mark_id, asked.position]
            if given not in ({}, {asked.hash: signature}):
                world.referee.violated("not what is stored", f"{name}: {short(asked)}")
    level = max(level for level, _ in world.positions.values()) + 10
    for mark in world.setup.marks:
        for name in world.machines:
            level += 1
            _sign_again(world, name, competing(*MARKS[mark], level, 0)[0])
    world.referee.check_all_covered()


def _sign_again(world: World, name: str, asked: Asked, surely: bool = True) -> None:
    """Have a daemon sign, or refuse for good unless that may not be."""
    figures = world.referee.figures
    before, conflicts = figures.released, figures.conflicts
    for seconds in (1.0, 8.0, 40.0):
        process = world.machines[name].process
        if process is None:
            break
        process.ask(asked)
        world.settle(seconds)
        if figures.released > before or (not surely and figures.conflicts > conflicts):
            return
    world.referee.violated("does not sign again", f"{name}: {short(asked)}")
