"""What goes wrong between etcd members and signer daemons, one function for each fault."""

from collections.abc import Awaitable, Callable

from twisted.internet.defer import gatherResults

from tests.campaigns.clusterrig import MEMBERS, Network, faketime
from tests.support.tcpproxy import Way

STEPS = (-3600.0, -5.0, 5.0, 3600.0)
"""Seconds by which clocks are set forward or back."""
SLOWEST = 0.6
"""Seconds, at most, that a slow link takes either way."""
Fault = Callable[[Network], Awaitable[None]]


async def member_cut_off(network: Network) -> None:
    """A member does not reach the others."""
    network.cut(network.around(network.member()))


async def leader_cut_off(network: Network) -> None:
    """The leader does not reach the others."""
    network.cut(network.around(await network.leader()))


async def leader_deaf(network: Network) -> None:
    """The leader hears nothing of the others."""
    leader = await network.leader()
    for other in range(MEMBERS):
        if other != leader:
            network.hold_words(other, leader)


async def leader_mute(network: Network) -> None:
    """The others hear nothing of the leader."""
    leader = await network.leader()
    for other in range(MEMBERS):
        if other != leader:
            network.hold_words(leader, other)


async def members_apart(network: Network) -> None:
    """No member reaches another."""
    for member in range(MEMBERS):
        network.cut(network.around(member))


async def members_slow(network: Network) -> None:
    """Members are slow to reach each other."""
    for member in range(MEMBERS):
        for link in network.around(member):
            link.delay = network.random.uniform(0, SLOWEST / 4)


async def two_sides(network: Network) -> None:
    """One member with one daemon, the others with the other."""
    alone, daemon = network.member(), network.daemon()
    network.cut(network.around(alone))
    for each in network.daemons:
        for member, link in enumerate(each.links):
            if (member == alone) != (each is daemon):
                network.cut([link])


async def daemon_cut_off(network: Network) -> None:
    """A daemon reaches no member."""
    network.cut(network.daemon().links)


async def daemon_without_leader(network: Network) -> None:
    """A daemon does not reach the leader."""
    leader = await network.leader()
    network.cut([network.daemon().links[leader]])


async def daemons_with_one(network: Network) -> None:
    """The daemons reach one member each."""
    for daemon in network.daemons:
        member = network.member()
        network.cut([link for n, link in enumerate(daemon.links) if n != member])


async def requests_late(network: Network) -> None:
    """What a daemon sends arrives only at the end."""
    for link in network.daemon().links:
        link.hold(Way.REQUESTS)


async def answers_late(network: Network) -> None:
    """What members answer a daemon arrives only at the end."""
    for link in network.daemon().links:
        link.hold(Way.ANSWERS)


async def answers_lost(network: Network) -> None:
    """Connections of the daemons break when there is an answer."""
    for daemon in network.daemons:
        for link in daemon.links:
            link.reset_at(Way.ANSWERS)


async def daemon_slow(network: Network) -> None:
    """Members are slow to reach for a daemon."""
    for link in network.daemon().links:
        link.delay = network.random.uniform(0, SLOWEST)


async def resets(network: Network) -> None:
    """Connections of the daemons break again and again."""
    network.reset_often([link for daemon in network.daemons for link in daemon.links])


async def leader_paused(network: Network) -> None:
    """The leader is stopped (SIGSTOP)."""
    leader = network.cluster.members[await network.leader()]
    if leader.able:
        leader.pause()


async def members_paused(network: Network) -> None:
    """Two members are stopped (SIGSTOP)."""
    for member in network.random.sample(network.cluster.members, 2):
        if member.able:
            member.pause()


async def leader_killed(network: Network) -> None:
    """The leader is killed (SIGKILL)."""
    await network.cluster.members[await network.leader()].kill()


async def members_killed(network: Network) -> None:
    """All members are killed (SIGKILL)."""
    await gatherResults([member.kill() for member in network.cluster.members])


async def member_restarted(network: Network) -> None:
    """A member is shut down."""
    member = network.random.choice(network.cluster.members)
    if member.able:
        await member.stop()


async def daemon_paused(network: Network) -> None:
    """A daemon is stopped (SIGSTOP)."""
    daemon = network.daemon()
    if daemon.able:
        daemon.pause()


async def daemon_killed(network: Network) -> None:
    """A daemon is killed (SIGKILL)."""
    daemon = network.daemon()
    if daemon.able:
        await daemon.kill()


async def clock_stepped(network: Network) -> None:
    """The clock of a daemon is set forward or back."""
    network.daemon().step_clock(network.random.choice(STEPS))


async def backup_restored(network: Network) -> None:
    """All members are killed, and come back with an older backup."""
    await network.turn_back()


def name_of(fault: Fault) -> str:
    """What it is."""
    return str(fault.__doc__).rstrip(".")


ALONE = name_of(backup_restored)
"""Comes with no other one: who forgets together with the members has nobody to remember."""


def all_faults(backups: bool = False) -> dict[str, Fault]:
    """Those that are possible on this machine, by what they are.

    :param backups: whether an older backup is restored too.
    """
    possible: list[Fault] = [
        member_cut_off,
        leader_cut_off,
        leader_deaf,
        leader_mute,
        members_apart,
        members_slow,
        two_sides,
        daemon_cut_off,
        daemon_without_leader,
        daemons_with_one,
        requests_late,
        answers_late,
        answers_lost,
        daemon_slow,
        resets,
        leader_paused,
        members_paused,
        leader_killed,
        members_killed,
        member_restarted,
        daemon_paused,
        daemon_killed,
    ]
    if faketime() is not None:
        possible.append(clock_stepped)
    if backups:
        possible.append(backup_restored)
    return {name_of(fault): fault for fault in possible}
