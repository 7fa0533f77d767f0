"""How often somebody does something: counted in memory, within bounds."""

from collections import OrderedDict
from collections.abc import Hashable

from twisted.internet.interfaces import IReactorTime

REMEMBERED = 4096
"""Pairs of client and key that are counted at the same time."""
_MINUTE = 60.0


class Rate:
    """So many each minute, for each who; unused ones may be caught up within a minute."""

    def __init__(self, per_minute: int, clock: IReactorTime) -> None:
        self.per_minute = per_minute
        self._clock = clock
        # For each when all will be available again: a bucket that leaks.
        self._full_at: OrderedDict[Hashable, float] = OrderedDict()

    def take(self, who: Hashable) -> bool:
        """Count one; False, and not counted, if it would be one too many."""
        now = self._clock.seconds()
        full_at = max(now, self._full_at.get(who, now)) + _MINUTE / self.per_minute
        if full_at > now + _MINUTE + 1e-6:  # sums of fractions are not exact
            return False
        self._full_at[who] = full_at
        self._full_at.move_to_end(who)
        if len(self._full_at) > REMEMBERED:
            self._full_at.popitem(last=False)
        return True

    def give_back(self, who: Hashable) -> None:
        """Take back the counting of one."""
        if who in self._full_at:
            self._full_at[who] -= _MINUTE / self.per_minute
