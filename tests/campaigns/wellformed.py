"""Payloads, frames and HTTP requests read anew: who asked for what, and must have an answer.

What the signer takes for a request, and what it sends to a device, is held to this reading.
Nothing in it is the package's or Twisted's, but for what is in generic operations. It takes what
is unusual but means one thing only.
"""

import re
from collections.abc import Iterator
from urllib.parse import unquote_to_bytes

from attrs import frozen

from tests.support.octezclient import HSM_AUTH_KEY, authenticated_bytes, to_base58check, verifies
from tests.support.octezsocketclient import tagged_hash
from tests.support.vectors import TZ1, TZ2, TZ3
from tezio_signer.tezos import operations

Fields = tuple[object, ...]
Ask = tuple[str, bytes]
"""An address, and the payload to be signed with its key."""
MAINNET = "NetXdQprcVkpaWU"
LONGEST_PAYLOAD = 1015
_CHAIN = bytes.fromhex("575200")
_CONSENSUS = re.compile(
    rb"""
    (?P<magic> \x12 | \x13 ) (?P<chain> .{4} ) (?P<branch> .{32} )
    (?: (?P<kind> \x14 | \x15 | \x17 ) (?P<slot> .. ) | (?P<bls> \x28 | \x29 ) )
    (?P<level> [\x00-\x7f] ... ) (?P<round> [\x00-\x7f] ... ) (?P<payload> .{32} )
    (?P<dal> [\x00-\x3f] | [\x80-\xbf] [\x80-\xff]* [\x01-\x7f] )?
    """,
    re.DOTALL | re.VERBOSE,
)
_BLOCK = re.compile(
    rb"""
    \x11 (?P<chain> .{4} ) (?P<level> [\x00-\x7f] ... ) .{1} .{32} .{8} .{1} .{32}
    (?: \x00\x00\x00\x21 (?P<unlocked> ) | \x00\x00\x00\x25 )
    \x00\x00\x00\x01 \x02
    \x00\x00\x00\x04 (?P=level)
    (?: \x00\x00\x00\x00 (?P=unlocked) | \x00\x00\x00\x04 (?P<locked> [\x00-\x7f] ... ) )
    \x00\x00\x00\x04 [\x80-\xff] ...
    \x00\x00\x00\x04 (?P<round> [\x00-\x7f] ... )
    .{32} .{32} (?P<payload_round> [\x00-\x7f] ... ) .{8}
    (?: \x00 | \xff .{32} ) .
    """,
    re.DOTALL | re.VERBOSE,
)
_GENERIC = re.compile(rb"\x03(?P<branch>.{32})(?P<contents>.+)", re.DOTALL)
_NAMED = operations.CONSENSUS_KINDS | {
    *("drain_delegate", "update_consensus_key", "update_companion_key")
}
_NAMES = {b"\x12": "preattestation", b"\x13": "attestation"}
_KINDS = {b"\x12": (b"\x14", b"\x28"), b"\x13": (b"\x15", b"\x17", b"\x29")}


def _number(data: bytes) -> int:
    return int.from_bytes(data, "big")


def fields_of(payload: bytes) -> Fields | None:
    """Its operation and what it says; None for a payload that must not be signed.

    What is in a generic operation or in Michelson data is not read here.
    """
    if match := _GENERIC.fullmatch(payload):
        return "generic", match["branch"], match["contents"]
    if payload[:1] == b"\x05" and len(payload) > 1:
        return "michelson", payload[1:]
    if match := _CONSENSUS.fullmatch(payload):
        return _consensus(match)
    if match := _BLOCK.fullmatch(payload):
        return _block(match)
    return None


def _consensus(match: re.Match[bytes]) -> Fields | None:
    kind = match["kind"] or match["bls"]
    if kind not in _KINDS[match["magic"]] or (kind == b"\x17") != (match["dal"] is not None):
        return None
    slot = None if match["slot"] is None else _number(match["slot"])
    return (
        _NAMES[match["magic"]],
        to_base58check(_CHAIN, match["chain"]),
        _number(match["level"]),
        _number(match["round"]),
        slot,
        match["branch"],
        match["payload"],
        match["dal"],
    )


def _block(match: re.Match[bytes]) -> Fields | None:
    if (match["unlocked"] is None) != (match["locked"] is not None):
        return None
    round_, payload_round = _number(match["round"]), _number(match["payload_round"])
    if payload_round > round_ or (match["locked"] and _number(match["locked"]) >= round_):
        return None
    chain = to_base58check(_CHAIN, match["chain"])
    return "block", chain, _number(match["level"]), round_, payload_round


def may_be_signed(pkh: str, payload: bytes) -> bool:
    """Whether the policy of the targets lets this key sign this payload.

    The tz1 key signs generic operations of its own account; the tz2 key too, for who
    authenticates; the tz3 key bakes on the main chain.
    """
    fields = fields_of(payload)
    if fields is None or len(payload) > LONGEST_PAYLOAD:
        return False
    if pkh in (str(TZ1), str(TZ2)):
        return payload[0] == 0x03 and _is_of(pkh, payload)
    if pkh == str(TZ3):
        bls = len(fields) == 8 and fields[4] is None
        return payload[0] in (0x11, 0x12, 0x13) and fields[1] == MAINNET and not bls
    return False


def _is_of(pkh: str, payload: bytes) -> bool:
    """Whether a group of operations is understood, of no other account, and of no kind that
    has to be named. The decoder is held to an encoder elsewhere, and believed here.
    """
    try:
        group = operations.decode(payload[1:])
    except operations.Undecodable:
        return False
    return all(
        content.fields.get("source", pkh) == pkh and content.kind not in _NAMED
        for content in group.contents
    )


def _authentic(pkh: str, payload: bytes, signatures: list[str]) -> bool:
    if pkh != str(TZ2):
        return True
    try:
        (signature,) = signatures
        return verifies(HSM_AUTH_KEY.public_key, authenticated_bytes(pkh, payload), signature)
    except (ValueError, AssertionError):
        return False


# -- the socket protocol -------------------------------------------------------------------


def frames_in(stream: bytes) -> Iterator[bytes]:
    """The payloads of the complete frames of a stream."""
    while len(stream) >= 2 and len(stream) >= 2 + _number(stream[:2]):
        end = 2 + _number(stream[:2])
        yield stream[2:end]
        stream = stream[end:]


_SIGN = re.compile(
    rb"\x00 (?: (?P<key> [\x00-\x02] .{20} ) | \x03 (?P<versioned> .{21} ) [\x00-\x03] )"
    rb"(?P<length> .{4} ) (?P<rest> .* )",
    re.DOTALL | re.VERBOSE,
)


_WITH_DATA = re.compile(
    rb"""
    (?: \x00 (?: [\x00-\x02] .{20} | \x03 [\x00-\x04] .{20} [\x00-\x03] )
      | [\x03\x04] [\x00-\x04] .{20} )
    (?P<length> .{4} ) (?P<rest> .* )
    """,
    re.DOTALL | re.VERBOSE,
)
_WITHOUT_DATA = re.compile(
    rb"""
    [\x02\x06] | [\x01\x05] [\x00-\x04] .{20}
    | \x07 [\x00-\x04] .{20} (?: \x00 | [\x01-\xff] .{48} )
    """,
    re.DOTALL | re.VERBOSE,
)
_PROOF_LENGTHS = (0, 64, 96, 2420)


def is_request(frame: bytes) -> bool:
    """Whether the payload of a frame is one of the eight requests of Octez."""
    if match := _WITH_DATA.fullmatch(frame):
        return len(match["rest"]) - _number(match["length"]) in _PROOF_LENGTHS
    return _WITHOUT_DATA.fullmatch(frame) is not None


def requests_before_nonsense(stream: bytes) -> tuple[int, bool]:
    """How many requests a stream begins with, and whether a frame that is none follows."""
    count = 0
    for frame in frames_in(stream):
        if not is_request(frame):
            return count, True
        count += 1
    return count, False


def asked_over_socket(stream: bytes) -> list[Ask]:
    """What the frames of a stream ask to have signed, and may have, as often as they do."""
    asked = []
    pkhs = {tagged_hash(str(key)): str(key) for key in (TZ1, TZ2, TZ3)}
    for match in filter(None, map(_SIGN.fullmatch, frames_in(stream))):
        pkh = pkhs.get(match["key"] or match["versioned"], "")
        length = _number(match["length"])
        payload, proof = match["rest"][:length], match["rest"][length:]
        if len(payload) < length or len(proof) not in _PROOF_LENGTHS:
            continue
        signature = to_base58check(HSM_AUTH_KEY.scheme.signature_prefix, proof)
        if may_be_signed(pkh, payload) and _authentic(pkh, payload, [signature]):
            asked.append((pkh, payload))
    return asked


# -- HTTP ----------------------------------------------------------------------------------

_LINE = re.compile(rb"(?:\r\n)?([!#$%&'*+.^_`|~0-9A-Za-z-]+) ([^\x00 \r\n]+) HTTP/1\.([01])\r\n")
_HEADER = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\x00\r\n]*?)[ \t]*\r\n")
_TRAILER = re.compile(rb"(?!\r\n)(?:[^\r]|\r(?!\n))*\r\n")
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,8})[ \t]*(?:;[^\r\n]*)?\r\n")
_HEX_BODY = re.compile(rb'[ \t\r\n]*"((?:[0-9a-fA-F]|\\u00[0-9a-fA-F]{2})*)"[ \t\r\n]*')
_ESCAPE = re.compile(rb"\\u00([0-9a-fA-F]{2})")


@frozen
class HttpRequest:
    """A request as it is in the stream, its body put together.

    :ivar closes: whether the connection has to be closed after its answer.
    """

    method: bytes
    target: bytes
    body: bytes
    closes: bool


def http_requests_in(stream: bytes) -> Iterator[HttpRequest]:
    """The complete requests of a connection, up to the first that can be read in two ways."""
    at, last = 0, False
    while not last and (line := _LINE.match(stream, at)):
        at = line.end()
        headers: dict[bytes, bytes] = {}
        while header := _HEADER.match(stream, at):
            at = header.end()
            name = header[1].lower()
            if name in headers and name in (b"content-length", b"transfer-encoding"):
                return
            headers[name] = header[2].lower()
        if stream[at : at + 2] != b"\r\n":
            return
        read = _body(stream, at + 2, headers)
        if read is None:
            return
        body, at = read
        last = line[3] == b"0" or b"close" in headers.get(b"connection", b"").split()
        yield HttpRequest(line[1], line[2], body, last)


def _body(stream: bytes, at: int, headers: dict[bytes, bytes]) -> tuple[bytes, int] | None:
    length, coding = headers.get(b"content-length"), headers.get(b"transfer-encoding")
    if coding is not None:
        return _chunks(stream, at) if coding == b"chunked" and length is None else None
    if length is None:
        return b"", at
    if not re.fullmatch(rb"[0-9]{1,9}", length) or at + int(length) > len(stream):
        return None
    return stream[at : at + int(length)], at + int(length)


def _chunks(stream: bytes, at: int) -> tuple[bytes, int] | None:
    body = b""
    while chunk := _CHUNK.match(stream, at):
        size, at = int(chunk[1], 16), chunk.end()
        if size == 0:
            while trailer := _TRAILER.match(stream, at):
                at = trailer.end()
            return (body, at + 2) if stream[at : at + 2] == b"\r\n" else None
        body += stream[at : at + size]
        at += size
        if stream[at : at + 2] != b"\r\n":
            return None
        at += 2
    return None


def asked_over_http(stream: bytes) -> list[Ask]:
    """What the requests of a connection ask to have signed, and may have, as often as they do."""
    asked = []
    for request in http_requests_in(stream):
        path, _, query = request.target.partition(b"?")
        text = re.sub(b"/+", b"/", unquote_to_bytes(path)).decode("ascii", "replace")
        body = _HEX_BODY.fullmatch(request.body)
        if request.method.upper() != b"POST" or not text.startswith("/keys/") or body is None:
            continue
        pkh = text.removeprefix("/keys/")
        digits = _ESCAPE.sub(lambda escape: bytes.fromhex(escape[1].decode()), body[1])
        if not re.fullmatch(rb"(?:[0-9a-fA-F]{2})*", digits):
            continue
        payload = bytes.fromhex(digits.decode("ascii"))
        arguments = [argument.partition(b"=") for argument in re.split(b"[&;]", query)]
        proofs = [
            unquote_to_bytes(value).decode("ascii", "replace")
            for name, _, value in arguments
            if unquote_to_bytes(name) == b"authentication"
        ]
        if may_be_signed(pkh, payload) and _authentic(pkh, payload, proofs):
            asked.append((pkh, payload))
    return asked


# -- answers -------------------------------------------------------------------------------

_STATUS = re.compile(rb"HTTP/1\.[01] ([0-9]{3}) [ -~]*\r\n")


@frozen
class HttpAnswer:
    """A response.

    :ivar body: empty if it is one to HEAD.
    :ivar closes: whether it says that the connection will be closed.
    """

    status: int
    body: bytes
    closes: bool


class NoAnswer(ValueError):
    """Bytes that are no sequence of HTTP responses."""


def http_answers_in(stream: bytes) -> Iterator[HttpAnswer]:
    """The responses of a connection."""
    at = 0
    while at < len(stream):
        line = _STATUS.match(stream, at)
        if line is None:
            raise NoAnswer(f"no status line: {stream[at : at + 60]!r}")
        at = line.end()
        headers = {}
        while header := _HEADER.match(stream, at):
            at = header.end()
            headers[header[1].lower()] = header[2]
        if stream[at : at + 2] != b"\r\n":
            raise NoAnswer(f"no end of the headers: {stream[at : at + 60]!r}")
        at += 2
        length = int(headers.get(b"content-length", b"0"))
        if _STATUS.match(stream, at) or at == len(stream):
            length = 0  # the answer to a HEAD
        body = stream[at : at + length]
        if len(body) < length:
            raise NoAnswer(f"a body of {len(body)} instead of {length} bytes")
        at += length
        # Twisted writes its own 400 without any header.
        closes = not headers or headers.get(b"connection", b"").lower() == b"close"
        yield HttpAnswer(int(line[1]), body, closes)
