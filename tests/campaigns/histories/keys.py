"""Keys of the boards: replacements whose signatures cost a microsecond, or real ones.

Both sign repeatably, so that a history is the same each time; a key that is no Ed25519 one gives
another signature each time that it is used, as a device with a random nonce does.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b
from unittest.mock import patch

from tezio_signer.hsm.framing import Slot
from tezio_signer.simulator.keys import TEST_KEYS, SoftKey
from tezio_signer.tezos.keys import SECP256K1_ORDER, Curve, PublicKey, Signature, digest

_SMALLER_ORDER = SECP256K1_ORDER >> 1
"""Below the order of each curve, so that any hash modulo this is a nonce."""


def _half(*parts: bytes) -> bytes:
    return blake2b(b"".join(parts), digest_size=32).digest()


class StandInKey(SoftKey):
    """Signs with what can be made from the public key, the digest and a nonce."""

    def __init__(self, slot: Slot, board: str) -> None:
        self.curve = _SOFT[slot].curve
        self._board = board.encode()
        self._public, self._compressed = _PUBLIC[slot]
        self._signed = 0

    @property
    def public(self) -> bytes:
        return self._public

    @property
    def compressed(self) -> bytes:
        return self._compressed

    def sign(self, hashed: bytes, nonce: int | None = None) -> bytes:
        if self.curve is not Curve.ED25519:
            self._signed += 1
        r = _half(self._board, self._signed.to_bytes(4, "big"), hashed)
        return r + _half(self._compressed, hashed, r)


class RepeatableKey(SoftKey):
    """Signs as a device does, with a nonce that depends on how often it has signed."""

    def __init__(self, slot: Slot, board: str) -> None:
        self.__dict__.update(vars(_SOFT[slot]))
        self._board = board.encode()
        self._signed = 0

    def sign(self, hashed: bytes, nonce: int | None = None) -> bytes:
        self._signed += 1
        seed = _half(self._board, self._signed.to_bytes(4, "big"), hashed)
        return super().sign(hashed, int.from_bytes(seed, "big") % _SMALLER_ORDER + 1)


_SOFT: dict[Slot, SoftKey] = {slot: SoftKey.parse(text) for slot, text in TEST_KEYS.items()}
_PUBLIC = {slot: (soft.public, soft.compressed) for slot, soft in _SOFT.items()}
PUBLIC_KEYS = {
    key.hash: key for key in (PublicKey.of(soft.curve, soft.compressed) for soft in _SOFT.values())
}
_really_verifies = PublicKey.verifies


def _fake_verifies(key: PublicKey, message: bytes, signature: Signature) -> bool:
    if signature.curve not in (None, key.curve) or len(signature.data) != 64:
        return False
    r = signature.data[:32]
    return signature.data[32:] == _half(key.data, digest(message), r)


class Cryptography:
    """How boards sign, and how it is verified.

    :param real: with the curves of Tezos, which takes most of the time of a step.
    """

    def __init__(self, real: bool = False) -> None:
        self._real = real

    def key(self, slot: Slot, board: str) -> SoftKey:
        """The key of a slot in a board."""
        return RepeatableKey(slot, board) if self._real else StandInKey(slot, board)

    def verifies(self, key: PublicKey, message: bytes, signature: Signature) -> bool:
        """What the referee says of a signature, whatever bug the signer has."""
        return (_really_verifies if self._real else _fake_verifies)(key, message, signature)

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Have the signer verify in this way."""
        if self._real:
            yield
        else:
            with patch.object(PublicKey, "verifies", _fake_verifies):
                yield
