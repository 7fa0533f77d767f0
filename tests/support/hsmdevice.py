"""What the tests of the simulated HSM ask it, and how they judge its answers."""

from hashlib import blake2b

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from tests.support.vectors import EXCHANGES
from tezio_signer.hsm import framing
from tezio_signer.hsm.framing import Opcode, Request, Slot
from tezio_signer.simulator.firmware import Firmware
from tezio_signer.tezos.keys import SECP256K1_ORDER, Curve, PublicKey, Signature

_BODIES = {e["what"]: bytes.fromhex(e["reply_hex"])[2:-2] for e in EXCHANGES}
KEYS = {
    Slot.AUTH: PublicKey.parse(_BODIES["get_pk key 0 (auth) mode 3"].decode()),
    Slot.TZ1: PublicKey.of(Curve.ED25519, _BODIES["get_pk key 1 (tz1) mode 1"]),
    Slot.TZ2: PublicKey.parse(_BODIES["get_pk key 2 (tz2) mode 3"].decode()),
    Slot.TZ3: PublicKey.of(Curve.P256, _BODIES["get_pk key 3 (tz3) mode 2"]),
}
"""The public keys that the firmware was recorded to answer."""
_PREHASHED = ec.ECDSA(Prehashed(SHA256()))


def sign(slot: int, message: bytes, mode: int = 3) -> Request:
    """Ask to sign anything with any slot, in any mode."""
    return Request(Opcode.SIGN, slot, mode, 0, message)


def execute(firmware: Firmware, request: Request) -> bytes | None:
    """All that a device writes in answer to a request; None if it stays silent."""
    answer = firmware.execute(request.frame()[1:])
    return None if answer is None else answer.packet


def ask(firmware: Firmware, request: Request) -> bytes:
    """The body of the answer to a request, which has to be one reply packet."""
    packet = execute(firmware, request)
    assert packet is not None, "the device is silent"
    split = framing.split_reply(packet)
    assert split is not None, "the reply is cut"
    body, rest = split
    assert not rest, "there are bytes behind the reply"
    return body


def is_signature(slot: Slot, mode: int, message: bytes, body: bytes) -> bool:
    """Whether the body of a reply is the slot's signature of a message, in the form of a mode."""
    key = KEYS[slot]
    if mode in (2, 4):
        signature = Signature.parse(body.decode("ascii"))
        if signature.curve is not key.curve:
            return False
        body = signature.data
    if len(body) != 64:
        return False
    hashed = message if mode in (1, 2) else blake2b(message, digest_size=32).digest()
    r, s = int.from_bytes(body[:32], "big"), int.from_bytes(body[32:], "big")
    try:
        if key.curve is Curve.ED25519:
            ed25519.Ed25519PublicKey.from_public_bytes(key.data).verify(body, hashed)
        else:
            curve = ec.SECP256K1() if slot is Slot.TZ2 else ec.SECP256R1()
            point = ec.EllipticCurvePublicKey.from_encoded_point(curve, key.data)
            point.verify(encode_dss_signature(r, s), hashed, _PREHASHED)
    except InvalidSignature:
        return False
    return slot is not Slot.TZ2 or s <= SECP256K1_ORDER // 2
