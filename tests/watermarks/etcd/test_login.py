"""The way to etcd with a user and a password."""

from typing import Any

from twisted.internet.defer import Deferred

from tests.support.scriptedmembers import (
    AUTHENTICATE,
    LOGIN,
    RIGHT,
    A,
    B,
    GatewayTestCase,
    Members,
    Request,
    Response,
    Tokens,
    answers,
    away,
    errs,
    invalid_token,
    one_after_the_other,
    silent,
    wrong_password,
)
from tezio_signer.watermarks.etcd.login import Login
from tezio_signer.watermarks.store import StoreError


class LoginTests(GatewayTestCase):
    """The token of a user."""

    def setUp(self) -> None:
        self.tokens = Tokens(A, B)
        self.members = Members({A: self.tokens, B: self.tokens}, LOGIN)

    def tearDown(self) -> None:
        self.members.wait(3.1)  # what nobody waits for any more comes to its end
        self.assertEqual(self.members.clock.getDelayedCalls(), [])

    def assert_answered(self, *askings: Deferred[dict[str, Any]]) -> None:
        """Check that these questions have got their answers."""
        for asking in askings or [self.members.ask()]:
            self.assertEqual(self.successResultOf(asking), RIGHT)

    def test_first(self) -> None:
        """The first question gets a token, which the others use too."""
        self.assert_answered()
        self.assert_answered()
        self.assertEqual(
            [(r.path == AUTHENTICATE, r.token) for r in self.members.requests],
            [(True, None), (False, "token.1"), (False, "token.1")],
        )

    def test_expired(self) -> None:
        """A token that is good no longer, however etcd says it, is replaced where it is none."""
        for refuses in (
            invalid_token,
            errs("etcdserver: invalid auth token", 16, 400),
            answers({}, 401),
            errs("etcdserver: revision of auth store is old", 3),
        ):
            self.assert_answered()
            self.tokens.expire()
            self.tokens.refuses = refuses
            self.members.requests.clear()
            self.assert_answered()
            self.assertEqual(self.members.asked, [A, A])
            self.assertEqual(self.members.logins, [A])

    def test_other_member_forgets(self) -> None:
        """Another member that does not know the token, as after a restart, gives a new one."""
        self.assert_answered()
        self.tokens.expire(B)
        self.members.behaviours[A] = away
        self.assert_answered()
        self.assertEqual(self.members.logins, [A, B])
        self.assertEqual(self.members.asked, [A, A, B, B])

    def test_burst(self) -> None:
        """Questions at once have one login, which may take long, and are all answered."""
        self.tokens.authenticates = self.members.slow(0.7, self.tokens.give)
        for _ in range(2):
            askings = [self.members.ask() for _ in range(20)]
            self.members.wait(0.71)
            self.assert_answered(*askings)
            self.tokens.expire()
        self.assertEqual(self.members.logins, [A, A])

    def test_refused_late(self) -> None:
        """Who hears late that the old token was none takes the new one."""
        self.assert_answered()
        self.tokens.expire()
        self.members.behaviours[A] = one_after_the_other(
            self.members.slow(0.3, self.tokens.refuses), self.tokens
        )
        late = self.members.ask()
        self.assert_answered()
        self.members.wait(0.31)
        self.assert_answered(late)
        self.assertEqual(self.tokens.given, 2)

    def test_refused_by_one_in_doubt(self) -> None:
        """Who has refused the token gives the new one, though another would be asked first."""
        self.assert_answered()
        self.tokens.expire(A)
        hesitant = self.members.slow(0.3, self.tokens)
        self.members.behaviours[A] = one_after_the_other(hesitant, away, self.tokens)
        late = self.members.ask()
        self.assert_answered()
        self.members.wait(0.31)
        self.assert_answered(late)
        self.assertEqual(self.members.logins, [A, A])

    def test_unknown(self) -> None:
        """A member that does not know what it has just given is passed over, with one login."""
        forgets = one_after_the_other(self.tokens, invalid_token)
        self.members.behaviours[A] = forgets
        self.assert_answered()
        self.assertEqual(self.members.logins, [A])
        self.assertEqual(self.members.asked, [A, B])

    def test_unknown_everywhere(self) -> None:
        """If none knows it there is no answer, and one login for each question."""
        unknown = one_after_the_other(self.tokens.give, invalid_token)
        self.members.behaviours = {A: unknown, B: invalid_token}
        asking = self.members.ask()
        self.members.wait(1.2)
        self.assertIn("invalid auth token", self.away(asking))
        self.assertEqual(self.members.logins, [A])

    def test_slow(self) -> None:
        """A question ends in its time; the login goes on for those that come after it."""
        self.tokens.authenticates = self.members.slow(0.9, self.tokens.give)
        asking = self.members.ask(0.6)
        self.members.wait(0.61)
        self.assertEqual(self.away(asking), "etcd has not let signer in in time")
        self.members.wait(0.3)
        self.assert_answered()
        self.assertEqual(self.members.logins, [A])

    def test_reason(self) -> None:
        """Who waits in vain hears why there is no token yet."""
        self.tokens.authenticates = answers(b"The CommonName of the certificate is wrong", 400)
        self.members.behaviours[B] = silent
        asking = self.members.ask()
        self.members.wait(1.21)
        sentence = self.away(asking)
        self.assertIn(f"not let signer in in time: {A}: answers 400 with what is no", sentence)
        self.assertIn("CommonName of the certificate is wrong", sentence)

    def test_silent(self) -> None:
        """Who gives no token is passed over."""
        self.members.behaviours[A] = silent
        asking = self.members.ask(2)
        self.members.wait(1.52)
        self.assert_answered(asking)
        self.assertEqual(self.members.logins, [A, B])

    def test_all_silent(self) -> None:
        """A login has an end too."""
        self.members.behaviours = {A: silent, B: silent}
        asking = self.members.ask(10)
        self.members.wait(3.01)
        self.assertIn("did not answer in time", self.away(asking))
        self.assertEqual(self.members.clock.getDelayedCalls(), [])

    def test_wrong_password(self) -> None:
        """What all members refuse ends the question at once."""
        self.members = Members({A: self.tokens, B: self.tokens}, Login("signer", "another"))
        self.assertIn("authentication failed", self.refused(self.members.ask()))
        self.assertEqual(self.members.logins, [A, B])
        self.assertEqual(self.members.asked, [])

    def test_wrong_at_one(self) -> None:
        """A member that refuses a password which another takes is not believed."""
        self.tokens.authenticates = one_after_the_other(wrong_password, self.tokens.give)
        self.assert_answered()
        self.assertEqual(self.members.logins, [A, B])

    def test_no_token(self) -> None:
        """An answer without a token that can be sent is none of etcd."""
        for token in ({}, {"token": 7}, {"token": ""}, {"token": "a\nb"}, {"token": "\ud800"}):
            members = Members({A: answers(token)}, LOGIN)
            asking = members.ask(10)
            members.wait(3.1)
            self.assertEqual(
                self.away(asking), f"{A}: not an etcd JSON gateway: it gives no token to a user"
            )
            self.assertEqual(members.asked, [])

    def test_unauthenticated_login(self) -> None:
        """A login that is refused for want of a token is one member's trouble."""
        self.members.behaviours[A] = invalid_token
        self.assert_answered()

    def test_close(self) -> None:
        """Closing ends a login, and closes the connections."""
        self.members.behaviours[A] = silent
        asking = self.members.ask()
        self.successResultOf(self.members.gateway.close())
        self.assertEqual(self.away(asking), "the connections to etcd are closed")
        self.assertTrue(self.members.requests[0].given_up)
        self.assertTrue(self.members.pool.closed)
        self.assertEqual(self.members.clock.getDelayedCalls(), [])


class SecrecyTests(GatewayTestCase):
    """The password goes to etcd only."""

    def test_repr(self) -> None:
        """A login does not show it."""
        self.assertEqual(repr(LOGIN), "Login('signer')")

    def test_echo(self) -> None:
        """It is left out of what an answer quotes, as it is and as JSON."""

        def echo(request: Request) -> Deferred[Response]:
            asked = str(request.question) + " " + LOGIN.password
            return answers(LOGIN.content + asked.encode(), 404)(request)

        def tells(request: Request) -> Deferred[Response]:
            return errs(f"who is {request.question}?", 3)(request)

        for behaviour in (echo, tells):
            members = Members({A: behaviour}, LOGIN)
            asking = members.ask(10)
            members.wait(3.1)
            sentence = str(self.failureResultOf(asking, StoreError).value)
            self.assertNotIn("horse", sentence)
            self.assertIn("signer", sentence)
            self.assertIn("password", sentence)
