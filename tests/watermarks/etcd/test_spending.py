"""Entries of the daily ledger in an etcd, as several daemons write them."""

import json

from tests.support.etcdcase import MARKER, EtcdTestCase
from tests.support.fakeetcd import FakeGateway
from tests.support.vectors import TZ1, TZ3
from tezio_signer.watermarks.entry import MOST_ENTRIES, Entries, Entry
from tezio_signer.watermarks.etcd.store import EtcdStore
from tezio_signer.watermarks.store import Spent, StoreAwayError, StoreError

A, B, C = (bytes([n]) * 32 for n in (1, 2, 3))
FIRST, SECOND = Entry(100, 5, 1, "me"), Entry(101, 6, 2, "other")
NAME = f"tezio-signer/spending/{TZ1}/{A.hex()}"


class SpendingTests(EtcdTestCase):
    """One daemon, or two."""

    def another(self) -> tuple[FakeGateway, EtcdStore]:
        """Another daemon, which has read the store."""
        gateway, store = self.daemon()
        self.load(store)
        return gateway, store

    def spent(self, store: EtcdStore | None = None) -> Entries:
        """All entries of a key."""
        return self.successResultOf((store or self.store).spent(TZ1))

    def spend(
        self, entries: Entries, store: EtcdStore | None = None, forgotten: tuple[bytes, ...] = ()
    ) -> Entries | None:
        """What a write is answered with."""
        spending = (store or self.store).spend(Spent(TZ1, entries, forgotten))
        return self.successResultOf(spending)

    def test_kept(self) -> None:
        """What is written is there, also for others; what is forgotten is not."""
        self.assertEqual(self.spent(), {})
        self.assertIsNone(self.spend({A: FIRST, B: SECOND}))
        self.assertIsNone(self.spend({B: FIRST}, forgotten=(A,)))
        _, other = self.another()
        for store in (self.store, other):
            self.assertEqual(self.spent(store), {B: FIRST})
        self.assertEqual(
            json.loads(self.etcd.kvs[NAME.replace(A.hex(), B.hex()).encode()].value),
            {
                "key": str(TZ1),
                "payload_hash": B.hex(),
                "at": 100,
                "mutez": 5,
                "operations": 1,
                "by": "me",
            },
        )

    def test_not_seen(self) -> None:
        """Who has not seen what is there is shown it in the place of writing."""
        self.spent()
        self.spend({A: FIRST})
        _, other = self.another()
        self.assertEqual(self.spend({B: SECOND}, other), {A: FIRST})
        self.assertEqual(self.spent(), {A: FIRST})

    def test_second_sees_the_first(self) -> None:
        """Of two that have seen the same, one writes, and the other is shown that."""
        _, other = self.another()
        self.spent()
        self.spent(other)
        self.assertIsNone(self.spend({A: FIRST}))
        self.assertEqual(self.spend({B: SECOND}, other), {A: FIRST})
        self.assertIsNone(self.spend({B: SECOND}, other))
        self.assertEqual(self.spend({C: FIRST}), {A: FIRST, B: SECOND})

    def test_other_keys(self) -> None:
        """Keys do not disturb each other."""
        _, other = self.another()
        self.spent()
        self.successResultOf(other.spent(TZ3))
        self.assertIsNone(self.spend({A: FIRST}))
        self.assertIsNone(self.successResultOf(other.spend(Spent(TZ3, {B: SECOND}))))
        self.assertEqual(
            self.successResultOf(other.load_spending()), {TZ1: {A: FIRST}, TZ3: {B: SECOND}}
        )

    def test_another_store(self) -> None:
        """Beside another marker, or none, nothing is written."""
        self.spent()
        marker = self.etcd.kvs.pop(MARKER)
        self.assertIn(
            "holds no watermark store", self.refused(self.store.spend(Spent(TZ1, {A: FIRST})))
        )
        self.etcd.put(MARKER.decode(), marker.value.replace(b'"id": "', b'"id": "f'))
        self.assertIn(
            "another than at the start", self.refused(self.store.spend(Spent(TZ1, {A: FIRST})))
        )
        self.assertNotIn(NAME.encode(), self.etcd.kvs)

    def test_not_read(self) -> None:
        """Before the marker is known nothing is written."""
        _, store = self.daemon()
        self.successResultOf(store.spent(TZ1))
        _, unread = self.daemon()
        unread._spending._heads[TZ1] = None
        self.failureResultOf(unread.spend(Spent(TZ1, {A: FIRST})), StoreAwayError)

    def test_restored(self) -> None:
        """After a backup was restored it is shown what is there: no head comes twice."""
        self.spent()
        self.spend({A: FIRST})
        backup = self.etcd.snapshot()
        self.spend({B: SECOND})
        self.etcd.restore(backup)
        self.assertEqual(self.spend({C: FIRST}), {A: FIRST})
        self.etcd.restore((1, {MARKER: self.etcd.kvs[MARKER]}))
        self.assertEqual(self.spend({C: FIRST}), {})
        self.assertIsNone(self.spend({C: FIRST}))

    def test_answer_lost(self) -> None:
        """After a write without an answer it is shown what it has done."""
        self.spent()
        self.gateway.lost = 1
        self.failureResultOf(self.store.spend(Spent(TZ1, {A: FIRST})), StoreAwayError)
        self.assertEqual(self.spend({B: SECOND}), {A: FIRST})

    def test_asked_twice(self) -> None:
        """A gateway that asks once more after the first was done is told that it is done."""
        self.spent()
        ask = self.gateway.ask

        def twice(path: str, question: dict[str, object], until: float | None = None) -> object:
            ask(path, question, until)
            return ask(path, question, until)

        self.patch(self.gateway, "ask", twice)
        self.assertIsNone(self.spend({A: FIRST}))
        self.assertIsNone(self.spend({B: FIRST}))

    def test_late(self) -> None:
        """A write that arrives behind one that was made after it does nothing."""
        self.spent()
        ask = self.gateway.ask
        held: list[dict[str, object]] = []
        self.gateway.silent = True
        spending = self.store.spend(Spent(TZ1, {A: FIRST}))
        held.append(self.gateway.asked[-1])
        self.clock.advance(2)
        self.failureResultOf(spending, StoreAwayError)
        self.gateway.silent = False
        self.assertIsNone(self.spend({B: SECOND}))
        self.successResultOf(ask("/v3/kv/txn", held[0]))
        self.assertEqual(self.spent(), {B: SECOND})

    def test_damaged(self) -> None:
        """Entries that make no sense are said to be damaged, wherever they are met."""
        good = json.dumps(
            {
                "key": str(TZ1),
                "payload_hash": A.hex(),
                "at": 1,
                "mutez": 1,
                "operations": 1,
                "by": "",
            }
        )
        self.etcd.put(NAME, good)
        self.assertEqual(self.spent(), {A: Entry(1, 1, 1)})
        for bad, says in (
            ("", "damaged"),
            ("[" * 100_000, "damaged"),
            ("{}", "key is missing"),
            (good.replace('"at": 1', '"at": -1'), "at: a number from 0 to"),
            (good.replace('"at": 1', '"at": true'), "at: a number from 0 to"),
            (good.replace('"mutez": 1', '"mutez": 9223372036854775808'), "mutez: a number"),
            (good.replace('"operations": 1', '"operations": 0'), "mutez, but no operations"),
            (good.replace('"by": ""', '"by": 1'), "by: a text is expected"),
            (good.replace('"by": ""', '"to": ""'), "'to' is unknown"),
            (good.replace(f'"{A.hex()}"', "null"), "payload hash is not 64"),
            (good.replace(A.hex(), B.hex()), "holds the entry of another payload"),
            (good.replace(str(TZ1), str(TZ3)), "holds the entry of another payload"),
        ):
            self.etcd.put(NAME, bad)
            self.assertIn(says, self.refused(self.store.spent(TZ1)))
            self.assertIn(says, self.refused(self.store.load_spending()))

    def test_too_many(self) -> None:
        """More entries than any daemon writes are not read."""
        for number in range(MOST_ENTRIES + 1001):
            self.etcd.put(f"{NAME[:-4]}{number:04x}", "{}")
        self.assertIn("too many to be read", self.refused(self.store.spent(TZ1)))

    def test_pages(self) -> None:
        """All entries are listed, however many pages they take."""
        expected: dict[bytes, Entry] = {}
        for number in range(8001):
            digest = number.to_bytes(32, "big")
            expected[digest] = Entry(number, 1, 1)
            row = {
                "key": str(TZ1),
                "payload_hash": digest.hex(),
                "at": number,
                "mutez": 1,
                "operations": 1,
            }
            self.etcd.put(f"{NAME[:-64]}{digest.hex()}", json.dumps(row))
        self.assertEqual(self.successResultOf(self.store.load_spending()), {TZ1: expected})

    def test_taken_over(self) -> None:
        """What is brought counts beside what is there, and the more of both where both are."""
        _, other = self.another()
        self.spent(other)
        self.spend({A: Entry(100, 5, 1)}, other)
        self.spend({A: Entry(100, 5, 1)}, other)
        brought = {A: Entry(99, 6, 1), B: Entry(7, 7, 7)}
        many = {n.to_bytes(32, "big"): Entry(1, 1, 1) for n in range(1000, 1250)}
        self.successResultOf(self.store.take_over({}, {TZ1: {**brought, **many}}))
        there = self.spent()
        self.assertEqual((there[A].at, there[A].mutez, there[B].mutez), (100, 6, 7))
        self.assertEqual(len(there), 252)
        self.assertEqual(self.spend({C: FIRST}, other), there)


class TogetherTests(EtcdTestCase):
    """An importing command beside a daemon that writes all the time."""

    def test_meddled_with(self) -> None:
        """It tries again, and in the end says that a signer writes."""
        self.successResultOf(self.store.spent(TZ1))
        ask = self.gateway.ask

        def meddled(path: str, question: dict[str, object], until: float | None = None) -> object:
            self.etcd.put(f"tezio-signer/spending-head/{TZ1}", str(self.etcd.revision))
            return ask(path, question, until)

        self.patch(self.gateway, "ask", meddled)
        taking = self.store.take_over({}, {TZ1: {A: FIRST}})
        self.assertIn("a signer writes", str(self.failureResultOf(taking, StoreError).value))
