"""What a key may have signed as a generic operation: `policy.signing_keys.<key>.operations`."""

import re
from collections.abc import Callable, Collection, Iterable
from datetime import UTC, datetime, time, tzinfo
from typing import Annotated, TypeVar
from zoneinfo import ZoneInfo, available_timezones

from attrs import frozen

from tezio_signer.config.fields import Field, nearest
from tezio_signer.config.setting import Reader, Setting, read_section
from tezio_signer.tezos import base58check
from tezio_signer.tezos.base58check import Base58Type
from tezio_signer.tezos.entrypoints import DEFAULT_ENTRYPOINT, LONGEST_NAME, is_entrypoint
from tezio_signer.tezos.operations import CONSENSUS_KINDS, KINDS, STAKING, Mutez

NAMED_ONLY = CONSENSUS_KINDS | {"drain_delegate", "update_consensus_key", "update_companion_key"}
"""Kinds that are signed only if they are named: whoever may have them signed has the whole key."""
BALLOTS = ("yay", "nay", "pass")
_ALSO_CALLED = {
    "transfer": "transaction",
    "vote": "ballot",
    "set_delegate": "delegation",
    "yes": "yay",
    "no": "nay",
}
"""What people write in place of a name."""
_OF_BAKING = {"block", "endorsement", "preendorsement"}
"""What people look for among the kinds, and is signed without any of them."""
_MOST_MUTEZ = 2**63 - 1
_TEZ = re.compile(r"(0|[1-9][0-9]*)(?:\.([0-9]{1,6}))? tez")
_LIKE_TEZ = re.compile(r"(.*?) ?(?:tez|xtz|ꜩ)?", re.IGNORECASE)
_LIKE_MUTEZ = re.compile(r"([0-9]{1,18}) ?mutez", re.IGNORECASE)
_TIME = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])")
_ADDRESSES = frozenset(
    {
        Base58Type.TZ1,
        Base58Type.TZ2,
        Base58Type.TZ3,
        Base58Type.TZ4,
        Base58Type.TZ5,
    }
)
_Value = TypeVar("_Value")


@frozen
class Destination:
    """Where tez and tickets may go.

    :ivar address: `tz1…` to `tz5…`, or `KT1…`.
    :ivar entrypoint: what may be called of it; None for any.
    """

    address: str
    entrypoint: str | None = None

    def allows(self, address: str, entrypoint: str) -> bool:
        """Whether something for this address and entrypoint may go there."""
        return address == self.address and self.entrypoint in (None, entrypoint)

    def __str__(self) -> str:
        return self.address if self.entrypoint is None else f"{self.address}%{self.entrypoint}"


@frozen
class Hours:
    """The hours of a day, by the clock on the wall of some place.

    If the end is not behind the start, they go on over midnight.

    :ivar end: the first moment that does not belong to them.
    """

    start: time
    end: time
    time_zone: tzinfo

    def local(self, now: float) -> datetime:
        """What the clock on that wall shows.

        :param now: seconds since 1970, UTC.
        """
        return datetime.fromtimestamp(now, self.time_zone)

    def include(self, now: float) -> bool:
        """Whether a moment, in seconds since 1970, belongs to them."""
        shown = self.local(now).time()
        if self.start < self.end:
            return self.start <= shown < self.end
        return shown >= self.start or shown < self.end

    def __str__(self) -> str:
        return f"from {self.start:%H:%M} to {self.end:%H:%M} {self.time_zone}"


@frozen
class OperationRules:
    """What generic operations of a key may contain. Without any rule, all but `NAMED_ONLY`.

    :ivar kinds: None for all but `NAMED_ONLY`; of the others, None for any.
    :ivar max_amount: in mutez, as the other two are.
    :ivar unknown: whether a kind that is not known is signed.
    """

    kinds: Annotated[
        frozenset[str] | None,
        Setting(
            "The kinds of operations, by the names that Octez has for them. `stake`, `unstake`, "
            "`finalize_unstake` and `set_delegate_parameters` are transactions to the key's own "
            "account, and are not meant by `transaction`. Those of consensus, `drain_delegate`, "
            "`update_consensus_key` and `update_companion_key` are signed only if they are named.",
            form="a list of kinds, such as reveal, transaction, delegation, stake and ballot",
            without="all that need not be named",
        ),
    ] = None
    destinations: Annotated[
        tuple[Destination, ...] | None,
        Setting(
            "Where transactions, tickets and what is drained may go, and which entrypoint may be "
            "called; `%default` is for tez without parameters. A new contract may get no tez then. "
            "What is for the key's own stake is not held to it.",
            form="a list of addresses (tz1…, KT1…), or of entrypoints (KT1…%transfer)",
            without="anywhere",
        ),
    ] = None
    delegates: Annotated[
        frozenset[str] | None,
        Setting(
            "To whom it may be delegated, by the key or by a contract that it makes. To withdraw a "
            "delegation is refused then.",
            form="a list of addresses (tz1…)",
            without="to anybody",
        ),
    ] = None
    proposals: Annotated[
        frozenset[str] | None,
        Setting(
            "The protocols that may be proposed and voted on.",
            form="a list of their hashes (P…)",
            without="any",
        ),
    ] = None
    ballots: Annotated[
        frozenset[str] | None,
        Setting("How votes may be cast.", form="a list of yay, nay and pass", without="as asked"),
    ] = None
    max_amount: Annotated[
        int | None,
        Setting(
            "How much may leave the account with one operation group. Fees and what storage burns "
            "are not counted here, nor is what is staked, which stays in the account.",
            form='an amount, such as "100 tez"',
            without="any amount",
        ),
    ] = None
    max_fee: Annotated[
        int | None,
        Setting(
            "The fees of an operation group. They go to whoever bakes the block.",
            form='an amount, such as "1 tez"',
            without="any amount",
        ),
    ] = None
    max_amount_per_day: Annotated[
        int | None,
        Setting(
            "How much may leave the account in 24 hours: amounts, fees and all that storage can "
            "burn.",
            form='an amount, such as "500 tez"',
            without="any amount",
        ),
    ] = None
    max_operations_per_day: Annotated[
        int | None,
        Setting(
            "How many operations are signed in 24 hours; each of a group counts.",
            least=1,
            most=1_000_000,
            without="any number",
        ),
    ] = None
    hours: Annotated[
        Hours | None,
        Setting(
            'When operations are signed: `{from: "08:00", to: "20:00", time_zone: Europe/Paris}`. '
            "They may go on over midnight.",
            form="from, to and time_zone",
            without="at any time",
        ),
    ] = None
    unknown: Annotated[
        bool,
        Setting(
            "Sign also kinds of operations that are not known, of which no other rule can say "
            "anything. For the day on which a protocol has a new kind.",
            form="allow or refuse",
            without="refuse",
        ),
    ] = False


NO_RULES = OperationRules()
"""What holds for a key without the section."""


def operation_rules(field: Field) -> OperationRules:
    """The section `operations` of a key; raises ConfigError."""
    rules = OperationRules(**read_section(OperationRules, field, _READERS))
    kinds = rules.kinds or ()
    if "drain_delegate" in kinds:
        for name in ("max_amount", "max_amount_per_day"):
            if getattr(rules, name) is not None:
                raise field.entries()[name].error(
                    "drain_delegate, which kinds names, takes all that an account has, however "
                    "much that is: leave one of them out"
                )
    return rules


def mutez_named(field: Field) -> int:
    """An amount that is written in tez; raises ConfigError."""
    written = field.written
    text = str(field.value())
    amount = _TEZ.fullmatch(text)
    if amount is None:
        meant = _amount_meant(text)
        hint = f': "{meant}"?' if meant else ""
        raise field.error(
            f'an amount in tez such as "100 tez" or "0.5 tez", with six decimals at most, is '
            f"expected, not {written}{hint}"
        )
    whole, decimals = amount.groups(default="")
    too_long = len(whole) > len(str(_MOST_MUTEZ))  # thousands of digits are no int for Python
    mutez = 0 if too_long else int(whole) * 1_000_000 + int(decimals.ljust(6, "0"))
    if too_long or mutez > _MOST_MUTEZ:
        raise field.error(f"{written} is more than there can be")
    return mutez


def _amount_meant(text: str) -> str | None:
    """How an amount in another unit, or without one, is written here; None if that is not clear."""
    if small := _LIKE_MUTEZ.fullmatch(text):
        return str(Mutez(int(small[1])))
    like = _LIKE_TEZ.fullmatch(text)
    meant = like and f"{like[1]} tez"
    return meant if meant and _TEZ.fullmatch(meant) else None


def _kind(field: Field) -> str:
    name = field.text()
    if name in KINDS or name in STAKING:
        return name
    if name in _OF_BAKING:
        raise field.error(
            f"{field.written} is no kind of operation: what is baked is signed by allowed_ops, "
            "whatever kinds names"
        )
    # What gives the key away is not to be written because an error has proposed it.
    near = _near(name, sorted({*KINDS, *STAKING} - NAMED_ONLY))
    raise field.error(
        f"{field.written} is no kind of operation; "
        + (f"did you mean {near}?" if near else "docs/policy.md lists them")
    )


def _ballot(field: Field) -> str:
    name = field.value()  # YAML takes yes and no for no texts
    if isinstance(name, str) and name in BALLOTS:
        return name
    near = _near(field.written, BALLOTS)
    meant = f"did you mean {near}? " if near else ""
    raise field.error(f"{field.written} is no ballot; {meant}Known: {', '.join(BALLOTS)}")


def _near(name: str, known: Collection[str]) -> str | None:
    return _ALSO_CALLED.get(name.lower()) or nearest(name, known)


def _destination(field: Field) -> Destination:
    address, percent, entrypoint = field.text().partition("%")
    _check_text(field, address, _ADDRESSES | {Base58Type.CONTRACT}, "an address (tz1…, KT1…)")
    if percent and entrypoint != DEFAULT_ENTRYPOINT and not address.startswith("KT1"):
        raise field.error(f"only contracts (KT1…) have entrypoints: leave out %{entrypoint}")
    if percent and not is_entrypoint(entrypoint):
        raise field.error(
            f"the name of an entrypoint is expected behind %: 1 to {LONGEST_NAME} letters, digits, "
            "_ . % or @"
        )
    return Destination(address, entrypoint if percent else None)


def _delegate(field: Field) -> str:
    return _check_text(field, field.text(), _ADDRESSES, "the address of a delegate (tz1…)")


def _proposal(field: Field) -> str:
    expected = "the hash of a protocol (P…)"
    return _check_text(field, field.text(), {Base58Type.PROTOCOL_HASH}, expected)


def _check_text(field: Field, text: str, kinds: Collection[Base58Type], expected: str) -> str:
    """The same text, if it is a Base58Check text of one of these kinds; raises ConfigError."""
    try:
        kind, _ = base58check.decode(text)
    except ValueError as error:
        raise field.error(f"{expected} is expected: {error}") from error
    if kind not in kinds:
        raise field.error(f"{expected} is expected, and this is a {kind.name.lower()}")
    return text


def _hours(field: Field) -> Hours:
    names = ("from", "to", "time_zone")
    entries = field.mapping(names, required=names)
    start, end = _time(entries["from"]), _time(entries["to"])
    if start == end:
        raise entries["to"].error("from and to are the same: leave hours out to sign at any time")
    return Hours(start, end, _time_zone(entries["time_zone"]))


def _time(field: Field) -> time:
    text = field.text()
    found = _TIME.fullmatch(text)
    if found is None:
        raise field.error(
            f'a time from "00:00" to "23:59" is expected, not {field.written}; midnight is "00:00"'
        )
    return time(int(found[1]), int(found[2]))


def _time_zone(field: Field) -> tzinfo:
    name = field.text()
    if name == "UTC":  # which needs no data of the system
        return UTC
    try:
        return ZoneInfo(name)
    except (LookupError, ValueError, OSError) as error:
        known = available_timezones()
        if not known:
            raise field.error(
                "this machine knows no time zones: install tzdata (apt install tzdata), or write "
                "UTC"
            ) from error
        # Short names such as EST are many alike, and have no summer time.
        near = nearest(name, sorted(zone for zone in known if "/" in zone))
        raise field.error(
            f"{field.written} is no time zone that this machine knows; "
            + (f"did you mean {near}?" if near else "write one such as Europe/Paris, or UTC")
        ) from error


def _allowed(field: Field) -> bool:
    if field.value() not in ("allow", "refuse"):
        raise field.error(f"allow or refuse is expected, not {field.written}")
    return field.value() == "allow"


def _listed(
    read: Callable[[Field], _Value], into: Callable[[Iterable[_Value]], Collection[_Value]]
) -> Reader:
    """Reads a list of which something has to be on."""

    def reader(field: Field) -> Collection[_Value]:
        items = [read(item) for item in field.items()]
        if not items:
            raise field.error(
                "nothing is on this list, so that nothing would be signed; leave it out to have no "
                "such rule"
            )
        return into(items)

    return reader


_READERS: dict[str, Reader] = {
    "kinds": _listed(_kind, frozenset),
    "destinations": _listed(_destination, lambda items: tuple(dict.fromkeys(items))),
    "delegates": _listed(_delegate, frozenset),
    "proposals": _listed(_proposal, frozenset),
    "ballots": _listed(_ballot, frozenset),
    "max_amount": mutez_named,
    "max_fee": mutez_named,
    "max_amount_per_day": mutez_named,
    "hours": _hours,
    "unknown": _allowed,
}
