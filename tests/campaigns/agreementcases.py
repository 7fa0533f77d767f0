"""Configurations, right and wrong, of which `check` and the start have to say the same.

In their texts `<port>`, `<other>` and `<third>` are ports on which nobody listens, `<taken>` one
that somebody has, and `<here>` is the directory of the configuration.
"""

import os
import shutil
import socket
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

from attrs import frozen

from tests.support.vectors import AUTH, OCTEZ, SHIPPED, TZ1, TZ3

_KEY = f"{TZ3}: {{allowed_ops: [generic], auth_req: False}}"
_EDPK = OCTEZ["keys"][1]["pk"]
_ORIGINAL = f"""\
security: {{remote_ip_check: True, auth_check: True, signing_policy_check: True, \
high_water_mark_check: True}}
verbose: False
high_water_marks:
    level: {{block: 0, preattestation: 0, attestation: 0}}
    round: {{block: 0, preattestation: 0, attestation: 0}}
allowed_ips: [127.0.0.1]
policy:
    signing_keys:
        {TZ3}: {{curve_alias: 3, auth_prefix: "040102", auth_req: True, \
allowed_ops: [0x11, 0x12, 0x13]}}
    auth_key: {{pkh: {AUTH}}}
"""
Prepare = Callable[[Path], object]


@frozen
class Case:
    """A configuration, and what lies around it.

    :ivar starts: whether a daemon starts with it; None if that depends on the machine or the user.
    :ivar prepare: changes what is in the directory of the configuration.
    :ivar without_root: whether it is for a user who may not everything.
    :ivar waits: whether `check` waits for an answer from elsewhere.
    """

    name: str
    text: str
    starts: bool | None
    prepare: Prepare = bool
    waits: bool = False
    without_root: bool = False


def _listening(http: str = '"tcp:0:interface=127.0.0.1"', octez_socket: str = "") -> str:
    sockets = f", octez_socket: [{octez_socket}]" if octez_socket else ""
    return f"policy: {{signing_keys: {{{_KEY}}}}}\nlisten: {{http: [{http}]{sockets}}}\n"


def _with(more: str) -> str:
    return _listening('"tcp:<port>:interface=127.0.0.1"') + more + "\n"


def _of_key(entries: str, more: str = "") -> str:
    listen = '{http: ["tcp:<port>:interface=127.0.0.1"]}'
    return f"policy: {{signing_keys: {{{TZ3}: {{{entries}}}}}}}\nlisten: {listen}\n{more}\n"


def _ruled(operations: str) -> str:
    return f"allowed_ops: [generic], auth_req: False, operations: {operations}"


def _endpoints() -> Iterator[Case]:
    """One endpoint each, of both protocols in turn."""
    for number, (text, starts) in enumerate(
        (
            ("tcp:<port>:interface=127.0.0.1", True),
            ("tcp:<port>:127.0.0.1:50", True),
            ("TCP:<port>:interface=127.0.0.1", True),
            ("tcp:port=<port>:interface=localhost", True),
            ("haproxy:tcp:<port>:interface=127.0.0.1", True),
            ("tcp6:<port>:interface=::1", None),
            ("tcp6:<port>:interface=[::1]", None),
            ("tcp:<port>:interface=::ffff:127.0.0.1", None),
            ("tcp:<taken>:interface=127.0.0.1", False),
            ("tcp:80:interface=127.0.0.1", None),
            ("tcp:<port>:interface=192.0.2.1", False),
            ("haproxy:tcp:<port>:interface=192.0.2.1", False),
            ("ssl:<port>:privateKey=key.pem:certKey=cert.pem:interface=192.0.2.1", False),
            ("tcp:<port>:interface=a..b", False),
            ("tcp6:<port>:interface=2001:db8::1", False),
            ("tcp6:<port>:interface=fe80::1%nowhere", False),
            ("tcp6:<port>:interface=fe80::1%4711", False),
            ("tcp6:<port>:interface=fe80::1", False),
            ("tcp:abc", False),
            ("tcp:70000", False),
            ("tcp:-1", False),
            ("tcp", False),
            ("", False),
            ("tpc:<port>", False),
            ("http://127.0.0.1:<port>", False),
            ("127.0.0.1:<port>", False),
            ("tcp:<port>:interfac=127.0.0.1", False),
            ("tcp:<port>:127.0.0.1:50:9", False),
            ("tcp:<port>:interface=127.0.0.1:backlog=many", False),
            ("tcp:<port>\\\\", False),
            ("haproxy:haproxy:tcp:<port>", False),
            ("systemd:INET", False),
            ("unix:a.sock", True),
            ("unix:<here>/a.sock:mode=660", True),
            ("haproxy:unix:a.sock:lockfile=0", True),
            ("unix:none/a.sock", False),
            ("unix:config.yaml/a.sock", False),
            ("unix:config.yaml", False),
            ("unix:.", False),
            ("unix:a.sock:mode=9", False),
            ("unix:a.sock:lockfile=2", False),
            (f"unix:{'x' * 200}", False),
            ("ssl:<port>:privateKey=key.pem:certKey=cert.pem:interface=127.0.0.1", True),
            ("tls:site:port=<port>:interface=127.0.0.1", True),
            ("tls:none:port=<port>:interface=127.0.0.1", False),
            ("ssl:<port>:privateKey=none.pem:certKey=cert.pem", False),
            ("ssl:<port>:privateKey=foreign-key.pem:certKey=cert.pem", False),
            ("ssl:<port>:privateKey=cert.pem:certKey=cert.pem", False),
            ("ssl:<port>:privateKey=key.pem:certKey=config.yaml", False),
            ("ssl:<port>:privateKey=key.pem:certKey=cert.pem:sslmethod=SSLv3_METHOD", False),
            ("ssl:<port>:privateKey=key.pem:certKey=cert.pem:dhParameters=cert.pem", False),
        )
    ):
        if number % 2:
            yield Case(f"HTTP at {text}", _listening(f'"{text}"'), starts)
        else:
            yield Case(f"Octez socket at {text}", _listening(octez_socket=f'"{text}"'), starts)


def _pairs() -> Iterator[Case]:
    """Two endpoints, which may be one place."""
    v4, v6 = "tcp:<port>:interface=127.0.0.1", "tcp6:<port>:interface=::1"
    for one, other, starts in (
        (v4, v4, False),
        (v4, "tcp:<other>:interface=127.0.0.1", True),
        (v4, "tcp:<port>:interface=127.0.0.2", True),
        (v4, "haproxy:tcp:<port>:interface=127.0.0.1", False),
        (v4, "tcp:<port>:interface=localhost", False),
        (v4, "tcp6:<port>:interface=::ffff:127.0.0.1", False),
        (v4, "ssl:<port>:privateKey=key.pem:certKey=cert.pem:interface=127.0.0.1", False),
        ("tcp:<port>", v4, False),
        (v4, "tcp:<port>:interface=0.0.0.0", False),
        (v4, v6, None),
        ("tcp6:<port>", v6, False),
        ("tcp:<port>", "tcp6:<port>", None),
        (v4, "tls:site:port=<port>", None),
        ("tcp:0:interface=127.0.0.1", "tcp:0:interface=127.0.0.1", True),
        ("unix:a.sock", "unix:a.sock", False),
        ("unix:a.sock", "unix:<here>/./a.sock:mode=660", False),
        ("unix:a.sock", "unix:link/a.sock", False),
        ("unix:a.sock:lockfile=0", "unix:a.sock:lockfile=0", False),
        ("unix:a.sock", "unix:b.sock", True),
        ("tcp:abc", "tcp:<port>:interface=192.0.2.1", False),
    ):
        text = _listening(f'"{one}"', f'"{other}"')
        yield Case(f"{one} and {other}", text, starts)
    yield Case("twice in HTTP", _listening(f'"{v4}", "{v4}"'), False)


def _asked_elsewhere() -> Iterator[Case]:
    """What the resolver, or a cluster, has to answer first."""
    name = _listening('"tcp:<port>:interface=no-such-host.invalid"')
    yield Case("a name that nobody knows", name, False, waits=True)
    etcd = 'watermarks: {store: "etcd:http://127.0.0.1:<other>"}'
    yield Case("etcd away", _with(etcd), True, waits=True)


def _touch(name: str, content: str = "") -> Prepare:
    return lambda directory: (directory / name).write_text(content)


def _dead_socket(directory: Path) -> None:
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(os.path.relpath(directory / "a.sock"))


def _store(change: Callable[[Path], object]) -> Prepare:
    return lambda directory: change(directory / "watermarks.sqlite")


def _no_store(path: Path) -> None:
    for file in path.parent.glob(f"{path.name}*"):
        file.unlink()


def _store_of_other_schema(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()


def _directory_as_store(path: Path) -> None:
    _no_store(path)
    (path / "inside").mkdir(parents=True)


def _pipe_as_store(path: Path) -> None:
    _no_store(path)
    os.mkfifo(path)


def _around() -> Iterator[Case]:
    """What lies around a configuration that is right."""
    at_path = _listening('"unix:a.sock"')
    without = _listening('"unix:a.sock:lockfile=0"')
    plain = _with("")
    asked = "request_token: {header: x-a, file: token.txt}"
    yield Case("a socket of a daemon that died", at_path, True, _dead_socket)
    yield Case("the same, not to be taken over", without, False, _dead_socket)
    yield Case(
        "a link instead of a socket", at_path, False, lambda d: (d / "a.sock").symlink_to("b")
    )
    yield Case("a file in the place of the lock", at_path, False, _touch("a.sock.flock", "x"))
    yield Case("a lock that was left", at_path, True, _touch("a.sock.flock"))
    yield Case(
        "a link in the place of the lock",
        at_path,
        False,
        lambda d: (d / "a.sock.flock").symlink_to("x"),
    )
    yield Case("a directory as lock", at_path, False, lambda d: (d / "a.sock.flock").mkdir())
    yield Case("a new store", plain, True, _store(_no_lock))
    yield Case("no store", plain, False, _store(_no_store))
    yield Case("an empty store", plain, False, _store(lambda path: path.write_bytes(b"")))
    yield Case("no database", plain, False, _store(lambda path: path.write_bytes(b"x" * 9000)))
    yield Case("another schema", plain, False, _store(_store_of_other_schema))
    yield Case("a directory as store", plain, False, _store(_directory_as_store))
    yield Case("a pipe as store", plain, False, _store(_pipe_as_store))
    yield Case(
        "two names of a store", plain, False, _store(lambda p: p.with_name("b").hardlink_to(p))
    )
    yield Case(
        "zeros beside the store",
        plain,
        False,
        _store(lambda path: path.with_name(f"{path.name}.lock").write_bytes(bytes(128))),
    )
    yield Case("a link as lock", plain, False, lambda d: _link_lock(d / "watermarks.sqlite"))
    yield Case("a store elsewhere", _with('watermarks: {store: "sqlite:none/s"}'), False)
    yield Case("a store below a file", _with('watermarks: {store: "sqlite:cert.pem/s"}'), False)
    yield Case("a store of no kind", _with('watermarks: {store: "redis:x"}'), False)
    yield Case("a device as store", _with('watermarks: {store: "sqlite:/dev/null"}'), False)
    yield Case("etcd, no URL", _with('watermarks: {store: "etcd:127.0.0.1"}'), False)
    for name, more in (
        ("no authority", "ca: none.pem"),
        ("no certificate in it", "ca: config.yaml"),
        ("no key", "ca: ca.pem, certificate: cert.pem, private_key: none.pem"),
        ("no password", "user: a, password_file: none.txt"),
    ):
        store = f'watermarks: {{store: "etcd:https://127.0.0.1:<other>", {more}}}'
        yield Case(f"etcd, {name}", _with(store), False)
    for name, file, starts in (
        ("an audit log", "audit.jsonl", True),
        ("an audit log in no directory", "none/audit.jsonl", False),
        ("an audit log below a file", "cert.pem/audit.jsonl", False),
        ("a directory as audit log", ".", False),
        ("a device as audit log", "/dev/null", False),
        ("the store as audit log", "watermarks.sqlite", False),
        ("the configuration as audit log", "config.yaml", False),
    ):
        yield Case(name, _with(f'audit: {{file: "{file}"}}'), starts)
    yield Case(
        "a pipe as audit log", _with("audit: {file: p}"), False, lambda d: os.mkfifo(d / "p")
    )
    yield Case("a token", _with(asked), True, _touch("token.txt", "0123456789abcdef"))
    yield Case("no token", _with(asked), False)
    yield Case("an empty token", _with(asked), False, _touch("token.txt", "\n"))
    yield Case("a client_ca without TLS", _with("client_ca: ca.pem"), False)
    tls = _listening('"ssl:<port>:privateKey=key.pem:certKey=cert.pem:interface=127.0.0.1"')
    yield Case("a client_ca", f"{tls}client_ca: ca.pem\n", True)
    yield Case("a client_ca that is none", f"{tls}client_ca: config.yaml\n", False)
    yield Case("no client_ca", f"{tls}client_ca: none.pem\n", False)
    both = _listening('"tls:site:port=<port>:interface=127.0.0.1"')
    yield Case("a client_ca for tls:", f"{both}client_ca: ca.pem\n", False)
    two = _listening('"ssl:<port>:privateKey=none.pem:certKey=cert.pem", "tls:site:port=<other>"')
    yield Case("two that are wrong with client_ca", f"{two}client_ca: ca.pem\n", False)


def _no_lock(store: Path) -> None:
    store.with_name(f"{store.name}.lock").unlink()


def _link_lock(store: Path) -> None:
    _no_lock(store)
    store.with_name(f"{store.name}.lock").symlink_to("elsewhere")


def _settings() -> Iterator[Case]:
    """What is written in the configuration itself."""
    for name, text, starts in (
        (
            "the original's",
            _ORIGINAL + 'listen: {http: ["tcp:<port>:interface=127.0.0.1"]}\n',
            True,
        ),
        ("the original's, with what it does not know", _ORIGINAL + "debug: True\n", False),
        ("the shipped one", SHIPPED.read_text("utf-8"), None),
        ("empty", "", False),
        ("no YAML", "policy: {", False),
        ("no mapping", "- a", False),
        ("twice the same", _with("verbose: True\nverbose: False"), False),
        ("no key", "policy: {signing_keys: {}}\n", False),
        (
            "a mistyped key",
            f"policy: {{signing_keys: {{{str(TZ3)[:-1]}x: {{allowed_ops: []}}}}}}",
            False,
        ),
        (
            "a tz1",
            f"policy: {{signing_keys: {{{TZ1}: {{allowed_ops: [generic], auth_req: False}}}}}}\n"
            'listen: {http: ["tcp:<port>:interface=127.0.0.1"]}',
            True,
        ),
        ("nobody to authenticate", _of_key("allowed_ops: [block]"), False),
        ("somebody", _of_key("allowed_ops: [block]", f"authorized_keys: [{_EDPK}]"), True),
        ("a wrong one", _of_key("allowed_ops: [block]", "authorized_keys: [edpkx]"), False),
        ("a wrong alias", _of_key("allowed_ops: [block], auth_req: False, curve_alias: 1"), False),
        ("a jump of 0", _of_key("allowed_ops: [block], auth_req: False, max_level_jump: 0"), False),
        ("no such operation", _of_key("allowed_ops: [blok], auth_req: False"), False),
        ("a chain that is none", _of_key("allowed_ops: [block], chains: [Netz]"), False),
        ("rules on operations", _of_key(_ruled("{kinds: [ballot], ballots: [yay]}")), True),
        ("no rules on operations", _of_key(_ruled("{}")), True),
        ("a kind that is none", _of_key(_ruled("{kinds: [balot]}")), False),
        ("an amount without a unit", _of_key(_ruled("{max_amount: 100}")), False),
        ("limits", _with("limits: {connections: 99}"), True),
        ("a limit of 0", _with("limits: {connections: 0}"), False),
        ("a limit unknown", _with("limits: {conections: 99}"), False),
        ("too many connections", _with("limits: {connections: 100000000}"), False),
        ("an octal floor", _with("high_water_marks: {level: {block: 0300000}}"), False),
        ("a sexagesimal floor", _with("high_water_marks: {level: {block: 50:01:00}}"), False),
        ("an octal user", _with("allowed_uids: [01000]"), False),
        ("an address that is none", _with("allowed_ips: [127.0.0.300]"), False),
        ("a wait without end", _with("hsm_wait_seconds: .inf"), False),
        ("a board that is not there", _with("hsms: [{port: <here>/none}]"), True),
        ("a board said twice over", _with("hsms: [{port: /dev/a, serial_number: B}]"), False),
    ):
        yield Case(name, text, starts)


def _denied() -> Iterator[Case]:
    """What a user may not."""
    plain, at_path = _with(""), _listening('"unix:a.sock"')
    named = _with("request_token: {header: x-a, file: token.txt}")
    tls = _listening('"ssl:0:privateKey=key.pem:certKey=cert.pem:interface=127.0.0.1"')
    for name, text, modes in (
        ("a store to read only", plain, {"watermarks.sqlite": 0o444}),
        ("a store that is closed", plain, {"watermarks.sqlite": 0o000}),
        ("a lock to read only", plain, {"watermarks.sqlite.lock": 0o444}),
        ("a lock that is closed", plain, {"watermarks.sqlite.lock": 0o000}),
        ("a store in a directory to read only", plain, {".": 0o555}),
        ("a socket in a directory to read only", at_path, {".": 0o555}),
        ("a configuration that is closed", plain, {"config.yaml": 0o000}),
        ("a token that is closed", named, {"token.txt": 0o000}),
        ("a key that is closed", tls, {"key.pem": 0o000}),
        ("a lock of a socket that is closed", at_path, {"a.sock.flock": 0o000}),
    ):
        yield Case(name, text, False, _mode(modes), without_root=True)
    yield Case(
        "a new store in a directory to read only",
        plain,
        False,
        _new_store_to_read_only,
        without_root=True,
    )
    yield Case("all that is wanted, for a user", plain, True, bool, without_root=True)
    yield Case(
        "a port of root's", _listening('"tcp:80:interface=127.0.0.1"'), None, without_root=True
    )
    yield Case(
        "a store elsewhere that is closed",
        _with('watermarks: {store: "sqlite:shut/s"}'),
        False,
        _shut,
        without_root=True,
    )
    yield Case(
        "a socket in a directory that is closed",
        _listening('"unix:shut/s"'),
        False,
        _shut,
        without_root=True,
    )


def _mode(modes: dict[str, int]) -> Prepare:
    def change(directory: Path) -> None:
        (directory / "token.txt").write_text("0123456789abcdef")
        (directory / "a.sock.flock").touch()
        for name, mode in modes.items():
            (directory / name).chmod(mode)

    return change


def _new_store_to_read_only(directory: Path) -> None:
    _no_lock(directory / "watermarks.sqlite")
    directory.chmod(0o555)


def _shut(directory: Path) -> None:
    (directory / "shut").mkdir(0o000)


CASES = (*_endpoints(), *_pairs(), *_around(), *_settings(), *_denied(), *_asked_elsewhere())


def lay_out(source: Path, directory: Path) -> None:
    """Make the directory of a case: certificates, and an empty store."""
    shutil.copytree(source, directory)
    (directory / "link").symlink_to(directory)
