"""What is said of endpoint strings before anything listens."""

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.certificates import Authority
from tezio_signer.endpoints import Endpoint, check_endpoints
from tezio_signer.errors import StartupError
from tezio_signer.settings import ClientCa


class ReadingTests(SynchronousTestCase):
    """What a string means."""

    def test_which_are_tls(self) -> None:
        """`ssl:` and `tls:` are, behind a proxy too."""
        for endpoint in ("ssl:6732:privateKey=k", "tls:/certs:port=443", "haproxy:ssl:1", "SSL:1"):
            self.assertTrue(Endpoint.parse(endpoint).is_tls, endpoint)
        for endpoint in ("tcp:6732", "unix:/ssl", "haproxy:tcp:1:ssl", "tcp6:1:interface=\\:\\:1"):
            self.assertFalse(Endpoint.parse(endpoint).is_tls, endpoint)

    def test_which_are_private(self) -> None:
        """Those on loopback and at a path are; by whichever way the interface is given."""
        for endpoint in (
            "tcp:1:interface=127.0.0.1",
            "tcp:1:127.0.0.9",
            "tcp:1:localhost",
            "tcp6:1:50:\\:\\:1",
            "tcp6:1:interface=\\:\\:ffff\\:127.0.0.1",
            "ssl:1:key:cert:TLS_METHOD:127.0.0.1",
            "tls:/certs:1:50:\\:\\:1",
            "unix:/x",
            "systemd:UNIX:index=0",
            "systemd:domain=UNIX:index=0",
        ):
            self.assertTrue(Endpoint.parse(endpoint).is_private, endpoint)
            self.assertTrue(Endpoint.parse(f"haproxy:{endpoint}").is_private, endpoint)
        for endpoint in (
            "",
            "tcp:1",
            "tcp:1:interface=192.168.0.1",
            "tcp6:1",
            "tcp6:1:127.0.0.1",
            "ssl:1:127.0.0.1",
            "systemd:INET:index=0",
            "stdio:",
        ):
            self.assertFalse(Endpoint.parse(endpoint).is_private, endpoint)

    def test_mode(self) -> None:
        """A Unix socket is its user's own, unless a mode is given."""
        for given, opened in (
            ("unix:/x", "unix:/x:mode=600"),
            ("haproxy:unix:/x", "unix:/x:mode=600"),
            ("unix:/a\\:mode=1:lockfile=0", "unix:/a\\:mode=1:lockfile=0:mode=600"),
            ("unix:/x:mode=660", "unix:/x:mode=660"),
            ("unix:/x:666", "unix:/x:666"),
            ("tcp:1", "tcp:1"),
        ):
            self.assertEqual(Endpoint.parse(given).description, opened)

    def test_unreadable(self) -> None:
        """What nobody could read ends the start."""
        for endpoint, says in (
            ("unix:/x\\", "ends in a backslash"),
            ("haproxy:haproxy:tcp:1", "names haproxy twice"),
        ):
            error = self.assertRaises(StartupError, Endpoint.parse, endpoint)
            self.assertIn(f"{endpoint!r} ", str(error))
            self.assertIn(says, str(error))


class CheckTests(SynchronousTestCase):
    """What is refused and warned of."""

    ca = ClientCa(Path("ca.pem"), ())

    def ssl(self) -> str:
        """An endpoint with TLS and its files."""
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir()
        server = Authority(self.directory).certify("server", server=True)
        return f"ssl:1:privateKey={server.key}:certKey={server.certificate}"

    def refused(self, *endpoints: str, ca: ClientCa | None = None) -> str:
        """Why endpoints end the start."""
        return str(self.assertRaises(StartupError, check_endpoints, endpoints, ca))

    def test_old_methods(self) -> None:
        """A method that could speak something older than TLS 1.2, or none, ends the start."""
        for method in ("TLSv1_METHOD", "TLSv1_1_METHOD", "SSLv23_METHOD", "SSLv3_METHOD", "x"):
            for endpoint in (f"ssl:1:privateKey=k:sslmethod={method}", f"ssl:1:k:c:{method}"):
                sentence = self.refused("tcp:1", endpoint)
                self.assertIn(f"sslmethod={method} is not possible, TLS 1.2 is the old", sentence)
        self.assertEqual(check_endpoints([f"{self.ssl()}:sslmethod=TLSv1_2_METHOD"], None), ())

    def test_client_ca_without_tls(self) -> None:
        """A protection that would protect nothing, or could not, ends the start."""
        self.assertIn("client_ca protects nothing", self.refused("tcp:1", "unix:/x", ca=self.ca))
        self.assertIn("use ssl: instead", self.refused("ssl:1", "tls:/x", ca=self.ca))

    def test_client_ca_beside_plain_doors(self) -> None:
        """Doors without TLS beside it are warned of."""
        endpoint = self.ssl()
        ca = ClientCa(self.directory / "ca.pem", ())
        self.assertEqual(check_endpoints([endpoint], ca), ())
        warnings = check_endpoints([endpoint, "tcp:2", "unix:/x"], ca)
        self.assertEqual(
            [warning.split(":")[:2] for warning in warnings],
            [
                ["tcp", "2 asks for no client certificate"],
                ["unix", "/x asks for no client certificate"],
            ],
        )

    def test_open_proxies(self) -> None:
        """A door for a proxy that others could reach is warned of."""
        private = "haproxy:tcp:1:interface=127.0.0.1"
        self.assertEqual(check_endpoints([private, "haproxy:unix:/x", "tcp:1"], None), ())
        for endpoint in ("haproxy:tcp:1", "haproxy:tcp6:1", "HAProxy:tcp:1:interface=10.0.0.1"):
            (warning,) = check_endpoints([endpoint, private], None)
            self.assertIn(f"whoever can connect to {endpoint} chooses the address", warning)
