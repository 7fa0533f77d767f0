"""What the HTTP listener says to bad requests, and that nothing comes of them."""

from attrs import frozen
from twisted.trial.unittest import TestCase

from tests.support.genericpayloads import noop_payload
from tests.support.harness import (
    EVERY_MAGIC_BYTE,
    Answer,
    Harness,
    hex_body,
    parse_response,
    settings_with,
)
from tests.support.octezclient import message_in
from tests.support.strategies import examples, requests
from tests.support.vectors import AUTHENTICATION, OCTEZ, PAYLOADS, TZ1, TZ3
from tezio_signer.simulator.firmware import Firmware

BLOCK = PAYLOADS["block_unlocked_nononce_on"]
NOOP = PAYLOADS["noop"]
BAKING = [p for name, p in PAYLOADS.items() if p[0] != 0x03 and not name.startswith("bls")]
REFUSED_BY_TWISTED = b"HTTP/1.1 400 Bad Request\r\n\r\n"


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
        for magic in (0x01, 0x02, 0x04)
    ),
    Bad(403, "never signed", hex_body(bytes.fromhex(AUTHENTICATION["signed_bytes"]))),
    Bad(400, "tz4", hex_body(PAYLOADS["bls_att"])),
    Bad(400, "tz4", hex_body(PAYLOADS["bls_preatt"])),
    Bad(400, "kind 0x14", hex_body(b"\x13" + PAYLOADS["preatt"][1:])),
    Bad(400, "kind 0x15", hex_body(b"\x12" + PAYLOADS["att"][1:])),
    Bad(403, "attestation", hex_body(b"\x03" + PAYLOADS["att"][5:])),
    Bad(400, "fitness", hex_body(BLOCK[:83] + b"\x00\x00\x80\x00" + BLOCK[87:])),
    Bad(400, "negative fitness length", hex_body(BLOCK[:83] + b"\xff" * 4 + BLOCK[87:])),
    Bad(400, "level is 5000001 in its header", hex_body(BLOCK[:8] + b"\x41" + BLOCK[9:])),
    Bad(400, "negative level", hex_body(BLOCK[:5] + b"\xff" + BLOCK[6:])),
    Bad(400, "negative round", hex_body(BLOCK[:116] + b"\x80" + BLOCK[117:])),
    Bad(400, "payload round 2 is above its round 1", hex_body(BLOCK[:187] + b"\x02" + BLOCK[188:])),
    Bad(400, "negative level", hex_body(PAYLOADS["att"][:40] + b"\x80" + PAYLOADS["att"][41:])),
    Bad(400, "negative round", hex_body(PAYLOADS["preatt"][:44] + b"\xff" + PAYLOADS["att"][45:])),
    Bad(400, "Michelson data are unreadable: Micheline has", hex_body(b"\x05" + BLOCK[1:])),
    Bad(413, "1016 bytes; a Tezio HSM signs 1015 at most", hex_body(noop_payload(1016))),
    Bad(413, "32737 bytes", hex_body(noop_payload(32737))),
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

    async def _start(self) -> Harness:
        harness = Harness(settings_with(), Firmware(enabled=EVERY_MAGIC_BYTE))
        await harness.start(self)
        return harness

    def _refused(self, answer: Answer, status: int, says: str, what: object) -> None:
        self.assertEqual((answer.status, answer.body), (status, answer.body), str(what)[:300])
        self.assertEqual(answer.headers["content-type"], "application/json")
        self.assertEqual(answer.headers["content-length"], str(len(answer.body)))
        message = message_in(answer.body)
        self.assertIn(says, message)
        self.assertRegex(message, r"\A[^\r\n]{10,250}\Z")
        self.assertNotRegex(message, r"Traceback|Error|codec|object at")

    async def _nothing_happened(self, harness: Harness, what: object) -> None:
        """The device heard nothing, and the next good request is served."""
        self.assertEqual(harness.written, b"", str(what)[:300])
        good = await harness.sign(TZ1, NOOP)
        self.assertEqual(good.status, 200, str(what)[:300])
        harness.written.clear()

    async def _refuse_all(self, requests: list[Bad]) -> None:
        harness = await self._start()
        for bad in requests:
            answer = await harness.request(bad.method, bad.path, bad.body)
            self._refused(answer, bad.status, bad.says, bad)
            await self._nothing_happened(harness, bad)

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
        harness = await self._start()
        for payload in BAKING:
            for length in range(1, len(payload)):
                what = f"{length} bytes of {payload.hex()}"
                answer = await harness.sign(TZ3, payload[:length])
                self._refused(answer, 400, "", what)
            await self._nothing_happened(harness, payload.hex())

    async def test_trailing_bytes(self) -> None:
        """Every recorded payload of a baker, with bytes behind it."""
        harness = await self._start()
        for payload in BAKING:
            for tail in (b"\x00", b"\x01", b"\xff" * 3, payload):
                answer = await harness.sign(TZ3, payload + tail)
                self._refused(answer, 400, "trailing byte", (payload + tail).hex())
            await self._nothing_happened(harness, payload.hex())

    async def test_methods(self) -> None:
        """Another method than a route has is 405, with those that it has in Allow."""
        harness = await self._start()
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
                answer = await harness.request(method, path, hex_body(BLOCK))
                self._refused(answer, 405, "", what)
                self.assertEqual(", ".join(sorted(answer.headers["allow"].split(", "))), allowed)
            await self._nothing_happened(harness, path)

    async def test_proof_of_possession(self) -> None:
        """No key of a Tezio HSM has a proof of possession; what is no key is said to be none."""
        harness = await self._start()
        path = "/bls_prove_possession"
        for key in (str(TZ3), OCTEZ["keys"][4]["pkh"]):
            answer = await harness.request("GET", f"{path}/{key}")
            self._refused(answer, 403, "can only be requested for BLS keys", key)
        answer = await harness.request("GET", f"{path}/tz4")
        self._refused(answer, 400, "no public key hash", "tz4")
        await self._nothing_happened(harness, path)

    async def test_chunked_and_too_large(self) -> None:
        """A chunked body that grows too large is refused as soon as it is."""
        harness = await self._start()
        chunk = b"11" * 500_000
        received = await harness.raw(
            b"POST /keys/%b HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n"
            % (str(TZ3).encode("ascii"), len(chunk), chunk)
        )
        self._refused(parse_response(received), 413, "larger than", "1 MB in a chunk")
        await self._nothing_happened(harness, "1 MB in a chunk")

    async def test_arbitrary_requests(self) -> None:
        """Whatever is asked for, the answer is no fault of ours, and the device hears nothing."""
        harness = await self._start()
        for method, target, body in examples(requests(), 200):
            what = (method, target, body)
            answer = await harness.request(method, target, body)
            self.assertIn(answer.status, (200, 400, 403, 404, 405, 413), str(what))
            if answer.status != 200 and method != "HEAD":
                self._refused(answer, answer.status, "", what)
            self.assertEqual(harness.written, b"", str(what))
        await self._nothing_happened(harness, "arbitrary requests")

    async def test_what_is_no_http(self) -> None:
        """What cannot be read as HTTP is refused by Twisted or cut off; the signer lives on."""
        harness = await self._start()
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
            self.assertEqual(await harness.raw(data), REFUSED_BY_TWISTED, str(data[:300]))
            await self._nothing_happened(harness, data)
        for data in (b"GET /" + b"a" * 20_000 + rest, b"GET /" + rest + b"X: " + b"y" * 20_000):
            answer = await harness.raw(data + b"\r\n")
            self.assertEqual(answer, REFUSED_BY_TWISTED, str(data[:100]))
            await self._nothing_happened(harness, data)
