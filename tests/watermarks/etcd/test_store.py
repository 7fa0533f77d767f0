"""The store in etcd: what it asks for, and what it keeps while others do so too."""

import json
from typing import Any, cast

from attrs import evolve

from tests.support.etcdcase import HIGHER, KEY, LOWER, MARKER, EtcdTestCase, a_mark
from tests.support.fakeetcd import FakeEtcd, FakeGateway
from tests.support.storeconformance import ATTESTATION, BLOCK, MARK, OTHER, SIGNED
from tests.support.vectors import TZ2, TZ3, block
from tezio_signer.errors import Conflict
from tezio_signer.tezos.keys import Curve, Signature
from tezio_signer.tezos.payload import BAKING_OPERATIONS, Baking, Operation, decode
from tezio_signer.watermarks.claims import MAX_CHAINS, Watermarks
from tezio_signer.watermarks.entry import Entry
from tezio_signer.watermarks.etcd import member
from tezio_signer.watermarks.etcd import store as etcd
from tezio_signer.watermarks.etcd.gateway import PATIENCE
from tezio_signer.watermarks.rule import Mark, MarkId
from tezio_signer.watermarks.store import Kept, StoreAwayError


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
        asked = question["success"][1]["request_range"]
        self.assertEqual(asked["limit"], str(etcd.MOST_MARKS + 1))
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

    def test_unread(self) -> None:
        """Nothing is kept in a store that was not read."""
        self.failureResultOf(self.daemon()[1].keep(BLOCK, MARK), StoreAwayError)


class SharedTests(EtcdTestCase):
    """Several daemons use it."""

    def test_learned(self) -> None:
        """What another daemon has kept is known soon, before it is asked for."""
        watermarks = Watermarks(lambda: self.store, {}, self.clock)
        watermarks.startService()
        self.addCleanup(watermarks.stopService)
        _, other = self.daemon()
        self.load(other)
        self.successResultOf(other.keep(BLOCK, HIGHER))
        self.clock.advance(5)
        before, data = len(self.gateway.asked), block(100, 0)
        self.assertRaises(Conflict, watermarks.claim, TZ3, cast(Baking, decode(data)), data)
        self.assertEqual(len(self.gateway.asked), before)


class TakeOverTests(EtcdTestCase):
    """What an importing command brings, with the daily ledger."""

    def test_taken_over(self) -> None:
        """Marks are replaced, also by lower ones, others stay, and entries are beside them."""
        self.keep(HIGHER)
        self.keep(MARK, ATTESTATION)
        spending = {TZ3: {b"\x07" * 32: Entry(1, 2, 3)}}
        self.successResultOf(self.store.take_over({BLOCK: LOWER}, spending))
        _, other = self.daemon()
        self.assertEqual(self.load(other), {BLOCK: LOWER, ATTESTATION: MARK})
        (entries,) = self.successResultOf(other.read_spending()).values()
        self.assertEqual([(e.at, e.mutez, e.operations) for e in entries.values()], [(1, 2, 3)])


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
        """Of two payloads at one position, the one that arrives first is kept for both."""
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

    def test_first_signature(self) -> None:
        """Another daemon's signature of the same payload is kept, not ours."""
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

    def test_signature_has_half_the_time(self) -> None:
        """Who waits for a signature to be stored has waited for its claim already."""
        self.gateway.silent = True
        signature = self.store.keep(BLOCK, SIGNED)
        self.clock.advance(PATIENCE / 2 - 0.01)
        self.assertNoResult(signature)
        self.clock.advance(0.01)
        self.failureResultOf(signature, StoreAwayError)

    def test_busy_with_an_earlier_claim(self) -> None:
        """Who has waited in vain behind another claim asks nothing, nor lets others pass it."""
        self.gateway.silent = True
        self.gateway.asked.clear()
        first, second = self.store.keep(BLOCK, MARK), self.store.keep(BLOCK, SIGNED)
        self.clock.advance(PATIENCE / 2)
        error = self.failureResultOf(second, StoreAwayError)
        self.assertIn("busy with an earlier claim", str(error.value))
        third = self.store.keep(BLOCK, HIGHER)
        self.assertEqual(len(self.gateway.asked), 1)
        self.gateway.silent = False
        self.clock.advance(PATIENCE / 2)
        self.failureResultOf(first, StoreAwayError)
        self.assertEqual(self.successResultOf(third), Kept(None, HIGHER))

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
