"""Generic operations: what the magic byte 03 is in front of, decoded completely.

A group is a branch and its operations one behind another, without a length, up to the end. It
has several only if all are manager operations, those with a fee (Octez `operation_repr.ml`,
`of_list_internal`). Whether they have one source, and counters that rise, is for rules.

Note `drain_delegate`: it is signed by a consensus key, and empties the account of its baker.
"""

from collections.abc import Iterator, Mapping
from contextlib import suppress

from tezio_signer.tezos import base58check
from tezio_signer.tezos.base58check import Base58Type
from tezio_signer.tezos.entrypoints import DEFAULT_ENTRYPOINT
from tezio_signer.tezos.evidence import CONSENSUS_TAGS
from tezio_signer.tezos.groups import STAKING, Content, OperationGroup, summary
from tezio_signer.tezos.kinds import (
    BY_TAG,
    CONSENSUS_KINDS,
    KINDS,
    MANAGER_KINDS,
)
from tezio_signer.tezos.layout import FieldReader, Mutez, Undecodable, Value

__all__ = (
    "CONSENSUS_KINDS",
    "CONSENSUS_TAGS",
    "DEFAULT_ENTRYPOINT",
    "KINDS",
    "MANAGER_KINDS",
    "STAKING",
    "UNDECODED_TAGS",
    "Content",
    "Mutez",
    "OperationGroup",
    "Undecodable",
    "Value",
    "decode",
    "summary",
    "understood",
)

UNDECODED_TAGS = frozenset({0x16, 0xFB})
"""Tags that mean something to Octez, or did, and are not decoded: DAL attestations of old, and
zk_rollup_publish."""
_BRANCH = 32


def decode(data: bytes, offset: int = 0) -> OperationGroup:
    """Decode a group of operations, branch first.

    :param offset: of the first byte in what the client has sent, for errors.
    :raises Undecodable: unless every byte is understood.
    """
    reader = FieldReader(data, "the generic operation", offset)
    branch = reader.take(_BRANCH, "branch")
    contents = tuple(_contents(reader))
    if not contents:
        raise reader.of_kind("the generic operation has no contents")
    return OperationGroup(base58check.encode(Base58Type.BLOCK_HASH, branch), contents)


def understood(contents_data: bytes) -> tuple[Content, ...]:
    """The operations of a group in front of the one that cannot be decoded.

    :param contents_data: the group without its branch.
    """
    reader = FieldReader(contents_data, "the generic operation")
    contents: list[Content] = []
    with suppress(Undecodable):
        for content in _contents(reader):
            contents.append(content)  # noqa: PERF402 # those before the error are wanted
    return tuple(contents)


def _contents(reader: FieldReader) -> Iterator[Content]:
    """The operations that are left, each as soon as it is decoded."""
    number = 0
    alone: str | None = None
    while reader.left:
        tag = reader.byte("kind")
        kind = BY_TAG.get(tag)
        reader.begin(kind.name if kind else tag)
        if kind is None:
            raise reader.unreadable(f"the generic operation has an unknown kind 0x{tag:02X}")
        if number and not kind.is_manager:
            alone = kind.name
        if alone is not None:
            raise reader.unreadable(
                f"the {alone} is not alone in its group, as only manager operations need not be"
            )
        fields = kind.fields(reader, kind.name)
        assert isinstance(fields, Mapping)
        yield Content(kind.name, fields)
        number += 1
        alone = None if kind.is_manager else kind.name
