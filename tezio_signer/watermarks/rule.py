"""The watermark rule, pure: what was signed before decides what may be signed now."""

from attrs import frozen

from tezio_signer.errors import Conflict
from tezio_signer.tezos.keys import PublicKeyHash, Signature
from tezio_signer.tezos.payload import Baking, Operation

NO_PAYLOAD = bytes(32)
"""The hash of a closed mark, which is that of no payload: nothing is signed at its position."""


@frozen(cache_hash=True)
class MarkId:
    """What a mark is kept for. An attestation is one kind, with DAL content or without."""

    chain_id: str
    key: PublicKeyHash
    operation: Operation

    @classmethod
    def of(cls, key: PublicKeyHash, payload: Baking) -> "MarkId":
        """Return what the mark is kept for that a payload of this key moves."""
        return cls(payload.chain_id, key, payload.operation)


@frozen
class Mark:
    """The highest position claimed, and for what.

    :ivar payload_hash: BLAKE2b-256 of the payload, 32 bytes; or NO_PAYLOAD.
    :ivar signature: None until the signature of that payload is known.
    """

    level: int
    round: int
    payload_hash: bytes
    signature: Signature | None = None

    @property
    def position(self) -> tuple[int, int]:
        """The level and the round, in the order in which marks move."""
        return self.level, self.round


def judge(
    mark_id: MarkId,
    standing: Mark | None,
    asked: Mark,
    floor: tuple[int, int] = (0, 0),
    max_level_jump: int | None = None,
    highest: Mark | None = None,
) -> Mark:
    """Decide whether `asked` may be signed, and return the mark to keep for it.

    This is `standing` itself when its payload is asked for again: its signature, if
    it has one, is then the answer.

    :param floor: level and round at or below which nothing is signed; (0, 0) is no floor.
    :param max_level_jump: how many levels a mark may move ahead of the one before, or of
        the floor if that is higher; None for any. One absurd level would close a key for
        ever.
    :param highest: the highest mark of the key, of any operation on any chain, to which its
        first one on a chain is held: the HSM itself knows no chains, and one absurd level on
        a chain that somebody has made up would close the key on all. The very first mark of a
        key, without a floor, has nothing to be held to.
    :raises Conflict: if it must not be signed.
    """
    what = f"{mark_id.operation} at level {asked.level} round {asked.round}"
    if floor != (0, 0) and asked.position <= floor:
        raise Conflict(
            f"{what} is not above the configured floor, level {floor[0]} round {floor[1]}"
        )
    if standing is None or asked.position > standing.position:
        name = "high watermark" if standing else "highest watermark of the key, on any chain"
        _check_jump(mark_id, what, (name, standing or highest), asked, floor, max_level_jump)
        return asked
    if asked.position < standing.position or standing.payload_hash == NO_PAYLOAD:
        raise Conflict(
            f"{what} is not above the high watermark, level {standing.level} round {standing.round}"
        )
    if asked.payload_hash != standing.payload_hash:
        raise Conflict(f"{what} is already signed with different data")
    return standing


def settle(standing: Mark | None, asked: Mark) -> Mark:
    """Return the mark that is in a store after `asked` was brought to it.

    This never is a lower one, nor another payload or signature at the same position.
    """
    if standing is None or asked.position > standing.position:
        return asked
    same = asked.position == standing.position and asked.payload_hash == standing.payload_hash
    return asked if same and standing.signature is None else standing


def _check_jump(
    mark_id: MarkId,
    what: str,
    named: tuple[str, Mark | None],
    asked: Mark,
    floor: tuple[int, int],
    max_level_jump: int | None,
) -> None:
    its_name, before = named
    name, (level, round_) = "configured floor", floor
    if before is not None and before.position >= floor:
        name, (level, round_) = its_name, before.position
    elif before is None and level == 0:
        return
    if max_level_jump is not None and asked.level - level > max_level_jump:
        raise Conflict(
            f"{what} is {asked.level - level} levels above the {name}, level {level} "
            f"round {round_}, and max_level_jump is {max_level_jump}; if this level is right, "
            f"stop the signer and run: tezio-signer watermarks set --chain {mark_id.chain_id} "
            f"--key {mark_id.key} --operation {mark_id.operation} --level {asked.level - 1}"
        )
