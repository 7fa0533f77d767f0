"""Rules on what is to be signed: chain, kind, size."""

from tezio_signer.config.settings import Settings
from tezio_signer.errors import Forbidden, TooLarge
from tezio_signer.hsm.framing import MAX_MESSAGE
from tezio_signer.request import SigningRequest
from tezio_signer.rules.rule import Check
from tezio_signer.tezos.payload import Generic


def allowed_chain(settings: Settings) -> Check:
    """Only for the chains of the key; a generic operation names none."""

    def rule(request: SigningRequest) -> None:
        chains = settings.signing_keys[request.key].chains
        payload = request.payload
        if chains is None or isinstance(payload, Generic) or payload.chain_id in chains:
            return
        raise Forbidden(
            f"chain {payload.chain_id} is not allowed for {request.key}; "
            f"allowed: {', '.join(sorted(chains))}"
        )

    return rule


def allowed_operation(settings: Settings) -> Check:
    """Only the operations in `allowed_ops` of the key."""

    def rule(request: SigningRequest) -> None:
        allowed = settings.signing_keys[request.key].allowed_ops
        operation = request.payload.operation
        if operation in allowed:
            return
        names = ", ".join(str(o) for o in sorted(allowed, key=lambda o: o.value)) or "none"
        raise Forbidden(
            f"magic byte 0x{operation.value:02X} ({operation}) not allowed for {request.key}; "
            f"allowed: {names}"
        )

    return rule


def fitting_the_device(request: SigningRequest) -> None:
    """Only what the frame buffer of the HSM can take."""
    if len(request.data) > MAX_MESSAGE:
        raise TooLarge(
            f"the payload has {len(request.data)} bytes; a Tezio HSM signs {MAX_MESSAGE} at most"
        )
