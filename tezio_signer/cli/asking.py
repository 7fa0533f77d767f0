"""What `check` asks of others, for which it needs the reactor: etcd and the boards."""

from functools import partial

from attrs import define
from twisted.internet.defer import Deferred

from tezio_signer.cli.boards import BoardCheck, check_boards
from tezio_signer.cli.reacting import run_reactor
from tezio_signer.config.settings import EtcdAddress, Settings
from tezio_signer.hsm.boards import find_boards
from tezio_signer.reactors import Reactor
from tezio_signer.serialhsm import SerialPorts
from tezio_signer.watermarks.opening import etcd_store
from tezio_signer.watermarks.store import StoreError


@define
class Answers:
    """What was answered.

    :ivar marks: how many there are in etcd, or why that is not known; None if nobody asked.
    :ivar boards: what the boards say; None if nobody asked.
    """

    marks: int | StoreError | None = None
    boards: BoardCheck | None = None


def ask(settings: Settings, with_boards: bool) -> Answers:
    """Run the reactor until etcd, if the marks are there, and the boards have answered."""
    answers = Answers()

    async def asking(reactor: Reactor) -> None:
        if isinstance(settings.store, EtcdAddress):
            answers.marks = await _marks(settings.store, reactor)
        if with_boards:
            ports = SerialPorts(reactor, reactor, partial(find_boards, settings.hsms))
            answers.boards = await check_boards(
                reactor, ports, settings.hsms, settings.signing_keys, settings.auth_key
            )

    run_reactor(lambda reactor: Deferred.fromCoroutine(asking(reactor)))
    return answers


async def _marks(address: EtcdAddress, reactor: Reactor) -> int | StoreError:
    try:
        store = etcd_store(address, reactor)
        try:
            return len(await store.read())
        finally:
            await store.close()
    except StoreError as error:
        return error
