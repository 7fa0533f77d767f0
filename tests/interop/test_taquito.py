"""Taquito, the JavaScript library of most Tezos applications, as a client."""

import json
from pathlib import Path
from typing import Any

from twisted.trial.unittest import TestCase

from tests.support.genericpayloads import delegation_from, transfer_from
from tests.support.programs import command, installed, run, start_simulated_signer
from tests.support.vectors import AUTH, PAYLOADS, TZ1, TZ2, TZ3, consensus
from tezio_signer.tezos.keys import PublicKeyHash

_CLIENT = Path(__file__).parent / "taquito" / "client.cjs"
# Taquito takes the magic byte, and the chain id after it, apart from the rest.
_MAGIC_BYTE, _MAGIC_BYTE_AND_CHAIN = 1, 5


def _request(key: object, payload: bytes, watermark_length: int) -> dict[str, str]:
    watermark, rest = payload[:watermark_length], payload[watermark_length:]
    return {"pkh": str(key), "watermark": watermark.hex(), "bytes": rest.hex()}


class TaquitoTests(TestCase):
    """What `RemoteSigner` makes of our answers, with keys of every curve."""

    timeout = 60

    def setUp(self) -> None:
        self.node = command("node")
        self.packages = installed("taquito", "node_modules")

    async def ask(self, *requests: dict[str, str]) -> list[dict[str, Any]]:
        """What comes of these requests to a signer with a simulated HSM, one after the other."""
        signer = await start_simulated_signer(self)
        url = f"http://127.0.0.1:{signer.port}"
        arguments = [self.node, str(_CLIENT), url, json.dumps(requests)]
        results: list[dict[str, Any]] = json.loads(
            await run(self, arguments, {"NODE_PATH": self.packages})
        )
        return results

    async def test_signatures_verify(self) -> None:
        """Taquito reads our keys, and both versions of its cryptography accept our signatures."""
        with_chain = ("block_unlocked_nononce_on", "preatt", "att_dal_5")
        cases: list[tuple[PublicKeyHash, bytes, int, str]] = [
            (TZ1, transfer_from(TZ1), _MAGIC_BYTE, "edsig"),
            (TZ2, delegation_from(TZ2), _MAGIC_BYTE, "spsig1"),
            (TZ3, transfer_from(TZ3, 0, call="do"), _MAGIC_BYTE, "p2sig"),
            *((TZ3, PAYLOADS[name], _MAGIC_BYTE_AND_CHAIN, "p2sig") for name in with_chain),
        ]
        results = await self.ask(
            *(_request(key, payload, length) for key, payload, length, _ in cases)
        )
        for (key, payload, _, prefix), result in zip(cases, results, strict=True):
            self.assertEqual(result["key"].get("hash"), str(key), result)
            signature = result["signed"].pop("signature", None)
            self.assertEqual(
                result["signed"], {"verifies": True, "verifiesChanged": False}, (key, payload.hex())
            )
            self.assertTrue(signature.startswith(prefix), signature)

    async def test_refusals(self) -> None:
        """Each refusal is of the kind that Taquito has for it."""
        cases: list[tuple[dict[str, str], str, int]] = [
            (
                _request(TZ1, PAYLOADS["att"], _MAGIC_BYTE_AND_CHAIN),
                "OperationNotAuthorizedError",
                403,
            ),
            (_request(AUTH, PAYLOADS["noop"], _MAGIC_BYTE), "PublicKeyNotFoundError", 404),
            (_request(TZ2, PAYLOADS["noop"][:32], _MAGIC_BYTE), "BadSigningDataError", 400),
        ]
        results = await self.ask(*(request for request, _, _ in cases))
        self.assertEqual(
            [result["signed"] for result in results],
            [{"error": error, "status": status} for _, error, status in cases],
        )
        unknown = results[1]["key"]
        self.assertEqual(unknown, {"error": "PublicKeyNotFoundError", "status": 404})

    async def test_watermark(self) -> None:
        """An attestation again is the same signature, another one there is 409 to Taquito."""
        first = _request(TZ3, PAYLOADS["att"], _MAGIC_BYTE_AND_CHAIN)
        level, round_ = 5_000_000, 1
        other = _request(TZ3, consensus("att", level, round_, 0x41), _MAGIC_BYTE_AND_CHAIN)
        signed, again, refused = (
            result["signed"] for result in await self.ask(first, first, other)
        )
        self.assertEqual(signed["signature"], again["signature"])
        self.assertEqual(refused, {"error": "HttpResponseError", "status": 409})
