"""One exchange with one member of etcd by its JSON gateway: a question, and what comes of it."""

import json
from base64 import b64encode
from typing import Any

from treq.client import HTTPClient
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectError
from twisted.internet.error import ConnectionRefusedError as NobodyListensError
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone, ResponseFailed
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers

MAX_ANSWER = 16 * 2**20
_QUOTED = 4096
_LONGEST_SENTENCE = 160
_INVALID_TOKEN = 401
_UNAUTHENTICATED = 16
_OUTDATED = "revision of auth store is old"
_DENIED = (3, 7)  # InvalidArgument (wrong password among others), PermissionDenied


class AttemptError(Exception):
    """One member gave no answer that can be used; `str()` says why."""


class SilenceError(AttemptError):
    """It gave none at all."""


class DeniedError(AttemptError):
    """It refuses, and would do so again."""


class TokenError(AttemptError):
    """The token is not, or no longer, good."""


def text(value: str) -> str:
    """Keys and values as the gateway wants them: Base64."""
    return b64encode(value.encode()).decode()


async def exchange(
    client: HTTPClient, url: str, content: bytes, token: str | None
) -> tuple[int, bytes] | AttemptError:
    """The status and the body of an answer; returns why there is none."""
    sent = Headers({"Content-Type": ["application/json"]})
    if token is not None:
        sent.addRawHeader("Authorization", token)
    try:
        response = await client.post(
            url, data=content, headers=sent, allow_redirects=False, unbuffered=True
        )
        body = _Body()
        response.deliverBody(body)
        return response.code, await body.whole
    except AttemptError as error:
        return error
    except Exception as error:  # whatever a connection, TLS or HTTP can fail with
        return SilenceError(_reason(error))


class _Body(Protocol):
    """Collects the body of an answer.

    :ivar whole: fires with it; who cancels it closes the connection.
    """

    def __init__(self) -> None:
        self.whole: Deferred[bytes] = Deferred(lambda _: self._hang_up())
        self._received = bytearray()

    def dataReceived(self, data: bytes) -> None:
        if self.whole.called:
            return
        self._received += data
        if len(self._received) > MAX_ANSWER:
            self.whole.errback(AttemptError(f"answers with more than {MAX_ANSWER} bytes"))
            self._hang_up()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self.whole.called:
            return
        if reason.check(ResponseDone, PotentialDataLoss):
            self.whole.callback(bytes(self._received))
        else:
            self.whole.errback(reason)

    def _hang_up(self) -> None:
        if self.transport is not None:
            self.transport.loseConnection()


def read_body(status: int, body: bytes) -> dict[str, Any]:
    """The JSON object of an answer; raises AttemptError, also for one that says an error."""
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict):
        # Mostly words for an operator, as of a proxy, or of etcd about a certificate.
        quote = body[:_QUOTED].decode(errors="replace").strip() or "nothing"
        raise AttemptError(f"answers {status} with what is no JSON object: {quote}")
    if status == 200:
        return answer
    words = (answer.get("message"), answer.get("error"))
    sentence = next((word for word in words if word and isinstance(word, str)), f"answers {status}")
    code = answer.get("code")
    if status == _INVALID_TOKEN or code == _UNAUTHENTICATED or _OUTDATED in sentence:
        raise TokenError(sentence)
    if code in _DENIED:
        raise DeniedError(sentence)
    raise AttemptError(sentence)


def legible(sentence: str) -> str:
    """Fit for one line of a terminal, whatever an answer holds."""
    shown = " ".join("".join(c if c.isprintable() else " " for c in sentence).split())
    return shown if len(shown) <= _LONGEST_SENTENCE else f"{shown[:_LONGEST_SENTENCE]}…"


def _reason(error: BaseException | None) -> str:
    if isinstance(error, ResponseFailed) and error.reasons:
        error = error.reasons[0].value
    if isinstance(error, ConnectError) and error.args and isinstance(error.args[0], Failure):
        error = error.args[0].value  # which Twisted would print with its traceback
    if isinstance(error, NobodyListensError):
        return "connection refused"  # Twisted says it twice
    return (str(error).strip() or type(error).__name__).splitlines()[0]
