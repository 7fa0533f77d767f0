"""Configurations: the original signer's, the shortest good one, and wrong ones."""

from tests.support.vectors import AUTH, OCTEZ, TZ1, TZ3

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


KEY = " " * 12
KEYS = " " * 8
POLICY = " " * 4
TZ4 = OCTEZ["keys"][4]["pkh"]
KEY_PATH = f"policy.signing_keys.{TZ3}"
TZ1_PATH = f"policy.signing_keys.{TZ1}"
OTHER = f"{KEYS}{TZ1}: "
EDPK = OCTEZ["keys"][1]["pk"]
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
    ("audit: {fil: x}", 6, "audit.fil", ("did you mean file?", "required")),
    ("audit: {required: True}", 6, "audit", ("file is missing",)),
    ("audit: {file: logs/}", 6, "audit.file", ("the name of a file is expected",)),
    ("audit: {file: a.jsonl, required: yes please}", 6, "audit.required", ("True or False",)),
    ("audit: audit.jsonl", 6, "audit", ("a mapping",)),
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
        ("blok is not an operation", "generic (0x03)", "michelson (0x05)", "attestation (0x13)"),
    ),
    (
        f"{OTHER}{{allowed_ops: [stake]}}",
        6,
        f"{TZ1_PATH}.allowed_ops[0]",
        ("stake is a kind of generic operation", "write generic here", "operations.kinds"),
    ),
    (
        f"{OTHER}{{allowed_ops: [drain_delegate]}}",
        6,
        f"{TZ1_PATH}.allowed_ops[0]",
        ("drain_delegate is not an operation",),
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
    # what operations may contain
    (f"{KEY}operations: []", 6, f"{KEY_PATH}.operations", ("a mapping",)),
    (f"{KEY}operation: {{}}", 6, f"{KEY_PATH}.operation", ("did you mean operations?",)),
    (
        f"{KEY}operations:\n{KEY}    kinds: [reveal]\n{KEY}    destination: [{TZ1}]",
        8,
        f"{KEY_PATH}.operations.destination",
        ("did you mean destinations?", "max_fee"),
    ),
    (
        f"{KEY}operations: {{max_amount: 100}}",
        6,
        f"{KEY_PATH}.operations.max_amount",
        ('"100 tez"',),
    ),
    (
        f"{KEY}operations: {{kinds: [reveal, origin]}}",
        6,
        f"{KEY_PATH}.operations.kinds[1]",
        ("origin is no kind of operation", "did you mean origination?"),
    ),
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
    (
        f"{OTHER}{{allowed_ops: [0:17]}}",
        6,
        f"{TZ1_PATH}.allowed_ops[0]",
        ("0:17 is not an operation",),
    ),
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
