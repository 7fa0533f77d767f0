"""The store in etcd: what it asks for, and what it makes of an etcd that is not as it left it."""

import json
from collections.abc import Callable
from typing import Any

from attrs import evolve
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import LogLevel, capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from tests.support.fakeetcd import FakeEtcd, FakeGateway, Kv, store_through
from tests.support.storeconformance import ATTESTATION, BLOCK, MARK, OTHER, SIGNED
from tests.support.vectors import TZ1, TZ2, TZ3
from tezio_signer.tezos import base58check
from tezio_signer.tezos.base58check import Base58Type
from tezio_signer.tezos.keys import Curve, Signature
from tezio_signer.tezos.payload import Operation
from tezio_signer.watermarks.claims import MAX_CHAINS
from tezio_signer.watermarks.etcd import member
from tezio_signer.watermarks.etcd import store as etcd
from tezio_signer.watermarks.etcd.gateway import PATIENCE
from tezio_signer.watermarks.etcd.store import EtcdStore
from tezio_signer.watermarks.rule import BAKING_OPERATIONS, Mark, MarkId
from tezio_signer.watermarks.store import Kept, StoreAwayError, StoreError

MARKER = b"tezio-signer/store"
KEY = "tezio-signer/marks/NetXdQprcVkpaWU/tz3MyarJihHrejsze59J2Seita7jYWDCJDPe/block"
HIGHER = Mark(101, 0, b"\x03" * 32)
LOWER = Mark(99, 0, b"\x04" * 32)


def a_mark(number: int) -> tuple[MarkId, Mark]:
    """One of many marks, each of a chain of its own."""
    chain = base58check.encode(Base58Type.CHAIN_ID, number.to_bytes(4, "big"))
    return MarkId(chain, TZ1, Operation.BLOCK), Mark(number + 1, 0, b"\x06" * 32)


class EtcdTestCase(SynchronousTestCase):
    """Has a daemon's store, read, in an etcd in memory."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.etcd = FakeEtcd()
        self.gateway, self.store = self.daemon()
        self.successResultOf(self.store.create())
        self.load()

    def daemon(self) -> tuple[FakeGateway, EtcdStore]:
        """The way and the store of one more daemon."""
        gateway = FakeGateway(self.etcd, self.clock)
        return gateway, store_through(gateway, self.clock)

    def load(self, store: EtcdStore | None = None) -> dict[MarkId, Mark]:
        """The marks as a store gives them."""
        return self.successResultOf((store or self.store).load())

    def keep(self, mark: Mark, mark_id: MarkId = BLOCK) -> Kept:
        """What becomes of a mark."""
        return self.successResultOf(self.store.keep(mark_id, mark))

    def refused(self, asking: Deferred[Any]) -> str:
        """Why the store is none."""
        error = self.failureResultOf(asking, StoreError).value
        self.assertNotIsInstance(error, StoreAwayError)
        return str(error)

    def critical(self, act: Callable[[], object]) -> list[str]:
        """What is said at the highest level while something is done."""
        with capturedLogs() as events:
            act()
        return [formatEvent(e) for e in events if e["log_level"] is LogLevel.critical]


class LayoutTests(EtcdTestCase):
    """What is written where: other versions have to read it."""

    def test_mark(self) -> None:
        """A mark is JSON under chain, key and operation."""
        self.keep(MARK)
        self.assertEqual(
            json.loads(self.etcd.kvs[KEY.encode()].value),
            {
                "chain": "NetXdQprcVkpaWU",
                "key": "tz3MyarJihHrejsze59J2Seita7jYWDCJDPe",
                "operation": "block",
                "level": 100,
                "round": 2,
                "payload_hash": "01" * 32,
                "signature": None,
            },
        )

    def test_marker(self) -> None:
        """The marker says the format, and has an id of its own."""
        first = json.loads(self.etcd.kvs[MARKER].value)
        self.etcd = FakeEtcd()
        self.successResultOf(self.daemon()[1].create())
        second = json.loads(self.etcd.kvs[MARKER].value)
        self.assertEqual((first["format"], second["format"]), (1, 1))
        self.assertNotEqual(first["id"], second["id"])

    def test_close(self) -> None:
        """Closing closes the connections."""
        self.successResultOf(self.store.close())
        self.assertTrue(self.gateway.closed)


class LoadTests(EtcdTestCase):
    """Reading, the first time and again."""

    def fill(self, number: int) -> None:
        """Have etcd hold so many marks, of the longest texts that there are."""
        last = Mark(2**31 - 1, 2**31 - 1, b"\xff" * 32, Signature(Curve.SECP256K1, b"\xff" * 64))
        self.etcd.revision = 2**63 - 10 * etcd.MOST_MARKS
        for chain in range(number):
            mark_id = MarkId(a_mark(chain)[0].chain_id, TZ2, Operation.PREATTESTATION)
            self.etcd.put(etcd._key(mark_id), etcd._json(mark_id, last))

    def test_most(self) -> None:
        """As many marks as there may be are read by one question, whose answer is short enough."""
        self.fill(etcd.MOST_MARKS)
        gateway, store = self.daemon()
        self.assertEqual(len(self.load(store)), etcd.MOST_MARKS)
        (question,) = gateway.asked
        answer = json.dumps(self.etcd.answer("/v3/kv/txn", question))
        self.assertLess(len(answer), 750 * etcd.MOST_MARKS)
        self.assertLess(750 * etcd.MOST_MARKS, member.MAX_ANSWER)

    def test_all_chains_and_keys(self) -> None:
        """So many are the marks of a hundred keys on all chains that a key may have."""
        self.assertEqual(etcd.MOST_MARKS, 100 * MAX_CHAINS * len(BAKING_OPERATIONS))

    def test_too_many(self) -> None:
        """One more is none of them left out: the store is refused, and it is said what to do."""
        self.patch(etcd, "MOST_MARKS", 3)
        self.fill(4)
        for store in (self.store, self.daemon()[1]):
            sentence = self.refused(store.load())
            self.assertIn("more than 3 watermarks in etcd", sentence)
            self.assertIn("etcdctl del", sentence)

    def test_no_room(self) -> None:
        """A mark that would be one too many is not written; those that are there move on."""
        self.patch(etcd, "MOST_MARKS", 3)
        for mark_id, mark in map(a_mark, range(3)):
            self.keep(mark, mark_id)
        self.assertIn("may hold 3 watermarks", self.refused(self.store.keep(*a_mark(3))))
        self.refused(self.store.replace(dict([a_mark(0), a_mark(3)])))
        self.successResultOf(self.store.replace(dict([a_mark(0)])))
        self.keep(HIGHER, a_mark(2)[0])
        self.assertEqual(len(self.load()), 3)

    def test_room_again(self) -> None:
        """Marks that were deleted make room."""
        self.patch(etcd, "MOST_MARKS", 1)
        self.keep(MARK)
        del self.etcd.kvs[KEY.encode()]
        self.etcd.revision += 1
        self.load()
        self.keep(MARK, ATTESTATION)

    def test_all_each_time(self) -> None:
        """Each reading shows all marks, with what has changed since the one before."""
        gateway, other = self.daemon()
        self.keep(MARK)
        self.keep(MARK, ATTESTATION)
        self.assertEqual(self.load(other), {BLOCK: MARK, ATTESTATION: MARK})
        self.keep(HIGHER)
        self.assertEqual(self.load(other), {BLOCK: HIGHER, ATTESTATION: MARK})
        self.assertEqual(len(gateway.asked), 2)

    def test_read_once(self) -> None:
        """A text that was read before is not read again: that is what costs time."""
        self.keep(MARK)
        self.load()
        self.patch(etcd, "read_row", None)
        self.assertEqual(self.load(), {BLOCK: MARK})

    def test_answer_that_is_older_than_a_swap(self) -> None:
        """A page that was read before a swap and arrives after it takes nothing back."""
        self.keep(MARK)
        self.gateway.slow = True
        loading = self.store.load()
        self.gateway.slow = False
        self.keep(HIGHER)
        self.assertEqual(self.critical(self.gateway.deliver), [])
        self.assertEqual(self.successResultOf(loading), {BLOCK: HIGHER})

    def test_swap_that_is_older_than_an_answer(self) -> None:
        """A refusal that arrives after a newer page takes nothing back either."""
        self.load()
        _, other = self.daemon()
        self.load(other)
        self.successResultOf(other.keep(BLOCK, MARK))
        self.gateway.slow = True
        keeping = self.store.keep(BLOCK, LOWER)
        self.successResultOf(other.keep(BLOCK, HIGHER))
        loading = self.store.load()
        self.gateway.deliver(1)
        self.successResultOf(loading)
        self.assertEqual(self.critical(self.gateway.deliver), [])
        self.assertEqual(self.successResultOf(keeping), Kept(HIGHER, HIGHER))

    def test_unread(self) -> None:
        """Nothing is kept in a store that was not read."""
        self.failureResultOf(self.daemon()[1].keep(BLOCK, MARK), StoreAwayError)


class LostAnswerTests(EtcdTestCase):
    """What was done, though nobody heard of it."""

    def test_keep(self) -> None:
        """A mark that was kept unheard is found when it is brought again."""
        self.gateway.lost = 1
        self.failureResultOf(self.store.keep(BLOCK, MARK), StoreAwayError)
        self.assertEqual(self.keep(MARK), Kept(MARK, MARK))
        self.assertEqual(self.keep(HIGHER), Kept(MARK, HIGHER))

    def test_another_payload(self) -> None:
        """What was kept unheard is not replaced by another payload at its position."""
        self.gateway.lost = 1
        self.failureResultOf(self.store.keep(BLOCK, MARK), StoreAwayError)
        other = evolve(MARK, payload_hash=b"\x09" * 32)
        self.assertEqual(self.keep(other), Kept(MARK, MARK))

    def _twice(self, path: str, question: dict[str, Any], until: float | None = None) -> Any:
        """The first member does it, and dies; the second one is asked the same."""
        self.etcd.answer(path, question)
        return FakeGateway(self.etcd, self.clock).ask(path, question, until)

    def test_keep_twice(self) -> None:
        """A question that is carried out by two members moves a mark once."""
        self.patch(self.gateway, "ask", self._twice)
        self.assertEqual(self.keep(MARK).now, MARK)
        self.assertEqual(self.load(), {BLOCK: MARK})

    def test_create_twice(self) -> None:
        """A store that was made unheard is made."""
        self.etcd = FakeEtcd()
        gateway, store = self.daemon()
        self.patch(gateway, "ask", self._twice)
        self.successResultOf(store.create())
        self.assertEqual(self.load(store), {})

    def test_replace_twice(self) -> None:
        """What was replaced unheard is replaced."""
        self.patch(self.gateway, "ask", self._twice)
        self.successResultOf(self.store.replace({BLOCK: MARK}))
        self.assertEqual(self.load(self.daemon()[1]), {BLOCK: MARK})


class BackInTimeTests(EtcdTestCase):
    """A backup of etcd was restored, or an operator lowered a mark."""

    def test_restored(self) -> None:
        """All is read again, it is said, and marks of the backup that are lower do not count."""
        self.keep(MARK)
        backup = self.etcd.snapshot()
        self.keep(HIGHER)
        self.keep(MARK, ATTESTATION)
        self.etcd.restore(backup)
        said = self.critical(self.load)
        self.assertIn("gone back in time", said[0])
        self.assertIn("lowered", said[1])
        self.assertIn(str(TZ3), said[1])
        self.assertEqual(self.keep(MARK, ATTESTATION).now, MARK)

    def test_swap_heard_before(self) -> None:
        """Also what only a swap has told of the revision counts."""
        backup = self.etcd.snapshot()
        self.keep(MARK)
        self.etcd.restore(backup)
        self.assertIn("gone back in time", self.critical(self.load)[0])

    def test_not_in_the_backup(self) -> None:
        """A mark that is not in the backup is not given any more, and it is said."""
        backup = self.etcd.snapshot()
        self.keep(MARK)
        self.load()
        self.etcd.restore(backup)
        said = self.critical(lambda: self.assertEqual(self.load(), {}))
        self.assertEqual(["or is gone" in sentence for sentence in said], [False, True])

    def test_newer_revision(self) -> None:
        """A backup whose revision does not go back is noticed by the next reading too."""
        self.keep(MARK)
        backup = self.etcd.snapshot()
        self.keep(HIGHER)
        self.keep(MARK, ATTESTATION)
        self.load()
        self.etcd.restore(backup)
        self.etcd.revision += 1000
        said = self.critical(lambda: self.assertEqual(self.load(), {BLOCK: MARK}))
        self.assertEqual(["lowered" in sentence for sentence in said], [True, True])

    def test_keep_after_it(self) -> None:
        """A higher mark is written over what the backup holds."""
        backup = self.etcd.snapshot()
        self.keep(MARK)
        self.etcd.restore(backup)
        self.load()
        self.assertEqual(self.keep(HIGHER).now, HIGHER)
        self.assertEqual(self.load(self.daemon()[1]), {BLOCK: HIGHER})

    def test_keep_before_it_is_noticed(self) -> None:
        """Also when nothing was read since; the swap notices it, and that the mark was lowered."""
        self.keep(MARK)
        backup = self.etcd.snapshot()
        self.keep(HIGHER)
        self.etcd.restore(backup)
        higher = Mark(102, 0, b"\x07" * 32)
        said = self.critical(lambda: self.keep(higher))
        self.assertEqual(len(said), 2)
        self.assertIn("gone back in time", said[0])
        self.assertIn("lowered", said[1])
        self.assertEqual(self.load(self.daemon()[1]), {BLOCK: higher})

    def test_revision_that_comes_twice(self) -> None:
        """What came after the backup at a revision of before is not taken for what was there."""
        backup = self.etcd.snapshot()
        self.keep(MARK)
        self.etcd.restore(backup)
        _, other = self.daemon()
        self.load(other)
        self.successResultOf(other.keep(BLOCK, HIGHER))
        self.assertEqual(self.keep(evolve(HIGHER, payload_hash=b"\x09" * 32)).now, HIGHER)

    def test_lowered(self) -> None:
        """A mark that an operator lowers beside a daemon is noticed by it."""
        self.keep(HIGHER)
        _, operator = self.daemon()
        self.load(operator)
        self.successResultOf(operator.replace({BLOCK: LOWER}))
        said = self.critical(self.load)
        self.assertEqual(len(said), 1)
        self.assertIn("the mark of tz3", said[0])

    def test_no_alarm(self) -> None:
        """Marks that move up, and signatures that come, alarm nobody."""
        _, other = self.daemon()
        self.load(other)
        for mark in (MARK, SIGNED, HIGHER):
            self.keep(mark)
            self.assertEqual(self.critical(lambda: self.load(other)), [])

    def test_answers_from_before(self) -> None:
        """What was asked before it was noticed says it no second time, and takes nothing back."""
        self.keep(MARK)
        backup = self.etcd.snapshot()
        self.keep(HIGHER)
        self.keep(MARK, ATTESTATION)
        self.etcd.restore(backup)
        self.gateway.slow = True
        early, late = self.store.load(), self.store.load()
        self.etcd.put(KEY, etcd._json(BLOCK, SIGNED))
        last = self.store.load()
        with capturedLogs():
            self.gateway.deliver(2)
        self.assertEqual(self.successResultOf(last), {BLOCK: SIGNED})
        self.assertEqual(self.critical(self.gateway.deliver), [])
        self.assertEqual(self.critical(self.gateway.deliver), [])
        for loaded in (early, late):
            self.assertEqual(self.successResultOf(loaded), {BLOCK: SIGNED})

    def test_answer_of_the_time_before(self) -> None:
        """An answer from before a backup was restored that comes behind it is put right."""
        self.keep(MARK)
        backup = self.etcd.snapshot()
        self.keep(HIGHER)
        self.keep(HIGHER, ATTESTATION)
        self.gateway.slow = True
        late = self.store.load()
        self.etcd.restore(backup)
        self.gateway.slow = False
        with capturedLogs():
            self.load()
            self.gateway.deliver()
        self.successResultOf(late)
        with capturedLogs():
            self.assertEqual(self.load(), {BLOCK: MARK})


class MarkerTests(EtcdTestCase):
    """Which store this is."""

    def put_marker(self, value: bytes | str) -> None:
        """Put something in the marker's place."""
        self.etcd.put("tezio-signer/store", value)

    def test_create_twice(self) -> None:
        """A store that exists is left alone."""
        self.keep(MARK)
        _, other = self.daemon()
        self.assertIn("already", self.refused(other.create()))
        self.assertEqual(self.load(other), {BLOCK: MARK})

    def test_another_when_keeping(self) -> None:
        """Nothing is kept in another store than the one that was read."""
        self.put_marker('{"format": 1, "id": "another"}')
        self.assertIn("another", self.refused(self.store.keep(BLOCK, MARK)))
        self.assertNotIn(KEY.encode(), self.etcd.kvs)

    def test_another_when_reading(self) -> None:
        """Reading again does not make another store ours."""
        self.put_marker('{"format": 1, "id": "another"}')
        self.assertIn("stop all signers", self.refused(self.store.load()))
        self.refused(self.store.keep(BLOCK, MARK))

    def test_gone(self) -> None:
        """Without its marker a store is none, to who reads and to who keeps."""
        del self.etcd.kvs[MARKER]
        for asking in (self.store.load(), self.store.keep(BLOCK, MARK)):
            self.assertIn("tezio-signer watermarks init", self.refused(asking))

    def test_damaged(self) -> None:
        """What is no marker is not taken for one."""
        for value in (b"", b"\xff", "[]", "1", "{}", "[" * 100_000):
            self.put_marker(value)
            self.assertIn("is not the marker", self.refused(self.daemon()[1].load()))

    def test_newer_format(self) -> None:
        """A store of a later version is left to that version."""
        self.put_marker('{"format": 2}')
        self.assertIn("format 2, not 1", self.refused(self.daemon()[1].load()))


class DamageTests(EtcdTestCase):
    """What nobody of us has written."""

    def assert_damaged(self, word: str) -> None:
        """Neither a new daemon nor a running one takes it for a mark."""
        for store in (self.daemon()[1], self.store):
            self.assertIn(word, self.refused(store.load()))

    def test_values(self) -> None:
        """A value that is no mark is an error which names its key."""
        good = json.loads(etcd._json(BLOCK, MARK))
        for value in (
            b"",
            b"\xff\xfe",
            "no JSON",
            "[]",
            "[" * 100_000,
            json.dumps({**good, "level": -1}),
            json.dumps({**good, "level": "100"}),
            json.dumps({**good, "payload_hash": "00"}),
            json.dumps({**good, "signature": "sig"}),
            json.dumps({**good, "more": 1}),
        ):
            self.etcd.put(KEY, value)
            self.assert_damaged("damaged")

    def test_value_of_another_key(self) -> None:
        """A mark that was copied under another key is an error."""
        self.etcd.put(KEY, etcd._json(ATTESTATION, MARK))
        self.assert_damaged("another key")

    def test_keys(self) -> None:
        """A key that is none of a mark is an error which names it."""
        for key in (
            b"tezio-signer/marks/stray",
            KEY.encode() + b"/more",
            KEY.replace("block", "generic").encode(),
            KEY.encode() + b"\xff",
        ):
            self.etcd.revision += 1
            self.etcd.kvs = {
                MARKER: self.etcd.kvs[MARKER],
                key: Kv(b"{}", self.etcd.revision, self.etcd.revision),
            }
            self.assert_damaged(key.decode(errors="backslashreplace"))

    def test_keep(self) -> None:
        """What is damaged is not written over."""
        self.etcd.put(KEY, "no JSON")
        self.assertIn("damaged", self.refused(self.store.keep(BLOCK, MARK)))
        self.assertEqual(self.etcd.kvs[KEY.encode()].value, b"no JSON")

    def test_no_etcd(self) -> None:
        """What answers with other JSON is away, not empty."""
        header = {"revision": "1"}
        answers: tuple[dict[str, Any], ...] = (
            {},
            {"header": []},
            {"header": header},
            {"header": header, "succeeded": True},
            {"header": header, "succeeded": True, "responses": [{}, {}]},
        )
        for answer in answers:
            self.patch(self.etcd, "answer", lambda *_, answer=answer: answer)
            error = self.failureResultOf(self.store.load(), StoreAwayError)
            self.assertIn("not an etcd JSON gateway", str(error.value))


class ReplaceTests(EtcdTestCase):
    """What an operator does by hand."""

    def test_lowers(self) -> None:
        """A mark may go down, and signatures may go."""
        self.keep(evolve(HIGHER, signature=OTHER))
        self.load()
        self.successResultOf(self.store.replace({BLOCK: LOWER}))
        self.assertEqual(self.load(self.daemon()[1]), {BLOCK: LOWER})

    def test_beside_a_daemon(self) -> None:
        """A mark that a daemon has moved since is not replaced, nor are the others with it."""
        _, operator = self.daemon()
        self.load(operator)
        self.keep(HIGHER)
        self.assertIn("moved", self.refused(operator.replace({ATTESTATION: MARK, BLOCK: LOWER})))
        self.assertEqual(self.load(), {BLOCK: HIGHER})

    def test_first_mark_beside_a_daemon(self) -> None:
        """A mark that came to be since counts as moved."""
        self.keep(MARK, ATTESTATION)
        _, operator = self.daemon()
        self.load(operator)
        self.keep(HIGHER)
        self.refused(operator.replace({BLOCK: LOWER}))
        self.assertEqual(self.load()[BLOCK], HIGHER)

    def test_many(self) -> None:
        """So many at once that etcd would refuse a single transaction are put in several."""
        marks = dict(a_mark(number) for number in range(250))
        self.gateway.asked.clear()
        self.successResultOf(self.store.replace(marks))
        self.assertEqual([len(asked["success"]) for asked in self.gateway.asked], [100, 100, 50])
        self.assertEqual(self.load(self.daemon()[1]), marks)

    def test_nothing(self) -> None:
        """To replace nothing asks nothing."""
        self.gateway.asked.clear()
        self.successResultOf(self.store.replace({}))
        self.assertEqual(self.gateway.asked, [])


class RaceTests(EtcdTestCase):
    """Several daemons, and several claims of one."""

    def setUp(self) -> None:
        super().setUp()
        self.other_gateway, self.other = self.daemon()
        self.load(self.other)

    def test_first_comes_first(self) -> None:
        """Of two payloads at one position, the one that arrives first stands for both."""
        other = evolve(MARK, payload_hash=b"\x09" * 32)
        self.gateway.slow = self.other_gateway.slow = True
        first, second = self.store.keep(BLOCK, MARK), self.other.keep(BLOCK, other)
        self.other_gateway.deliver()
        self.gateway.deliver()
        self.assertEqual(self.successResultOf(first), Kept(None, MARK))
        self.assertEqual(self.successResultOf(second), Kept(MARK, MARK))

    def test_higher_goes_on(self) -> None:
        """Who has lost to a lower mark puts his own over it, and knows what was there."""
        self.successResultOf(self.other.keep(BLOCK, SIGNED))
        self.assertEqual(self.keep(HIGHER), Kept(SIGNED, HIGHER))

    def test_page_of_before_a_swap(self) -> None:
        """What was read before a swap, and comes behind its answer, is not taken for newer."""
        self.successResultOf(self.other.keep(BLOCK, MARK))
        self.gateway.slow = True
        reading, kept = self.store.load(), self.store.keep(BLOCK, HIGHER)
        for _ in range(2):  # the swap has to learn of the other daemon's mark first
            self.gateway.deliver(1)
        self.assertEqual(self.successResultOf(kept), Kept(MARK, HIGHER))
        self.assertEqual(self.critical(self.gateway.deliver), [])
        self.assertEqual(self.successResultOf(reading), {BLOCK: HIGHER})

    def test_first_signature(self) -> None:
        """Another daemon's signature of the same payload stands, not ours."""
        self.keep(MARK)
        self.successResultOf(self.other.keep(BLOCK, SIGNED))
        kept = self.keep(evolve(MARK, signature=OTHER))
        self.assertEqual(kept.now, SIGNED)

    def test_one_at_a_time(self) -> None:
        """A mark is swapped when the swap before it is answered; other marks do not wait."""
        self.gateway.slow = True
        self.gateway.asked.clear()
        first, second = self.store.keep(BLOCK, MARK), self.store.keep(BLOCK, HIGHER)
        self.store.keep(ATTESTATION, MARK)
        self.assertEqual(len(self.gateway.asked), 2)
        self.gateway.deliver()
        self.successResultOf(first)
        self.gateway.deliver(1)
        self.assertEqual(self.successResultOf(second), Kept(MARK, HIGHER))

    def test_waiting_ends_in_time(self) -> None:
        """Who waits behind another claim of the same mark is refused no later than that one."""
        self.gateway.silent = True
        first = self.store.keep(BLOCK, MARK)
        self.clock.advance(PATIENCE / 2)
        second = self.store.keep(BLOCK, HIGHER)
        self.clock.advance(PATIENCE / 2)
        self.failureResultOf(first, StoreAwayError)
        self.assertNoResult(second)
        self.clock.advance(PATIENCE / 2)
        self.failureResultOf(second, StoreAwayError)

    def test_goes_on_after_a_failure(self) -> None:
        """A claim that waited behind a failed one is kept if etcd is back."""
        self.gateway.silent = True
        first = self.store.keep(BLOCK, MARK)
        self.clock.advance(PATIENCE / 2)
        second = self.store.keep(BLOCK, HIGHER)
        self.gateway.silent = False
        self.clock.advance(PATIENCE / 2)
        self.failureResultOf(first, StoreAwayError)
        self.assertEqual(self.successResultOf(second), Kept(None, HIGHER))
