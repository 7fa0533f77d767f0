"""`tezio-signer watermarks`."""

import json
import os
import sys
from contextlib import closing
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from time import time

from attrs import evolve
from twisted.trial.unittest import SkipTest

from tests.support.commandtest import CommandTestCase, Outcome
from tests.support.harness import reactor
from tests.support.vectors import OCTEZ, TZ1, TZ3
from tezio_signer.config.hints import spelled_out
from tezio_signer.host.accounts import user_name
from tezio_signer.tezos.keys import Curve, Signature
from tezio_signer.tezos.payload import Operation
from tezio_signer.watermarks.entry import Entry
from tezio_signer.watermarks.opening import open_store
from tezio_signer.watermarks.rule import NO_PAYLOAD, Mark, MarkId
from tezio_signer.watermarks.sqlite import reading
from tezio_signer.watermarks.sqlite import store as sqlite
from tezio_signer.watermarks.sqlite.store import SqliteStore
from tezio_signer.watermarks.store import Spent, StoreError

MAINNET = "NetXdQprcVkpaWU"
BLOCK = MarkId(MAINNET, TZ3, Operation.BLOCK)
ATTESTATION = MarkId(MAINNET, TZ3, Operation.ATTESTATION)
SIGNED = Mark(100, 2, b"\xab" * 32, Signature(Curve.P256, bytes(64)))


class StoreCommandTests(CommandTestCase):
    """The store as such: making and listing it."""

    def test_init(self) -> None:
        """The store is created where the configuration says, and never a second time."""
        path = self.directory / "watermarks.sqlite"
        self.assertEqual(
            self.run_command("watermarks", "init"), Outcome(0, f"created {path}\n", "")
        )
        self.assertEqual(reading.read(path), {})
        self.assertIn(f"{path} exists already", self.refused("watermarks", "init"))

    def test_list(self) -> None:
        """All marks are listed, in order, also while a daemon uses the store."""
        path = self.directory / "watermarks.sqlite"
        sqlite.create(path)
        named = f"watermark store: {path}\n"
        empty = Outcome(0, "no marks yet\n", named)
        self.assertEqual(self.run_command("watermarks", "list"), empty)
        self.assertEqual(
            self.run_command("watermarks", "list", "--json"), Outcome(0, "[]\n", named)
        )
        store = SqliteStore(path)
        self.addCleanup(store.close)
        mark = Mark(5_000_000, 1, b"\xab" * 32)
        signature = Signature(Curve.P256, bytes(64))
        for operation in (Operation.BLOCK, Operation.ATTESTATION):
            store.keep([(MarkId(MAINNET, TZ3, operation), mark)])
        signed = MarkId(MAINNET, TZ3, Operation.ATTESTATION)
        store.keep([(signed, evolve(mark, signature=signature))])
        table = self.run_command("watermarks", "list").out.splitlines()
        columns = ["chain", "key", "operation", "level", "round", "payload_hash", "signature"]
        self.assertEqual(table[0].split(), columns)
        rows = [
            ["NetXdQprcVkpaWU", str(TZ3), "attestation", "5000000", "1", "ab" * 32, str(signature)],
            ["NetXdQprcVkpaWU", str(TZ3), "block", "5000000", "1", "ab" * 32, "-"],
        ]
        self.assertEqual(sorted(line.split() for line in table[1:]), rows)
        listed = json.loads(self.run_command("watermarks", "list", "--json").out)
        self.assertEqual(
            sorted(listed, key=lambda row: str(row["operation"])),
            [
                dict(zip(columns, [*row[:3], 5_000_000, 1, row[5], text], strict=True))
                for row, text in zip(rows, [str(signature), None], strict=True)
            ],
        )

    def test_list_spending(self) -> None:
        """What counts of a key is listed behind the marks, and as JSON with them."""
        path = self.directory / "watermarks.sqlite"
        sqlite.create(path)
        store = SqliteStore(path)
        self.addCleanup(store.close)
        now = int(time())
        store.keep([], [Spent(TZ3, {bytes(32): Entry(now, 5, 1), b"\x01" * 32: Entry(now, 6, 2)})])
        until = f"{datetime.fromtimestamp(now + 86_460, UTC):%Y-%m-%dT%H:%M:%SZ}"
        lines = self.run_command("watermarks", "list").out.splitlines()
        self.assertEqual(lines[:3], ["no marks yet", "", "spent in the last 24 hours:"])
        self.assertEqual(
            [line.split() for line in lines[3:]],
            [["key", "mutez", "operations", "until"], [str(TZ3), "11", "3", until]],
        )
        listed = json.loads(self.run_command("watermarks", "list", "--json").out)
        self.assertEqual(listed, [{"key": str(TZ3), "mutez": 11, "operations": 3, "until": until}])

    def test_spending_moves_house(self) -> None:
        """What was spent is exported and imported, and then counts as it did before."""
        old = self.directory / "watermarks.sqlite"
        sqlite.create(old)
        now = int(time())
        entries = {bytes(32): Entry(now, 5, 1), b"\x01" * 32: Entry(now - 5, 6, 2)}
        with closing(SqliteStore(old)) as store:
            store.keep([], [Spent(TZ3, entries), Spent(TZ1, entries)])
        export = self.directory / "export.json"
        self.run_command("watermarks", "export", str(export))
        for path in old.parent.glob("watermarks.sqlite*"):
            path.rename(path.with_name(f"old{path.name}"))
        self.run_command("watermarks", "init")
        with closing(SqliteStore(old)) as store:
            store.keep([], [Spent(TZ3, {bytes(32): Entry(now + 1, 4, 1)})])
        done = self.run_command("watermarks", "import", str(export), "--key", str(TZ3))
        self.assertEqual((done.code, done.out), (0, "no marks to import\n"))
        self.assertIn("taken over: 2 entries of what was spent", done.err)
        self.assertEqual(
            reading.read_all(old).spending,
            {TZ3: {**entries, bytes(32): Entry(now + 1, 5, 1)}},
        )
        self.run_command("watermarks", "import", str(export))
        self.assertEqual(reading.read_all(old).spending[TZ1], entries)

    def test_no_store(self) -> None:
        """A store that is missing or none is one line, which says what to do."""
        line = self.refused("watermarks", "list")
        self.assertIn("watermarks.sqlite does not exist", line)
        self.assertIn("tezio-signer watermarks init", line)
        (self.directory / "watermarks.sqlite").write_text("level: 5000000\n" * 100)
        self.assertIn("not a database", self.refused("watermarks", "list", "--json"))

    def test_wrong_configuration(self) -> None:
        """Without a configuration there is no store."""
        marks = self.directory / "marks.json"
        marks.write_text('{"version": 1, "marks": []}')
        where = ("--chain", MAINNET, "--key", str(TZ3), "--operation", "block", "--level", "1")
        for action in (["init"], ["list"], ["export"], ["set", *where], ["import", str(marks)]):
            line = self.refused("watermarks", *action, "-c", "nowhere")
            self.assertIn("nowhere: cannot be read", line)


class MarksTestCase(CommandTestCase):
    """Has a store with the marks that a test wants."""

    def setUp(self) -> None:
        super().setUp()
        self.path = self.directory / "watermarks.sqlite"
        sqlite.create(self.path)

    @property
    def named(self) -> str:
        """What a command says of the store that it has used."""
        return f"watermark store: {self.path}\n"

    def put(self, marks: dict[MarkId, Mark]) -> None:
        """Put marks into the store."""
        store = SqliteStore(self.path)
        store.replace(marks)
        store.close()

    def marks(self) -> dict[MarkId, Mark]:
        """What is in the store."""
        return reading.read(self.path)

    def write(self, name: str, content: object) -> str:
        """A file of JSON, or of a text as it is."""
        path = self.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content), "utf-8")
        return str(path)


class SetTests(MarksTestCase):
    """`watermarks set`."""

    def arguments(self, *more: str, operation: str = "block") -> list[str]:
        """The command for a mark of tz3 on mainnet."""
        where = ["--chain", MAINNET, "--key", str(TZ3), "--operation", operation]
        return ["watermarks", "set", *where, *more]

    def type_in(self, text: str) -> None:
        """What is typed when the command asks."""
        self.patch(sys, "stdin", StringIO(text))

    def test_first(self) -> None:
        """A mark that was not there is set, with a payload that nobody can ask for."""
        outcome = self.run_command(*self.arguments("--level", "5000000", "--round", "3"))
        self.assertEqual((outcome.code, outcome.err), (0, ""))
        self.assertEqual(
            outcome.out,
            f"the mark for block of {TZ3} on {MAINNET} in {self.path} is at level 5000000 "
            "round 3; there was none\n",
        )
        self.assertEqual(self.marks(), {BLOCK: Mark(5_000_000, 3, bytes(32), None)})

    def test_raise(self) -> None:
        """A mark is raised, in level or in round; its payload and signature are gone."""
        for arguments, position in [
            (("--level", "100", "--round", "3"), (100, 3)),
            (("--level", "101"), (101, 0)),
        ]:
            self.put({BLOCK: SIGNED, ATTESTATION: SIGNED})
            outcome = self.run_command(*self.arguments(*arguments))
            self.assertIn("it was at level 100 round 2", outcome.out)
            self.assertEqual(
                self.marks(), {BLOCK: Mark(*position, NO_PAYLOAD), ATTESTATION: SIGNED}
            )

    def test_only_raises(self) -> None:
        """At or below the mark nothing is changed."""
        self.put({ATTESTATION: SIGNED})
        for arguments in (["--level", "100", "--round", "2"], ["--level", "99", "--round", "9"]):
            line = self.refused(*self.arguments(*arguments, operation="attestation"))
            self.assertIn("is at level 100 round 2 already, nothing was changed", line)
            self.assertEqual("--lower" in line, "99" in arguments)
        self.assertEqual(self.marks(), {ATTESTATION: SIGNED})

    def test_lower(self) -> None:
        """With --lower and the address typed in, a mark is lowered."""
        self.put({BLOCK: SIGNED})
        self.type_in(f"{TZ3}\n")
        outcome = self.run_command(*self.arguments("--level", "50", "--lower"))
        self.assertEqual((outcome.code, outcome.err), (0, ""))
        self.assertIn("is at level 100 round 2", outcome.out)
        self.assertIn("Type the address of the key", outcome.out)
        self.assertEqual(self.marks(), {BLOCK: Mark(50, 0, NO_PAYLOAD)})

    def test_lower_without_confirmation(self) -> None:
        """Anything else typed in, or nothing, and the mark stays."""
        self.put({BLOCK: SIGNED})
        for typed in ("", "\n", "yes\n", f"{TZ1}\n", f"{TZ3}x\n", f"\n{TZ3}\n"):
            self.type_in(typed)
            outcome = self.run_command(*self.arguments("--level", "50", "--lower"))
            self.assertEqual(outcome.code, 1, typed)
            self.assertIn("the mark is kept", outcome.err)
            self.assertEqual(self.marks(), {BLOCK: SIGNED})

    def test_usage(self) -> None:
        """What is no chain, key, operation, level or round is wrong usage, and changes nothing."""
        good = ["--chain", MAINNET, "--key", str(TZ3), "--operation", "block", "--level", "5"]
        for name, value in [
            ("--chain", str(TZ3)),
            ("--chain", "NetXdQprcVkpaWV"),
            ("--key", MAINNET),
            ("--operation", "generic"),
            ("--level", "-1"),
            ("--level", "2147483648"),
            ("--level", "five"),
            ("--round", "2147483648"),
        ]:
            outcome = self.run_command("watermarks", "set", *good, f"{name}={value}")
            self.assertEqual((outcome.code, outcome.out), (2, ""), (name, value))
            self.assertIn(f"argument {name}", outcome.err)
        self.assertEqual(self.marks(), {})


class UnlistedTests(MarksTestCase):
    """Marks that no request of the configuration would meet."""

    OTHER = "tz1KqTpEZ7Yob7QbPE4Hy4Wo8fHG8LhKxZSx"
    GHOSTNET = "NetXnHfVqm9iesp"

    def set(self, chain: str, key: object, *more: str) -> list[str]:
        """The command for a mark."""
        where = ["--chain", chain, "--key", str(key), "--operation", "block", "--level", "5"]
        return ["watermarks", "set", *where, *more]

    def test_key(self) -> None:
        """A key that is not configured is refused, with those that are, until it is meant."""
        line = self.refused(*self.set(MAINNET, self.OTHER))
        for words in (self.OTHER, "none of the signing keys", str(TZ3), str(self.path)):
            self.assertIn(words, line)
        self.assertIn("--unlisted", line)
        self.assertEqual(self.marks(), {})
        outcome = self.run_command(*self.set(MAINNET, self.OTHER, "--unlisted"))
        self.assertEqual((outcome.code, outcome.err), (0, ""))
        self.assertIn(f"in {self.path} is at level 5", outcome.out)
        self.assertEqual(len(self.marks()), 1)

    def test_chain(self) -> None:
        """So is a chain, if the key has some; any will do for a key that has none."""
        self.config.write_text(
            f"policy: {{signing_keys: {{{TZ3}: {{allowed_ops: [block], auth_req: False}}}}}}\n"
        )
        self.assertEqual(self.run_command(*self.set(self.GHOSTNET, TZ3)).code, 0)
        self.config.write_text(
            f"policy: {{signing_keys: {{{TZ3}: {{allowed_ops: [block], auth_req: False, "
            f"chains: [{MAINNET}]}}}}}}\n"
        )
        line = self.refused(*self.set(self.GHOSTNET, TZ3))
        for words in (self.GHOSTNET, f"none of the chains of {TZ3}", MAINNET, "--unlisted"):
            self.assertIn(words, line)
        self.assertEqual(self.run_command(*self.set(MAINNET, TZ3)).code, 0)
        self.assertIn(
            "nothing was changed", self.refused(*self.set(self.GHOSTNET, TZ3, "--unlisted"))
        )

    def test_imported(self) -> None:
        """What is imported of other keys is imported, and named."""
        name = self.write("block_high_watermarks", octez(9, key=self.OTHER))
        outcome = self.run_command("watermarks", "import", name)
        self.assertIn(f"none of the signing keys of the configuration: {self.OTHER}", outcome.err)
        self.assertEqual(len(self.marks()), 1)


class HintTests(CommandTestCase):
    """Commands that are told to run act on the very store."""

    def test_configuration(self) -> None:
        """A configuration that was named is named again, as it was."""
        other = self.directory / "other one.yaml"
        other.write_bytes(self.config.read_bytes())
        self.assertTrue(
            self.refused("watermarks", "list", "--config", "other one.yaml").endswith(
                "create it with: tezio-signer watermarks init --config 'other one.yaml'"
            )
        )
        self.assertTrue(self.refused("watermarks", "list").endswith("tezio-signer watermarks init"))
        os.environ["TEZIO_SIGNER_CONFIG"] = str(self.config)
        line = self.refused("watermarks", "list")
        self.assertTrue(line.endswith(f"tezio-signer watermarks init --config {self.config}"))

    def test_daemon(self) -> None:
        """A daemon that does not start names its configuration in the hint, too."""
        store = self.directory / "watermarks.sqlite"
        for config, end in (("c.yaml", "init --config c.yaml"), (None, "init")):
            error = self.assertRaises(StoreError, open_store, store, reactor, config)
            self.assertTrue(str(error).endswith(f"tezio-signer watermarks {end}"), str(error))

    def test_options_stay(self) -> None:
        """What is behind the command stays behind it, and is not said twice."""
        for sentence, spelled in [
            ("run: tezio-signer watermarks set --chain a", "set --config c --chain a"),
            ("run: tezio-signer watermarks init --config c", "init --config c"),
            ("run: tezio-signer watermarks init; then", "init --config c; then"),
        ]:
            self.assertEqual(
                spelled_out(sentence, "c", None), f"run: tezio-signer watermarks {spelled}"
            )

    def test_user(self) -> None:
        """In the directory of another user the command is that user's."""
        if os.geteuid() != 0:
            raise SkipTest("only root can do this")
        os.chown(self.directory, 65534, 65534)
        name = user_name(65534)
        line = self.refused("watermarks", "list", "-c", str(self.config))
        self.assertTrue(
            line.endswith(
                f": runuser -u {name} -- tezio-signer watermarks init --config {self.config}"
            ),
            line,
        )

    def test_made_by_root(self) -> None:
        """A store that root makes belongs to whom the directory belongs."""
        if os.geteuid() != 0:
            raise SkipTest("only root can do this")
        os.chown(self.directory, 65534, 65533)
        self.assertEqual(self.run_command("watermarks", "init").code, 0)
        made = (self.directory / "watermarks.sqlite").stat()
        self.assertEqual((made.st_uid, made.st_gid), (65534, 65533))


class DeniedTests(CommandTestCase):
    """Stores of other users."""

    def setUp(self) -> None:
        super().setUp()
        if os.geteuid() != 0:
            raise SkipTest("only root can become somebody else")
        # The checkout may be where nobody else comes in, as in the home of root.
        self.directory = Path(mkdtemp())
        self.addCleanup(rmtree, self.directory)
        self.directory.chmod(0o755)
        self.path = self.directory / "watermarks.sqlite"
        sqlite.create(self.path)

    def denied(self) -> str:
        """Why nobody in particular cannot open it."""
        os.seteuid(65534)
        self.addCleanup(os.seteuid, 0)
        try:
            return str(self.assertRaises(StoreError, SqliteStore, self.path))
        finally:
            os.seteuid(0)

    def test_of_root(self) -> None:
        """A store that is root's is said to be, and what to do."""
        line = self.denied()
        me = user_name(65534)
        for words in (
            f"{self.path}: Permission denied",
            f"{self.directory} belongs to root:root, mode 0755, and this runs as {me}",
            f"give it to the user of the signer (chown USER: {self.directory})",
        ):
            self.assertIn(words, line)
        self.directory.chmod(0o777)
        self.assertIn(f"{self.path} belongs to root:root, mode 0600", self.denied())

    def test_no_store_yet(self) -> None:
        """Where a user cannot make one, another path is proposed; not where there is one."""
        self.assertNotIn("set watermarks.store", self.denied())
        self.path.unlink()
        os.seteuid(65534)
        self.addCleanup(os.seteuid, 0)
        line = str(self.assertRaises(StoreError, sqlite.create, self.path))
        os.seteuid(0)
        self.assertIn("set watermarks.store to a path where", line)

    def test_of_another_user(self) -> None:
        """Who has it should run the command."""
        self.directory.chmod(0o777)
        os.chown(self.path, 1, 1)
        self.assertIn(f"runuser -u {user_name(1)} -- ", self.denied())

    def test_beside(self) -> None:
        """What root has left beside it is named."""
        self.directory.chmod(0o777)
        os.chown(self.path, 65534, 65534)
        for suffix in ("-wal", "-shm", ".lock"):
            left = Path(f"{self.path}{suffix}")
            left.write_bytes(b"a 00000000000000000001\n" if suffix == ".lock" else b"")
            left.chmod(0o600)
            self.assertIn(f"{left} belongs to root:root, mode 0600", self.denied())
            left.unlink()


class LockTests(MarksTestCase):
    """Beside a running daemon."""

    def test_refused(self) -> None:
        """While the store is in use nothing is set, exported or imported."""
        export = self.write("marks.json", {"version": 1, "marks": []})
        store = SqliteStore(self.path)
        self.addCleanup(store.close)
        for arguments in (
            ["export"],
            ["import", export],
            ["set", "--chain", MAINNET, "--key", str(TZ3), "--operation", "block", "--level", "1"],
        ):
            self.assertIn("stop it first", self.refused("watermarks", *arguments))
        self.assertEqual(store.load(), {})


class OlderCopyTests(MarksTestCase):
    """With a store that was restored from a backup."""

    def test_refused(self) -> None:
        """Old marks are not listed, exported, changed or replaced; they are once that is wanted."""
        backup = self.path.read_bytes()
        self.put({BLOCK: SIGNED})
        self.path.write_bytes(backup)
        where = ["--chain", MAINNET, "--key", str(TZ3), "--operation", "block", "--level", "1"]
        for arguments in (["list"], ["list", "--json"], ["export"], ["set", *where]):
            self.assertIn("is an older copy", self.refused("watermarks", *arguments))
        self.path.unlink()
        self.assertIn("was here before", self.refused("watermarks", "init"))
        Path(f"{self.path}.lock").unlink()
        self.assertEqual(self.run_command("watermarks", "init").code, 0)
        self.assertEqual(self.run_command("watermarks", *["set", *where]).code, 0)
        self.assertEqual(self.marks(), {BLOCK: Mark(1, 0, NO_PAYLOAD)})


class ExportTests(MarksTestCase):
    """`watermarks export`."""

    def test_there_and_back(self) -> None:
        """What is exported can be imported into an empty store, and is the same."""
        marks = {BLOCK: SIGNED, ATTESTATION: evolve(SIGNED, signature=None)}
        self.put(marks)
        export = self.directory / "marks.json"
        written = self.run_command("watermarks", "export", str(export))
        self.assertEqual(written, Outcome(0, "", self.named))
        self.path.unlink()
        Path(f"{self.path}.lock").unlink()
        sqlite.create(self.path)
        self.assertEqual(self.run_command("watermarks", "import", str(export)).code, 0)
        self.assertEqual(self.marks(), marks)

    def test_standard_output(self) -> None:
        """Without a file or with - it goes to the standard output."""
        self.put({BLOCK: SIGNED})
        outcome = self.run_command("watermarks", "export")
        self.assertEqual(outcome, self.run_command("watermarks", "export", "-"))
        self.assertEqual(
            json.loads(outcome.out),
            {
                "version": 1,
                "marks": [
                    {
                        "chain": MAINNET,
                        "key": str(TZ3),
                        "operation": "block",
                        "level": 100,
                        "round": 2,
                        "payload_hash": "ab" * 32,
                        "signature": str(SIGNED.signature),
                    }
                ],
            },
        )

    def test_never_overwrites(self) -> None:
        """A file that is there stays as it is."""
        precious = self.write("precious", "mine")
        line = self.refused("watermarks", "export", precious)
        self.assertIn("precious exists already, and is left as it is; give another name", line)
        self.assertEqual(Path(precious).read_text(), "mine")
        nowhere = str(self.directory / "nowhere" / "marks.json")
        self.assertIn("No such file", self.refused("watermarks", "export", nowhere))


TZ4 = OCTEZ["keys"][4]["pkh"]


def octez(level: int, round_: int = 0, key: object = TZ3) -> object:
    """The content of a file of octez-signer with one mark."""
    return {MAINNET: {str(key): {"level": level, "round": round_}}}


class ImportTests(MarksTestCase):
    """`watermarks import`."""

    def test_upward_only(self) -> None:
        """Each mark is raised or kept, and told as a table or as JSON."""
        self.put({BLOCK: SIGNED, ATTESTATION: SIGNED})
        directory = self.directory / "signer"
        self.write("signer/block_high_watermarks", octez(101))
        self.write("signer/attestation_high_watermarks", octez(100, 1))
        self.write("signer/preattestation_high_watermarks", octez(7, 1, TZ1))
        outcome = self.run_command("watermarks", "import", str(directory))
        self.assertEqual((outcome.code, outcome.err), (0, self.named))
        self.assertEqual(
            [line.split() for line in outcome.out.splitlines()],
            [
                ["chain", "key", "operation", "level", "round", "outcome"],
                [MAINNET, str(TZ1), "preattestation", "7", "1", "raised"],
                [MAINNET, str(TZ3), "attestation", "100", "2", "kept"],
                [MAINNET, str(TZ3), "block", "101", "0", "raised"],
            ],
        )
        self.assertEqual(
            self.marks(),
            {
                BLOCK: Mark(101, 0, NO_PAYLOAD),
                ATTESTATION: SIGNED,
                MarkId(MAINNET, TZ1, Operation.PREATTESTATION): Mark(7, 1, NO_PAYLOAD),
            },
        )
        again = json.loads(self.run_command("watermarks", "import", str(directory), "--json").out)
        self.assertEqual({row["outcome"] for row in again}, {"kept"})
        self.assertEqual([row["level"] for row in again], [7, 100, 101])

    def test_both_names(self) -> None:
        """Of a file and its name of before Octez 23 the higher mark counts."""
        for old, new in ((9, 8), (8, 9)):
            directory = self.directory / f"signer-{old}"
            self.write(f"signer-{old}/endorsement_high_watermarks", octez(old))
            self.write(f"signer-{old}/attestation_high_watermarks", octez(new))
            self.run_command("watermarks", "import", str(directory))
            self.assertEqual(self.marks(), {ATTESTATION: Mark(9, 0, NO_PAYLOAD)})

    def test_one_key(self) -> None:
        """With --key only the marks of that key are taken over."""
        name = self.write(
            "block_high_watermarks",
            {MAINNET: {str(key): {"level": 9, "round": 0} for key in (TZ1, TZ3)}},
        )
        self.run_command("watermarks", "import", name, "--key", str(TZ3))
        self.assertEqual(set(self.marks()), {BLOCK})
        other = "tz1KqTpEZ7Yob7QbPE4Hy4Wo8fHG8LhKxZSx"
        line = self.refused("watermarks", "import", name, "--key", other)
        self.assertIn(f"no mark of {other}", line)

    def test_signatory(self) -> None:
        """The base directory of Signatory is read as well, and one of its files."""
        content = {str(TZ3): {"attestation": {"level": 9, "round": 1, "hash": None}}}
        name = self.write(f"base/watermark_v2/{MAINNET}.json", content)
        self.write("base/watermark_v2/notes.txt", "nothing of interest")
        for source in (name, self.directory / "base", self.directory / "base" / "watermark_v2"):
            outcome = self.run_command("watermarks", "import", str(source))
            self.assertEqual((outcome.code, outcome.err), (0, self.named), source)
            self.assertEqual(self.marks(), {ATTESTATION: Mark(9, 1, NO_PAYLOAD)})

    def test_ignored(self) -> None:
        """What is left out is named on the error output, and is no error."""
        name = self.write("block_high_watermarks", octez(5, key=TZ4))
        outcome = self.run_command("watermarks", "import", name, "--json")
        self.assertEqual((outcome.code, outcome.out), (0, "[]\n"))
        self.assertRegex(
            outcome.err, rf"\A{self.named}ignored: [^\n]*{TZ4}: no key of a Tezio HSM\n\Z"
        )
        outcome = self.run_command("watermarks", "import", name)
        self.assertEqual((outcome.code, outcome.out), (0, "no marks to import\n"))

    def test_all_or_nothing(self) -> None:
        """When anything is wrong, in one file of several, nothing is taken over."""
        self.write("signer/attestation_high_watermarks", octez(9))
        self.write("signer/block_high_watermarks", octez(-1))
        line = self.refused("watermarks", "import", str(self.directory / "signer"))
        self.assertIn(f"block_high_watermarks: {MAINNET}.{TZ3}.level: ", line)
        self.assertEqual(self.marks(), {})

    def test_unreadable(self) -> None:
        """A file that is missing, no text or no JSON, and a wrong directory, are one line."""
        (self.directory / "empty").mkdir()
        binary = self.directory / "binary"
        binary.write_bytes(b"\xff\xfe")
        for name, says in [
            ("nowhere", "No such file"),
            (str(binary), "not UTF-8"),
            (self.write("text", "level: 5"), "not JSON"),
            (self.write("deep", "[" * 100_000), "not JSON"),
            (str(self.directory / "empty"), "holds neither files of octez-signer"),
        ]:
            line = self.refused("watermarks", "import", name)
            self.assertIn(says, line)
            self.assertIn("; nothing was imported", line)
