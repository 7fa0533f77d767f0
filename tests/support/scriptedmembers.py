"""Members of etcd that answer as a test says, behind a fake HTTP client and a clock."""

import json
from collections.abc import Callable, Mapping
from typing import Any, cast

from attrs import define, field
from treq.client import HTTPClient
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IProtocol
from twisted.internet.task import Clock, deferLater
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.client import HTTPConnectionPool, ResponseDone
from twisted.web.http_headers import Headers

from tezio_signer.watermarks.etcd.gateway import EtcdGateway
from tezio_signer.watermarks.etcd.login import Login
from tezio_signer.watermarks.store import StoreAwayError, StoreError

RIGHT = {"right": True}
LOGIN = Login("signer", 'correct "horse" battery')
A, B, C = "http://a:2379", "http://b:2379", "http://c:2379"
AUTHENTICATE = "/v3/auth/authenticate"


@define
class Request:
    """What has arrived at a member.

    :ivar at: when.
    :ivar given_up: whether the gateway has cancelled it.
    """

    member: str
    path: str
    question: dict[str, Any]
    headers: Headers
    at: float
    given_up: bool = False

    @property
    def token(self) -> str | None:
        """The token that was sent."""
        sent = self.headers.getRawHeaders("Authorization")
        return sent[0] if sent else None


@define
class Response:
    """An answer.

    :ivar complete: whether its body comes to an end.
    """

    code: int
    body: bytes
    complete: bool = True
    transport: StringTransport = field(factory=StringTransport)

    def deliverBody(self, protocol: IProtocol) -> None:
        """Hand over the body, in pieces."""
        protocol.makeConnection(self.transport)
        for start in range(0, len(self.body), 10):
            protocol.dataReceived(self.body[start : start + 10])
        if self.complete:
            protocol.connectionLost(Failure(ResponseDone()))


Behaviour = Callable[[Request], "Deferred[Response]"]


def answers(answer: object, status: int = 200) -> Behaviour:
    """Answers at once: with JSON, or with these bytes."""
    body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
    return lambda _: succeed(Response(status, body))


def errs(sentence: str, code: int, status: int = 400) -> Behaviour:
    """Answers with an error of etcd."""
    return answers({"error": sentence, "message": sentence, "code": code}, status)


def silent(request: Request) -> "Deferred[Response]":
    """Does not answer."""

    def cancelled(_: object) -> None:
        request.given_up = True

    return Deferred(cancelled)


def away(_: Request) -> "Deferred[Response]":
    """Refuses connections."""
    return fail(OSError("nobody there"))


leader_changed = errs("etcdserver: leader changed", 14, 503)
right = answers(RIGHT)
wrong_password = errs("etcdserver: authentication failed, invalid user ID or password", 3)
invalid_token = errs("etcdserver: invalid auth token", 16, 401)


def one_after_the_other(*behaviours: Behaviour) -> Behaviour:
    """Each for one request, the last for ever."""
    left = list(behaviours)
    return lambda request: (left.pop(0) if len(left) > 1 else left[0])(request)


class Pool:
    """Replaces the pool of connections.

    :ivar closed: whether it was closed.
    """

    closed = False

    def closeCachedConnections(self) -> Deferred[None]:
        """Remember it."""
        self.closed = True
        return succeed(None)


class Members:
    """The members, and the gateway to them.

    :ivar behaviours: of each member.
    :ivar requests: what has arrived, in order.
    """

    def __init__(self, behaviours: Mapping[str, Behaviour], login: Login | None = None) -> None:
        self.clock = Clock()
        self.pool = Pool()
        self.behaviours = dict(behaviours)
        self.requests: list[Request] = []
        self.gateway = EtcdGateway(
            list(behaviours),
            cast(HTTPClient, self),
            cast(HTTPConnectionPool, self.pool),
            self.clock,
            login,
        )

    def post(
        self, url: str, data: bytes, headers: Headers, **options: object
    ) -> "Deferred[Response]":
        """Like `HTTPClient.post`."""
        member, slash, path = url.partition("/v3")
        request = Request(member, slash + path, json.loads(data), headers, self.clock.seconds())
        self.requests.append(request)
        return self.behaviours[member](request)

    def slow(self, seconds: float, behaviour: Behaviour) -> Behaviour:
        """Behaves so after a while."""
        return lambda request: deferLater(self.clock, seconds).addCallback(
            lambda _: behaviour(request)
        )

    def ask(self, until: float | None = None) -> Deferred[dict[str, Any]]:
        """Ask something."""
        return Deferred.fromCoroutine(self.gateway.ask("/v3/kv/txn", {"compare": []}, until))

    def wait(self, seconds: float) -> None:
        """Let time pass, in small steps."""
        self.clock.pump([0.01] * round(seconds / 0.01))

    @property
    def asked(self) -> list[str]:
        """Who was asked, in order, tokens aside."""
        return [r.member for r in self.requests if r.path != AUTHENTICATE]

    @property
    def logins(self) -> list[str]:
        """Who was asked for a token, in order."""
        return [r.member for r in self.requests if r.path == AUTHENTICATE]


class Tokens:
    """Etcd's simple tokens: each member knows those that it has learnt of.

    :ivar known: at each member.
    :ivar given: how many in all.
    :ivar refuses: how a token is refused.
    :ivar authenticates: how authenticating is answered instead.
    """

    def __init__(self, *members: str) -> None:
        self.known: dict[str, set[str | None]] = {member: set() for member in members}
        self.given = 0
        self.refuses = invalid_token
        self.authenticates: Behaviour | None = None

    def expire(self, *members: str) -> None:
        """Have these members, or all, forget what they know."""
        for member in members or self.known:
            self.known[member].clear()

    def __call__(self, request: Request) -> "Deferred[Response]":
        """Behave so."""
        if request.path != AUTHENTICATE:
            known = request.token in self.known[request.member]
            return (right if known else self.refuses)(request)
        if self.authenticates is not None:
            return self.authenticates(request)
        return self.give(request)

    def give(self, request: Request) -> "Deferred[Response]":
        """Give a token that all members know."""
        if request.question != {"name": LOGIN.user, "password": LOGIN.password}:
            return wrong_password(request)
        self.given += 1
        for known in self.known.values():
            known.add(f"token.{self.given}")
        return answers({"token": f"token.{self.given}"})(request)


class GatewayTestCase(SynchronousTestCase):
    """Judges what comes of a question."""

    def away(self, asking: Deferred[Any]) -> str:
        """Why nobody has answered."""
        return str(self.failureResultOf(asking, StoreAwayError).value)

    def refused(self, asking: Deferred[Any]) -> str:
        """Why etcd refuses for good."""
        error = self.failureResultOf(asking, StoreError).value
        self.assertNotIsInstance(error, StoreAwayError)
        return str(error)

    def assert_times(self, members: Members, *expected: float) -> None:
        """Check when the members were asked, to two steps of the clock."""
        times = [request.at for request in members.requests]
        self.assertEqual(len(times), len(expected), times)
        for at, wanted in zip(times, expected, strict=True):
            self.assertApproximates(at, wanted, 0.021)
