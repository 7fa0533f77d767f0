"""Payloads, HTTP requests and socket frames for Hypothesis: good ones, and what is made to harm.

The layouts are written out as Octez documents them, not taken from the package's decoder.
"""

import json
import string
from typing import TypeVar

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support import genericpayloads as made
from tests.support.vectors import (
    AUTH,
    AUTHENTICATION,
    EXCHANGES,
    FRAMES,
    MORE_PAYLOADS,
    PAYLOADS,
    TZ1,
    TZ3,
)

RECORDED = [*PAYLOADS.values(), *(bytes.fromhex(p["hex"]) for p in MORE_PAYLOADS)]
"""All recorded payloads, those for tz4 keys among them."""
_FITNESS_LENGTH_AT = 83
_Example = TypeVar("_Example")
_HASHES = st.binary(min_size=32, max_size=32)
_CHAIN_IDS = st.binary(min_size=4, max_size=4)
_NATURALS = st.integers(0, 2**31 - 1)


def _int32(value: int) -> bytes:
    return (value % 2**32).to_bytes(4, "big")


@st.composite
def blocks(draw: st.DrawFn) -> bytes:
    """Tenderbake block headers, magic byte first."""
    level, round_ = draw(_NATURALS), draw(_NATURALS)
    locked = draw(st.none() | st.integers(0, round_ - 1)) if round_ else None
    fitness = (
        bytes.fromhex("0000000102 00000004")
        + _int32(level)
        + (_int32(0) if locked is None else _int32(4) + _int32(locked))
        + bytes.fromhex("00000004")
        + _int32(-draw(_NATURALS) - 1)
        + bytes.fromhex("00000004")
        + _int32(round_)
    )
    nonce_hash = draw(st.none() | _HASHES)
    return (
        b"\x11"
        + draw(_CHAIN_IDS)
        + _int32(level)
        + draw(st.binary(min_size=1, max_size=1))  # protocol
        + draw(_HASHES)  # predecessor
        + draw(st.binary(min_size=8, max_size=8))  # timestamp
        + b"\x04"
        + draw(_HASHES)  # operations
        + _int32(len(fitness))
        + fitness
        + draw(_HASHES)  # context
        + draw(_HASHES)  # payload
        + _int32(draw(st.integers(0, round_)))
        + draw(st.binary(min_size=8, max_size=8))  # proof of work
        + (b"\x00" if nonce_hash is None else b"\xff" + nonce_hash)
        + draw(st.binary(min_size=1, max_size=1))  # votes
    )


@st.composite
def consensus_operations(draw: st.DrawFn) -> bytes:
    """Preattestations and attestations for other keys than tz4, with DAL content or without."""
    magic, kind = draw(st.sampled_from([(0x12, 0x14), (0x13, 0x15), (0x13, 0x17)]))
    dal = b""
    if kind == 0x17:
        dal = bytes(draw(st.lists(st.integers(0x80, 0xBF), max_size=3)))
        dal += bytes([draw(st.integers(1, 0x3F))])
    return (
        bytes([magic])
        + draw(_CHAIN_IDS)
        + draw(_HASHES)  # branch
        + bytes([kind])
        + draw(st.binary(min_size=2, max_size=2))  # slot
        + _int32(draw(_NATURALS))
        + _int32(draw(_NATURALS))
        + draw(_HASHES)  # block payload
        + dal
    )


_MUTEZ = st.integers(0, 2**63 - 1)
_TRANSACTIONS = st.builds(
    lambda amount, destination, fee, counter: made.transaction(
        amount, destination, fee=fee, counter=counter
    ),
    *(_MUTEZ, st.sampled_from([made.OTHER, made.CONTRACT, made.SOURCE]), _MUTEZ, _MUTEZ),
)


def generic_operations() -> st.SearchStrategy[bytes]:
    """Batches of transactions of the tz1 key, votes of it, and texts of nobody."""
    batches = st.lists(_TRANSACTIONS, min_size=1, max_size=4).map(b"".join)
    votes = st.integers(0, 2).map(made.ballot)
    texts = st.binary(max_size=200).map(made.failing_noop)
    return st.builds(
        lambda contents, branch: made.payload(contents, branch=branch),
        *(batches | votes | texts, _HASHES),
    )


def michelson_data() -> st.SearchStrategy[bytes]:
    """Packed data: integers, bytes and pairs of these."""
    leaves = st.one_of(
        st.integers().map(lambda number: b"\x00" + made.integer(number)),
        st.binary(max_size=50).map(lambda data: b"\x0a" + made.sized(data)),
    )
    pairs = st.recursive(
        leaves, lambda two: st.tuples(two, two).map(lambda both: b"\x07\x07" + b"".join(both))
    )
    return pairs.map(lambda data: b"\x05" + data)


def payloads() -> st.SearchStrategy[bytes]:
    """Well-formed payloads."""
    return st.one_of(blocks(), consensus_operations(), generic_operations(), michelson_data())


@st.composite
def _changed(draw: st.DrawFn) -> bytes:
    """A payload with some bytes set, and cut or lengthened at its end."""
    payload = bytearray(draw(st.sampled_from(RECORDED) | payloads()))
    for _ in range(draw(st.integers(0, 4))):
        payload[draw(st.integers(0, len(payload) - 1))] = draw(st.integers(0, 255))
    end = draw(st.integers(-8, 8))
    return bytes(payload[:end]) if end < 0 else bytes(payload) + bytes(end)


@st.composite
def _with_fatal_fitness(draw: st.DrawFn) -> bytes:
    """A block whose announced fitness kills the device, with or without so many bytes."""
    block = draw(blocks())
    length = draw(st.sampled_from([0x8000, 0x8001, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1]))
    at = _FITNESS_LENGTH_AT
    filler = bytes(draw(st.sampled_from([0, 800, 0x8000])))
    return block[:at] + _int32(length) + filler + block[at + 4 :]


def _around_the_longest() -> st.SearchStrategy[bytes]:
    """Payloads of about as many bytes as the frame buffer of the device takes."""
    attestation = PAYLOADS["att_dal_5"][:-1]
    lengths = st.integers(900, 1100)
    return st.one_of(
        lengths.map(made.noop_payload),
        lengths.map(lambda length: attestation + b"\x80" * length + b"\x01"),
    )


def _with_frames_inside() -> st.SearchStrategy[bytes]:
    """Operations whose text is a whole command for the device."""
    frames = [bytes.fromhex(e["request_hex"]) for e in EXCHANGES if len(e["request_hex"]) < 1800]
    return st.tuples(_HASHES, st.sampled_from(frames)).map(
        lambda parts: made.payload(made.failing_noop(parts[1]), branch=parts[0])
    )


def hostile_payloads() -> st.SearchStrategy[bytes]:
    """What could harm a device, or be signed although it must not be."""
    arbitrary = st.tuples(st.integers(0, 255), st.binary(max_size=300))
    return st.one_of(
        payloads(),
        _changed(),
        _with_fatal_fitness(),
        _around_the_longest(),
        _with_frames_inside(),
        arbitrary.map(lambda parts: bytes([parts[0]]) + parts[1]),
    )


@st.composite
def _changed_frame(draw: st.DrawFn) -> bytes:
    """The payload of a recorded frame with some bytes set, and cut or lengthened at its end."""
    payload = bytearray(draw(st.sampled_from(list(FRAMES.values()))))[2:]
    for _ in range(draw(st.integers(0, 4))):
        payload[draw(st.integers(0, len(payload) - 1))] = draw(st.integers(0, 255))
    return bytes(payload[: draw(st.integers(0, len(payload)))]) + draw(st.binary(max_size=4))


def socket_payloads() -> st.SearchStrategy[bytes]:
    """Payloads of frames of the socket protocol, good and bad."""
    return st.one_of(
        st.sampled_from([frame[2:] for frame in FRAMES.values()]),
        _changed_frame(),
        st.binary(max_size=100),
    )


_IN_A_TARGET = string.ascii_letters + string.digits + "-._~:/[]@!$&'()*+,;=%|{}^`\"<>\\#"


def _targets() -> st.SearchStrategy[str]:
    """What follows the method: routes and parts of them, good and bad, and a query."""
    junk = st.text(_IN_A_TARGET, max_size=20) | st.sampled_from(["%00", "%ff", "%2f", "..", ""])
    segment = st.sampled_from(["keys", "authorized_keys", "known_keys", str(TZ1), str(AUTH)]) | junk
    path = st.lists(segment, max_size=4).map(lambda segments: "/" + "/".join(segments))
    name = st.sampled_from(["version", "authentication", "%61uthentication"]) | junk
    value = st.sampled_from(["3", AUTHENTICATION["signature"], AUTHENTICATION["auth_pkh"]]) | junk
    arguments = st.lists(st.tuples(name, value).map("=".join), max_size=3).map("&".join)
    return st.one_of(
        st.tuples(path, arguments).map("?".join),
        st.tuples(st.just(f"/keys/{TZ3}"), arguments).map("?".join),
    )


def requests() -> st.SearchStrategy[tuple[str, str, bytes]]:
    """Method, target and body of requests, of which none is a good one to sign."""
    values = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30),
        lambda children: st.lists(children) | st.dictionaries(st.text(), children),
        max_leaves=5,
    )
    documents = values.map(lambda value: json.dumps(value).encode())
    baking = st.sampled_from([payload for payload in RECORDED if payload[0] != 0x03])
    cut = baking.map(lambda payload: b'"%b"' % payload[:-1].hex().encode())
    bodies = st.one_of(st.binary(max_size=200), documents, cut)
    methods = st.sampled_from(["GET", "POST", "POST", "POST", "HEAD", "PUT", "OPTIONS"])
    return st.tuples(methods, _targets(), bodies)


def examples(strategy: st.SearchStrategy[_Example], count: int) -> list[_Example]:
    """Values of Hypothesis, to be sent where `@given` cannot go: it knows no Deferreds."""
    collected: list[_Example] = []

    @settings(
        max_examples=count,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(strategy)
    def collect(example: _Example) -> None:
        collected.append(example)

    collect()
    return collected
