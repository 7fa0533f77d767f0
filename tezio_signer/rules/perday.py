"""The rule on what leaves an account, and how much is signed, in any 24 hours."""

from collections.abc import Callable

from twisted.internet.defer import Deferred

from tezio_signer.config.operations import NO_RULES, OperationRules
from tezio_signer.config.settings import Settings
from tezio_signer.request import SigningRequest
from tezio_signer.rules.contents import spent
from tezio_signer.rules.generic import OPERATIONS, SWITCH
from tezio_signer.rules.rule import Grant, Reservation, Rule
from tezio_signer.tezos.keys import PublicKeyHash, digest
from tezio_signer.tezos.operations import Mutez, Undecodable
from tezio_signer.tezos.payload import Baking, Generic
from tezio_signer.watermarks.book import Limits
from tezio_signer.watermarks.ledger import Ledger

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


def per_day(settings: Settings, ledger: Ledger) -> Rule[Reservation]:
    """`max_amount_per_day` and `max_operations_per_day` of the keys."""
    limits = {key.key: _limits(key.operations) for key in settings.signing_keys.values()}

    def words(request: SigningRequest) -> str:
        its = limits[request.key]
        if its == Limits() or isinstance(request.payload, Baking):
            return "is not counted: there is no limit for a day"
        wanted = []
        if its.mutez is not None:
            wanted.append(f"with all others spends at most {Mutez(its.mutez)}")
        if its.operations is not None:
            wanted.append(f"is among {its.operations} operations at most")
        return f"{' and '.join(wanted)} in 24 hours"

    return Rule(
        "per_day",
        within_day(limits.__getitem__, spending_of, ledger),
        words,
        ("key", "decoded", "source"),
        None if settings.security.signing_policy_check else SWITCH,
        OPERATIONS,
    )


def _limits(rules: OperationRules | None) -> Limits:
    its = rules or NO_RULES
    return Limits(its.max_amount_per_day, its.max_operations_per_day)


def spending_of(request: SigningRequest) -> tuple[int, int]:
    """How much may leave the account with a request, in mutez, and how many operations it is.

    What is not understood is one operation, which costs nothing that is known: so are Michelson
    data.
    """
    payload = request.payload
    if not isinstance(payload, Generic):
        return 0, 1
    more = 1 if isinstance(payload.group, Undecodable) else 0
    return spent(payload.understood, request.key), len(payload.understood) + more
