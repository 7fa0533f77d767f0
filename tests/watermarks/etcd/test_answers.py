"""Answers that are not what etcd gives: the store is away then, and no daemon ends."""

import json
from base64 import b64encode
from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any, cast

from attrs import evolve
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.support.fakeetcd import FakeEtcd
from tests.support.storeconformance import ATTESTATION, BLOCK, MARK
from tezio_signer.errors import StartupError
from tezio_signer.watermarks.claims import Watermarks
from tezio_signer.watermarks.etcd.answers import read_answer
from tezio_signer.watermarks.etcd.gateway import EtcdGateway
from tezio_signer.watermarks.etcd.member import AttemptError, legible, read_body, text
from tezio_signer.watermarks.etcd.store import EtcdStore
from tezio_signer.watermarks.rule import settle
from tezio_signer.watermarks.store import StoreAwayError, StoreError

Answer = dict[str, Any]
_HUGE = 10**400
_DEEP: Any = []
for _ in range(300):
    _DEEP = [_DEEP]
STRANGE: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 1.5, float("inf"), float("nan"), _HUGE, str(_HUGE), "-1"),
    *("", "x", "=", "AA", "AA==", "/w==", "@@@@", "\0", "ä", "\ud800", "false", "1e3", "٣"),
    *([], {}, [[]], [{}], [None], {"a": 1}, ["x", "y"], _DEEP),
)
"""In the place of anything."""


_ANY = text("\0"), text("~")
_BOTH = [{"request_range": {"key": _ANY[0], "range_end": _ANY[1]}} for _ in range(2)]


class StrangeEtcd:
    """An etcd, and something on the way to it that changes its answers."""

    def __init__(self) -> None:
        self.etcd = FakeEtcd()
        self.change: Callable[[Answer], Any] = lambda answer: answer

    async def ask(self, path: str, question: Answer, until: float | None = None) -> Any:
        """Like `EtcdGateway.ask`."""
        return self.change(deepcopy(self.etcd.answer(path, question)))

    def store(self) -> EtcdStore:
        """The store of a new daemon."""
        return EtcdStore(cast(EtcdGateway, self), Clock())


def changes(value: Any) -> Iterator[Callable[[Answer], Answer]]:
    """All ways to take one thing away from an answer, or to put a strange one in its place."""
    for path in _paths(value):
        for strange in STRANGE:
            yield lambda answer, path=path, strange=strange: _put(answer, path, strange)  # type: ignore[misc]
        yield lambda answer, path=path: _without(answer, path)  # type: ignore[misc]


def _paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    keys = (
        value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    )
    for key in keys:
        yield (*path, key)
        yield from _paths(value[key], (*path, key))


def _put(answer: Any, path: tuple[Any, ...], strange: Any) -> Any:
    try:
        inner = answer
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = strange
    except (LookupError, TypeError):
        pass  # another answer than the one that the path is of
    return answer


def _without(answer: Any, path: tuple[Any, ...]) -> Any:
    try:
        inner = answer
        for key in path[:-1]:
            inner = inner[key]
        del inner[path[-1]]
    except (LookupError, TypeError):
        pass
    return answer


class StrangeAnswersTests(SynchronousTestCase):
    """Every part of an answer, replaced by everything."""

    def setUp(self) -> None:
        self.way = StrangeEtcd()
        self.store = self.way.store()
        self.successResultOf(self.store.create())
        self.successResultOf(self.store.load())
        self.successResultOf(self.store.keep(BLOCK, MARK))
        self.successResultOf(self.store.keep(ATTESTATION, MARK))

    def answers(self, act: Callable[[], Deferred[Any]]) -> list[Answer]:
        """What etcd answers meanwhile."""
        seen: list[Answer] = []

        def noted(answer: Answer) -> Answer:
            seen.append(deepcopy(answer))
            return answer

        self.way.change = noted
        self.successResultOf(act())
        self.way.change = lambda answer: answer
        return seen

    def end(self, asking: Deferred[Any]) -> Any:
        """How it ends: with a result, or with an error of the store in one line."""
        ended: list[Any] = []
        asking.addBoth(ended.append)
        (result,) = ended
        if hasattr(result, "check"):
            self.assertIsNotNone(result.check(StoreError), result.getTraceback())
            self.assertTrue(str(result.value).isprintable(), str(result.value)[:400])
            self.assertLess(len(str(result.value)), 400)
            return None
        return result

    def test_reading(self) -> None:
        """Marks are read, or the store is away or damaged."""
        (answer,) = self.answers(lambda: self.way.store().load())
        tried = 0
        for self.way.change in changes(answer):
            self.end(self.way.store().load())
            tried += 1
        self.assertGreater(tried, 500)

    def test_keeping(self) -> None:
        """What is told to be kept is what is there, and nothing lower."""
        state = self.way.etcd.snapshot()
        mark = evolve(MARK, level=MARK.level + 1)
        (answer,) = self.answers(lambda: self.store.keep(BLOCK, mark))
        for change in changes(answer):
            self.way.etcd.restore(state)
            self.way.change = lambda answer: answer
            store = self.way.store()
            self.successResultOf(store.load())
            self.way.change = change
            kept = self.end(store.keep(BLOCK, mark))
            self.way.change = lambda answer: answer
            if kept is not None:
                stored = self.successResultOf(self.way.store().load())[BLOCK]
                self.assertEqual(kept.now, stored)

    def test_keeping_what_is_outdated(self) -> None:
        """A failed comparison shows what is there, or is no answer."""
        behind = self.way.store()
        self.successResultOf(behind.load())
        higher = evolve(MARK, level=MARK.level + 5)
        self.successResultOf(self.store.keep(BLOCK, higher))
        state = self.way.etcd.snapshot()
        mark = evolve(MARK, level=MARK.level + 1)
        (answer,) = self.answers(lambda: behind.keep(BLOCK, mark))
        for change in changes(answer):
            self.way.etcd.restore(state)
            store = self.way.store()
            store._marker = behind._marker
            first = iter([change])
            self.way.change = lambda answer, first=first: next(first, lambda same: same)(answer)  # type: ignore[misc]
            kept = self.end(store.keep(BLOCK, mark))
            self.way.change = lambda answer: answer
            stored = self.successResultOf(self.way.store().load())[BLOCK]
            self.assertEqual(settle(stored, higher), stored)
            if kept is not None and kept.now == mark:
                self.assertEqual(stored, mark)

    def test_commands(self) -> None:
        """Making a store and replacing marks end with a sentence, too."""
        for act in (
            lambda store: store.create(),
            lambda store: store.replace({BLOCK: MARK}),
        ):
            state = self.way.etcd.snapshot()
            act = cast(Callable[[EtcdStore], Deferred[Any]], act)
            seen: list[Answer] = []
            self.way.change = lambda answer, seen=seen: seen.append(deepcopy(answer)) or answer  # type: ignore[misc]
            self.end(act(self.store))
            for answer in seen:
                for self.way.change in changes(answer):
                    self.way.etcd.restore(state)
                    self.end(act(self.way.store()))
            self.way.change = lambda answer: answer
            self.way.etcd.restore(state)

    def test_no_daemon_ends(self) -> None:
        """A daemon that starts meanwhile waits, and reads the marks when etcd answers again.

        Only what is in etcd as a whole answer, and is no mark, ends it; that is told apart.
        """
        (answer,) = self.answers(lambda: self.way.store().load())
        for change in changes(answer):
            ended: list[StartupError] = []
            clock = Clock()
            self.way.change = change
            changed = change(deepcopy(answer))
            watermarks = Watermarks(self.way.store, {}, clock, ended.append)
            try:
                watermarks.startService()
            except StartupError as error:
                self.assertTrue(_is_whole(changed), f"{error} after {changed}")
                continue
            self.way.change = lambda answer: answer
            clock.advance(10)
            self.assertIsNone(watermarks._reading.missing, changed)
            self.assertEqual(ended, [])
            watermarks._reading.stop()

    def test_broken_base64(self) -> None:
        """What was reported: a value that is no Base64."""
        for name in ("key", "value"):

            def broken(answer: Answer, name: str = name) -> Answer:
                answer["responses"][1]["response_range"]["kvs"][0][name] = "not Base64!"
                return answer

            self.way.change = broken
            error = self.failureResultOf(self.way.store().load(), StoreAwayError).value
            self.assertIn("not an etcd JSON gateway", str(error))
            self.assertIn("no Base64", str(error))

    def test_true_is_true(self) -> None:
        """Only `true` says that a mark was written; a text that says so does not."""
        for strange in ("true", "false", 1, [True], {"a": True}):
            self.way.change = lambda answer, strange=strange: {**answer, "succeeded": strange}  # type: ignore[misc]
            mark = evolve(MARK, level=MARK.level + 1)
            self.failureResultOf(self.store.keep(BLOCK, mark), StoreAwayError)

    def test_no_end(self) -> None:
        """Who says that there is more, and shows nothing, or the same again, is no etcd."""

        def more(answer: Answer) -> Answer:
            answer["responses"][1]["response_range"]["more"] = True
            return answer

        def empty(answer: Answer) -> Answer:
            answer["responses"][1]["response_range"] = {"more": True}
            return answer

        (answer,) = self.answers(lambda: self.way.store().load())
        for change in (more, empty, lambda _: more(deepcopy(answer))):
            self.way.change = cast(Callable[[Answer], Answer], change)
            self.failureResultOf(self.way.store().load(), StoreAwayError)


class ShapeTests(SynchronousTestCase):
    """One thing that is wrong, in an answer that is right otherwise."""

    def read(self, found: Answer, key: str = "b", revision: object = "7", **more: Any) -> Any:
        """What a range request of this key shows."""
        asked = {"request_range": {"key": text(key), **more}}
        answer = {"header": {"revision": revision}, "succeeded": True}
        return read_answer({**answer, "responses": [{"response_range": found}]}, [], [asked], [])

    def assert_wrong(self, why: str, *arguments: Any, **more: Any) -> None:
        """Check that this is no answer."""
        with self.assertRaises(StoreAwayError) as raised:
            self.read(*arguments, **more)
        self.assertIn(why, str(raised.exception))

    def test_keys(self) -> None:
        """Other keys than were asked for, or one twice, are none of an answer."""
        a, b, c, d = ({"key": text(key), "value": text(key)} for key in "abcd")
        end = text("d")
        self.assertEqual(self.read({"kvs": [b]}).value(0), "b")
        self.assertEqual(self.read({"kvs": [b, c]}, range_end=end).shown, ({"b": "b", "c": "c"},))
        for found in ([a], [c], [b, c], [b, b]):
            self.assert_wrong("other keys", {"kvs": found})
        for found in ([a, b], [b, d], [c, b, c]):
            self.assert_wrong("other keys", {"kvs": found}, range_end=end)

    def test_more(self) -> None:
        """There are more than are shown only where a limit was reached."""
        b: Answer = {"key": text("b")}
        self.assertEqual(self.read({"kvs": [b], "more": True}, limit="1").value(0), "")
        strange: tuple[Answer, ...] = ({"more": True}, {"kvs": [b], "more": True})
        for found in strange:
            self.assert_wrong("more keys", found)
            self.assert_wrong("more keys", found, limit="2")

    def test_revision(self) -> None:
        """A revision has 63 bits, and is not 0."""
        for right in (1, 2**63 - 1, "1", str(2**63 - 1)):
            self.assertEqual(self.read({}, revision=right).revision, int(cast(str, right)))
        for wrong in (0, -1, 2**63, "0", str(2**63), "", None, True):
            self.assert_wrong("revision", {}, "b", wrong)

    def test_base64(self) -> None:
        """What is written between the letters of Base64 is not skipped."""
        self.assert_wrong("no Base64", {"kvs": [{"key": text("b"), "value": "e!30="}]})


def _is_whole(answer: Answer) -> bool:
    """Whether an answer is one of etcd by its shape, so that only its content can be wrong."""
    try:
        read_answer(answer, [], _BOTH, [])
    except StoreAwayError:
        return False
    return True


class BodiesTests(SynchronousTestCase):
    """Bodies of answers, as bytes."""

    def test_no_object(self) -> None:
        """Whatever bytes and whatever status: an object, or an attempt that has failed."""
        bodies = [
            *(b"", b"\xff\xfe", b"\xff", b"null", b"[]", b"7", b'"a"', b"{", b'{"a": NaN}'),
            *(b"{}", b"1" * 5000, b'{"a": ' + b"1" * 5000 + b"}", b"[" * 100_000),
            *(b'{"message": ' + b"[" * 500 + b"]" * 500 + b', "code": {}}', b'{"code": [16]}'),
            *('{"message": "ä"}'.encode("utf-16"), b'{"message": 7, "error": {"a": []}}'),
            *(b"<html>" * 1000, b'{"error": "\\ud800", "code": 1e999}', b"\0" * 100),
        ]
        for body in bodies:
            for status in (100, 200, 204, 301, 400, 401, 403, 404, 500, 503, 999):
                try:
                    answer = read_body(status, body)
                except AttemptError as error:
                    self.assertTrue(legible(str(error)).isprintable())
                else:
                    self.assertIsInstance(answer, dict)
                    self.assertEqual(status, 200)

    def test_encoded(self) -> None:
        """What a real answer holds is read as it was written."""
        value = b64encode(json.dumps({"a": "ä"}).encode()).decode()
        self.assertEqual(read_body(200, json.dumps({"a": value}).encode()), {"a": value})
