"""The rule that keeps a key from signing two payloads at one position."""

from tezio_signer.config.settings import Settings
from tezio_signer.request import SigningRequest
from tezio_signer.rules.rule import Demands, Grant, Reservation
from tezio_signer.tezos.payload import Baking
from tezio_signer.watermarks.claims import Watermarks


def claimed(settings: Settings, watermarks: Watermarks) -> Reservation:
    """Only above the watermark, which moves with it; what has no level has none."""

    def rule(request: SigningRequest) -> Grant:
        if not isinstance(request.payload, Baking):
            return Grant()
        jump = settings.signing_keys[request.key].max_level_jump
        floor = settings.floors.get(request.payload.operation, (0, 0))
        return Grant(watermarks.claim(request.key, request.payload, request.data, jump, floor))

    return rule


def mark_wanted(settings: Settings) -> Demands:
    """Where the watermark lets a payload be."""

    def words(request: SigningRequest) -> str:
        if not isinstance(request.payload, Baking):
            return "has no level, and so no watermark"
        wanted = "is above the high watermark, or is what was signed there"
        level, round_ = settings.floors.get(request.payload.operation, (0, 0))
        if (level, round_) != (0, 0):
            wanted += f"; above the floor, level {level} round {round_}"
        jump = settings.signing_keys[request.key].max_level_jump
        if jump is not None:
            wanted += f"; {jump} levels ahead at most"
        return wanted

    return words
