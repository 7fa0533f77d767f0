"""Which keys of a configuration the boards hold, in words; without I/O."""

from collections.abc import Iterable, Mapping

from tezio_signer.hsm.framing import Slot
from tezio_signer.hsm.slots import SIGNING_SLOTS
from tezio_signer.tezos.keys import PublicKey, PublicKeyHash

Held = Mapping[str, Mapping[Slot, PublicKey]]
"""What boards hold: the name of each, and its public keys by slot."""


def holders(key: PublicKeyHash, held: Held, slots: Iterable[Slot] = tuple(Slot)) -> list[str]:
    """The boards that hold a key in one of these slots."""
    wanted = set(slots)
    return [
        name
        for name, keys in held.items()
        if any(slot in wanted and public.hash == key for slot, public in keys.items())
    ]


def is_held(key: PublicKeyHash, held: Held, auth_key: PublicKeyHash | None) -> bool:
    """Whether a key of the configuration can be used: the auth key in any slot, others to sign."""
    return bool(holders(key, held, Slot if key == auth_key else SIGNING_SLOTS))


def misplaced(key: PublicKeyHash, held: Held, auth_key: PublicKeyHash | None) -> str:
    """What is wrong about a key that is not held where it belongs; empty if it is nowhere."""
    if key == auth_key:
        found = [
            f"slot 0 of the HSM {name} holds {keys[Slot.AUTH].hash}"
            for name, keys in held.items()
            if Slot.AUTH in keys
        ]
        if found:
            return (
                f"the configuration names it as auth_key, but {', '.join(found)}: "
                "correct policy.auth_key"
            )
    names = holders(key, held)
    if names:
        return (
            f"it is the auth key (slot 0) of the HSM {', '.join(names)}, which signs nothing: "
            "name it as policy.auth_key"
        )
    return ""
