"""Whether a port could be listened on, and what is said if not."""

import errno
import os
import socket
from collections.abc import Callable
from functools import partial

from twisted.internet import tcp
from twisted.internet.protocol import Factory
from twisted.trial.unittest import TestCase

from tests.support.daemonprocess import reserve_port
from tests.support.harness import reactor
from tezio_signer.errors import InUseError, StartupError
from tezio_signer.listeners import portcheck as listening
from tezio_signer.listeners import ports
from tezio_signer.listeners.portcheck import listening_errors, try_tcp


class TryTests(TestCase):
    """Trying, beside who really listens."""

    def setUp(self) -> None:
        reserved = reserve_port()
        self.addCleanup(reserved.close)
        self.port: int = reserved.getsockname()[1]

    def test_nobody_listens(self) -> None:
        """Trying leaves nothing that somebody could connect to."""
        try_tcp(self.port, "127.0.0.1")
        with socket.socket() as asking:
            refused = asking.connect_ex(("127.0.0.1", self.port))
        self.assertEqual(refused, errno.ECONNREFUSED)

    def test_in_use(self) -> None:
        """A port on which somebody listens is told apart from one that cannot be had."""
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port: int = taken.getsockname()[1]
            for interface in ("127.0.0.1", ""):
                error = self.assertRaises(InUseError, try_tcp, port, interface)
                self.assertIn(f":{port}: this port is in use by another program", str(error))

    async def test_keeps_nobody_off(self) -> None:
        """A daemon that starts at the very moment at which it is tried gets its port."""
        opened: list[tcp.Port] = []

        class Bound(socket.socket):
            def bind(self, address: object) -> None:
                super().bind(address)  # type: ignore[arg-type]
                daemon = ports.listen_tcp(port, Factory(), 1, "127.0.0.1", reactor, 1)
                opened.append(daemon)

        port = self.port
        self.patch(listening, "socket", Bound)
        try_tcp(port, "127.0.0.1")
        self.assertEqual(opened[0].getHost().port, port)
        with socket.create_connection(("127.0.0.1", port)):
            pass
        await opened[0].stopListening()

    async def test_as_twisted_binds(self) -> None:
        """The same addresses can be had, and the same is said of the others."""
        for interface in ("", "127.0.0.1", "::1", "::", "::ffff:127.0.0.1", "192.0.2.1", "fe80::1"):
            opened = tcp.Port(0, Factory(), 1, interface, reactor)
            said = self.said(interface, opened.startListening)
            self.assertEqual(self.said(interface, partial(try_tcp, 0, interface)), said)
            if said is None:
                await opened.stopListening()

    def said(self, interface: str, bind: Callable[[], object]) -> str | None:
        """What keeps it from being bound; None if nothing does."""
        try:
            with listening_errors(0, interface):
                bind()
        except StartupError as error:
            return str(error)
        return None

    def test_privileged(self) -> None:
        """The very port is bound, since it may be one that this user may not have."""

        class Denying(socket.socket):
            def bind(self, address: object) -> None:
                assert address == ("127.0.0.1", 80)
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

        self.patch(listening, "socket", Denying)
        error = self.assertRaises(StartupError, try_tcp, 80, "127.0.0.1")
        self.assertNotIsInstance(error, InUseError)
        self.assertIn("127.0.0.1:80: this user may not use a port below 1024", str(error))


class SentenceTests(TestCase):
    """What an operator is told."""

    def said(self, error: Exception, interface: str, port: int = 6732) -> str:
        """The sentence for an error."""

        def fail() -> None:
            with listening_errors(port, interface):
                raise error

        return str(self.assertRaises(StartupError, fail))

    def test_sentences(self) -> None:
        """Each says where, why, and what to do."""
        for number, interface, words in (
            (errno.EADDRNOTAVAIL, "10.0.0.9", "10.0.0.9:6732: this machine does not have this add"),
            (errno.EADDRNOTAVAIL, "example.org", "is the name of another machine"),
            (errno.EADDRINUSE, "::1", "[::1]:6732: this port is in use"),
            (errno.EADDRINUSE, "", "0.0.0.0:6732: this port is in use"),
            (errno.EADDRINUSE, "localhost", "localhost:6732: this port is in use"),
            (errno.EINVAL, "fe80::1", "as in fe80::1%eth0"),
            (errno.ENODEV, "fe80::1%eth9", "this machine has no network interface eth9"),
            (errno.EAFNOSUPPORT, "::1", "this kind of address is not enabled"),
            (errno.EACCES, "", "0.0.0.0:6732: Permission denied"),
            (errno.EMFILE, "", "Too many open files"),
        ):
            self.assertIn(words, self.said(OSError(number, os.strerror(number)), interface))
        unknown = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        self.assertIn("no network interface eth9", self.said(unknown, "fe80::1%eth9"))
        self.assertIn("this host name is not known", self.said(unknown, "nowhere"))
        self.assertIn("is not known", self.said(UnicodeError("label empty"), "a..b"))
