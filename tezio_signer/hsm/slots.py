"""The key slots of a Tezio HSM and the curves of their keys."""

from tezio_signer.hsm.framing import Slot
from tezio_signer.tezos.keys import Curve

CURVES = {
    Slot.AUTH: Curve.P256,
    Slot.TZ1: Curve.ED25519,
    Slot.TZ2: Curve.SECP256K1,
    Slot.TZ3: Curve.P256,
}
SIGNING_SLOTS = (Slot.TZ1, Slot.TZ2, Slot.TZ3)
"""The slots that payloads are signed with; slot 0 is for authentication only."""
