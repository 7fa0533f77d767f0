"""Watch over nonces: two messages of one key with one r give its secret away."""

from collections import OrderedDict

from twisted.logger import Logger

from tezio_signer.errors import Forbidden
from tezio_signer.tezos.keys import PublicKeyHash, Signature, digest

_REMEMBERED = 4096


class Nonces:
    """The r of the last signatures of each key, and the keys that are exposed."""

    _log = Logger()

    def __init__(self) -> None:
        self._seen: dict[PublicKeyHash, OrderedDict[int, bytes]] = {}
        self._exposed: set[PublicKeyHash] = set()

    def check_key(self, key: PublicKeyHash) -> None:
        """Raises Forbidden for a key that is exposed."""
        if key in self._exposed:
            raise Forbidden(
                f"{key} signs no more: its HSM repeated a nonce, which exposes the secret key; "
                "replace the key"
            )

    def check(self, key: PublicKeyHash, message: bytes, signature: Signature) -> None:
        """Raises Forbidden if this signature and an earlier one expose the key to who has both."""
        seen = self._seen.setdefault(key, OrderedDict())
        hashed = digest(message)
        if seen.setdefault(signature.r, hashed) != hashed:
            self._exposed.add(key)
            self._log.critical(
                "the HSM signed two messages of {key} with one nonce: its secret key is exposed, "
                "and it signs no more until the daemon is restarted",
                key=key,
            )
            self.check_key(key)
        if len(seen) > _REMEMBERED:
            seen.popitem(last=False)
