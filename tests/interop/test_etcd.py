"""Watermarks in a real etcd keep what all stores promise."""

from pathlib import Path

from twisted.internet.defer import Deferred, gatherResults
from twisted.trial.unittest import TestCase

from tests.support.daemonprocess import Process, start_command, start_daemon
from tests.support.etcdcase import a_mark
from tests.support.etcdcluster import Cluster, Tls, start_cluster
from tests.support.harness import reactor
from tests.support.programs import command
from tests.support.statemachine import drive
from tests.support.storeconformance import BLOCK, MARK, SIGNED, StorePromises
from tests.support.storeplaces import etcd_cluster
from tests.support.vectors import TZ3, block
from tezio_signer.config.settings import EtcdAddress
from tezio_signer.errors import TooMany, Unavailable
from tezio_signer.watermarks.etcd.store import MOST_MARKS, EtcdStore
from tezio_signer.watermarks.ledger import Ledger
from tezio_signer.watermarks.opening import etcd_store
from tezio_signer.watermarks.store import StoreError

STEPS = 150
CONFIG = """
policy:
    signing_keys:
        {key}: {{allowed_ops: [block], auth_req: False}}
watermarks: {{store: "etcd:{url}"}}
"""
PASSWORD = "correct horse battery staple"  # noqa: S105


class EtcdTestCase(TestCase):
    """Has a member of etcd, and closes the stores that it opens."""

    timeout = 60

    async def start(self, tls: Tls | None = None) -> None:
        """Start the member."""
        self.cluster: Cluster = await start_cluster(self, tls=tls)
        self.address = EtcdAddress(tuple(self.cluster.urls))

    def etcd(self, address: EtcdAddress | None = None) -> EtcdStore:
        """A store in it that is closed when the test ends."""
        store = etcd_store(address or self.address, reactor)
        self.addCleanup(store.close)
        return store


class PromisesTests(StorePromises, EtcdTestCase):
    """All that stores promise."""

    def setUp(self) -> Deferred[None]:  # type: ignore[override]
        return Deferred.fromCoroutine(self.start())

    def make(self) -> Deferred[None]:
        return self.etcd().create()

    def open_store(self) -> EtcdStore:
        return self.etcd()

    async def test_made_once(self) -> None:
        """A store that is there is left as it is."""
        await self.make()
        store = await self.opened()
        await store.keep(BLOCK, MARK)
        with self.assertRaises(StoreError) as raised:
            await self.make()
        self.assertIn("left as it is", str(raised.exception))
        self.assertEqual(await self.etcd().load(), {BLOCK: MARK})

    async def test_two_daemons(self) -> None:
        """Of two stores that have seen the same, one comes first, and the other learns of it."""
        await self.make()
        first, second = await self.opened(), await self.opened()
        await first.keep(BLOCK, MARK)
        self.assertEqual((await second.keep(BLOCK, SIGNED)).now, SIGNED)
        self.assertEqual((await first.keep(BLOCK, MARK)).now.payload_hash, MARK.payload_hash)
        self.assertEqual((await first.load())[BLOCK], SIGNED)

    async def test_wiped(self) -> None:
        """When the store is gone, or is another, nothing can be kept; it is not made anew."""
        await self.make()
        store = await self.opened()
        everything = {"key": "AA==", "range_end": "AA=="}
        await self.cluster.members[0].gateway.call("kv/deleterange", everything)
        with self.assertRaises(StoreError) as raised:
            await store.keep(BLOCK, MARK)
        self.assertIn("holds no watermark store", str(raised.exception))
        await self.make()
        with self.assertRaises(StoreError) as raised:
            await store.keep(BLOCK, MARK)
        self.assertIn("another", str(raised.exception))
        self.assertEqual(await self.etcd().load(), {})

    async def test_most(self) -> None:
        """As many marks as there may be come in one answer; with one more they are refused."""
        await self.make()
        first = self.etcd()
        await first.load()
        marks = dict(a_mark(number) for number in range(MOST_MARKS + 1))
        last_id, last = marks.popitem()
        await first.replace(marks)
        second = self.etcd()
        self.assertEqual(await second.load(), marks)
        with self.assertRaises(StoreError) as raised:
            await second.keep(last_id, last)
        self.assertIn("may hold 4800", str(raised.exception))
        await first.keep(last_id, last)  # it has not read the others
        for store in (first, second):
            with self.assertRaises(StoreError) as raised:
                await store.load()
            self.assertIn("more than 4800", str(raised.exception))

    async def test_model(self) -> None:
        """Two daemons agree with the model, whatever comes of their writes."""
        place = etcd_cluster(self.address, self.cluster.members[0].gateway)
        self.assertGreaterEqual(await drive(place, STEPS), STEPS)


class AccessTests(EtcdTestCase):
    """Who is let in."""

    async def assert_works(self, address: EtcdAddress) -> None:
        """Check that a mark can be kept and read."""
        store = self.etcd(address)
        await store.create()
        await store.load()
        await store.keep(BLOCK, SIGNED)
        self.assertEqual(await self.etcd(address).load(), {BLOCK: SIGNED})

    async def test_tls(self) -> None:
        """By TLS with a client certificate; not without one, nor by another authority."""
        tls = Tls.make(Path(self.mktemp()).absolute())
        await self.start(tls)
        urls = tuple(self.cluster.urls)
        ours = EtcdAddress(urls, tls.authority.path, tls.client.certificate, tls.client.key)
        await self.assert_works(ours)
        for address in (EtcdAddress(urls, tls.authority.path), EtcdAddress(urls)):
            with self.assertRaises(StoreError):
                await self.etcd(address).load()

    async def test_user(self) -> None:
        """With the password of a user; a wrong one is told."""
        await self.start()
        password = Path(self.mktemp())
        password.write_text(f"{PASSWORD}\n", "utf-8")
        await self.cluster.require_passwords("signer", PASSWORD)
        urls = tuple(self.cluster.urls)
        await self.assert_works(EtcdAddress(urls, user="signer", password_file=password))
        password.write_text("another\n", "utf-8")
        with self.assertRaises(StoreError) as raised:
            await self.etcd(EtcdAddress(urls, user="signer", password_file=password)).load()
        self.assertIn("authentication failed", str(raised.exception))


class ProcessTests(EtcdTestCase):
    """The daemon and the operator's commands."""

    async def prepared(self) -> Path:
        """A directory with a configuration for a member of etcd."""
        command("etcd")
        await self.start()
        directory = Path(self.mktemp()).absolute()
        directory.mkdir()
        config = CONFIG.format(key=TZ3, url=self.cluster.urls[0])
        (directory / "config.yaml").write_text(config, "utf-8")
        return directory

    async def run_command(self, directory: Path, *arguments: str) -> Process:
        """What a command of `tezio-signer watermarks` has said, which it did without an error."""
        process = start_command(self, directory, "watermarks", *arguments)
        self.assertEqual(await process.exits(), 0, process.log)
        return process

    async def test_commands(self) -> None:
        """The store is made, and its marks set, listed, exported, lowered and imported."""
        directory = await self.prepared()
        made = await self.run_command(directory, "init")
        self.assertIn(f"created the watermark store in etcd at {self.cluster.urls[0]}", made.out)
        where = ("--chain", BLOCK.chain_id, "--key", str(TZ3), "--operation", "block")
        await self.run_command(directory, "set", *where, "--level", "100")
        await self.run_command(directory, "export", "marks.json")
        await self.run_command(directory, "set", *where, "--level", "200")
        listed = await self.run_command(directory, "list")
        self.assertRegex(listed.out, r"block +200 +0 ")
        imported = await self.run_command(directory, "import", "marks.json")
        self.assertIn("kept", imported.out)
        before = (await self.etcd().load())[BLOCK]
        for level, code, says in (
            (300, 0, "the mark would move from level 200 round 0 to level 300 round 0"),
            (200, 1, "not above the high watermark, level 200 round 0"),
        ):
            explain = start_command(self, directory, "explain", block(level, 0).hex())
            self.assertEqual(await explain.exits(), code, explain.log)
            self.assertIn(says, " ".join(explain.out.split()))
        self.assertEqual((await self.etcd().load())[BLOCK], before)

    async def test_no_store(self) -> None:
        """A daemon whose etcd holds no store says so in one line, and ends with 1."""
        directory = await self.prepared()
        endpoint = "tcp:0:interface=127.0.0.1"
        daemon = start_daemon(self, directory, "--http", endpoint, "--config", "config.yaml")
        self.assertEqual(await daemon.exits(), 1, daemon.log)
        self.assertIn("tezio-signer: this etcd holds no watermark store", daemon.log)
        self.assertIn("tezio-signer watermarks init --config config.yaml", daemon.log)
        self.assertNotIn("Traceback", daemon.log)


class SpendingTests(EtcdTestCase):
    """What is spent in a day, by two daemons on one real etcd."""

    def setUp(self) -> Deferred[None]:  # type: ignore[override]
        return Deferred.fromCoroutine(self.start())

    async def ledger(self) -> Ledger:
        """That of another daemon."""
        store = self.etcd()
        await store.load()
        return Ledger(lambda: store, reactor, lambda: 1_790_000_000.0)

    async def test_together(self) -> None:
        """However they reserve, together they stay within the limit, and come up to it."""
        await self.etcd().create()
        ledgers = [await self.ledger(), await self.ledger()]

        async def reserve(number: int) -> int:
            asking = ledgers[number % 2].reserve(TZ3, number.to_bytes(32, "big"), 1, 1, 30, None)
            try:
                await asking
            except TooMany:
                return 0
            except Unavailable:  # others were faster, ten times: an octez-client asks again
                return await reserve(number)
            return 1

        granted = await gatherResults([Deferred.fromCoroutine(reserve(n)) for n in range(60)])
        self.assertEqual(sum(granted), 30)
        fresh = await self.ledger()
        with self.assertRaises(TooMany):
            await fresh.reserve(TZ3, bytes([9]) * 32, 1, 1, 30, None)
        self.assertEqual(fresh.standing(TZ3).mutez, 30)

    async def test_given_back(self) -> None:
        """What one gives back the other may spend; what both have may be given back by neither."""
        await self.etcd().create()
        first, second = await self.ledger(), await self.ledger()
        undo = await first.reserve(TZ3, bytes(32), 5, 1, 5, None)
        undo_too = await second.reserve(TZ3, bytes(32), 5, 1, 5, None)
        undo()
        undo_too()
        for ledger in (first, second):
            with self.assertRaises(TooMany):
                await ledger.reserve(TZ3, bytes([1]) * 32, 1, 1, 5, None)
