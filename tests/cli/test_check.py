"""`tezio-signer check`: what a configuration means, and what start-up would refuse."""

import fcntl
import json
import os
import resource
import struct
from pathlib import Path
from socket import AF_UNIX, create_server, socket
from typing import Any

from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from twisted.trial.unittest import TestCase

from tests.support.certificates import Authority
from tests.support.commandtest import CommandTestCase
from tests.support.daemonprocess import FREE_PORT, serving, start_command, start_daemon
from tests.support.vectors import AUTH, OCTEZ, SHIPPED, TZ1, TZ2, TZ3
from tezio_signer.audit.files import AuditFile
from tezio_signer.cli import asking
from tezio_signer.cli import check as checkcli
from tezio_signer.cli.boards import BoardCheck, BoardFound, KeyFound
from tezio_signer.hsm.boards import Board
from tezio_signer.listeners import portcheck as listening
from tezio_signer.startup import listening as trying
from tezio_signer.watermarks.etcd.store import EtcdStore
from tezio_signer.watermarks.sqlite import reading
from tezio_signer.watermarks.store import StoreAwayError

EDPK, EDPK_HASH = OCTEZ["keys"][1]["pk"], OCTEZ["keys"][1]["pkh"]
BOARD = "0123ABCD at /dev/ttyACM0"
EMPTIES = (
    f"whoever may ask can empty the account of {TZ1}, {TZ2} or {TZ3}, which signs any operation "
    "that can be decoded: say in its section operations what it needs, such as kinds: [reveal, "
    "delegation, stake, ballot]"
)
"""What is warned of the keys of the sample."""
ANYTHING = (
    "signs any operation but drain_delegate, update_companion_key, update_consensus_key and those "
    "of consensus"
)
NO_RULES = "allowed_ops: [generic], auth_req: False"


def minimal(more: str = "", key: str = f"{NO_RULES}, operations: {{kinds: [reveal]}}") -> str:
    """A configuration of one key, of which there is nothing to warn."""
    return f"policy: {{signing_keys: {{{TZ3}: {{{key}}}}}}}\n{more}"


def locked(key: bytes) -> bytes:
    """A key in PEM, encrypted."""
    encryption = BestAvailableEncryption(b"secret")
    loaded = load_pem_private_key(key, None)
    return loaded.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)


class CheckTestCase(CommandTestCase):
    """A configuration with its store, and boards that hold what they shall."""

    def setUp(self) -> None:
        super().setUp()
        self.missing: set[object] = set()
        self.problems: tuple[str, ...] = ()

        async def look(_: object, *about: Any) -> BoardCheck:
            _, _, signing_keys, auth_key = about
            keys = [*signing_keys, *([auth_key] if auth_key else [])]
            found = tuple(
                KeyFound(key, (), "no board holds it")
                if key in self.missing
                else KeyFound(key, (BOARD,), f"held by board {BOARD}")
                for key in keys
            )
            board = BoardFound(Board("/dev/ttyACM0", "0123ABCD"))
            return BoardCheck((board,), found, self.problems)

        self.patch(asking, "check_boards", look)
        # Who listens on this machine, and on what this user may, is for the tests that ask for it.
        self.patch(trying, "try_tcp", lambda *_: None)
        self.assertEqual(self.run_command("watermarks", "init").code, 0)

    def write(self, text: str) -> None:
        """Have this configuration."""
        self.config.write_text(text)

    def values(self) -> dict[str, Any]:
        """What it says as JSON, which has to be the same as the text says."""
        said: dict[str, Any] = json.loads(self.run_command("check", "--json").out)
        return said

    def lines(self, name: str) -> list[str]:
        """The lines of the text that begin with a word, without it."""
        text = self.run_command("check").out.splitlines()
        stripped = [line.strip() for line in text]
        return [line[len(name) :].strip() for line in stripped if line.startswith(name)]

    def errors(self) -> list[str]:
        """What start-up would end with; the command ends with 1 if there is any, else with 0."""
        outcome = self.run_command("check", "--json")
        if not outcome.out:  # it could not be read at all
            return [self.refused("check")]
        errors: list[str] = json.loads(outcome.out)["errors"]
        self.assertEqual(outcome.code, 1 if errors else 0)
        self.assertEqual(bool(outcome.err), bool(errors))
        text = self.run_command("check").out.splitlines()
        self.assertEqual(
            [f"error: {error}" for error in errors], [t for t in text if t[:5] == "error"]
        )
        return errors


class MeaningTests(CheckTestCase):
    """What it says of a configuration that is in order."""

    def test_shipped(self) -> None:
        """General things come first, then a block for each key, then what lies around."""
        outcome = self.run_command("check")
        status = self.config.stat()
        mode = f"{status.st_mode & 0o777:04o}"
        text = outcome.out.replace(str(self.directory), "/d")
        text = text.replace(
            f"({self.config.owner()}:{self.config.group()}, mode {mode})", "(facts)"
        )
        self.assertEqual(
            text,
            f"""\
configuration     /d/config.yaml (facts)
watermarks        /d/watermarks.sqlite, with 0 marks
asked from        127.0.0.1/32, ::1/128
HTTP at           tcp:6732:interface=127.0.0.1
Octez socket at   nowhere
request token     none
client certs      not asked for
audit log         none
GET /known_keys   answered
verbose           False
hsms              every board
limits            connections 512, connections_per_peer 128, request_seconds 10, idle_seconds 60, body_bytes 131072, header_bytes 16384, headers 100, requests_waiting 64, hsm_wait_seconds 2

{TZ1}
  signs           generic
  may             {ANYTHING};
                  sends any amount to anybody
  authenticated   no
  HSM             held by board {BOARD}

{TZ2}
  signs           generic
  may             {ANYTHING};
                  sends any amount to anybody
  authenticated   no
  HSM             held by board {BOARD}

{TZ3}
  signs           attestation, block, generic, preattestation
  may             {ANYTHING};
                  sends any amount to anybody;
                  bakes on mainnet
  chains          NetXdQprcVkpaWU
  floors          none
  max_level_jump  500000
  authenticated   no
  HSM             held by board {BOARD}

auth key          {AUTH}, held by board {BOARD}
HSM               {BOARD}
warning: {EMPTIES}
the signer would start with this (1 warning)
""",  # noqa: E501
        )
        self.assertEqual((outcome.code, outcome.err), (0, ""))

    def test_everything_else(self) -> None:
        """It says who authenticates, floors and jumps, users, and what is not signed at all."""
        self.write(f"""\
policy:
    signing_keys:
        {TZ1}: {{allowed_ops: [], authorized_keys: [{EDPK}]}}
        {TZ3}: {{allowed_ops: [block, 0x04], chains: [NetXdQprcVkpaWU, NetXnHfVqm9iesp],
            max_level_jump: 99}}
    auth_key: {{pkh: {AUTH}}}
authorized_keys: [{EDPK}]
allowed_ips: []
allowed_uids: [1001, 0]
high_water_marks: {{level: {{block: 0x10}}, round: {{block: 1, attestation: 7}}}}
listen: {{http: ["tcp:1", "tcp:2"], octez_socket: ["tcp:3", "unix:x"]}}
""")
        lines = [line.split(maxsplit=1) for line in self.run_command("check").out.splitlines()]
        for line in (
            ["asked", "from        nowhere"],
            ["at", "Unix sockets   user 0, user 1001"],
            ["HTTP", "at           tcp:1, tcp:2"],
            ["signs", "nothing"],
            ["authenticated", f"by {EDPK_HASH}"],
            ["signs", "authentication, block"],
            ["chains", "NetXdQprcVkpaWU, NetXnHfVqm9iesp"],
            ["floors", "block 16/1"],
            ["max_level_jump", "99"],
            ["authenticated", f"by {AUTH}, {EDPK_HASH}"],
            ["warning:", f"{TZ3}: authentication is among allowed_ops, but is never signed"],
        ):
            self.assertIn(line, lines)

    def test_rules_on_operations(self) -> None:
        """What a key may do is said clause by clause, in the same words as JSON has."""
        rules = f"kinds: [stake, ballot], ballots: [yay], destinations: [{TZ1}]"
        self.write(minimal(key=f"{NO_RULES}, operations: {{{rules}}}"))
        said = self.values()
        clauses = ["votes yay", "stakes its own funds", "pays any fee"]
        self.assertEqual(said["keys"][0]["may"], clauses)
        text = self.run_command("check").out
        column = "\n" + 18 * " "
        self.assertIn(f"\n  may             {f';{column}'.join(clauses)}\n", text)
        (fees, useless) = said["warnings"]
        self.assertIn("limit them by max_fee", fees)
        self.assertIn("destinations has no effect", useless)
        self.assertIn(f"warning: {fees}\nwarning: {useless}\n", text)

    def test_switched_off(self) -> None:
        """What a switched-off protection means is said where it matters, and as a warning."""
        self.write(self.config.read_text().replace("check: True", "check: False"))
        self.assertEqual(self.lines("signs  "), ["everything"] * 3)
        self.assertEqual(self.lines("asked from"), ["everywhere"])
        self.assertEqual(self.lines("max_level_jump"), [])
        switched = [w for w in self.values()["warnings"] if "is switched off" in w]
        self.assertEqual(len(switched), 4)

    def test_json(self) -> None:
        """JSON has all that the text says."""
        said = self.values()
        mode = f"{self.config.stat().st_mode & 0o777:04o}"
        held = {"boards": [BOARD], "board": f"held by board {BOARD}"}
        simple: dict[str, Any] = {
            "signs": ["generic"],
            "may": [ANYTHING, "sends any amount to anybody"],
            "authenticated": False,
            "authorized_keys": [],
            "chains": ["any"],
            "max_level_jump": None,
            "floors": {},
            **held,
        }
        floor = {"level": 0, "round": 0}
        self.assertEqual(
            said,
            {
                "configuration": str(self.config),
                "keys": [
                    {"key": str(TZ1), **simple},
                    {"key": str(TZ2), **simple},
                    {
                        "key": str(TZ3),
                        **simple,
                        "signs": ["attestation", "block", "generic", "preattestation"],
                        "may": [ANYTHING, "sends any amount to anybody", "bakes on mainnet"],
                        "chains": ["NetXdQprcVkpaWU"],
                        "max_level_jump": 500000,
                        "floors": {
                            "block": floor,
                            "preattestation": floor,
                            "attestation": floor,
                        },
                    },
                ],
                "auth_key": {"key": str(AUTH), **held},
                "authorized_keys": None,
                "security": {
                    "remote_ip_check": True,
                    "auth_check": True,
                    "signing_policy_check": True,
                    "high_water_mark_check": True,
                },
                "allowed_ips": ["127.0.0.1/32", "::1/128"],
                "allowed_uids": None,
                "watermarks": {
                    "store": f"{self.directory}/watermarks.sqlite",
                    "marks": 0,
                    "in_use": False,
                },
                "http": ["tcp:6732:interface=127.0.0.1"],
                "octez_socket": [],
                "request_token": None,
                "client_ca": None,
                "audit": None,
                "list_known_keys": True,
                "verbose": False,
                "hsms": ["every board"],
                "hsm_wait_seconds": 2.0,
                "limits": {
                    "connections": 512,
                    "connections_per_peer": 128,
                    "request_seconds": 10,
                    "idle_seconds": 60,
                    "body_bytes": 131072,
                    "header_bytes": 16384,
                    "headers": 100,
                    "requests_waiting": 64,
                },
                "files": [
                    {
                        "what": "configuration",
                        "path": str(self.config),
                        "owner": self.config.owner(),
                        "group": self.config.group(),
                        "mode": mode,
                    }
                ],
                "boards": [{"board": BOARD, "trouble": None}],
                "warnings": [EMPTIES],
                "errors": [],
            },
        )

    def test_files(self) -> None:
        """Whose the files with secrets are is told, and a warning if all can read them."""
        token = self.directory / "token.txt"
        token.write_text("0123456789abcdef")
        token.chmod(0o604)
        self.write(minimal("request_token: {header: x-a, file: token.txt}"))
        (told,) = [line for line in self.lines("request token") if line.startswith("/")]
        self.assertEqual(told, f"{token} ({token.owner()}:{token.group()}, mode 0604)")
        (warning,) = self.values()["warnings"]
        self.assertIn(f"can read the request token: chmod o-r {token}", warning)
        token.chmod(0o600)
        self.config.chmod(0o666)
        (warning,) = self.values()["warnings"]
        self.assertIn("everybody on this machine can change the configuration", warning)

    def test_files_for_another_user(self) -> None:
        """Root is told what the owner of the store could not read."""
        self.patch(checkcli, "user_of", lambda _: 65534)
        self.config.chmod(0o600)
        warnings = self.values()["warnings"]
        self.assertEqual(len([w for w in warnings if "cannot read the configuration" in w]), 1)

    def test_open(self) -> None:
        """Keys with which anybody can empty the account are warned of."""
        self.write(
            minimal(
                'listen: {http: ["tcp:6732:interface=0.0.0.0"]}\nallowed_ips: ["0.0.0.0/0"]',
                NO_RULES,
            )
        )
        said = self.values()["warnings"]
        opened = [warning for warning in said if warning.startswith("ANYBODY who reaches")]
        self.assertEqual(len(opened), 1)
        self.assertIn(f"can have {TZ3} sign any operation, also one that empties", opened[0])
        self.assertIn(f"warning: {opened[0]}\n", self.run_command("check").out)
        self.assertEqual(self.errors(), [])


class WrongTests(CheckTestCase):
    """What start-up refuses."""

    def test_wrong_configuration(self) -> None:
        """A mistake is one line with file, line and key, and exit code 1."""
        self.config.write_text("policy:\n    signing_keis: {}\n")
        self.assertIn("config.yaml:2: policy.signing_keis: ", self.refused("check"))
        self.assertIn("config.yaml:2: ", self.refused("check", "--json"))

    def test_which_configuration(self) -> None:
        """`--config` goes before the environment, before config.yaml here, before that of /etc."""
        other, third = self.directory / "other.yaml", self.directory / "third.yaml"
        other.write_text("verbose: 1")
        self.config.unlink()
        self.assertIn("neither ", self.refused("check"))
        (self.directory / "etc").mkdir()
        (self.directory / "etc" / "config.yaml").write_bytes(SHIPPED.read_bytes())
        self.assertEqual(self.values()["configuration"], f"{self.directory}/etc/config.yaml")
        os.environ["TEZIO_SIGNER_CONFIG"] = str(other)
        self.assertIn(f"{other}:1: ", self.refused("check"))
        self.assertIn(f"{third}: cannot be read", self.refused("check", "--config", str(third)))
        self.assertIn(f"{third}: cannot be read", self.refused("check", "-c", str(third)))

    def test_endpoints(self) -> None:
        """Endpoints on which the daemon could not listen are errors, as at its start."""
        for endpoint in (
            *("tcp:abc", "tcp:70000", "tcp", "http://127.0.0.1:6732", "127.0.0.1:6732", ""),
            *("tcp:6732:interfac=127.0.0.1", "tcp:6732\\\\", "unix:x:mode=9", "unix:x:mode=rw"),
            *(
                "haproxy:haproxy:tcp:1",
                "ssl:1:privateKey=none.pem:certKey=none.pem",
                "tls:x:port=1",
            ),
        ):
            for listen in (f"http: ['{endpoint}']", f"octez_socket: ['{endpoint}']"):
                self.write(minimal(f"listen: {{{listen}}}"))
                errors = self.errors()
                self.assertEqual(len(errors), 1, endpoint)
                self.assertNotIn("\n", errors[0])

    def test_sockets_of_systemd(self) -> None:
        """They are handed to the daemon itself, not to the check before its start."""
        for text in ("systemd:INET:index=0", "systemd:domain=UNIX:name=listener"):
            self.write(minimal(f"listen: {{octez_socket: ['{text}']}}"))
            self.assertEqual(self.errors(), [])
        self.write(minimal("listen: {http: ['systemd:INET']}"))
        self.assertEqual(len(self.errors()), 1)

    def test_paths(self) -> None:
        """Where no socket can be is an error, and so is a zero byte in a path."""
        for path, wrong in (("a.sock", 0), ("none/a.sock", 1), ("config.yaml", 1), (".", 1)):
            self.write(minimal(f"listen: {{octez_socket: ['unix:{path}']}}"))
            self.assertEqual(len(self.errors()), wrong, path)
        for more in (
            'listen: {http: ["ssl:1:privateKey=a\\0b"]}',
            'watermarks: {store: "sqlite:a\\0b"}',
            'client_ca: "a\\0b"',
        ):
            self.write(minimal(more))
            self.assertIn("a text without a zero byte", self.refused("check"))

    def test_all_endpoints(self) -> None:
        """All that are wrong are told at once."""
        self.write(minimal("listen: {http: ['tcp:abc', 'tcp:1'], octez_socket: ['tcp:70000']}"))
        first, second = self.errors()
        self.assertIn("tcp:abc", first)
        self.assertIn("tcp:70000", second)

    def test_certificates(self) -> None:
        """A certificate that soon expires is warned of."""
        certified = Authority(self.directory).certify("cert", server=True, days=3)
        endpoint = f"ssl:1:interface=127.0.0.1:privateKey={certified.key.name}:certKey=cert.pem"
        self.write(minimal(f"listen: {{http: ['{endpoint}']}}"))
        (warning,) = self.values()["warnings"]
        self.assertIn(f"the certificate in {certified.certificate} ", warning)
        self.assertIn("expires on ", warning)
        (told,) = self.lines("private key")
        self.assertTrue(told.endswith(", mode 0600)"), told)

    def test_keys_of_endpoints(self) -> None:
        """A foreign or an encrypted key is an error; nobody is asked for a password."""
        directory = self.directory
        authority = Authority(directory)
        ours, foreign = (authority.certify(name, server=True) for name in ("cert", "foreign"))
        ours.key.rename(directory / "key.pem")
        foreign.key.rename(directory / "foreign-key.pem")
        (directory / "locked.pem").write_bytes(locked((directory / "key.pem").read_bytes()))
        for key, wrong in (
            ("key.pem", 0),
            ("foreign-key.pem", 1),
            ("locked.pem", 1),
            ("cert.pem", 1),
        ):
            endpoint = f"ssl:6732:privateKey={directory}/{key}:certKey={directory}/cert.pem"
            self.write(minimal(f"listen: {{http: ['{endpoint}:interface=127.0.0.1']}}"))
            self.assertEqual(len(self.errors()), wrong, key)

    def test_open_files(self) -> None:
        """More connections than this process may open are an error."""
        self.patch(resource, "getrlimit", lambda _: (512, 512))
        (error,) = self.errors()
        self.assertIn("ulimit -n", error)

    def test_store(self) -> None:
        """A store that is missing or something else is an error, with what to do."""
        store = self.directory / "watermarks.sqlite"
        content = store.read_bytes()
        store.write_bytes(b"something else" * 1000)
        self.assertIn("file is not a database", self.errors()[0])
        store.unlink()
        for file in self.directory.glob("watermarks.sqlite?*"):
            file.unlink()
        (error,) = self.errors()
        self.assertIn("does not exist; create it with: tezio-signer watermarks init", error)
        self.assertEqual(self.lines("watermarks"), [f"{store}, see the error below"])
        self.assertEqual([f.name for f in self.directory.glob("watermarks*")], [])
        store.write_bytes(content)
        self.assertEqual(self.errors(), [])

    def test_hint_repeats_the_configuration(self) -> None:
        """What to type names the configuration that was named here."""
        (self.directory / "watermarks.sqlite").unlink()
        outcome = self.run_command("check", "--config", str(self.config))
        self.assertIn(f"tezio-signer watermarks init --config {self.config}\n", outcome.out)

    def test_store_of_another_user(self) -> None:
        """A store that this user cannot write is an error: start-up would end there."""
        self.patch(reading, "what_is_denied", lambda _: "; it belongs to root")
        (error,) = self.errors()
        self.assertIn("watermarks.sqlite cannot be written; it belongs to root", error)

    def test_store_in_use(self) -> None:
        """A store that a daemon has is read all the same, and it is said who has it."""
        self.assertEqual(self.lines("watermarks")[0].partition(", ")[2], "with 0 marks")
        file = os.open(self.directory / "watermarks.sqlite", os.O_RDWR)
        self.addCleanup(os.close, file)
        lock = struct.pack("hhqqi0q", fcntl.F_WRLCK, os.SEEK_SET, 2**62, 1, 0)
        fcntl.fcntl(file, fcntl.F_OFD_SETLK, lock)
        self.assertEqual(self.errors(), [])
        self.assertEqual(
            self.lines("watermarks")[0].partition(", ")[2], "with 0 marks; a daemon has it"
        )
        self.assertIs(self.values()["watermarks"]["in_use"], True)

    def test_store_away(self) -> None:
        """A cluster that does not answer keeps the daemon from nothing but baking: a warning."""

        async def away(_: EtcdStore) -> None:
            raise StoreAwayError("etcd at http://localhost:1: did not answer in time")

        self.patch(EtcdStore, "read", away)
        self.write(minimal('watermarks: {store: "etcd:http://localhost:1"}'))
        self.assertEqual(self.errors(), [])
        self.assertIn("did not answer in time; until it answers", self.values()["warnings"][0])
        (line,) = self.lines("watermarks")
        self.assertEqual(line.partition(", ")[2], "see the warning below")
        self.assertIn("the signer would start with this (", self.run_command("check").out)

    def test_key_for_etcd(self) -> None:
        """The key for etcd may not be encrypted either: there is nobody to ask."""
        authority = Authority(self.directory)
        certified = authority.certify_member("client")
        access = "ca: authority.pem, certificate: client.pem, private_key: client-key.pem"
        etcd = f'watermarks: {{store: "etcd:https://localhost:1", {access}}}'.replace(
            "authority.pem", authority.path.name
        )

        async def nothing(_: EtcdStore) -> dict[object, object]:
            return {}

        self.patch(EtcdStore, "read", nothing)
        self.write(minimal(etcd))
        self.assertEqual(self.errors(), [])
        (told,) = self.lines("private key for etcd ")  # longer than its column
        self.assertTrue(told.endswith(", mode 0600)"), told)
        certified.key.write_bytes(locked(certified.key.read_bytes()))
        (error,) = self.errors()
        self.assertIn(f"{certified.key}: is encrypted, and the daemon asks nobody", error)

    def test_boards(self) -> None:
        """Boards and keys that are not there are warnings: they may be plugged in later."""
        self.missing, self.problems = {TZ1, AUTH}, ("no board has the serial number A1",)
        said = self.values()
        self.assertEqual(
            said["warnings"],
            [
                EMPTIES,
                "no board has the serial number A1",
                f"{TZ1}: no board holds it",
                f"{AUTH}: no board holds it",
            ],
        )
        self.assertEqual([key["boards"] for key in said["keys"]], [[], [BOARD], [BOARD]])
        self.assertEqual(self.errors(), [])
        self.assertEqual(self.lines("auth key"), [f"{AUTH}, no board holds it"])

    def test_not_asked(self) -> None:
        """A board that is silent holds up nothing for who does not ask."""
        self.missing, self.problems = {TZ1}, ("an HSM is silent",)
        outcome = self.run_command("check", "--without-boards")
        self.assertEqual(outcome.code, 0)
        self.assertIn(str(AUTH), outcome.out)
        for word in (BOARD, "no board", "silent"):
            self.assertNotIn(word, outcome.out)


class AuditTests(CheckTestCase):
    """The audit log, before a daemon starts with it and beside one."""

    def test_told(self) -> None:
        """Where it is, and whether nothing is signed without it; whose the file is."""
        path = self.directory / "audit.jsonl"
        self.write(minimal("audit: {file: audit.jsonl, required: True}"))
        self.assertEqual(self.lines("audit log"), [f"{path}, without which nothing is signed"])
        self.assertEqual(self.values()["audit"], {"file": str(path), "required": True})
        self.assertFalse(path.exists())
        path.touch(mode=0o600)
        self.assertEqual(len(self.lines("audit log")), 2)
        self.assertIn("mode 0600", self.lines("audit log")[1])
        path.chmod(0o666)
        (warning,) = self.values()["warnings"]
        self.assertIn("everybody on this machine can change the audit log", warning)

    def test_cannot_be_written(self) -> None:
        """A directory that is missing, or a file that is no audit log, is an error."""
        self.write(minimal("audit: {file: none/audit.jsonl}"))
        (error,) = self.errors()
        self.assertIn(f"there is no directory {self.directory}/none; create it", error)
        self.write(minimal("audit: {file: watermarks.sqlite}"))
        (error,) = self.errors()
        self.assertIn("there is no line of an audit log in it", error)

    def test_in_use(self) -> None:
        """Another signer's file is an error; that of the daemon which has the store is not."""
        file = AuditFile(self.directory / "audit.jsonl", lambda: 0.0)
        file.open()
        self.addCleanup(file.close)
        self.write(minimal("audit: {file: audit.jsonl}"))
        (error,) = self.errors()
        self.assertIn(f"in use by a running signer (process {os.getpid()})", error)
        self.patch(checkcli, "check_not_copied", lambda _: True)
        self.assertEqual(self.errors(), [])


class PlaceTests(CheckTestCase):
    """Where somebody listens already, and where nobody can."""

    def setUp(self) -> None:
        super().setUp()
        self.patch(trying, "try_tcp", listening.try_tcp)
        self.taken = create_server(("127.0.0.1", 0))
        self.addCleanup(self.taken.close)
        endpoint = f"tcp:{self.taken.getsockname()[1]}:interface=127.0.0.1"
        self.listen = f"listen: {{http: ['{endpoint}'], octez_socket: ['unix:a.sock']}}\n"
        at_path = socket(AF_UNIX)
        self.addCleanup(at_path.close)
        at_path.bind("a.sock")
        at_path.listen()

    def test_in_use(self) -> None:
        """With its store free, it is another program that has its places: it does not start."""
        self.write(minimal(self.listen))
        port, path = self.errors()
        self.assertIn("this port is in use by another program", port)
        self.assertIn("a.sock is in use by another daemon", path)

    def test_in_use_by_the_daemon(self) -> None:
        """A daemon that has the store has them too, and all is in order."""
        self.patch(checkcli, "check_not_copied", lambda _: True)
        self.write(minimal(self.listen))
        self.assertEqual(self.errors(), [])
        self.assertEqual(self.values()["warnings"], [])

    def test_in_use_by_whomever(self) -> None:
        """With a store in etcd nobody knows who has them: a warning."""

        async def nothing(_: EtcdStore) -> dict[object, object]:
            return {}

        self.patch(EtcdStore, "read", nothing)
        self.write(minimal(f'{self.listen}watermarks: {{store: "etcd:http://localhost:1"}}'))
        self.assertEqual(self.errors(), [])
        for warning in self.values()["warnings"]:
            self.assertTrue(warning.endswith(", unless that is this signer"), warning)
        self.assertEqual(len(self.values()["warnings"]), 2)

    def test_no_place(self) -> None:
        """An address of another machine, and one place twice, are told at once."""
        there = "tcp:6732:interface=192.0.2.1"
        self.write(minimal(f"listen: {{http: ['{there}', 'tcp:0'], octez_socket: ['{there}']}}"))
        address, twice = self.errors()
        self.assertIn("192.0.2.1:6732: this machine does not have this address", address)
        self.assertIn("is named twice, and nothing can listen there twice", twice)


class ProcessTests(TestCase):
    """As it is run before the daemon, and beside it."""

    timeout = 60

    async def test_beside_a_daemon(self) -> None:
        """With a board it is all in order; beside the daemon that has board and store, too."""
        directory = Path(self.mktemp()).absolute()
        directory.mkdir()
        link = directory / "hsm"
        simulator = start_command(self, directory, "simulate", "--link", str(link))
        await simulator.says("simulated HSM at ")
        config = directory / "config.yaml"
        text = SHIPPED.read_text("utf-8").replace("tcp:6732:", "tcp:0:")
        config.write_text(f"{text}\nhsms: [{{port: {link}}}]\n", "utf-8")
        await start_command(self, directory, "watermarks", "init").exits()
        before = start_command(self, directory, "check", "--json")
        self.assertEqual(await before.exits(), 0, before.log)
        said = json.loads(before.out)
        self.assertEqual((said["warnings"], said["errors"]), ([EMPTIES], []))
        self.assertEqual({key["board"] for key in said["keys"]}, {f"held by board {link}"})
        daemon = start_daemon(self, directory, "--http", FREE_PORT)
        await serving(daemon)
        beside = start_command(self, directory, "check", "--json")
        self.assertEqual(await beside.exits(), 0, beside.log)
        said = json.loads(beside.out)
        self.assertEqual(said["errors"], [])
        self.assertIs(said["watermarks"]["in_use"], True)
        self.assertEqual(said["warnings"][0], EMPTIES)
        (warning,) = said["warnings"][1:]
        self.assertIn("another program has it", warning)
