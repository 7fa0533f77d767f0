"""The HTTP door, on loopback and with a simulated HSM on a pseudo-terminal."""

import re
from ipaddress import ip_network
from typing import TypeVar

from attrs import evolve, frozen
from hypothesis import HealthCheck, given, settings
from hypothesis.strategies import SearchStrategy
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase, TestCase

from tests import octezclient
from tests.octezclient import (
    HSM_AUTH_KEY,
    HSM_KEYS,
    NotUnderstood,
    OctezClient,
    OctezError,
    SecretKey,
    authorized_in,
    message_in,
    text_in,
    texts_in,
    verifies,
)
from tests.stand import Answer, Stand, parse_response, settings_with
from tests.strategies import hostile_payloads, requests
from tests.vectors import (
    AUTH,
    AUTHENTICATION,
    EXCHANGES,
    OCTEZ,
    PAYLOADS,
    TZ1,
    TZ2,
    TZ3,
    block,
    consensus,
)
from tezio_signer import __version__
from tezio_signer.hsm.firmware import Firmware
from tezio_signer.hsm.framing import Slot
from tezio_signer.settings import Limits, RequestToken, Security
from tezio_signer.sparinglog import LINES_PER_MINUTE
from tezio_signer.tezos.keys import PublicKey

WALLET = [SecretKey(key["sk"]) for key in OCTEZ["keys"] if not key["pkh"].startswith("tz4")]
BLOCK = PAYLOADS["block_unlocked_nononce_on"]
NOOP = PAYLOADS["noop"]
BAKING = [p for name, p in PAYLOADS.items() if p[0] != 0x03 and not name.startswith("bls")]
EVERY_MAGIC_BYTE = dict.fromkeys(Slot, (0x03, 0x11, 0x12, 0x13))
_Example = TypeVar("_Example")
REFUSED_BY_TWISTED = b"HTTP/1.1 400 Bad Request\r\n\r\n"


def hex_body(payload: bytes) -> bytes:
    """A payload as the JSON string of a request."""
    return b'"%b"' % payload.hex().encode("ascii")


class HelperTests(SynchronousTestCase):
    """The client of these tests is held to recorded values itself."""

    def test_requests_are_those_of_octez(self) -> None:
        """The bytes of a probe and of a request to sign are those of octez-client."""
        host = "127.0.0.1:6732"
        path = "/keys/tz1KqTpEZ7Yob7QbPE4Hy4Wo8fHG8LhKxZSx?version=3"
        self.assertEqual(
            octezclient.get(host, "/authorized_keys"),
            b"GET /authorized_keys HTTP/1.1\r\n"
            b"host: 127.0.0.1:6732\r\n"
            b"accept: application/json;q=1,application/bson;q=0.100,"
            b"application/octet-stream;q=0.200\r\n"
            b"user-agent: ocaml-cohttp/5.3.1\r\n\r\n",
        )
        self.assertEqual(
            octezclient.post(host, path, b"\x03"),
            b"POST /keys/tz1KqTpEZ7Yob7QbPE4Hy4Wo8fHG8LhKxZSx?version=3 HTTP/1.1\r\n"
            b"host: 127.0.0.1:6732\r\n"
            b"content-type: application/json\r\n"
            b"accept: application/json;q=1,application/bson;q=0.100,"
            b"application/octet-stream;q=0.200\r\n"
            b"user-agent: ocaml-cohttp/5.3.1\r\n"
            b"transfer-encoding: chunked\r\n\r\n"
            b'5\r\n"03"\n\r\n0\r\n\r\n',
        )

    def test_keys_and_signatures_are_those_of_octez(self) -> None:
        """Keys, addresses and an authentication come out as Octez itself makes them."""
        recorded = [key for key in OCTEZ["keys"] if not key["pkh"].startswith("tz4")]
        self.assertEqual([key.public_key for key in WALLET], [key["pk"] for key in recorded])
        self.assertEqual([key.pkh for key in WALLET], [key["pkh"] for key in recorded])
        self.assertEqual([key.pkh for key in HSM_KEYS], [str(TZ1), str(TZ2), str(TZ3)])
        self.assertEqual(HSM_AUTH_KEY.pkh, str(AUTH))
        pkh = recorded[0]["pkh"]
        for generic, name in ((False, "signature"), (True, "signature_generic")):
            self.assertEqual(
                WALLET[1].authenticate(pkh, b"\x03", generic), AUTHENTICATION[name], name
            )
        public_keys = {key["pkh"]: key["pk"] for key in recorded}
        for payload in OCTEZ["payloads"]:
            data = bytes.fromhex(payload["hex"])
            for pkh in public_keys.keys() & payload["signatures"].keys():
                signature = payload["signatures"][pkh]
                self.assertTrue(verifies(public_keys[pkh], data, signature))
                self.assertFalse(verifies(public_keys[pkh], data + b"\x00", signature))

    def test_reads_as_strictly_as_octez(self) -> None:
        """What Octez was seen to refuse is refused: further fields, null, other shapes."""
        for body in (b'{"x":"","extra":1}\n', b'{"x":null}\n', b"{}\n", b'{"x":""}', b"[]\n"):
            self.assertRaises(NotUnderstood, text_in, body, "x")
        for body in (b'{"authorized_keys":null}\n', b"[]\n", b"null\n", b'{"x":1}\n', b"{}"):
            self.assertRaises(NotUnderstood, authorized_in, body)
        for body in (b"[]\n", b"{}\n", b'{"error":"x"}\n', b'[{"kind":"temporary"}]\n', b"x\n"):
            self.assertRaises(NotUnderstood, message_in, body)
        self.assertRaises(NotUnderstood, texts_in, b'{"x":[""],"x":[""]}\n', "x")
        self.assertRaises(NotUnderstood, texts_in, b'{"x": [""]}\n', "x")


class OctezTests(TestCase):
    """octez-client at work."""

    async def test_signs_without_authentication(self) -> None:
        """Two connections a signature, and each signature verifies, with all three keys."""
        stand = Stand(settings_with(), Firmware(enabled=EVERY_MAGIC_BYTE))
        await stand.start(self)
        for base in ("", "/"):  # an address with a slash at its end makes double ones
            for key in HSM_KEYS:
                for name, payload in (("noop", NOOP), ("block", BLOCK)):
                    client = OctezClient(stand.port, base=base)
                    signature = await client.sign(key.pkh, payload)
                    self.assertTrue(verifies(key.public_key, payload, signature), name)
                    path = f"{base}/keys/{key.pkh}?version=3"
                    self.assertEqual(
                        client.sent,
                        [
                            octezclient.get(client.host, f"{base}/authorized_keys"),
                            octezclient.post(client.host, path, payload),
                        ],
                    )

    async def test_signs_with_authentication(self) -> None:
        """The HSM's auth key and authorized keys of all curves open the door."""
        authorized = tuple(PublicKey.parse(key.public_key) for key in WALLET)
        stand = Stand(settings_with(auth_req=True, auth_key=AUTH, authorized_keys=authorized))
        await stand.start(self)
        for wallet_key in (HSM_AUTH_KEY, *WALLET):
            client = OctezClient(stand.port, [HSM_KEYS[0], wallet_key])
            expected = [HSM_AUTH_KEY.pkh, *(key.pkh for key in WALLET)]
            self.assertEqual(await client.authorized_keys(), expected)
            signature = await client.sign(str(TZ3), NOOP)
            self.assertTrue(verifies(HSM_KEYS[2].public_key, NOOP, signature))
            self.assertRegex(
                client.sent[-1],
                rb"^POST /keys/tz3\w+\?authentication=(ed|sp|p2)sig\w+&version=3 HTTP/1.1\r\n",
            )

    async def test_imports_and_lists_keys(self) -> None:
        """Public keys are those of the HSM, and the list is that of the configuration."""
        stand = Stand()
        await stand.start(self)
        client = OctezClient(stand.port)
        for key in HSM_KEYS:
            self.assertEqual(await client.public_key(key.pkh), key.public_key)
        self.assertEqual(await client.known_keys(), [key.pkh for key in HSM_KEYS])

    async def test_refusals_are_printed(self) -> None:
        """octez-client can read what is wrong, and the status with it."""
        stand = Stand(settings_with(operations=(), list_known_keys=False))
        await stand.start(self)
        client = OctezClient(stand.port)
        with self.assertRaises(OctezError) as listing:
            await client.known_keys()
        self.assertEqual(str(listing.exception), "403 List known keys request not allowed.")
        with self.assertRaises(OctezError) as signing:
            await client.sign(str(TZ1), NOOP)
        self.assertEqual(signing.exception.status, 403)
        self.assertIn("magic byte 0x03 (generic) not allowed", signing.exception.message)


class AnswerTests(TestCase):
    """Every answer, byte for byte."""

    def setUp(self) -> None:
        self.stand = Stand()

    async def _expect(self, path: str, body: bytes, method: str = "GET", headers: str = "") -> None:
        answer = await self.stand.request(method, path, headers=headers)
        self.assertEqual((path, answer.status, answer.body), (path, 200, body))
        self.assertEqual(answer.headers["content-type"], "application/json")
        self.assertEqual(answer.headers["content-length"], str(len(body)))

    async def test_bodies(self) -> None:
        """A 200 has the one field that Octez expects, no other, and one line feed."""
        await self.stand.start(self)
        await self._expect("/authorized_keys", b"{}\n")
        await self._expect(
            "/known_keys", b'{"known_keys":["%b","%b","%b"]}\n' % tuple(_texts(TZ1, TZ2, TZ3))
        )
        for key in HSM_KEYS:
            public_key = key.public_key.encode("ascii")
            await self._expect(f"/keys/{key.pkh}", b'{"public_key":"%b"}\n' % public_key)
        answer = await self.stand.sign(TZ1, NOOP)
        signature = text_in(answer.body, "signature")
        self.assertEqual(answer.body, b'{"signature":"%b"}\n' % signature.encode("ascii"))
        self.assertEqual(answer.status, 200)
        self.assertEqual(answer.headers["content-type"], "application/json")
        self.assertEqual(answer.headers["content-length"], str(len(answer.body)))

    async def test_authorized_keys(self) -> None:
        """Authentication that is wanted is announced by the hashes of the keys."""
        self.stand = Stand(
            settings_with(
                auth_req=True,
                auth_key=AUTH,
                authorized_keys=(PublicKey.parse(AUTHENTICATION["auth_key"]),),
            )
        )
        await self.stand.start(self)
        await self._expect(
            "/authorized_keys",
            b'{"authorized_keys":["%b","%b"]}\n'
            % (str(AUTH).encode("ascii"), AUTHENTICATION["auth_pkh"].encode("ascii")),
        )

    async def test_authentication_switched_off(self) -> None:
        """With `auth_check` off nobody is asked to authenticate."""
        self.stand = Stand(
            settings_with(auth_req=True, auth_key=AUTH, security=Security(auth_check=False))
        )
        await self.stand.start(self)
        await self._expect("/authorized_keys", b"{}\n")

    async def test_greeting(self) -> None:
        """`GET /` says name and version, as plain text."""
        await self.stand.start(self)
        answer = await self.stand.request("GET", "/")
        self.assertEqual((answer.status, answer.body), (200, b"Tezio Signer %b\n" % _VERSION))
        self.assertEqual(answer.headers["content-type"], "text/plain")

    async def test_slashes(self) -> None:
        """Repeated slashes count as one."""
        await self.stand.start(self)
        public_key = b'{"public_key":"%b"}\n' % HSM_KEYS[0].public_key.encode("ascii")
        for path in (f"//keys/{TZ1}", f"///keys//{TZ1}"):
            await self._expect(path, public_key)

    async def test_head(self) -> None:
        """HEAD gets the headers of GET."""
        await self.stand.start(self)
        for path in ("/", "/authorized_keys", f"/keys/{TZ3}"):
            got = await self.stand.request("GET", path)
            head = await self.stand.request("HEAD", path)
            self.assertEqual((head.status, head.body), (200, b""))
            for name in ("content-type", "content-length"):
                self.assertEqual(head.headers[name], got.headers[name])

    async def test_http_1_0(self) -> None:
        """HTTP/1.0 is enough to sign."""
        await self.stand.start(self)
        body = hex_body(NOOP)
        received = await self.stand.raw(
            b"POST /keys/%b HTTP/1.0\r\nContent-Length: %d\r\n\r\n%b"
            % (str(TZ2).encode("ascii"), len(body), body)
        )
        answer = parse_response(received)
        self.assertTrue(verifies(HSM_KEYS[1].public_key, NOOP, text_in(answer.body, "signature")))

    async def test_content_types(self) -> None:
        """The body is read as JSON whatever its Content-Type says."""
        await self.stand.start(self)
        for content_type in (
            "application/json",
            "application/json; charset=utf-8",
            "text/plain",
            "application/x-www-form-urlencoded",
            "multipart/form-data; boundary=x",
            "multipart/form-data",
            'multipart/form-data; boundary="' + ";" * 3000,
            "/;=\xff",
            "",
        ):
            answer = await self.stand.request(
                "POST", f"/keys/{TZ1}", hex_body(NOOP), f"Content-Type: {content_type}\r\n"
            )
            self.assertEqual((content_type, answer.status), (content_type, 200))

    async def test_host_does_not_matter(self) -> None:
        """Whatever stands in Host, or nothing, the answer is the same."""
        await self.stand.start(self)
        hosts = (
            b"",
            b"x" * 300,
            b"\xff\xfe",
            b"\xc3\xa9",
            b"a b",
            b"[::1",
            b"x:99999999",
            b"{}/%s",
        )
        lines = [b"", b"Host: a\r\nHost: b\r\n", *(b"Host: %b\r\n" % host for host in hosts)]
        for line in lines:
            received = await self.stand.raw(
                b"GET /authorized_keys HTTP/1.1\r\n%bConnection: close\r\n\r\n" % line
            )
            answer = parse_response(received)
            self.assertEqual((line, answer.status, answer.body), (line, 200, b"{}\n"))

    async def test_ways_to_write_a_payload(self) -> None:
        """Upper case, escapes, blanks around the string and every version are fine."""
        await self.stand.start(self)
        text = NOOP.hex()
        for body in (
            f'"{text.upper()}"',
            f' \r\n\t"{text}"\n\n',
            f'"\\u0030\\u0033{text[2:]}"',
        ):
            answer = await self.stand.request("POST", f"/keys/{TZ1}", body.encode("ascii"))
            self.assertEqual((body, answer.status), (body, 200))
        for query in (
            "",
            "?version=0",
            "?version=1",
            "?version=2",
            "?version=3",
            "?other=x&other=y",
        ):
            answer = await self.stand.sign(TZ1, NOOP, query)
            self.assertEqual((query, answer.status), (query, 200))


_VERSION = __version__.encode("ascii")


def _texts(*values: object) -> list[bytes]:
    return [str(value).encode("ascii") for value in values]


def _examples(strategy: SearchStrategy[_Example], count: int) -> list[_Example]:
    """Values of Hypothesis, to be sent where `@given` cannot go: it knows no Deferreds."""
    collected: list[_Example] = []

    @settings(
        max_examples=count,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(strategy)
    def collect(example: _Example) -> None:
        collected.append(example)

    collect()
    return collected


@frozen
class Bad:
    """A bad request, and what is answered.

    :ivar says: a part of the sentence.
    """

    status: int
    says: str
    body: bytes | None = hex_body(BLOCK)
    path: str = f"/keys/{TZ3}"
    method: str = "POST"


def _query(status: int, says: str, query: str) -> Bad:
    return Bad(status, says, path=f"/keys/{TZ3}?{query}")


BAD_BODIES = [
    *(Bad(400, "this is empty", body) for body in (b"", b"\n", b" \t\r\n")),
    *(
        Bad(400, "this is no JSON", body)
        for body in (
            b'"11',
            b'"11"x',
            b"'11'",
            b'"\xff"',
            b'"11\xc3"',
            b"\x00",
            b'"11\n"',
            b"[" * 100_000,
            b'{"a":' * 20_000,
            b"9" * 5000,
        )
    ),
    *(
        Bad(400, "JSON of another type", body)
        for body in (b"{}", b'{"a":"11"}', b"[]", b'["11"]', b"11", b"1.5", b"null", b"true")
    ),
    Bad(400, "can't sign empty data", b'""'),
    *(
        Bad(400, "an even number of digits, no 0x prefix", body)
        for body in (
            b'"1"',
            b'"117a0"',
            b'"0x117a"',
            b'"11 7a"',
            b'" 117a"',
            b'"117a "',
            b'"117a\\n"',
            b'"\\u0000"',
            b'"\\ud800"',
            b'"hello!"',
            '"\u0661\u0661"'.encode(),
            '"\uff11\uff11"'.encode(),
            '"\u00e9"'.encode(),
        )
    ),
    *(
        Bad(400, f"unknown magic byte 0x{magic:02X}", hex_body(bytes([magic]) + BLOCK[1:]))
        for magic in (0x00, 0x06, 0x10, 0x14, 0x35, 0x80, 0xF8, 0xFF)
    ),
    *(
        Bad(403, f"magic byte 0x{magic:02X}", hex_body(bytes([magic]) + BLOCK[1:]))
        for magic in (0x01, 0x02, 0x04, 0x05)
    ),
    Bad(403, "never signed", hex_body(bytes.fromhex(AUTHENTICATION["signed_bytes"]))),
    Bad(400, "tz4", hex_body(PAYLOADS["bls_att"])),
    Bad(400, "tz4", hex_body(PAYLOADS["bls_preatt"])),
    Bad(400, "kind 0x14", hex_body(b"\x13" + PAYLOADS["preatt"][1:])),
    Bad(400, "kind 0x15", hex_body(b"\x12" + PAYLOADS["att"][1:])),
    Bad(400, "consensus operation", hex_body(b"\x03" + PAYLOADS["att"][5:])),
    Bad(400, "fitness", hex_body(BLOCK[:83] + b"\x00\x00\x80\x00" + BLOCK[87:])),
    Bad(400, "negative fitness length", hex_body(BLOCK[:83] + b"\xff" * 4 + BLOCK[87:])),
    Bad(400, "level is 5000001 in its header", hex_body(BLOCK[:8] + b"\x41" + BLOCK[9:])),
    Bad(400, "negative level", hex_body(BLOCK[:5] + b"\xff" + BLOCK[6:])),
    Bad(400, "negative round", hex_body(BLOCK[:116] + b"\x80" + BLOCK[117:])),
    Bad(400, "payload round 2 is above its round 1", hex_body(BLOCK[:187] + b"\x02" + BLOCK[188:])),
    Bad(400, "negative level", hex_body(PAYLOADS["att"][:40] + b"\x80" + PAYLOADS["att"][41:])),
    Bad(400, "negative round", hex_body(PAYLOADS["preatt"][:44] + b"\xff" + PAYLOADS["att"][45:])),
    Bad(413, "1016 bytes; a Tezio HSM signs 1015 at most", hex_body(NOOP + bytes(976))),
    Bad(413, "32737 bytes", hex_body(NOOP + bytes(32737 - len(NOOP)))),
    Bad(413, "larger than", b'"%b"' % (b"11" * 500_000)),
]
BAD_PATHS = [
    *(
        Bad(404, f"no keys for the source contract {key['pkh']}", path=f"/keys/{key['pkh']}")
        for key in OCTEZ["keys"]
    ),
    *(
        Bad(
            404, f"no keys for the source contract {key['pkh']}", None, f"/keys/{key['pkh']}", "GET"
        )
        for key in OCTEZ["keys"]
    ),
    Bad(400, "no public key hash", None, "/keys/tz3", "GET"),
    *(
        Bad(400, "no public key hash", path=f"/keys/{key}")
        for key in (
            "tz3",
            str(TZ3)[:-1],
            str(TZ3)[:-1] + "f",
            str(TZ3) + "%0a",
            "%20" + str(TZ3),
            str(TZ3) + "%00",
            OCTEZ["keys"][0]["pk"],
            "%zz",
            "%",
            "%2e%2e",
            "%ff",
            "%ed%a0%80",
            "%f0%9f%98%80",
            "{key}",
            "a;b#c",
            "1" * 5000,
        )
    ),
    *(
        Bad(404, "no such route", path=path)
        for path in (
            "/keys",
            "/keys/",
            "/sign",
            "/.",
            f"/keys/{TZ3}/x",
            "/a" * 3000,
            "/%ff",
            "/%zz",
        )
    ),
]
BAD_QUERIES = [
    *(
        _query(400, "'authentication' is no signature", f"authentication={text}&version=3")
        for text in (
            "",
            "edsig",
            AUTHENTICATION["signature"][:-1],
            AUTHENTICATION["signature"] + "%0a",
            AUTHENTICATION["auth_pkh"],
            AUTHENTICATION["auth_key"],
            "%ff",
            "1" * 3000,
        )
    ),
    _query(400, "Duplicate argument 'version'", "version=3&version=3"),
    _query(400, "Duplicate argument 'authentication'", "authentication=x&authentication=x"),
    *(
        _query(400, "'version' is not 0, 1, 2 or 3", f"version={version}")
        for version in ("9", "4", "-1", "03", "three", "%33%00", "")
    ),
]
OTHER_METHODS = ("PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "M-SEARCH", "%S", "A" * 500)


class BadRequestTests(TestCase):
    """Nothing bad reaches the device, and whoever asks next is served."""

    async def _start(self) -> Stand:
        stand = Stand(settings_with(), Firmware(enabled=EVERY_MAGIC_BYTE))
        await stand.start(self)
        return stand

    def _refused(self, answer: Answer, status: int, says: str, what: object) -> None:
        self.assertEqual((answer.status, answer.body), (status, answer.body), str(what)[:300])
        self.assertEqual(answer.headers["content-type"], "application/json")
        self.assertEqual(answer.headers["content-length"], str(len(answer.body)))
        message = message_in(answer.body)
        self.assertIn(says, message)
        self.assertRegex(message, r"\A[^\r\n]{10,250}\Z")
        self.assertNotRegex(message, r"Traceback|Error|codec|object at")

    async def _nothing_happened(self, stand: Stand, what: object) -> None:
        """The device heard nothing, and the next good request is served."""
        self.assertEqual(stand.written, b"", str(what)[:300])
        good = await stand.sign(TZ1, NOOP)
        self.assertEqual(good.status, 200, str(what)[:300])
        stand.written.clear()

    async def _refuse_all(self, requests: list[Bad]) -> None:
        stand = await self._start()
        for bad in requests:
            answer = await stand.request(bad.method, bad.path, bad.body)
            self._refused(answer, bad.status, bad.says, bad)
            await self._nothing_happened(stand, bad)

    async def test_bodies(self) -> None:
        """A body that is not a JSON string of the hexadecimal bytes of a payload."""
        await self._refuse_all(BAD_BODIES)

    async def test_paths(self) -> None:
        """A path that is no route, or names no key."""
        await self._refuse_all(BAD_PATHS)

    async def test_queries(self) -> None:
        """An authentication or version that cannot be read, or is there twice."""
        await self._refuse_all(BAD_QUERIES)

    async def test_cut_payloads(self) -> None:
        """Every recorded payload of a baker, cut after each of its bytes."""
        stand = await self._start()
        for payload in BAKING:
            for length in range(1, len(payload)):
                what = f"{length} bytes of {payload.hex()}"
                answer = await stand.sign(TZ3, payload[:length])
                self._refused(answer, 400, "", what)
            await self._nothing_happened(stand, payload.hex())

    async def test_trailing_bytes(self) -> None:
        """Every recorded payload of a baker, with bytes behind it."""
        stand = await self._start()
        for payload in BAKING:
            for tail in (b"\x00", b"\x01", b"\xff" * 3, payload):
                answer = await stand.sign(TZ3, payload + tail)
                self._refused(answer, 400, "trailing byte", (payload + tail).hex())
            await self._nothing_happened(stand, payload.hex())

    async def test_methods(self) -> None:
        """Another method than a route has is 405, with those that it has in Allow."""
        stand = await self._start()
        routes = {
            f"/keys/{TZ3}": ("GET, HEAD, POST", OTHER_METHODS),
            "/": ("GET, HEAD", ("POST", *OTHER_METHODS)),
            "/authorized_keys": ("GET, HEAD", ("POST", *OTHER_METHODS)),
            "/known_keys": ("GET, HEAD", ("POST", *OTHER_METHODS)),
            f"/bls_prove_possession/{TZ3}": ("GET, HEAD", ("POST", *OTHER_METHODS)),
        }
        for path, (allowed, methods) in routes.items():
            for method in methods:
                what = f"{method} {path}"
                answer = await stand.request(method, path, hex_body(BLOCK))
                self._refused(answer, 405, "", what)
                self.assertEqual(", ".join(sorted(answer.headers["allow"].split(", "))), allowed)
            await self._nothing_happened(stand, path)

    async def test_proof_of_possession(self) -> None:
        """No key of a Tezio HSM has a proof of possession; what is no key is said to be none."""
        stand = await self._start()
        path = "/bls_prove_possession"
        for key in (str(TZ3), OCTEZ["keys"][4]["pkh"]):
            answer = await stand.request("GET", f"{path}/{key}")
            self._refused(answer, 403, "can only be requested for BLS keys", key)
        answer = await stand.request("GET", f"{path}/tz4")
        self._refused(answer, 400, "no public key hash", "tz4")
        await self._nothing_happened(stand, path)

    async def test_chunked_and_too_large(self) -> None:
        """A chunked body that grows too large is refused as soon as it is."""
        stand = await self._start()
        chunk = b"11" * 500_000
        received = await stand.raw(
            b"POST /keys/%b HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n"
            % (str(TZ3).encode("ascii"), len(chunk), chunk)
        )
        self._refused(parse_response(received), 413, "larger than", "1 MB in a chunk")
        await self._nothing_happened(stand, "1 MB in a chunk")

    async def test_arbitrary_requests(self) -> None:
        """Whatever is asked for, the answer is no fault of ours, and the device hears nothing."""
        stand = await self._start()
        for method, target, body in _examples(requests(), 200):
            what = (method, target, body)
            answer = await stand.request(method, target, body)
            self.assertIn(answer.status, (200, 400, 403, 404, 405, 413), str(what))
            if answer.status != 200 and method != "HEAD":
                self._refused(answer, answer.status, "", what)
            self.assertEqual(stand.written, b"", str(what))
        await self._nothing_happened(stand, "arbitrary requests")

    async def test_what_is_no_http(self) -> None:
        """What cannot be read as HTTP is refused by Twisted or cut off; the signer lives on."""
        stand = await self._start()
        path = b"/keys/%b" % str(TZ3).encode("ascii")
        rest = b" HTTP/1.1\r\nConnection: close\r\n"
        body = b'\r\n"11"'
        for data in (
            b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n",
            b"GET\r\n\r\n",
            b"GET /\r\n",
            b"GET " + rest + b"\r\n",
            b"GET / HTTP/2.0\r\n\r\n",
            b"GET /\xff\xfe" + rest + b"\r\n",
            b"G\xc3\x89T /" + rest + b"\r\n",
            b"G@T /" + rest + b"\r\n",
            b"POST " + path + rest + b"Content-Length: -4\r\n" + body,
            b"POST " + path + rest + b"Content-Length: 4x\r\n" + body,
            b"POST " + path + rest + b"Content-Length: 4\r\nContent-Length: 5\r\n" + body,
            b"POST " + path + rest + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n" + body,
            b"POST " + path + rest + b"Transfer-Encoding: gzip\r\n" + body,
            b"POST " + path + rest + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
            b"GET /" + rest + b"no colon\r\n\r\n",
            b"GET /" + rest + b"X: y\r\n" * 600 + b"\r\n",
        ):
            self.assertEqual(await stand.raw(data), REFUSED_BY_TWISTED, str(data[:300]))
            await self._nothing_happened(stand, data)
        for data in (b"GET /" + b"a" * 20_000 + rest, b"GET /" + rest + b"X: " + b"y" * 20_000):
            self.assertEqual(await stand.raw(data + b"\r\n"), b"", str(data[:100]))
            await self._nothing_happened(stand, data)


class RefusalLogTests(TestCase):
    """What an operator can read of somebody who was turned away."""

    async def test_refused_get(self) -> None:
        """A refused request that is no signing request has a line of its own, without its query."""
        stand = Stand(settings_with(allowed_ips=()))
        await stand.start(self)
        with capturedLogs() as events:
            await stand.request("GET", f"/keys/{TZ1}?authentication=secret")
        (said,) = [formatEvent(event) for event in events if "refused" in event["log_format"]]
        self.assertIn(f"refused GET /keys/{TZ1} from 127.0.0.1: 403", said)
        self.assertNotIn("secret", said)

    async def test_many_refusals(self) -> None:
        """Whoever may ask nothing does not fill the log, whatever it is that he asks for."""
        stand = Stand(settings_with(allowed_ips=()))
        await stand.start(self)
        with capturedLogs() as events:
            for _ in range(LINES_PER_MINUTE):
                self.assertEqual((await stand.request("GET", "/")).status, 403)
                self.assertEqual((await stand.sign(TZ1, NOOP)).status, 403)
        said = [formatEvent(event) for event in events if "refused" in event["log_format"]]
        self.assertLess(len(said), LINES_PER_MINUTE + 5)


class RouteTests(TestCase):
    """What is said of routes that do not exist."""

    async def test_not_found(self) -> None:
        """All routes are listed."""
        stand = Stand()
        await stand.start(self)
        answer = await stand.request("GET", "/metrics")
        self.assertEqual(answer.status, 404)
        self.assertEqual(
            message_in(answer.body),
            "no such route; there are GET /authorized_keys, GET /known_keys, GET /keys/<address>, "
            "POST /keys/<address> and GET /bls_prove_possession/<address>",
        )

    async def test_not_allowed(self) -> None:
        """The methods of the path are listed."""
        stand = Stand()
        await stand.start(self)
        answer = await stand.request("PUT", f"/keys/{TZ1}", b"")
        self.assertEqual(answer.status, 405)
        self.assertEqual(message_in(answer.body), "this path takes GET or HEAD or POST only")


class TokenTests(TestCase):
    """`request_token`."""

    SECRET = b"correct-horse-battery-staple"
    MISSING = "the header x-tezio-token with the request token is missing"
    WRONG = "the request token in the header x-tezio-token is wrong"

    async def _start(self) -> Stand:
        stand = Stand(
            settings_with(
                request_token=RequestToken("x-tezio-token", self.SECRET), list_known_keys=True
            )
        )
        await stand.start(self)
        return stand

    def _routes(self) -> list[tuple[str, str, bytes | None]]:
        return [
            ("GET", "/authorized_keys", None),
            ("GET", "/known_keys", None),
            ("GET", f"/keys/{TZ1}", None),
            ("POST", f"/keys/{TZ1}", hex_body(NOOP)),
        ]

    async def test_without(self) -> None:
        """Without it, or with another or several, no route but the greeting says anything."""
        stand = await self._start()
        secret = self.SECRET.decode()
        for headers, says in (
            ("", self.MISSING),
            ("X-Tezio-Token:\r\n", self.WRONG),
            (f"X-Tezio-Token: {secret[:-1]}\r\n", self.WRONG),
            (f"X-Tezio-Token: {secret}x\r\n", self.WRONG),
            (f"X-Tezio-Token: {secret.upper()}\r\n", self.WRONG),
            (f"X-Tezio-Token: {secret}\r\n" * 2, self.WRONG),
            (f"X-Other: {secret}\r\n", self.MISSING),
        ):
            for method, path, body in [
                *self._routes(),
                ("GET", f"/bls_prove_possession/{TZ1}", None),
            ]:
                answer = await stand.request(method, path, body, headers)
                self.assertEqual((path, answer.status), (path, 401))
                self.assertEqual(message_in(answer.body), says)
        self.assertEqual(stand.written, b"")
        self.assertEqual((await stand.request("GET", "/")).status, 200)

    async def test_with(self) -> None:
        """With it, everything is as it is without a token."""
        stand = await self._start()
        for method, path, body in self._routes():
            for name in ("X-Tezio-Token", "x-tezio-token"):
                header = f"{name}: {self.SECRET.decode()}\r\n"
                answer = await stand.request(method, path, body, header)
                self.assertEqual((path, answer.status), (path, 200))

    async def test_not_logged(self) -> None:
        """Neither the secret nor what was sent in its place is in any event of the log."""
        stand = await self._start()
        wrong = "wrong-horse-battery-staple"
        with capturedLogs() as events:
            for secret in (wrong, self.SECRET.decode()):
                for method, path, body in self._routes():
                    await stand.request(method, path, body, f"X-Tezio-Token: {secret}\r\n")
        self.assertGreater(len(events), 4)
        for event in events:
            text = f"{formatEvent(event)} {event!r}"
            self.assertNotIn(wrong, text)
            self.assertNotIn(self.SECRET.decode(), text)
        self.assertNotIn(self.SECRET.decode(), repr(stand.settings))

    async def test_address_first(self) -> None:
        """Who may ask nothing is not told whether his token would be right."""
        settings = evolve(
            settings_with(request_token=RequestToken("x-tezio-token", self.SECRET)),
            allowed_ips=(ip_network("10.0.0.0/8"),),
        )
        stand = Stand(settings)
        await stand.start(self)
        for method, path, body in self._routes():
            self.assertEqual((await stand.request(method, path, body)).status, 403)


class RateTests(TestCase):
    """`limits.signatures_per_minute`."""

    async def test_too_many(self) -> None:
        """Generic operations above it are refused with 429, for each key; baking is not counted."""
        stand = Stand(settings_with(limits=Limits(signatures_per_minute=2)))
        await stand.start(self)
        for status in (200, 200, 429):
            answer = await stand.sign(TZ1, NOOP)
            self.assertEqual(answer.status, status)
        self.assertEqual(
            message_in(answer.body),
            f"more than 2 generic operations a minute for {TZ1} from 127.0.0.1; try again later",
        )
        for level in range(4):
            self.assertEqual((await stand.sign(TZ3, block(level + 1, 0))).status, 200)
        self.assertEqual((await stand.sign(TZ3, NOOP)).status, 200)

    async def test_what_could_not_be_signed(self) -> None:
        """A 502, which clients repeat by themselves, is not counted."""
        limits = Limits(signatures_per_minute=1)
        stand = Stand(settings_with(limits=limits, hsm_wait_seconds=0.1))
        await stand.start(self)
        stand.simulator.unplug()
        while any(device.ready for device in stand.hsms.devices.values()):
            await stand.hsms.changed(1)
        for _ in range(3):
            self.assertEqual((await stand.sign(TZ1, NOOP)).status, 502)
        stand.simulator.plug_in()
        while not any(device.ready for device in stand.hsms.devices.values()):
            await stand.hsms.changed(1)
        for status in (200, 429):
            self.assertEqual((await stand.sign(TZ1, NOOP)).status, status)


class ForwardedTests(TestCase):
    """Only the connection itself says who asks."""

    async def test_forwarded_is_not_believed(self) -> None:
        """An address in a header opens no door, and closes none."""
        headers = "".join(
            f"{name}: {value}\r\n"
            for name, value in (
                ("X-Forwarded-For", "10.0.0.1"),
                ("X-Real-IP", "10.0.0.1"),
                ("Forwarded", "for=10.0.0.1"),
                ("Client-IP", "10.0.0.1"),
            )
        )
        for network, status in (("10.0.0.0/8", 403), ("127.0.0.1", 200)):
            stand = Stand(settings_with(allowed_ips=(ip_network(network),)))
            await stand.start(self)
            for path in ("/", "/authorized_keys", "/known_keys", f"/keys/{TZ3}"):
                answer = await stand.request("GET", path, headers=headers)
                self.assertEqual((path, answer.status), (path, status))
            answer = await stand.request("POST", f"/keys/{TZ3}", hex_body(NOOP), headers)
            self.assertEqual(answer.status, status)
            if status == 403:
                self.assertEqual(
                    message_in(answer.body), "address 127.0.0.1 is not among allowed_ips"
                )
                self.assertEqual(stand.written, b"")


class WatermarkTests(TestCase):
    """What a baker may have signed after what."""

    def setUp(self) -> None:
        self.stand = Stand(settings_with(), Firmware(enabled=EVERY_MAGIC_BYTE))

    async def _signed(self, payload: bytes, key: int = 3) -> str:
        answer = await self.stand.sign(HSM_KEYS[key - 1].pkh, payload)
        self.assertEqual(answer.status, 200, answer.body)
        signature = text_in(answer.body, "signature")
        self.assertTrue(verifies(HSM_KEYS[key - 1].public_key, payload, signature))
        return signature

    async def _conflict(self, payload: bytes, says: str) -> None:
        """Refused, without the device being asked."""
        self.stand.written.clear()
        answer = await self.stand.sign(TZ3, payload)
        self.assertEqual((answer.status, message_in(answer.body)), (409, says))
        self.assertEqual(self.stand.written, b"")

    async def test_same_payload_twice(self) -> None:
        """The same payload again gives the same signature, which the device is not asked for."""
        await self.stand.start(self)
        for payload in (block(7, 2), consensus("preatt", 7, 2), consensus("att_dal_5", 7, 2)):
            first = await self._signed(payload)
            self.stand.written.clear()
            self.assertEqual(await self._signed(payload), first)
            self.assertEqual(self.stand.written, b"")

    async def test_other_payload_at_the_same_position(self) -> None:
        """Another payload at that level and round is refused, and it is said where."""
        await self.stand.start(self)
        for name, first, other in (
            ("block", block(7, 2, 1), block(7, 2, 2)),
            ("preattestation", consensus("preatt", 7, 2, 1), consensus("preatt", 7, 2, 2)),
            ("attestation", consensus("att", 7, 2, 1), consensus("att", 7, 2, 2)),
        ):
            signature = await self._signed(first)
            says = f"{name} at level 7 round 2 is already signed with different data"
            await self._conflict(other, says)
            self.assertEqual(await self._signed(first), signature)

    async def test_lower_and_higher(self) -> None:
        """Level and round rise; what is lower is refused with what stands."""
        await self.stand.start(self)
        payloads = (
            ("block", block),
            ("preattestation", lambda level, round_: consensus("preatt", level, round_)),
            ("attestation", lambda level, round_: consensus("att", level, round_)),
        )
        for name, payload in payloads:
            await self._signed(payload(100, 3))
            for level, round_ in ((100, 2), (100, 0), (99, 3), (99, 2**31 - 1), (0, 0)):
                await self._conflict(
                    payload(level, round_),
                    f"{name} at level {level} round {round_} is not above the high watermark, "
                    "level 100 round 3",
                )
            for level, round_ in ((100, 4), (101, 0), (500_101, 0)):
                await self._signed(payload(level, round_))
            await self._conflict(
                payload(2**31 - 1, 0),
                f"{name} at level 2147483647 round 0 is 2146983546 levels above the high "
                "watermark, level 500101 round 0, and max_level_jump is 500000; if this level is "
                "right, stop the signer and run: tezio-signer watermarks set "
                f"--chain NetXdQprcVkpaWU --key {TZ3} --operation {name} --level 2147483646",
            )

    async def test_dal_content_is_no_way_round(self) -> None:
        """An attestation with DAL content has the watermark of one without."""
        await self.stand.start(self)
        for level, (first, other) in enumerate(
            (("att", "att_dal_5"), ("att_dal_5", "att"), ("att_dal_0", "att_dal_big")), start=7
        ):
            await self._signed(consensus(first, level, 0, 1))
            for payload_byte in (1, 2):
                await self._conflict(
                    consensus(other, level, 0, payload_byte),
                    f"attestation at level {level} round 0 is already signed with different data",
                )

    async def test_kinds_keys_and_chains_apart(self) -> None:
        """Each kind, key and chain has a mark of its own."""
        await self.stand.start(self)
        other_chain = b"\x11" + bytes.fromhex("d1351584") + block(50, 0)[5:]
        await self._signed(block(100, 0))
        await self._signed(consensus("preatt", 50, 0))
        await self._signed(consensus("att", 40, 0))
        for key in (1, 2):
            await self._signed(block(50, 0), key)
        # The device itself knows no chains.
        self.stand.firmware.power_cycle()
        await self._signed(other_chain)
        await self._conflict(
            block(99, 0),
            "block at level 99 round 0 is not above the high watermark, level 100 round 0",
        )

    async def test_fitness_says_the_round(self) -> None:
        """A block that repeats the payload of an earlier round has the round of its fitness."""
        await self.stand.start(self)
        repeated = bytearray(block(7, 3))
        repeated[184:188] = (1).to_bytes(4, "big")
        await self._signed(block(7, 1))
        await self._signed(block(7, 2))
        await self._signed(bytes(repeated))
        await self._conflict(
            block(7, 2), "block at level 7 round 2 is not above the high watermark, level 7 round 3"
        )


_LEVEL = _ROUND = rb"[\x00-\x7f].{3}"
_FITNESS = (
    rb"\x00\x00\x00\x01\x02\x00\x00\x00\x04(?P=level)%b\x00\x00\x00\x04[\x80-\xff].{3}"
    rb"\x00\x00\x00\x04" + _ROUND
)
_SIGNED = re.compile(
    rb"\x11.{4}(?P<level>" + _LEVEL + rb").{33}.{8}.{33}"
    rb"(?:\x00\x00\x00\x21" + _FITNESS % rb"\x00{4}" + rb"|"
    rb"\x00\x00\x00\x25" + _FITNESS % rb"\x00\x00\x00\x04[\x00-\x7f].{3}" + rb")"
    rb".{64}" + _ROUND + rb".{8}(?:\x00|\xff.{32})."
    rb"|\x12.{36}\x14.{2}" + _LEVEL + _ROUND + rb".{32}"
    rb"|\x13.{36}\x15.{2}" + _LEVEL + _ROUND + rb".{32}"
    rb"|\x13.{36}\x17.{2}" + _LEVEL + _ROUND + rb".{32}[\x80-\xff]*[\x00-\x7f]"
    rb"|\x03.{32}[^\x14-\x17\x1e\x1f\x28\x29].*",
    re.DOTALL,
)
"""What may be signed at all, by the layouts of Octez."""
_GENERATOR = 0x18005  # of the CRC: polynomial 8005 with its leading term


def _crc_fits(frame: bytes) -> bool:
    """Whether the polynomial of length, body and CRC is divided by that of the CRC."""
    value = int.from_bytes(frame[1:-2] + frame[:-3:-1], "big")
    while value.bit_length() > 16:
        value ^= _GENERATOR << (value.bit_length() - 17)
    return value == 0


def frames_in(written: bytes) -> list[bytes]:
    """The frames that a device would read; fails if anything else was written."""
    frames = []
    while written:
        assert written[0] == 0x03, f"no start byte: {written[:20].hex()}"
        end = 1 + int.from_bytes(written[1:3], "little")
        assert 1 + 7 + 1 + 2 <= end <= 1025, f"a frame of {end} bytes"
        assert len(written) >= end, "an incomplete frame"
        frame, written = written[:end], written[end:]
        assert _crc_fits(frame), f"wrong CRC: {frame.hex()}"
        frames.append(frame)
    return frames


class HarmlessFramesTests(TestCase):
    """No payload makes the signer write what could harm a device."""

    def test_the_reading_of_frames(self) -> None:
        """The reader of frames in these tests takes what was recorded, and nothing damaged."""
        signing = [
            bytes.fromhex(exchange["request_hex"])
            for exchange in EXCHANGES
            if " mode 3 75-byte message" in exchange["what"]
        ]
        self.assertEqual(frames_in(b"".join(signing)), signing)
        for at in range(len(signing[0])):
            damaged = bytearray(signing[0])
            damaged[at] ^= 1
            self.assertRaises(AssertionError, frames_in, bytes(damaged))

    async def test_frames(self) -> None:
        """Each frame is a request to sign exactly one well-formed payload that was asked for."""
        stand = Stand(
            settings_with(security=Security(False, False, False, False)),
            Firmware(enabled=EVERY_MAGIC_BYTE),
        )
        await stand.start(self)
        signed = set()
        for payload in _examples(hostile_payloads(), 300):
            for slot, key in enumerate(HSM_KEYS, start=1):
                answer = await stand.sign(key.pkh, payload)
                self.assertIn(answer.status, (200, 400, 403, 409, 413), payload.hex())
                for frame in frames_in(bytes(stand.written)):
                    # To sign, with this slot, a message that is not hashed, raw bytes back.
                    self.assertEqual(frame[3:8], bytes([0x21, slot, 3, 0, 0]))
                    self.assertEqual(frame[8:-2], payload)
                    self.assertRegex(payload, _SIGNED)
                    self.assertTrue(_SIGNED.fullmatch(payload), payload.hex())
                    signed.add((slot, payload[0]))
                stand.written.clear()
                if answer.status == 200:
                    signature = text_in(answer.body, "signature")
                    self.assertTrue(verifies(key.public_key, payload, signature))
        self.assertFalse(stand.firmware.crashed)
        self.assertEqual(
            signed, {(slot, magic) for slot in (1, 2, 3) for magic in (0x03, 0x11, 0x12, 0x13)}
        )
