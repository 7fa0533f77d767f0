"""How often somebody does something: counted in memory, within bounds."""

from collections import OrderedDict
from collections.abc import Hashable

from twisted.internet.interfaces import IReactorTime

REMEMBERED = 4096
"""Pairs of client and key that are counted at the same time."""
_MINUTE = 60.0


class Rate:
    """So many each minute, or in other seconds, for each who; unused ones may be caught up."""

    def __init__(self, most: int, clock: IReactorTime, seconds: float = _MINUTE) -> None:
        self.most = most
        self._seconds = seconds
        self._clock = clock
        # For each when all will be available again: a bucket that leaks.
        self._full_at: OrderedDict[Hashable, float] = OrderedDict()

    def at_most(self, most: int) -> "Rate":
        """Another rate for the same who, which have had of it what they have had of this one.

        Whoever has used half of this one has used half of the other.
        """
        other = Rate(most, self._clock, self._seconds)
        other._full_at = self._full_at
        return other

    def take(self, who: Hashable) -> bool:
        """Count one; False, and not counted, if it would be one too many."""
        now = self._clock.seconds()
        full_at = max(now, self._full_at.get(who, now)) + self._seconds / self.most
        if full_at > now + self._seconds + 1e-6:  # sums of fractions are not exact
            return False
        self._full_at[who] = full_at
        self._full_at.move_to_end(who)
        if len(self._full_at) > REMEMBERED:
            self._full_at.popitem(last=False)
        return True

    def give_back(self, who: Hashable) -> None:
        """Take back the counting of one."""
        if who in self._full_at:
            self._full_at[who] -= self._seconds / self.most
