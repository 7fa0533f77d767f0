"""What a rule is: something to ask, with a name. There are three kinds, asked in this order.

An *admission* looks at who connects, before anything is read. A *check* looks at a request and
changes nothing, so it may be asked any number of times. A *reservation* takes something for a
request (a place in a rate, the position of a watermark) and gives a `Grant`.

Each raises, or fails with, the `Refused` that the client is told.

Decisions, the audit log and `explain` know a rule by its name. It stays the same for ever: people
count by it.
"""

from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from attrs import frozen
from twisted.internet.defer import Deferred

from tezio_signer.noop import do_nothing
from tezio_signer.request import Peer, SigningRequest
from tezio_signer.tezos.payload import Operation
from tezio_signer.watermarks.claims import Claim


@frozen
class Grant:
    """What was reserved for a request.

    :ivar claim: the watermark's claim, if the request needs one. It is for ever.
    :ivar undo: gives the rest back, for a request that could not be served.
    :ivar unsigned: gives back what counts for the day; only when it is certain that no board has
        signed for this request, and none will.
    """

    claim: Claim | None = None
    undo: Callable[[], object] = do_nothing
    unsigned: Callable[[], object] = do_nothing

    def take_back(self) -> None:
        """Give all of it back: another rule refuses the request."""
        self.undo()
        self.unsigned()

    @classmethod
    def of(cls, grants: Sequence["Grant"]) -> "Grant":
        """All of these together, of which one has a claim at most."""

        def undo() -> None:
            for grant in reversed(grants):
                grant.undo()

        def unsigned() -> None:
            for grant in reversed(grants):
                grant.unsigned()

        claims = (grant.claim for grant in grants if grant.claim is not None)
        return cls(next(claims, None), undo, unsigned)


Admission = Callable[[Peer], None]
Check = Callable[[SigningRequest], Deferred[None] | None]
Reservation = Callable[[SigningRequest], Deferred[Grant] | Grant]
Demands = Callable[[SigningRequest], str]
"""What a rule wants of a request, in words that follow "a request that"."""
_Ask = TypeVar("_Ask", bound=Callable[[Any], object])


@frozen
class Rule(Generic[_Ask]):
    """A rule of a policy.

    :ivar name: in snake_case.
    :ivar ask: what is called with a peer or a request.
    :ivar demands: says what the rule wants; called with the same as `ask`.
    :ivar needs: the names of earlier rules, without whose consent it cannot be asked.
    :ivar off: the setting that has switched it off; None if it is asked.
    :ivar only: what it is about, so that it need not be asked of anything else; None for all.
    """

    name: str
    ask: _Ask
    demands: Callable[[Any], str]
    needs: tuple[str, ...] = ()
    off: str | None = None
    only: frozenset[Operation] | None = None
