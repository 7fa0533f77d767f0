"""The command `tezio-signer`."""

import json
import os
import sys
from io import StringIO
from pathlib import Path

from twisted.trial.unittest import TestCase

from tests.support.commandtest import CommandTestCase, Outcome
from tests.support.daemonprocess import start_command
from tests.support.harness import reactor
from tests.support.vectors import AUTH, OCTEZ, SHIPPED, TZ1, TZ2, TZ3
from tezio_signer import __version__
from tezio_signer.cli import keys, reacting
from tezio_signer.cli import main as cli
from tezio_signer.hsm import boards
from tezio_signer.hsm.boards import Board
from tezio_signer.simulator.firmware import Firmware
from tezio_signer.simulator.service import Simulator
from tezio_signer.simulator.settings import built_in_settings

EDPK, EDPK_HASH = OCTEZ["keys"][1]["pk"], OCTEZ["keys"][1]["pkh"]
# The public keys of the published test keys, in the order of their slots.
HELD = [
    (0, AUTH, "p2pk66E8R1yCEMtvZGjYNQy35Tiz5Hi4e9egStrQERwnTgDhYc1TPcL"),
    (1, TZ1, "edpkv1EQnd7cMykpzKuo8xEnioizPd3nP6YYoyoRyRmVK5Vg7TfsCB"),
    (2, TZ2, "sppk7ck4y4RnCoX32fAZwoKQxrgjGKR9Efb5VzaqUfkHacbAPr1ifG4"),
    (3, TZ3, "p2pk66e7HovJkSsM2LdS5pn8DfxG53qRWifpn92PbbcLkD1YwYbaJ7a"),
]


class UsageTests(CommandTestCase):
    """What is typed wrongly."""

    def test_usage(self) -> None:
        """An unknown command or option, or a missing one, is answered with the usage and 2."""
        for arguments in (
            ["sign"],
            ["check", "--simulate"],
            ["check", "extra"],
            ["watermarks"],
            ["watermarks", "drop"],
            ["watermarks", "init", "--json"],
            ["watermarks", "import"],
            ["watermarks", "set", "--chain", "NetXdQprcVkpaWU", "--key", str(TZ3), "--level", "1"],
            ["simulate", "--latency", "fast"],
            ["simulate", "--latency", "-1"],
            ["simulate", "--latency", "1000000"],
            ["simulate", "--latency", "nan"],
            ["check", "--config"],
        ):
            outcome = self.run_command(*arguments)
            self.assertEqual((outcome.code, outcome.out), (2, ""), arguments)
            self.assertTrue(outcome.err.startswith("usage: tezio-signer"), outcome.err)

    def test_nothing(self) -> None:
        """Without a command the help is shown, and it is wrong usage all the same."""
        outcome = self.run_command()
        self.assertEqual(outcome, Outcome(2, "", self.run_command("--help").out))

    def test_version_and_help(self) -> None:
        """The version and the help go to the standard output, and are no error."""
        self.assertEqual(
            self.run_command("--version"), Outcome(0, f"Tezio Signer {__version__}\n", "")
        )
        helped = self.run_command("--help")
        self.assertEqual((helped.code, helped.err), (0, ""))
        for command in ("check", "keys", "watermarks", "simulate"):
            self.assertIn(command, helped.out)

    def test_closed_pipe(self) -> None:
        """A reader that goes away is no fault."""

        def go_away(_: str) -> int:
            raise BrokenPipeError

        out = StringIO()
        self.patch(out, "write", go_away)
        self.patch(sys, "stdout", out)
        self.assertEqual(self.assertRaises(SystemExit, cli.main, ["check"]).code, 1)


class InProcessTests(CommandTestCase):
    """The commands that run a reactor, as far as they go without one."""

    def test_no_board(self) -> None:
        """Without any board `keys` says so."""
        self.patch(keys, "find_boards", lambda _: [])
        self.patch(boards, "comports", list)
        outcome = self.run_command("keys")
        self.assertEqual((outcome.code, outcome.out), (1, ""))
        self.assertEqual(
            outcome.err,
            "tezio-signer: no Tezio board is plugged in, and no other USB serial port\n"
            "tezio-signer: no Tezio HSM found\n",
        )
        outcome = self.run_command("keys", "--json")
        self.assertEqual((outcome.code, outcome.out), (1, "[]\n"))

    def test_unusable_board(self) -> None:
        """A port that cannot be opened is named with the reason."""
        port = self.directory / "port"
        with self.config.open("a") as config:
            config.write(f"\nhsms: [{{port: {port}}}]\n")
        outcome = self.run_command("keys")
        self.assertEqual((outcome.code, outcome.out), (1, ""))
        reason, end = outcome.err.splitlines()
        self.assertIn(str(port), reason)
        self.assertIn("there is no such port; is the board plugged in?", reason)
        self.assertEqual(end, "tezio-signer: no HSM could be read")

    def test_faults_are_shown(self) -> None:
        """What is no mistake of the user is not reduced to a line."""

        def fail(_: object) -> None:
            raise ZeroDivisionError

        self.patch(keys, "find_boards", fail)
        outcome = self.run_command("keys")
        self.assertEqual((outcome.code, outcome.err), (1, ""))

    def test_interrupted(self) -> None:
        """Ctrl-C before a reactor listens to it is no fault."""

        def interrupt(_: object) -> None:
            raise KeyboardInterrupt

        self.patch(reacting, "react", interrupt)
        self.assertEqual(self.run_command("keys"), Outcome(cli.INTERRUPTED, "", ""))

    def test_simulate(self) -> None:
        """The simulated HSM is there until the reactor stops, its link as well."""
        link = self.directory / "hsm"
        outcome = self.run_command("simulate", "--link", str(link), "--latency", "0")
        self.assertEqual(outcome, Outcome(0, f"simulated HSM at {link}; public test keys\n", ""))
        self.assertTrue(os.readlink(link).startswith("/dev/"))
        for trigger in self.reactor.triggers:
            trigger()
        self.assertFalse(link.is_symlink())


class ReactorTests(TestCase):
    """The commands that run a reactor, as processes of their own."""

    timeout = 30

    def setUp(self) -> None:
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir()

    async def test_keys_of_the_simulated_hsm(self) -> None:
        """`keys --simulate` lists the four test keys, as a table and as JSON."""
        table = start_command(self, self.directory, "keys", "--simulate")
        listed = start_command(self, self.directory, "keys", "--simulate", "--json")
        self.assertEqual((await table.exits(), await listed.exits()), (0, 0))
        self.assertEqual((table.log, listed.log), (table.out, listed.out))
        rows = json.loads(listed.out)
        self.assertEqual(
            [(row["slot"], row["key_hash"], row["public_key"]) for row in rows],
            [(slot, str(key), public) for slot, key, public in HELD],
        )
        self.assertEqual(list(rows[0]), ["device", "slot", "key_hash", "public_key"])
        lines = table.out.splitlines()
        self.assertEqual(lines[0].split(), ["device", "slot", "key_hash", "public_key"])
        self.assertEqual(
            [line.split()[-3:] for line in lines[1:]],
            [[str(slot), str(key), public] for slot, key, public in HELD],
        )

    async def test_keys_of_a_board(self) -> None:
        """`keys` lists the keys of a board of the configuration, here one of `simulate`."""
        link = self.directory / "hsm"
        simulator = start_command(self, self.directory, "simulate", "--link", str(link))
        await simulator.says("simulated HSM at ")
        config = self.directory / "config.yaml"
        config.write_text(f"{SHIPPED.read_text('utf-8')}\nhsms: [{{port: {link}}}]\n", "utf-8")
        keys = start_command(self, self.directory, "keys", "--json")
        self.assertEqual(await keys.exits(), 0, keys.log)
        rows = json.loads(keys.out)
        self.assertEqual({row["device"] for row in rows}, {str(link)})
        self.assertEqual([row["key_hash"] for row in rows], [str(key) for _, key, _ in HELD])
        simulator.send("TERM")
        self.assertEqual(await simulator.exits(), 0)
        self.assertEqual(simulator.out, f"simulated HSM at {link}; public test keys\n")
        self.assertEqual(simulator.log, simulator.out)
        self.assertFalse(link.is_symlink())

    async def test_keys_without_a_board(self) -> None:
        """`keys` with a port that is not there is an error in lines, not a traceback."""
        config = self.directory / "config.yaml"
        config.write_text(f"{SHIPPED.read_text('utf-8')}\nhsms: [{{port: /dev/none}}]\n", "utf-8")
        keys = start_command(self, self.directory, "keys")
        self.assertEqual(await keys.exits(), 1)
        self.assertNotIn("Traceback", keys.log)
        self.assertIn("tezio-signer: no HSM could be read\n", keys.log)

    async def test_impossible_link(self) -> None:
        """A link in the place of a file or in no directory is one line, and no file is lost."""
        precious = self.directory / "precious"
        precious.write_text("mine")
        nowhere = self.directory / "nowhere" / "hsm"
        for link, reason in [(precious, "File exists"), (nowhere, "No such file or directory")]:
            simulator = start_command(self, self.directory, "simulate", "--link", str(link))
            self.assertEqual(await simulator.exits(), 1)
            self.assertRegex(
                simulator.log, rf"\Atezio-signer: [^\n]*{reason}[^\n]*{link}[^\n]*\n\Z"
            )
        self.assertEqual(precious.read_text(), "mine")

    async def test_one_board_of_two(self) -> None:
        """A board that cannot be read does not hide the keys of another."""
        simulator = Simulator(reactor, Firmware(), 0)
        simulator.startService()
        self.addCleanup(simulator.stopService)
        found = [Board("/dev/none"), *simulator.boards()]
        self.patch(keys, "find_boards", lambda _: found)
        out, err = StringIO(), StringIO()
        self.patch(sys, "stdout", out)
        self.patch(sys, "stderr", err)
        await keys.list_keys(reactor, built_in_settings(), as_json=True)
        self.assertEqual(len(json.loads(out.getvalue())), 4)
        self.assertRegex(err.getvalue(), r"\Atezio-signer: HSM /dev/none: cannot be [^\n]+\n\Z")

    async def test_simulated_in_this_process(self) -> None:
        """The simulated HSM is gone when its keys are listed."""
        out = StringIO()
        self.patch(sys, "stdout", out)
        await keys.list_keys(reactor, None, as_json=True)
        rows = json.loads(out.getvalue())
        self.assertEqual([row["key_hash"] for row in rows], [str(key) for _, key, _ in HELD])
        port = rows[0]["device"].removeprefix("simulated at ")
        self.assertFalse(os.path.exists(port))
