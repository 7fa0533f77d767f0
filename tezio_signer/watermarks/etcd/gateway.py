"""Requests to the JSON gateway of an etcd cluster, whichever of its members answers."""

import json
import re
from base64 import b64encode
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, TypeVar, cast

from attrs import define, field, frozen
from treq.client import HTTPClient
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectError
from twisted.internet.interfaces import IReactorTime
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from twisted.web.client import HTTPConnectionPool, ResponseDone, ResponseFailed
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers

from tezio_signer.reactors import cancel
from tezio_signer.watermarks.store import StoreAwayError, StoreError

PATIENCE = 1.2
"""Seconds that a question may take in all, so that a client hears within two."""
ATTEMPT_TIMEOUT = 0.4
"""Seconds that a member has at least, if so many are left; each of three gets its turn."""
LOGIN_PATIENCE = 3.0
"""Seconds for a login: etcd makes it slow on purpose (bcrypt), more so on a small machine."""
MAX_ANSWER = 16 * 2**20
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 0.2
"""Seconds before the members are asked once more, so that those that refuse can breathe."""
_QUOTED = 4096
_LONGEST_SENTENCE = 160
_TOKEN = re.compile("[ -~]{1,8192}")
"""Etcd's own have some tens of bytes, signed ones (JWT) a few hundred."""
_INVALID_TOKEN = 401
_UNAUTHENTICATED = 16
_OUTDATED = "revision of auth store is old"
_DENIED = (3, 7)  # InvalidArgument (wrong password among others), PermissionDenied
_Value = TypeVar("_Value")


@frozen
class Login:
    """A user of etcd's own authentication; the password is never shown."""

    user: str
    password: str

    def __repr__(self) -> str:
        return f"Login({self.user!r})"

    @property
    def content(self) -> bytes:
        """The question for a token."""
        return json.dumps({"name": self.user, "password": self.password}).encode()

    def hide(self, sentence: str) -> str:
        """A sentence without the password: what answers may quote what it was asked."""
        for secret in filter(None, (self.password, json.dumps(self.password)[1:-1])):
            sentence = sentence.replace(secret, "…")
        return sentence


class _AttemptError(Exception):
    """One member gave no answer that can be used; `str()` says why."""


class _SilenceError(_AttemptError):
    """It gave none at all."""


class _DeniedError(_AttemptError):
    """It refuses, and would do so again."""


class _TokenError(_AttemptError):
    """The token is not, or no longer, good."""


@define
class _Question:
    """What a caller asks.

    :ivar until: when it is given up.
    :ivar renewed: whether its token is newer than it; one that is refused too is given up.
    """

    path: str
    content: bytes = field(repr=False)
    until: float
    renewed: bool = False


def text(value: str) -> str:
    """Keys and values as the gateway wants them: Base64."""
    return b64encode(value.encode()).decode()


class EtcdGateway:
    """Asks one member after the other, again and again, until one answers.

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
        self._members = tuple(endpoints)
        self._order = list(endpoints)
        self._client = client
        self._pool = pool
        self._clock = clock
        self._login = login
        self._token: str | None = None
        self._logging_in: Deferred[StoreError | None] | None = None
        self._login_words: dict[str, _AttemptError] = {}

    async def ask(
        self, path: str, question: dict[str, Any], until: float | None = None
    ) -> dict[str, Any]:
        """The answer of the first member that gives one, as parsed JSON.

        The question may have been carried out even if this fails, and several times if it
        succeeds. Who cancels it gives it up, with the connection that it was sent by.

        :param until: the clock's time at which to give up; PATIENCE from now without it.
        :raises StoreAwayError: if no member answers in time.
        :raises StoreError: if etcd refuses: the user, the password, the permission.
        """
        if until is None:
            until = self._clock.seconds() + PATIENCE
        asked = _Question(path, json.dumps(question).encode(), until)
        # Before anybody is asked: who gives a token does not have to be who answers first.
        await self._have_token(asked, None)
        return await self._first_answer(partial(self._ask_member, asked), until, {})

    async def _first_answer(
        self,
        attempt: Callable[[str, int], Awaitable[_Value]],
        until: float,
        words: dict[str, _AttemptError],
        first: str | None = None,
    ) -> _Value:
        """What one of the members gives.

        :param attempt: takes a member, and how many may have to share the time that is left.
        :param words: where to note what each has said last.
        :param first: who is asked first, if it is not the one that did best.
        """
        pause = _FIRST_PAUSE
        while True:
            unasked = sorted(self._order, key=lambda member: member != first)
            while unasked and self._clock.seconds() < until:
                member = unasked[0]
                try:
                    return await attempt(member, len(unasked))
                except _AttemptError as error:
                    words[member] = error
                    # Who was away is asked last from now on.
                    self._order.remove(member)
                    self._order.append(member)
                unasked.remove(member)
            over = self._clock.seconds() + pause >= until
            denials = [word for word in words.values() if isinstance(word, _DeniedError)]
            silent = [word for word in words.values() if isinstance(word, _SilenceError)]
            # A denial is believed when nobody says otherwise; who says nothing may yet.
            if denials and len(denials) + (len(silent) if over else 0) == len(words):
                raise StoreError(f"etcd refuses: {legible(str(denials[-1]))}")
            if over:
                raise StoreAwayError(self._troubles(words))
            await deferLater(self._clock, pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _troubles(self, words: dict[str, _AttemptError]) -> str:
        # Always in the same order: what is said twice is logged once.
        troubles = [f"{m}: {legible(str(words[m]))}" for m in self._members if m in words]
        return "; ".join(troubles) or "no member of etcd had time to answer"

    async def _ask_member(self, question: _Question, member: str, sharing: int) -> dict[str, Any]:
        while True:
            await self._have_token(question, member)
            token = self._token
            deadline = self._deadline(question.until, sharing)
            try:
                return await self._post(member, question.path, question.content, token, deadline)
            except _TokenError:
                if token is None or question.renewed:
                    raise
                question.renewed = True
                if self._token == token:
                    self._token = None

    async def _have_token(self, question: _Question, member: str | None) -> None:
        """Get a token, if one is needed; all who need it wait for the same login.

        :param member: who is asked for it first: it has refused the one before, and knows
            its own at once.
        """
        login = self._login
        if login is None or self._token is not None:
            return
        question.renewed = True
        logging_in = self._logging_in
        if logging_in is None:
            logging_in = Deferred.fromCoroutine(self._log_in(login, member))
            self._logging_in = logging_in
            logging_in.addBoth(self._login_ended)

        def late() -> StoreAwayError:
            sentence = f"etcd has not let {login.user} in in time"
            if self._login_words:
                sentence += f": {self._troubles(self._login_words)}"
            return StoreAwayError(sentence)

        refusal = await self._within(logging_in, question.until, late)
        if refusal is not None:
            raise refusal

    def _login_ended(self, result: _Value) -> _Value:
        self._logging_in = None
        return result

    async def _log_in(self, login: Login, member: str | None) -> StoreError | None:
        """Get a token; returns why there is none. Goes on when who waits for it gives up."""
        until = self._clock.seconds() + LOGIN_PATIENCE
        authenticate = partial(self._authenticate, login, until)
        words = self._login_words
        words.clear()
        try:
            self._token = await self._first_answer(authenticate, until, words, member)
        except StoreError as error:
            return error
        except CancelledError:
            return StoreAwayError("the connections to etcd are closed")
        return None

    async def _authenticate(self, login: Login, until: float, member: str, sharing: int) -> str:
        path, deadline = "/v3/auth/authenticate", self._deadline(until, sharing)
        try:
            answer = await self._post(member, path, login.content, None, deadline)
        except _AttemptError as error:
            raise type(error)(login.hide(str(error))) from None
        token = answer.get("token")
        if isinstance(token, str) and _TOKEN.fullmatch(token):
            return token
        raise _AttemptError("what answers is no etcd: it gives no token")

    def _deadline(self, until: float, sharing: int) -> float:
        """When the first of some members that share the time until then has had its turn."""
        now = self._clock.seconds()
        return now + max((until - now) / sharing, min(until - now, ATTEMPT_TIMEOUT))

    async def _post(
        self, member: str, path: str, content: bytes, token: str | None, deadline: float
    ) -> dict[str, Any]:
        exchange = Deferred.fromCoroutine(self._exchange(f"{member}{path}", content, token))
        try:
            got = await self._within(exchange, deadline, _late)
        except Exception:  # late, or given up by who asks
            exchange.cancel()  # closes its connection
            raise
        if isinstance(got, _AttemptError):
            raise got
        return _answer(*got)

    def _within(
        self, work: Deferred[_Value], until: float, late: Callable[[], Exception]
    ) -> Deferred[_Value]:
        """What comes of some work that others may wait for too, and that goes on after this."""
        waiting: Deferred[_Value] = Deferred()
        left = max(0, until - self._clock.seconds())
        timer = self._clock.callLater(left, lambda: waiting.errback(late()))

        def ended(result: _Value) -> _Value:
            cancel(timer)
            return result

        def done(result: _Value) -> _Value:
            if not waiting.called:
                waiting.callback(result)
            return result

        waiting.addBoth(ended)
        work.addBoth(done)
        return waiting

    async def _exchange(
        self, url: str, content: bytes, token: str | None
    ) -> tuple[int, bytes] | _AttemptError:
        """The status and the body of an answer; returns why there is none."""
        sent = Headers({"Content-Type": ["application/json"]})
        if token is not None:
            sent.addRawHeader("Authorization", token)
        try:
            response = await self._client.post(
                url, data=content, headers=sent, allow_redirects=False, unbuffered=True
            )
            body = _Body()
            response.deliverBody(body)
            return response.code, await body.whole
        except _AttemptError as error:
            return error
        except Exception as error:  # whatever a connection, TLS or HTTP can fail with
            return _SilenceError(_reason(error))

    def close(self) -> Deferred[None]:
        """Close the connections that are kept for further requests."""
        if self._logging_in is not None:
            self._logging_in.cancel()
        return cast(Deferred[None], self._pool.closeCachedConnections())


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
            self.whole.errback(_AttemptError(f"answers with more than {MAX_ANSWER} bytes"))
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


def _late() -> _SilenceError:
    return _SilenceError("did not answer in time")


def _answer(status: int, body: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict):
        # Mostly words for an operator, as of a proxy, or of etcd about a certificate.
        quote = body[:_QUOTED].decode(errors="replace").strip() or "nothing"
        raise _AttemptError(f"answers {status} with what is no JSON object: {quote}")
    if status == 200:
        return answer
    words = (answer.get("message"), answer.get("error"))
    sentence = next((word for word in words if word and isinstance(word, str)), f"answers {status}")
    code = answer.get("code")
    if status == _INVALID_TOKEN or code == _UNAUTHENTICATED or _OUTDATED in sentence:
        raise _TokenError(sentence)
    if code in _DENIED:
        raise _DeniedError(sentence)
    raise _AttemptError(sentence)


def legible(sentence: str) -> str:
    """Fit for one line of a terminal, whatever an answer holds."""
    shown = " ".join("".join(c if c.isprintable() else " " for c in sentence).split())
    return shown if len(shown) <= _LONGEST_SENTENCE else f"{shown[:_LONGEST_SENTENCE]}…"


def _reason(error: BaseException | None) -> str:
    if isinstance(error, ResponseFailed) and error.reasons:
        error = error.reasons[0].value
    if isinstance(error, ConnectError) and error.args and isinstance(error.args[0], Failure):
        error = error.args[0].value  # which Twisted would print with its traceback
    return (str(error).strip() or type(error).__name__).splitlines()[0]
