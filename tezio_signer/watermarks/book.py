"""What one daemon knows of the spending of one key: pure, its time is handed in.

An entry is for one payload. It is, each independently of the others:

- *counted* for a day from when it was reserved last, and also while that lies in the future; if
  this run has reserved it, by the time that has really passed, however the clock was set since;
- *held* by requests for its payload that may have had it signed;
- *kept* if somebody else may have had it signed: an earlier run of the daemon, another daemon;
- *unwritten* while the store is not known to hold it as it is here.

Transitions:

- `take`: a request is judged, and holds the entry of its payload, which is unwritten then.
- `give_back`: it is certain that nothing was signed for a request. When no request holds an entry
  any more, and it is not kept, it is empty: it counts nothing. That is written, too, and not
  deleted: so an entry that is missing in a store is always one that the store has lost.
- `written`: the store has answered a write.
- `learn`: the store has shown what is in it.

Invariants, each with a test of its name in `tests/watermarks/test_book.py`:

1. *Never above*: no entry is taken with which what counts would be above a limit.
2. *Once*: the payload of an entry that counts is never judged again, and counts once; but a day
   from its last reservation, since its signature leaves once more.
3. *Not while held*: an entry that is held, or kept, counts until its day is over; also one that is
   held by another daemon, when it is given back here.
4. *Never forgotten early*: what was reserved is forgotten after two days, not after one: when a
   clock that leapt ahead comes back, it counts again.
5. *The future counts*: a clock that is set back makes nothing free, nor does it when it is right
   again: no entry has an earlier time than those before it, by up to two days. What this run has
   reserved counts for a day in any case, and is written with the right time when the next one is
   taken.
6. *What the store has lost* counts on, and is written back.
"""

from collections.abc import Callable
from datetime import UTC, datetime

from attrs import define, evolve, frozen

from tezio_signer.errors import TooMany
from tezio_signer.tezos.keys import PublicKeyHash
from tezio_signer.tezos.operations import Mutez
from tezio_signer.watermarks.entry import (
    COUNTED,
    GRACE,
    MOST_ENTRIES,
    MOST_MUTEZ,
    REMEMBERED,
    Entries,
    Entry,
    Standing,
    merged,
)

AT_ONCE = 50
"""Entries that are written, and that are forgotten, at once; etcd takes 128 operations."""

_SET = GRACE // 2
"""Seconds from which on a clock was set; one that is adjusted moves by less in a day."""


@frozen
class Limits:
    """What a key may spend in 24 hours; None for any amount, or number."""

    mutez: int | None = None
    operations: int | None = None


@define(eq=False)
class _Held:
    """An entry, and what is known of it, as this module says.

    :ivar since: when this run has reserved it last, by the steady clock; None if it has not.
    """

    entry: Entry
    holds: int = 0
    kept: bool = False
    is_written: bool = False
    since: float | None = None


class Book:
    """The entries of a key.

    :param by: the run of this daemon, which a shared store tells from others.
    :param steady: seconds of a clock that nobody sets; None if there is none.
    """

    def __init__(
        self, key: PublicKeyHash, by: str = "", steady: Callable[[], float] | None = None
    ) -> None:
        self._key = key
        self._by = by
        self._steady = steady
        self._held: dict[bytes, _Held] = {}

    @property
    def entries(self) -> dict[bytes, Entry]:
        """All of them, also those that do not count any more."""
        return {digest: held.entry for digest, held in self._held.items()}

    def standing(self, now: float) -> Standing:
        """What counts."""
        return Standing.of(self._aged(now), now)

    def _aged(self, now: float) -> dict[bytes, Entry]:
        """All entries, with the times at which they were reserved as the clock is set now."""
        steady = None if self._steady is None else self._steady()
        return {digest: _as_of(held, now, steady) for digest, held in self._held.items()}

    def take(self, digest: bytes, mutez: int, operations: int, limits: Limits, now: float) -> bool:
        """Hold the entry of a payload, which counts from now on; raises TooMany.

        Returns whether it was judged: one that counts already is not.
        """
        asked = Entry(self._time(now), min(mutez, MOST_MUTEZ), operations, self._by)
        held = self._held.get(digest)
        aged = self._aged(now)
        is_new = held is None or not aged[digest].counts(now)
        if is_new:
            self._check(asked, aged, limits, now)
        self._set_right(aged)
        since = None if self._steady is None else self._steady()
        if held is None:
            self._held[digest] = _Held(asked, holds=1, since=since)
            return is_new
        if held.entry.operations:
            # One that is over may count again when the clock comes back: it is not given back.
            held.kept = held.kept or is_new
        else:
            held.holds, held.kept = 0, False
        held.entry = evolve(merged(held.entry, asked), by=self._by)  # never with an earlier time
        held.holds += 1
        held.is_written = False
        held.since = since
        return is_new

    def _set_right(self, aged: Entries) -> None:
        """Write entries again whose clock was behind: the next run has no other to know them by."""
        for digest, entry in aged.items():
            held = self._held[digest]
            if entry.at > held.entry.at + _SET:
                held.entry, held.is_written = entry, False

    def _time(self, now: float) -> int:
        """When an entry is reserved: not before others, lest a clock set back has it end early.

        What lies further ahead than a day or two comes from a clock that was quite wrong.
        """
        ahead = (h.entry.at for h in self._held.values() if h.entry.at <= now + REMEMBERED)
        return max(int(now), max(ahead, default=0))

    def check_again(self, digest: bytes, limits: Limits, now: float) -> None:
        """Judge a payload that was taken before others were known; raises TooMany."""
        others = self._aged(now)
        del others[digest]
        self._check(self._held[digest].entry, others, limits, now)

    def give_back(self, digest: bytes, now: float) -> bool:
        """Let one request go that has had nothing signed; whether there is something to write."""
        held = self._held.get(digest)
        if held is None:  # the clock leapt so far ahead that it was forgotten meanwhile
            return False
        held.holds -= 1
        if held.holds or held.kept:
            return False
        held.entry = Entry(max(int(now), held.entry.at), 0, 0, self._by)
        held.is_written = False
        return True

    def learn(self, there: Entries) -> None:
        """Take over what is in the store now."""
        for digest, entry in there.items():
            held = self._held.get(digest)
            if held is None:
                self._held[digest] = _Held(entry, kept=True, is_written=True)
            elif entry.by == self._by:
                held.is_written = entry == held.entry
            elif held.holds:
                held.kept = True
                held.entry = evolve(merged(held.entry, entry), by=self._by)
                held.is_written = False
            elif entry.at >= held.entry.at or not held.entry.operations:
                # It was given back here, maybe after another daemon had reserved it too.
                self._held[digest] = _Held(entry, kept=True, is_written=True)
            else:  # what is there is older than what was there before
                held.is_written = False
        for digest, held in self._held.items():
            held.is_written = held.is_written and digest in there

    def changes(self, first: bytes | None, now: float) -> tuple[dict[bytes, Entry], list[bytes]]:
        """What is to be written, that of one payload first, and what may be forgotten.

        That is after two days, or, of too many entries, after one.
        """
        oldest = sorted(self._held, key=lambda digest: self._held[digest].entry.at)
        too_many = len(oldest) - MOST_ENTRIES + AT_ONCE
        counted = {digest for digest, entry in self._aged(now).items() if entry.counts(now)}
        over = [digest for digest in oldest if digest != first and digest not in counted]
        forgotten = [
            digest
            for number, digest in enumerate(over[:AT_ONCE])
            if number < too_many or self._held[digest].entry.is_old(now)
        ]
        unwritten = {
            digest: held.entry
            for digest, held in self._held.items()
            if not held.is_written
            and digest not in forgotten
            and (digest == first or digest in counted or not held.entry.operations)
        }
        ordered = sorted(unwritten, key=lambda digest: digest != first)
        return {digest: unwritten[digest] for digest in ordered[:AT_ONCE]}, forgotten

    def written(self, entries: Entries, forgotten: list[bytes]) -> None:
        """The store holds these as they were brought, and nothing of those."""
        for digest, entry in entries.items():
            held = self._held.get(digest)
            if held is not None and held.entry == entry:
                held.is_written = True
        for digest in forgotten:
            self._held.pop(digest, None)

    def _check(self, asked: Entry, entries: Entries, limits: Limits, now: float) -> None:
        """Raise TooMany if what is asked for, with what counts of these, is above a limit."""
        used = Standing.of(entries, now)
        if limits.operations is not None and used.operations + asked.operations > limits.operations:
            raise TooMany(self._too_many_operations(asked, used, entries, limits.operations, now))
        if limits.mutez is not None and used.mutez + asked.mutez > limits.mutez:
            raise TooMany(self._too_much(asked, used, entries, limits.mutez, now))
        counted = sum(entry.counts(now) for entry in entries.values())
        if counted >= MOST_ENTRIES + AT_ONCE:  # others are forgotten with what is taken
            raise TooMany(
                f"{counted} payloads of {self._key} are remembered of these 24 hours, more "
                "than can be counted; try again later"
            )

    def _too_many_operations(
        self, asked: Entry, used: Standing, entries: Entries, most: int, now: float
    ) -> str:
        if asked.operations > most:
            return (
                f"{asked.operations} operations at once are more than {self._key} may have signed "
                f"in 24 hours: max_operations_per_day is {most}; have fewer signed, or raise it"
            )
        after = _free_at(entries, lambda s: s.operations + asked.operations <= most, used, now)
        return (
            f"{used.operations + asked.operations} operations would be signed for {self._key} in "
            f"24 hours, and max_operations_per_day is {most}: "
            f"{max(0, most - used.operations)} can be signed now, and this after {after}"
        )

    def _too_much(
        self, asked: Entry, used: Standing, entries: Entries, most: int, now: float
    ) -> str:
        if asked.mutez > most:
            return (
                f"{Mutez(asked.mutez)} at once are more than {self._key} may spend in 24 hours: "
                f"max_amount_per_day is {Mutez(most)}; send less, or raise it"
            )
        after = _free_at(entries, lambda s: s.mutez + asked.mutez <= most, used, now)
        return (
            f"{Mutez(used.mutez + asked.mutez)} would be spent by {self._key} in 24 hours, and "
            f"max_amount_per_day is {Mutez(most)}: {Mutez(max(0, most - used.mutez))} can be spent "
            f"now, and this after {after}"
        )


def _as_of(held: _Held, now: float, steady: float | None) -> Entry:
    """An entry; reserved as long ago as it is by a steady clock, if the other was set ahead."""
    entry = held.entry
    if steady is None or held.since is None:
        return entry
    at = int(now - (steady - held.since))
    return Entry(at, entry.mutez, entry.operations, entry.by) if at > entry.at + 1 else entry


def _free_at(entries: Entries, fits: Callable[[Standing], bool], used: Standing, now: float) -> str:
    """The minute from which something fits, if nothing else is spent until then."""
    end = int(now)
    for entry in sorted(entries.values(), key=lambda entry: entry.at):
        if fits(used):
            break
        if entry.counts(now):
            end = entry.at + COUNTED
            used = Standing(used.mutez - entry.mutez, used.operations - entry.operations)
    minute = -(-end // 60) * 60
    return f"{datetime.fromtimestamp(minute, UTC):%Y-%m-%d %H:%M} UTC"
