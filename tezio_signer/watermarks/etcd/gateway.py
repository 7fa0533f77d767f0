"""Questions to the JSON gateway of an etcd cluster, whichever of its members answers."""

import json
from collections.abc import Sequence
from functools import partial
from typing import Any, cast

from attrs import define, field
from treq.client import HTTPClient
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.web.client import HTTPConnectionPool

from tezio_signer.watermarks.etcd.login import Login, Session
from tezio_signer.watermarks.etcd.member import TokenError
from tezio_signer.watermarks.etcd.members import Members

PATIENCE = 1.2
"""Seconds that a question may take in all, so that a client hears within two."""


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


class EtcdGateway:
    """Asks the members of a cluster, until one answers.

    A member that has no quorum does not answer a linearizable request, so one that is
    isolated is passed over like one that is away.

    :param endpoints: URLs of the members, as `https://host:2379`.
    :param pool: the connections of the client.
    """

    def __init__(
        self,
        endpoints: Sequence[str],
        client: HTTPClient,
        pool: HTTPConnectionPool,
        clock: IReactorTime,
        login: Login | None = None,
    ) -> None:
        self._members = Members(endpoints, client, clock)
        self._session = Session(login, self._members) if login is not None else None
        self._pool = pool

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
            until = self._members.seconds() + PATIENCE
        asked = _Question(path, json.dumps(question).encode(), until)
        # Before anybody is asked: who gives a token does not have to be who answers first.
        await self._token(asked, None)
        return await self._members.first_answer(partial(self._attempt, asked), until, {})

    async def _attempt(self, asked: _Question, member: str, sharing: int) -> dict[str, Any]:
        while True:
            token = await self._token(asked, member)
            try:
                return await self._members.post(
                    member, asked.path, asked.content, token, asked.until, sharing
                )
            except TokenError:
                if self._session is None or token is None or asked.renewed:
                    raise
                asked.renewed = True
                self._session.refused(token)

    async def _token(self, asked: _Question, member: str | None) -> str | None:
        """A token, if one is needed."""
        if self._session is None:
            return None
        if self._session.token is None:
            asked.renewed = True
            await self._session.log_in(asked.until, member)
        return self._session.token

    def close(self) -> Deferred[None]:
        """Close the connections that are kept for further requests."""
        if self._session is not None:
            self._session.close()
        return cast(Deferred[None], self._pool.closeCachedConnections())
