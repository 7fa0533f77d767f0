"""Rules on how much may be signed: the rate of generic operations, and what leaves in a day."""

from collections.abc import Callable
from functools import partial

from twisted.internet.defer import Deferred

from tezio_signer.errors import TooMany
from tezio_signer.rates import Rate
from tezio_signer.request import SigningRequest
from tezio_signer.rules.rule import Demands, Grant, Reservation
from tezio_signer.tezos.keys import PublicKeyHash, digest
from tezio_signer.tezos.payload import Baking
from tezio_signer.watermarks.book import Limits
from tezio_signer.watermarks.ledger import Ledger


def within_rate(rate: Rate) -> Reservation:
    """Only so many generic operations and Michelson data a minute, for each address and key.

    Blocks and attestations are not counted: one too few costs the baker money, and the
    watermarks let through one for each level and round anyway.
    """

    def rule(request: SigningRequest) -> Grant:
        if isinstance(request.payload, Baking):
            return Grant()
        address = request.peer.address  # another process of the same machine is no other client
        who = address, request.key
        if not rate.take(who):
            raise TooMany(
                f"more than {rate.most} generic operations a minute for {request.key} from "
                f"{address}; try again later"
            )
        return Grant(undo=partial(rate.give_back, who))

    return rule


def rate_wanted(rate: Rate) -> Demands:
    """How many those are."""

    def words(request: SigningRequest) -> str:
        if isinstance(request.payload, Baking):
            return "is not counted: it has a level"
        return f"is among {rate.most} generic operations a minute from one address at most"

    return words


Spends = Callable[[SigningRequest], tuple[int, int]]
"""What may leave the account with a request, in mutez, and how many operations it has."""


def within_day(
    limits: Callable[[PublicKeyHash], Limits], spends: Spends, ledger: Ledger
) -> Reservation:
    """Only so much, and so many operations, in any 24 hours.

    What is granted is durable: the HSM is not asked before. Blocks and attestations cost nothing
    and are not counted, nor is anything of a key without such limits.
    """

    def rule(request: SigningRequest) -> Deferred[Grant] | Grant:
        its = limits(request.key)
        if its == Limits() or isinstance(request.payload, Baking):
            return Grant()
        mutez, operations = spends(request)
        reserved = ledger.reserve(
            request.key, digest(request.data), mutez, operations, its.mutez, its.operations
        )
        return reserved.addCallback(lambda undo: Grant(unsigned=undo))

    return rule
