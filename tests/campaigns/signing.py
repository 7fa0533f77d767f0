"""What campaigns have signed, with which daemon and HSM, and what became of it."""

import json
from collections import defaultdict
from collections.abc import Callable, Mapping
from hashlib import blake2b
from random import Random

from attrs import define, field, frozen

from tests.support.harness import Answer
from tests.support.octezclient import HSM_KEYS, to_base58check, verifies
from tests.support.vectors import TZ1, TZ3, block, consensus
from tezio_signer.hsm.framing import Opcode, Slot
from tezio_signer.simulator import firmware
from tezio_signer.tezos.keys import PublicKeyHash
from tezio_signer.tezos.payload import Operation
from tezio_signer.watermarks.rule import Mark, MarkId

SIDES = 3
"""Different payloads of each form that compete for a position."""
CHAINS = (bytes.fromhex("7a06a770"), bytes.fromhex("12345678"))
KEYS = {Slot.TZ1: TZ1, Slot.TZ3: TZ3}
"""Those that the daemons of campaigns sign with."""
_CHAIN_PREFIX = bytes.fromhex("575200")
_PUBLIC_KEYS = {key.pkh: key.public_key for key in HSM_KEYS}
_CONFIG = """
policy:
    signing_keys:
        {tz1}: {{allowed_ops: [block, preattestation, attestation], auth_req: False}}
        {tz3}: {{allowed_ops: [block, preattestation, attestation], auth_req: False}}
allowed_ips: ["127.0.0.1"]
hsms: [{{port: "{hsm}"}}]
watermarks: {{store: "{store}"}}
"""


def configuration(hsm: object, store: str) -> str:
    """The configuration of a daemon with these keys, an HSM at this path, and a store."""
    return _CONFIG.format(tz1=TZ1, tz3=TZ3, hsm=hsm, store=store)


class ForgetfulFirmware(firmware.Firmware):
    """A device that protects nothing: without watermarks, with every key for every operation.

    :param asked: called with each slot and payload ahead of the signing.
    :param magic: the magic bytes of what it signs.
    """

    def __init__(
        self,
        asked: Callable[[Slot, bytes], None],
        magic: tuple[int, ...] = firmware.BAKING_MAGIC,
    ) -> None:
        super().__init__(enabled=dict.fromkeys(Slot, magic))
        self._asked = asked

    def execute(self, packet: bytes) -> firmware.Answer | None:
        self.power_cycle()
        if packet[2:3] == bytes([Opcode.SIGN]):
            self._asked(Slot(packet[3]), packet[7:-2])
        return super().execute(packet)


@frozen
class Asked:
    """A payload, and where it belongs."""

    mark_id: MarkId
    level: int
    round: int
    data: bytes

    @property
    def position(self) -> tuple[int, int]:
        """Level and round."""
        return self.level, self.round

    @property
    def request(self) -> tuple[PublicKeyHash, bytes]:
        """What the daemon and the HSM see of it."""
        return self.mark_id.key, self.data

    @property
    def hash(self) -> bytes:
        """By which the store knows it."""
        return blake2b(self.data, digest_size=32).digest()

    def __str__(self) -> str:
        where = f"{self.mark_id.operation} {self.level}/{self.round} for {self.mark_id.key}"
        return f"{where} on {self.mark_id.chain_id}: {self.data.hex()}"


@define
class Track:
    """A key on a chain, and the position at which it is asked for signatures."""

    key: PublicKeyHash
    chain: bytes
    level: int = 1
    round: int = 0

    def advance(self, random: Random) -> None:
        """Go on to the next round, or to a higher level."""
        if random.random() < 0.4:
            self.round += 1
        else:
            self.level, self.round = self.level + random.choice((1, 1, 1, 7)), 0

    def competing(self) -> list[Asked]:
        """All that wants to be signed at this position; one of each operation may."""
        at, sides = (self.level, self.round), range(0x40, 0x40 + SIDES)
        return [
            asked
            for side in sides
            for asked in (
                self._asked(Operation.BLOCK, block(*at, side)),
                self._asked(Operation.PREATTESTATION, consensus("preatt", *at, side)),
                self._asked(Operation.ATTESTATION, consensus("att", *at, side)),
                self._asked(Operation.ATTESTATION, consensus("att_dal_5", *at, side)),
            )
        ]

    def _asked(self, operation: Operation, data: bytes) -> Asked:
        chain_id = to_base58check(_CHAIN_PREFIX, self.chain)
        data = data[:1] + self.chain + data[5:]
        return Asked(MarkId(chain_id, self.key, operation), self.level, self.round, data)


@define
class Ledger:
    """Every signature that a client has received, by mark and position, then by payload."""

    released: dict[tuple[MarkId, tuple[int, int]], dict[Asked, set[str]]] = field(
        factory=lambda: defaultdict(lambda: defaultdict(set))
    )

    def enter(self, asked: Asked, signature: str) -> None:
        """Take note of a signature."""
        self.released[asked.mark_id, asked.position][asked].add(signature)

    def signatures(self, asked: Asked) -> set[str]:
        """What was received for a payload."""
        return self.released.get((asked.mark_id, asked.position), {}).get(asked, set())

    def conflicts(self) -> set[str]:
        """Positions of one mark at which two payloads are signed."""
        return {str(set(map(str, s))) for s in self.released.values() if len(s) > 1}

    def changed(self) -> set[str]:
        """Payloads that have got different signatures."""
        asked = (each for signed in self.released.values() for each in signed.items())
        return {f"{payload}: {signatures}" for payload, signatures in asked if len(signatures) > 1}

    def above(self, marks: Mapping[MarkId, Mark]) -> set[str]:
        """Signatures that these stored marks do not cover."""
        return {
            f"{asked}: {signatures}, but {marks.get(mark_id)} is stored"
            for (mark_id, position), signed in self.released.items()
            for asked, signatures in signed.items()
            if not _covers(marks.get(mark_id), position, asked, signatures)
        }


def _covers(
    mark: Mark | None, position: tuple[int, int], asked: Asked, signatures: set[str]
) -> bool:
    """Whether a mark is higher, or is that of this payload with what was released for it."""
    if mark is None or mark.position < position:
        return False
    stored = mark.payload_hash == asked.hash and signatures == {str(mark.signature)}
    return mark.position > position or stored


def signature_in(answer: Answer) -> str:
    """What a client got with status 200."""
    return str(json.loads(answer.body)["signature"])


def is_right(asked: Asked, signature: str) -> bool:
    """Whether a signature verifies, by code that is not the signer's."""
    return verifies(_PUBLIC_KEYS[str(asked.mark_id.key)], asked.data, signature)
