"""A copy in memory of a store, which a daemon may be using: to keep something in it is safe."""

from twisted.internet.defer import Deferred, fail, succeed

from tezio_signer.cli.reacting import run_reactor
from tezio_signer.config.settings import EtcdAddress, Settings
from tezio_signer.reactors import Reactor
from tezio_signer.tezos.keys import PublicKeyHash
from tezio_signer.watermarks.entry import Entries
from tezio_signer.watermarks.opening import in_memory, snapshot
from tezio_signer.watermarks.rule import Mark, MarkId
from tezio_signer.watermarks.sqlite.reading import Content, read_all
from tezio_signer.watermarks.store import Kept, Spent, StoreAwayError, WatermarkStore

Stored = Content | StoreAwayError
"""What is in a store; or why it does not answer for the time being."""


def content_of(settings: Settings) -> Stored:
    """A copy of what is in the store; the error where it does not answer for the time being.

    :raises StoreError: with what the daemon does not start with.
    """
    address = settings.store
    assert address is not None  # it is so with --simulate only
    if not isinstance(address, EtcdAddress):
        return read_all(address)
    answers: list[Stored] = []

    async def ask(reactor: Reactor) -> None:
        try:
            answers.append(await snapshot(address, reactor))
        except StoreAwayError as error:
            answers.append(error)

    run_reactor(lambda reactor: Deferred.fromCoroutine(ask(reactor)))
    return answers[0]


class _AwayStore:
    """A store that does not answer, as its copy is not there."""

    shared = False

    def __init__(self, error: StoreAwayError) -> None:
        self._error = error

    def load(self) -> Deferred[dict[MarkId, Mark]]:
        return fail(self._error)

    def keep(self, mark_id: MarkId, mark: Mark) -> Deferred[Kept]:
        return fail(self._error)

    def spent(self, key: PublicKeyHash) -> Deferred[Entries]:
        return fail(self._error)

    def spend(self, spent: Spent) -> Deferred[Entries | None]:
        return fail(self._error)

    def close(self) -> Deferred[None]:
        return succeed(None)


def opened_copy(stored: Stored) -> WatermarkStore:
    """A store in memory with this in it, or one that does not answer either."""
    return _AwayStore(stored) if isinstance(stored, StoreAwayError) else in_memory(stored)
