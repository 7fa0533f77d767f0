"""A copy in memory of a store, which a daemon may be using: to keep something in it is safe."""

from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred

from tezio_signer.config.settings import EtcdAddress, Settings
from tezio_signer.watermarks.sqlite.reading import Content, read_all
from tezio_signer.watermarks.store import StoreAwayError

if TYPE_CHECKING:  # which takes longer to import than all else
    from tezio_signer.watermarks.etcd.store import EtcdStore

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
    from tezio_signer.cli.reacting import run_reactor
    from tezio_signer.watermarks.opening import etcd_store

    answers: list[Stored] = []

    async def ask(store: "EtcdStore") -> None:
        try:
            answers.append(Content(await store.read(), await store.read_spending()))
        except StoreAwayError as error:
            answers.append(error)
        finally:
            await store.close()

    run_reactor(lambda reactor: Deferred.fromCoroutine(ask(etcd_store(address, reactor))))
    return answers[0]
