"""Limits, request token and client certificates in the configuration."""

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.support.certificates import Authority
from tests.support.vectors import TZ3
from tezio_signer.config import document as config
from tezio_signer.config import fields as yamlfields
from tezio_signer.config.fields import ConfigError
from tezio_signer.config.listen import unprotected_by_token
from tezio_signer.config.settings import Limits, RequestToken, Settings

MINIMAL = f"policy: {{signing_keys: {{{TZ3}: {{allowed_ops: [block], auth_req: False}}}}}}\n"
WORDS = "correct-horse-battery-staple"


class ListenConfigTestCase(SynchronousTestCase):
    """A configuration in a directory of its own."""

    def setUp(self) -> None:
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir()

    def settings(self, more: str) -> Settings:
        """The settings with something added."""
        field = yamlfields.parse(MINIMAL + more, "config.yaml")
        return config.settings_from(field, self.directory)

    def refused(self, more: str) -> str:
        """Why there are none; one line, which names the second of the file."""
        sentence = str(self.assertRaises(ConfigError, self.settings, more))
        self.assertRegex(sentence, r"\Aconfig\.yaml:2: [^\n]+\Z")
        return sentence


class LimitsTests(ListenConfigTestCase):
    """`limits`."""

    def test_defaults(self) -> None:
        """What is not said is as the documentation says, and signing is not limited."""
        expected = Limits(
            connections=512,
            connections_per_peer=128,
            request_seconds=10,
            idle_seconds=60,
            body_bytes=131072,
            header_bytes=16384,
            headers=100,
            requests_waiting=64,
            signatures_per_minute=None,
        )
        self.assertEqual(self.settings("").limits, expected)
        self.assertEqual(self.settings("limits: {}").limits, expected)

    def test_all(self) -> None:
        """Each can be set."""
        limits = self.settings(
            "limits: {connections: 9, connections_per_peer: 8, request_seconds: 1.5, "
            "idle_seconds: 7, body_bytes: 4096, header_bytes: 2048, headers: 20, "
            "requests_waiting: 5, signatures_per_minute: 3}"
        ).limits
        self.assertEqual(limits, Limits(9, 8, 1.5, 7, 4096, 2048, 20, 5, 3))

    def test_wrong(self) -> None:
        """What is none, or makes no sense, is refused with what is possible."""
        for name, value, says in (
            ("connections", "0", "a number from 1 to 100000 is expected, not 0"),
            ("connections", "many", "a number is expected here, not many"),
            ("connections", "0512", "0512 is 330 for YAML"),
            ("request_seconds", "1:30.5", "1:30.5 is 90.5 for YAML"),
            ("body_bytes", "128_000", "128_000 is 128000 for YAML"),
            ("headers", "0x7", "from 8 to 500 is expected, not 0x7"),
            ("connections", "1.5", "not 1.5"),
            ("connections", "True", "not True"),
            ("connections", "'9'", "a number is expected here, not '9'"),
            ("connections_per_peer", "100001", "from 1 to 100000"),
            ("request_seconds", "0", "from 1 to 600"),
            ("request_seconds", ".nan", ".nan is nan for YAML"),
            ("idle_seconds", ".inf", ".inf is inf for YAML"),
            ("body_bytes", "2047", "from 2048 to 1048576"),
            ("header_bytes", "1023", "from 1024 to 65536"),
            ("headers", "7", "from 8 to 500"),
            ("requests_waiting", "0", "from 1 to 10000"),
            ("signatures_per_minute", "0", "from 1 to 1000000"),
        ):
            sentence = self.refused(f"limits: {{{name}: {value}}}")
            self.assertIn(f"limits.{name}: ", sentence)
            self.assertIn(says, sentence)
        self.assertIn("did you mean connections?", self.refused("limits: {conections: 1}"))
        self.assertIn(
            "connections_per_peer is 20, more than connections, 10",
            self.refused("limits: {connections: 10, connections_per_peer: 20}"),
        )


class RequestTokenTests(ListenConfigTestCase):
    """`request_token`."""

    def token(
        self, content: bytes = WORDS.encode(), header: str = "x-tezio-token", mode: int = 0o600
    ) -> str:
        """The section, with a file that holds this."""
        path = self.directory / "token.txt"
        path.write_bytes(content)
        path.chmod(mode)
        return f'request_token: {{header: "{header}", file: token.txt}}'

    def test_read(self) -> None:
        """The secret is the line of the file; the header may be written in capitals."""
        for end in (b"", b"\n", b"\r\n"):
            settings = self.settings(self.token(WORDS.encode() + end, "X-Tezio-Token"))
            self.assertEqual(settings.request_token, RequestToken("x-tezio-token", WORDS.encode()))
            self.assertEqual(settings.warnings, ())
        self.assertIsNone(self.settings("").request_token)

    def test_headers(self) -> None:
        """Only names that octez-client sends."""
        for header in ("authorization", "token", "x-", "x-tezio token", "x-a:b", "x-é", "host"):
            sentence = self.refused(self.token(header=header))
            self.assertIn("TEZOS_SIGNER_HTTP_HEADERS", sentence)
            self.assertIn("has to begin with x-", sentence)

    def test_secrets(self) -> None:
        """A file without a good secret is refused, without showing what it holds."""
        for content, says in (
            (b"", "holds 0 bytes; a request token needs 16 at least: openssl rand -hex 32"),
            (b"\n\n", "holds 0 bytes"),
            (b"short-secret-15", "holds 15 bytes"),
            (b"two words, however long", "printable ASCII without blanks"),
            (b"several-lines-of-it\nand-another", "one line"),
            ("schlüssel-schlüssel".encode(), "printable ASCII"),
            (b"a-secret-with\x00-a-NUL", "printable ASCII"),
        ):
            sentence = self.refused(self.token(content))
            self.assertIn(f"request_token.file: {self.directory}/token.txt holds ", sentence)
            self.assertIn(says, sentence)
            self.assertNotIn(content.decode().strip() or "nothing", sentence)
        self.assertIn("file is missing", self.refused("request_token: {header: x-a}"))
        missing = "request_token: {header: x-a, file: none.txt}"
        self.assertIn("none.txt cannot be read: No such file", self.refused(missing))
        directory = "request_token: {header: x-a, file: .}"
        self.assertIn("cannot be read: Is a directory", self.refused(directory))

    def test_other_listeners(self) -> None:
        """A listener that is not HTTP beside it is warned of."""
        token = RequestToken("x-tezio-token", WORDS.encode())
        self.assertEqual(unprotected_by_token(token, []), ())
        self.assertEqual(unprotected_by_token(None, ["tcp:7732"]), ())
        (warning,) = unprotected_by_token(token, ["tcp:7732"])
        self.assertIn("tcp:7732 needs none", warning)


class ClientCaTests(ListenConfigTestCase):
    """`client_ca`."""

    def test_read(self) -> None:
        """One certificate or several, from a file beside the configuration."""
        one, two = Authority(self.directory, "one"), Authority(self.directory, "two")
        (self.directory / "both.pem").write_bytes(one.path.read_bytes() + two.path.read_bytes())
        for name in ("one.pem", "both.pem"):
            authorities = self.settings(f"client_ca: {name}").client_ca
            assert authorities is not None
            self.assertEqual(authorities.path, self.directory / name)
        self.assertIsNone(self.settings("").client_ca)

    def test_wrong(self) -> None:
        """A file without certificates is refused, so is one that cannot be read."""
        authority = Authority(self.directory)
        key = authority.certify("a").key.read_bytes()
        for content in (b"", b"nothing", key, authority.path.read_bytes()[:-60]):
            (self.directory / "bad.pem").write_bytes(content)
            sentence = self.refused("client_ca: bad.pem")
            self.assertIn(f"client_ca: {self.directory}/bad.pem holds no certificates", sentence)
        self.assertIn("cannot be read: No such file", self.refused("client_ca: none.pem"))
        self.assertIn("a text in quotes", self.refused("client_ca: 7"))
