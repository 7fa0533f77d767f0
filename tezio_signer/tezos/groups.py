"""What a group of operations is, and how a line of the log tells of it."""

from collections.abc import Callable, Mapping

from attrs import field, frozen

from tezio_signer.tezos.kinds import MANAGER_KINDS
from tezio_signer.tezos.layout import Mutez, Value

STAKING = frozenset({"stake", "unstake", "finalize_unstake", "set_delegate_parameters"})
"""Entrypoints of one's own account, which are not transfers to anybody."""
MOST_LETTERS = 300
"""Of a summary."""


@frozen
class Content:
    """One operation of a group.

    :ivar kind: its name in Octez.
    :ivar fields: in the order in which they are encoded, with their names in Octez' JSON. A
        transaction has `entrypoint` and `value` in the place of `parameters`.
    """

    kind: str
    fields: Mapping[str, Value] = field(hash=False)

    @property
    def fee(self) -> Mutez:
        """What it pays to whoever bakes the block; nothing unless it is a manager operation."""
        fee = self.fields["fee"] if self.kind in MANAGER_KINDS else Mutez(0)
        assert isinstance(fee, Mutez)
        return fee

    @property
    def staking(self) -> str | None:
        """What it does with the stake of its own account; None for any other operation."""
        if self.kind != "transaction" or self.fields["destination"] != self.fields["source"]:
            return None
        entrypoint = self.fields["entrypoint"]
        return str(entrypoint) if entrypoint in STAKING else None

    def text(self, name: str) -> str:
        """A field that is no bytes, in words."""
        value = self.fields[name]
        assert not isinstance(value, bytes)
        return str(value)

    def __str__(self) -> str:
        """What it does, without its fee; it may be long."""
        words = _WORDS.get(self.kind)
        return words(self) if words else f"{self.kind}{_object(self)}"


@frozen
class OperationGroup:
    """The operations that have one signature.

    :ivar branch: the block that they follow, B….
    :ivar contents: at least one.
    """

    branch: str
    contents: tuple[Content, ...]


def summary(group: OperationGroup) -> str:
    """What a group does, in at most 300 letters of printable ASCII.

    Hashes are whole, unless one operation alone is longer than that. Of a long batch the first
    operations are named, and the fees of all.
    """
    fees = Mutez(sum(content.fee for content in group.contents))
    if len(group.contents) == 1:
        (content,) = group.contents
        fee = f", fee {fees}" if content.kind in MANAGER_KINDS else ""
        return _cut(str(content), MOST_LETTERS - len(fee)) + fee
    number = len(group.contents)
    text, end = f"{number} operations: ", f"; fees {fees}"
    for at, content in enumerate(group.contents):
        words = str(content)
        more = f"and {number - at} more"
        room = MOST_LETTERS - len(text) - len(end)
        behind = len(f"; and {number} more") if at < number - 1 else 0
        if len(words) + behind > room:
            text += _cut(words, room - len(f"; {more}")) + f"; {more}" if not at else more
            break
        text += words + ("; " if at < number - 1 else "")
    return text + end


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 3] + "..."


def _transaction(content: Content) -> str:
    amount, destination = content.text("amount"), content.text("destination")
    staking = content.staking
    if staking in ("stake", "unstake"):
        return f"{staking} of {amount}"
    if staking is not None:
        return staking
    if content.fields["value"] is None:
        return f"transaction of {amount} to {destination}"
    return f"call of {destination}%{content.text('entrypoint')} with {amount}"


def _origination(content: Content) -> str:
    to = f", delegate {content.text('delegate')}" if content.fields["delegate"] else ""
    return f"origination of a contract with {content.text('balance')}{to}"


def _delegation(content: Content) -> str:
    if content.fields["delegate"] is None:
        return "end of the delegation"
    return f"delegation to {content.text('delegate')}"


def _limit(content: Content) -> str:
    if content.fields["limit"] is None:
        return "end of the deposits limit"
    return f"set_deposits_limit of {content.text('limit')}"


def _noop(content: Content) -> str:
    """Nothing that the text says can pass for another part of the line: it is escaped."""
    data = content.fields["arbitrary"]
    assert isinstance(data, bytes)
    try:
        text = ascii(data.decode()[:MOST_LETTERS])
    except ValueError:
        text = f"0x{data[:MOST_LETTERS].hex()}"
    return f"failing_noop {text}"


def _proposals(content: Content) -> str:
    proposals = content.fields["proposals"]
    assert isinstance(proposals, tuple)
    return f"proposals of {', '.join(map(str, proposals)) or 'nothing'}"


def _in_words(words: str, *names: str) -> Callable[[Content], str]:
    return lambda content: words.format(*map(content.text, names))


_WORDS: Mapping[str, Callable[[Content], str]] = {
    "transaction": _transaction,
    "origination": _origination,
    "delegation": _delegation,
    "set_deposits_limit": _limit,
    "failing_noop": _noop,
    "proposals": _proposals,
    "transfer_ticket": _in_words(
        "transfer_ticket to {}%{}, {} of {}",
        *("destination", "entrypoint", "ticket_amount", "ticket_ticketer"),
    ),
    "reveal": _in_words("reveal of {}", "public_key"),
    "increase_paid_storage": _in_words(
        "increase_paid_storage of {} by {} bytes", "destination", "amount"
    ),
    "update_consensus_key": _in_words("update_consensus_key to {}", "pk"),
    "update_companion_key": _in_words("update_companion_key to {}", "pk"),
    "ballot": _in_words("ballot {} on {}", "ballot", "proposal"),
    "drain_delegate": _in_words("drain_delegate of {} to {}", "delegate", "destination"),
    "activate_account": _in_words("activate_account of {}", "pkh"),
    "smart_rollup_originate": _in_words("smart_rollup_originate of {}", "pvm_kind"),
}


def _object(content: Content) -> str:
    """What another operation is about, if one field says it."""
    for name, words in (("rollup", "of"), ("zk_rollup", "of"), ("level", "of level")):
        if name in content.fields:
            return f" {words} {content.text(name)}"
    return ""
