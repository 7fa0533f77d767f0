"""Sockets that are handed over to the daemon, as systemd does."""

import os
import stat
from pathlib import Path
from socket import AF_INET, AF_INET6, AF_UNIX, create_connection, socket

from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from tests.support.daemonprocess import start_activated
from tests.support.harness import Client, Harness, reactor
from tests.support.octezclient import HSM_KEYS, verifies
from tests.support.octezsocketclient import AUTHORIZED_KEYS, OctezSocketClient, framed
from tests.support.processcase import ProcessTestCase
from tests.support.vectors import PAYLOADS, TZ1, TZ3
from tezio_signer.errors import StartupError
from tezio_signer.listeners import ports
from tezio_signer.listeners.slots import Connection, Slot
from tezio_signer.listeners.wrapping import LimitedFactory


class ActivationTests(ProcessTestCase):
    """A daemon with a socket that is systemd's."""

    async def test_unix(self) -> None:
        """It signs there, and leaves the mode, the path and the listening as they were."""
        path = Path(os.path.relpath(self.directory / "signer.sock"))
        with socket(AF_UNIX) as listening:
            listening.bind(str(path))
            path.chmod(0o600)
            listening.listen()
            for _ in range(2):
                daemon = start_activated(
                    self,
                    self.directory,
                    listening,
                    "--simulate",
                    "--http=tcp:0:interface=127.0.0.1",
                    "--octez-socket=systemd:domain=UNIX:name=listener",
                )
                await daemon.says(r"OctezSocketFactory starting on \S+signer.sock'\n")
                await daemon.says(r"HSM .* is ready: .*\n")
                self.assertEqual(stat.S_IMODE(path.stat().st_mode), 0o600)
                asking = OctezSocketClient(f"unix:{path}")
                signature = await asking.sign(str(TZ1), PAYLOADS["noop"])
                self.assertTrue(verifies(HSM_KEYS[0].public_key, PAYLOADS["noop"], signature))
                daemon.send("TERM")
                self.assertEqual(await daemon.exits(), 0)
                self.assert_quiet(daemon)
                self.assertEqual(stat.S_IMODE(path.stat().st_mode), 0o600)
                with socket(AF_UNIX) as waiting:
                    waiting.connect(str(path))  # for the next daemon

    async def test_none(self) -> None:
        """A socket that was not handed over ends the start with one line."""
        daemon = self.start("--simulate", "--octez-socket=systemd:domain=UNIX:name=listener")
        self.assertEqual(await daemon.exits(), 1)
        self.assertIn(
            "tezio-signer: 'systemd:domain=UNIX:name=listener' is not an endpoint", daemon.log
        )
        self.assert_quiet(daemon)


class ClientPathTests(TestCase):
    """Clients of a Unix socket whose own socket has a path."""

    async def test_any_length(self) -> None:
        """They are served whatever it is; one of four letters looks like IPv6 to Twisted."""
        harness = Harness()
        await harness.start(self)
        directory = Path(os.path.relpath(self.mktemp()))
        directory.mkdir()
        path = directory / "listener"
        harness.open_listener(self, f"unix:{path}", harness.sockets)

        def ask(name: str) -> bytes:
            with socket(AF_UNIX) as asking:
                asking.settimeout(10)
                asking.bind(name)
                try:
                    asking.connect(str(path))
                    asking.sendall(framed(AUTHORIZED_KEYS))
                    return asking.recv(100)
                finally:
                    if name[0] != "\0":  # which is of no file
                        os.unlink(name)

        for name in ("abc", "abcd", "abcde", "\0abc"):
            self.assertEqual(await deferToThread(ask, name), framed(b"\0\0"), name)


class AdoptionTests(TestCase):
    """What becomes of a socket that was handed over."""

    timeout = 20

    async def adopt(self, listening: socket) -> None:
        """Have a signer listen on a socket."""
        self.harness = Harness()
        await self.harness.start(self)
        limited = LimitedFactory(self.harness.site, self.harness.connections)
        port = ports.adopt(listening.fileno(), listening.family, limited, reactor, 10)
        self.addCleanup(port.stopListening)

    def listen(self, family: int, address: object) -> socket:
        """A socket that listens."""
        listening = socket(family)
        self.addCleanup(listening.close)
        listening.bind(address)  # type: ignore[arg-type]
        listening.listen()
        return listening

    def watch_entering(self) -> list[str]:
        """Whose connections are accepted from now on."""
        entered: list[str] = []
        enter = self.harness.connections.enter

        def tell(peer: str, name: str, connection: Connection, speaks: bool) -> Slot:
            entered.append(peer)
            return enter(peer, name, connection, speaks)

        self.patch(self.harness.connections, "enter", tell)
        return entered

    async def test_tcp(self) -> None:
        """On TCP, connections on which nothing comes stay with the system, as on a port of ours."""
        for family, host in ((AF_INET, "127.0.0.1"), (AF_INET6, "::1")):
            listening = self.listen(family, (host, 0))
            await self.adopt(listening)
            entered = self.watch_entering()
            port = listening.getsockname()[1]
            for _ in range(5):
                self.addCleanup(create_connection((host, port)).close)
                create_connection((host, port)).close()
            escaped = host.replace(":", "\\:")
            client = Client(port, f"tcp:{escaped}:{port}")
            self.assertEqual((await client.sign(TZ3, PAYLOADS["noop"])).status, 200)
            self.assertEqual(entered, [host])

    async def test_of_another_user(self) -> None:
        """A Unix socket that is not ours to change is served all the same, whatever its name."""

        def refuse(*_: object) -> None:
            raise PermissionError(1, "Operation not permitted")

        for name in (os.path.relpath(self.mktemp()), "\0" + os.urandom(16).hex()):
            listening = self.listen(AF_UNIX, name)
            for change in ("chmod", "unlink"):
                self.patch(os, change, refuse)
            await self.adopt(listening)
            with socket(AF_UNIX) as over:
                over.connect(name)
            if name[0] != "\0":
                answer = await Client(0, f"unix:{name}").sign(TZ3, PAYLOADS["noop"])
                self.assertEqual(answer.status, 200)

    def test_no_such_socket(self) -> None:
        """What does not listen, or is of another kind than the endpoint says, ends the start."""
        reading, writing = os.pipe()
        self.addCleanup(os.close, reading)
        self.addCleanup(os.close, writing)
        deaf = socket(AF_INET)
        self.addCleanup(deaf.close)
        listening = self.listen(AF_INET, ("127.0.0.1", 0))
        for descriptor, family, says in (
            (reading, AF_INET, "is not a socket: Socket operation on non-socket"),
            (deaf.fileno(), AF_INET, "is a socket of AF_INET which does not listen"),
            (listening.fileno(), AF_UNIX, "is a socket of AF_INET which listens, not what"),
        ):
            with self.assertRaises(StartupError) as refused:
                ports.adopt(descriptor, family, Harness().site, reactor, 10)
            self.assertIn(f"descriptor {descriptor} {says}", str(refused.exception))
