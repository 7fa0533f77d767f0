"""Rules on what is to be signed: chain, kind, size."""

from collections.abc import Iterable

from tezio_signer.config.settings import Settings
from tezio_signer.errors import Forbidden, TooLarge
from tezio_signer.hsm.framing import MAX_MESSAGE
from tezio_signer.request import SigningRequest
from tezio_signer.rules.rule import Check, Demands
from tezio_signer.tezos.payload import Baking, Operation


def allowed_chain(settings: Settings) -> Check:
    """Only for the chains of the key; what has no level names none."""

    def rule(request: SigningRequest) -> None:
        chains = settings.signing_keys[request.key].chains
        payload = request.payload
        if chains is None or not isinstance(payload, Baking) or payload.chain_id in chains:
            return
        raise Forbidden(
            f"chain {payload.chain_id} is not allowed for {request.key}; "
            f"allowed: {', '.join(sorted(chains))}"
        )

    return rule


def chain_wanted(settings: Settings) -> Demands:
    """Which chains those are."""

    def words(request: SigningRequest) -> str:
        chains = settings.signing_keys[request.key].chains
        if not isinstance(request.payload, Baking):
            return "is for no chain in particular"
        return f"is for {'any chain' if chains is None else ' or '.join(sorted(chains))}"

    return words


def allowed_operation(settings: Settings) -> Check:
    """Only the operations in `allowed_ops` of the key."""

    def rule(request: SigningRequest) -> None:
        allowed = settings.signing_keys[request.key].allowed_ops
        operation = request.payload.operation
        if operation in allowed:
            return
        raise Forbidden(
            f"magic byte 0x{operation.value:02X} ({operation}) not allowed for {request.key}; "
            f"allowed: {', '.join(_names(allowed)) or 'none'}"
        )

    return rule


def operation_wanted(settings: Settings) -> Demands:
    """Which operations those are."""

    def words(request: SigningRequest) -> str:
        names = _names(settings.signing_keys[request.key].allowed_ops)
        return f"is any of {', '.join(names)}" if names else "is nothing: nothing is allowed"

    return words


def _names(operations: Iterable[Operation]) -> list[str]:
    return [str(o) for o in sorted(operations, key=lambda o: o.value)]


def fitting_the_device(request: SigningRequest) -> None:
    """Only what the frame buffer of the HSM can take."""
    if len(request.data) > MAX_MESSAGE:
        raise TooLarge(
            f"the payload has {len(request.data)} bytes; a Tezio HSM signs {MAX_MESSAGE} at most"
        )


def size_wanted(_: SigningRequest) -> str:
    """What `fitting_the_device` wants."""
    return f"has {MAX_MESSAGE} bytes at most"
