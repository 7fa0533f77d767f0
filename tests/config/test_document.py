"""The configuration: what it means, and what is said of a wrong one."""

from collections.abc import Callable
from ipaddress import ip_network
from pathlib import Path

from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.support.configurations import BASE, EDPK, KEY, KEYS, POLICY, UPSTREAM, WRONG
from tests.support.vectors import AUTH, OCTEZ, SHIPPED, TZ1, TZ2, TZ3
from tezio_signer.config import document as config
from tezio_signer.config import fields as yamlfields
from tezio_signer.config.fields import ConfigError
from tezio_signer.config.settings import Limits, Security, Settings
from tezio_signer.hsm.boards import BoardSelector
from tezio_signer.tezos.keys import PublicKey, PublicKeyHash
from tezio_signer.tezos.payload import Operation

FIRST = 6
MAINNET = "NetXdQprcVkpaWU"
SPPK = OCTEZ["keys"][2]["pk"]
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
        """The options that are written there as comments can be switched on."""
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

    def test_michelson(self) -> None:
        """Packed data of Michelson are an operation like others, by name and number."""
        for name in ("michelson", "0x05", "5"):
            settings = settings_of(BASE.replace("generic", name))
            self.assertEqual(settings.signing_keys[TZ3].allowed_ops, {Operation.MICHELSON})
            self.assertEqual(settings.warnings, ())

    def test_authentication_is_the_default(self) -> None:
        """A key that says nothing about authentication asks for it."""
        text = BASE.replace("            auth_req: False\n", f"{POLICY}auth_key: {{pkh: {AUTH}}}\n")
        self.assertNotIn("auth_req", text)
        settings = settings_of(text)
        self.assertIs(settings.signing_keys[TZ3].auth_req, True)
        self.assertEqual(settings.authorized, (AUTH,))

    def test_warns_of_operations_never_signed(self) -> None:
        """An operation that this signer never signs may be listed, with a warning for each."""
        settings = settings_of(BASE.replace("generic", "generic, 0x01, 2, authentication"))
        self.assertEqual(
            settings.warnings,
            tuple(
                f"{TZ3}: {name} is among allowed_ops, but is never signed"
                for name in ("authentication", "legacy_block", "legacy_endorsement")
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


WRONG_DOCUMENTS = [
    ("[]", "config.yaml:1: a mapping"),
    ("policy", "config.yaml:1: a mapping"),
    ("\nverbose: True", "config.yaml:2: policy is missing"),
    ("verbose: True\npolicy:", "config.yaml:2: policy: a mapping"),
    (f"policy:\n    auth_key: {{pkh: {AUTH}}}", "config.yaml:1: policy: signing_keys is missing"),
    (
        "policy:\n    signing_keys: {}",
        "config.yaml:2: policy.signing_keys: no signing key is named",
    ),
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
