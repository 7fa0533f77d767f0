"""The rules on chain, kind and size."""

from tests.support.deciding import MAINNET, DecidingTestCase, request_for
from tests.support.genericpayloads import noop_payload
from tests.support.harness import settings_with
from tests.support.vectors import PAYLOADS, TZ3, block, consensus
from tezio_signer.errors import Forbidden, TooLarge
from tezio_signer.tezos.payload import Operation

NOOP = PAYLOADS["noop"]
MICHELSON = bytes.fromhex("05030b")


class OperationTests(DecidingTestCase):
    """What may be signed with a key."""

    def test_chains(self) -> None:
        """A key of certain chains signs for these; an operation that names none is no matter."""
        only_mainnet = settings_with(chains=[MAINNET])
        on_mainnet, elsewhere = block(7, 0), block(7, 0)[:1] + bytes(4) + block(7, 0)[5:]
        self.decide(only_mainnet, request_for(on_mainnet))
        for payload in (NOOP, MICHELSON):
            self.decide(only_mainnet, request_for(payload))
        self.refused(Forbidden, f"allowed: {MAINNET}", only_mainnet, request_for(elsewhere))
        self.decide(settings_with(), request_for(elsewhere))
        self.refused(Forbidden, "chain", settings_with(chains=[]), request_for(on_mainnet))

    def test_operations(self) -> None:
        """Each operation is allowed by its own name and by no other."""
        payloads = {
            Operation.GENERIC: NOOP,
            Operation.MICHELSON: MICHELSON,
            Operation.BLOCK: block(7, 0),
            Operation.PREATTESTATION: consensus("preatt", 7, 0),
            Operation.ATTESTATION: consensus("att_dal_5", 7, 0),
        }
        for operation, payload in payloads.items():
            self.decide(settings_with([operation]), request_for(payload))
            others = settings_with([other for other in payloads if other is not operation])
            says = f"magic byte 0x{payload[0]:02X} ({operation}) not allowed for {TZ3}; allowed: "
            self.refused(Forbidden, says, others, request_for(payload))

    def test_size(self) -> None:
        """A payload fits the device, or is refused with both lengths."""
        self.decide(settings_with(), request_for(noop_payload(1015)))
        says = "the payload has 1016 bytes; a Tezio HSM signs 1015 at most"
        self.refused(TooLarge, says, settings_with(), request_for(noop_payload(1016)))
