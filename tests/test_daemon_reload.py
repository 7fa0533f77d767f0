"""SIGHUP as the daemon's processes have it: under `tezio-signer run`, and under twistd."""

import os
import re
from shutil import rmtree
from tempfile import mkdtemp

from twisted.internet.defer import Deferred

from tests.support.daemonprocess import FREE_PORT, Process, serving, start_twistd
from tests.support.harness import reactor
from tests.support.octezsocketclient import AUTHORIZED_KEYS, result_in
from tests.support.processcase import ProcessTestCase
from tests.support.vectors import PAYLOADS, TZ1, TZ2, TZ3
from tezio_signer.watermarks.sqlite import reading

NOOP = PAYLOADS["noop"]
IN_FORCE = "SIGHUP: the signer goes by .*config.yaml as it is now; changed: "


class ReloadTests(ProcessTestCase):
    """A daemon whose configuration is written anew."""

    def write(self, *changes: tuple[str, str]) -> None:
        """Write the configuration of `configure` with some texts in the place of others."""
        self.configure(store=False)
        path = self.directory / "config.yaml"
        text = path.read_text("utf-8")
        for old, new in changes:
            self.assertIn(old, text)
            text = text.replace(old, new)
        path.write_text(text, "utf-8")

    async def reload(self, daemon: Process, says: str, *changes: tuple[str, str]) -> None:
        """Have a daemon read another configuration; wait for a line that it logs of it."""
        self.write(*changes)
        daemon.log = ""
        daemon.send("HUP")
        await daemon.says(says)

    async def test_changes(self) -> None:
        """Keys, limits and the log are others at once; a restart is named for what needs one."""
        short = mkdtemp()  # the name of a socket may have 108 bytes, wherever the tests are run
        self.addCleanup(rmtree, short)
        self.configure(store=False)
        daemon = self.start("--simulate")
        client = await serving(daemon)
        self.assertEqual((await client.sign(TZ1, NOOP)).status, 200)
        await self.reload(
            daemon,
            f"{IN_FORCE}{TZ1} is removed, allowed_ops of {TZ2}, verbose, list_known_keys\n",
            (f'"{TZ1}": {{', f"# {TZ1} {{"),
            (f'"{TZ2}": {{allowed_ops: [generic]', f'"{TZ2}": {{allowed_ops: []'),
            ("verbose: False", "verbose: True"),
            ("list_known_keys: True", "list_known_keys: False"),
        )
        self.assertEqual((await client.sign(TZ1, NOOP)).status, 404)
        self.assertEqual((await client.sign(TZ2, NOOP)).status, 403)
        self.assertEqual((await client.request("GET", "/known_keys")).status, 403)
        self.assertEqual((await client.sign(TZ3, NOOP)).status, 200)
        await daemon.says("bytes, opcode 21, slot 3")  # `verbose`
        await self.reload(
            daemon,
            " warn SIGHUP: hsms, listen.octez_socket: this is changed only by a restart",
            ("# hsms:\n#     - {serial", "hsms:\n    - {serial"),
            ("    # octez_socket: [", "    octez_socket: ["),
            ("/run/tezio-signer/signer.sock", f"{short}/signer.sock"),
        )
        await daemon.says(f"{IN_FORCE}{TZ1} is added, .*")
        self.assertEqual((await client.sign(TZ1, NOOP)).status, 200)
        self.assertNotIn(" debug ", daemon.log)
        self.assertNotIn("Traceback", daemon.log)

    async def test_wrong(self) -> None:
        """An error is one line with its place, and the daemon goes on as it was."""
        self.configure(store=False)
        daemon = self.start("--simulate")
        client = await serving(daemon)
        (self.directory / "config.yaml").write_text("policy: {}\nverbos: True\n")
        for _ in range(2):
            daemon.log = ""
            daemon.send("HUP")
            line = await daemon.says("error SIGHUP: (.*)\n")
            self.assertIn("the configuration stays as it was", line[1])
            self.assertIn("config.yaml:2: verbos: unknown key; did you mean verbose?", line[1])
        (self.directory / "config.yaml").write_text("")  # as an editor leaves it for a moment
        daemon.send("HUP")
        await daemon.says("config.yaml:1: the file is empty")
        (self.directory / "config.yaml").unlink()
        daemon.send("HUP")
        await daemon.says("config.yaml: cannot be read: No such file")
        self.assertEqual((await client.sign(TZ1, NOOP)).status, 200)
        await self.reload(daemon, "was read, and says what it said before\n")
        self.assertNotIn("Traceback", daemon.log)

    async def test_request_in_flight(self) -> None:
        """What the board signs goes on when its key is removed, and so do open connections."""
        board, daemon, answering = await self.signing("--octez-socket", FREE_PORT)
        asking = await self.socket_client(daemon)
        conversation = await asking.connect()
        await conversation.ask(AUTHORIZED_KEYS)
        device = f"hsms: [{{port: {board.simulator.port}}}]"
        self.configure(device, store=False)
        path = self.directory / "config.yaml"
        text = path.read_text("utf-8").replace(str(TZ3), "tz3WqrfXaNnCckfofeeCGAehhZhZQ6nShz3i")
        path.write_text(text, "utf-8")
        daemon.send("HUP")
        await daemon.says(f"{IN_FORCE}tz3WqrfXaNnCckfofeeCGAehhZhZQ6nShz3i is added, {TZ3} is rem")
        await daemon.says("no connected board holds these keys of the configuration: tz3Wqrf")
        board.answer()
        answer = await answering
        self.assertEqual(answer.status, 200)
        result_in(await conversation.ask(AUTHORIZED_KEYS))
        daemon.send("TERM")
        await self.stopped_well(daemon)
        (mark,) = reading.read(self.directory / "watermarks.sqlite").values()
        self.assertIn(str(mark.signature), answer.body.decode())

    async def stopped_well(self, daemon: Process) -> None:
        """Wait until a daemon has ended, which has to be in good order."""
        self.assertEqual(await daemon.exits(), 0, daemon.log)
        self.assertNotIn("Traceback", daemon.log)

    async def test_addresses_and_token(self) -> None:
        """A connection is not closed by another configuration, and is held to it."""
        self.configure(store=False)
        (self.directory / "token.txt").write_text("0123456789abcdef")
        daemon = self.start("--simulate")
        client = await serving(daemon)
        token = ("# request_token: {header", "request_token: {header")
        await self.reload(daemon, f"{IN_FORCE}request_token\n", token)
        self.assertEqual((await client.sign(TZ1, NOOP)).status, 401)
        sent = "x-tezio-token: 0123456789abcdef\r\n"
        asked = await client.request("GET", "/authorized_keys", headers=sent)
        self.assertEqual(asked.status, 200)
        (self.directory / "token.txt").write_text("fedcba9876543210")
        await self.reload(daemon, f"{IN_FORCE}request_token\n", token)
        asked = await client.request("GET", "/authorized_keys", headers=sent)
        self.assertEqual(asked.status, 401)
        elsewhere = ('allowed_ips: ["127.0.0.1", "::1"]', 'allowed_ips: ["192.0.2.1"]')
        await self.reload(daemon, f"{IN_FORCE}allowed_ips, request_token\n", elsewhere)
        self.assertEqual((await client.request("GET", "/")).status, 403)
        self.assertNotIn("fedcba", daemon.log)

    async def test_built_in(self) -> None:
        """`--simulate` without a file has nothing to read, and says so."""
        daemon = self.start("--simulate")
        client = await serving(daemon)
        daemon.send("HUP")
        await daemon.says("SIGHUP: there is no configuration file to read")
        self.assertEqual((await client.request("GET", "/")).status, 200)

    async def test_twistd(self) -> None:
        """Under twistd it is the same, also from another directory than that of the start."""
        self.configure(store=False)
        (self.directory / "elsewhere").mkdir()
        daemon = start_twistd(
            self, self.directory, "-n", "--rundir", "elsewhere",
            "tezio-signer", "--simulate", "--config", "config.yaml", "--http", FREE_PORT,
        )  # fmt: skip
        client = await serving(daemon)
        removed = (f'"{TZ1}": {{', f"# {TZ1} {{")
        await self.reload(daemon, f"{IN_FORCE}{TZ1} is removed\n", removed)
        self.assertEqual((await client.sign(TZ1, NOOP)).status, 404)
        self.assertEqual((await client.sign(TZ2, NOOP)).status, 200)

    async def test_many(self) -> None:
        """However many come, the daemon ends with what was written last."""
        self.configure(store=False)
        daemon = self.start("--simulate")
        client = await serving(daemon)
        for known in ("False", "True", "False") * 3:
            self.write(("list_known_keys: True", f"list_known_keys: {known}"))
            daemon.send("HUP")
        await daemon.says("SIGHUP: ")
        path = self.directory / "config.yaml"
        path.write_text(path.read_text("utf-8") + "limits: {headers: 50}\n")
        daemon.send("HUP")
        await daemon.says(f"{IN_FORCE}.*limits.headers")
        self.assertEqual((await client.request("GET", "/known_keys")).status, 403)
        said = len(re.findall("SIGHUP: ", daemon.log))
        self.assertLess(said, 12, daemon.log)

    async def test_while_it_starts(self) -> None:
        """A signal that comes before it serves is taken, and read for when it does."""
        self.configure(store=False)
        fifo = self.directory / "token.txt"
        path = self.directory / "config.yaml"
        section = "request_token: {header: x-tezio-token, file: token.txt}\n"
        os.mkfifo(fifo)
        path.write_text(f"{path.read_text('utf-8')}{section}", "utf-8")
        daemon = self.start("--simulate")
        descriptor = await self.opened(fifo)  # it reads its settings, and waits for this file
        daemon.send("HUP")
        fifo.rename(self.directory / "read")
        self.configure(store=False)
        os.write(descriptor, b"0123456789abcdef\n")
        os.close(descriptor)
        await daemon.says(f"{IN_FORCE}request_token\n")
        client = await serving(daemon)
        self.assertEqual((await client.sign(TZ1, NOOP)).status, 200)

    async def opened(self, fifo: os.PathLike[str]) -> int:
        """A descriptor to write with, when somebody reads."""
        while True:
            try:
                return os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
            except OSError:  # nobody reads yet
                turn: Deferred[None] = Deferred()
                reactor.callLater(0.01, turn.callback, None)
                await turn

    async def test_while_it_stops(self) -> None:
        """A signal that comes then changes nothing, neither the stop nor the answer in progress."""
        board, daemon, answering = await self.signing()
        daemon.send("TERM")
        await daemon.says(r"\(TCP Port \d+ Closed\)")
        daemon.send("HUP")
        await daemon.says("info SIGHUP: the signer is stopping")
        board.answer()
        self.assertEqual((await answering).status, 200)
        await self.stopped_well(daemon)

    async def test_hangs(self) -> None:
        """A file that cannot be read to its end holds up neither signatures nor the stop."""
        self.configure(store=False)
        daemon = self.start("--simulate")
        client = await serving(daemon)
        os.mkfifo(self.directory / "token.txt")
        token = ("# request_token: {header", "request_token: {header")
        self.write(token)
        daemon.send("HUP")
        daemon.send("HUP")
        self.assertEqual((await client.sign(TZ1, NOOP)).status, 200)
        daemon.send("TERM")
        await self.stopped_well(daemon)
