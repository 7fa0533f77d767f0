"""The Octez HTTP signer API: bytes to values and back, no decision.

Routes and bodies are those of Octez (`src/lib_signer_services/signer_services.ml`),
with status codes that say more than its 500.
"""

import json
import re
from hmac import compare_digest

from klein import Klein
from twisted.logger import Logger
from twisted.python.failure import Failure
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from tezio_signer import __version__
from tezio_signer.config.settings import RequestToken
from tezio_signer.errors import (
    FAULT,
    Forbidden,
    Malformed,
    NotAdmitted,
    Refused,
    Unauthenticated,
)
from tezio_signer.listeners.httpsite import SignerRequest
from tezio_signer.listeners.peers import NO_PROOF, named, peer_of
from tezio_signer.octez.json import Json, encode, error_list
from tezio_signer.policy import SigningRequest
from tezio_signer.signer import Signer, Submission
from tezio_signer.tezos.keys import PublicKeyHash, Signature

_VERSIONS = (b"0", b"1", b"2", b"3")
_ROUTES = (
    "no such route; there are GET /authorized_keys, GET /known_keys, GET /keys/<address>, "
    "POST /keys/<address> and GET /bls_prove_possession/<address>"
)
_JSON_BLANKS = b" \t\r\n"
_LONGEST_NAMED = 120
"""Letters of a method and a path in the log."""
_LONGEST_PARSED = 4096
"""Bytes of a body that is no string, which is parsed only to say what is wrong with it."""
_HEX = re.compile("(?:[0-9a-fA-F]{2})*")


class SignerResource:
    """The routes of the signer."""

    app = Klein()
    _log = Logger()

    def __init__(self, signer: Signer, token: RequestToken | None = None) -> None:
        self._signer = signer
        self._token = token

    @app.route("/", methods=["GET"])
    def greeting(self, request: SignerRequest) -> bytes:
        """Name and version, for a person with a browser."""
        self._signer.admit(peer_of(request.transport))
        return _respond(request, f"Tezio Signer {__version__}\n".encode("ascii"), b"text/plain")

    @app.route("/authorized_keys", methods=["GET"])
    def authorized_keys(self, request: SignerRequest) -> bytes:
        """Whose authentication is accepted; exactly `{}` when none is needed."""
        self._admit(request)
        keys = self._signer.authorized_keys()
        return _answer(request, {} if keys is None else {"authorized_keys": list(map(str, keys))})

    @app.route("/known_keys", methods=["GET"])
    def known_keys(self, request: SignerRequest) -> bytes:
        """All signing keys, if the configuration lists them."""
        self._admit(request)
        return _answer(request, {"known_keys": list(map(str, self._signer.known_keys()))})

    @app.route("/keys/<key>", methods=["GET"])
    async def public_key(self, request: SignerRequest, key: str) -> bytes:
        """The public key of a signing key."""
        self._admit(request)
        return _answer(request, {"public_key": str(await self._signer.public_key(_hash(key)))})

    @app.route("/keys/<key>", methods=["POST"])
    async def sign(self, request: SignerRequest, key: str) -> bytes:
        """Sign the hexadecimal bytes in the body, a JSON string."""
        peer = peer_of(request.transport)

        def read() -> SigningRequest:
            self._check_token(request)
            key_hash = _hash(key)
            authentication = _authentication(request)
            _check_version(request)
            return SigningRequest.read(key_hash, _payload(request), peer, authentication)

        signature = await self._signer.submit(Submission(peer, key, read))
        return _answer(request, {"signature": str(signature)})

    @app.route("/bls_prove_possession/<key>", methods=["GET"])
    def bls_prove_possession(self, request: SignerRequest, key: str) -> bytes:
        """Refused: a Tezio HSM holds no BLS key."""
        self._admit(request)
        _hash(key)
        raise Forbidden(NO_PROOF)

    def _admit(self, request: SignerRequest) -> None:
        self._signer.admit(peer_of(request.transport))
        self._check_token(request)

    def _check_token(self, request: SignerRequest) -> None:
        """Wanted on every route but `/`: octez-client sends its headers with all requests."""
        if self._token is None:
            return
        sent = request.requestHeaders.getRawHeaders(self._token.header.encode("ascii"), [])
        if not sent:
            raise Unauthenticated(
                f"the header {self._token.header} with the request token is missing"
            )
        if len(sent) > 1 or not compare_digest(sent[0], self._token.secret):
            raise Unauthenticated(f"the request token in the header {self._token.header} is wrong")

    @app.handle_errors(Refused)  # type: ignore[arg-type]
    def refused(self, request: SignerRequest, failure: Failure) -> bytes:
        """An Octez error list, with the status of the refusal."""
        assert isinstance(failure.value, Refused)
        return self._refuse(request, failure.value)

    def _refuse(self, request: SignerRequest, refused: Refused) -> bytes:
        self._signer.log_refusal(_asked(request), named(request.transport), refused)
        if isinstance(refused, NotAdmitted):
            request.end_connection()
        request.setResponseCode(refused.status)
        return _respond(request, error_list(refused))

    @app.handle_errors(HTTPException)  # type: ignore[arg-type]
    def no_route(self, request: SignerRequest, failure: Failure) -> bytes:
        """No such path, or not with this method."""
        try:
            self._signer.admit(peer_of(request.transport))
        except NotAdmitted as refused:
            return self._refuse(request, refused)
        error = failure.value
        assert isinstance(error, HTTPException)
        if isinstance(error, MethodNotAllowed) and error.valid_methods:
            request.setHeader(b"Allow", ", ".join(error.valid_methods).encode("ascii"))
        status = error.code or Malformed.status
        request.setResponseCode(status)
        sentence = _ROUTES
        if isinstance(error, MethodNotAllowed):
            methods = " or ".join(sorted(error.valid_methods or ()))
            sentence = f"this path takes {methods} only"
        request.channel.site.sparing_log.warn(
            "refused {what} from {peer}: {status} {sentence}",
            what=_asked(request)[:_LONGEST_NAMED],
            peer=named(request.transport),
            status=status,
            sentence=sentence,
        )
        return _respond(request, error_list(Refused(sentence)))

    @app.handle_errors(Exception)  # type: ignore[arg-type]
    def fault(self, request: SignerRequest, failure: Failure) -> bytes:
        """A fault of ours: the traceback is for the log."""
        self._log.failure("fault in a route", failure)
        request.setResponseCode(Refused.status)
        return _respond(request, error_list(Refused(FAULT)))


def _asked(request: SignerRequest) -> str:
    """The method and the path, for the log."""
    return f"{request.method.decode('ascii')} {request.path.decode('ascii')}"


def _respond(
    request: SignerRequest, body: bytes, content_type: bytes = b"application/json"
) -> bytes:
    request.setHeader(b"Content-Type", content_type)
    request.setHeader(b"Content-Length", b"%d" % len(body))
    return body


def _answer(request: SignerRequest, value: Json) -> bytes:
    return _respond(request, encode(value))


def _hash(key: str) -> PublicKeyHash:
    try:
        return PublicKeyHash.parse(key)
    except ValueError as error:
        raise Malformed(
            f"the key in the path is no public key hash (tz1… to tz5…): {error}"
        ) from error


def _argument(request: SignerRequest, name: bytes) -> bytes | None:
    values = request.args.get(name, [])
    if len(values) > 1:
        raise Malformed(f"Duplicate argument '{name.decode('ascii')}' in the query")
    return values[0] if values else None


def _authentication(request: SignerRequest) -> Signature | None:
    text = _argument(request, b"authentication")
    if text is None:
        return None
    try:
        return Signature.parse(text.decode("ascii", "replace"))
    except ValueError as error:
        raise Malformed(
            f"the argument 'authentication' is no signature (edsig…, spsig1…, p2sig… or sig…): "
            f"{error}"
        ) from error


def _check_version(request: SignerRequest) -> None:
    if _argument(request, b"version") not in (None, *_VERSIONS):
        raise Malformed("the argument 'version' is not 0, 1, 2 or 3")


def _payload(request: SignerRequest) -> bytes:
    expected = 'the body has to be a JSON string of hexadecimal bytes, such as "03ab…"'
    body = request.content.read()
    begins = body.lstrip(_JSON_BLANKS)[:1]
    if len(body) > _LONGEST_PARSED and begins not in (b"", b'"'):
        raise Malformed(f"{expected}; this is no JSON string")  # whatever takes long to read
    try:
        text = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Malformed(f"{expected}; this is {'no JSON' if body.strip() else 'empty'}") from error
    if not isinstance(text, str):
        raise Malformed(f"{expected}; this is JSON of another type")
    if not _HEX.fullmatch(text):
        raise Malformed(f"{expected}: an even number of digits, no 0x prefix")
    return bytes.fromhex(text)
