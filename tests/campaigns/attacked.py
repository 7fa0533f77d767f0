"""The daemon that is attacked: a process of its own, with a simulated HSM in another."""

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from subprocess import PIPE, Popen
from threading import Thread

from tests.support.certificates import Authority
from tests.support.vectors import TZ3
from tezio_signer.watermarks.sqlite import store as sqlite

ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))}
_COMMAND = "from tezio_signer.cli.main import main; main()"
_TWISTD = "from twisted.scripts.twistd import run; run()"
_CONFIG = """
policy:
  signing_keys: {{{key}: {{allowed_ops: [preattestation, attestation], auth_req: False}}}}
allowed_ips: [127.0.0.1, 127.0.0.3]
listen:
  http: ['tcp:0:interface=127.0.0.1', '{tls}']
  octez_socket: ['tcp:0:interface=127.0.0.1']
hsms: [{{port: '{hsm}'}}]
watermarks: {{store: 'sqlite:{store}'}}
"""


RSA_BITS = 4096
"""Of the key of the certificate: the slowest that is in use."""


class _Process:
    """A program of ours that is asked for nothing but its output."""

    def __init__(self, program: str, arguments: Sequence[str]) -> None:
        self._process = Popen(  # noqa: S603
            [sys.executable, "-c", program, *arguments],
            stdout=PIPE,
            stderr=PIPE,
            text=True,
            env=ENVIRONMENT,
        )

    @property
    def directory(self) -> Path:
        """Where Linux tells of it."""
        return Path(f"/proc/{self._process.pid}")

    def told(self, pattern: str) -> int:
        """Wait until its output matches; the number in it, or 0."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if found := re.search(pattern, line):
                return int(found[1] or 0)
        assert self._process.stderr is not None
        raise AssertionError(f"a process has ended: {self._process.stderr.read()}")

    def mute(self) -> None:
        """Have what it says from now on read, or it would wait for a reader."""
        for stream in (self._process.stdout, self._process.stderr):
            assert stream is not None
            Thread(target=stream.read, daemon=True).start()

    def stop(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait()


class Daemon:
    """`twistd tezio-signer` on free ports of loopback: HTTP, HTTPS and the socket protocol.

    :param directory: empty; its store and its configuration are laid down there.
    :param milliseconds: what the simulated HSM takes for every operation.
    """

    def __init__(self, directory: Path, milliseconds: int) -> None:
        hsm, store, self._config = (
            directory / name for name in ("hsm", "watermarks.sqlite", "config.yaml")
        )
        server = Authority(directory).certify("server", server=True, rsa_bits=RSA_BITS)
        tls = f"ssl:0:interface=127.0.0.1:privateKey={server.key}:certKey={server.certificate}"
        self._config.write_text(_CONFIG.format(key=TZ3, tls=tls, hsm=hsm, store=store))
        sqlite.create(store)
        self._hsm = _Process(
            _COMMAND, ("simulate", "--link", str(hsm), "--latency", str(milliseconds))
        )
        try:
            self._hsm.told("simulated HSM at ()")
            self._hsm.mute()
            self._start()
        except BaseException:
            self._hsm.stop()
            raise

    def _start(self) -> None:
        options = ("-n", "--pidfile=", "tezio-signer", "--config", str(self._config))
        self._process = _Process(_TWISTD, options)
        try:
            self.port = self._process.told(r"SignerSite starting on (\d+)")
            self.tls_port = self._process.told(r"SignerSite \(TLS\) starting on (\d+)")
            self.socket_port = self._process.told(r"OctezSocketFactory starting on (\d+)")
            self._process.told("HSM .* is ready()")
        except BaseException:
            self._process.stop()
            raise
        self._process.mute()

    def restart(self) -> None:
        """End it, and start it anew on other ports."""
        self._process.stop()
        self._start()

    @property
    def peak_memory(self) -> int:
        """The most bytes of it that were in memory since `forget_peak`."""
        status = (self._process.directory / "status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024

    def forget_peak(self) -> None:
        """Have the peak begin anew with what is in memory now."""
        (self._process.directory / "clear_refs").write_text("5")  # proc_pid_clear_refs(5)

    def stop(self) -> None:
        """End it, and its HSM."""
        self._process.stop()
        self._hsm.stop()
