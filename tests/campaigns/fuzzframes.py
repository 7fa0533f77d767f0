"""The socket listener, fuzzed with whole connections, and the decoder of its frames."""

from random import Random

from tests.campaigns.fuzzlistener import (
    PKHS,
    Connection,
    Listener,
    Manner,
    check_asked,
    key_and_payload,
)
from tests.campaigns.fuzztargets import Wrong, gist
from tests.campaigns.mutation import mutated
from tests.campaigns.wellformed import (
    asked_over_socket,
    frames_in,
    is_request,
    requests_before_nonsense,
)
from tests.support import octezsocketclient
from tests.support.octezclient import HSM_AUTH_KEY
from tests.support.octezsocketclient import OctezSocketError, framed
from tests.support.vectors import FRAMES, PAYLOADS, TZ1, TZ2, TZ3
from tezio_signer.errors import FAULT
from tezio_signer.octez import messages as octezmessages
from tezio_signer.octez.messages import (
    DeterministicNonce,
    DeterministicNonceHash,
    ProvePossession,
    Sign,
    Undecodable,
)
from tezio_signer.octezsocket import OctezSocketFactory


class FramesTarget:
    """All bytes of a connection to the socket listener, and the decoder of its frames."""

    tokens = [bytes.fromhex(t) for t in ("0000", "ffff", "00000001", "ffffffff", "0303", "0400")]
    longest = 4096

    def __init__(self) -> None:
        self.listener = Listener(OctezSocketFactory)
        requests = [frame for name, frame in FRAMES.items() if not name.startswith("R_")]
        noop = PAYLOADS["noop"]
        proof = octezsocketclient.authentication(HSM_AUTH_KEY, str(TZ2), noop)
        self.seeds = [
            *FRAMES.values(),
            b"".join(requests),
            framed(octezsocketclient.sign(str(TZ1), noop)),
            framed(octezsocketclient.sign(str(TZ2), noop, proof)),
            framed(octezsocketclient.sign(str(TZ3), PAYLOADS["att_dal_5"])) * 2,
            framed(octezsocketclient.sign(str(TZ3), PAYLOADS["block_unlocked_nononce_on"])),
            framed(octezsocketclient.public_key(str(TZ1))) + framed(b"\x02") + framed(b"\x06"),
        ]
        self._requests = requests

    def made(self, random: Random, data: bytes) -> bytes:
        if random.randrange(2):
            frames = [self._frame(random) for _ in range(random.choice((1, 1, 2, 3)))]
            data = b"".join(frames) * random.choice((1, 1, 1, 2))
        return mutated(random, data, self.seeds, self.tokens) if random.randrange(4) else data

    def _frame(self, random: Random) -> bytes:
        if random.randrange(2):
            request = random.choice(self._requests)[2:]
            return framed(mutated(random, request, (), self.tokens)[:0xFFFF])
        pkh, payload = key_and_payload(random)
        proof = b""
        if pkh in PKHS[:3] and random.randrange(2):
            proof = octezsocketclient.authentication(HSM_AUTH_KEY, pkh, payload)
        return framed(octezsocketclient.sign(pkh, payload, proof)[:0xFFFF])

    def run(self, data: bytes) -> str:
        said = [_decoded(frame) for frame in frames_in(data)]
        connection = self.listener.connect(data)
        check_asked(connection, asked_over_socket(data))
        answers = list(frames_in(connection.written))
        if b"".join(map(framed, answers)) != connection.written:
            raise Wrong(f"not made of frames: {connection.written.hex()}")
        _check_answered(connection, len(answers), *requests_before_nonsense(data))
        for answer in answers:
            try:
                result = octezsocketclient.result_in(answer)
            except OctezSocketError as error:
                if error.message == FAULT:
                    raise Wrong("a fault") from error
                said.append(gist(error))
            else:
                if len(result) == 64 and result not in connection.made:
                    raise Wrong(f"a signature that the device has not made: {result.hex()}")
        return " ".join(said[:4]) + f" {len(connection.asked)}"


def _check_answered(connection: Connection, answers: int, requests: int, nonsense: bool) -> None:
    """Raises Wrong unless all requests have their answers, and nonsense ends the connection."""
    client = connection.client
    late = client is Manner.SLOW and connection.closed
    if answers > requests or (answers < requests and client is not Manner.LEAVING and not late):
        raise Wrong(f"{answers} answers to {requests} requests of a client that {client.value}")
    if client is Manner.LEAVING:
        return
    if nonsense and not connection.closed:
        raise Wrong("nonsense does not end the connection")
    if connection.closed and not (nonsense or late or client is Manner.HALF_CLOSING):
        raise Wrong(f"closed on a client that {client.value}")
    if client is Manner.HALF_CLOSING and not connection.closed:
        raise Wrong("stays open for a client that has closed its side")


def _decoded(payload: bytes) -> str:
    """Decode the payload of a frame; what is read has to be all that is written there."""
    try:
        request = octezmessages.decode(payload)
    except Undecodable as error:
        if is_request(payload):
            raise Wrong(f"refused what is well-formed: {error}") from error
        return gist(error)
    if not is_request(payload):
        raise Wrong(f"read what is not well-formed as {request}")
    written = _written(request)
    if isinstance(request, ProvePossession) and request.of is not None:
        # Octez reads every byte but zero as true.
        payload = payload[:22] + b"\xff" + payload[23:]
    if written != payload:
        raise Wrong(f"read {payload.hex()} as {request}")
    return type(request).__name__


_TAGS = {
    name: tag
    for tag, name in enumerate(
        (
            "Sign",
            "GetPublicKey",
            "GetAuthorizedKeys",
            "DeterministicNonce",
            "DeterministicNonceHash",
            "SupportsDeterministicNonces",
            "ListKnownKeys",
            "ProvePossession",
        )
    )
}


def _written(request: octezmessages.Request) -> bytes:
    """The only way to write a request (Octez `signer_messages.ml`)."""
    written = bytes([_TAGS[type(request).__name__]])
    key = getattr(request, "key", None)
    version = getattr(request, "version", None)
    if version is not None:
        written += b"\x03"
    if key is not None:
        written += bytes([key.curve.value]) + key.data
    if version is not None:
        written += bytes([version])
    if isinstance(request, Sign | DeterministicNonce | DeterministicNonceHash):
        written += len(request.data).to_bytes(4, "big") + request.data
        written += b"" if request.authentication is None else request.authentication.data
    if isinstance(request, ProvePossession):
        written += b"\x00" if request.of is None else b"\xff" + request.of
    return written
