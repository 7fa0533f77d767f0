"""Verifies signatures with PyTezos, in whose environment it runs.

    python pytezos_verify.py '[{"public_key": "edpk…", "payload": "03ab…", "signature": "edsig…"}]'

prints, for each, the hash of the key and whether the signature is good, as JSON.
"""

import json
import sys

from pytezos.crypto.key import Key  # type: ignore[import-not-found]


def _verifies(key: Key, payload: bytes, signature: str) -> bool:
    try:
        return bool(key.verify(signature, payload))
    except ValueError as error:
        # What is malformed is a ValueError too, with other words.
        if str(error) != "Signature is invalid.":
            raise
        return False


def _main() -> None:
    results = []
    for item in json.loads(sys.argv[1]):
        key = Key.from_encoded_key(item["public_key"])
        verifies = _verifies(key, bytes.fromhex(item["payload"]), item["signature"])
        results.append({"key_hash": key.public_key_hash(), "verifies": verifies})
    print(json.dumps(results))


_main()
