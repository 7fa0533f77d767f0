"""What a rule is: of three kinds, asked in this order.

An *admission* looks at who connects, before anything is read. A *check* looks at a request and
changes nothing, so it may be asked any number of times. A *reservation* takes something for a
request (a place in a rate, the position of a watermark) and gives a `Grant`.

Each raises, or fails with, the `Refused` that the client is told.
"""

from collections.abc import Callable, Sequence

from attrs import frozen
from twisted.internet.defer import Deferred

from tezio_signer.noop import do_nothing
from tezio_signer.request import Peer, SigningRequest
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
