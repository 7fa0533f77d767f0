"""An etcd that is not as this store has left it."""

import json
from typing import Any

from tests.support.etcdcase import KEY, MARKER, EtcdTestCase
from tests.support.fakeetcd import Kv
from tests.support.storeconformance import ATTESTATION, BLOCK, MARK
from tezio_signer.watermarks.etcd import store as etcd
from tezio_signer.watermarks.store import StoreAwayError


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
        for value in (b"", b"\xff", "[]", "1", "{}", '{"format": true}', "[" * 100_000):
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
            name = key.decode(errors="backslashreplace")
            self.assert_damaged(f"{name} in etcd is no key of a watermark")

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
