"""What a payload is, as lines for people and as JSON."""

from collections.abc import Iterator
from typing import Any

from tezio_signer.cli.explanation import wrapped
from tezio_signer.tezos import payload as payloads
from tezio_signer.tezos.keys import digest
from tezio_signer.tezos.payload import Block, Consensus, Generic, Payload

_WIDTH = 20


def payload_lines(data: bytes) -> Iterator[str]:
    """What it is: its kind, and all of its fields that say something to people."""
    size = "1 byte" if len(data) == 1 else f"{len(data)} bytes"
    try:
        payload = payloads.decode(data)
    except ValueError as error:
        yield from _line("payload", f"{size} that cannot be signed: {error}")
    else:
        yield from _line("payload", f"{payload.operation}, {size}")
        for name, value in _fields(payload).items():
            yield from _line(f"  {name}", str(value))
    yield from _line("digest", digest(data).hex())


def _line(name: str, text: str) -> list[str]:
    return wrapped(text, f"{name:{_WIDTH - 1}} ", " " * _WIDTH)


def payload_json(data: bytes) -> dict[str, Any]:
    """The same for programs."""
    said: dict[str, Any] = {"size": len(data), "digest": digest(data).hex(), "hex": data.hex()}
    try:
        payload = payloads.decode(data)
    except ValueError as error:
        return {**said, "operation": None, "error": str(error)}
    return {**said, "operation": str(payload.operation), "error": None, **_fields(payload)}


def _fields(payload: Payload) -> dict[str, Any]:
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
                "branch": payload.branch.hex(),
                "block_payload_hash": payload.block_payload_hash.hex(),
                "dal_content": None if payload.dal_content is None else payload.dal_content.hex(),
            }
        case Generic():
            return {"branch": payload.branch.hex(), "contents": payload.contents.hex()}
