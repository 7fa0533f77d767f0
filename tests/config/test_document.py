"""The configuration: what it means, and what is said of a wrong one."""

from collections.abc import Callable
from ipaddress import ip_network
from pathlib import Path

from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.support.vectors import AUTH, OCTEZ, SHIPPED, TZ1, TZ2, TZ3
from tezio_signer.config import document as config
from tezio_signer.config import fields as yamlfields
from tezio_signer.config.fields import ConfigError
from tezio_signer.config.settings import Limits, Security, Settings
from tezio_signer.hsm.boards import BoardSelector
from tezio_signer.tezos.keys import PublicKey, PublicKeyHash
from tezio_signer.tezos.payload import Operation

UPSTREAM = """\
security:
    remote_ip_check: True
    auth_check: True
    signing_policy_check: True
    high_water_mark_check: True
verbose: False
high_water_marks:            # floors: nothing at or below them is signed (level 0, round 0 means no floor)
    level: {0x11: 0, 0x12: 0, 0x13: 0}
    round: {0x11: 0, 0x12: 0, 0x13: 0}
allowed_ips: ["127.0.0.1"]
policy:
    signing_keys:
        "tz1MPxCXbc1mNHSDA9fXXRTTdVY1r1yDkjn7": {curve_alias: 1, allowed_ops: [0x03], auth_req: True, auth_prefix: "040100"}
        "tz2Wk2wpRs3U3Pu2XFdjjqRz84LLynKqv3jd": {curve_alias: 2, allowed_ops: [0x03], auth_req: True, auth_prefix: "040101"}
        "tz3WqrfXaNnCckfofeeCGAehhZhZQ6nShz3i": {curve_alias: 3, allowed_ops: [0x03, 0x11, 0x12, 0x13], auth_req: True, auth_prefix: "040102"}
    auth_key: {pkh: "tz3RunZg4JQw5Hiy7mDpPCTgVpiCXkP9JMT6", curve_alias: 0}
"""  # noqa: E501
"""The original Tezio Signer's `config.yaml`, byte for byte as the interface prints it."""
BASE = f"""\
policy:
    signing_keys:
        {TZ3}:
            allowed_ops: [generic]
            auth_req: False
"""
"""The shortest good configuration. The next line, the sixth, may go on at any level."""
FIRST = 6
KEY = " " * 12
KEYS = " " * 8
POLICY = " " * 4
EDPK, SPPK = OCTEZ["keys"][1]["pk"], OCTEZ["keys"][2]["pk"]
MAINNET = "NetXdQprcVkpaWU"
BAKING = {Operation.BLOCK, Operation.PREATTESTATION, Operation.ATTESTATION}


def settings_of(text: str) -> Settings:
    """The settings of a document that lies in /etc/tezio."""
    return config.settings_from(yamlfields.parse(text, "config.yaml"), Path("/etc/tezio"))


class UpstreamTests(SynchronousTestCase):
    """The configuration of the original Tezio Signer."""

    def test_loads_unchanged(self) -> None:
        """It is read unchanged, and means what it meant."""
        settings = settings_of(UPSTREAM)
        self.assertEqual(settings.security, Security(True, True, True, True))
        self.assertIs(settings.verbose, False)
        self.assertEqual(set(settings.floors.values()), {(0, 0)})
        self.assertEqual(settings.allowed_ips, (ip_network("127.0.0.1"),))
        self.assertEqual(
            {
                str(key): (policy.allowed_ops, policy.auth_req, policy.chains)
                for key, policy in settings.signing_keys.items()
            },
            {
                "tz1MPxCXbc1mNHSDA9fXXRTTdVY1r1yDkjn7": ({Operation.GENERIC}, True, None),
                "tz2Wk2wpRs3U3Pu2XFdjjqRz84LLynKqv3jd": ({Operation.GENERIC}, True, None),
                "tz3WqrfXaNnCckfofeeCGAehhZhZQ6nShz3i": (
                    {Operation.GENERIC} | BAKING,
                    True,
                    None,
                ),
            },
        )
        self.assertEqual(str(settings.auth_key), "tz3RunZg4JQw5Hiy7mDpPCTgVpiCXkP9JMT6")
        self.assertEqual(settings.authorized, (settings.auth_key,))
        self.assertEqual(settings.warnings, ())

    def test_silent_on_the_rest(self) -> None:
        """What it does not say has the defaults of the interface."""
        settings = settings_of(UPSTREAM)
        self.assertEqual(settings.authorized_keys, ())
        self.assertIs(settings.list_known_keys, False)
        self.assertEqual(settings.hsms, (BoardSelector(),))
        self.assertEqual(settings.http, ("tcp:6732:interface=127.0.0.1",))
        self.assertEqual(settings.store, Path("/etc/tezio/watermarks.sqlite"))


class ShippedTests(SynchronousTestCase):
    """The `config.yaml` that comes with the program."""

    def test_allows_what_it_says(self) -> None:
        """It is for the test keys: generic operations of all, and baking with tz3."""
        settings = config.load(SHIPPED)
        self.assertEqual(
            {key: policy.allowed_ops for key, policy in settings.signing_keys.items()},
            {
                TZ1: {Operation.GENERIC},
                TZ2: {Operation.GENERIC},
                TZ3: {Operation.GENERIC} | BAKING,
            },
        )
        self.assertEqual(settings.auth_key, AUTH)
        self.assertEqual(
            [settings.signing_keys[key].chains for key in (TZ1, TZ2, TZ3)],
            [None, None, {MAINNET}],
        )
        self.assertIsNone(settings.authorized)
        self.assertEqual(settings.security, Security(True, True, True, True))
        self.assertEqual(settings.allowed_ips, (ip_network("127.0.0.1"), ip_network("::1")))
        self.assertIs(settings.list_known_keys, True)
        self.assertEqual(settings.http, ("tcp:6732:interface=127.0.0.1",))
        self.assertEqual(settings.store, SHIPPED.absolute().parent / "watermarks.sqlite")
        self.assertEqual(settings.warnings, ())

    def test_what_it_offers_works(self) -> None:
        """The options that stand there as comments can be switched on."""
        text = SHIPPED.read_text("utf-8")
        for comment in (
            "# max_level_jump: ",
            '# authorized_keys: ["edpk…"]',
            "# hsms:",
            "#     - {serial_number",
            "#     - {port",
            "# limits:",
            *(f"#     {name}:" for name in Limits.__annotations__),
        ):
            self.assertIn(comment, text)
            text = text.replace(comment, comment.removeprefix("# ").removeprefix("#"))
        for comment in ("# client_ca: ca.pem", "# request_token: {header: x-"):
            self.assertIn(comment, text)
        settings = settings_of(text.replace("edpk…", EDPK))
        self.assertEqual(settings.limits, Limits(signatures_per_minute=60))
        self.assertEqual(list(map(str, settings.authorized_keys)), [EDPK])
        self.assertEqual(
            settings.hsms,
            (BoardSelector(serial_number="A1B2C3D4"), BoardSelector(port="/dev/ttyACM0")),
        )

    def test_names_a_file_in_its_errors(self) -> None:
        """An error in a file on the disk begins with its path and line."""
        path = Path(self.mktemp())
        path.write_text(BASE + "verbose: 7\n")
        error = self.assertRaises(ConfigError, config.load, path)
        self.assertTrue(str(error).startswith(f"{path}:6: verbose: True or False"), error)


class OptionTests(SynchronousTestCase):
    """What the options mean."""

    def test_values(self) -> None:
        """Every option has the value that is written, in all its spellings."""
        asked = f"{KEYS}{TZ1}: {{allowed_ops: [generic], "
        edpk = PublicKey.parse(EDPK)
        cases: list[tuple[str, Callable[[Settings], object], object]] = [
            ("verbose: True", lambda s: s.verbose, True),
            ("verbose: no", lambda s: s.verbose, False),
            ("list_known_keys: True", lambda s: s.list_known_keys, True),
            ("security: {}", lambda s: s.security, Security()),
            ("security: {auth_check: off}", lambda s: s.security.auth_check, False),
            ("security: {auth_check: off}", lambda s: s.security.remote_ip_check, True),
            (
                "verbose: False",
                lambda s: list(map(str, s.allowed_ips)),
                ["127.0.0.1/32", "::1/128"],
            ),
            ("allowed_ips: []", lambda s: s.allowed_ips, ()),
            (
                'allowed_ips: [192.0.2.7, "10.0.0.0/24", "::1", "2001:db8::/32"]',
                lambda s: list(map(str, s.allowed_ips)),
                ["192.0.2.7/32", "10.0.0.0/24", "::1/128", "2001:db8::/32"],
            ),
            (f"authorized_keys: [{EDPK}]", lambda s: s.authorized_keys, (edpk,)),
            (f"authorized_keys: [{EDPK}]", lambda s: s.authorized, None),
            (
                f"authorized_keys: [{', '.join(key['pk'] for key in OCTEZ['keys'][:4])}]",
                lambda s: [str(key.hash) for key in s.authorized_keys],
                [key["pkh"] for key in OCTEZ["keys"][:4]],
            ),
            (
                f"{asked}auth_req: True}}\nauthorized_keys: [{EDPK}]",
                lambda s: s.authorized,
                (edpk.hash,),
            ),
            (
                f"{asked}auth_req: True}}\n{POLICY}auth_key: {{pkh: {AUTH}}}\n"
                f"authorized_keys: [{EDPK}]",
                lambda s: s.authorized,
                (AUTH, edpk.hash),
            ),
            (
                f"{asked}auth_req: True}}\nsecurity: {{auth_check: False}}",
                lambda s: s.authorized,
                None,
            ),
            (
                f"{asked}authorized_keys: [{EDPK}]}}",
                lambda s: (s.authorized, s.authorized_for(TZ1), s.authorized_for(TZ3)),
                ((edpk.hash,), (edpk.hash,), None),
            ),
            (
                f"{asked}authorized_keys: [{EDPK}]}}\n{POLICY}auth_key: {{pkh: {AUTH}}}\n"
                f"authorized_keys: [{SPPK}]",
                lambda s: s.authorized,
                (edpk.hash,),
            ),
            (
                f"{asked}authorized_keys: [{EDPK}, {SPPK}]}}\n{KEYS}{TZ2}: {{allowed_ops: []}}\n"
                f"{POLICY}auth_key: {{pkh: {AUTH}}}\nauthorized_keys: [{EDPK}]",
                lambda s: (s.authorized, s.authorized_for(TZ2)),
                ((edpk.hash, PublicKey.parse(SPPK).hash, AUTH), (AUTH, edpk.hash)),
            ),
            (f"{POLICY}auth_key: {{pkh: {AUTH}}}", lambda s: s.auth_key, AUTH),
            (f"{POLICY}auth_key: {{pkh: {AUTH}, curve_alias: 0}}", lambda s: s.auth_key, AUTH),
            (
                f"{asked}auth_req: False, curve_alias: 1, auth_prefix: '040100'}}",
                lambda s: TZ1 in s.signing_keys,
                True,
            ),
            (f"{KEY}curve_alias: 0x3", lambda s: TZ3 in s.signing_keys, True),
            (f"{KEY}auth_prefix: '040102'", lambda s: TZ3 in s.signing_keys, True),
            (f"{KEY}chains: []", lambda s: s.signing_keys[TZ3].chains, set()),
            (
                f"{KEY}chains: [NetXdQprcVkpaWU, NetXdQprcVkpaWU]",
                lambda s: s.signing_keys[TZ3].chains,
                {"NetXdQprcVkpaWU"},
            ),
            ("verbose: False", lambda s: s.signing_keys[TZ3].max_level_jump, 500_000),
            (f"{KEY}max_level_jump: 1", lambda s: s.signing_keys[TZ3].max_level_jump, 1),
            (
                f"{asked}auth_req: False, max_level_jump: 2147483647}}",
                lambda s: [s.signing_keys[key].max_level_jump for key in (TZ3, TZ1)],
                [500_000, 2**31 - 1],
            ),
            ("hsms: [{port: /dev/ttyACM0}]", lambda s: s.hsms, (BoardSelector("/dev/ttyACM0"),)),
            (
                'hsms: [{serial_number: "1234"}, {port: COM3}]',
                lambda s: s.hsms,
                (BoardSelector(serial_number="1234"), BoardSelector(port="COM3")),
            ),
            ("verbose: False", lambda s: s.hsm_wait_seconds, 2.0),
            ("hsm_wait_seconds: 0", lambda s: s.hsm_wait_seconds, 0.0),
            ("hsm_wait_seconds: 1.5", lambda s: s.hsm_wait_seconds, 1.5),
            ("listen: {}", lambda s: s.http, ("tcp:6732:interface=127.0.0.1",)),
            ("listen: {http: [tcp:1, unix:/x]}", lambda s: s.http, ("tcp:1", "unix:/x")),
            ("listen: {http: [tcp:1]}", lambda s: s.octez_socket, ()),
            (
                "listen: {octez_socket: [tcp:1, unix:/x]}",
                lambda s: (s.http, s.octez_socket),
                (("tcp:6732:interface=127.0.0.1",), ("tcp:1", "unix:/x")),
            ),
            ("verbose: True", lambda s: s.allowed_uids, None),
            ("allowed_uids: []", lambda s: s.allowed_uids, frozenset()),
            ("allowed_uids: [0, 1000]", lambda s: s.allowed_uids, frozenset({0, 1000})),
            (
                'watermarks: {store: "sqlite:marks/a.db"}',
                lambda s: s.store,
                Path("/etc/tezio/marks/a.db"),
            ),
            ('watermarks: {store: "sqlite:/var/a.db"}', lambda s: s.store, Path("/var/a.db")),
            (
                "high_water_marks: {level: {block: 7, attestation: 9}, round: {block: 1}}",
                lambda s: s.floors,
                {
                    Operation.BLOCK: (7, 1),
                    Operation.PREATTESTATION: (0, 0),
                    Operation.ATTESTATION: (9, 0),
                },
            ),
            (
                "high_water_marks: {round: {0X12: 2147483647}}",
                lambda s: s.floors[Operation.PREATTESTATION],
                (0, 2**31 - 1),
            ),
        ]
        for text, read, expected in cases:
            self.assertEqual(read(settings_of(BASE + text)), expected, text)

    def test_relative_configuration(self) -> None:
        """The store lies beside the configuration file, wherever the daemon is started."""
        directory = Path(self.mktemp())
        directory.mkdir()
        (directory / "config.yaml").write_text(BASE)
        settings = config.load(directory / "config.yaml")
        self.assertEqual(settings.store, Path.cwd() / directory / "watermarks.sqlite")

    def test_names_and_numbers(self) -> None:
        """Operations mean the same as names, as hexadecimal and as decimal numbers."""
        for operation, number in [("block", 17), ("preattestation", 18), ("attestation", 19)]:
            for name in (operation, f"0x{number:x}", str(number)):
                text = BASE.replace("generic", name) + f"high_water_marks: {{level: {{{name}: 5}}}}"
                settings = settings_of(text)
                expected = Operation(number)
                self.assertEqual(settings.signing_keys[TZ3].allowed_ops, {expected}, name)
                self.assertEqual(settings.floors[expected], (5, 0), name)
        for name in ("generic", "0x03", "3"):
            allowed = settings_of(BASE.replace("generic", name)).signing_keys[TZ3].allowed_ops
            self.assertEqual(allowed, {Operation.GENERIC})

    def test_authentication_is_the_default(self) -> None:
        """A key that says nothing about authentication asks for it."""
        text = BASE.replace("            auth_req: False\n", f"{POLICY}auth_key: {{pkh: {AUTH}}}\n")
        self.assertNotIn("auth_req", text)
        settings = settings_of(text)
        self.assertIs(settings.signing_keys[TZ3].auth_req, True)
        self.assertEqual(settings.authorized, (AUTH,))

    def test_warns_of_operations_never_signed(self) -> None:
        """An operation that this signer never signs may be listed, with a warning for each."""
        settings = settings_of(
            BASE.replace("generic", "generic, 0x01, 2, authentication, michelson")
        )
        self.assertEqual(
            settings.warnings,
            tuple(
                f"{TZ3}: {name} is among allowed_ops, but is never signed"
                for name in ("authentication", "legacy_block", "legacy_endorsement", "michelson")
            ),
        )

    def test_warns_of_protections_off(self) -> None:
        """Each protection that is switched off is a warning of its own."""
        names = (
            "remote_ip_check",
            "auth_check",
            "signing_policy_check",
            "high_water_mark_check",
        )
        for name in names:
            warnings = settings_of(f"{BASE}security: {{{name}: False}}").warnings
            self.assertEqual(warnings, (f"security.{name} is switched off",))
        off = ", ".join(f"{name}: False" for name in names)
        self.assertEqual(len(settings_of(f"{BASE}security: {{{off}}}").warnings), 4)


TZ4 = OCTEZ["keys"][4]["pkh"]
KEY_PATH = f"policy.signing_keys.{TZ3}"
TZ1_PATH = f"policy.signing_keys.{TZ1}"
OTHER = f"{KEYS}{TZ1}: "
WRONG: list[tuple[str, int, str, tuple[str, ...]]] = [
    # unknown keys, at every level
    ("sekurity: {}", 6, "sekurity", ("unknown key", "did you mean security?", "allowed_ips")),
    ("sekurity:\n\n    auth_check: False", 6, "sekurity", ("did you mean security?",)),
    ("security:\n    auth_chek: False", 7, "security.auth_chek", ("did you mean auth_check?",)),
    (f"{POLICY}auth_kei: {{}}", 6, "policy.auth_kei", ("did you mean auth_key?", "signing_keys")),
    (f"{KEY}auth_reg: True", 6, f"{KEY_PATH}.auth_reg", ("did you mean auth_req?", "chains")),
    (f"{POLICY}auth_key: {{pk: x}}", 6, "policy.auth_key.pk", ("did you mean pkh?",)),
    ("high_water_marks: {levl: {}}", 6, "high_water_marks.levl", ("did you mean level?", "round")),
    ("listen: {htp: []}", 6, "listen.htp", ("did you mean http?",)),
    ("listen: {octez: []}", 6, "listen.octez", ("did you mean octez_socket?",)),
    ("hsms: [{prot: x}]", 6, "hsms[0].prot", ("did you mean port?", "serial_number")),
    ("watermarks: {stor: x}", 6, "watermarks.stor", ("did you mean store?",)),
    # the same key twice
    ("verbose: False\n\nverbose: True", 8, "verbose", ("twice",)),
    ("policy: {}", 6, "policy", ("twice",)),
    (f"{OTHER}{{}}\n{KEYS}'{TZ1}': {{}}", 7, TZ1_PATH, ("twice",)),
    (f"{KEY}auth_req: True", 6, f"{KEY_PATH}.auth_req", ("twice",)),
    (
        "high_water_marks:\n    level: {block: 9, 0x11: 0}",
        7,
        "high_water_marks.level.0x11",
        ("twice", "block"),
    ),
    # values of another type
    ("verbose: 1", 6, "verbose", ("True or False", "not 1")),
    ("verbose: [True]", 6, "verbose", ("single value",)),
    ("list_known_keys: maybe", 6, "list_known_keys", ("True or False", "not maybe")),
    ("security: off", 6, "security", ("mapping",)),
    ("security:", 6, "security", ("mapping",)),
    ("security:\n    auth_check: 'no'", 7, "security.auth_check", ("True or False", "'no'")),
    ("policy2:\n- a", 6, "policy2", ("did you mean policy?",)),
    # who may ask
    ("allowed_ips: 127.0.0.1", 6, "allowed_ips", ("list",)),
    ("allowed_ips: [10]", 6, "allowed_ips[0]", ("text in quotes", "not 10")),
    (
        "allowed_ips:\n    - ::1\n    - localhost",
        8,
        "allowed_ips[1]",
        ("address or a network", "10.0.0.0/24", "localhost"),
    ),
    ("allowed_ips: [10.0.0.1/24]", 6, "allowed_ips[0]", ("network", "host bits")),
    ("authorized_keys: edpk", 6, "authorized_keys", ("list",)),
    ("authorized_keys: [edpk]", 6, "authorized_keys[0]", ("edpk…, sppk…, p2pk…",)),
    (f"authorized_keys: [{TZ1}]", 6, "authorized_keys[0]", ("edpk…", "tz1")),
    (f"authorized_keys: [{EDPK[:-1]}w]", 6, "authorized_keys[0]", ("checksum",)),
    # the signing keys
    (f"{KEYS}tz1abc: {{}}", 6, "policy.signing_keys.tz1abc", ("tz1…, tz2…, tz3…", "checksum")),
    (f"{KEYS}? [a]\n{KEYS}: {{}}", 6, "policy.signing_keys.?", ("public key hash",)),
    (f"{KEYS}'{TZ1} ': {{}}", 6, f"policy.signing_keys.{TZ1} ", ("public key hash",)),
    (
        f"{KEYS}{TZ4}:\n            allowed_ops: []",
        6,
        f"policy.signing_keys.{TZ4}",
        ("tz1, tz2 and tz3",),
    ),
    (f"{OTHER}True", 6, TZ1_PATH, ("mapping",)),
    (f"{OTHER}{{auth_req: False}}", 6, TZ1_PATH, ("allowed_ops is missing",)),
    (f"{OTHER}{{allowed_ops: generic}}", 6, f"{TZ1_PATH}.allowed_ops", ("list",)),
    (
        f"{OTHER}\n{KEY}allowed_ops:\n{KEY}- generic\n{KEY}- blok",
        9,
        f"{TZ1_PATH}.allowed_ops[1]",
        ("blok is no operation", "generic (0x03)", "block (0x11)", "attestation (0x13)"),
    ),
    (
        f"{OTHER}{{allowed_ops: [0x14]}}",
        6,
        f"{TZ1_PATH}.allowed_ops[0]",
        ("0x14 is", "block (0x11)"),
    ),
    (f"{OTHER}{{allowed_ops: [True]}}", 6, f"{TZ1_PATH}.allowed_ops[0]", ("True", "(0x03)")),
    (f"{OTHER}{{allowed_ops: [3.0]}}", 6, f"{TZ1_PATH}.allowed_ops[0]", ("3.0", "(0x03)")),
    (f"{OTHER}{{allowed_ops: [[3]]}}", 6, f"{TZ1_PATH}.allowed_ops[0]", ("single value",)),
    (f"{KEY}curve_alias: 1", 6, f"{KEY_PATH}.curve_alias", ("for this key it is 3", "slot")),
    (f"{KEY}curve_alias: '3'", 6, f"{KEY_PATH}.curve_alias", ("a number", "'3'")),
    (f"{KEY}auth_prefix: '040100'", 6, f"{KEY_PATH}.auth_prefix", ('"040102"',)),
    (f"{KEY}auth_prefix: 040102", 6, f"{KEY_PATH}.auth_prefix", ("text in quotes",)),
    (f"{KEY}chains: NetXdQprcVkpaWU", 6, f"{KEY_PATH}.chains", ("list",)),
    (
        f"{KEY}chains: [NetXdQprcVkpaWV]",
        6,
        f"{KEY_PATH}.chains[0]",
        ("chain id (Net…)", "checksum"),
    ),
    (f"{KEY}chains: [{TZ1}]", 6, f"{KEY_PATH}.chains[0]", ("chain id (Net…)",)),
    (f"{KEY}max_level_jump: 0", 6, f"{KEY_PATH}.max_level_jump", ("from 1 to 2147483647", "not 0")),
    (f"{KEY}max_level_jump: -1", 6, f"{KEY_PATH}.max_level_jump", ("from 1 to 2147483647", "-1")),
    (f"{KEY}max_level_jump: False", 6, f"{KEY_PATH}.max_level_jump", ("a number", "False")),
    (f"{KEY}max_level_jump: 1e6", 6, f"{KEY_PATH}.max_level_jump", ("a number", "not 1e6")),
    (f"{KEY}max_level_jumps: 5", 6, f"{KEY_PATH}.max_level_jumps", ("mean max_level_jump?",)),
    # who authenticates
    (f"{OTHER}{{allowed_ops: []}}", 6, TZ1_PATH, ("auth_key", "authorized_keys")),
    (
        f"{OTHER}{{allowed_ops: [], authorized_keys: []}}",
        6,
        f"{TZ1_PATH}.authorized_keys",
        ("nobody could authenticate",),
    ),
    (
        f"{KEY}authorized_keys: [{EDPK}]",
        6,
        f"{KEY_PATH}.authorized_keys",
        ("asks for no authentication", "auth_req is False"),
    ),
    (
        f"{OTHER}{{allowed_ops: [], authorized_keys: [{TZ1}]}}",
        6,
        f"{TZ1_PATH}.authorized_keys[0]",
        ("edpk…, sppk…, p2pk…",),
    ),
    (f"{POLICY}auth_key: {AUTH}", 6, "policy.auth_key", ("mapping",)),
    (f"{POLICY}auth_key: {{}}", 6, "policy.auth_key", ("pkh is missing",)),
    (f"{POLICY}auth_key: {{pkh: {TZ1}}}", 6, "policy.auth_key.pkh", ("tz3",)),
    (f"{POLICY}auth_key: {{pkh: tz3}}", 6, "policy.auth_key.pkh", ("public key hash",)),
    (f"{POLICY}auth_key: {{pkh: 3}}", 6, "policy.auth_key.pkh", ("text in quotes",)),
    (
        f"{POLICY}auth_key: {{pkh: {AUTH}, curve_alias: 3}}",
        6,
        "policy.auth_key.curve_alias",
        ("for this key it is 0",),
    ),
    (f"{POLICY}auth_key:\n        pkh: {TZ3}", 6, "policy.auth_key", ("signing key",)),
    # floors
    ("high_water_marks: []", 6, "high_water_marks", ("mapping",)),
    ("high_water_marks: {level: 5}", 6, "high_water_marks.level", ("mapping",)),
    (
        "high_water_marks:\n    level:\n        blok: 1",
        8,
        "high_water_marks.level.blok",
        ("no watermark", "block (0x11)", "preattestation (0x12)", "attestation (0x13)"),
    ),
    ("high_water_marks: {level: {3: 1}}", 6, "high_water_marks.level.3", ("block (0x11)",)),
    ("high_water_marks: {round: {block: -1}}", 6, "high_water_marks.round.block", ("0 to", "-1")),
    (
        "high_water_marks: {level: {block: 2147483648}}",
        6,
        "high_water_marks.level.block",
        ("2147483647", "2147483648"),
    ),
    ("high_water_marks: {level: {block: '5'}}", 6, "high_water_marks.level.block", ("a number",)),
    # devices, endpoints, store
    ("hsms: {port: x}", 6, "hsms", ("list",)),
    ("hsms: []", 6, "hsms", ("leave hsms out", "every board")),
    ("hsms: [/dev/ttyACM0]", 6, "hsms[0]", ("mapping",)),
    ("hsms:\n- {port: x}\n- {}", 8, "hsms[1]", ("either port or serial_number",)),
    ("hsms: [{port: x, serial_number: y}]", 6, "hsms[0]", ("either port or serial_number",)),
    ("hsms: [{serial_number: 12}]", 6, "hsms[0].serial_number", ("text in quotes", "12")),
    ("hsm_wait_seconds: -1", 6, "hsm_wait_seconds", ("0 to 60", "-1")),
    ("hsm_wait_seconds: 60.1", 6, "hsm_wait_seconds", ("0 to 60", "60.1")),
    ("hsm_wait_seconds: .nan", 6, "hsm_wait_seconds", (".nan is nan for YAML",)),
    ("hsm_wait_seconds: True", 6, "hsm_wait_seconds", ("a number", "True")),
    ("hsm_wait_seconds: '2'", 6, "hsm_wait_seconds", ("a number", "'2'")),
    ("hsm_wait_seconds: 0x99", 6, "hsm_wait_seconds", ("0 to 60", "not 0x99")),
    # what YAML 1.1 reads otherwise than it looks
    (
        "high_water_marks:\n    level: {block: 0300000}",
        7,
        "high_water_marks.level.block",
        ("0300000 is 98304 for YAML", "no zero in front"),
    ),
    (
        "high_water_marks: {level: {block: 05001000}}",
        6,
        "high_water_marks.level.block",
        ("1311232",),
    ),
    (
        "high_water_marks: {level: {block: 50:01:00}}",
        6,
        "high_water_marks.level.block",
        ("180060",),
    ),
    ("high_water_marks: {round: {block: 0b11}}", 6, "high_water_marks.round.block", ("0b11 is 3",)),
    ("high_water_marks: {round: {0x12: 00}}", 6, "high_water_marks.round.0x12", ("00 is 0",)),
    ("high_water_marks: {level: {block: !!int '010'}}", 6, "high_water_marks.level.block", ("8",)),
    ("high_water_marks: {level: {021: 5}}", 6, "high_water_marks.level.021", ("no watermark",)),
    ("allowed_uids:\n- 1000\n- 01000", 8, "allowed_uids[1]", ("01000 is 512 for YAML",)),
    ("allowed_uids: [0o17]", 6, "allowed_uids[0]", ("a number", "not 0o17")),
    ("allowed_uids: [089]", 6, "allowed_uids[0]", ("a number", "not 089")),
    ("allowed_uids: [~]", 6, "allowed_uids[0]", ("a number", "not ~")),
    ("allowed_uids: [on]", 6, "allowed_uids[0]", ("a number", "not on")),
    ("allowed_uids: [2026-11-28]", 6, "allowed_uids[0]", ("a number", "not 2026-11-28")),
    (f"{KEY}max_level_jump: 1_000", 6, f"{KEY_PATH}.max_level_jump", ("1_000 is 1000",)),
    (f"{KEY}max_level_jump: 1.5e+3", 6, f"{KEY_PATH}.max_level_jump", ("1.5e+3 is 1500.0",)),
    (f"{KEY}curve_alias: 03", 6, f"{KEY_PATH}.curve_alias", ("03 is 3 for YAML",)),
    (f"{OTHER}{{allowed_ops: [021]}}", 6, f"{TZ1_PATH}.allowed_ops[0]", ("021 is 17",)),
    (f"{OTHER}{{allowed_ops: [0:17]}}", 6, f"{TZ1_PATH}.allowed_ops[0]", ("0:17 is no operation",)),
    ("hsm_wait_seconds: 0:30", 6, "hsm_wait_seconds", ("a number", "not 0:30")),
    ("hsm_wait_seconds: .5", 6, "hsm_wait_seconds", (".5 is 0.5 for YAML",)),
    ("hsms: [{serial_number: 0123}]", 6, "hsms[0].serial_number", ("text in quotes", "not 0123")),
    ("hsms: [{serial_number: 1:2:3}]", 6, "hsms[0].serial_number", ("text in quotes", "1:2:3")),
    ("listen: tcp:6732", 6, "listen", ("mapping",)),
    ("listen: {http: tcp:6732}", 6, "listen.http", ("list",)),
    ("listen: {http: []}", 6, "listen.http", ("no endpoint", "tcp:6732:interface=127.0.0.1")),
    ("listen: {octez_socket: tcp:7732}", 6, "listen.octez_socket", ("list",)),
    ("listen: {octez_socket: []}", 6, "listen.octez_socket", ("no endpoint", "tcp:7732:")),
    ("allowed_uids: 1000", 6, "allowed_uids", ("list",)),
    ("allowed_uids: [root]", 6, "allowed_uids[0]", ("a number", "root")),
    ("allowed_uids: [0, -1]", 6, "allowed_uids[1]", ("the number of a user", "-1")),
    ("allowed_uids: [4294967295]", 6, "allowed_uids[0]", ("the number of a user",)),
    ("listen: {http: [6732]}", 6, "listen.http[0]", ("text in quotes", "6732")),
    ("watermarks: sqlite:x", 6, "watermarks", ("mapping",)),
    ("watermarks: {}", 6, "watermarks", ("store is missing",)),
    ("watermarks: {store: x.sqlite}", 6, "watermarks.store", ("x.sqlite", "sqlite:PATH")),
    ("watermarks: {store: 'sqlite:'}", 6, "watermarks.store", ("sqlite:PATH",)),
    ("watermarks: {store: 5}", 6, "watermarks.store", ("text in quotes",)),
]
"""What is appended to BASE, and the line, key and essential words of the error."""
WRONG_DOCUMENTS = [
    ("[]", "config.yaml:1: a mapping"),
    ("policy", "config.yaml:1: a mapping"),
    ("\nverbose: True", "config.yaml:2: policy is missing"),
    ("verbose: True\npolicy:", "config.yaml:2: policy: a mapping"),
    (f"policy:\n    auth_key: {{pkh: {AUTH}}}", "config.yaml:1: policy: signing_keys is missing"),
    ("policy:\n    signing_keys: {}", "config.yaml:2: policy.signing_keys: no signing key"),
    ("policy: {signing_keys: []}", "config.yaml:1: policy.signing_keys: a mapping"),
]


class WrongTests(SynchronousTestCase):
    """What is said of a wrong configuration: where, what, and what is allowed."""

    def test_every_mistake(self) -> None:
        """Each mistake is named with its line, its key, and what is allowed."""
        settings_of(BASE)
        for text, line, path, words in WRONG:
            error = str(self.assertRaises(ConfigError, settings_of, BASE + text))
            self.assertTrue(error.startswith(f"config.yaml:{line}: {path}: "), (text, error))
            self.assertNotIn("\n", error)
            for word in words:
                self.assertIn(word, error, text)

    def test_without_policy(self) -> None:
        """A document that has no policy to speak of is refused as such."""
        for text, expected in WRONG_DOCUMENTS:
            error = str(self.assertRaises(ConfigError, settings_of, text))
            self.assertTrue(error.startswith(expected), (text, error))


_NAMES = (
    "security verbose high_water_marks allowed_ips policy authorized_keys list_known_keys hsms "
    "allowed_uids listen watermarks signing_keys auth_key allowed_ops auth_req auth_prefix "
    "curve_alias chains max_level_jump octez_socket "
    f"pkh level round block 0x11 http port serial_number store remote_ip_check {TZ3} {TZ1} << ? x"
).split()
_SCALARS = st.sampled_from(
    [
        *("True", "0", "3", "0x11", "-1", "1.5", "generic", "block", "sqlite:x", "10.0.0.0/8"),
        *("NetXdQprcVkpaWU", str(AUTH), EDPK, "040102", "'040102'", "''", "~", "2026-99-99", "="),
        *("!!int x", "*a", "&a 1", "0b_", ".inf", '"\\0"', "tcp:1"),
    ]
)
_DOCUMENTS = st.recursive(
    _SCALARS,
    lambda values: (
        st.lists(values, max_size=3).map(lambda items: f"[{', '.join(items)}]")
        | st.dictionaries(st.sampled_from(_NAMES), values, max_size=4).map(
            lambda entries: "{" + ", ".join(f"{k}: {v}" for k, v in entries.items()) + "}"
        )
    ),
    max_leaves=20,
)


class ArbitraryConfigurationTests(SynchronousTestCase):
    """No configuration whatsoever is a fault."""

    @hypothesis_settings(max_examples=150, deadline=None, derandomize=True, database=None)
    @given(st.sampled_from(_NAMES[:11]), _DOCUMENTS, st.sampled_from(["", KEY, KEYS, POLICY]))
    def test_only_config_errors(self, name: str, value: str, level: str) -> None:
        """Known names with any values at any level are settings or a ConfigError."""
        self.check(f"{BASE}{level}{name}: {value}\n")

    @hypothesis_settings(max_examples=150, deadline=None, derandomize=True, database=None)
    @given(st.text(max_size=30) | _DOCUMENTS)
    def test_any_text(self, text: str) -> None:
        """A whole document of any text is settings or a ConfigError."""
        self.check(text)

    def check(self, text: str) -> None:
        """Read a document; anything but ConfigError fails the test."""
        try:
            settings = settings_of(text)
        except ConfigError as error:
            self.assertTrue(str(error).startswith("config.yaml"), error)
        else:
            self.assertIsInstance(next(iter(settings.signing_keys)), PublicKeyHash)
