"""What a payload is, as lines for people and as JSON."""

from collections.abc import Iterator, Mapping
from typing import TypeAlias

from tezio_signer.cli.wrapping import wrapped
from tezio_signer.tezos import base58check
from tezio_signer.tezos import payload as payloads
from tezio_signer.tezos.base58check import Base58Type
from tezio_signer.tezos.jsontext import Json
from tezio_signer.tezos.keys import digest
from tezio_signer.tezos.micheline import Micheline
from tezio_signer.tezos.operations import Mutez, OperationGroup, Value
from tezio_signer.tezos.payload import Block, Consensus, Generic, Michelson, Payload

_WIDTH = 22
_MOST_MICHELSON = 4000
"""Letters of an expression for people; programs get the whole."""
_MOST_BYTES = 1000
_LARGEST_EXACT = 2**53
"""Above this, many readers of JSON round a number; Octez writes all of them as text."""
_Fields: TypeAlias = Mapping[str, Value]


def payload_lines(data: bytes) -> Iterator[str]:
    """What it is: its kind, and all of its fields, those of each operation."""
    size = "1 byte" if len(data) == 1 else f"{len(data)} bytes"
    try:
        payload = payloads.decode(data)
    except ValueError as error:
        yield from _line("payload", f"{size} that cannot be signed: {error}", 0)
    else:
        yield from _line("payload", f"{payload.operation}, {size}", 0)
        yield from _lines_of(_fields(payload), 1)
        if isinstance(payload, Generic):
            yield from _lines_of_contents(payload.group)
    yield from _line("digest", digest(data).hex(), 0)


def _lines_of_contents(group: OperationGroup | Exception) -> Iterator[str]:
    if not isinstance(group, OperationGroup):
        yield from _line("not understood", str(group), 1)
        return
    for number, content in enumerate(group.contents, 1):
        place = f" {number} of {len(group.contents)}" if len(group.contents) > 1 else ""
        staking = f" ({content.staking})" if content.staking else ""
        yield from _line(f"operation{place}", f"{content.kind}{staking}", 1)
        yield from _lines_of(content.fields, 2)


def _lines_of(fields: _Fields, depth: int) -> Iterator[str]:
    for name, value in fields.items():
        if isinstance(value, Mapping):
            yield from _line(name, "", depth)
            yield from _lines_of(value, depth + 1)
        elif isinstance(value, tuple):
            if not value:
                yield from _line(name, "none", depth)
            yield from _lines_of({f"{name} {i}": each for i, each in enumerate(value, 1)}, depth)
        else:
            yield from _line(name, _text(value), depth)


def _text(value: Value) -> str:
    match value:
        case None:
            return "none"
        case bytes():
            return _bytes(value)
        case Micheline():
            return value.shortened(_MOST_MICHELSON)
        case _:
            return str(value)


def _bytes(value: bytes) -> str:
    """Digits, and the text if it is one."""
    try:
        text = value.decode("utf-8")
    except ValueError:
        text = ""
    digits = value[:_MOST_BYTES].hex() or "empty"
    if len(value) > _MOST_BYTES:
        return f"{digits}… ({len(value)} bytes)"
    return f"{digits} ({text!a})" if text and text.isprintable() else digits


def _line(name: str, text: str, depth: int) -> list[str]:
    first = f"{'  ' * depth}{name:{_WIDTH - 1 - 2 * depth}} "
    return wrapped(text, first, " " * _WIDTH)


def payload_json(data: bytes) -> Json:
    """The same for programs."""
    said: dict[str, Json] = {"size": len(data), "digest": digest(data).hex(), "hex": data.hex()}
    try:
        payload = payloads.decode(data)
    except ValueError as error:
        return {**said, "operation": None, "error": str(error)}
    said |= {"operation": str(payload.operation), "error": None, **_object(_fields(payload))}
    if isinstance(payload, Generic):
        group = payload.group
        if isinstance(group, OperationGroup):
            said["contents"] = [
                {"kind": content.kind, **_object(content.fields)} for content in group.contents
            ]
        else:
            said |= {"contents": None, "error": str(group)}
    return said


def _object(fields: _Fields) -> dict[str, Json]:
    return {name: _json(value) for name, value in fields.items()}


def _json(value: Value) -> Json:
    match value:
        case Mutez():
            return str(int(value))
        case int() if abs(value) > _LARGEST_EXACT:
            return str(value)
        case bytes():
            return value.hex()
        case Micheline():
            return value.json
        case tuple():
            return [_json(each) for each in value]
        case Mapping():
            return _object(value)
        case _:
            return value


def _fields(payload: Payload) -> _Fields:
    match payload:
        case Block():
            return {
                "chain": payload.chain_id,
                "level": payload.level,
                "round": payload.round,
                "payload_round": payload.payload_round,
            }
        case Consensus():
            return {
                "chain": payload.chain_id,
                "level": payload.level,
                "round": payload.round,
                "slot": payload.slot,
                "branch": base58check.encode(Base58Type.BLOCK_HASH, payload.branch),
                "block_payload_hash": base58check.encode(
                    Base58Type.PAYLOAD_HASH, payload.block_payload_hash
                ),
                "dal_content": payload.dal_content,
            }
        case Generic():
            return {"branch": base58check.encode(Base58Type.BLOCK_HASH, payload.branch)}
        case Michelson():
            return {"value": payload.value}
