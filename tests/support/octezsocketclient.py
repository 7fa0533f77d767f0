"""An Octez-shaped client of the socket protocol, and how strictly it reads the answers.

Written from the Octez sources (`src/lib_signer_backends/unix/socket.ml`,
`src/lib_signer_services/signer_messages.ml`), with nothing of the package's own codec.
"""

from collections.abc import Sequence
from functools import cache
from typing import cast

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import clientFromString, connectProtocol
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import ITCPTransport
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure

from tests.support.harness import reactor
from tests.support.octezclient import (
    SCHEMES,
    NotUnderstood,
    SecretKey,
    from_base58check,
    to_base58check,
)

AUTHORIZED_KEYS = b"\x02"
KNOWN_KEYS = b"\x06"
_BY_TAG = {scheme.tag: scheme for scheme in SCHEMES.values()}
_TZ4 = bytes.fromhex("06a1a6")


class OctezSocketError(Exception):
    """The signer refused; the message is what octez-client prints."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


def framed(payload: bytes) -> bytes:
    """A payload with its length in front."""
    return bytes([len(payload) >> 8, len(payload) & 255]) + payload


@cache  # an address of Octez is these bytes from the beginning
def tagged_hash(pkh: str) -> bytes:
    """The 21 bytes of an address."""
    if pkh.startswith("tz4"):
        return b"\x03" + from_base58check(_TZ4, pkh)
    scheme = _BY_TAG[int(pkh[2]) - 1]
    return bytes([scheme.tag]) + from_base58check(scheme.hash_prefix, pkh)


def sign(pkh: str, data: bytes, authentication: bytes = b"", version: int = 3) -> bytes:
    """A request to sign, with the 64 bytes of an authentication or without."""
    hashed = tagged_hash(pkh)
    key = b"\x03" + hashed + bytes([version]) if pkh.startswith("tz4") else hashed
    return b"\x00" + key + len(data).to_bytes(4, "big") + data + authentication


def public_key(pkh: str) -> bytes:
    """A request for a public key."""
    return b"\x01" + tagged_hash(pkh)


def nonce(pkh: str, data: bytes, authentication: bytes = b"", hashed: bool = False) -> bytes:
    """A request for a deterministic nonce, or for its hash."""
    tag = b"\x04" if hashed else b"\x03"
    return tag + tagged_hash(pkh) + len(data).to_bytes(4, "big") + data + authentication


def supports_nonces(pkh: str) -> bytes:
    """The question whether a key makes nonces."""
    return b"\x05" + tagged_hash(pkh)


def prove_possession(pkh: str, of: bytes | None = None) -> bytes:
    """A request for a proof of possession, of the key or of another one."""
    return b"\x07" + tagged_hash(pkh) + (b"\x00" if of is None else b"\xff" + of)


def _expect(condition: bool, what: str, data: bytes) -> None:
    if not condition:
        raise NotUnderstood(f"{what}: {data.hex()}")


def _sized(data: bytes) -> tuple[bytes, bytes]:
    """The bytes behind a length of four bytes, and what follows."""
    _expect(len(data) >= 4, "no length", data)
    end = 4 + int.from_bytes(data[:4], "big")
    _expect(len(data) >= end, "cut off", data)
    return data[4:end], data[end:]


def _bson_texts(document: bytes) -> dict[str, str]:
    """A BSON document of texts."""
    _expect(int.from_bytes(document[:4], "little") == len(document), "size", document)
    _expect(document[-1:] == b"\x00", "end", document)
    left, texts = document[4:-1], dict[str, str]()
    while left:
        _expect(left[:1] == b"\x02", "no text", left)
        name, _, left = left[1:].partition(b"\x00")
        end = 4 + int.from_bytes(left[:4], "little")
        _expect(4 < end <= len(left) and left[end - 1] == 0, "text", left)
        _expect(name.decode("ascii") not in texts, "a field is there twice", document)
        texts[name.decode("ascii")] = left[4 : end - 1].decode("utf-8")
        left = left[end:]
    return texts


def result_in(answer: bytes) -> bytes:
    """What a good answer has; raises OctezSocketError for an error trace of one failure."""
    _expect(answer[:1] in (b"\x00", b"\x01"), "neither a result nor an error", answer)
    if answer[0] == 0:
        return answer[1:]
    trace, rest = _sized(answer[1:])
    document, further = _sized(trace)
    _expect(not rest and not further, "not one error", answer)
    texts = _bson_texts(document)
    _expect(list(texts) == ["kind", "id", "msg"], "fields of the error", document)
    _expect((texts["kind"], texts["id"]) == ("temporary", "failure"), "no failure", document)
    raise OctezSocketError(texts["msg"])


def pkhs_in(data: bytes) -> list[str]:
    """The addresses of a list that is the rest of an answer."""
    hashes, rest = _sized(data)
    _expect(not rest and len(hashes) % 21 == 0, "no list of addresses", data)
    pkhs = []
    for at in range(0, len(hashes), 21):
        tag, hashed = hashes[at], hashes[at + 1 : at + 21]
        prefix = _TZ4 if tag == 3 else _BY_TAG[tag].hash_prefix
        pkhs.append(to_base58check(prefix, hashed))
    return pkhs


def authorized_in(result: bytes) -> list[str] | None:
    """Who may authenticate; None for nobody has to."""
    if result == b"\x00":
        return None
    _expect(result[:1] == b"\x01", "authorized keys", result)
    return pkhs_in(result[1:])


def public_key_in(result: bytes) -> str:
    """`edpk…`, `sppk…` or `p2pk…`."""
    _expect(len(result) == (33 if result[:1] == b"\x00" else 34), "length of the key", result)
    return to_base58check(_BY_TAG[result[0]].public_prefix, result[1:])


def signature_in(result: bytes, pkh: str) -> str:
    """The signature, typed as the key is: on the wire it has no type."""
    _expect(len(result) == 64, "length of the signature", result)
    return to_base58check(_BY_TAG[int(pkh[2]) - 1].signature_prefix, result)


def authentication(key: SecretKey, pkh: str, payload: bytes) -> bytes:
    """The 64 bytes that authenticate a request to sign a payload with the key `pkh`."""
    text = key.authenticate(pkh, payload)
    return from_base58check(key.scheme.signature_prefix, text)


class Conversation(Protocol):
    """One connection, on which one question follows the other.

    :ivar ended: fires when the connection is closed, with what came and was not asked for.
    """

    transport: ITCPTransport

    def __init__(self) -> None:
        self._received = b""
        self._asking: Deferred[bytes] | None = None
        self.ended: Deferred[bytes] = Deferred()

    def ask(self, payload: bytes) -> Deferred[bytes]:
        """Send a request; the answer without its length. Fails if the connection ends first."""
        assert self._asking is None, "one question at a time"
        self._asking = Deferred()
        asking = self._asking
        self.transport.write(framed(payload))
        return asking

    def answer(self) -> Deferred[bytes]:
        """Wait for an answer to what was written by other means."""
        assert self._asking is None, "one question at a time"
        asking = self._asking = Deferred[bytes]()
        self._deliver()
        return asking

    def dataReceived(self, data: bytes) -> None:
        self._received += data
        self._deliver()

    def _deliver(self) -> None:
        end = 2 + int.from_bytes(self._received[:2], "big")
        if self._asking is not None and 2 <= len(self._received) >= end:
            asking, self._asking = self._asking, None
            answer, self._received = self._received[2:end], self._received[end:]
            asking.callback(answer)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._asking is not None:
            asking, self._asking = self._asking, None
            asking.errback(Failure(ConnectionDone("the signer closed the connection")))
        self.ended.callback(self._received)


class OctezSocketClient:
    """octez-client with a signer at an endpoint, `tcp:127.0.0.1:7732` or `unix:/path`.

    :param wallet: its secret keys, for authentication, in order.
    :ivar answered: when it had the last signature, in seconds of the reactor.
    """

    def __init__(self, endpoint: str, wallet: Sequence[SecretKey] = ()) -> None:
        self._endpoint = clientFromString(reactor, endpoint)
        self._wallet = wallet
        self.answered = 0.0

    async def connect(self) -> Conversation:
        """A connection to talk on."""
        conversation = await connectProtocol(self._endpoint, Conversation())
        return cast(Conversation, conversation)

    async def ask(self, payload: bytes) -> bytes:
        """The result of one request on a connection of its own."""
        conversation = await self.connect()
        try:
            return result_in(await conversation.ask(payload))
        finally:
            await self.hang_up(conversation)

    async def hang_up(self, conversation: Conversation) -> None:
        """Close a connection, and wait until it is."""
        conversation.transport.loseConnection()
        assert await conversation.ended == b"", "more came than was asked for"

    async def authorized_keys(self) -> list[str] | None:
        """Whose authentication the signer wants; None for nobody's."""
        return authorized_in(await self.ask(AUTHORIZED_KEYS))

    async def known_keys(self) -> list[str]:
        """`list known remote keys`."""
        return pkhs_in(await self.ask(KNOWN_KEYS))

    async def public_key(self, pkh: str) -> str:
        """`import secret key`."""
        return public_key_in(await self.ask(public_key(pkh)))

    async def sign(self, pkh: str, payload: bytes) -> str:
        """Sign as Octez does: ask for the authorized keys first, on the same connection."""
        conversation = await self.connect()
        try:
            return await self.sign_on(conversation, pkh, payload)
        finally:
            await self.hang_up(conversation)

    async def sign_on(self, conversation: Conversation, pkh: str, payload: bytes) -> str:
        """Sign on a connection that stays open."""
        authorized = authorized_in(result_in(await conversation.ask(AUTHORIZED_KEYS)))
        signed = b""
        if authorized is not None:
            able = [key for key in self._wallet if key.pkh in authorized]
            assert able, "no authorized key was found in the wallet"
            signed = authentication(able[0], pkh, payload)
        answer = await conversation.ask(sign(pkh, payload, signed))
        self.answered = reactor.seconds()
        return signature_in(result_in(answer), pkh)
