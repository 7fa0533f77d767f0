"""What `systemd.py` runs within its machine: the shipped unit with every documented feature.

Runs with Python alone, as a service of that machine, and leaves what it saw in `report.json`.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

HERE = Path(sys.argv[1] if len(sys.argv) > 1 else "/campaign")
BIN = "/opt/tezio-signer/bin"
ETC = Path("/etc/tezio-signer")
CONFIG = ETC / "config.yaml"
TZ3 = "tz3MyarJihHrejsze59J2Seita7jYWDCJDPe"
CA = str(ETC / "ca.pem")
STOP_SECONDS = 5
_CERTIFY = (
    "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 "
    "-subj /CN={name} -addext subjectAltName=IP:127.0.0.1,DNS:localhost "
    "-addext basicConstraints=critical,CA:FALSE "
    "-CA ca.pem -CAkey ca-key.pem -keyout {name}-key.pem -out {name}.pem"
)
_AUTHORITY = (
    "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 "
    "-subj /CN=campaign -keyout ca-key.pem -out ca.pem"
)
_LISTEN = """\
policy: {{signing_keys: {{{key}: {{allowed_ops: [block, generic], auth_req: False}}}}}}
hsms: [{{port: /run/tezio-hsm/hsm}}]
listen:
    http:
        - ssl:6732:interface=127.0.0.1:privateKey={etc}/server-key.pem:certKey={etc}/server.pem
        - tls:{etc}/certificates:port=6733:interface=127.0.0.1
        - unix:/run/tezio-signer/http.sock:mode=666
    octez_socket: ["unix:/run/tezio-signer/signer.sock:mode=660"]
"""
_SQLITE = 'watermarks: {store: "sqlite:/var/lib/tezio-signer/watermarks.sqlite"}\n'
_ETCD = """\
watermarks:
    store: "etcd:https://localhost:2379"
    ca: /etc/tezio-signer/ca.pem
    certificate: /etc/tezio-signer/server.pem
    private_key: /etc/tezio-signer/server-key.pem
"""
_HSM = f"""\
[Service]
User=tezio-signer
RuntimeDirectory=tezio-hsm
ExecStart={BIN}/tezio-signer simulate --link /run/tezio-hsm/hsm --latency 0
"""
_ETCD_UNIT = f"""\
[Service]
Type=notify
StateDirectory=etcd
ExecStart=/usr/bin/etcd --data-dir /var/lib/etcd/campaign \
 --listen-client-urls https://127.0.0.1:2379 --advertise-client-urls https://localhost:2379 \
 --client-cert-auth --trusted-ca-file {CA} \
 --cert-file {ETC}/server.pem --key-file {ETC}/server-key.pem
"""


def do(command: str | Sequence[str], check: bool = True) -> str:
    """What a command says; it has to succeed, unless `check` is False."""
    arguments = command.split() if isinstance(command, str) else command
    done = subprocess.run(  # noqa: S603
        arguments, capture_output=True, text=True, cwd=ETC, timeout=60, check=False
    )
    if check and done.returncode:
        raise AssertionError(
            f"{' '.join(arguments)}: {done.returncode}\n{done.stdout}{done.stderr}"
        )
    return done.stdout


def until(true: Callable[[], bool], what: str, seconds: float = 30) -> None:
    """Wait until something is so."""
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds} s: {what}")
        time.sleep(0.1)


def show(name: str) -> str:
    """A property of the service."""
    return do(f"systemctl show --value --property {name} tezio-signer").strip()


def block(level: int, other: int = 0) -> str:
    """The payload of one of two blocks at a level, in hexadecimal digits."""
    blocks: dict[str, list[str]] = json.loads((HERE / "blocks.json").read_text())
    return blocks[str(level)][other]


def sign(payload: str, *options: str) -> tuple[int, str]:
    """The status and the answer of a request for a signature."""
    where = options[-1]
    said = do(
        ["curl", "-s", "-m", "10", "-w", "\n%{http_code}", "-d", f'"{payload}"', *options[:-1],
         f"{where}/keys/{TZ3}"],
        check=False,
    )  # fmt: skip
    answer, _, status = said.rpartition("\n")
    return int(status or 0), answer


def prepare() -> None:
    """What README says, and the two services that the signer needs."""
    do("useradd --system --user-group --home-dir /var/lib/tezio-signer "
       "--shell /usr/sbin/nologin tezio-signer", check=False)  # fmt: skip
    do(_AUTHORITY)
    do(_CERTIFY.format(name="server"))
    (ETC / "certificates").mkdir(exist_ok=True)
    pair = (ETC / "server-key.pem").read_text() + (ETC / "server.pem").read_text()
    (ETC / "certificates" / "localhost.pem").write_text(pair)
    do("chown -R tezio-signer /etc/tezio-signer")
    units = Path("/run/systemd/system")
    units.mkdir(exist_ok=True)
    for name, text in (("hsm", _HSM), ("campaign-etcd", _ETCD_UNIT)):
        (units / f"{name}.service").write_text(text)
    (units / "tezio-signer.service").write_bytes((HERE / "tezio-signer.service").read_bytes())
    more = HERE / "more.conf"
    if more.exists():
        (units / "tezio-signer.service.d").mkdir(exist_ok=True)
        (units / "tezio-signer.service.d" / "more.conf").write_bytes(more.read_bytes())
    do("install -d -o tezio-signer -g tezio-signer -m 0700 /var/lib/tezio-signer")
    Path("/etc/hosts").write_text("127.0.0.1 localhost\n")
    do("systemctl stop etcd", check=False)  # the one that comes with the package
    do("systemctl daemon-reload")
    do("systemctl start hsm campaign-etcd")


def configure(store: str) -> None:
    """Lay down a configuration and make its store, as its user."""
    CONFIG.write_text(_LISTEN.format(key=TZ3, etc=ETC) + store)
    user = ["runuser", "-u", "tezio-signer", "--", f"{BIN}/tezio-signer"]
    do([*user, "watermarks", "init", "--config", str(CONFIG)])


def started() -> None:
    """Start the service, and wait until it has its HSM."""
    do("systemctl start tezio-signer")
    until(lambda: "is ready: slot" in journal("MESSAGE"), "an HSM that is ready")


def journal(field: str) -> str:
    """One field of all lines of the service's journal since its last start."""
    invocation = show("InvocationID")
    found = do(["journalctl", f"_SYSTEMD_INVOCATION_ID={invocation}", "-o", "json"])
    return "\n".join(str(json.loads(line).get(field)) for line in found.splitlines())


def stopped() -> None:
    """Stop the service, in time and in good order."""
    began = time.monotonic()
    do("systemctl stop tezio-signer")
    took = time.monotonic() - began
    assert took < STOP_SECONDS, f"the stop took {took:.1f} s"
    assert show("Result") == "success", show("Result")


def listeners() -> None:
    """`ssl:`, `tls:` and Unix sockets are served, to those who may use them."""
    configure(_SQLITE)
    started()
    for level, options in enumerate(
        (
            ("--cacert", CA, "https://127.0.0.1:6732"),
            ("--cacert", CA, "https://localhost:6733"),
            ("--unix-socket", "/run/tezio-signer/http.sock", "http://localhost"),
        ),
        start=10,
    ):
        status, answer = sign(block(level), *options)
        assert status == 200, f"{options}: {status} {answer}"
    connect = "import socket; socket.socket(socket.AF_UNIX).connect('/run/tezio-signer/%s')"
    for name, works in (("http.sock", True), ("signer.sock", False)):
        other = ["runuser", "-u", "nobody", "--", "python3", "-c", connect % name]
        done = subprocess.run(other, check=False, capture_output=True)  # noqa: S603
        assert (done.returncode == 0) == works, done.stderr.decode()


def journald() -> None:
    """Lines have a priority and an identifier, and no second time."""
    sign(block(9), "--cacert", CA, "https://127.0.0.1:6732")
    until(lambda: " 409 " in journal("MESSAGE"), "a refusal in the journal")
    lines = list(zip(journal("MESSAGE").split("\n"), journal("PRIORITY").split("\n"), strict=True))
    ours = [line for line in lines if not line[0].startswith(("Starting", "Started"))]
    assert any(text.startswith("signed block") and number == "6" for text, number in ours), ours
    assert any(" 409 " in text and number == "4" for text, number in ours), ours
    assert not any(text.startswith(("20", "<")) for text, _ in ours), ours
    names = set(journal("SYSLOG_IDENTIFIER").split("\n")) - {"systemd"}
    assert names == {"tezio-signer"}, names


def reloaded() -> None:
    """`systemctl reload` has the same process go by another configuration, or stay as it was."""
    before, text = show("MainPID"), CONFIG.read_text()
    https = ("--cacert", CA, "https://127.0.0.1:6732")
    CONFIG.write_text(text.replace("[block, generic]", "[generic]"))
    do("systemctl reload tezio-signer")
    until(lambda: f"changed: allowed_ops of {TZ3}" in journal("MESSAGE"), "another configuration")
    assert sign(block(13), *https)[0] == 403
    CONFIG.write_text(text + "verbos: True\n")
    do("systemctl reload tezio-signer")
    until(lambda: "verbos: unknown key" in journal("MESSAGE"), "an error in the journal")
    assert sign(block(13), *https)[0] == 403
    CONFIG.write_text(text)
    do("systemctl reload tezio-signer")
    until(lambda: sign(block(13), *https)[0] == 200, "the first configuration again")
    assert show("MainPID") == before
    assert show("NRestarts") == "0", show("NRestarts")


def killed() -> None:
    """After `kill -9` it is there again, with its marks."""
    before = show("MainPID")
    do("systemctl kill --signal KILL tezio-signer")
    until(lambda: show("MainPID") not in (before, "0"), "another process")
    until(lambda: "is ready: slot" in journal("MESSAGE"), "an HSM that is ready")
    assert sign(block(10, 1), "--cacert", CA, "https://127.0.0.1:6732")[0] == 409
    assert show("NRestarts") == "1", show("NRestarts")
    stopped()


def etcd() -> None:
    """Marks in etcd over HTTPS with client certificates."""
    configure(_ETCD)
    started()
    status, answer = sign(block(20), "--cacert", CA, "https://127.0.0.1:6732")
    assert status == 200, f"{status} {answer}"
    assert sign(block(20, 1), "--cacert", CA, "https://127.0.0.1:6732")[0] == 409
    stopped()


def main() -> None:
    """Run all, and write down what was wrong."""
    report: dict[str, str] = {}
    for step in (prepare, listeners, journald, reloaded, killed, etcd):
        try:
            step()
            report[step.__name__] = "well"
        except Exception as error:
            units = "-u tezio-signer -u hsm -u campaign-etcd"
            log = do(f"journalctl {units} -n 40 -o cat", check=False)
            report[step.__name__] = f"{type(error).__name__}: {error}\n{log}"
            break
    report["security"] = do("systemd-analyze security --no-pager tezio-signer", check=False)[-200:]
    (HERE / "report.json").write_text(json.dumps(report, indent=2))
    os.sync()


if __name__ == "__main__":
    main()
