"""Settings that are read at the start, and again while the daemon runs."""

import os
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.support.certificates import Authority
from tests.support.owndirectory import own_directory
from tests.support.vectors import TZ1, TZ3
from tezio_signer.errors import StartupError
from tezio_signer.simulator.settings import built_in_settings
from tezio_signer.startup import source
from tezio_signer.startup.source import Source

KEY = "{allowed_ops: [generic], auth_req: False}"
BASE = f"policy: {{signing_keys: {{{TZ3}: {KEY}}}}}\n"
TWO = f"policy: {{signing_keys: {{{TZ3}: {KEY}, {TZ1}: {KEY}}}}}\n"


class SourceTests(SynchronousTestCase):
    """A file that changes between two readings."""

    def setUp(self) -> None:
        self.directory = own_directory(self)
        self.path = self.directory / "config.yaml"
        self.path.write_text(BASE)
        self.source = Source(self.path, None)
        self.settings = self.source.load()
        self.slept: list[float] = []
        self.patch(source, "sleep", self.sleep)

    def sleep(self, seconds: float) -> None:
        """What passes for the time in which a file has to be the same."""
        self.slept.append(seconds)

    def refused(self, text: str) -> str:
        """Why a file is refused when it is read again."""
        self.path.write_text(text)
        error = self.assertRaises(StartupError, self.source.load_again, self.settings)
        return str(error)

    def test_same_file(self) -> None:
        """It is the file of the start that is read, although another is nearer by now."""
        elsewhere = self.directory / "elsewhere"
        elsewhere.mkdir()
        (elsewhere / "config.yaml").write_text("verbose: 1")
        os.chdir(elsewhere)
        self.path.write_text(TWO)
        loaded = self.source.load_again(self.settings)
        self.assertEqual(loaded.changes.now, (f"{TZ1} is added",))
        self.assertEqual(list(loaded.settings.signing_keys), [TZ3, TZ1])
        self.assertEqual(loaded.settings.store, self.directory / "watermarks.sqlite")

    def test_errors(self) -> None:
        """All that a start would end with is an error, with its place."""
        self.assertIn(f"{self.path}:2: verbos: unknown key", self.refused(f"{BASE}verbos: True"))
        self.assertIn(f"{self.path}:1: the file is empty", self.refused(""))
        self.assertIn("is not an endpoint", self.refused(f"{BASE}listen: {{http: [tcp]}}"))
        self.assertIn("ulimit -n", self.refused(f"{BASE}limits: {{connections: 100000}}"))
        self.assertIn("protects nothing", self.refused(f"{BASE}client_ca: {self.authority.path}"))
        self.path.unlink()
        error = self.assertRaises(StartupError, self.source.load_again, self.settings)
        self.assertIn(f"{self.path}: cannot be read: No such file", str(error))

    def test_being_written(self) -> None:
        """What an editor has begun to write is read again, until it is the same for a moment."""
        parts = [TWO, f"{TWO}allowed_ips: [", f"{TWO}allowed_ips: ['10.0.0.0/8']\n"]

        def write(seconds: float) -> None:
            self.slept.append(seconds)
            if parts:
                self.path.write_text(parts.pop(0))

        self.patch(source, "sleep", write)
        loaded = self.source.load_again(self.settings)
        self.assertEqual(loaded.changes.now, (f"{TZ1} is added", "allowed_ips"))
        self.assertEqual(self.slept, [0.1] * 4)

    def test_written_all_the_time(self) -> None:
        """It is not waited for for ever."""
        self.patch(source, "sleep", lambda _: self.path.write_text(self.path.read_text() + "#"))
        self.assertIn("is being written all the time", self.refused(TWO))

    def test_replaced(self) -> None:
        """A file that another one is moved onto is read again, too; and one that is not there."""
        (self.directory / "new").write_text(TWO)
        for old in (BASE, None):
            (self.directory / "new").write_text(TWO)
            if old is None:
                self.path.unlink()
            moves = iter([lambda: (self.directory / "new").rename(self.path)])
            self.patch(source, "sleep", lambda _, moves=moves: next(moves, bool)())
            loaded = self.source.load_again(self.settings)
            self.assertEqual(loaded.changes.now, (f"{TZ1} is added",))

    def test_half_written(self) -> None:
        """Where a file was cut off, it is an error, unless that is behind a line."""
        whole = f"{TWO}allowed_ips: ['10.0.0.0/8']\nrequest_token: {{header: x-a, file: t}}\n"
        (self.directory / "t").write_text("0123456789abcdef")
        accepted = []
        for end in range(len(whole) + 1):
            self.path.write_text(whole[:end])
            try:
                accepted.append(self.source.load_again(self.settings).settings)
            except StartupError:
                continue
        self.assertEqual(accepted[-1].allowed_ips, accepted[-2].allowed_ips)
        # What ends with a line is a whole file to anybody: so much can be accepted, and no more.
        self.assertEqual(
            {(len(each.signing_keys), str(each.allowed_ips[0])) for each in accepted},
            {(2, "127.0.0.1/32"), (2, "10.0.0.0/8")},
        )

    @property
    def authority(self) -> Authority:
        """Certificates in this directory."""
        return Authority(self.directory)

    def test_certificates(self) -> None:
        """Files of TLS that a start could not use are an error, also of endpoints that stay."""
        server = self.authority.certify("server", server=True)
        at = f"ssl:0:interface=127.0.0.1:privateKey={server.key}:certKey={server.certificate}"
        text = f"{BASE}listen: {{http: ['{at}']}}\n"
        self.path.write_text(text)
        self.settings = self.source.load()
        self.assertEqual(self.source.load_again(self.settings).changes.by_restart, ())
        Path(server.certificate).write_text("nothing")
        self.assertIn("holds no certificate in PEM", self.refused(text))

    def test_by_restart(self) -> None:
        """What needs a restart stays, and warnings are of what is in force then."""
        self.path.write_text(
            f"{TWO}listen: {{http: ['tcp:1:interface=127.0.0.1']}}\nallowed_ips: ['0.0.0.0/0']\n"
            "watermarks: {store: 'sqlite:other'}\nhsms: [{port: /dev/ttyACM0}]\n"
        )
        self.settings = Source(self.path, None, ("tcp:2:interface=0.0.0.0",)).load()
        loaded = self.source.load_again(self.settings)
        self.assertEqual(loaded.changes.now, ())
        self.assertEqual(loaded.changes.by_restart, ("listen.http",))
        self.assertEqual(loaded.settings, self.settings)
        self.assertIn("ANYBODY who reaches tcp:2", " ".join(loaded.warnings))

    def test_command_line(self) -> None:
        """Endpoints of the command line replace those of the file at every reading."""
        also = Source(self.path, None, ("tcp:1:interface=127.0.0.1",), ("unix:/a",))
        settings = also.load()
        self.path.write_text(f"{BASE}listen: {{http: ['tcp:5'], octez_socket: ['tcp:6']}}\n")
        loaded = also.load_again(settings)
        self.assertEqual(loaded.changes.by_restart, ())
        self.assertEqual(loaded.settings.endpoints, ("tcp:1:interface=127.0.0.1", "unix:/a"))

    def test_simulated(self) -> None:
        """A simulated HSM keeps its throw-away watermarks, whatever the file says of a store."""
        simulated = Source(self.path, str(self.path), built_in=built_in_settings)
        settings = simulated.load()
        self.assertIsNone(settings.store)
        self.path.write_text(f"{TWO}watermarks: {{store: 'sqlite:x'}}\n")
        loaded = simulated.load_again(settings)
        self.assertIsNone(loaded.settings.store)
        self.assertEqual(loaded.changes.by_restart, ())
