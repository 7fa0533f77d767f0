"""What the store in etcd believes of what it is shown, late, out of order or after a backup."""

from attrs import evolve
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.logger import capturedLogs

from tests.support.etcdcase import HIGHER, KEY, LOWER, EtcdTestCase
from tests.support.fakeetcd import FakeEtcd, FakeGateway, store_through
from tests.support.storeconformance import ATTESTATION, BLOCK, MARK, SIGNED
from tests.support.vectors import TZ3
from tezio_signer.watermarks.etcd.store import _json as text_of
from tezio_signer.watermarks.rule import Mark, MarkId
from tezio_signer.watermarks.store import Kept

_SLOW = HealthCheck.too_slow  # which is of the machine


class OrderTests(EtcdTestCase):
    """An older answer never replaces what was seen later (invariant 4)."""

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

    def test_page_of_before_a_swap(self) -> None:
        """What was read before a swap, and comes behind its answer, is not taken for newer."""
        _, other = self.daemon()
        self.load(other)
        self.successResultOf(other.keep(BLOCK, MARK))
        self.gateway.slow = True
        reading, kept = self.store.load(), self.store.keep(BLOCK, HIGHER)
        for _ in range(2):  # the swap has to learn of the other daemon's mark first
            self.gateway.deliver(1)
        self.assertEqual(self.successResultOf(kept), Kept(MARK, HIGHER))
        self.assertEqual(self.critical(self.gateway.deliver), [])
        self.assertEqual(self.successResultOf(reading), {BLOCK: HIGHER})

    @settings(deadline=None, derandomize=True, database=None, suppress_health_check=[_SLOW])
    @given(st.lists(st.sampled_from((0, 1, 2, None)), max_size=8), st.data())
    def test_any_order(self, changes: list[int | None], data: st.DataObject) -> None:
        """Readings may arrive in any order: what was so last is believed, and nothing before."""
        etcd = FakeEtcd()
        gateway = FakeGateway(etcd, self.clock)
        store = store_through(gateway, self.clock)
        self.successResultOf(store.create())
        gateway.slow = True
        asked: list[tuple[int, dict[MarkId, Mark], Deferred[dict[MarkId, Mark]]]] = []
        stored: dict[MarkId, Mark] = {}
        for level in changes:  # an operator moves the mark up and down, and deletes it
            etcd.put(KEY, text_of(BLOCK, MARK))
            stored = {} if level is None else {BLOCK: evolve(MARK, level=level)}
            for mark_id, mark in stored.items():
                etcd.put(KEY, text_of(mark_id, mark))
            if level is None:
                del etcd.kvs[KEY.encode()]
            asked.append((etcd.revision, stored, store.load()))
        newest = (0, stored)
        while asked:
            number = data.draw(st.integers(0, len(asked) - 1))
            gateway.deliver(number)
            revision, shown, loaded = asked.pop(number)
            newest = max(newest, (revision, shown), key=lambda answer: answer[0])
            self.assertEqual(self.successResultOf(loaded), newest[1])


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
        self.assertEqual(self.critical(self.load), [])
        self.assertEqual(self.keep(MARK, ATTESTATION).now, MARK)

    def test_swap_heard_before(self) -> None:
        """Also what only a swap has told of the revision counts."""
        backup = self.etcd.snapshot()
        self.keep(MARK)
        self.etcd.restore(backup)
        self.assertIn("gone back in time", self.critical(self.load)[0])

    def test_not_in_the_backup(self) -> None:
        """A mark that is not in the backup is not given any more, and it is said once."""
        backup = self.etcd.snapshot()
        self.keep(MARK)
        self.load()
        self.etcd.restore(backup)
        said = self.critical(lambda: self.assertEqual(self.load(), {}))
        self.assertEqual(["or is gone" in sentence for sentence in said], [False, True])
        self.assertEqual(self.critical(self.load), [])

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
        self.etcd.put(KEY, text_of(BLOCK, SIGNED))
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
