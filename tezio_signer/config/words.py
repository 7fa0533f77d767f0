"""What a configuration lets a key do, in words: `stakes its own funds; bakes on mainnet`."""

from collections.abc import Callable, Iterable, Iterator

from tezio_signer.config.operations import NAMED_ONLY, NO_RULES, OperationRules
from tezio_signer.config.settings import Settings, SigningKey
from tezio_signer.tezos.operations import CONSENSUS_KINDS, Mutez
from tezio_signer.tezos.payload import BAKING_OPERATIONS, Operation

MAINNET = "NetXdQprcVkpaWU"
_STAKING = {"stake": "stakes", "unstake": "unstakes", "finalize_unstake": "takes back"}
_VERBS = {
    Operation.BLOCK: "bakes",
    Operation.PREATTESTATION: "preattests",
    Operation.ATTESTATION: "attests",
}


def either(texts: Iterable[str], nothing: str = "nothing") -> str:
    """Alternatives: `one, two or three`."""
    return _joined(list(texts), "or", nothing)


def both(texts: Iterable[str], nothing: str = "nothing") -> str:
    """Things together: `one, two and three`."""
    return _joined(list(texts), "and", nothing)


def _joined(texts: list[str], word: str, nothing: str) -> str:
    *others, last = texts or [nothing]
    return f"{', '.join(others)} {word} {last}" if others else last


def _tez(mutez: int) -> str:
    """An amount, with commas between thousands: `1,000.5 tez`."""
    whole, dot, rest = str(Mutez(mutez)).partition(".")
    number, _, unit = whole.partition(" ")
    return f"{int(number):,}{dot}{rest}{' ' * bool(unit)}{unit}"


def may(settings: Settings, key: SigningKey) -> tuple[str, ...]:
    """What may be signed with a key: clauses whose subject is the key, none if that is nothing."""
    signed = settings.signed_with(key)
    checked = settings.security.signing_policy_check
    rules = (key.operations if checked else None) or NO_RULES
    clauses: list[str] = []
    if Operation.GENERIC in signed:
        clauses += _operations(rules)
    if Operation.MICHELSON in signed:
        clauses.append("signs packed Michelson data, whatever a contract takes them for")
    if Operation.GENERIC in signed or Operation.MICHELSON in signed:
        clauses += _how_often(rules)
    clauses += _baking(settings, key)
    return tuple(clauses)


def _operations(rules: OperationRules) -> Iterator[str]:
    if rules.kinds is None:
        yield from _any_kind(rules)
    else:
        yield from _named(rules, rules.kinds)
    if rules.max_fee is not None:
        yield f"pays at most {_tez(rules.max_fee)} of fees at a time"
    elif rules.max_amount_per_day is None and (
        rules.max_amount is not None or rules.destinations is not None
    ):
        yield "pays any fee"
    if rules.unknown:
        yield "signs operations that it does not understand, which may do anything"


def _any_kind(rules: OperationRules) -> Iterator[str]:
    """Without `kinds`, only what is limited besides has to be told."""
    but = (*sorted(NAMED_ONLY - CONSENSUS_KINDS), "those of consensus")
    yield f"signs any operation but {both(but)}"
    yield _sending(rules)
    if rules.delegates is not None:
        yield _delegating(rules)
    if rules.ballots is not None or rules.proposals is not None:
        yield _voting(rules)


def _named(rules: OperationRules, kinds: frozenset[str]) -> Iterator[str]:
    staking = [verb for kind, verb in _STAKING.items() if kind in kinds]
    told: dict[str, Callable[[], str]] = {
        "reveal": lambda: "reveals its public key",
        "proposals": lambda: f"proposes {_protocols(rules)}",
        "ballot": lambda: _voting(rules),
        "delegation": lambda: _delegating(rules),
        **dict.fromkeys(_STAKING, lambda: f"{both(staking)} its own funds"),
        "set_delegate_parameters": lambda: "sets the terms for those who stake with it",
        "transaction": lambda: _sending(rules),
        "transfer_ticket": lambda: f"sends tickets{_where(rules)}",
        "origination": lambda: _creating(rules, "transaction" in kinds),
        "drain_delegate": lambda: (
            f"SENDS ALL that the baker has whose consensus key it is{_where(rules)}"
        ),
        "update_consensus_key": lambda: "GIVES ITS BAKING to any other key",
        "update_companion_key": lambda: "takes any companion key",
        "failing_noop": lambda: "signs texts (failing_noop)",
    }
    yield from dict.fromkeys(tell() for kind, tell in told.items() if kind in kinds)
    others = sorted(kinds - told.keys())
    if others:
        yield f"signs {both(others)}"
    if rules.max_amount_per_day is not None and "transaction" not in kinds:
        yield f"spends at most {_tez(rules.max_amount_per_day)} in 24 hours"


def _voting(rules: OperationRules) -> str:
    how = "" if rules.ballots is None else f" {either(sorted(rules.ballots))}"
    return f"votes{how}" + ("" if rules.proposals is None else f" on {_protocols(rules)}")


def _protocols(rules: OperationRules) -> str:
    return _counted(rules.proposals, "protocol", "any protocol")


def _delegating(rules: OperationRules) -> str:
    return f"delegates to {_counted(rules.delegates, 'address', 'anybody')}"


def _creating(rules: OperationRules, sends: bool) -> str:
    if rules.destinations is not None:
        return "creates contracts without tez"
    if rules.max_amount is None:
        return "creates contracts with any amount"
    return "creates contracts with " + (
        "as much" if sends else f"at most {_tez(rules.max_amount)} at a time"
    )


def _sending(rules: OperationRules) -> str:
    """`sends at most 100 tez at a time and 500 in 24 hours to 2 addresses`."""
    at_a_time, per_day = rules.max_amount, rules.max_amount_per_day
    limits = []
    if at_a_time is not None:
        limits.append(f"{_tez(at_a_time)} at a time")
    if per_day is not None:
        amount = _tez(per_day)
        limits.append(f"{amount.removesuffix(' tez') if limits else amount} in 24 hours")
    if not limits:
        return f"sends any amount{_where(rules)}"
    return f"sends at most {both(limits)}{_where(rules)}"


def _where(rules: OperationRules) -> str:
    """To how many addresses, with their entrypoints if those are limited."""
    if rules.destinations is None:
        return " to anybody"
    return f" to {_counted(rules.destinations, 'address', '')}"


def _counted(values: Iterable[object] | None, noun: str, anything: str) -> str:
    """A single value by itself, and else how many there are."""
    if values is None:
        return anything
    listed = list(map(str, values))
    plural = f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return listed[0] if len(listed) == 1 else f"{len(listed)} {plural}"


def _how_often(rules: OperationRules) -> Iterator[str]:
    if rules.max_operations_per_day is not None:
        number = rules.max_operations_per_day
        yield f"signs at most {number:,} operation{'s' * (number > 1)} in 24 hours"
    if rules.hours is not None:
        yield f"signs operations {rules.hours} only"


def _baking(settings: Settings, key: SigningKey) -> Iterator[str]:
    """`bakes on mainnet above level 9,000,000`: blocks and votes, or which of them."""
    signed = settings.signed_with(key)
    does = [operation for operation in BAKING_OPERATIONS if operation in signed]
    if not does:
        return
    if key.chains is None:
        where = "on any chain"
    else:
        names = ("mainnet" if chain == MAINNET else chain for chain in sorted(key.chains))
        where = f"on {both(names, 'no chain')}"
    if not settings.security.high_water_mark_check:
        where += ", with nothing that keeps it from signing twice at one level"
        floors: dict[Operation, int] = {}
    else:
        floors = {operation: settings.floors.get(operation, (0, 0))[0] for operation in does}
    if len(does) == len(BAKING_OPERATIONS):
        whole = ["bakes"]
    else:
        whole = [_VERBS[operation] for operation in does]
    levels = set(floors.values()) - {0}
    if len(levels) == 1 and 0 not in floors.values():
        where += f" above level {levels.pop():,}"
    elif levels:
        each = (f"{operation} {floors[operation]:,}" for operation in does if floors[operation])
        where += f" above the levels {both(each)}"
    yield f"{both(whole)} {where}"
