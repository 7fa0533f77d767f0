"""What every store of watermarks promises: one suite for all of them."""

from typing import TYPE_CHECKING

from attrs import evolve
from twisted.internet.defer import Deferred, gatherResults
from twisted.trial.unittest import TestCase

from tests.support.vectors import TZ1, TZ2, TZ3
from tezio_signer.tezos.keys import Curve, Signature
from tezio_signer.tezos.payload import Operation
from tezio_signer.watermarks.entry import Entry
from tezio_signer.watermarks.rule import Mark, MarkId
from tezio_signer.watermarks.store import Kept, Spent, StoreError, WatermarkStore

BLOCK = MarkId("NetXdQprcVkpaWU", TZ3, Operation.BLOCK)
ATTESTATION = MarkId("NetXnHfVqm9iesp", TZ1, Operation.ATTESTATION)
MARK = Mark(100, 2, b"\x01" * 32)
SIGNED = evolve(MARK, signature=Signature(Curve.P256, b"\x01" * 64))
OTHER = Signature(Curve.P256, b"\x02" * 64)


if TYPE_CHECKING:
    _Base = TestCase
else:
    _Base = object


class StorePromises(_Base):
    """Mixed with a test case that says how its store is made and opened."""

    def make(self) -> Deferred[None]:
        """Make an empty store."""
        raise AssertionError("each kind of store makes its own")

    def open_store(self) -> WatermarkStore:
        """Open what was made."""
        raise AssertionError("each kind of store opens its own")

    async def opened(self) -> WatermarkStore:
        """An open store that has been read."""
        store = self.open_store()
        await store.load()
        return store

    async def reloaded(self, store: WatermarkStore) -> dict[MarkId, Mark]:
        """Close a store, and read it again."""
        await store.close()
        again = self.open_store()
        marks = await again.load()
        await again.close()
        return marks

    async def test_empty(self) -> None:
        """A new store holds nothing."""
        await self.make()
        self.assertEqual(await self.reloaded(self.open_store()), {})

    async def test_kept(self) -> None:
        """Every part of a mark is there again when the store is opened again."""
        await self.make()
        store = await self.opened()
        marks = {
            BLOCK: SIGNED,
            ATTESTATION: Mark(2**31 - 1, 2**31 - 1, b"\xff" * 32),
            MarkId("NetXdQprcVkpaWU", TZ2, Operation.PREATTESTATION): Mark(0, 0, bytes(32)),
        }
        kept = await gatherResults([store.keep(*item) for item in marks.items()])
        self.assertEqual([k.before for k in kept], [None] * 3)
        self.assertEqual([k.now for k in kept], list(marks.values()))
        self.assertEqual(await store.load(), marks)
        self.assertEqual(await self.reloaded(store), marks)

    async def test_moves_up(self) -> None:
        """A higher round, or a higher level with a lower round, replaces a mark."""
        await self.make()
        store = await self.opened()
        before: Mark | None = None
        for mark in (SIGNED, Mark(100, 3, b"\x03" * 32), Mark(101, 0, b"\x04" * 32)):
            kept = await store.keep(BLOCK, mark)
            self.assertEqual((kept.before, kept.now), (before, mark))
            before = mark
        self.assertEqual(await self.reloaded(store), {BLOCK: before})

    async def test_never_down(self) -> None:
        """A lower mark, or another payload at the same position, changes nothing."""
        await self.make()
        store = await self.opened()
        await store.keep(BLOCK, MARK)
        for mark in (
            Mark(100, 1, b"\x05" * 32),
            Mark(99, 9, b"\x05" * 32, OTHER),
            Mark(100, 2, b"\x05" * 32),
            Mark(100, 2, b"\x05" * 32, OTHER),
        ):
            self.assertEqual(await store.keep(BLOCK, mark), Kept(MARK, MARK))
        self.assertEqual(await self.reloaded(store), {BLOCK: MARK})

    async def test_first_signature(self) -> None:
        """The first signature of a mark stays; neither another nor none replaces it."""
        await self.make()
        store = await self.opened()
        await store.keep(BLOCK, MARK)
        self.assertEqual(await store.keep(BLOCK, SIGNED), Kept(MARK, SIGNED))
        for mark in (evolve(MARK, signature=OTHER), MARK, SIGNED):
            self.assertEqual(await store.keep(BLOCK, mark), Kept(SIGNED, SIGNED))
        self.assertEqual(await self.reloaded(store), {BLOCK: SIGNED})

    async def test_order(self) -> None:
        """What is brought for one mark without waiting is kept in the order of bringing."""
        await self.make()
        store = await self.opened()
        marks = [Mark(level, 0, bytes([level]) * 32) for level in range(1, 21)]
        kept = await gatherResults([store.keep(BLOCK, mark) for mark in marks])
        self.assertEqual([k.now for k in kept], marks)
        self.assertEqual([k.before for k in kept], [None, *marks[:-1]])
        self.assertEqual(await self.reloaded(store), {BLOCK: marks[-1]})

    async def test_spending(self) -> None:
        """Entries are there again, each as it was written last; forgotten ones are not."""
        await self.make()
        store = await self.opened()
        for key in (TZ1, TZ2):
            self.assertEqual(await store.spent(key), {})
        entries = {bytes([n]) * 32: Entry(2**33 - n, 2**63 - 1 - n, n + 1) for n in range(3)}
        self.assertIsNone(await store.spend(Spent(TZ1, entries)))
        self.assertIsNone(await store.spend(Spent(TZ2, entries)))
        zero = {bytes(32): Entry(1, 0, 0)}
        self.assertIsNone(await store.spend(Spent(TZ1, zero, (b"\x01" * 32,))))
        expected = {**entries, **zero}
        del expected[b"\x01" * 32]
        self.assertEqual(await store.spent(TZ1), expected)
        await store.close()
        again = await self.opened()
        self.assertEqual(await again.spent(TZ1), expected)
        self.assertEqual(await again.spent(TZ2), entries)
        await again.close()

    async def test_missing(self) -> None:
        """What was never made is no empty store, and the command that makes it is named."""
        with self.assertRaises(StoreError) as raised:
            await self.opened()
        self.assertIn("tezio-signer watermarks init", str(raised.exception))
