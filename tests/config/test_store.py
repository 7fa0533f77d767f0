"""The watermark store in the configuration."""

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.support.vectors import TZ3
from tezio_signer.config import document as config
from tezio_signer.config.fields import ConfigError
from tezio_signer.config.settings import EtcdAddress, Settings
from tezio_signer.config.store import store_warnings
from tezio_signer.host import filesystems
from tezio_signer.host.filesystems import Mount

MINIMAL = f"policy: {{signing_keys: {{{TZ3}: {{allowed_ops: [block], auth_req: False}}}}}}\n"
ETCD = "etcd:https://a:2379"


class StoreConfigTestCase(SynchronousTestCase):
    """A configuration in a directory of its own."""

    def setUp(self) -> None:
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir()

    def settings(self, more: str) -> Settings:
        """The settings with something added."""
        path = self.directory / "config.yaml"
        path.write_text(MINIMAL + more, "utf-8")
        return config.load(path)

    def warnings(self, more: str) -> list[str]:
        """What is warned of, of the store of these settings."""
        return store_warnings(self.settings(more).store)

    def etcd(self, urls: str, more: str = "") -> EtcdAddress:
        """The cluster of a store."""
        store = self.settings(f'watermarks: {{store: "etcd:{urls}"{more}}}').store
        assert isinstance(store, EtcdAddress)
        return store

    def refused(self, more: str) -> str:
        """Why there are no settings; one line, which names the second of the file."""
        sentence = str(self.assertRaises(ConfigError, self.settings, more))
        self.assertRegex(sentence, r"\A/[^\n]+/config\.yaml:2: [^\n]+\Z")
        return sentence.partition(":2: ")[2]


class SqliteTests(StoreConfigTestCase):
    """A file."""

    def test_default(self) -> None:
        """Without a word the store is a file beside the configuration."""
        self.assertEqual(self.settings("").store, self.directory / "watermarks.sqlite")

    def test_path(self) -> None:
        """A path may be absolute, or begins at the configuration."""
        for path, expected in (
            ("marks", self.directory / "marks"),
            ("sub/dir/marks.sqlite", self.directory / "sub/dir/marks.sqlite"),
            ("/var/lib/marks", Path("/var/lib/marks")),
            ("with blanks: and colons", self.directory / "with blanks: and colons"),
        ):
            settings = self.settings(f'watermarks: {{store: "sqlite:{path}"}}')
            self.assertEqual(settings.store, expected)

    def test_file_system(self) -> None:
        """A place that keeps nothing is warned of; the store need not be there."""
        on = {
            Path("/run"): "tmpfs",
            Path("/data"): "overlay",
            Path("/srv"): "nfs4",
            Path("/"): "xfs",
        }
        self.patch(filesystems, "mounts", lambda: [Mount(*mount) for mount in on.items()])
        for path, kind in (("/run/a", "tmpfs"), ("/data/a/b", "overlay"), ("/srv/a", "nfs4")):
            (warning,) = self.warnings(f'watermarks: {{store: "sqlite:{path}"}}')
            self.assertIn(f"watermarks.store: {path} is on a ", warning)
            self.assertIn(kind, warning)
        self.assertEqual(self.warnings(""), [])

    def test_options(self) -> None:
        """What is for etcd has no place beside it."""
        for name in ("ca", "certificate", "private_key", "user", "password_file"):
            sentence = self.refused(f'watermarks: {{store: "sqlite:marks", {name}: x}}')
            self.assertEqual(
                sentence,
                f"watermarks.{name}: {name} is for a store in etcd, and this one is an SQLite "
                "file: leave it out",
            )


class SectionTests(StoreConfigTestCase):
    """The section, whatever the store."""

    def test_shape(self) -> None:
        """It is a mapping with a store, and with known keys only."""
        for section, says in (
            (
                "sqlite:marks",
                "watermarks: a mapping (key: value) is expected here, with store, ca, certificate, "
                "private_key, user, password_file",
            ),
            ("{}", "watermarks: store is missing"),
            ("{user: x}", "watermarks: store is missing"),
            ("{store: 7}", "watermarks.store: a text in quotes is expected here, not 7"),
            ("{store: [a]}", "watermarks.store: a single value is expected here"),
        ):
            self.assertEqual(self.refused(f"watermarks: {section}"), says)
        sentence = self.refused(f'watermarks: {{store: "{ETCD}", certificat: x}}')
        self.assertIn(
            "watermarks.certificat: unknown key; did you mean certificate? Known: store, ca, "
            "certificate, private_key, user, password_file",
            sentence,
        )

    def test_no_store(self) -> None:
        """Another kind of store is refused with those that there are."""
        for store in ("sqlite:", "sqlite:  ", "marks", "ETCD:https://a:1", "etcd", "", "redis://a"):
            self.assertEqual(
                self.refused(f'watermarks: {{store: "{store}"}}'),
                f"watermarks.store: {store} is not a store; allowed: sqlite:PATH, "
                "etcd:https://HOST:2379,https://HOST:2379,…",
            )


class MembersTests(StoreConfigTestCase):
    """The members of a cluster."""

    def test_right(self) -> None:
        """One or several, by name or address; blanks and a last slash do not count."""
        for urls, expected in (
            ("https://a:2379", ("https://a:2379",)),
            ("https://a:1,https://b:2,http://c:3", ("https://a:1", "https://b:2", "http://c:3")),
            (" https://a:1/ , https://b:2 ", ("https://a:1", "https://b:2")),
            ("https://192.0.2.1:65535", ("https://192.0.2.1:65535",)),
            ("https://Etcd-1.bäckerei.example:1", ("https://Etcd-1.bäckerei.example:1",)),
            ("https://under_score:1", ("https://under_score:1",)),
        ):
            self.assertEqual(self.etcd(urls), EtcdAddress(expected))

    def test_wrong(self) -> None:
        """What is no URL of a member is refused, and shown."""
        for url in (
            "a:2379",
            "https://a",
            "https://a:",
            "https://a:0",
            "https://a:65536",
            "https://a:x",
            "https://:2379",
            "HTTPS://a:1",
            "ftp://a:1",
            "unix://a:1",
            "https://a:1/v3",
            "https://a:1?x",
            "https://a:1#x",
            "https://a b:1",
            "https://a;b:1",
            "https://::1:1",
            "https://::1]:1",
        ):
            for urls in (url, f"https://b:1,{url}"):
                self.assertEqual(
                    self.refused(f'watermarks: {{store: "etcd:{urls}"}}'),
                    f"watermarks.store: {url} is not a member of etcd; allowed: https://HOST:PORT "
                    "or http://HOST:PORT, several with commas between them",
                )

    def test_none(self) -> None:
        """A member that is not there is called nothing."""
        for urls in ("", " ", "https://a:1,", "https://a:1,,https://b:1"):
            sentence = self.refused(f'watermarks: {{store: "etcd:{urls}"}}')
            self.assertIn("watermarks.store: nothing is not a member of etcd; allowed: ", sentence)

    def test_user_in_url(self) -> None:
        """A user in a URL is refused without showing the password that comes with him."""
        for url in ("https://signer:secret@a:1", "https://signer@a:1", "signer:secret@a"):
            self.assertEqual(
                self.refused(f'watermarks: {{store: "etcd:{url}"}}'),
                "watermarks.store: a URL names no user; allowed: user and password_file beside "
                "store",
            )

    def test_ipv6(self) -> None:
        """An address of IPv6 is refused, for it could not be asked."""
        for url in ("https://[2001:db8::1]:2379", "http://[::1]:1", "https://[::1:1"):
            self.assertEqual(
                self.refused(f'watermarks: {{store: "etcd:{url}"}}'),
                f"watermarks.store: {url} has an IPv6 address, which does not work; give it a name",
            )

    def test_twice(self) -> None:
        """A member that is named twice is a slip of the pen, and one is missing."""
        self.assertEqual(
            self.refused('watermarks: {store: "etcd:https://a:1,https://b:1,https://a:1/"}'),
            "watermarks.store: https://a:1 is named twice: name each member once",
        )

    def test_warnings(self) -> None:
        """What is not encrypted is warned of, but on this machine; each member by itself."""
        for url in ("http://127.0.0.1:1", "http://localhost:1", "https://a:1"):
            self.assertEqual(self.warnings(f'watermarks: {{store: "etcd:{url}"}}'), [])
        store = "etcd:http://a:1,https://b:1,http://192.0.2.1:1,http://localhost:1"
        self.assertEqual(
            self.warnings(f'watermarks: {{store: "{store}"}}'),
            [
                f"watermarks.store: {url}: traffic is not encrypted and can be altered in transit"
                for url in ("http://a:1", "http://192.0.2.1:1")
            ],
        )


class AccessTests(StoreConfigTestCase):
    """How to be let in."""

    def test_all(self) -> None:
        """Files may be absolute, or begin at the configuration; the user is taken as it is."""
        address = self.etcd(
            "https://a:1",
            ", ca: ca.pem, certificate: tls/cert.pem, private_key: /etc/key.pem, "
            "user: signer, password_file: password.txt",
        )
        expected = EtcdAddress(
            ("https://a:1",),
            ca=self.directory / "ca.pem",
            certificate=self.directory / "tls/cert.pem",
            private_key=Path("/etc/key.pem"),
            user="signer",
            password_file=self.directory / "password.txt",
        )
        self.assertEqual(address, expected)

    def test_some(self) -> None:
        """Each by itself, where it needs no other."""
        one = ("https://a:1",)
        ca, certificate, key = (self.directory / name for name in ("c", "d", "e"))
        for more, expected in (
            (", ca: c", EtcdAddress(one, ca=ca)),
            (
                ", certificate: d, private_key: e",
                EtcdAddress(one, certificate=certificate, private_key=key),
            ),
            (", user: u, password_file: c", EtcdAddress(one, user="u", password_file=ca)),
        ):
            self.assertEqual(self.etcd("https://a:1", more), expected)

    def test_pairs(self) -> None:
        """Of two that belong together one alone is refused."""
        for given, pair in (
            ("certificate", "certificate and private_key"),
            ("private_key", "certificate and private_key"),
            ("user", "user and password_file"),
            ("password_file", "user and password_file"),
        ):
            self.assertEqual(
                self.refused(f'watermarks: {{store: "{ETCD}", {given}: x}}'),
                f"watermarks: {pair} belong together: give both of them, or neither",
            )

    def test_types(self) -> None:
        """All are texts."""
        for name, other in (
            ("ca", ""),
            ("certificate", ", private_key: x"),
            ("private_key", ", certificate: x"),
            ("user", ", password_file: x"),
            ("password_file", ", user: x"),
        ):
            self.assertEqual(
                self.refused(f'watermarks: {{store: "{ETCD}", {name}: 7{other}}}'),
                f"watermarks.{name}: a text in quotes is expected here, not 7",
            )
