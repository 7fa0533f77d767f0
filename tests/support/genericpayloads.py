"""Generic operations, encoded as `docs/protocols/octez-remote-signer.md` describes them.

Nothing here is the package's: what is built of these parts is what the decoder is held to. Each
kind is a function that gives the bytes of one operation; `payload` makes of them what is signed.
"""

from tests.support.octezclient import from_base58check
from tests.support.vectors import TZ1

BRANCH = bytes(range(0x20))
SOURCE = str(TZ1)
OTHER = "tz1gjaF81ZRRvdzjobyfVNsAeSC6PScjfQwN"
CONTRACT = "KT1S9yRLHEABsTEu1dJEQfhQLfJTASBijuQC"
PROTOCOL = "PtNairobiyssHuh87hEhfVBGCVrK3WnS8Z2FT4ymB5tAa4r1nQf"
UNIT = bytes.fromhex("030b")
"""Micheline `Unit`."""
_TAGS = {"tz1": 0, "tz2": 1, "tz3": 2, "tz4": 3, "tz5": 4}
PREFIXES = {
    "tz1": bytes.fromhex("06a19f"),
    "tz2": bytes.fromhex("06a1a1"),
    "tz3": bytes.fromhex("06a1a4"),
    "tz4": bytes.fromhex("06a1a6"),
    "tz5": bytes.fromhex("06a1a9"),
    "KT1": bytes.fromhex("025a79"),
}
ENTRYPOINTS = (
    *("default", "root", "do", "set_delegate", "remove_delegate", "deposit"),
    *("stake", "unstake", "finalize_unstake", "set_delegate_parameters"),
)
"""Those that have a number, which is their place here."""


def payload(*contents: bytes, branch: bytes = BRANCH) -> bytes:
    """What is signed: magic byte, branch, operations."""
    return b"\x03" + branch + b"".join(contents)


def natural(number: int) -> bytes:
    """An unsigned zarith number."""
    parts = [number & 0x7F]
    while number := number >> 7:
        parts.append(number & 0x7F)
    return bytes([*(part | 0x80 for part in parts[:-1]), parts[-1]])


def integer(number: int) -> bytes:
    """A signed zarith number."""
    size = abs(number)
    first = size & 0x3F | (0x40 if number < 0 else 0)
    return bytes([first | 0x80]) + natural(size >> 6) if size >> 6 else bytes([first])


def sized(data: bytes) -> bytes:
    """Bytes behind their length."""
    return len(data).to_bytes(4, "big") + data


def optional(data: bytes | None) -> bytes:
    """What may be absent."""
    return b"\x00" if data is None else b"\xff" + data


def key_hash(address: str) -> bytes:
    """The 21 bytes of tz1 to tz5."""
    kind = address[:3]
    return bytes([_TAGS[kind]]) + from_base58check(PREFIXES[kind], address)


def contract(address: str) -> bytes:
    """The 22 bytes of any account."""
    if address.startswith("KT1"):
        return b"\x01" + from_base58check(PREFIXES["KT1"], address) + b"\x00"
    return b"\x00" + key_hash(address)


def entrypoint(name: str) -> bytes:
    """An entrypoint, by its number if it has one."""
    if name in ENTRYPOINTS:
        return bytes([ENTRYPOINTS.index(name)])
    return b"\xff" + bytes([len(name)]) + name.encode()


def manager(
    tag: int,
    *,
    source: str = SOURCE,
    fee: int = 404,
    counter: int = 2,
    gas_limit: int = 1521,
    storage_limit: int = 257,
) -> bytes:
    """The beginning of a manager operation."""
    numbers = (fee, counter, gas_limit, storage_limit)
    return bytes([tag]) + key_hash(source) + b"".join(map(natural, numbers))


def transaction(
    amount: int = 1_000_000,
    destination: str = OTHER,
    *,
    call: str | None = None,
    value: bytes = UNIT,
    **header: int,
) -> bytes:
    """A transaction of so many mutez; with a call it has parameters."""
    return transaction_of(SOURCE, amount, destination, call=call, value=value, **header)


def transaction_of(
    source: str,
    amount: int,
    destination: str,
    *,
    call: str | None = None,
    value: bytes = UNIT,
    **header: int,
) -> bytes:
    """A transaction of another account."""
    parameters = None if call is None else entrypoint(call) + sized(value)
    head = manager(0x6C, source=source, **header)
    return head + natural(amount) + contract(destination) + optional(parameters)


def reveal(public_key: bytes = b"\x00" + bytes(32), proof: bytes | None = None) -> bytes:
    """A reveal; of a public key with its tag."""
    return manager(0x6B) + public_key + optional(None if proof is None else sized(proof))


def delegation(delegate: str | None = OTHER) -> bytes:
    """A delegation, or the end of one."""
    return manager(0x6E) + optional(None if delegate is None else key_hash(delegate))


def proposals(*protocols: str, source: str = SOURCE, period: int = 7) -> bytes:
    """Proposals of protocols."""
    hashes = b"".join(from_base58check(b"\x02\xaa", each) for each in protocols)
    return b"\x05" + key_hash(source) + period.to_bytes(4, "big") + sized(hashes)


def ballot(vote: int = 0, *, source: str = SOURCE, period: int = 7) -> bytes:
    """A ballot: 0 yay, 1 nay, 2 pass."""
    protocol = from_base58check(b"\x02\xaa", PROTOCOL)
    return b"\x06" + key_hash(source) + period.to_bytes(4, "big") + protocol + bytes([vote])


def drain_delegate(consensus_key: str, delegate: str, destination: str) -> bytes:
    """What sends all that a baker has to a destination."""
    return b"\x09" + b"".join(map(key_hash, (consensus_key, delegate, destination)))


def failing_noop(text: bytes) -> bytes:
    """What `sign message` signs; it may be made of any size."""
    return b"\x11" + sized(text)


def noop_payload(length: int) -> bytes:
    """A payload of so many bytes that is decoded: 38 or more."""
    return payload(failing_noop(b"\x07" * (length - 38)))


def transfer_from(key: object, amount: int = 1_000_000, *, call: str | None = None) -> bytes:
    """A payload that sends so many mutez from the account of a key, which alone may sign it."""
    return payload(transaction_of(str(key), amount, CONTRACT if call else OTHER, call=call))


def delegation_from(key: object) -> bytes:
    """A payload of two operations: the account of a key is revealed, and delegated."""
    return payload(
        manager(0x6B, source=str(key)) + b"\x00" + bytes(32) + b"\x00",
        manager(0x6E, source=str(key), counter=3) + optional(key_hash(OTHER)),
    )
