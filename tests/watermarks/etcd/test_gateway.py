"""The way to etcd: whom it asks, for how long, and what it believes."""

from typing import Any

from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.internet.error import ConnectError, ConnectingCancelledError, ConnectionDone
from twisted.internet.error import ConnectionRefusedError as NobodyListensError
from twisted.python.failure import Failure
from twisted.web.client import ResponseFailed

from tests.support.scriptedmembers import (
    LOGIN,
    RIGHT,
    A,
    B,
    Behaviour,
    C,
    GatewayTestCase,
    Members,
    Request,
    Response,
    Tokens,
    answers,
    away,
    errs,
    invalid_token,
    leader_changed,
    one_after_the_other,
    right,
    silent,
    wrong_password,
)
from tezio_signer.watermarks.etcd import member

QUORUM = "no member of etcd serves reads and writes (a majority must run): "


class OrderTests(GatewayTestCase):
    """Who is asked."""

    def test_first(self) -> None:
        """The first member is asked, as JSON, and its answer given; nobody else is bothered."""
        members = Members({A: right, B: right})
        self.assertEqual(self.successResultOf(members.ask()), RIGHT)
        (request,) = members.requests
        self.assertEqual((request.member, request.path), (A, "/v3/kv/txn"))
        self.assertEqual(request.question, {"compare": []})
        self.assertEqual(
            list(request.headers.getAllRawHeaders()), [(b"Content-Type", [b"application/json"])]
        )
        self.assertEqual(members.clock.getDelayedCalls(), [])

    def test_next(self) -> None:
        """Who is away is passed over at once."""
        members = Members({A: away, B: away, C: right})
        self.assertEqual(self.successResultOf(members.ask()), RIGHT)
        self.assertEqual(members.asked, [A, B, C])

    def test_away_is_last(self) -> None:
        """Who was away is asked last the next time."""
        members = Members({A: away, B: right, C: right})
        self.successResultOf(members.ask())
        members.behaviours = {A: right, B: leader_changed, C: silent}
        members.requests.clear()
        asking = members.ask()
        members.wait(1)
        self.assertEqual(self.successResultOf(asking), RIGHT)
        self.assertEqual(members.asked, [B, C, A])

    def test_again(self) -> None:
        """Members that refuse for the moment are asked again, after pauses that grow."""
        sometime = one_after_the_other(leader_changed, leader_changed, right)
        members = Members({A: sometime, B: leader_changed})
        asking = members.ask()
        members.wait(0.2)
        self.assertEqual(self.successResultOf(asking), RIGHT)
        self.assert_times(members, 0, 0, 0.05, 0.05, 0.15)

    def test_in_vain(self) -> None:
        """They are not hammered, and not asked for longer than a question may take."""
        members = Members({A: leader_changed, B: away})
        asking = members.ask()
        members.wait(1.2)
        sentence = f"{QUORUM}{A}: etcdserver: leader changed; {B}: nobody there"
        self.assertEqual(self.away(asking), sentence)
        self.assertEqual(len(members.requests), 16)
        self.assertEqual(members.clock.getDelayedCalls(), [])


class TimeTests(GatewayTestCase):
    """How long a question may take."""

    def test_three_silent(self) -> None:
        """Of three that are silent each gets its turn, and the caller hears in time."""
        members = Members({A: silent, B: silent, C: silent})
        asking = members.ask()
        members.wait(1.15)
        self.assertNoResult(asking)
        members.wait(0.05)
        late = "did not answer in time"
        self.assertEqual(self.away(asking), f"{QUORUM}{A}: {late}; {B}: {late}; {C}: {late}")
        self.assert_times(members, 0, 0.4, 0.8)
        self.assertTrue(all(request.given_up for request in members.requests))
        self.assertEqual(members.clock.getDelayedCalls(), [])

    def test_three_silent_in_little_time(self) -> None:
        """A member has a time in which it can answer, or it would be asked for nothing."""
        members = Members({A: silent, B: silent, C: silent})
        asking = members.ask(0.6)
        members.wait(0.6)
        self.away(asking)
        self.assert_times(members, 0, 0.4)

    def test_one_slow(self) -> None:
        """A single member has the whole time, and is not asked twice."""
        members = Members({A: silent})
        members.behaviours[A] = members.slow(1.15, right)
        asking = members.ask()
        members.wait(1.16)
        self.assertEqual(self.successResultOf(asking), RIGHT)
        self.assertEqual(len(members.requests), 1)

    def test_last_slow(self) -> None:
        """Who is asked last has what is left."""
        members = Members({A: away, B: silent, C: silent})
        members.behaviours[C] = members.slow(0.55, right)
        asking = members.ask()
        members.wait(1.2)
        self.assertEqual(self.successResultOf(asking), RIGHT)
        self.assert_times(members, 0, 0, 0.6)

    def test_until(self) -> None:
        """A caller that has less time hears when it is over."""
        members = Members({A: silent})
        members.wait(5)
        asking = members.ask(5.3)
        members.wait(0.29)
        self.assertNoResult(asking)
        members.wait(0.02)
        self.away(asking)

    def test_over(self) -> None:
        """When the time is over already nobody is asked."""
        members = Members({A: right})
        members.wait(1)
        self.assertIn("no member of etcd had time to answer", self.away(members.ask(0.5)))
        self.assertEqual(members.requests, [])

    def test_stalled(self) -> None:
        """An answer that does not come to its end is given up, and its connection closed."""
        stalled = Response(200, b'{"right": tr', complete=False)
        waiting: Deferred[Response] = Deferred()
        waiting.callback(stalled)
        members = Members({A: lambda _: waiting, B: right})
        asking = members.ask()
        members.wait(0.61)
        self.assertEqual(self.successResultOf(asking), RIGHT)
        self.assertTrue(stalled.transport.disconnecting)


class AnswerTests(GatewayTestCase):
    """What is no answer: another member is asked, and who asks hears why."""

    def trouble(self, behaviour: Behaviour) -> str:
        """What is said of a member that behaves so, and that another would have been asked."""
        self.assertEqual(self.successResultOf(Members({A: behaviour, B: right}).ask()), RIGHT)
        members = Members({A: behaviour})
        asking = members.ask()
        members.wait(1.2)
        return self.away(asking).removeprefix(f"{A}: ")

    def test_no_json(self) -> None:
        """What is no JSON object is quoted, in one short line that a terminal can show."""
        no_object = "with what is no JSON object:"
        for body in (b"[1]", b"7", b"null", b'"text"', b"{", b"\xff\xfe", b"[" * 100_000):
            self.assertIn(f"answers 200 {no_object} ", self.trouble(answers(body)))
        page = b"<html>\r\n  <h1>\x1b[31mBad\tgateway \xff</h1>" + b"x" * 5000
        sentence = self.trouble(answers(page, 502))
        self.assertIn(f"answers 502 {no_object} <html> <h1> [31mBad gateway \ufffd</h1>x", sentence)
        self.assertLess(len(sentence), 200)
        self.assertEqual(self.trouble(answers(b"", 503)), f"answers 503 {no_object} nothing")

    def test_common_name(self) -> None:
        """What etcd says of a certificate that it does not like reaches the operator whole."""
        words = (
            "CommonName of client sending a request against gateway will be ignored and not "
            "used as expected"
        )
        self.assertIn(words, self.trouble(answers(f"{words}\n".encode(), 400)))

    def test_errors(self) -> None:
        """Errors of etcd are told with its words, of a strange shape too."""
        self.assertEqual(self.trouble(leader_changed), "etcdserver: leader changed")
        self.assertEqual(self.trouble(answers({"error": "older"}, 500)), "older")
        self.assertEqual(self.trouble(answers({}, 503)), "answers 503")
        for code in ([3], {"3": 3}, "3", None, 1e400):
            self.assertEqual(self.trouble(answers({"code": code}, 400)), "answers 400")
        strange = {"message": ["\ud800", "\x1b"], "code": 2}
        self.assertTrue(self.trouble(answers(strange, 400)).isprintable())

    def test_no_token_asked_for(self) -> None:
        """That a token is missing, where there is no user, is one member's trouble."""
        self.assertEqual(self.trouble(invalid_token), "etcdserver: invalid auth token")
        self.assertEqual(self.trouble(answers({}, 401)), "answers 401")
        self.assertEqual(self.trouble(answers({}, 403)), "answers 403")

    def test_too_long(self) -> None:
        """An answer beyond all measure is not collected, and its connection closed."""
        self.patch(member, "MAX_ANSWER", 100)
        most = answers(b'{"right": true' + b" " * 85 + b"}")
        self.assertEqual(self.successResultOf(Members({A: most}).ask()), RIGHT)
        response = Response(200, b'{"right": true' + b" " * 86 + b"}", complete=False)
        self.assertEqual(
            self.trouble(lambda r: answers({})(r).addCallback(lambda _: response)),
            "answers with more than 100 bytes",
        )
        self.assertTrue(response.transport.disconnecting)

    def test_broken(self) -> None:
        """Of a connection that breaks the first reason is told, in one line."""
        inner = Failure(OSError("first line\nsecond"))
        self.assertEqual(self.trouble(lambda _: fail(ResponseFailed([inner]))), "first line")
        broken = ConnectError(string=Failure(ConnectionDone("gone")))
        self.assertEqual(self.trouble(lambda _: fail(broken)), str(ConnectionDone("gone")))
        self.assertEqual(self.trouble(lambda _: fail(ValueError())), "ValueError")
        nobody = NobodyListensError(111, "Connection refused")
        self.assertEqual(self.trouble(lambda _: fail(nobody)), "connection refused")


class DenialTests(GatewayTestCase):
    """When etcd refuses for good."""

    def test_all(self) -> None:
        """What all members deny is denied: at once, for each has said so."""
        for denied, says in (
            (wrong_password, "authentication failed"),
            (errs("etcdserver: permission denied", 7, 403), "permission denied"),
        ):
            members = Members({A: denied, B: denied, C: denied})
            self.assertIn(f"etcd refuses: etcdserver: {says}", self.refused(members.ask()))
            self.assertEqual(members.asked, [A, B, C])

    def test_one(self) -> None:
        """A member that denies what another gives is not believed."""
        members = Members({A: wrong_password, B: right})
        self.assertEqual(self.successResultOf(members.ask()), RIGHT)

    def test_others_late(self) -> None:
        """Who is away for a moment is waited for before a denial is believed."""
        members = Members({A: wrong_password, B: one_after_the_other(away, right)})
        asking = members.ask()
        members.wait(0.1)
        self.assertEqual(self.successResultOf(asking), RIGHT)

    def test_others_silent(self) -> None:
        """If the others say nothing, it is believed when the time is over."""
        members = Members({A: wrong_password, B: away, C: silent})
        asking = members.ask()
        members.wait(1)
        self.assertNoResult(asking)
        members.wait(0.2)
        self.assertIn("authentication failed", self.refused(asking))

    def test_others_hesitate(self) -> None:
        """If one says something else, the store may be back later."""
        members = Members({A: wrong_password, B: leader_changed})
        asking = members.ask()
        members.wait(1.2)
        self.assertIn("leader changed", self.away(asking))


class CancelTests(GatewayTestCase):
    """Who asks may give up."""

    def given_up(self, members: Members, asking: Deferred[Any]) -> None:
        """Give a question up, and check that nothing goes on."""
        asked = len(members.requests)
        asking.cancel()
        self.failureResultOf(asking, CancelledError)
        members.wait(3)
        self.assertEqual(len(members.requests), asked)
        self.assertEqual(members.clock.getDelayedCalls(), [])

    def test_asking(self) -> None:
        """The request is given up, and no other member is asked."""
        members = Members({A: silent, B: right})
        self.given_up(members, members.ask())
        self.assertTrue(members.requests[0].given_up)

    def test_connecting(self) -> None:
        """So it is while a connection is made, which fails in its own way then."""

        def connecting(_: Request) -> Deferred[Response]:
            error = ConnectingCancelledError(None)
            return Deferred(lambda cancelled: cancelled.errback(error))

        members = Members({A: connecting, B: right})
        self.given_up(members, members.ask())

    def test_between(self) -> None:
        """So it is while nobody is asked."""
        members = Members({A: leader_changed})
        self.given_up(members, members.ask())

    def test_waiting_for_token(self) -> None:
        """A login that others wait for goes on."""
        tokens = Tokens(A)
        members = Members({A: tokens}, LOGIN)
        tokens.authenticates = members.slow(0.5, tokens.give)
        first, second = members.ask(), members.ask()
        first.cancel()
        self.failureResultOf(first, CancelledError)
        members.wait(0.6)
        self.assertEqual(self.successResultOf(second), RIGHT)
        self.assertEqual(members.asked, [A])
        self.assertEqual(members.logins, [A])
