"""What a client asks to have signed, decoded completely by its magic byte.

`docs/protocols/octez-remote-signer.md` describes the layouts, which are those of Octez
(`src/proto_*/lib_protocol/{block_header,fitness,operation}_repr.ml`).
All integers are big-endian. A payload that is too short, too long or contradicts
itself is a ValueError: nothing half read may reach the HSM.

There is one exception, and a check for it: a generic operation of which all is understood but
its contents. A key may be allowed to sign what no protocol had when this was written.
"""

from enum import Enum
from typing import ClassVar

from attrs import field, frozen

from tezio_signer.tezos import base58check, micheline, operations
from tezio_signer.tezos.base58check import Base58Type
from tezio_signer.tezos.binary import Reader
from tezio_signer.tezos.keys import digest
from tezio_signer.tezos.micheline import Micheline
from tezio_signer.tezos.operations import Content, OperationGroup, Undecodable, summary


class Operation(Enum):
    """The operations that a magic byte names; the value is that byte."""

    LEGACY_BLOCK = 0x01
    LEGACY_ENDORSEMENT = 0x02
    GENERIC = 0x03
    AUTHENTICATION = 0x04
    MICHELSON = 0x05
    BLOCK = 0x11
    PREATTESTATION = 0x12
    ATTESTATION = 0x13

    def __str__(self) -> str:
        return self.name.lower()


BAKING_OPERATIONS = (Operation.BLOCK, Operation.PREATTESTATION, Operation.ATTESTATION)
"""What a baker signs at each level and round; each has a watermark."""


class NeverSigned(ValueError):
    """A payload of a known kind that this signer signs for nobody."""


@frozen
class Block:
    """A Tenderbake block header; the round is that of the fitness, not of the payload."""

    operation: ClassVar[Operation] = Operation.BLOCK
    chain_id: str
    level: int
    round: int
    payload_round: int


@frozen
class Consensus:
    """A preattestation or attestation, DAL content included or not.

    The form for tz4 keys (BLS mode) has no slot.
    """

    operation: Operation
    chain_id: str
    level: int
    round: int
    slot: int | None
    branch: bytes
    block_payload_hash: bytes
    dal_content: bytes | None


@frozen
class Generic:
    """A generic operation.

    :ivar contents: what stands behind the branch, as it came.
    :ivar group: the same, decoded with the branch; or why that is not possible.
    :ivar understood: its operations in front of the first that cannot be decoded: all of them,
        if each can.
    """

    operation: ClassVar[Operation] = Operation.GENERIC
    branch: bytes
    contents: bytes
    group: OperationGroup | Undecodable = field(eq=False)
    understood: tuple[Content, ...] = field(eq=False)

    def __str__(self) -> str:
        """What it does, in one line of printable ASCII."""
        if isinstance(self.group, OperationGroup):
            return summary(self.group)
        data = bytes([self.operation.value]) + self.branch + self.contents
        rest = f"a generic operation that is not understood ({digest(data).hex()})"
        if not self.understood:
            return rest
        before = OperationGroup(self.branch.hex(), self.understood)
        return f"{summary(before)}; and {rest}"


@frozen
class Michelson:
    """Packed data of Michelson: what contracts take for an order of whom they know."""

    operation: ClassVar[Operation] = Operation.MICHELSON
    value: Micheline

    def __str__(self) -> str:
        """What is in it, in one line."""
        return f"Michelson data {self.value.shortened(_MOST_LETTERS)}"


Baking = Block | Consensus
"""What has a chain, a level and a round, and so a watermark; `isinstance` knows it."""
Payload = Block | Consensus | Generic | Michelson

_MOST_LETTERS = 280
_KINDS = {
    0x14: Operation.PREATTESTATION,
    0x15: Operation.ATTESTATION,
    0x17: Operation.ATTESTATION,
    0x28: Operation.PREATTESTATION,
    0x29: Operation.ATTESTATION,
}
_WITH_DAL = 0x17
_BLS_KINDS = {0x28, 0x29}


def decode(data: bytes) -> Payload:
    """Decode a payload, magic byte first.

    :raises NeverSigned: for a magic byte that is known but signed for nobody.
    :raises ValueError: for any other payload that is not exactly well-formed.
    """
    if not data:
        raise ValueError("can't sign empty data")
    try:
        operation = Operation(data[0])
    except ValueError as error:
        raise ValueError(f"unknown magic byte 0x{data[0]:02X}; {_ACCEPTED}") from error
    match operation:
        case Operation.BLOCK:
            return _block(_reader(data, "the block"))
        case Operation.PREATTESTATION | Operation.ATTESTATION:
            return _consensus(_reader(data, f"the {operation}"), operation)
        case Operation.GENERIC:
            return _generic(data)
        case Operation.MICHELSON:
            return _michelson(data)
        case _:
            raise NeverSigned(
                f"magic byte 0x{data[0]:02X} ({operation}) not allowed: never signed; {_ACCEPTED}"
            )


_ACCEPTED = (
    "accepted are 0x03 (generic), 0x05 (michelson), 0x11 (block), 0x12 (preattestation), 0x13 "
    "(attestation)"
)


def _reader(data: bytes, what: str) -> Reader:
    """Reads what is behind the magic byte; errors count from that."""
    return Reader(data[1:], what, 1)


def _chain_id(reader: Reader) -> str:
    return base58check.encode(Base58Type.CHAIN_ID, reader.take(4, "chain id"))


def _block(reader: Reader) -> Block:
    chain_id = _chain_id(reader)
    level = reader.natural32("level")
    reader.number(1, "protocol")
    reader.take(32, "predecessor")
    reader.take(8, "timestamp")
    reader.number(1, "validation pass")
    reader.take(32, "operations hash")
    fitness = reader.part(reader.natural32("fitness length"), "fitness", "the block's fitness")
    round_ = _fitness_round(fitness, level)
    reader.take(32, "context")
    reader.take(32, "payload hash")
    payload_round = reader.natural32("payload round")
    if payload_round > round_:
        raise ValueError(f"the block's payload round {payload_round} is above its round {round_}")
    reader.take(8, "proof of work nonce")
    match reader.number(1, "seed nonce flag"):
        case 0x00:
            pass
        case 0xFF:
            reader.take(32, "seed nonce hash")
        case flag:
            raise reader.unreadable(f"the block has an invalid seed nonce flag 0x{flag:02X}")
    reader.number(1, "votes")  # the votes in it differ by protocol
    reader.end()
    return Block(chain_id, level, round_, payload_round)


def _fitness_round(reader: Reader, header_level: int) -> int:
    """The round of a Tenderbake fitness, which has to agree with the header and itself."""

    def element(name: str, sizes: tuple[int, ...]) -> bytes:
        size = reader.natural32(f"{name} length")
        if size not in sizes:
            raise reader.unreadable(f"the block's fitness has a {name} of {size} bytes")
        return reader.take(size, name)

    version = element("version", (1,))
    if version != b"\x02":
        raise ValueError(f"the block's fitness has version {version[0]}, not 2 (Tenderbake)")
    level = int.from_bytes(element("level", (4,)), "big", signed=True)
    locked_round = element("locked round", (0, 4))
    predecessor_round = int.from_bytes(element("predecessor round", (4,)), "big", signed=True)
    round_ = int.from_bytes(element("round", (4,)), "big", signed=True)
    reader.end()
    if level != header_level:
        raise ValueError(f"the block's level is {header_level} in its header, {level} in fitness")
    if round_ < 0:
        raise ValueError(f"the block has a negative round: {round_}")
    if predecessor_round >= 0:
        raise ValueError("the block's fitness has a predecessor round that is not -round - 1")
    if locked_round:
        locked = int.from_bytes(locked_round, "big", signed=True)
        if not 0 <= locked < round_:
            raise ValueError(f"the block's locked round {locked} is not below its round {round_}")
    return round_


def _consensus(reader: Reader, operation: Operation) -> Consensus:
    chain_id = _chain_id(reader)
    branch = reader.take(32, "branch")
    kind = reader.number(1, "kind")
    if _KINDS.get(kind) is not operation:
        raise reader.unreadable(
            f"kind 0x{kind:02X} does not belong under the magic byte of {operation}"
        )
    slot = None if kind in _BLS_KINDS else reader.number(2, "slot")
    level = reader.natural32("level")
    round_ = reader.natural32("round")
    block_payload_hash = reader.take(32, "block payload hash")
    dal_content = _dal_content(reader) if kind == _WITH_DAL else None
    reader.end()
    return Consensus(
        operation, chain_id, level, round_, slot, branch, block_payload_hash, dal_content
    )


def _dal_content(reader: Reader) -> bytes:
    """One canonical, non-negative signed zarith number: a set of slots."""
    content = bytearray([reader.number(1, "DAL content")])
    if content[0] & 0x40:
        raise reader.unreadable("the attestation has a negative DAL content")
    while content[-1] & 0x80:
        content.append(reader.number(1, "DAL content"))
    if len(content) > 1 and content[-1] == 0:
        raise reader.unreadable("the attestation's DAL content ends in a superfluous zero")
    return bytes(content)


def _generic(data: bytes) -> Generic:
    reader = _reader(data, "the generic operation")
    branch = reader.take(32, "branch")
    contents = reader.rest("contents")
    if not contents:
        raise ValueError("the generic operation has no contents")
    group: OperationGroup | Undecodable
    try:
        group = operations.decode(data[1:], 1)
    except Undecodable as error:
        group = Undecodable(str(error), error.kinds)  # without its frames
        return Generic(branch, contents, group, operations.understood(contents))
    return Generic(branch, contents, group, group.contents)


def _michelson(data: bytes) -> Michelson:
    try:
        return Michelson(micheline.decode(data[1:], 1))
    except ValueError as error:
        raise ValueError(f"the Michelson data are unreadable: {error}") from error
