"""The HTTP listener, on loopback and with a simulated HSM on a pseudo-terminal."""

from ipaddress import ip_network

from attrs import evolve
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase, TestCase

from tests.support import octezclient
from tests.support.harness import (
    EVERY_MAGIC_BYTE,
    Client,
    Harness,
    hex_body,
    parse_response,
    reactor,
    settings_with,
)
from tests.support.octezclient import (
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
from tests.support.vectors import AUTH, AUTHENTICATION, OCTEZ, PAYLOADS, TZ1, TZ2, TZ3, block
from tezio_signer import __version__
from tezio_signer.config.settings import Limits, RequestToken, Security
from tezio_signer.listeners.limits import Connections
from tezio_signer.listeners.wrapping import LimitedFactory
from tezio_signer.simulator.firmware import Firmware
from tezio_signer.sparinglog import LINES_PER_MINUTE
from tezio_signer.tezos.keys import PublicKey

WALLET = [SecretKey(key["sk"]) for key in OCTEZ["keys"] if not key["pkh"].startswith("tz4")]
BLOCK = PAYLOADS["block_unlocked_nononce_on"]
NOOP = PAYLOADS["noop"]


_VERSION = __version__.encode("ascii")


def _texts(*values: object) -> list[bytes]:
    return [str(value).encode("ascii") for value in values]


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
        harness = Harness(settings_with(), Firmware(enabled=EVERY_MAGIC_BYTE))
        await harness.start(self)
        for base in ("", "/"):  # an address with a slash at its end makes double ones
            for key in HSM_KEYS:
                for name, payload in (("noop", NOOP), ("block", BLOCK)):
                    client = OctezClient(harness.port, base=base)
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
        """The HSM's auth key and authorized keys of all curves are accepted."""
        authorized = tuple(PublicKey.parse(key.public_key) for key in WALLET)
        harness = Harness(settings_with(auth_req=True, auth_key=AUTH, authorized_keys=authorized))
        await harness.start(self)
        for wallet_key in (HSM_AUTH_KEY, *WALLET):
            client = OctezClient(harness.port, [HSM_KEYS[0], wallet_key])
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
        harness = Harness()
        await harness.start(self)
        client = OctezClient(harness.port)
        for key in HSM_KEYS:
            self.assertEqual(await client.public_key(key.pkh), key.public_key)
        self.assertEqual(await client.known_keys(), [key.pkh for key in HSM_KEYS])

    async def test_refusals_are_printed(self) -> None:
        """octez-client can read what is wrong, and the status with it."""
        harness = Harness(settings_with(operations=(), list_known_keys=False))
        await harness.start(self)
        client = OctezClient(harness.port)
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
        self.harness = Harness()

    async def _expect(self, path: str, body: bytes, method: str = "GET", headers: str = "") -> None:
        answer = await self.harness.request(method, path, headers=headers)
        self.assertEqual((path, answer.status, answer.body), (path, 200, body))
        self.assertEqual(answer.headers["content-type"], "application/json")
        self.assertEqual(answer.headers["content-length"], str(len(body)))

    async def test_bodies(self) -> None:
        """A 200 has the one field that Octez expects, no other, and one line feed."""
        await self.harness.start(self)
        await self._expect("/authorized_keys", b"{}\n")
        await self._expect(
            "/known_keys", b'{"known_keys":["%b","%b","%b"]}\n' % tuple(_texts(TZ1, TZ2, TZ3))
        )
        for key in HSM_KEYS:
            public_key = key.public_key.encode("ascii")
            await self._expect(f"/keys/{key.pkh}", b'{"public_key":"%b"}\n' % public_key)
        answer = await self.harness.sign(TZ1, NOOP)
        signature = text_in(answer.body, "signature")
        self.assertEqual(answer.body, b'{"signature":"%b"}\n' % signature.encode("ascii"))
        self.assertEqual(answer.status, 200)
        self.assertEqual(answer.headers["content-type"], "application/json")
        self.assertEqual(answer.headers["content-length"], str(len(answer.body)))

    async def test_authorized_keys(self) -> None:
        """Authentication that is wanted is announced by the hashes of the keys."""
        self.harness = Harness(
            settings_with(
                auth_req=True,
                auth_key=AUTH,
                authorized_keys=(PublicKey.parse(AUTHENTICATION["auth_key"]),),
            )
        )
        await self.harness.start(self)
        await self._expect(
            "/authorized_keys",
            b'{"authorized_keys":["%b","%b"]}\n'
            % (str(AUTH).encode("ascii"), AUTHENTICATION["auth_pkh"].encode("ascii")),
        )

    async def test_own_authorized_keys(self) -> None:
        """The keys that are authorized for any signing key are announced, each once."""
        settings = settings_with(auth_req=True, auth_key=AUTH)
        own = PublicKey.parse(AUTHENTICATION["auth_key"])
        keys = {
            key: evolve(policy, authorized_keys=(own, own) if key == TZ1 else None)
            for key, policy in settings.signing_keys.items()
        }
        self.harness = Harness(evolve(settings, signing_keys=keys))
        await self.harness.start(self)
        expected = ",".join(f'"{key}"' for key in (AUTHENTICATION["auth_pkh"], AUTH))
        await self._expect("/authorized_keys", b'{"authorized_keys":[%b]}\n' % expected.encode())

    async def test_authentication_switched_off(self) -> None:
        """With `auth_check` off nobody is asked to authenticate."""
        self.harness = Harness(
            settings_with(auth_req=True, auth_key=AUTH, security=Security(auth_check=False))
        )
        await self.harness.start(self)
        await self._expect("/authorized_keys", b"{}\n")

    async def test_greeting(self) -> None:
        """`GET /` says name and version, as plain text."""
        await self.harness.start(self)
        answer = await self.harness.request("GET", "/")
        self.assertEqual((answer.status, answer.body), (200, b"Tezio Signer %b\n" % _VERSION))
        self.assertEqual(answer.headers["content-type"], "text/plain")

    async def test_slashes(self) -> None:
        """Repeated slashes count as one."""
        await self.harness.start(self)
        public_key = b'{"public_key":"%b"}\n' % HSM_KEYS[0].public_key.encode("ascii")
        for path in (f"//keys/{TZ1}", f"///keys//{TZ1}"):
            await self._expect(path, public_key)

    async def test_head(self) -> None:
        """HEAD gets the headers of GET."""
        await self.harness.start(self)
        for path in ("/", "/authorized_keys", f"/keys/{TZ3}"):
            got = await self.harness.request("GET", path)
            head = await self.harness.request("HEAD", path)
            self.assertEqual((head.status, head.body), (200, b""))
            for name in ("content-type", "content-length"):
                self.assertEqual(head.headers[name], got.headers[name])

    async def test_http_1_0(self) -> None:
        """HTTP/1.0 is enough to sign."""
        await self.harness.start(self)
        body = hex_body(NOOP)
        received = await self.harness.raw(
            b"POST /keys/%b HTTP/1.0\r\nContent-Length: %d\r\n\r\n%b"
            % (str(TZ2).encode("ascii"), len(body), body)
        )
        answer = parse_response(received)
        self.assertTrue(verifies(HSM_KEYS[1].public_key, NOOP, text_in(answer.body, "signature")))

    async def test_content_types(self) -> None:
        """The body is read as JSON whatever its Content-Type says."""
        await self.harness.start(self)
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
            answer = await self.harness.request(
                "POST", f"/keys/{TZ1}", hex_body(NOOP), f"Content-Type: {content_type}\r\n"
            )
            self.assertEqual((content_type, answer.status), (content_type, 200))

    async def test_host_does_not_matter(self) -> None:
        """Whatever is written in Host, or nothing, the answer is the same."""
        await self.harness.start(self)
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
            received = await self.harness.raw(
                b"GET /authorized_keys HTTP/1.1\r\n%bConnection: close\r\n\r\n" % line
            )
            answer = parse_response(received)
            self.assertEqual((line, answer.status, answer.body), (line, 200, b"{}\n"))

    async def test_ways_to_write_a_payload(self) -> None:
        """Upper case, escapes, blanks around the string and every version are fine."""
        await self.harness.start(self)
        text = NOOP.hex()
        for body in (
            f'"{text.upper()}"',
            f' \r\n\t"{text}"\n\n',
            f'"\\u0030\\u0033{text[2:]}"',
        ):
            answer = await self.harness.request("POST", f"/keys/{TZ1}", body.encode("ascii"))
            self.assertEqual((body, answer.status), (body, 200))
        for query in (
            "",
            "?version=0",
            "?version=1",
            "?version=2",
            "?version=3",
            "?other=x&other=y",
        ):
            answer = await self.harness.sign(TZ1, NOOP, query)
            self.assertEqual((query, answer.status), (query, 200))


class RefusalLogTests(TestCase):
    """What an operator can read of somebody who was turned away."""

    async def test_refused_get(self) -> None:
        """A refused request that is no signing request has a line of its own, without its query."""
        harness = Harness()
        await harness.start(self)
        with capturedLogs() as events:
            await harness.request("GET", f"/keys/{AUTH}?authentication=secret")
        (said,) = [formatEvent(event) for event in events if "refused" in event["log_format"]]
        self.assertIn(f"refused GET /keys/{AUTH} from 127.0.0.1: 404", said)
        self.assertNotIn("secret", said)

    async def test_many_refusals(self) -> None:
        """Whoever may ask nothing does not fill the log, whatever it is that he asks for."""
        harness = Harness(settings_with(allowed_ips=()))
        await harness.start(self)
        with capturedLogs() as events:
            for _ in range(LINES_PER_MINUTE // 2 + 5):  # more of them would not be told
                self.assertEqual((await harness.request("GET", "/")).status, 403)
                self.assertEqual((await harness.sign(TZ1, NOOP)).status, 403)
        said = [formatEvent(event) for event in events if "refused" in event["log_format"]]
        self.assertEqual(len(said), LINES_PER_MINUTE)


class RouteTests(TestCase):
    """What is said of routes that do not exist."""

    async def test_unknown_addresses(self) -> None:
        """Who may ask nothing is told that, and no route: one line, and the connection ends.

        So it is where nobody has decided on the connection when it was accepted.
        """
        harness = Harness(settings_with(allowed_ips=()))
        await harness.start(self)
        undecided = LimitedFactory(harness.site, Connections(Limits(), reactor))
        port = reactor.listenTCP(0, undecided, interface="127.0.0.1")  # type: ignore[attr-defined]
        self.addCleanup(port.stopListening)
        client = Client(port.getHost().port)
        for asking in (b"GET /metrics", b"POST /known_keys"):
            request = asking + b" HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n"
            with capturedLogs() as events:
                answer = parse_response(await client.raw(2 * request))
            says = "address 127.0.0.1 is not among allowed_ips"
            self.assertEqual((answer.status, message_in(answer.body)), (403, says))
            lines = [formatEvent(event) for event in events if "refused" in event["log_format"]]
            self.assertEqual(lines, [f"refused {asking.decode()} from 127.0.0.1: 403 {says}"])

    async def test_not_found(self) -> None:
        """All routes are listed."""
        harness = Harness()
        await harness.start(self)
        answer = await harness.request("GET", "/metrics")
        self.assertEqual(answer.status, 404)
        self.assertEqual(
            message_in(answer.body),
            "no such route; there are GET /authorized_keys, GET /known_keys, GET /keys/<address>, "
            "POST /keys/<address> and GET /bls_prove_possession/<address>",
        )

    async def test_not_allowed(self) -> None:
        """The methods of the path are listed."""
        harness = Harness()
        await harness.start(self)
        answer = await harness.request("PUT", f"/keys/{TZ1}", b"")
        self.assertEqual(answer.status, 405)
        self.assertEqual(message_in(answer.body), "this path takes GET, HEAD or POST only")


class TokenTests(TestCase):
    """`request_token`."""

    SECRET = b"correct-horse-battery-staple"
    MISSING = "the header x-tezio-token with the request token is missing"
    WRONG = "the request token in the header x-tezio-token is wrong"

    async def _start(self) -> Harness:
        harness = Harness(
            settings_with(
                request_token=RequestToken("x-tezio-token", self.SECRET), list_known_keys=True
            )
        )
        await harness.start(self)
        return harness

    def _routes(self) -> list[tuple[str, str, bytes | None]]:
        return [
            ("GET", "/authorized_keys", None),
            ("GET", "/known_keys", None),
            ("GET", f"/keys/{TZ1}", None),
            ("POST", f"/keys/{TZ1}", hex_body(NOOP)),
        ]

    async def test_without(self) -> None:
        """Without it, or with another or several, no route but the greeting says anything."""
        harness = await self._start()
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
                answer = await harness.request(method, path, body, headers)
                self.assertEqual((path, answer.status), (path, 401))
                self.assertEqual(message_in(answer.body), says)
        self.assertEqual(harness.written, b"")
        self.assertEqual((await harness.request("GET", "/")).status, 200)

    async def test_with(self) -> None:
        """With it, everything is as it is without a token."""
        harness = await self._start()
        for method, path, body in self._routes():
            for name in ("X-Tezio-Token", "x-tezio-token"):
                header = f"{name}: {self.SECRET.decode()}\r\n"
                answer = await harness.request(method, path, body, header)
                self.assertEqual((path, answer.status), (path, 200))

    async def test_not_logged(self) -> None:
        """Neither the secret nor what was sent in its place is in any event of the log."""
        harness = await self._start()
        wrong = "wrong-horse-battery-staple"
        with capturedLogs() as events:
            for secret in (wrong, self.SECRET.decode()):
                for method, path, body in self._routes():
                    await harness.request(method, path, body, f"X-Tezio-Token: {secret}\r\n")
        self.assertGreater(len(events), 4)
        for event in events:
            text = f"{formatEvent(event)} {event!r}"
            self.assertNotIn(wrong, text)
            self.assertNotIn(self.SECRET.decode(), text)
        self.assertNotIn(self.SECRET.decode(), repr(harness.settings))

    async def test_address_first(self) -> None:
        """Who may ask nothing is not told whether his token would be right."""
        settings = evolve(
            settings_with(request_token=RequestToken("x-tezio-token", self.SECRET)),
            allowed_ips=(ip_network("10.0.0.0/8"),),
        )
        harness = Harness(settings)
        await harness.start(self)
        for method, path, body in self._routes():
            self.assertEqual((await harness.request(method, path, body)).status, 403)


class RateTests(TestCase):
    """`limits.signatures_per_minute`."""

    async def test_too_many(self) -> None:
        """Generic operations above it are refused with 429, for each key; baking is not counted."""
        harness = Harness(settings_with(limits=Limits(signatures_per_minute=2)))
        await harness.start(self)
        for status in (200, 200, 429):
            answer = await harness.sign(TZ1, NOOP)
            self.assertEqual(answer.status, status)
        self.assertEqual(
            message_in(answer.body),
            f"more than 2 generic operations a minute for {TZ1} from 127.0.0.1; try again later",
        )
        for level in range(4):
            self.assertEqual((await harness.sign(TZ3, block(level + 1, 0))).status, 200)
        self.assertEqual((await harness.sign(TZ3, NOOP)).status, 200)

    async def test_what_could_not_be_signed(self) -> None:
        """A 502, which clients repeat by themselves, is not counted."""
        limits = Limits(signatures_per_minute=1)
        harness = Harness(settings_with(limits=limits))
        await harness.start(self)
        harness.be_impatient()
        harness.simulator.unplug()
        while any(device.ready for device in harness.hsms.devices.values()):
            await harness.hsms.changed(1)
        for _ in range(3):
            self.assertEqual((await harness.sign(TZ1, NOOP)).status, 502)
        harness.simulator.plug_in()
        while not any(device.ready for device in harness.hsms.devices.values()):
            await harness.hsms.changed(1)
        for status in (200, 429):
            self.assertEqual((await harness.sign(TZ1, NOOP)).status, status)


class ForwardedTests(TestCase):
    """Only the connection itself says who asks."""

    async def test_forwarded_is_not_believed(self) -> None:
        """An address in a header admits nobody, and refuses nobody."""
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
            harness = Harness(settings_with(allowed_ips=(ip_network(network),)))
            await harness.start(self)
            for path in ("/", "/authorized_keys", "/known_keys", f"/keys/{TZ3}"):
                answer = await harness.request("GET", path, headers=headers)
                self.assertEqual((path, answer.status), (path, status))
            answer = await harness.request("POST", f"/keys/{TZ3}", hex_body(NOOP), headers)
            self.assertEqual(answer.status, status)
            if status == 403:
                self.assertEqual(
                    message_in(answer.body), "address 127.0.0.1 is not among allowed_ips"
                )
                self.assertEqual(harness.written, b"")
