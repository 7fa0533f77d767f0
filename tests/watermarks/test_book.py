"""What a daemon knows of the spending of a key."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.support.vectors import TZ1
from tezio_signer.errors import TooMany
from tezio_signer.watermarks.book import AT_ONCE, Book, Limits
from tezio_signer.watermarks.entry import MOST_ENTRIES, MOST_MUTEZ, Entry

NOON = 1_790_000_000  # 2026-09-21 14:13:20 UTC
HOUR = 3600.0
DAY = 24 * HOUR
FIVE = Limits(mutez=5_000_000)


def digest(number: int) -> bytes:
    """Of a payload."""
    return number.to_bytes(32, "big")


class BookTestCase(SynchronousTestCase):
    """A book of a run "me", and a store that holds what it is told."""

    def setUp(self) -> None:
        self.book = Book(TZ1, "me")
        self.store: dict[bytes, Entry] = {}

    def take(self, number: int, tez: int, at: float, limits: Limits = FIVE) -> None:
        """Reserve and store some tez with a payload; raises TooMany."""
        self.book.take(digest(number), tez * 1_000_000, 1, limits, at)
        self.write(at)

    def write(self, at: float, first: bytes | None = None) -> None:
        """Have the store hold what the book says."""
        entries, forgotten = self.book.changes(first, at)
        self.assertFalse(entries.keys() & set(forgotten))
        self.store.update(entries)
        for old in forgotten:
            self.store.pop(old, None)
        self.book.written(entries, forgotten)

    def refused(self, number: int, tez: int, at: float, limits: Limits = FIVE) -> str:
        """The sentence with which some tez are refused; nothing else has changed."""
        before = self.book.entries
        with self.assertRaises(TooMany) as raised:
            self.take(number, tez, at, limits)
        self.assertEqual(self.book.entries, before)
        return str(raised.exception)


class LimitTests(BookTestCase):
    """What is judged."""

    def test_never_above(self) -> None:
        """What would be above the limit is refused, what reaches it is not."""
        self.take(1, 3, NOON)
        self.refused(2, 3, NOON + 1)
        self.take(2, 2, NOON + 2)
        self.refused(3, 1, NOON + 3)
        self.take(4, 0, NOON + 4)

    def test_day(self) -> None:
        """A day later, and a minute for the signature to leave, it is free again; not before."""
        self.take(1, 3, NOON)
        self.take(2, 2, NOON + HOUR)
        self.refused(3, 3, NOON + DAY + 59)
        self.take(3, 3, NOON + DAY + 60)
        self.refused(4, 1, NOON + DAY + 61)
        self.take(4, 2, NOON + DAY + HOUR + 60)

    def test_operations(self) -> None:
        """Operations are counted as well, each of a group."""
        two = Limits(operations=2)
        self.take(1, 1000, NOON, two)
        with self.assertRaises(TooMany):
            self.book.take(digest(2), 0, 2, two, NOON)
        self.take(2, 1000, NOON, two)
        self.refused(3, 0, NOON, two)

    def test_no_limit(self) -> None:
        """Without a limit of a kind, any number of that kind is counted and none refused."""
        self.book.take(digest(1), 2**80, 1, Limits(operations=2), NOON)
        self.assertEqual(self.book.standing(NOON).mutez, MOST_MUTEZ)

    def test_too_many_to_count(self) -> None:
        """More payloads than can be counted are refused, until some are a day old."""
        self.book.learn({digest(n): Entry(NOON, 1, 1) for n in range(MOST_ENTRIES + AT_ONCE)})
        self.assertIn("more than can be counted", self.refused(0xFFFFFF, 0, NOON, Limits()))
        later = NOON + DAY + 60
        self.take(0xFFFFFF, 0, later, Limits())
        self.assertEqual(len(self.book.entries), MOST_ENTRIES + 1)

    def test_given_back_makes_room(self) -> None:
        """Payloads that were given back keep nobody out, also if older ones still count."""
        self.book.learn({digest(n): Entry(NOON, 1, 1) for n in range(AT_ONCE)})
        more = range(AT_ONCE, MOST_ENTRIES + AT_ONCE)
        self.book.learn(self.book.entries | {digest(n): Entry(NOON + 1, 0, 0) for n in more})
        self.take(0xFFFFFF, 0, NOON + 2)
        self.assertEqual(self.book.standing(NOON + 2).operations, AT_ONCE + 1)
        self.assertEqual(len(self.book.entries), MOST_ENTRIES + 1)

    def test_sentences(self) -> None:
        """A refusal says what would be spent, of what, what is left, and when it can be signed."""
        self.take(1, 3, NOON)
        self.take(2, 1, NOON + HOUR)
        self.assertEqual(
            self.refused(3, 2, NOON + HOUR),
            f"6 tez would be spent by {TZ1} in 24 hours, and max_amount_per_day is 5 tez: 1 tez "
            "can be spent now, and this after 2026-09-22 14:15 UTC",
        )
        self.assertIn("and this after 2026-09-22 15:15 UTC", self.refused(3, 5, NOON + HOUR))
        self.assertEqual(
            self.refused(3, 6, NOON + HOUR),
            f"6 tez at once are more than {TZ1} may spend in 24 hours: max_amount_per_day is "
            "5 tez; send less, or raise it",
        )
        two = Limits(operations=2)
        self.assertEqual(
            self.refused(3, 0, NOON + HOUR, two),
            f"3 operations would be signed for {TZ1} in 24 hours, and max_operations_per_day is "
            "2: 0 can be signed now, and this after 2026-09-22 14:15 UTC",
        )
        with self.assertRaises(TooMany) as raised:
            self.book.take(digest(3), 0, 3, two, NOON)
        self.assertEqual(
            str(raised.exception),
            f"3 operations at once are more than {TZ1} may have signed in 24 hours: "
            "max_operations_per_day is 2; have fewer signed, or raise it",
        )

    def test_fractions(self) -> None:
        """Parts of a tez are said to the last mutez."""
        with self.assertRaises(TooMany) as raised:
            self.book.take(digest(1), 5_000_289, 1, Limits(mutez=1_100_000), NOON)
        self.assertIn("5.000289 tez at once", str(raised.exception))
        self.assertIn("is 1.1 tez;", str(raised.exception))


class RepeatTests(BookTestCase):
    """One payload that is asked for again."""

    def test_once(self) -> None:
        """It counts once, is never refused while it counts, and counts from its last time."""
        self.take(1, 5, NOON)
        self.take(1, 5, NOON + HOUR)
        self.take(1, 5, NOON + 2 * HOUR, Limits(mutez=1))
        self.assertEqual(self.book.standing(NOON + 2 * HOUR).mutez, 5_000_000)
        self.assertEqual(self.book.standing(NOON + 2 * HOUR).operations, 1)
        self.refused(2, 1, NOON + DAY + 2 * HOUR + 59)
        self.take(2, 5, NOON + DAY + 2 * HOUR + 60)

    def test_over(self) -> None:
        """When its day is over it is judged again."""
        self.take(1, 5, NOON)
        later = NOON + DAY + 60
        self.take(2, 3, later)
        self.refused(1, 5, later)


class GiveBackTests(BookTestCase):
    """What has brought no signature."""

    def test_given_back(self) -> None:
        """It counts nothing any more, in the store neither, and is judged when it comes again."""
        self.take(1, 5, NOON)
        self.assertTrue(self.book.give_back(digest(1), NOON + 1))
        self.write(NOON + 1)
        self.assertEqual(self.store, {digest(1): Entry(NOON + 1, 0, 0, "me")})
        self.take(2, 1, NOON + 2)
        self.refused(1, 5, NOON + 2)
        self.take(1, 4, NOON + 2)

    def test_not_while_held(self) -> None:
        """While another request of the same payload may have it signed, it counts."""
        self.take(1, 5, NOON)
        self.take(1, 5, NOON)
        self.assertFalse(self.book.give_back(digest(1), NOON))
        self.refused(2, 1, NOON)
        self.assertTrue(self.book.give_back(digest(1), NOON))
        self.take(2, 5, NOON)

    def test_not_of_others(self) -> None:
        """What was there before may have been signed by who was there before."""
        self.book.learn({digest(1): Entry(NOON, 5_000_000, 1, "other")})
        self.take(1, 5, NOON + 1)
        self.assertFalse(self.book.give_back(digest(1), NOON + 1))
        self.refused(2, 1, NOON + 2)

    def test_not_of_yesterday(self) -> None:
        """What was signed yesterday counts when the clock comes back, whatever was given back."""
        self.take(1, 5, NOON)
        ahead = NOON + DAY + HOUR
        self.take(1, 5, ahead)
        self.assertFalse(self.book.give_back(digest(1), ahead))
        self.refused(2, 1, NOON + 1)

    def test_forgotten_meanwhile(self) -> None:
        """A clock that leaps ahead by more than can be remembered brings no fault."""
        self.take(1, 5, NOON)
        self.write(NOON + 2 * DAY)
        self.assertFalse(self.book.give_back(digest(1), NOON))


class ClockTests(BookTestCase):
    """A clock on the wall that is set."""

    def test_leaps_before_it_is_written(self) -> None:
        """What is being reserved is written, and not forgotten, however far the clock leaps."""
        for leap in (DAY + HOUR, 2 * DAY + HOUR):
            book = Book(TZ1, "me")
            book.take(digest(1), 5, 1, FIVE, NOON)
            entries, forgotten = book.changes(digest(1), NOON + leap)
            self.assertEqual((entries.keys(), forgotten), ({digest(1)}, []))

    def test_the_future_counts(self) -> None:
        """Set back by a day, or a year, it makes nothing free; what is then spent counts too."""
        self.take(1, 3, NOON)
        for back in (DAY, 365 * DAY):
            self.refused(2, 3, NOON - back)
        self.take(2, 2, NOON - DAY)
        for later in (-DAY, 0, HOUR, DAY):
            self.refused(3, 1, NOON + later)
        self.take(3, 5, NOON + DAY + 60)

    def test_behind_and_right_again(self) -> None:
        """What was reserved while the clock was far behind counts for a day of real time."""
        steady = 100.0
        book = Book(TZ1, "me", lambda: steady)
        book.take(digest(1), 5_000_000, 1, FIVE, NOON - 30 * DAY)
        for seconds in (5.0, DAY - 10):
            steady = 100.0 + seconds
            with self.assertRaises(TooMany) as raised:
                book.take(digest(2), 1, 1, FIVE, NOON + seconds)
            self.assertIn("after 2026-09-22 14:15 UTC", str(raised.exception))
            entries, forgotten = book.changes(digest(3), NOON + seconds)
            self.assertEqual((entries.keys(), forgotten), ({digest(1)}, []))
            self.assertEqual(book.standing(NOON + seconds).mutez, 5_000_000)
        steady = 100.0 + DAY + 60
        book.take(digest(2), 5_000_000, 1, FIVE, NOON + DAY + 60)

    def test_behind_right_and_restarted(self) -> None:
        """Such entries are written anew with the next one, for the run behind this one."""
        steady = 100.0
        self.book = Book(TZ1, "me", lambda: steady)
        self.take(1, 4, NOON - 30 * DAY)
        steady += 5
        self.refused(2, 2, NOON)
        self.take(2, 1, NOON)
        self.book = Book(TZ1, "next", lambda: steady)
        self.book.learn(self.store)
        self.refused(3, 1, NOON + DAY)
        self.assertEqual(self.book.standing(NOON + DAY).until, NOON + DAY + 60)

    def test_adjusted(self) -> None:
        """A clock that is adjusted by seconds has nothing written again."""
        steady = 100.0
        self.book = Book(TZ1, "me", lambda: steady)
        self.take(1, 1, NOON)
        steady += HOUR
        for clock, again in ((HOUR + 30, set()), (HOUR + 31, {digest(1)})):
            self.book.take(digest(2), 0, 1, FIVE, NOON + clock)
            entries, _ = self.book.changes(digest(2), NOON + clock)
            self.assertEqual(entries.keys(), {digest(2)} | again)

    def test_ahead(self) -> None:
        """A clock that is set ahead frees nothing that this run has reserved."""
        steady = 100.0
        book = Book(TZ1, "me", lambda: steady)
        book.take(digest(1), 5_000_000, 1, FIVE, NOON)
        for ahead in (DAY, 5 * DAY):
            with self.assertRaises(TooMany):
                book.take(digest(2), 1, 1, FIVE, NOON + ahead)
        book.take(digest(1), 5_000_000, 1, FIVE, NOON + 5 * DAY)
        self.assertEqual(book.standing(NOON).mutez, 5_000_000)

    def test_quite_wrong(self) -> None:
        """What was reserved in another year counts until then, but what comes now does not."""
        self.take(1, 3, NOON + 365 * DAY)
        self.take(2, 2, NOON)
        self.refused(3, 1, NOON)
        self.take(3, 2, NOON + DAY + 60)
        self.refused(4, 1, NOON + DAY + 60)

    def test_never_forgotten_early(self) -> None:
        """Ahead by a day, and back: what was spent before and meanwhile counts, also as stored."""
        self.take(1, 5, NOON)
        ahead = NOON + DAY + HOUR
        self.take(2, 5, ahead)
        self.assertEqual(self.store.keys(), {digest(1), digest(2)})
        self.refused(3, 1, NOON + HOUR)
        self.book = Book(TZ1, "next")
        self.book.learn(self.store)
        self.refused(3, 1, NOON + HOUR)
        self.assertEqual(self.book.standing(NOON + HOUR).mutez, 10_000_000)

    def test_forgotten(self) -> None:
        """After two days it is forgotten, here and in the store."""
        self.take(1, 5, NOON)
        self.take(2, 5, NOON + 2 * DAY)
        self.assertEqual(self.store.keys(), {digest(2)})
        self.assertEqual(self.book.entries.keys(), {digest(2)})


class SharedTests(BookTestCase):
    """A store that other daemons write, and that may be put back."""

    def test_learned(self) -> None:
        """What others have spent counts, and what they have given back does not."""
        self.book.learn({digest(1): Entry(NOON, 5_000_000, 1, "other")})
        self.refused(2, 1, NOON)
        self.book.learn({digest(1): Entry(NOON, 0, 0, "other")})
        self.take(2, 5, NOON)

    def test_what_the_store_has_lost(self) -> None:
        """It counts on, and is written back, with the next that is written."""
        self.take(1, 3, NOON)
        before = dict(self.store)
        self.store.clear()
        self.book.learn({})
        self.refused(2, 3, NOON)
        self.take(2, 2, NOON)
        self.assertEqual({d: self.store[d] for d in before}, before)

    def test_older(self) -> None:
        """Of what others have written, an older state does not replace a newer one."""
        newer = Entry(NOON + 60, 5_000_000, 1, "other")
        self.book.learn({digest(1): newer})
        self.book.learn({digest(1): Entry(NOON, 0, 0, "other")})
        self.refused(2, 1, NOON + 60)
        self.write(NOON + 60)
        self.assertEqual(self.store, {digest(1): newer})

    def test_joined(self) -> None:
        """What another daemon has reserved as well is not given back by this one."""
        self.take(1, 5, NOON)
        self.book.learn({digest(1): Entry(NOON + 2, 5_000_000, 1, "other")})
        self.assertFalse(self.book.give_back(digest(1), NOON + 3))
        self.refused(2, 1, NOON + 3)

    def test_joined_and_given_back(self) -> None:
        """What another daemon has reserved before this one gave it back counts, here and there."""
        self.take(1, 5, NOON)
        other = Entry(NOON + 1, 5_000_000, 1, "other")
        self.store[digest(1)] = other
        self.assertTrue(self.book.give_back(digest(1), NOON + 3))
        self.book.learn(self.store)
        self.refused(2, 1, NOON + 3)
        self.write(NOON + 3)
        self.assertEqual(self.store, {digest(1): other})

    def test_one_that_was_given_back_by_a_clock_ahead(self) -> None:
        """Its entry never gets an earlier time: others would take it for an older state."""
        self.book.learn({digest(1): Entry(NOON + 300, 0, 0, "other")})
        self.take(1, 5, NOON)
        self.assertEqual(self.store[digest(1)].at, NOON + 300)

    def test_checked_again(self) -> None:
        """What was taken before others were known is judged again, itself counted once."""
        self.take(1, 3, NOON)
        self.book.learn({digest(2): Entry(NOON, 2_000_000, 1, "other")})
        self.book.check_again(digest(1), FIVE, NOON)
        self.book.learn({digest(3): Entry(NOON, 1, 1, "other")})
        with self.assertRaises(TooMany):
            self.book.check_again(digest(1), FIVE, NOON)

    def test_first(self) -> None:
        """What is asked for is written first, however much else is to be written back."""
        self.book.learn({digest(n): Entry(NOON, 1, 1, "other") for n in range(1, 200)})
        self.book.learn({})
        self.book.take(digest(1000), 1, 1, FIVE, NOON)
        entries, _ = self.book.changes(digest(1000), NOON)
        self.assertEqual((next(iter(entries)), len(entries)), (digest(1000), AT_ONCE))


class WindowTests(SynchronousTestCase):
    """Any order of requests, failures, restarts and settings of the clock."""

    @given(
        st.lists(
            st.tuples(
                st.sampled_from(["ask", "ask", "ask", "fail", "restart", "lose", "leap"]),
                st.integers(1, 8),
                st.integers(-26, 26),
            ),
            max_size=40,
        )
    )
    def test_never_above(self, events: list[tuple[str, int, int]]) -> None:
        """Signatures in any day of real time never have more than the limit, by other reckoning.

        The clock on the wall leaps by up to 26 hours and comes back, but time itself goes on.
        """
        store, real, offset = dict[bytes, Entry](), 0.0, 0.0

        def steady() -> float:
            return real

        book = Book(TZ1, "", steady)
        signed: list[tuple[float, int]] = []  # real time, payload; each is of as many tez
        given_away: set[int] = set()
        behind: list[tuple[float, int]] = []  # signed in this run while the clock was behind
        for what, number, hours in events:
            real += 1800
            if what == "leap":
                offset = 0.0 if offset else hours * HOUR
                continue
            if what == "restart":
                book = Book(TZ1, "", steady)
                book.learn(store)
                # The next run knows of these by the clock alone, and may take them for older,
                # unless something was taken, and they were written again, since it is right.
                signed = [one for one in signed if one not in behind]
                given_away.update(payload for _, payload in behind)
                behind.clear()
                continue
            if what == "lose":
                book.learn({})
                continue
            now = NOON + real + offset
            ahead = offset > 0  # what is wrongly over when the clock is ahead is given away
            try:
                book.take(digest(number), number, 1, Limits(mutez=10), now)
            except TooMany:
                continue
            entries, forgotten = book.changes(digest(number), now)
            store.update(entries)
            for old in forgotten:
                store.pop(old, None)
            book.written(entries, forgotten)
            if ahead:
                given_away.add(number)  # also when it is asked for again
            if what == "fail":
                book.give_back(digest(number), now)
                continue
            if offset >= 0:
                behind.clear()
            if number not in given_away:
                signed.append((real, number))
                behind += signed[-1:] if offset < 0 else []
                day = {n for at, n in signed if at > real - DAY}
                self.assertLessEqual(sum(day), 10)
