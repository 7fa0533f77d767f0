"""The rule on how often generic operations and Michelson data are signed."""

from functools import partial

from tezio_signer.errors import TooMany
from tezio_signer.rates import Rate
from tezio_signer.request import SigningRequest
from tezio_signer.rules.rule import Demands, Grant, Reservation
from tezio_signer.tezos.payload import Baking


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
