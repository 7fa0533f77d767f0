"""Rules on what a generic operation contains: the section `operations` of a key.

Each operation of a group has to pass each rule. A key without the section is held to the first
three of them, which nothing switches off.

With `unknown: allow`, a group that cannot be decoded is held to the rules by those of its
operations that stand before what is not understood.
"""

from collections.abc import Callable, Iterable, Sequence

from tezio_signer.config.operations import (
    NAMED_ONLY,
    NO_RULES,
    Destination,
    OperationRules,
)
from tezio_signer.config.settings import Settings
from tezio_signer.config.words import either
from tezio_signer.errors import Forbidden, Malformed
from tezio_signer.request import SigningRequest
from tezio_signer.rules.contents import (
    DRAIN,
    ORIGINATION,
    account_of,
    amounts,
    fees,
    kind_of,
    may_call_any,
    number_in,
    receiver_of,
    text_in,
)
from tezio_signer.rules.rule import Check, Demands, Rule
from tezio_signer.tezos.keys import PublicKeyHash
from tezio_signer.tezos.operations import (
    CONSENSUS_KINDS,
    DEFAULT_ENTRYPOINT,
    UNDECODED_TAGS,
    Content,
    Mutez,
    Undecodable,
)
from tezio_signer.tezos.payload import Generic, Michelson, Operation

Contents = Sequence[Content]
Now = Callable[[], float]
"""Seconds since 1970, UTC: by the clock on the wall, which may be set."""
_Ask = Callable[[Contents, OperationRules, PublicKeyHash], None]
_Wanted = Callable[[OperationRules, PublicKeyHash], str]
_GENERIC = frozenset({Operation.GENERIC})
OPERATIONS = frozenset({Operation.GENERIC, Operation.MICHELSON})
"""What is no baking."""
_NOT_GENERIC = "is no generic operation, which alone has contents to look at"
SWITCH = "security.signing_policy_check"


def contents_rules(settings: Settings, now: Now) -> list[Rule[Check]]:
    """The rules on the contents of generic operations, in the order in which they are asked.

    :param now: what time it is.
    """
    rules = {key.key: key.operations or NO_RULES for key in settings.signing_keys.values()}
    off = None if settings.security.signing_policy_check else SWITCH

    def on_contents(name: str, ask: _Ask, wanted: _Wanted, off: str | None = off) -> Rule[Check]:
        def check(request: SigningRequest) -> None:
            if isinstance(request.payload, Generic):
                ask(request.payload.understood, rules[request.key], request.key)

        def words(request: SigningRequest) -> str:
            if not isinstance(request.payload, Generic):
                return _NOT_GENERIC
            return wanted(rules[request.key], request.key)

        return Rule(name, check, words, ("key", "decoded"), off, _GENERIC)

    return [
        Rule("decoded", decoded(rules), decoded_wanted(rules), ("key",), None, _GENERIC),
        on_contents("source", source, source_wanted, None),
        on_contents("named_kinds", named_kinds, named_kinds_wanted, None),
        on_contents("kinds", kinds, kinds_wanted),
        on_contents("destinations", destinations, destinations_wanted),
        on_contents("delegates", delegates, delegates_wanted),
        on_contents("proposals", proposals, proposals_wanted),
        on_contents("ballots", ballots, ballots_wanted),
        on_contents("max_amount", max_amount, max_amount_wanted),
        on_contents("max_fee", max_fee, max_fee_wanted),
        Rule("hours", within_hours(rules, now), hours_wanted(rules), ("key",), off, OPERATIONS),
    ]


RulesOfKeys = dict[PublicKeyHash, OperationRules]


def decoded(rules: RulesOfKeys) -> Check:
    """Only what is decoded to its last byte, unless the key says `unknown: allow`.

    That is for kinds that no protocol had when this was written. One that is known is refused
    if it cannot be decoded: Octez takes some Micheline that is refused here, and keeps its bytes
    as they are (`lazy_expr` in `script_repr.ml`), so that a transfer could pass by all rules, or
    what is to be named stand behind such an operation.
    """

    def rule(request: SigningRequest) -> None:
        payload = request.payload
        if not isinstance(payload, Generic) or not isinstance(payload.group, Undecodable):
            return
        kind = payload.group.kind
        if not rules[request.key].unknown:
            raise Malformed(str(payload.group))
        if not isinstance(kind, int) or kind in UNDECODED_TAGS:
            raise Malformed(f"{payload.group}; unknown: allow does not hold for this kind")

    return rule


def decoded_wanted(rules: RulesOfKeys) -> Demands:
    """What `decoded` wants."""

    def words(request: SigningRequest) -> str:
        if not isinstance(request.payload, Generic):
            return _NOT_GENERIC
        if rules[request.key].unknown:
            return "may be of a kind that this signer does not know (unknown: allow)"
        return "is understood to its last byte"

    return words


def source(contents: Contents, _: OperationRules, key: PublicKeyHash) -> None:
    """Only operations of the signing key's own account."""
    for number, content in enumerate(contents):
        account = account_of(content)
        if account in (None, key.text):
            continue
        which = _which(number, contents)
        if content.kind == DRAIN:
            raise Forbidden(f"{which} is signed by the consensus key {account}, and not by {key}")
        raise Forbidden(f"{which} is of the account {account}, and not of {key}")


def source_wanted(_: OperationRules, key: PublicKeyHash) -> str:
    """What `source` wants."""
    return f"is of the account {key}"


def named_kinds(contents: Contents, rules: OperationRules, key: PublicKeyHash) -> None:
    """Nothing that has to be named in `kinds` and is not: see `NAMED_ONLY`."""
    named = rules.kinds or ()
    for number, content in enumerate(contents):
        if content.kind in NAMED_ONLY and content.kind not in named:
            raise Forbidden(
                f"{_which(number, contents)} is {_a(content.kind)}, which {key} signs only if its "
                "operations.kinds names it"
            )


def named_kinds_wanted(rules: OperationRules, _: PublicKeyHash) -> str:
    """What `named_kinds` wants."""
    missing = NAMED_ONLY.difference(rules.kinds or ())
    others = sorted(missing - CONSENSUS_KINDS)
    if missing & CONSENSUS_KINDS:
        others.append("operation of consensus")
    return f"is no {either(others)} that kinds does not name" if others else "may be of any kind"


def kinds(contents: Contents, rules: OperationRules, key: PublicKeyHash) -> None:
    """Only operations of the kinds that the key names, if it names any."""
    if rules.kinds is None:
        return
    for number, content in enumerate(contents):
        kind = kind_of(content)
        if kind not in rules.kinds:
            raise Forbidden(
                f"{_which(number, contents)} is {_a(kind)}, which is not among operations.kinds "
                f"of {key}; allowed: {either(sorted(rules.kinds))}"
            )


def kinds_wanted(rules: OperationRules, _: PublicKeyHash) -> str:
    """What `kinds` wants."""
    if rules.kinds is None:
        return "is of any kind"
    return f"is of the kind {either(sorted(rules.kinds))}"


def destinations(contents: Contents, rules: OperationRules, key: PublicKeyHash) -> None:
    """Nothing to an address, or a call of an entrypoint, that the key does not name.

    A contract that is made may get no tez then: its code could send them anywhere. What may call
    any entrypoint of a contract is for those only of which any may be called.
    """
    allowed = rules.destinations
    if allowed is None:
        return
    for number, content in enumerate(contents):
        which = _which(number, contents)
        if content.kind == ORIGINATION and number_in(content, "balance"):
            raise Forbidden(
                f"{which} makes a contract with {Mutez(number_in(content, 'balance'))}, which is "
                f"not among operations.destinations of {key}"
            )
        receiver = receiver_of(content)
        if receiver is None:
            continue
        calls_any = may_call_any(content)
        places = (each for each in allowed if each.entrypoint is None or not calls_any)
        if not any(each.allows(*receiver) for each in places):
            more = " with parameters, which may call any entrypoint of it" if calls_any else ""
            raise Forbidden(
                f"{which} is for {_place(*receiver)}{more}, which is not among "
                f"operations.destinations of {key}; allowed: {either(map(str, allowed))}"
            )


def _place(address: str, entrypoint: str) -> str:
    """An account is sent to; of a contract the entrypoint is named, also if it is `default`."""
    is_contract = address.startswith("KT1")
    whole = is_contract or entrypoint != DEFAULT_ENTRYPOINT
    return str(Destination(address, entrypoint if whole else None))


def destinations_wanted(rules: OperationRules, _: PublicKeyHash) -> str:
    """What `destinations` wants."""
    if rules.destinations is None:
        return "is for any destination"
    return f"is for {either(map(str, rules.destinations))}, if it sends or calls anything"


def delegates(contents: Contents, rules: OperationRules, key: PublicKeyHash) -> None:
    """No delegation to others than the key names; nor its withdrawal, if it names any."""
    if rules.delegates is None:
        return
    for number, content in enumerate(contents):
        if content.kind not in ("delegation", ORIGINATION):
            continue
        if content.fields["delegate"] is None:
            if content.kind == ORIGINATION:
                continue
            does = "withdraws the delegation"
        else:
            delegate = text_in(content, "delegate")
            if delegate in rules.delegates:
                continue
            does = f"delegates to {delegate}"
        raise Forbidden(
            f"{_which(number, contents)} {does}; operations.delegates of {key} allows "
            f"{either(sorted(rules.delegates))}"
        )


def delegates_wanted(rules: OperationRules, _: PublicKeyHash) -> str:
    """What `delegates` wants."""
    if rules.delegates is None:
        return "delegates to anybody"
    return f"delegates to {either(sorted(rules.delegates))}, if it delegates"


def proposals(contents: Contents, rules: OperationRules, key: PublicKeyHash) -> None:
    """No proposal of, and no vote on, other protocols than the key names."""
    if rules.proposals is None:
        return
    for number, content in enumerate(contents):
        for protocol in _protocols(content):
            if protocol not in rules.proposals:
                raise Forbidden(
                    f"{_which(number, contents)} is about {protocol}, which is not among "
                    f"operations.proposals of {key}; allowed: {either(sorted(rules.proposals))}"
                )


def _protocols(content: Content) -> Iterable[object]:
    if content.kind == "ballot":
        return (content.fields["proposal"],)
    if content.kind == "proposals":
        proposed = content.fields["proposals"]
        assert isinstance(proposed, tuple)
        return proposed
    return ()


def proposals_wanted(rules: OperationRules, _: PublicKeyHash) -> str:
    """What `proposals` wants."""
    if rules.proposals is None:
        return "is about any protocol"
    return f"is about {either(sorted(rules.proposals))}, if it proposes or votes"


def ballots(contents: Contents, rules: OperationRules, key: PublicKeyHash) -> None:
    """No vote but those that the key names."""
    if rules.ballots is None:
        return
    for number, content in enumerate(contents):
        if content.kind == "ballot" and content.fields["ballot"] not in rules.ballots:
            raise Forbidden(
                f"{_which(number, contents)} votes {text_in(content, 'ballot')}; "
                f"operations.ballots of {key} allows {either(sorted(rules.ballots))}"
            )


def ballots_wanted(rules: OperationRules, _: PublicKeyHash) -> str:
    """What `ballots` wants."""
    if rules.ballots is None:
        return "votes as it likes"
    return f"votes {either(sorted(rules.ballots))}, if it votes"


def max_amount(contents: Contents, rules: OperationRules, key: PublicKeyHash) -> None:
    """No group by which more leaves the account than the key allows."""
    most = rules.max_amount
    if most is None:
        return
    if any(content.kind == DRAIN for content in contents):
        raise Forbidden(f"how much it drains is not known; max_amount of {key} is {Mutez(most)}")
    amount = amounts(contents, key)
    if amount > most:
        bond = any(content.kind == "smart_rollup_publish" for content in contents)
        raise Forbidden(
            f"{amount}{' (with the bond of a rollup)' * bond} would leave the account at once; "
            f"operations.max_amount of {key} is {Mutez(most)}"
        )


def max_amount_wanted(rules: OperationRules, _: PublicKeyHash) -> str:
    """What `max_amount` wants."""
    if rules.max_amount is None:
        return "sends any amount"
    return f"sends at most {Mutez(rules.max_amount)}"


def max_fee(contents: Contents, rules: OperationRules, key: PublicKeyHash) -> None:
    """No group that pays more fees than the key allows."""
    if rules.max_fee is None:
        return
    fee = fees(contents)
    if fee > rules.max_fee:
        raise Forbidden(
            f"the fees are {fee}; operations.max_fee of {key} is {Mutez(rules.max_fee)}"
        )


def max_fee_wanted(rules: OperationRules, _: PublicKeyHash) -> str:
    """What `max_fee` wants."""
    if rules.max_fee is None:
        return "pays any fee"
    return f"pays at most {Mutez(rules.max_fee)} of fees"


def within_hours(rules: RulesOfKeys, now: Now) -> Check:
    """Only in the hours of the key: operations, and packed Michelson data."""

    def rule(request: SigningRequest) -> None:
        hours = rules[request.key].hours
        if hours is None or not isinstance(request.payload, Generic | Michelson):
            return
        at = now()
        if not hours.include(at):
            raise Forbidden(
                f"it is {hours.local(at):%H:%M} in {hours.time_zone}; {request.key} signs "
                f"operations {hours}"
            )

    return rule


def hours_wanted(rules: RulesOfKeys) -> Demands:
    """What `within_hours` wants."""

    def words(request: SigningRequest) -> str:
        hours = rules[request.key].hours
        if not isinstance(request.payload, Generic | Michelson):
            return "may come at any time: it is no operation that spends"
        return "comes at any time" if hours is None else f"comes {hours}"

    return words


def _which(number: int, contents: Contents) -> str:
    """How a sentence calls an operation, of which the number counts from 0."""
    return "the operation" if len(contents) == 1 else f"operation {number + 1} of {len(contents)}"


def _a(kind: str) -> str:
    return f"an {kind}" if kind[0] in "aeiou" else f"a {kind}"
