"""What is said of endpoint strings before anything listens."""

import os
from pathlib import Path
from tempfile import mkdtemp

from twisted.trial.unittest import SynchronousTestCase

from tests.support.certificates import Authority
from tezio_signer.config.endpoints import Endpoint, resolved
from tezio_signer.config.settings import ClientCa
from tezio_signer.errors import StartupError
from tezio_signer.listeners.endpointcheck import check_endpoints


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
            ("TCP:1:interface=localhost", "tcp:1:interface=localhost"),
            ("HAProxy:Unix:/Unix", "unix:/Unix:mode=600"),
        ):
            self.assertEqual(Endpoint.parse(given).description, opened)

    def test_ipv6(self) -> None:
        """The colons of an address need not be escaped, with brackets around it or without."""
        for given, interface in (
            ("tcp6:6732:interface=::1", "::1"),
            ("tcp6:6732:interface=[::1]", "::1"),
            ("tcp6:6732:interface=\\:\\:1", "::1"),
            ("tcp:6732:interface=::1", "::1"),
            ("tcp6:interface=2001:db8::7:port=6732", "2001:db8::7"),
            ("tcp6:6732:interface=fe80::1%eth0:backlog=9", "fe80::1%eth0"),
            ("haproxy:tcp6:6732:interface=[::]", "::"),
            ("tcp6:6732:interface=::ffff:127.0.0.1", "::ffff:127.0.0.1"),
            ("tcp:6732:interface=127.0.0.1", "127.0.0.1"),
        ):
            endpoint = Endpoint.parse(given)
            self.assertEqual(endpoint.arguments["interface"], interface, given)
            self.assertEqual(endpoint.arguments["port"], "6732", given)
            self.assertEqual(Endpoint.parse(endpoint.description).arguments, endpoint.arguments)
        ssl = Endpoint.parse("ssl:1:interface=::1:privateKey=/k:certKey=/c")
        self.assertEqual(ssl.arguments["privateKey"], "/k")
        self.assertEqual(Endpoint.parse(ssl.transport).arguments["interface"], "::1")

    def test_paths(self) -> None:
        """Relative paths start at a directory, those that are absolute stay."""
        base = Path("/etc/tezio-signer")
        for given, meant in (
            ("unix:signer.sock", "unix:/etc/tezio-signer/signer.sock"),
            ("unix:../run/x:660", "unix:/etc/run/x:mode=660"),
            ("haproxy:unix:x:lockfile=0", "haproxy:unix:/etc/tezio-signer/x:lockfile=0"),
            ("unix:/run/signer.sock", "unix:/run/signer.sock"),
            ("unix:address=a=b", "unix:address=/etc/tezio-signer/a=b"),
            (
                "ssl:1:privateKey=k.pem:certKey=/c.pem",
                "ssl:1:privateKey=/etc/tezio-signer/k.pem:certKey=/c.pem",
            ),
            ("tls:certs:443", "tls:/etc/tezio-signer/certs:port=443"),
            ("tcp:1:interface=::1", "tcp:1:interface=::1"),
        ):
            self.assertEqual(resolved(given, base), meant)
            endpoint = Endpoint.parse(given, base)
            self.assertEqual(endpoint.arguments, Endpoint.parse(meant).arguments)

    def test_long_path(self) -> None:
        """A socket whose whole path is too long is found from here, if that is shorter."""
        here = Path(mkdtemp())  # the directory of the tests may have a long path itself
        self.addCleanup(here.rmdir)
        self.addCleanup(os.chdir, Path.cwd())
        os.chdir(here)
        deep = Path.cwd() / ("d" * 120)
        self.assertEqual(resolved("unix:x", deep / "e"), f"unix:{'d' * 120}/e/x")
        self.assertEqual(resolved("unix:x", Path.cwd() / "d"), f"unix:{Path.cwd()}/d/x")

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

    ca = ClientCa(Path("ca.pem"))

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
                self.assertIn(f"sslmethod={method} is not possible: TLS 1.2 is the old", sentence)
        self.assertEqual(check_endpoints([f"{self.ssl()}:sslmethod=TLSv1_2_METHOD"], None), ())

    def test_client_ca_without_tls(self) -> None:
        """A protection that would protect nothing, or could not, ends the start."""
        self.assertIn("client_ca protects nothing", self.refused("tcp:1", "unix:/x", ca=self.ca))
        self.assertIn("use ssl: instead", self.refused("ssl:1", "tls:/x", ca=self.ca))

    def test_client_ca_beside_plain_listeners(self) -> None:
        """Listeners without TLS beside it are warned of."""
        endpoint = self.ssl()
        ca = ClientCa(self.directory / "ca.pem")
        self.assertEqual(check_endpoints([endpoint], ca), ())
        warnings = check_endpoints([endpoint, "tcp:2", "unix:/x"], ca)
        self.assertEqual(
            [warning.split(":")[:2] for warning in warnings],
            [
                ["tcp", "2 does not ask for a client certificate"],
                ["unix", "/x does not ask for a client certificate"],
            ],
        )

    def test_open_proxies(self) -> None:
        """A listener for a proxy that others could reach is warned of."""
        private = "haproxy:tcp:2:interface=127.0.0.1"
        self.assertEqual(check_endpoints([private, "haproxy:unix:/x", "tcp:1"], None), ())
        for endpoint in ("haproxy:tcp:1", "haproxy:tcp6:1", "HAProxy:tcp:1:interface=10.0.0.1"):
            (warning,) = check_endpoints([endpoint, private], None)
            self.assertIn(
                f"whoever can connect to {endpoint} can claim any client address", warning
            )

    def test_arguments(self) -> None:
        """What Twisted could not open is refused, with a line that works."""
        for endpoint, *says in (
            ("tcp:abc", "port is a number from 0 to 65535, not 'abc'", "tcp:6732:interface="),
            ("tcp:70000", "port is a number", "tcp:6732:interface=127.0.0.1"),
            ("tcp:-1", "port is a number"),
            ("tcp", "it has no port"),
            ("", "'' is none of tcp, tcp6"),
            ("http://127.0.0.1:6732", "'http' is none of", "works is tcp:6732:interface=127.0.0.1"),
            ("https://10.0.0.1:80/", "works is ssl:80:interface=10.0.0.1:privateKey="),
            ("127.0.0.1:6732", "is none of", "works is tcp:6732:interface=127.0.0.1"),
            ("[::1]:7000", "is none of", "works is tcp6:7000:interface=::1"),
            ("tcp:1:interfac=127.0.0.1", "no argument interfac; did you mean interface?"),
            ("tcp:1:127.0.0.1:50:9", "'9' is one argument too many"),
            ("tcp6:6732:::1", "works is tcp6:6732:interface=::1"),
            ("tcp6:6732:[::1]", "works is tcp6:6732:interface=::1"),
            ("tcp:1:interface=a_b", "'a_b' is no address of an interface"),
            ("unix:", "it has no address"),
            ("unix:/x:mode=999", "mode is three octal digits"),
            (f"unix:/{'x' * 107}", "has 107 bytes at most"),
            ("systemd:INET", "wants either index or name"),
            ("systemd:inet:index=0", "domain is INET, INET6 or UNIX, not 'inet'"),
            ("tls:", "no path"),
        ):
            sentence = self.refused(endpoint)
            for words in says:
                self.assertIn(words, sentence)
            self.assertTrue(sentence.startswith(f"{endpoint!r} is not an endpoint to"), sentence)

    def test_files(self) -> None:
        """The files of an endpoint are read: its key has to be that of its certificate."""
        endpoint = self.ssl()
        self.assertEqual(check_endpoints([endpoint], None), ())
        other = Authority(self.directory, "other-ca").certify("other", server=True)
        foreign = f"ssl:1:privateKey={other.key}:certKey={self.directory}/server.pem"
        self.assertIn("does not belong to", self.refused(foreign))
        self.assertIn("No such file", self.refused("ssl:1:privateKey=/none"))
        (self.directory / "site").mkdir()
        self.assertIn("holds no .pem file", self.refused(f"tls:{self.directory}/site"))

    def test_once(self) -> None:
        """What is one place is refused, with both that name it."""
        for one, other in (
            ("tcp:1", "haproxy:tcp:1:interface=127.0.0.1"),
            ("tcp:1:interface=127.0.0.1", "tcp:01:interface=localhost"),
            ("unix:/run/a", "unix:/run/../run/a:lockfile=0"),
            ("systemd:INET:name=a", "systemd:domain=INET:name=a"),
            ("systemd:INET:index=1", "systemd:INET:index=01"),
        ):
            sentence = self.refused(one, "tcp:2", other)
            self.assertIn(f"{other!r} is where {one!r} listens already", sentence)
        self.assertIn("'unix:/x' is named twice, and nothing", self.refused("unix:/x", "unix:/x"))
        apart = ("tcp:0", "tcp:0", "unix:/run/a", "unix:/run/b", "systemd:INET:name=a")
        listening = ("tcp:1:interface=127.0.0.1", "tcp:1:interface=127.0.0.2")
        more = ("systemd:INET:name=b", "systemd:INET:index=0", "systemd:INET:index=1")
        check_endpoints([*apart, *listening, *more], None)
