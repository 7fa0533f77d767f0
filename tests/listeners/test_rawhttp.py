"""Bytes that two readers of HTTP could understand in two ways: what this one makes of them.

Behind every row comes a good request. If the row leaves the connection open, that is
answered too, which shows that both sides agree on where the row has ended.
"""

import re
from gzip import compress

from attrs import frozen
from twisted.trial.unittest import TestCase

from tests.support.harness import Harness, settings_with
from tests.support.octezclient import HSM_KEYS, verifies
from tests.support.vectors import PAYLOADS, TZ1
from tezio_signer.config.settings import Limits
from tezio_signer.simulator.firmware import Firmware

NOOP = PAYLOADS["noop"]
KEY = b"/keys/%b" % str(TZ1).encode("ascii")
BODY = b'"%b"' % NOOP.hex().encode("ascii")
LENGTH = b"Content-Length: %d\r\n" % len(BODY)
CHUNKED = b"Transfer-Encoding: chunked\r\n"
CHUNK = b"%x\r\n%b\r\n" % (len(BODY), BODY)
LAST = b"0\r\n\r\n"
AFTER = b"GET /authorized_keys HTTP/1.1\r\nConnection: close\r\n\r\n"
HIDDEN = b"POST %b HTTP/1.1\r\n%b\r\n%b" % (KEY, LENGTH, BODY)
"""A request to sign that somebody would like to smuggle in."""


def post(headers: bytes, body: bytes, target: bytes = KEY, version: bytes = b"1.1") -> bytes:
    """A request to sign with these headers and this body."""
    return b"POST %b HTTP/%b\r\nHost: h\r\n%b\r\n%b" % (target, version, headers, body)


def get(target: bytes, headers: bytes = b"", method: bytes = b"GET") -> bytes:
    """A request without a body."""
    return b"%b %b HTTP/1.1\r\nHost: h\r\n%b\r\n" % (method, target, headers)


@frozen
class Row:
    """What is sent, and the statuses of all answers; 200 in the end is that of `AFTER`.

    :ivar signed: how many signatures come of it.
    """

    what: str
    data: bytes
    statuses: tuple[int, ...]
    signed: int = 0


FRAMING = [
    Row("chunked", post(CHUNKED, CHUNK + LAST), (200, 200), 1),
    Row("a length", post(LENGTH, BODY), (200, 200), 1),
    Row("the last one", post(LENGTH + b"Connection: close\r\n", BODY), (200,), 1),
    Row("the last, of a list", post(LENGTH + b"Connection: x,close\r\n", BODY), (200,), 1),
    Row(
        "the last, in a second header",  # as the fuzzing has found
        post(LENGTH + b"Connection: x\r\nConnection: close\r\n", BODY),
        (200,),
        1,
    ),
    Row("two requests", post(LENGTH, BODY) + post(CHUNKED, CHUNK + LAST), (200, 200, 200), 2),
    Row("length, then chunked", post(LENGTH + CHUNKED, CHUNK + LAST), (400,)),
    Row("chunked, then length", post(CHUNKED + LENGTH, CHUNK + LAST), (400,)),
    Row("hidden behind chunked", post(CHUNKED + b"Content-Length: 3\r\n", LAST + HIDDEN), (400,)),
    Row("hidden behind a length", post(b"Content-Length: 0\r\n" + CHUNKED, HIDDEN), (400,)),
    Row("two lengths", post(LENGTH + b"Content-Length: 3\r\n", BODY), (400,)),
    Row("the same length twice", post(LENGTH * 2, BODY), (400,)),
    Row("a list of lengths", post(b"Content-Length: 3, 3\r\n", BODY), (400,)),
    Row("a negative length", post(b"Content-Length: -3\r\n", BODY), (400,)),
    Row("a length with a sign", post(b"Content-Length: +3\r\n", BODY), (400,)),
    Row("a hexadecimal length", post(b"Content-Length: 0x3\r\n", BODY), (400,)),
    Row("a length with a blank", post(b"Content-Length: 3 3\r\n", BODY), (400,)),
    Row("an empty length", post(b"Content-Length:\r\n", BODY), (400,)),
    Row("a length of 5000 digits", post(b"Content-Length: %b\r\n" % (b"1" * 5000), BODY), (400,)),
    Row("no length", post(b"", b"") + BODY + b"\r\n\r\n", (400, 400)),
    Row("too short a length", post(b"Content-Length: 4\r\n", BODY), (400, 400)),
    Row("a blank before the colon", post(b"Content-Length : 3\r\n", BODY), (400,)),
    Row("chunked twice", post(CHUNKED * 2, CHUNK + LAST), (400,)),
    Row("a list of codings", post(b"Transfer-Encoding: gzip, chunked\r\n", CHUNK + LAST), (400,)),
    Row("chunked, chunked", post(b"Transfer-Encoding: chunked, chunked\r\n", LAST), (400,)),
    Row("an unknown coding", post(b"Transfer-Encoding: xchunked\r\n" + LENGTH, BODY), (400,)),
    Row("identity", post(b"Transfer-Encoding: identity\r\n" + LENGTH, BODY), (400,)),
    Row("identity and chunked", post(b"Transfer-Encoding: identity\r\n" + CHUNKED, LAST), (400,)),
    Row("an empty coding", post(b"Transfer-Encoding:\r\n" + LENGTH, BODY), (400,)),
    Row("quoted", post(b'Transfer-Encoding: "chunked"\r\n', CHUNK + LAST), (400,)),
    Row("a vertical tab", post(b"Transfer-Encoding: \x0bchunked\r\n", CHUNK + LAST), (400,)),
    Row("a folded coding", post(b"Transfer-Encoding:\r\n chunked\r\n", CHUNK + LAST), (400,)),
    Row("a folded header", post(b"X: y\r\n\tz\r\n" + LENGTH, BODY), (400,)),
    Row("a first header that is folded", post(b" X: y\r\n" + LENGTH, BODY), (400,)),
    Row("capitals", post(b"TRANSFER-ENCODING: CHUNKED\r\n", CHUNK + LAST), (200, 200), 1),
    Row("chunked in HTTP/1.0", post(CHUNKED, CHUNK + LAST, version=b"1.0"), (400,)),
    Row("a body of a GET", get(b"/known_keys", LENGTH) + BODY, (200, 200)),
    Row("an empty body of a GET", get(b"/known_keys", b"Content-Length: 0\r\n"), (200, 200)),
    Row(
        "a request in the body of a GET",
        get(b"/known_keys", b"Content-Length: %d\r\n" % len(HIDDEN)) + HIDDEN,
        (200, 200),
    ),
]
CHUNKS = [
    Row(
        "an extension", post(CHUNKED, b"%x;a=b\r\n%b\r\n" % (len(BODY), BODY) + LAST), (200, 200), 1
    ),
    Row(
        "many chunks",
        post(CHUNKED, b"".join(b"1\r\n%c\r\n" % c for c in BODY) + LAST),
        (200, 200),
        1,
    ),
    Row("trailers", post(CHUNKED, CHUNK + b"0\r\nX: y\r\n\r\n"), (200, 200), 1),
    Row(
        "a length as trailer",
        post(CHUNKED, CHUNK + b"0\r\nContent-Length: 9\r\n\r\n"),
        (200, 200),
        1,
    ),
    Row("leading zeros", post(CHUNKED, b"000" + CHUNK + LAST), (200, 200), 1),
    Row("0x", post(CHUNKED, b"0x" + CHUNK + LAST), (400,)),
    Row("a sign", post(CHUNKED, b"+" + CHUNK + LAST), (400,)),
    Row("a minus", post(CHUNKED, b"-1\r\n" + LAST), (400,)),
    Row("an underscore", post(CHUNKED, b"1_0\r\n" + LAST), (400,)),
    Row("a blank", post(CHUNKED, b" " + CHUNK + LAST), (400,)),
    Row("no digits", post(CHUNKED, b"\r\n" + LAST), (400,)),
    Row("a line of 2000 digits", post(CHUNKED, b"0" * 2000 + CHUNK + LAST), (400,)),
    Row("an extension of 2000 bytes", post(CHUNKED, b"3;%b\r\n" % (b"a" * 2000) + LAST), (400,)),
    Row("a line feed in an extension", post(CHUNKED, b'3;a\nb\r\n11"\r\n' + LAST), (400,)),
    Row("more than it says", post(CHUNKED, b"3\r\n%b\r\n" % BODY + LAST), (400,)),
    Row("line feeds only", post(CHUNKED, CHUNK.replace(b"\r", b"") + LAST), (400,)),
    Row("endless trailers", post(CHUNKED, CHUNK + b"0\r\n" + b"X: y\r\n" * 12_000), (400,)),
]
LINES = [
    Row("bare line feeds", post(LENGTH, BODY).replace(b"\r\n", b"\n"), (400,)),
    Row("a line feed in a header", post(b"X: y\nContent-Length: 3\r\n" + LENGTH, BODY), (400,)),
    Row("a carriage return in one", post(b"X: y\rContent-Length: 3\r\n" + LENGTH, BODY), (400,)),
    Row("NUL in one", post(b"X: y\x00z\r\n" + LENGTH, BODY), (400,)),
    Row("NUL in a name", post(b"X\x00: y\r\n" + LENGTH, BODY), (400,)),
    Row("NUL in the target", get(b"/\x00"), (400,)),
    Row("a carriage return in the target", get(b"/\rx"), (400,)),
    Row("two blanks", b"GET  / HTTP/1.1\r\n\r\n", (400,)),
    Row("a tab", b"GET\t/ HTTP/1.1\r\n\r\n", (400,)),
    Row("a blank at the end", b"GET / HTTP/1.1 \r\n\r\n", (400,)),
    Row("no version", b"GET /\r\n\r\n", (400,)),
    Row("HTTP/2", b"GET / HTTP/2.0\r\n\r\n", (400,)),
    Row("HTTP/1.2", b"GET / HTTP/1.2\r\n\r\n", (400,)),
    Row("http", b"GET / http/1.1\r\n\r\n", (400,)),
    Row("the preface of HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", (400,)),
    Row("an empty line before", b"\r\n" + get(b"/known_keys"), (200, 200)),
    Row("two empty lines before", b"\r\n\r\n" + get(b"/known_keys"), (400,)),
    Row("no colon", get(b"/", b"no colon\r\n"), (400,)),
    Row("an empty name", get(b"/", b": x\r\n"), (400,)),
    Row("a name that is not ASCII", get(b"/", b"\xe9: x\r\n"), (400,)),
    Row("100 headers", get(b"/", b"X: y\r\n" * 99), (200, 200)),
    Row("101 headers", get(b"/", b"X: y\r\n" * 100), (400,)),
    Row("17 KB of headers", get(b"/", b"X: %b\r\n" % (b"y" * 1000) * 17), (400,)),
    Row("a header of 17 KB", get(b"/", b"X: %b\r\n" % (b"y" * 17_000)), (400,)),
]
TARGETS = [
    Row("absolute form", get(b"http://h/known_keys"), (400,)),
    Row("signing by absolute form", post(LENGTH, BODY, b"http://h" + KEY), (400,)),
    Row("no slash before it", post(LENGTH, BODY, b"x" + KEY[1:]), (400,)),
    Row("authority form", get(b"h:80", method=b"CONNECT"), (400,)),
    Row("a star", get(b"*", method=b"OPTIONS"), (400,)),
    Row("an encoded slash", post(LENGTH, BODY, b"/keys%2F" + KEY[6:]), (400,)),
    Row("an encoded slash in front", post(LENGTH, BODY, b"/%2f" + KEY[1:]), (400,)),
    Row("a slash encoded twice", post(LENGTH, BODY, b"/keys%252F" + KEY[6:]), (404, 200)),
    Row("a backslash", post(LENGTH, BODY, b"/keys\\" + KEY[6:]), (404, 200)),
    Row("..", post(LENGTH, BODY, b"/x/.." + KEY), (404, 200)),
    Row("encoded ..", post(LENGTH, BODY, b"/x/%2e%2e" + KEY), (404, 200)),
    Row(". ", post(LENGTH, BODY, b"/." + KEY), (404, 200)),
    Row("a semicolon", post(LENGTH, BODY, KEY + b";a=b"), (400, 200)),
    Row("a fragment", post(LENGTH, BODY, KEY + b"#a"), (400, 200)),
    Row("a slash at the end", post(LENGTH, BODY, KEY + b"/"), (404, 200)),
    Row("a letter encoded", post(LENGTH, BODY, KEY.replace(b"keys", b"%6beys")), (200, 200), 1),
    Row("capitals", post(LENGTH, BODY, KEY.replace(b"keys", b"KEYS")), (404, 200)),
    Row("a line break encoded", get(b"/known_keys%0d%0aX:%20y"), (404, 200)),
    Row("NUL encoded", get(b"/known_keys%00"), (404, 200)),
    Row("too long UTF-8 for a slash", post(LENGTH, BODY, b"/keys%c0%af" + KEY[6:]), (404, 200)),
    Row("bytes that are not ASCII", get(b"/\x80\xa9"), (404, 200)),
    Row("letters that are not ASCII", get("/é".encode()), (400,)),
    Row("a path of 16 KB", get(b"/" + b"a" * 16_000), (404, 200)),
    Row("a path of 17 KB", get(b"/" + b"a" * 17_000), (400,)),
]
METHODS = [
    Row("HEAD", get(b"/known_keys", method=b"HEAD"), (200, 200)),
    Row("OPTIONS", get(KEY, method=b"OPTIONS"), (405, 200)),
    Row("TRACE", get(b"/", method=b"TRACE"), (405, 200)),
    Row("PUT with a body", post(LENGTH, BODY).replace(b"POST", b"PUT"), (405, 200)),
    Row("an unknown one", get(b"/", method=b"BREW"), (405, 200)),
    Row("small letters", post(LENGTH, BODY).replace(b"POST", b"post"), (400,)),
    Row("what is no token", get(b"/", method=b"G@T"), (400,)),
    Row(
        "another method by a header",
        get(KEY, b"X-HTTP-Method-Override: POST\r\n" + LENGTH) + BODY,
        (200, 200),
    ),
    Row("an upgrade", get(b"/known_keys", b"Connection: Upgrade\r\nUpgrade: h2c\r\n"), (200, 200)),
]
BODIES = [
    Row("expected", post(LENGTH + b"Expect: 100-continue\r\n", BODY), (100, 200, 200), 1),
    Row(
        "expected in HTTP/1.0",
        post(LENGTH + b"Expect: 100-continue\r\n", BODY, version=b"1.0"),
        (200,),
        1,
    ),
    Row(
        "expected, but too large",
        post(b"Content-Length: 200000\r\nExpect: 100-continue\r\n", b"1" * 200_000),
        (413,),
    ),
    Row(
        "compressed",
        post(
            b"Content-Encoding: gzip\r\nContent-Length: %d\r\n" % len(compress(BODY, mtime=0)),
            compress(BODY, mtime=0),
        ),
        (400, 200),
    ),
    Row("deep", post(b"Content-Length: 100000\r\n", b"[" * 100_000), (400, 200)),
    Row("deep objects", post(b"Content-Length: 100000\r\n", b'{"":' * 25_000), (400, 200)),
    Row(
        "a number of 100,000 digits",
        post(b"Content-Length: 100000\r\n", b"1" * 100_000),
        (400, 200),
    ),
    Row(
        "12,000 semicolons",
        post(LENGTH + b"Content-Type: a/b%b\r\n" % (b";" * 12_000), BODY),
        (200, 200),
        1,
    ),
    Row(
        "a form",
        post(b"Content-Type: multipart/form-data; boundary=a\r\n" + LENGTH, BODY),
        (200, 200),
        1,
    ),
]


class TableTests(TestCase):
    """Each row by itself."""

    timeout = 60

    async def _check(self, rows: list[Row]) -> None:
        limits = Limits(request_seconds=0.3)
        harness = Harness(settings_with(limits=limits, list_known_keys=True), Firmware())
        await harness.start(self)
        for row in rows:
            began = harness.connections.clock.seconds()
            received = await harness.raw(row.data + AFTER)
            statuses = tuple(map(int, re.findall(rb"HTTP/1\.[01] (\d{3}) ", received)))
            self.assertEqual((row.what, statuses), (row.what, row.statuses), received[:2000])
            signatures = re.findall(rb'{"signature":"(\w+)"}', received)
            self.assertEqual((row.what, len(signatures)), (row.what, row.signed))
            for signature in signatures:
                self.assertTrue(verifies(HSM_KEYS[0].public_key, NOOP, signature.decode()))
            if not row.signed:
                self.assertEqual((row.what, bytes(harness.written)), (row.what, b""))
            self.assertLess(harness.connections.clock.seconds() - began, 0.8, row.what)
            harness.written.clear()

    async def test_framing(self) -> None:
        """Where a body ends: what could be read in two ways is refused."""
        await self._check(FRAMING)

    async def test_chunks(self) -> None:
        """Chunks: only what all readers agree on."""
        await self._check(CHUNKS)

    async def test_lines(self) -> None:
        """Lines end in CR LF, and are not too long nor too many."""
        await self._check(LINES)

    async def test_targets(self) -> None:
        """A path has one meaning, and nothing is signed under another."""
        await self._check(TARGETS)

    async def test_methods(self) -> None:
        """Only POST signs."""
        await self._check(METHODS)

    async def test_bodies(self) -> None:
        """Bodies that cost much to read, or do not come at once."""
        await self._check(BODIES)
