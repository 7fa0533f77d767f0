"""A look at the boards without a daemon: what they hold of a configuration, and what is amiss."""

from collections.abc import Iterable

from attrs import frozen
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.interfaces import IReactorTime

from tezio_signer.hsm.boards import (
    Board,
    BoardSelector,
    none_plugged_in,
    not_plugged_in,
    unmatched,
)
from tezio_signer.hsm.device import HsmDevice
from tezio_signer.hsm.exchange import Ports
from tezio_signer.hsm.framing import Slot
from tezio_signer.hsm.heldkeys import Held, holders, is_held, misplaced
from tezio_signer.tezos.keys import PublicKey, PublicKeyHash


@frozen
class BoardFound:
    """A board that was looked at.

    :ivar keys: what its slots hold, as far as it said; none if it could not be read.
    :ivar trouble: why it could not be read, a sentence; empty if it could.
    :ivar left_out: the slots that said no key that can be used, and why not.
    """

    board: Board
    keys: tuple[tuple[Slot, PublicKey], ...] = ()
    trouble: str = ""
    left_out: tuple[tuple[Slot, str], ...] = ()


@frozen
class KeyFound:
    """Where a key of the configuration is.

    :ivar held_by: the names of the boards that hold it where it belongs.
    :ivar sentence: `held by board …`, or what is amiss and what to do.
    """

    key: PublicKeyHash
    held_by: tuple[str, ...]
    sentence: str


@frozen
class BoardCheck:
    """What was found.

    :ivar boards: every board of the configuration that is plugged in.
    :ivar keys: the signing keys, and behind them the auth key, in the order of the configuration.
    :ivar problems: a sentence for each thing that is amiss with a board; those about a key are
        with the key.
    """

    boards: tuple[BoardFound, ...]
    keys: tuple[KeyFound, ...]
    problems: tuple[str, ...]


async def check_boards(
    clock: IReactorTime,
    ports: Ports,
    selectors: tuple[BoardSelector, ...],
    signing_keys: Iterable[PublicKeyHash] = (),
    auth_key: PublicKeyHash | None = None,
) -> BoardCheck:
    """Look for the boards, and ask each for its keys; a silent one takes about six seconds.

    It asks for public keys only: no watermark moves, here or on a board. A board that a
    running daemon or another program has is named so, and left alone.

    :param selectors: `hsms` of the configuration.
    """
    try:
        boards = ports.boards()
    except OSError as error:  # as pyserial does when a board vanishes while it looks at it
        return _judged([], signing_keys, auth_key, [f"the serial ports cannot be listed: {error}"])
    reading = [Deferred.fromCoroutine(_read(clock, ports, board)) for board in boards]
    found: list[BoardFound] = await gatherResults(reading)
    problems = [f"HSM {each.board}: {each.trouble}" for each in found if each.trouble]
    problems += [
        f"HSM {each.board}, slot {slot:d}: {why}" for each in found for slot, why in each.left_out
    ]
    problems += map(not_plugged_in, unmatched(selectors, boards))
    if not boards and not problems:
        problems.append(none_plugged_in())
    return _judged(found, signing_keys, auth_key, problems)


async def _read(clock: IReactorTime, ports: Ports, board: Board) -> BoardFound:
    """What a board says of itself; its port is closed again."""
    changed: Deferred[None] = Deferred()
    device = HsmDevice(clock, board, ports, lambda: changed.callback(None))
    device.plugged_in(board)
    if device.connection is not None:
        await changed
    changed = Deferred()  # closing it is a change too
    device.close()
    if not device.keys:
        return BoardFound(board, (), device.trouble or "was unplugged")
    return BoardFound(board, tuple(device.keys.items()), left_out=tuple(device.left_out.items()))


def _judged(
    found: list[BoardFound],
    signing_keys: Iterable[PublicKeyHash],
    auth_key: PublicKeyHash | None,
    problems: list[str],
) -> BoardCheck:
    held = {str(each.board): dict(each.keys) for each in found if not each.trouble}
    unread = [str(each.board) for each in found if each.trouble]
    wanted = [*signing_keys, *([auth_key] if auth_key else [])]
    keys = tuple(_where(key, held, auth_key, unread) for key in wanted)
    return BoardCheck(tuple(found), keys, tuple(problems))


def _where(
    key: PublicKeyHash, held: Held, auth_key: PublicKeyHash | None, unread: list[str]
) -> KeyFound:
    if is_held(key, held, auth_key):
        names = tuple(holders(key, held))
        return KeyFound(key, names, f"held by board {', '.join(names)}")
    why = misplaced(key, held, auth_key)
    sentence = f"no board holds it: {why}" if why else "no board holds it"
    if unread:
        sentence += f"; not known of {', '.join(unread)}, which could not be read"
    return KeyFound(key, (), sentence)
