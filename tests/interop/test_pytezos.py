"""PyTezos, another implementation of Tezos, verifies what the signer signs."""

import json
from pathlib import Path

from twisted.trial.unittest import TestCase

from tests.support.genericpayloads import transfer_from
from tests.support.programs import installed, run, start_simulated_signer
from tests.support.vectors import PAYLOADS, TZ1, TZ2, TZ3
from tezio_signer.tezos.keys import PublicKeyHash

_VERIFY = Path(__file__).parent / "pytezos_verify.py"


class PyTezosTests(TestCase):
    """Signatures over HTTP, verified with libsodium, libsecp256k1 and fastecdsa."""

    timeout = 60

    def setUp(self) -> None:
        self.python = installed("pytezos", "bin", "python")

    async def test_signatures_verify(self) -> None:
        """PyTezos accepts our signatures with every curve, and none for a changed payload."""
        cases: list[tuple[PublicKeyHash, bytes]] = [
            *((key, transfer_from(key)) for key in (TZ1, TZ2, TZ3)),
            (TZ3, PAYLOADS["block_unlocked_nononce_on"]),
            (TZ3, PAYLOADS["preatt"]),
            (TZ3, PAYLOADS["att"]),
        ]
        signer = await start_simulated_signer(self)
        asked, expected = [], []
        for key, payload in cases:
            public_key = json.loads((await signer.request("GET", f"/keys/{key}")).body)
            signature = json.loads((await signer.sign(key, payload)).body)
            changed = payload[:-1] + bytes([payload[-1] ^ 1])
            for data, verifies in ((payload, True), (changed, False)):
                asked.append({**public_key, **signature, "payload": data.hex()})
                expected.append({"key_hash": str(key), "verifies": verifies})
        results = json.loads(await run(self, [self.python, str(_VERIFY), json.dumps(asked)]))
        self.assertEqual(results, expected)
