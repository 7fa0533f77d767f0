"""What to warn of keys that sign operations: what they can do that their owner may not expect."""

import re
from collections.abc import Iterable, Iterator

from tezio_signer.config.operations import OperationRules
from tezio_signer.config.settings import Settings
from tezio_signer.config.words import both, either
from tezio_signer.tezos.keys import PublicKeyHash
from tezio_signer.tezos.payload import Operation

_OF_KINDS = {
    "destinations": ("transaction", "transfer_ticket", "origination", "drain_delegate"),
    "delegates": ("delegation", "origination"),
    "proposals": ("proposals", "ballot"),
    "ballots": ("ballot",),
}
"""Rules, and the kinds of operations that they are about."""
_WHOLE = "root"
"""The entrypoint that takes the whole parameter of a contract, which names one of its others."""
_TURNED_ROUND = re.compile(r"Etc/GMT[-+][1-9]")


def spending(settings: Settings) -> list[str]:
    """What to warn of; nothing if the HSM is a simulated one, whose keys are public."""
    if settings.store is None:
        return []
    ruled = {key: policy.operations for key, policy in settings.signing_keys.items()}
    without_use = [
        key for key, rules in ruled.items() if rules is not None and not _signs(settings, key)
    ]
    return [
        *_switched_off(settings, ruled),
        *_emptying(key for key in ruled if can_be_emptied(settings, key)),
        *(
            f"operations of {key} has no effect: generic is not among its allowed_ops"
            for key in without_use
        ),
        *(
            f"{key}: {sentence}"
            for key, rules in ruled.items()
            if rules is not None
            and key not in without_use
            and settings.security.signing_policy_check
            for sentence in _of_rules(rules)
        ),
    ]


def _signs(settings: Settings, key: PublicKeyHash) -> bool:
    return Operation.GENERIC in settings.signed_with(settings.signing_keys[key])


def can_be_emptied(settings: Settings, key: PublicKeyHash) -> bool:
    """Whether nothing says what may leave the account of a key, or by what kind of operation."""
    if not _signs(settings, key):
        return False
    rules = settings.signing_keys[key].operations
    if rules is None or not settings.security.signing_policy_check:
        return True
    return rules.kinds is None and _sends_anything(rules)


def _sends_anything(rules: OperationRules) -> bool:
    """Whether no rule says how much is sent, or where."""
    limits = (rules.destinations, rules.max_amount, rules.max_amount_per_day)
    return all(limit is None for limit in limits)


def _switched_off(
    settings: Settings, ruled: dict[PublicKeyHash, OperationRules | None]
) -> Iterator[str]:
    keys = [str(key) for key, rules in ruled.items() if rules is not None]
    if keys and not settings.security.signing_policy_check:
        yield (
            f"what operations says of {both(keys)} is not looked at, since "
            "security.signing_policy_check is False"
        )


def _emptying(keys: Iterable[PublicKeyHash]) -> Iterator[str]:
    named = list(map(str, keys))
    if named:
        yield (
            f"whoever may ask can empty the account of {either(named)}, which signs any operation "
            "that can be decoded: say in its section operations what it needs, such as kinds: "
            "[reveal, delegation, stake, ballot]"
        )


def _of_rules(rules: OperationRules) -> Iterator[str]:
    limited = [name for name in ("max_amount", "destinations") if getattr(rules, name) is not None]
    if limited and rules.max_fee is None:
        does = "cannot keep the account from being emptied by fees"
        if rules.max_amount_per_day is not None:
            does = f"{'does' if len(limited) == 1 else 'do'} not limit fees"
        yield f"{both(limited)} {does}, which go to whoever bakes the block: limit them by max_fee"
    if rules.kinds is not None and "transaction" in rules.kinds and _sends_anything(rules):
        yield (
            "it sends any amount to anybody: limit that by destinations, max_amount_per_day or both"
        )
    others = (rules.destinations, rules.max_amount_per_day)
    if rules.max_amount is not None and all(limit is None for limit in others):
        yield (
            "max_amount is for one operation group, and there may be any number of them: limit "
            "what leaves in 24 hours by max_amount_per_day"
        )
    at_once, per_day = rules.max_amount, rules.max_amount_per_day
    if at_once is not None and per_day is not None and at_once > per_day:
        yield "max_amount has no effect: it is above max_amount_per_day"
    if rules.hours is not None and _TURNED_ROUND.match(str(rules.hours.time_zone)):
        yield (
            f"{rules.hours.time_zone} is on the other side of UTC than it seems: the signs of such "
            "names are turned round; name a place, such as Europe/Paris"
        )
    contracts = [
        place.address
        for place in rules.destinations or ()
        if place.entrypoint in (None, _WHOLE) and place.address.startswith("KT1")
    ]
    if contracts:
        yield (
            f"any entrypoint of {both(contracts)} may be called, and with any parameters, such as "
            "the amount of a token: name those that are needed, as "
            f"{contracts[0]}%transfer"
        )
    if rules.unknown:
        yield (
            "unknown: allow lets it sign operations that no rule can say anything of: leave it out "
            "when a version of this signer is there that knows the protocol"
        )
    for name, kinds in _OF_KINDS.items():
        if getattr(rules, name) is not None and not (rules.kinds or set(kinds)).intersection(kinds):
            yield f"{name} has no effect: kinds names no {either(kinds)}"
