"""Requests to the JSON gateway of an etcd cluster, whichever of its members answers."""

import json
from base64 import b64encode
from collections.abc import Sequence
from typing import Any, cast

from attrs import frozen
from treq.client import HTTPClient
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.web.client import HTTPConnectionPool, ResponseFailed
from twisted.web.http_headers import Headers

from tezio_signer.watermarks.store import StoreAwayError, StoreError

PATIENCE = 1.2
"""Seconds that a question may take in all, so that a client hears within two."""
ATTEMPT_TIMEOUT = 0.4
"""Seconds after which another member is asked; each of three gets its turn in time."""
MAX_ANSWER = 16 * 2**20
_INVALID_TOKEN = 401
_UNAUTHENTICATED = 16
_OUTDATED = "revision of auth store is old"
_DENIED = frozenset((3, 7))  # InvalidArgument (wrong password among others), PermissionDenied


@frozen
class Login:
    """A user of etcd's own authentication; the password is never shown."""

    user: str
    password: str

    def __repr__(self) -> str:
        return f"Login({self.user!r})"


class _TokenError(Exception):
    """The token is not, or no longer, good."""


class _AttemptError(Exception):
    """One member gave no answer that can be used; `str()` says why."""


def text(value: str) -> str:
    """Keys and values as the gateway wants them: Base64."""
    return b64encode(value.encode()).decode()


class EtcdGateway:
    """Asks one member after the other until one answers.

    A member that has no quorum does not answer a linearizable request, so one that is
    isolated is passed over like one that is away.

    :param endpoints: URLs of the members, as `https://host:2379`.
    """

    def __init__(
        self,
        endpoints: Sequence[str],
        client: HTTPClient,
        pool: HTTPConnectionPool,
        clock: IReactorTime,
        login: Login | None = None,
    ) -> None:
        self._endpoints = list(endpoints)
        self._client = client
        self._pool = pool
        self._clock = clock
        self._login = login
        self._token: str | None = None

    async def ask(
        self, path: str, question: dict[str, Any], until: float | None = None
    ) -> dict[str, Any]:
        """The answer of the first member that gives one, as parsed JSON.

        The question may have been carried out even if this fails, and twice if it succeeds.

        :param until: the clock's time at which to give up; PATIENCE from now without it.
        :raises StoreAwayError: if no member answers in time.
        :raises StoreError: if etcd refuses: the user, the password, the permission.
        """
        if until is None:
            until = self._clock.seconds() + PATIENCE
        troubles: list[str] = []
        for endpoint in list(self._endpoints):
            left = until - self._clock.seconds()
            if left <= 0:
                break
            deadline = self._clock.seconds() + min(left, ATTEMPT_TIMEOUT)
            try:
                answer = await self._ask_member(endpoint, path, question, deadline)
            except _AttemptError as error:
                troubles.append(f"{endpoint}: {error}")
                # Who was away is asked last from now on.
                self._endpoints.remove(endpoint)
                self._endpoints.append(endpoint)
            else:
                return answer
        raise StoreAwayError("; ".join(troubles) or "no member of etcd had time to answer")

    async def _ask_member(
        self, endpoint: str, path: str, question: dict[str, Any], deadline: float
    ) -> dict[str, Any]:
        if self._login is None:
            return await self._post(endpoint, path, question, deadline)
        if self._token is not None:
            try:
                return await self._post(endpoint, path, question, deadline)
            except _TokenError:
                self._token = None
        credentials = {"name": self._login.user, "password": self._login.password}
        answer = await self._post(endpoint, "/v3/auth/authenticate", credentials, deadline)
        self._token = str(answer["token"])
        try:
            return await self._post(endpoint, path, question, deadline)
        except _TokenError:
            raise _AttemptError("does not know the token that it has given") from None

    async def _post(
        self, endpoint: str, path: str, question: dict[str, Any], deadline: float
    ) -> dict[str, Any]:
        left = deadline - self._clock.seconds()
        if left <= 0:
            raise _AttemptError("did not answer in time")
        posting: Deferred[tuple[int, bytes]] = Deferred.fromCoroutine(
            self._exchange(f"{endpoint}{path}", json.dumps(question).encode())
        )
        # A request that is given up closes its connection.
        timer = self._clock.callLater(left, posting.cancel)
        try:
            status, body = await posting
        except Exception as error:  # whatever a connection, TLS or HTTP can fail with
            if not timer.active():
                raise _AttemptError("did not answer in time") from error
            if isinstance(error, CancelledError):  # by whoever waits for the answer
                raise
            raise _AttemptError(_reason(error)) from error
        finally:
            if timer.active():
                timer.cancel()
        return _answer(status, body)

    async def _exchange(self, url: str, question: bytes) -> tuple[int, bytes]:
        sent = Headers({"Content-Type": ["application/json"]})
        if self._token:
            sent.addRawHeader("Authorization", self._token)
        response = await self._client.post(url, data=question, headers=sent, allow_redirects=False)
        body = bytearray()

        def collect(data: bytes) -> None:
            body.extend(data)
            if len(body) > MAX_ANSWER:
                raise ValueError(f"answers with more than {MAX_ANSWER} bytes")

        await response.collect(collect)
        return response.code, bytes(body)

    def close(self) -> Deferred[None]:
        """Close the connections that are kept for further requests."""
        return cast(Deferred[None], self._pool.closeCachedConnections())


def _answer(status: int, body: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict):
        raise _AttemptError(f"answers {status} with what is no JSON object")
    if status == 200:
        return answer
    sentence = answer.get("message") or answer.get("error") or f"answers {status}"
    code = answer.get("code")
    if status == _INVALID_TOKEN or code == _UNAUTHENTICATED or _OUTDATED in str(sentence):
        raise _TokenError(sentence)
    if code in _DENIED:
        raise StoreError(f"etcd refuses: {sentence}")
    raise _AttemptError(str(sentence))


def _reason(error: BaseException | None) -> str:
    if isinstance(error, ResponseFailed):
        error = error.reasons[0].value
    return (str(error).strip() or type(error).__name__).splitlines()[0]
