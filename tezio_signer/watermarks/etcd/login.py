"""Etcd's own authentication: a user, a password, and the token that is got for them.

States: there is a token, or none; and a login is under way, or none. A question that needs a
token starts a login, or waits for the one that is under way. A login ends with a token or with
the reason why there is none, whoever waits for it and however long. A token ends when a member
refuses it, and only if it is still the one that was refused.
"""

import json
import re
from functools import partial
from typing import TypeVar

from attrs import frozen
from twisted.internet.defer import CancelledError, Deferred

from tezio_signer.watermarks.etcd.member import AttemptError
from tezio_signer.watermarks.etcd.members import Members
from tezio_signer.watermarks.store import StoreAwayError, StoreError

LOGIN_PATIENCE = 3.0
"""Seconds for a login: etcd makes it slow on purpose (bcrypt), more so on a small machine."""
_TOKEN = re.compile("[ -~]{1,8192}")
"""Etcd's own have some tens of bytes, signed ones (JWT) a few hundred."""
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


@frozen(eq=False)
class _LoggingIn:
    """A login that is under way.

    :ivar ended: fires with the reason why there is no token, or with None.
    :ivar words: what each member has said last.
    """

    ended: Deferred[StoreError | None]
    words: dict[str, AttemptError]


class Session:
    """Has a token for a user.

    :ivar token: one that is good as far as is known; None if there is none.
    """

    def __init__(self, login: Login, members: Members) -> None:
        self._login = login
        self._members = members
        self.token: str | None = None
        self._logging_in: _LoggingIn | None = None

    async def log_in(self, until: float, member: str | None) -> None:
        """Get a token; all who need it wait for the same login.

        :param until: when to wait no longer.
        :param member: who is asked for it first: it has refused the one before, and knows
            its own at once.
        :raises StoreAwayError: if there is none in time.
        :raises StoreError: if etcd refuses the user or the password.
        """
        running = self._logging_in or self._begin(member)

        def late() -> StoreAwayError:
            sentence = f"etcd has not let {self._login.user} in in time"
            if running.words:
                sentence += f": {self._members.troubles(running.words)}"
            return StoreAwayError(sentence)

        refusal = await self._members.within(running.ended, until, late)
        if refusal is not None:
            raise refusal

    def refused(self, token: str) -> None:
        """Forget a token that a member does not take, unless there is a newer one."""
        if self.token == token:
            self.token = None

    def close(self) -> None:
        """End a login that is under way."""
        if self._logging_in is not None:
            self._logging_in.ended.cancel()

    def _begin(self, member: str | None) -> _LoggingIn:
        words: dict[str, AttemptError] = {}
        running = _LoggingIn(Deferred.fromCoroutine(self._log_in(words, member)), words)
        self._logging_in = running
        running.ended.addBoth(self._ended)
        return running

    def _ended(self, result: _Value) -> _Value:
        self._logging_in = None
        return result

    async def _log_in(
        self, words: dict[str, AttemptError], member: str | None
    ) -> StoreError | None:
        """Get a token; returns why there is none. Goes on when who waits for it gives up."""
        until = self._members.seconds() + LOGIN_PATIENCE
        authenticate = partial(self._authenticate, until)
        try:
            self.token = await self._members.first_answer(authenticate, until, words, member)
        except StoreError as error:
            return error
        except CancelledError:
            return StoreAwayError("the connections to etcd are closed")
        return None

    async def _authenticate(self, until: float, member: str, sharing: int) -> str:
        path, content = "/v3/auth/authenticate", self._login.content
        try:
            answer = await self._members.post(member, path, content, None, until, sharing)
        except AttemptError as error:
            raise type(error)(self._login.hide(str(error))) from None
        token = answer.get("token")
        if isinstance(token, str) and _TOKEN.fullmatch(token):
            return token
        raise AttemptError("not an etcd JSON gateway: it gives no token to a user")
