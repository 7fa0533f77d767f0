"""The Octez HTTP signer API: bytes to values and back, no decision.

Routes and bodies are those of Octez (`docs/protocols/octez-remote-signer.md`),
with status codes that say more than its 500.
"""

import json
import re
from hmac import compare_digest

from attrs import evolve
from klein import Klein
from twisted.internet.defer import CancelledError
from twisted.python.failure import Failure
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from tezio_signer import __version__
from tezio_signer.decision import Decision, Stage
from tezio_signer.errors import (
    FAULT,
    Forbidden,
    Malformed,
    NotAdmitted,
    Refused,
    Unauthenticated,
)
from tezio_signer.listeners.httpsite import SignerRequest
from tezio_signer.listeners.peers import NO_PROOF, admitted_at, named
from tezio_signer.octez.json import Json, encode, error_list
from tezio_signer.request import Admitted, Listener, SigningRequest, Submission
from tezio_signer.signer import Signer
from tezio_signer.tezos.keys import PublicKeyHash, Signature

_VERSIONS = (b"0", b"1", b"2", b"3")
_ROUTES = (
    "no such route; there are GET /authorized_keys, GET /known_keys, GET /keys/<address>, "
    "POST /keys/<address> and GET /bls_prove_possession/<address>"
)
_NO_ROUTE = "no_route"
_TOKEN = "token"  # noqa: S105
_JSON_BLANKS = b" \t\r\n"
_LONGEST_NAMED = 120
"""Letters of a method and a path in the log."""
_LONGEST_PARSED = 4096
"""Bytes of a body that is no string, which is parsed only to say what is wrong with it."""
_HEX = re.compile("(?:[0-9a-fA-F]{2})*")


class SignerResource:
    """The routes of the signer."""

    app = Klein()

    def __init__(self, signer: Signer) -> None:
        self._signer = signer

    @app.route("/", methods=["GET"])
    def greeting(self, request: SignerRequest) -> bytes:
        """Name and version, for a person with a browser."""
        self._admit(request)
        greeting = f"Tezio Signer {__version__}\n".encode("ascii")
        return self._answer(request, greeting, b"text/plain")

    @app.route("/authorized_keys", methods=["GET"])
    def authorized_keys(self, request: SignerRequest) -> bytes:
        """Whose authentication is accepted; exactly `{}` when none is needed."""
        self._admit_with_token(request)
        keys = self._signer.authorized_keys()
        answer: Json = {} if keys is None else {"authorized_keys": list(map(str, keys))}
        return self._answer(request, encode(answer))

    @app.route("/known_keys", methods=["GET"])
    def known_keys(self, request: SignerRequest) -> bytes:
        """All signing keys, if the configuration lists them."""
        self._admit_with_token(request)
        keys = self._signer.known_keys()
        return self._answer(request, encode({"known_keys": list(map(str, keys))}))

    @app.route("/keys/<key>", methods=["GET"])
    async def public_key(self, request: SignerRequest, key: str) -> bytes:
        """The public key of a signing key."""
        self._admit_with_token(request)
        asked = _decision(request)  # a client that has gone has no address
        try:
            public_key = await self._signer.public_key(_hash(key))
        except CancelledError:
            self._signer.decisions.record(asked.left())
            raise
        return self._answer(request, encode({"public_key": str(public_key)}))

    @app.route("/keys/<key>", methods=["POST"])
    async def sign(self, request: SignerRequest, key: str) -> bytes:
        """Sign the hexadecimal bytes in the body, a JSON string."""
        peer = self._admit(request)
        asked: SigningRequest | Refused
        try:
            asked = self._read(request, key, peer)
        except Refused as refused:
            asked = refused
        try:
            signature = await self._signer.submit(Submission(peer, Listener.HTTP, key, asked))
        except Refused as refused:  # which the signer has recorded
            return _refusal(request, refused)
        return _respond(request, encode({"signature": str(signature)}))

    @app.route("/bls_prove_possession/<key>", methods=["GET"])
    def bls_prove_possession(self, request: SignerRequest, key: str) -> bytes:
        """Refused: a Tezio HSM holds no BLS key."""
        self._admit_with_token(request)
        _hash(key)
        raise Forbidden(NO_PROOF)

    def _admit(self, request: SignerRequest) -> Admitted:
        return admitted_at(request.transport, self._signer.admit)

    def _admit_with_token(self, request: SignerRequest) -> None:
        self._admit(request)
        self._check_token(request)

    def _read(self, request: SignerRequest, key: str, peer: Admitted) -> SigningRequest:
        """What is to be signed; raises Refused."""
        self._check_token(request)
        key_hash = _hash(key)
        authentication = _authentication(request)
        _check_version(request)
        return SigningRequest.read(key_hash, _payload(request), peer, authentication)

    def _check_token(self, request: SignerRequest) -> None:
        """Wanted on every route but `/`: octez-client sends its headers with all requests."""
        token = self._signer.settings.request_token
        if token is None:
            return
        sent = request.requestHeaders.getRawHeaders(token.header.encode("ascii"), [])
        if not sent:
            raise Unauthenticated(
                f"the header {token.header} with the request token is missing"
            ).by(_TOKEN)
        if len(sent) > 1 or not compare_digest(sent[0], token.secret):
            raise Unauthenticated(f"the request token in the header {token.header} is wrong").by(
                _TOKEN
            )

    @app.handle_errors(Refused)  # type: ignore[arg-type]
    def refused(self, request: SignerRequest, failure: Failure) -> bytes:
        """An Octez error list, with the status of the refusal."""
        assert isinstance(failure.value, Refused)
        return self._refuse(request, failure.value)

    def _refuse(self, request: SignerRequest, refused: Refused) -> bytes:
        self._signer.decisions.record(_decision(request).refused(refused))
        return _refusal(request, refused)

    @app.handle_errors(HTTPException)  # type: ignore[arg-type]
    def no_route(self, request: SignerRequest, failure: Failure) -> bytes:
        """No such path, or not with this method."""
        try:
            self._admit(request)
        except NotAdmitted as refused:
            return self._refuse(request, refused)
        error = failure.value
        assert isinstance(error, HTTPException)
        sentence = _ROUTES
        if isinstance(error, MethodNotAllowed):
            methods = sorted(error.valid_methods or ())
            listed = " or ".join(", ".join(methods).rsplit(", ", 1))
            request.setHeader(b"Allow", ", ".join(methods).encode("ascii"))
            sentence = f"this path takes {listed} only"
        status = error.code or Malformed.status
        request.setResponseCode(status)
        decision = _decision(request).refused(Refused(sentence), Stage.READING)
        self._signer.decisions.record(evolve(decision, status=status, reason=_NO_ROUTE))
        return _respond(request, error_list(Refused(sentence)))

    @app.handle_errors(Exception)  # type: ignore[arg-type]
    def fault(self, request: SignerRequest, failure: Failure) -> bytes:
        """A fault of ours: the traceback is for the log."""
        self._signer.decisions.record(_decision(request).failed(failure))
        request.setResponseCode(Refused.status)
        return _respond(request, error_list(Refused(FAULT)))

    def _answer(
        self, request: SignerRequest, body: bytes, content_type: bytes = b"application/json"
    ) -> bytes:
        """The answer to what is no request to sign."""
        self._signer.decisions.record(_decision(request))
        return _respond(request, body, content_type)


def _decision(request: SignerRequest) -> Decision:
    """The decision to give what is asked for."""
    asked = f"{request.method.decode('ascii')} {request.path.decode('ascii')}"
    return Decision(asked[:_LONGEST_NAMED], named(request.transport), Listener.HTTP)


def _refusal(request: SignerRequest, refused: Refused) -> bytes:
    if isinstance(refused, NotAdmitted):
        request.end_connection()
    request.setResponseCode(refused.status)
    return _respond(request, error_list(refused))


def _respond(
    request: SignerRequest, body: bytes, content_type: bytes = b"application/json"
) -> bytes:
    request.setHeader(b"Content-Type", content_type)
    request.setHeader(b"Content-Length", b"%d" % len(body))
    return body


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
