"""Bugs that are planted in the signer, to see that a search finds each of them.

Each is put in the place of one thing that protects, from outside: at what etcd is asked, at the
disk, at the claim, at the rule, or at the verification.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any
from unittest.mock import patch

from attrs import evolve, frozen
from twisted.internet.defer import Deferred, succeed
from twisted.python.failure import Failure

from tests.campaigns.histories.disk import Disk, MarkFile
from tests.campaigns.histories.etcd import Etcd
from tests.campaigns.histories.patching import everywhere
from tests.support.changedclaim import changed_claim
from tests.support.fakeetcd import FakeEtcd
from tezio_signer.errors import Conflict, Unavailable
from tezio_signer.hsm.exchange import NotSent
from tezio_signer.hsm.signing import Signing, State
from tezio_signer.tezos.keys import PublicKey, Signature, digest
from tezio_signer.watermarks import rule
from tezio_signer.watermarks.claims import Claim, Watermarks
from tezio_signer.watermarks.etcd.store import EtcdStore
from tezio_signer.watermarks.rule import Mark, MarkId
from tezio_signer.watermarks.sqlite.grouped import GroupedStore
from tezio_signer.watermarks.store import Kept, StoreAwayError, StoreError

_Answer = Callable[[FakeEtcd, str, dict[str, Any]], dict[str, Any]]
_Plant = Callable[[], Iterator[None]]


@frozen
class Bug:
    """A bug, and how it is planted.

    :ivar what: what is wrong, in a few words.
    """

    what: str
    planted: Callable[[], AbstractContextManager[None]]


BUGS: dict[str, Bug] = {}


def _bug(what: str) -> Callable[[_Plant], _Plant]:
    """Enter a bug under the name of the function that plants it."""

    def enter(plant: _Plant) -> _Plant:
        name = plant.__name__.lstrip("_").replace("_", "-")
        BUGS[name] = Bug(what, contextmanager(plant))
        return plant

    return enter


# -- what etcd is asked, and said to have answered -----------------------------------------


@contextmanager
def _answering(answer: _Answer) -> Iterator[None]:
    made = Etcd.__init__

    def make(etcd: Etcd, *arguments: Any) -> None:
        made(etcd, *arguments)
        etcd.answers = partial(answer, etcd.cluster)

    with patch.object(Etcd, "__init__", make):
        yield


@_bug("a mark is swapped whatever is there")
def _compare_left_out() -> Iterator[None]:
    def answer(cluster: FakeEtcd, path: str, question: dict[str, Any]) -> dict[str, Any]:
        return cluster.answer(path, {**question, "compare": question.get("compare", [])[:1]})

    with _answering(answer):
        yield


@_bug("a swap that has failed counts as done")
def _failed_swap_is_success() -> Iterator[None]:
    def answer(cluster: FakeEtcd, path: str, question: dict[str, Any]) -> dict[str, Any]:
        answered = cluster.answer(path, question)
        requests = question.get("success", [])
        if requests and "request_put" in requests[0]:
            responses: list[Any] = [{"response_put": {}} for _ in requests]
            return {"header": answered["header"], "succeeded": True, "responses": responses}
        return answered

    with _answering(answer):
        yield


@_bug("a swap of which nothing was heard counts as done")
def _silence_is_success() -> Iterator[None]:
    keep = EtcdStore.keep

    def kept(store: EtcdStore, mark_id: MarkId, mark: Mark) -> Deferred[Kept]:
        def silent(failure: Failure) -> Kept:
            failure.trap(StoreAwayError)
            return Kept(None, mark)

        return keep(store, mark_id, mark).addErrback(silent)

    with patch.object(EtcdStore, "keep", kept):
        yield


@_bug("a store that is gone is made anew")
def _empty_store_accepted() -> Iterator[None]:
    load, opened = EtcdStore.load, Disk.open

    def loaded(store: EtcdStore) -> Deferred[dict[MarkId, Mark]]:
        def made(failure: Failure) -> Any:
            if failure.check(StoreAwayError):
                return failure
            return store.create().addCallback(lambda _: load(store))

        return load(store).addErrback(made)

    def open_empty(disk: Disk, *arguments: Any) -> GroupedStore:
        if disk.missing:
            disk.missing, disk.stored = False, {}
        return opened(disk, *arguments)

    with patch.object(EtcdStore, "load", loaded), patch.object(Disk, "open", open_empty):
        yield


@_bug("marks that the store has lost are not noticed")
def _losses_unnoticed() -> Iterator[None]:
    load, keep = EtcdStore.load, EtcdStore.keep

    def shown(store: EtcdStore, marks: dict[MarkId, Mark]) -> dict[MarkId, Mark]:
        ever: dict[MarkId, Mark] = vars(store).setdefault("ever_shown", {})
        for mark_id, mark in marks.items():
            ever[mark_id] = rule.settle(ever.get(mark_id), mark)
        return dict(ever)

    def loaded(store: EtcdStore) -> Deferred[dict[MarkId, Mark]]:
        return load(store).addCallback(lambda marks: shown(store, marks))

    def kept(store: EtcdStore, mark_id: MarkId, mark: Mark) -> Deferred[Kept]:
        def note(done: Kept) -> Kept:
            shown(store, {mark_id: done.now})
            return done

        return keep(store, mark_id, mark).addCallback(note)

    with patch.object(EtcdStore, "load", loaded), patch.object(EtcdStore, "keep", kept):
        yield


# -- the disk --------------------------------------------------------------------------


@_bug("a group of marks is on the disk only when the next one is written")
def _sync_left_out() -> Iterator[None]:
    keep = MarkFile.keep

    def kept(file: MarkFile, marks: Sequence[tuple[MarkId, Mark]]) -> list[Kept]:
        before = file.disk.stored
        done = keep(file, marks)
        vars(file)["unsynced"], file.disk.stored = file.disk.stored, before
        return done

    def synced(file: MarkFile, marks: Sequence[tuple[MarkId, Mark]]) -> list[Kept]:
        file.disk.stored = vars(file).pop("unsynced", file.disk.stored)
        return kept(file, marks)

    with patch.object(MarkFile, "keep", synced):
        yield


@_bug("a write that has failed counts as done")
def _failed_write_is_success() -> Iterator[None]:
    keep = MarkFile.keep

    def kept(file: MarkFile, marks: Sequence[tuple[MarkId, Mark]]) -> list[Kept]:
        try:
            return keep(file, marks)
        except StoreError:
            return [Kept(None, mark) for _, mark in marks]

    with patch.object(MarkFile, "keep", kept):
        yield


# -- the claim -------------------------------------------------------------------------


@contextmanager
def _claiming(change: Callable[[Claim, bytes], Claim]) -> Iterator[None]:
    """Change each claim, given with the payload that it is for."""
    claim = Watermarks.claim

    def claimed(watermarks: Watermarks, key: Any, payload: Any, data: bytes, *more: Any) -> Claim:
        return change(claim(watermarks, key, payload, data, *more), data)

    with patch.object(Watermarks, "claim", claimed):
        yield


def _ignored(working: Deferred[Any]) -> None:
    working.addErrback(lambda failure: failure.trap(Unavailable, Conflict))


@_bug("a signature leaves while it is being stored")
def _signature_stored_late() -> Iterator[None]:
    def change(claim: Claim, _: bytes) -> Claim:
        def complete(signature: Signature) -> Deferred[Signature]:
            _ignored(claim.complete(signature))
            return succeed(signature)

        return changed_claim(claim, complete=complete)

    with _claiming(change):
        yield


@_bug("a signature leaves, and only the claim was stored before it")
def _signature_not_stored() -> Iterator[None]:
    with _claiming(lambda claim, _: changed_claim(claim, complete=succeed)):
        yield


@_bug("a signature leaves although another one of its payload is stored")
def _own_signature_preferred() -> Iterator[None]:
    def change(claim: Claim, _: bytes) -> Claim:
        def complete(own: Signature) -> Deferred[Signature]:
            return claim.complete(own).addCallback(lambda _: own)

        return changed_claim(claim, complete=complete)

    with _claiming(change):
        yield


@_bug("nobody waits for the mark to be stored, nor hears that another daemon has it")
def _claim_not_stored() -> Iterator[None]:
    def change(claim: Claim, _: bytes) -> Claim:
        _ignored(claim.durable)
        return changed_claim(claim, durable=succeed(claim.signature), complete=succeed)

    with _claiming(change):
        yield


@_bug("a claim is forgotten, here and in the store, when its request fails")
def _claim_forgotten() -> Iterator[None]:
    stores: list[Etcd | Disk] = []
    claim = Watermarks.claim
    etcd_made, disk_made = Etcd.__init__, Disk.__init__

    def make_etcd(etcd: Etcd, *arguments: Any) -> None:
        stores[:] = [etcd]
        etcd_made(etcd, *arguments)

    def make_disk(disk: Disk, *arguments: Any) -> None:
        stores[:] = [disk]
        disk_made(disk, *arguments)

    def claimed(watermarks: Watermarks, key: Any, payload: Any, data: bytes, *more: Any) -> Claim:
        mark_id = MarkId.of(key, payload)
        hashed = digest(data)
        (store,) = stores

        def failed(failure: Failure) -> Failure:
            held = watermarks._marks.get(mark_id)
            if held is not None and held.standing.payload_hash == hashed:
                del watermarks._marks[mark_id]
            store.lower(mark_id, hashed)
            return failure

        given = claim(watermarks, key, payload, data, *more)
        return changed_claim(
            given,
            durable=given.durable.addErrback(failed),
            complete=lambda signature: given.complete(signature).addErrback(failed),
        )

    with (
        patch.object(Etcd, "__init__", make_etcd),
        patch.object(Disk, "__init__", make_disk),
        patch.object(Watermarks, "claim", claimed),
    ):
        yield


@_bug("a payload is refused for good although nothing is known for sure")
def _doubt_taken_for_known() -> Iterator[None]:
    claim = Watermarks.claim

    def claimed(watermarks: Watermarks, *arguments: Any) -> Claim:
        try:
            return claim(watermarks, *arguments)
        except Unavailable as unavailable:
            if isinstance(unavailable.__context__, Conflict):
                raise unavailable.__context__ from None
            raise

    with patch.object(Watermarks, "claim", claimed):
        yield


# -- the rule --------------------------------------------------------------------------


@_bug("the signature that comes last stays, not the first")
def _last_signature_stays() -> Iterator[None]:
    settle = rule.settle

    def settled(standing: Mark | None, asked: Mark) -> Mark:
        if standing is None or asked.signature is None:
            return settle(standing, asked)
        same = evolve(asked, signature=None) == evolve(standing, signature=None)
        return asked if same else settle(standing, asked)

    with everywhere(settle, settled):
        yield


@_bug("another payload may have a position that is taken")
def _position_taken_twice() -> Iterator[None]:
    judge, settle = rule.judge, rule.settle

    def is_other(standing: Mark | None, asked: Mark) -> bool:
        return (
            standing is not None
            and asked.position == standing.position
            and asked.payload_hash != standing.payload_hash
        )

    def judged(mark_id: MarkId, standing: Mark | None, asked: Mark, *more: Any) -> Mark:
        if is_other(standing, asked):
            return asked
        return judge(mark_id, standing, asked, *more)

    def settled(standing: Mark | None, asked: Mark) -> Mark:
        return asked if is_other(standing, asked) else settle(standing, asked)

    with everywhere(judge, judged), everywhere(settle, settled):
        yield


# -- the board -------------------------------------------------------------------------


@_bug("whatever a board sends passes for the signature")
def _verification_skipped() -> Iterator[None]:
    with patch.object(PublicKey, "verifies", lambda *_: True):
        yield


@_bug("a reply is not looked at when it comes, only when it leaves")
def _late_for_the_next() -> Iterator[None]:
    verifies = PublicKey.verifies
    seen: set[tuple[bytes, Signature]] = set()

    def looked_at(key: PublicKey, message: bytes, signature: Signature) -> bool:
        first = (message, signature) not in seen
        seen.add((message, signature))
        return first or verifies(key, message, signature)

    with patch.object(PublicKey, "verifies", looked_at):
        yield


@_bug("a command is taken back although the board has it")
def _withdrawn_after_sent() -> Iterator[None]:
    withdraw = Signing.withdraw

    def withdrawn(signing: Signing) -> bool:
        if signing.state is State.SENT:
            signing.result.errback(NotSent("withdrawn before it reached the HSM"))
            return True
        return withdraw(signing)

    with patch.object(Signing, "withdraw", withdrawn):
        yield
