"""An observer of decisions for tests."""

from attrs import define, field
from twisted.internet.defer import Deferred

from tezio_signer.decision import Decision


@define
class Recorder:
    """An observer that remembers."""

    seen: list[Decision] = field(factory=list)

    def decided(self, decision: Decision) -> Deferred[None]:
        """Take note, and give back what is not waited for."""
        self.seen.append(decision)
        return Deferred()
