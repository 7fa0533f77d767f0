"""`twistd tezio-signer`: its options, its settings, and what it composes of them."""

import os
import re
from pathlib import Path

from twisted.application.internet import StreamServerEndpointService
from twisted.application.service import IService, MultiService
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.logger import (
    ILogObserver,
    LogEvent,
    LogLevel,
    capturedLogs,
    formatEvent,
    globalLogPublisher,
)
from twisted.python.usage import UsageError
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface import provider

from tests.support.certificates import Authority
from tests.support.daemonprocess import FREE_PORT
from tests.support.harness import Client
from tests.support.owndirectory import own_directory
from tests.support.vectors import PAYLOADS, TZ3
from tezio_signer import tap
from tezio_signer.config.endpoints import resolved
from tezio_signer.daemon import Daemon
from tezio_signer.errors import StartupError
from tezio_signer.hsm.pool import HsmPool
from tezio_signer.listeners.limits import Connections
from tezio_signer.listeners.tls.watch import CertificateWatch
from tezio_signer.reloading import Reloading
from tezio_signer.request import Peer
from tezio_signer.simulator.service import Simulator
from tezio_signer.watermarks.claims import Watermarks
from tezio_signer.watermarks.sqlite import reading
from tezio_signer.watermarks.sqlite import store as sqlite

MINIMAL = (
    f"policy: {{signing_keys: {{{TZ3}: {{allowed_ops: [block], auth_req: False, "
    "chains: [NetXdQprcVkpaWU]}}}\n"
)


def parsed(*arguments: str) -> tap.Options:
    """The options of a command line."""
    options = tap.Options()
    options.parseOptions(arguments)
    return options


class TapTestCase(TestCase):
    """Works in a directory of its own, without a configuration in the environment."""

    def setUp(self) -> None:
        self.directory = own_directory(self)

    def write(self, name: str = "config.yaml", more: str = "") -> Path:
        """A configuration with one baking key."""
        path = self.directory / name
        path.write_text(MINIMAL + more)
        return path


class OptionsTests(SynchronousTestCase):
    """The command line."""

    def test_defaults(self) -> None:
        """Without options the configuration decides, and nothing is simulated."""
        options = parsed()
        self.assertIsNone(options["config"])
        self.assertFalse(options["simulate"])
        self.assertEqual(options["http"], [])
        self.assertEqual(options["octez-socket"], [])

    def test_options(self) -> None:
        """The configuration file has a short option too, and endpoints may be several."""
        options = parsed("-c", "a.yaml", "--simulate", "--http", "tcp:1", "--http=unix:/x")
        self.assertEqual(options["config"], "a.yaml")
        self.assertTrue(options["simulate"])
        self.assertEqual(options["http"], ["tcp:1", "unix:/x"])
        self.assertEqual(parsed("--config", "b.yaml")["config"], "b.yaml")
        self.assertEqual(parsed()["http"], [])
        sockets = parsed("--octez-socket", "tcp:7732", "--octez-socket=unix:/y")
        self.assertEqual(sockets["octez-socket"], ["tcp:7732", "unix:/y"])

    def test_wrong_options(self) -> None:
        """An unknown option, a missing value or an argument is a usage error."""
        for arguments in (["--htp", "tcp:1"], ["--config"], ["--simulate=1"], ["extra"]):
            self.assertRaises(UsageError, parsed, *arguments)


def leaves(service: IService) -> list[IService]:
    """The services of a tree that are no groups, in the order of starting."""
    if not isinstance(service, MultiService):
        return [service]
    return [leaf for child in service for leaf in leaves(child)]


class MakeServiceTests(TapTestCase):
    """What is composed."""

    def inner(self, *arguments: str) -> list[type]:
        """The kinds of the inner services of a daemon."""
        daemon = tap.makeService(parsed(*arguments))
        self.assertIsInstance(daemon, Daemon)
        services = map(type, leaves(daemon))
        return [kind for kind in services if kind is not StreamServerEndpointService]

    def test_services(self) -> None:
        """Watermarks and HSMs start before the listener, a simulated HSM before them."""
        inner = [Watermarks, HsmPool, Reloading, Connections, CertificateWatch]
        self.assertEqual(self.inner("--simulate"), [Simulator, *inner])
        self.write()
        self.assertEqual(self.inner(), inner)

    def test_listeners(self) -> None:
        """There is a listener for each endpoint; those of the command line replace the others."""
        self.write(more="listen: {http: ['tcp:1:interface=127.0.0.1', 'tcp:2']}")
        three = ("--http", "tcp:4", "--http", "tcp:5", "--http", "tcp:6")
        for arguments, listeners in [((), 2), (("--http", "tcp:3"), 1), (three, 3)]:
            self.assertEqual(self.listeners(*arguments), listeners)

    def test_socket_listeners(self) -> None:
        """The Octez socket protocol has listeners of its own, none unless one is named."""
        self.write(more="listen: {octez_socket: ['tcp:1:interface=127.0.0.1', 'unix:a', 'tcp:2']}")
        for arguments, listeners in [
            ((), 1 + 3),
            (("--octez-socket", "unix:b"), 1 + 1),
            (("--octez-socket", "tcp:3", "--octez-socket", "tcp:4", "--http", "tcp:5"), 1 + 2),
        ]:
            self.assertEqual(self.listeners(*arguments), listeners)

    def listeners(self, *arguments: str) -> int:
        """How many listeners a daemon has."""
        services = leaves(tap.makeService(parsed(*arguments)))
        return sum(isinstance(service, StreamServerEndpointService) for service in services)

    def test_unknown_addresses(self) -> None:
        """Who may ask nothing is known when he connects."""
        self.write(more="allowed_ips: [10.0.0.0/8]")
        services = leaves(tap.makeService(parsed("--simulate")))
        (connections,) = [s for s in services if isinstance(s, Connections)]

        for host, may_ask in (("192.0.2.1", False), ("10.0.0.1", True)):
            admission = connections.admission(IPv4Address("TCP", host, 1025))
            self.assertEqual(isinstance(admission, Peer), may_ask)

    def test_removed_directory(self) -> None:
        """Where it was started need not exist any more, unless something is relative to it."""
        config = str(self.write())
        (self.directory / "gone").mkdir()
        os.chdir(self.directory / "gone")
        (self.directory / "gone").rmdir()
        tap.makeService(parsed("--config", config))
        options = parsed("--config", config, "--http", "unix:a")
        error = self.assertRaises(StartupError, tap.makeService, options)
        self.assertIn("the directory in which this was started was removed", str(error))

    def test_wrong_endpoints(self) -> None:
        """What is not an endpoint is named, with the reason."""
        for endpoint in ("", "tcp", "tpc:1", "tcp:abc", "tcp:1:interfce=x", "ssl:1:privateKey=/no"):
            for option in ("--http", "--octez-socket"):
                error = self.assertRaises(
                    StartupError, tap.makeService, parsed("--simulate", option, endpoint)
                )
                self.assertIn(f"{endpoint!r} is not an endpoint to listen on: ", str(error))

    def test_warnings(self) -> None:
        """What is dangerous is logged when it starts."""
        self.write(more="security: {auth_check: False, remote_ip_check: False}")
        for arguments, expected in [
            (
                (),
                ["security.remote_ip_check is switched off", "security.auth_check is switched off"],
            ),
            (
                ("--simulate",),
                ["SIMULATED HSM: public test", "security.remote_ip_check", "security.auth_check"],
            ),
        ]:
            with capturedLogs() as events:
                tap.makeService(parsed(*arguments))
            warnings = [event for event in events if event["log_level"] is LogLevel.warn]
            self.assertEqual(len(warnings), len(expected))
            for event, words in zip(warnings, expected, strict=True):
                self.assertIn(words, event.get("sentence") or event["log_format"])

    def test_warnings_of_keys(self) -> None:
        """What `check` warns of is warned of here: there is one list."""
        self.write().write_text(MINIMAL.replace(", chains: [NetXdQprcVkpaWU]", ""))
        (warning,) = self.warnings()
        self.assertIn(f"{TZ3} signs blocks and attestations of any chain", warning)

    def warnings(self, *arguments: str) -> list[str]:
        """What is warned of, of its listeners."""
        with capturedLogs() as events:
            tap.makeService(parsed(*arguments))
        return [event["sentence"] for event in events if "sentence" in event]

    def test_warnings_of_sockets(self) -> None:
        """Those of listeners that are not opened are left out, and none is said twice."""
        (self.directory / "token.txt").write_text("0123456789abcdef")
        (self.directory / "token.txt").chmod(0o600)
        self.write(
            more="request_token: {header: x-a, file: token.txt}\n"
            "listen: {http: ['haproxy:tcp:1'], octez_socket: ['tcp:2', 'haproxy:tcp:3']}"
        )
        tokenless = "request_token protects HTTP only: who can connect to {} needs none"
        proxy = "whoever can connect to {} can claim any client address"
        for arguments, expected in (
            (
                (),
                [
                    proxy.format("haproxy:tcp:1"),
                    proxy.format("haproxy:tcp:3"),
                    tokenless.format("tcp:2"),
                    tokenless.format("haproxy:tcp:3"),
                    f"ANYBODY who reaches haproxy:tcp:3 can have {TZ3} sign blocks",
                ],
            ),
            (
                ("--octez-socket", "unix:x", "--http", "tcp:4"),
                [tokenless.format(resolved("unix:x", Path.cwd()))],  # a long path stays short
            ),
        ):
            warnings = self.warnings(*arguments)
            self.assertEqual(len(warnings), len(expected), warnings)
            for warning, words in zip(warnings, expected, strict=True):
                self.assertTrue(warning.startswith(words), warning)

    def test_client_ca(self) -> None:
        """It is for the listeners of the socket protocol too: all of them are checked together."""
        authority = Authority(self.directory)
        server = authority.certify("server", server=True)
        https = f"ssl:0:interface=127.0.0.1:privateKey={server.key}:certKey={server.certificate}"
        self.write(more=f"client_ca: {authority.path}")
        self.assertEqual(self.warnings("--http", https, "--octez-socket", https), [])
        for http, socket in ((https, "tcp:2"), ("tcp:2", https)):
            (warning,) = self.warnings("--http", http, "--octez-socket", socket)
            self.assertIn("tcp:2 does not ask for a client certificate", warning)
        for http, socket, words in (
            ("tcp:1", "tcp:2", "client_ca protects nothing"),
            (https, "tls:/certs:port=0", "use ssl: instead"),
            (https, f"{https}:sslmethod=SSLv23_METHOD", "TLS 1.2 is the oldest"),
        ):
            options = parsed("--http", http, "--octez-socket", socket)
            error = self.assertRaises(StartupError, tap.makeService, options)
            self.assertIn(words, str(error))


class RunningTests(TapTestCase):
    """The daemon in this process."""

    timeout = 30

    async def test_signs(self) -> None:
        """It opens its port and its store, finds its HSM, signs, and leaves nothing behind."""
        self.write(more="list_known_keys: True")
        sqlite.create(self.directory / "watermarks.sqlite")
        ready: Deferred[None] = Deferred()
        listening: Deferred[int] = Deferred()

        @provider(ILogObserver)
        def observe(event: LogEvent) -> None:
            text = formatEvent(event)
            if "is ready: " in text:
                ready.callback(None)
            elif match := re.search(r"SignerSite starting on (\d+)", text):
                listening.callback(int(match[1]))

        globalLogPublisher.addObserver(observe)
        self.addCleanup(globalLogPublisher.removeObserver, observe)
        daemon = tap.makeService(parsed("--simulate", "--http", FREE_PORT))
        daemon.privilegedStartService()
        daemon.startService()
        self.addCleanup(daemon.stopService)
        client = Client(await listening)
        await ready
        self.assertEqual((await client.sign(TZ3, PAYLOADS["noop"])).status, 403)
        first = await client.sign(TZ3, PAYLOADS["block_unlocked_nononce_on"])
        second = await client.sign(TZ3, PAYLOADS["block_unlocked_nononce_on"])
        self.assertEqual((first.status, second.status), (200, 200))
        self.assertEqual(first.body, second.body)
        self.assertEqual(reading.read(self.directory / "watermarks.sqlite"), {})
