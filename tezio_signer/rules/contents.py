"""What operations do with the account of the key that signs them: facts for the rules.

What can leave an account by an operation (Octez `src/proto_*/lib_protocol/apply.ml`):

- the amount of a transaction to another account, and the balance of a contract that it creates;
- the fee, which goes to whoever bakes the block;
- what storage burns, 250 mutez a byte: of `storage_limit` bytes at most, and of all the bytes that
  `increase_paid_storage` buys;
- the bond of 10,000 tez that the first `smart_rollup_publish` for a rollup puts up, and that a lost
  refutation takes.

What is staked or unstaked stays in the account. `drain_delegate` takes all that the account of a
baker has, however much it is: the configuration lets nobody name it beside a limit of amounts.
"""

from collections.abc import Iterable, Sequence

from tezio_signer.tezos.keys import PublicKeyHash
from tezio_signer.tezos.operations import (
    DEFAULT_ENTRYPOINT,
    MANAGER_KINDS,
    Content,
    Mutez,
)

DRAIN = "drain_delegate"
ORIGINATION = "origination"
TRANSACTION = "transaction"
_MUTEZ_OF_BYTE = 250
"""Octez `cost_per_byte`, as on mainnet."""
_BOND = 10_000_000_000
"""Octez `smart_rollup_stake_amount`, as on mainnet, in mutez."""
_VOTES = ("proposals", "ballot")


def kind_of(content: Content) -> str:
    """The kind of an operation as `kinds` names it: what is for the own stake has its own."""
    return content.staking or content.kind


def account_of(content: Content) -> str | None:
    """The account in whose name an operation is, or the key that signs it; None if it has none."""
    if content.kind == DRAIN:
        return text_in(content, "consensus_key")
    if content.kind in MANAGER_KINDS or content.kind in _VOTES:
        return text_in(content, "source")
    return None


def receiver_of(content: Content) -> tuple[str, str] | None:
    """The address that gets something by an operation, and its entrypoint; None without one."""
    kind = kind_of(content)
    if kind in (TRANSACTION, "transfer_ticket"):
        return text_in(content, "destination"), text_in(content, "entrypoint")
    if kind == DRAIN:
        return text_in(content, "destination"), DEFAULT_ENTRYPOINT
    return None


def may_call_any(content: Content) -> bool:
    """Whether an operation may call another entrypoint of a contract than the one that it names.

    A contract without an entrypoint `default` takes its whole parameter there, and that says which
    of its entrypoints is called (Octez `find_entrypoint` in `script_ir_translator.ml`).
    """
    if content.kind != TRANSACTION or not text_in(content, "destination").startswith("KT1"):
        return False
    has_parameters = content.fields["value"] is not None
    return has_parameters and content.fields["entrypoint"] == DEFAULT_ENTRYPOINT


def amount_of(content: Content, key: PublicKeyHash) -> Mutez:
    """What leaves the account by one operation, without its fee and what `storage_limit` burns."""
    match kind_of(content):
        case "transaction" if content.fields["destination"] != key.text:
            return Mutez(number_in(content, "amount"))
        case "origination":
            return Mutez(number_in(content, "balance"))
        case "increase_paid_storage":
            return Mutez(_MUTEZ_OF_BYTE * number_in(content, "amount"))
        case "smart_rollup_publish":
            return Mutez(_BOND)
    return Mutez(0)


def amounts(contents: Iterable[Content], key: PublicKeyHash) -> Mutez:
    """What leaves the account, without fees and without what `storage_limit` burns."""
    return Mutez(sum(amount_of(content, key) for content in contents))


def fees(contents: Iterable[Content]) -> Mutez:
    """The fees of operations together."""
    return Mutez(sum(content.fee for content in contents))


def spent(contents: Sequence[Content], key: PublicKeyHash) -> Mutez:
    """All that can leave the account of the key: amounts, fees, and what is burnt."""
    burnt = _MUTEZ_OF_BYTE * sum(
        number_in(content, "storage_limit") for content in contents if content.kind in MANAGER_KINDS
    )
    return Mutez(amounts(contents, key) + fees(contents) + burnt)


def text_in(content: Content, name: str) -> str:
    """A field that is a text."""
    value = content.fields[name]
    assert isinstance(value, str), f"{name} of {content.kind} is no text"
    return value


def number_in(content: Content, name: str) -> int:
    """A field that is a number."""
    value = content.fields[name]
    assert isinstance(value, int), f"{name} of {content.kind} is no number"
    return value
