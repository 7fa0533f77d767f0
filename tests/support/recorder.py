"""Observers of decisions for tests."""

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


@define
class Keeper(Recorder):
    """One without which nothing is signed.

    :ivar trouble: why it can keep nothing.
    """

    keeping: Deferred[None] = field(factory=Deferred)
    asked: list[Decision] = field(factory=list)
    trouble: Exception | None = None

    def check(self) -> None:
        """Raise the trouble."""
        if self.trouble is not None:
            raise self.trouble

    def keep(self, decision: Decision) -> Deferred[None]:
        """Take note of what is to be kept."""
        self.asked.append(decision)
        return self.keeping
