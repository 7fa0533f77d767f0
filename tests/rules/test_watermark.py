"""The rule on watermarks, as far as configuration goes."""

from attrs import evolve

from tests.support.deciding import DecidingTestCase, request_for
from tests.support.harness import settings_with
from tests.support.vectors import PAYLOADS, TZ1, TZ3, block, consensus
from tezio_signer.config.settings import SigningKey
from tezio_signer.errors import Conflict
from tezio_signer.tezos.payload import Operation

NOOP = PAYLOADS["noop"]


class WatermarkTests(DecidingTestCase):
    """What may be claimed."""

    def test_floors(self) -> None:
        """Nothing at or below a floor is signed; above it, and for other kinds, there is none."""
        settings = settings_with(floors={Operation.BLOCK: (100, 2)})
        for level, round_ in ((100, 2), (100, 0), (99, 5), (0, 0)):
            says = (
                f"level {level} round {round_} is not above the configured floor, level 100 round 2"
            )
            self.refused(Conflict, says, settings, request_for(block(level, round_)))
        for payload in (block(100, 3), block(101, 0), consensus("att", 0, 1), NOOP):
            self.decide(settings, request_for(payload))

    def test_level_jump(self) -> None:
        """Each key has its own bound on how far a mark may move at once."""
        narrow = SigningKey(TZ3, frozenset(Operation), auth_req=False, max_level_jump=10)
        wide = SigningKey(TZ1, frozenset(Operation), auth_req=False)
        settings = evolve(settings_with(), signing_keys={TZ3: narrow, TZ1: wide})
        far = request_for(block(111, 0))
        says = "block at level 111 round 0 is 11 levels above the high watermark, level 100 round 0"
        self.refused(Conflict, says, settings, request_for(block(100, 0)), far)
        self.decide(settings, request_for(block(101, 0)), far)
        first = request_for(block(100, 0), TZ1)
        self.decide(settings, first, request_for(block(500_100, 0), TZ1))
        says = "level 100 round 0, and max_level_jump is 500000"
        self.refused(Conflict, says, settings, first, request_for(block(500_101, 0), TZ1))

    def test_claim(self) -> None:
        """What has a level is granted with its claim; what has none needs none."""
        self.assertIsNotNone(self.decide(settings_with(), request_for(block(7, 0))).claim)
        for payload in (NOOP, bytes.fromhex("05030b")):
            self.assertIsNone(self.decide(settings_with(), request_for(payload)).claim)
