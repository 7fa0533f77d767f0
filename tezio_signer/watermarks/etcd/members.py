"""The members of a cluster: whom to ask, for how long, and when to believe a refusal."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from treq.client import HTTPClient
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from tezio_signer.reactors import cancel
from tezio_signer.watermarks.etcd.member import (
    AttemptError,
    DeniedError,
    SilenceError,
    exchange,
    legible,
    read_body,
)
from tezio_signer.watermarks.store import StoreAwayError, StoreError

ATTEMPT_TIMEOUT = 0.4
"""Seconds that a member has at least, if so many are left; each of three gets its turn."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 0.2
"""Seconds before the members are asked once more, so that those that refuse can breathe."""
_Value = TypeVar("_Value")


class Members:
    """Asks one member after the other, again and again, until one answers.

    :param endpoints: URLs of the members, as `https://host:2379`.
    """

    def __init__(self, endpoints: Sequence[str], client: HTTPClient, clock: IReactorTime) -> None:
        self._named = tuple(endpoints)
        self._order = list(endpoints)
        self._client = client
        self._clock = clock

    def seconds(self) -> float:
        """The time in which a question has an end."""
        return self._clock.seconds()

    async def first_answer(
        self,
        attempt: Callable[[str, int], Awaitable[_Value]],
        until: float,
        words: dict[str, AttemptError],
        first: str | None = None,
    ) -> _Value:
        """What one of the members gives.

        :param attempt: takes a member, and how many may have to share the time that is left;
            raises AttemptError.
        :param words: where to note what each has said last.
        :param first: who is asked first, if it is not the one that did best.
        :raises StoreAwayError: if none gives it in time.
        :raises StoreError: if etcd refuses, and would do so again.
        """
        pause = _FIRST_PAUSE
        while True:
            unasked = sorted(self._order, key=lambda member: member != first)
            while unasked and self._clock.seconds() < until:
                member = unasked[0]
                try:
                    return await attempt(member, len(unasked))
                except AttemptError as error:
                    words[member] = error
                    # Who was away is asked last from now on.
                    self._order.remove(member)
                    self._order.append(member)
                unasked.remove(member)
            over = self._clock.seconds() + pause >= until
            denials = [word for word in words.values() if isinstance(word, DeniedError)]
            silent = [word for word in words.values() if isinstance(word, SilenceError)]
            # A denial is believed when nobody says otherwise; who says nothing may yet.
            if denials and len(denials) + (len(silent) if over else 0) == len(words):
                raise StoreError(f"etcd refuses: {legible(str(denials[-1]))}")
            if over:
                quorum = "no member of etcd serves reads and writes (a majority must run): "
                several = silent and len(self._named) > 1
                raise StoreAwayError(f"{quorum if several else ''}{self.troubles(words)}")
            await deferLater(self._clock, pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def troubles(self, words: dict[str, AttemptError]) -> str:
        """What the members have said, in one sentence."""
        # Always in the same order: what is said twice is logged once.
        troubles = [f"{m}: {legible(str(words[m]))}" for m in self._named if m in words]
        return "; ".join(troubles) or "no member of etcd had time to answer"

    async def post(
        self,
        member: str,
        path: str,
        content: bytes,
        token: str | None,
        until: float,
        sharing: int,
    ) -> dict[str, Any]:
        """What a member answers in its share of the time that is left; raises AttemptError."""
        now = self._clock.seconds()
        deadline = now + max((until - now) / sharing, min(until - now, ATTEMPT_TIMEOUT))
        asking = Deferred.fromCoroutine(exchange(self._client, f"{member}{path}", content, token))
        try:
            got = await self.within(asking, deadline, _late)
        except Exception:  # late, or given up by who asks
            asking.cancel()  # closes its connection
            raise
        if isinstance(got, AttemptError):
            raise got
        return read_body(*got)

    def within(
        self, work: Deferred[_Value], until: float, late: Callable[[], Exception]
    ) -> Deferred[_Value]:
        """What comes of some work that others may wait for too, and that goes on after this.

        Fails with what `late` gives when the time is over; who cancels it cancels no work.
        """
        waiting: Deferred[_Value] = Deferred()
        left = max(0, until - self._clock.seconds())
        timer = self._clock.callLater(left, lambda: waiting.errback(late()))

        def ended(result: _Value) -> _Value:
            cancel(timer)
            return result

        def done(result: _Value) -> _Value:
            if not waiting.called:
                waiting.callback(result)
            return result

        waiting.addBoth(ended)
        work.addBoth(done)
        return waiting


def _late() -> SilenceError:
    return SilenceError("did not answer in time")
