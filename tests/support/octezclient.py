"""An Octez-shaped client: what octez-client writes, and how strictly it reads the answers.

Requests and answers follow the Octez sources (`src/lib_rpc_http/RPC_client.ml`,
`src/lib_signer_backends/http_gen.ml`). Base58Check, hashes, keys and signatures are
made here anew, so that an error of the package in them cannot hide itself.
"""

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from hashlib import blake2b, sha256

from attrs import frozen
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import (
    Prehashed,
    decode_dss_signature,
    encode_dss_signature,
)
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey, VerifyKey
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.interfaces import (
    ITCPTransport,
)
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure

from tests.support.harness import parse_response, reactor
from tezio_signer.simulator.keys import TEST_KEYS
from tezio_signer.tezos.keys import PublicKeyHash

ACCEPT = "application/json;q=1,application/bson;q=0.100,application/octet-stream;q=0.200"
USER_AGENT = "ocaml-cohttp/5.3.1"
_ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_SECP256K1_ORDER = int("fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141", 16)
_GENERIC_SIGNATURE = bytes.fromhex("04822b")
_DIGEST_GIVEN = ec.ECDSA(Prehashed(SHA256()))


@frozen
class Scheme:
    """A signature scheme: the tag of its binary form, its Base58Check prefixes, its curve."""

    tag: int
    hash_prefix: bytes
    public_prefix: bytes
    secret_prefix: bytes
    signature_prefix: bytes
    curve: ec.EllipticCurve | None = None


def _scheme(tag: int, prefixes: str, curve: ec.EllipticCurve | None = None) -> Scheme:
    of_hash, of_public, of_secret, of_signature = map(bytes.fromhex, prefixes.split())
    return Scheme(tag, of_hash, of_public, of_secret, of_signature, curve)


SCHEMES = {
    "ed": _scheme(0, "06a19f 0d0f25d9 0d0f3a07 09f5cd8612"),
    "sp": _scheme(1, "06a1a1 03fee256 11a2e0c9 0d7365133f", ec.SECP256K1()),
    "p2": _scheme(2, "06a1a4 03b28b7f 1051eebd 36f02c34", ec.SECP256R1()),
}
"""By the first two letters of their keys and signatures."""


def to_base58check(prefix: bytes, data: bytes) -> str:
    """The text of a value; no prefix of Tezos begins with a zero byte."""
    raw = prefix + data
    number = int.from_bytes(raw + sha256(sha256(raw).digest()).digest()[:4], "big")
    digits = ""
    while number:
        number, digit = divmod(number, 58)
        digits = _ALPHABET[digit] + digits
    return digits


def from_base58check(prefix: bytes, text: str) -> bytes:
    """The data of a value that has this prefix."""
    number = 0
    for digit in text:
        number = number * 58 + _ALPHABET.index(digit)
    raw = number.to_bytes((number.bit_length() + 7) // 8, "big")
    assert sha256(sha256(raw[:-4]).digest()).digest()[:4] == raw[-4:], f"checksum of {text}"
    assert raw.startswith(prefix), f"kind of {text}"
    return raw[len(prefix) : -4]


def _digest(message: bytes) -> bytes:
    return blake2b(message, digest_size=32).digest()


class SecretKey:
    """A secret key of a wallet: `edsk…` (seed), `spsk…` or `p2sk…`."""

    def __init__(self, text: str) -> None:
        self.scheme = SCHEMES[text[:2]]
        secret = from_base58check(self.scheme.secret_prefix, text)
        self._ed25519 = SigningKey(secret)
        self._elliptic = ec.derive_private_key(
            int.from_bytes(secret, "big"), self.scheme.curve or ec.SECP256R1()
        )

    @property
    def public(self) -> bytes:
        """32 bytes for Ed25519, a compressed point for the others."""
        if self.scheme.curve is None:
            return bytes(self._ed25519.verify_key)
        point = self._elliptic.public_key()
        return point.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)

    @property
    def public_key(self) -> str:
        """`edpk…`, `sppk…` or `p2pk…`."""
        return to_base58check(self.scheme.public_prefix, self.public)

    @property
    def pkh(self) -> str:
        """The address of the key."""
        return to_base58check(
            self.scheme.hash_prefix, blake2b(self.public, digest_size=20).digest()
        )

    def sign(self, message: bytes, generic: bool = False) -> str:
        """The signature of a message, of its own type or as a generic `sig…`."""
        if self.scheme.curve is None:
            data = self._ed25519.sign(_digest(message)).signature
        else:
            r, s = decode_dss_signature(self._elliptic.sign(_digest(message), _DIGEST_GIVEN))
            if self.scheme is SCHEMES["sp"]:
                s = min(s, _SECP256K1_ORDER - s)
            data = r.to_bytes(32, "big") + s.to_bytes(32, "big")
        prefix = _GENERIC_SIGNATURE if generic else self.scheme.signature_prefix
        return to_base58check(prefix, data)

    def authenticate(self, pkh: str, payload: bytes, generic: bool = False) -> str:
        """The authentication signature for a request to sign a payload with the key `pkh`."""
        return self.sign(authenticated_bytes(pkh, payload), generic)


HSM_AUTH_KEY, *HSM_KEYS = map(SecretKey, TEST_KEYS.values())
"""The keys of the simulated HSM: that of the auth slot; those of tz1, tz2 and tz3."""


def authenticated_bytes(pkh: str, payload: bytes) -> bytes:
    """What an authentication is a signature of (Octez `Sign.Request.to_sign`)."""
    scheme = list(SCHEMES.values())[int(pkh[2]) - 1]
    hashed = from_base58check(scheme.hash_prefix, pkh)
    return b"\x04\x01" + bytes([scheme.tag]) + hashed + payload


def verifies(public_key: str, message: bytes, signature: str) -> bool:
    """Whether a signature is of this key's type, and made with it over this message."""
    scheme = SCHEMES[public_key[:2]]
    public = from_base58check(scheme.public_prefix, public_key)
    data = from_base58check(scheme.signature_prefix, signature)
    assert len(data) == 64, f"length of {signature}"
    try:
        if scheme.curve is None:
            VerifyKey(public).verify(_digest(message), data)
            return True
        r, s = int.from_bytes(data[:32], "big"), int.from_bytes(data[32:], "big")
        if scheme is SCHEMES["sp"] and s > _SECP256K1_ORDER // 2:
            return False  # libsecp256k1 does not accept it
        point = ec.EllipticCurvePublicKey.from_encoded_point(scheme.curve, public)
        point.verify(encode_dss_signature(r, s), _digest(message), _DIGEST_GIVEN)
    except (BadSignatureError, InvalidSignature):
        return False
    return True


def get(host: str, path: str) -> bytes:
    """A GET as cohttp writes it."""
    return (
        f"GET {path} HTTP/1.1\r\n"
        f"host: {host}\r\n"
        f"accept: {ACCEPT}\r\n"
        f"user-agent: {USER_AGENT}\r\n"
        "\r\n"
    ).encode("ascii")


def post(host: str, path: str, payload: bytes) -> bytes:
    """A request to sign as cohttp writes it: chunked, without a Content-Length."""
    body = f'"{payload.hex()}"\n'
    return (
        f"POST {path} HTTP/1.1\r\n"
        f"host: {host}\r\n"
        "content-type: application/json\r\n"
        f"accept: {ACCEPT}\r\n"
        f"user-agent: {USER_AGENT}\r\n"
        "transfer-encoding: chunked\r\n"
        "\r\n"
        f"{len(body):x}\r\n{body}\r\n"
        "0\r\n\r\n"
    ).encode("ascii")


class NotUnderstood(Exception):
    """An answer that octez-client would not accept."""


class OctezError(Exception):
    """The signer refused; the message is what octez-client prints."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status} {message}")
        self.status = status
        self.message = message


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    if len(dict(pairs)) != len(pairs):
        raise NotUnderstood("a field is there twice")
    return dict(pairs)


def _parse(body: bytes) -> object:
    """One minified JSON document and one line feed, as Octez' own signer ends its answers."""
    if not body.endswith(b"\n") or body.endswith(b"\n\n"):
        raise NotUnderstood(f"not one line: {body!r}")
    try:
        value: object = json.loads(body, object_pairs_hook=_object)
    except ValueError as error:
        raise NotUnderstood(f"no JSON: {body!r}") from error
    if json.dumps(value, separators=(",", ":")).encode("ascii") + b"\n" != body:
        raise NotUnderstood(f"not minified: {body!r}")
    return value


def _field(value: object, name: str) -> object:
    if not isinstance(value, dict) or list(value) != [name]:
        raise NotUnderstood(f"exactly the field {name} is expected, not {value!r}")
    return value[name]


def text_in(body: bytes, name: str) -> str:
    """The text of an object that has this field and no other."""
    text = _field(_parse(body), name)
    if not isinstance(text, str):
        raise NotUnderstood(f"{name} is no text: {text!r}")
    return text


def texts_in(body: bytes, name: str) -> list[str]:
    """The texts of an object that has this field and no other."""
    texts = _field(_parse(body), name)
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise NotUnderstood(f"{name} is no list of texts: {texts!r}")
    return texts


def authorized_in(body: bytes) -> list[str] | None:
    """The answer to `GET /authorized_keys`: None for exactly `{}`."""
    return None if _parse(body) == {} else texts_in(body, "authorized_keys")


def message_in(body: bytes) -> str:
    """The message of an error trace of one `failure`."""
    match _parse(body):
        case [{"kind": "temporary", "id": "failure", "msg": str(message), **rest}] if not rest:
            return message
        case other:
            raise NotUnderstood(f"no error trace of one failure: {other!r}")


class _Reading(Protocol):
    """Writes a request, and closes the connection when the whole answer has come.

    Only the writing side is closed: the end of the other side then says that the server
    has noticed.

    :ivar answer: the answer, or what came of it before the connection ended.
    :ivar closed: what came behind the answer, when the server has closed its side too.
    """

    transport: ITCPTransport

    def __init__(self, request: bytes) -> None:
        self._request = request
        self._received = b""
        self.answer: Deferred[bytes] = Deferred()
        self.closed: Deferred[bytes] = Deferred()

    def connectionMade(self) -> None:
        self.transport.write(self._request)

    def dataReceived(self, data: bytes) -> None:
        self._received += data
        head, separator, body = self._received.partition(b"\r\n\r\n")
        if separator and len(body) >= _content_length(head) and not self.answer.called:
            self.transport.loseWriteConnection()
            self._give_answer()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if not self.answer.called:
            self._give_answer()
        self.closed.callback(self._received)

    def _give_answer(self) -> None:
        answer, self._received = self._received, b""
        self.answer.callback(answer)


def _content_length(head: bytes) -> int:
    for line in head.lower().split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name == b"content-length":
            return int(value)
    raise NotUnderstood(f"no Content-Length: {head!r}")


class OctezClient:
    """octez-client with a signer at `http://127.0.0.1:<port><base>`.

    :param wallet: its secret keys, for authentication, in order.
    :ivar sent: what it wrote, for each connection in turn.
    :ivar answered: when it had the last answer, in seconds of the reactor.
    """

    def __init__(self, port: int, wallet: Sequence[SecretKey] = (), base: str = "") -> None:
        self._port = port
        self._wallet = wallet
        self._base = base
        self._closing: list[Deferred[bytes]] = []
        self.sent: list[bytes] = []
        self.answered = 0.0

    @property
    def host(self) -> str:
        """The value of the Host header."""
        return f"127.0.0.1:{self._port}"

    async def authorized_keys(self) -> list[str] | None:
        """Whose authentication the signer wants; None for nobody's."""
        async with self._hanging_up():
            return await self._authorized_keys()

    async def known_keys(self) -> list[str]:
        """`list known remote keys`."""
        async with self._hanging_up():
            return texts_in(await self._get("known_keys"), "known_keys")

    async def public_key(self, pkh: str) -> str:
        """`import secret key`."""
        async with self._hanging_up():
            return text_in(await self._get(f"keys/{pkh}"), "public_key")

    async def sign(self, pkh: str, payload: bytes) -> str:
        """Sign as Octez does: ask for the authorized keys first, on a connection of its own."""
        async with self._hanging_up():
            authorized = await self._authorized_keys()
            query = "version=3"
            if authorized is not None:
                able = [key for key in self._wallet if key.pkh in authorized]
                assert able, "no authorized key was found in the wallet"
                query = f"authentication={able[0].authenticate(pkh, payload)}&{query}"
            path = f"{self._base}/keys/{pkh}?{query}"
            return text_in(await self._ask(post(self.host, path, payload)), "signature")

    async def _authorized_keys(self) -> list[str] | None:
        return authorized_in(await self._get("authorized_keys"))

    async def _get(self, route: str) -> bytes:
        return await self._ask(get(self.host, f"{self._base}/{route}"))

    @asynccontextmanager
    async def _hanging_up(self) -> AsyncIterator[None]:
        """Wait at the end, and not before, until the server has closed all connections too."""
        try:
            yield
        finally:
            closing, self._closing = self._closing, []
            for closed in closing:
                assert await closed == b"", "more came than was asked for"

    async def _ask(self, request: bytes) -> bytes:
        self.sent.append(request)
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", self._port)
        protocol = await connectProtocol(endpoint, _Reading(request))
        self._closing.append(protocol.closed)
        received = await protocol.answer
        self.answered = reactor.seconds()
        answer = parse_response(received)
        content_type = answer.headers["content-type"]
        if content_type.partition(";")[0] != "application/json":
            raise NotUnderstood(f"a media type that it does not understand: {content_type}")
        if answer.status != 200:
            raise OctezError(answer.status, message_in(answer.body))
        return answer.body


def good(key: PublicKeyHash, payload: bytes, signature: object) -> bool:
    """Whether a signature is the HSM's for this payload."""
    public_keys = {hsm_key.pkh: hsm_key.public_key for hsm_key in HSM_KEYS}
    return verifies(public_keys[str(key)], payload, str(signature))
