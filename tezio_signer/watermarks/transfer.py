"""Reads and writes marks as text: our own format, and what octez-signer and Signatory keep.

The formats are described in `docs/watermarks.md`.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from enum import Enum
from pathlib import PurePath
from typing import Any

from attrs import evolve, field, frozen

from tezio_signer.tezos import base58check
from tezio_signer.tezos.keys import KEY_TYPES, PublicKeyHash
from tezio_signer.tezos.payload import Operation
from tezio_signer.watermarks.entry import (
    NOTHING_SPENT,
    Entry,
    Spending,
    Standing,
    entry_row,
    merged,
    read_entry,
)
from tezio_signer.watermarks.markjson import (
    LAST_ROUND,
    TransferError,
    chain,
    json_object,
    key_hash,
    natural,
    order,
    read_row,
    row,
    signed,
)
from tezio_signer.watermarks.rule import NO_PAYLOAD, Mark, MarkId

VERSION = 2
"""Of an export that has spending; one without is of version 1, which older programs read too."""
OCTEZ_FILES = {
    "block_high_watermarks": Operation.BLOCK,
    "preattestation_high_watermarks": Operation.PREATTESTATION,
    "attestation_high_watermarks": Operation.ATTESTATION,
    # So they were called until version 23 of Octez.
    "preendorsement_high_watermarks": Operation.PREATTESTATION,
    "endorsement_high_watermarks": Operation.ATTESTATION,
}
SIGNATORY_DIRECTORY = "watermark_v2"
# Signatory names what it signs as its protocol library does, which changed over the years.
_SIGNATORY_KINDS = {
    "block": Operation.BLOCK,
    "preattestation": Operation.PREATTESTATION,
    "preendorsement": Operation.PREATTESTATION,
    "attestation": Operation.ATTESTATION,
    "attestation_with_dal": Operation.ATTESTATION,
    "endorsement": Operation.ATTESTATION,
}


class Outcome(Enum):
    """What became of a mark that was brought here."""

    RAISED = "raised"
    KEPT = "kept"
    SIGNED = "signed"  # the same mark, but with the signature that was missing
    CLOSED = "closed"  # another payload at the same position: neither is signed again

    def __str__(self) -> str:
        return self.value


@frozen
class Reading:
    """What a text says.

    :ivar spending: entries of the daily ledger.
    :ivar ignored: what was left out, and why.
    """

    marks: Mapping[MarkId, Mark] = field(factory=dict)
    ignored: tuple[str, ...] = ()
    spending: Spending = field(factory=dict)


def closed(level: int, round_: int) -> Mark:
    """Make a mark at which nothing is signed, nor below it."""
    return Mark(level, round_, NO_PAYLOAD)


def merge(standing: Mark | None, brought: Mark) -> tuple[Outcome, Mark]:
    """Make the mark that holds what both hold; it is never lower than either of them."""
    if standing is None or brought.position > standing.position:
        return Outcome.RAISED, brought
    if brought.position < standing.position or brought == standing:
        return Outcome.KEPT, standing
    if brought.payload_hash != standing.payload_hash:
        if standing.payload_hash == NO_PAYLOAD:
            return Outcome.KEPT, standing
        return Outcome.CLOSED, closed(*standing.position)
    if standing.signature is None:
        return Outcome.SIGNED, evolve(standing, signature=brought.signature)
    return Outcome.KEPT, standing


def combine(readings: Iterable[Reading]) -> Reading:
    """Make one reading of several, with the highest of each mark."""
    marks: dict[MarkId, Mark] = {}
    ignored: list[str] = []
    spending: dict[PublicKeyHash, dict[bytes, Entry]] = {}
    for reading in readings:
        ignored += reading.ignored
        for key, entries in reading.spending.items():
            its = spending.setdefault(key, {})
            its.update({digest: merged(its.get(digest), e) for digest, e in entries.items()})
        for mark_id, mark in reading.marks.items():
            _, marks[mark_id] = merge(marks.get(mark_id), mark)
    return Reading(marks, tuple(ignored), spending)


def rows(marks: Mapping[MarkId, Mark]) -> list[dict[str, Any]]:
    """Return marks in order, as they are listed and exported."""
    ordered = sorted(marks.items(), key=lambda item: order(item[0]))
    return [row(mark_id, mark) for mark_id, mark in ordered]


def spending_rows(spending: Spending, now: float) -> list[dict[str, Any]]:
    """Return what counts of each key, in order, as it is listed."""
    standing = {str(key): Standing.of(entries, now) for key, entries in spending.items()}
    return [
        {
            "key": key,
            "mutez": counted.mutez,
            "operations": counted.operations,
            "until": None if counted.until is None else _moment(counted.until),
        }
        for key, counted in sorted(standing.items())
        if counted.operations
    ]


def _moment(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%SZ}"


def dump(marks: Mapping[MarkId, Mark], spending: Spending = NOTHING_SPENT) -> str:
    """Write marks and entries of the daily ledger in our own format."""
    entries = [
        entry_row(key, digest, its[digest])
        for key, its in sorted(spending.items(), key=lambda item: str(item[0]))
        for digest in sorted(its, key=lambda digest: (its[digest].at, digest))
        if its[digest].operations
    ]
    document: dict[str, Any] = {"version": VERSION if entries else 1, "marks": rows(marks)}
    if entries:
        document["spending"] = entries
    return json.dumps(document, indent=2) + "\n"


def load(name: str, text: str) -> Reading:
    """Read the marks of a text, in whichever of the formats it is.

    :param name: the name of its file: those of octez-signer tell the operation, those of
        Signatory the chain. It is put in front of errors.
    :raises TransferError: if anything in it is wrong; then nothing of it may be used.
    """
    last = PurePath(name).name
    document = _parse(name, text)
    if last in OCTEZ_FILES:
        return _octez(name, document, OCTEZ_FILES[last])
    chain_id = signatory_chain(last)
    if chain_id is not None and "version" not in document:
        return _signatory(name, document, chain_id)
    return _own(name, document)


def signatory_chain(name: str) -> str | None:
    """Return the chain of a file that Signatory names `NetX….json`; None for other names."""
    try:
        return base58check.chain_id(name.removesuffix(".json")) if name.endswith(".json") else None
    except ValueError:
        return None


def _parse(name: str, text: str) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        entries = dict(pairs)
        if len(entries) != len(pairs):
            raise ValueError("a key stands twice in one object")
        return entries

    try:
        document = json.loads(text, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise TransferError(f"{name}: not JSON: {error}") from error
    return json_object(name, document)


def _own(name: str, document: dict[str, Any]) -> Reading:
    if document.keys() - {"spending"} != {"version", "marks"}:
        raise TransferError(
            f"{name}: no export of watermarks (version and marks), and its name is neither one "
            f"of octez-signer ({', '.join(OCTEZ_FILES)}) nor one of Signatory (NetX….json)"
        )
    version = document["version"]
    if type(version) is not int or version not in (1, VERSION):
        raise TransferError(f"{name}: version {version!r:.20} is neither 1 nor {VERSION}")
    if ("spending" in document) != (version == VERSION):
        raise TransferError(f"{name}: spending belongs to version {VERSION}, and to no other")
    for listed in document.keys() - {"version"}:
        if not isinstance(document[listed], list):
            raise TransferError(f"{name}: {listed}: a list is expected")
    marks: dict[MarkId, Mark] = {}
    for index, value in enumerate(document["marks"]):
        where = f"{name}: marks[{index}]"
        mark_id, mark = read_row(where, value)
        if mark_id in marks:
            raise TransferError(f"{where}: this chain, key and operation stand there twice")
        marks[mark_id] = mark
    spending: dict[PublicKeyHash, dict[bytes, Entry]] = {}
    for index, value in enumerate(document.get("spending", ())):
        where = f"{name}: spending[{index}]"
        key, digest, entry = read_entry(where, value)
        if digest in spending.setdefault(key, {}):
            raise TransferError(f"{where}: this key and payload hash stand there twice")
        spending[key][digest] = entry
    return Reading(marks, spending=spending)


def _octez(name: str, document: dict[str, Any], operation: Operation) -> Reading:
    marks: dict[MarkId, Mark] = {}
    ignored = []
    for written, keys in document.items():
        chain_id = chain(name, written)
        for where, key, entry in _of_keys(f"{name}: {chain_id}", ".", keys):
            if key.curve not in KEY_TYPES:
                ignored.append(_foreign(where))
                continue
            level, round_ = _position(where, entry)
            mark = closed(level, round_)
            if entry.get("signature") is not None and entry.get("round") is not None:
                known = signed(where, key, entry.get("hash"), entry["signature"])
                mark = Mark(level, round_, *known)
            marks[MarkId(chain_id, key, operation)] = mark
    return Reading(marks, tuple(ignored))


def _signatory(name: str, document: dict[str, Any], chain_id: str) -> Reading:
    readings = []
    for where, key, kinds in _of_keys(name, ": ", document):
        if key.curve not in KEY_TYPES:
            readings.append(Reading(ignored=(_foreign(where),)))
            continue
        for kind, value in kinds.items():
            if kind not in _SIGNATORY_KINDS:
                raise TransferError(f"{where}: {kind!a:.40} is no kind of operation")
            level, round_ = _position(f"{where}.{kind}", json_object(f"{where}.{kind}", value))
            operation = _SIGNATORY_KINDS[kind]
            if operation is Operation.BLOCK:
                # It keeps the round of the payload, and the block may have been of a later one.
                round_ = LAST_ROUND
            # It keeps no signatures, and a second signature of one block is another block.
            mark = closed(level, round_)
            readings.append(Reading({MarkId(chain_id, key, operation): mark}))
    return combine(readings)


def _of_keys(
    where: str, separator: str, value: object
) -> Iterator[tuple[str, PublicKeyHash, dict[str, Any]]]:
    """Yield the entries under public key hashes, each with its place for errors."""
    for text, entry in json_object(where, value).items():
        key = key_hash(where, text)
        there = f"{where}{separator}{key}"
        yield there, key, json_object(there, entry)


def _foreign(where: str) -> str:
    return f"{where}: no key of a Tezio HSM"


def _position(where: str, entry: dict[str, Any]) -> tuple[int, int]:
    """Read level and round; without a round, which old versions left out, all rounds are meant."""
    level = natural(f"{where}.level", entry.get("level"))
    round_ = entry.get("round")
    return level, LAST_ROUND if round_ is None else natural(f"{where}.round", round_)
