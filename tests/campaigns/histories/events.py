"""What may happen in a history, and what it begins with."""

from functools import lru_cache
from typing import NamedTuple

from attrs import field, frozen

from tests.campaigns.signing import CHAINS, Asked, Track
from tests.support.vectors import TZ1, TZ3
from tezio_signer.tezos.keys import PublicKeyHash
from tezio_signer.tezos.payload import Operation

MARKS = (
    (TZ3, CHAINS[0], Operation.BLOCK),
    (TZ3, CHAINS[0], Operation.ATTESTATION),
    (TZ1, CHAINS[0], Operation.BLOCK),
    (TZ3, CHAINS[1], Operation.BLOCK),
)
"""The marks that histories may be about."""


class Event(NamedTuple):
    """Something that happens: what, where, and which of those that are there."""

    kind: str
    where: str = ""
    number: int = 0

    def __str__(self) -> str:
        return f"{self.kind} {self.where} {self.number}".strip()


class Offer(NamedTuple):
    """Events that may happen next: `Event(kind, where, n)` for each n below `choices`."""

    kind: str
    where: str = ""
    choices: int = 1


@frozen
class Setup:
    """What a history begins with.

    :ivar shared: the store is an etcd, and not a disk, which one daemon only can have.
    :ivar boards: of each daemon.
    :ivar marks: numbers of `MARKS`.
    :ivar sides: how many payloads compete for each position.
    :ivar kinds: the events that may happen.
    :ivar prompt_readings: nothing happens to what only reads the store.
    :ivar idle_looks: time stops also when it was looked for boards, and nothing has changed.
    """

    daemons: int = 2
    shared: bool = True
    boards: int = 1
    marks: tuple[int, ...] = (0,)
    sides: int = 2
    kinds: frozenset[str] = field(factory=frozenset)
    prompt_readings: bool = False
    idle_looks: bool = True


@lru_cache(maxsize=1024)
def competing(
    key: PublicKeyHash, chain: bytes, operation: Operation, level: int, round_: int
) -> tuple[Asked, ...]:
    """All that wants to be signed at one position of one mark."""
    track = Track(key, chain, level, round_)
    return tuple(asked for asked in track.competing() if asked.mark_id.operation is operation)
