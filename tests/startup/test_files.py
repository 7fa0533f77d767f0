"""Whose the files are that a configuration names, and who can read them."""

import os
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from tezio_signer.config.settings import ClientCa, EtcdAddress, RequestToken
from tezio_signer.simulator.settings import built_in_settings
from tezio_signer.startup import files as filefacts
from tezio_signer.startup.files import FileFacts, NamedFile
from tezio_signer.startup.warnings import warnings_of

NOBODY = 65534


class FileFactsTests(SynchronousTestCase):
    """Files in a directory of their own."""

    def setUp(self) -> None:
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir()

    def file(self, name: str, mode: int) -> Path:
        """A file with this mode."""
        path = self.directory / name
        path.write_text("content")
        path.chmod(mode)
        return path

    def facts(self, mode: int, secret: bool = True) -> FileFacts:
        """What is known of a file with this mode."""
        (facts,) = filefacts.facts_of([NamedFile("token", self.file("token.txt", mode), secret)])
        return facts

    def test_named(self) -> None:
        """The files of endpoints, token, client certificates and etcd are known, each once."""
        ssl = "ssl:1:privateKey=/k:certKey=/c"
        etcd = EtcdAddress(
            ("https://a:1",), Path("/e/ca"), Path("/e/c"), Path("/e/k"), "me", Path("/e/p")
        )
        settings = evolve(
            built_in_settings(),
            request_token=RequestToken("x-a", bytes(16), Path("/t")),
            client_ca=ClientCa(Path("/ca")),
            store=etcd,
            http=(ssl, "tcp:1"),
            octez_socket=(f"haproxy:{ssl}",),
        )
        files = filefacts.named_files(settings)
        self.assertEqual(
            [(str(file.path), file.secret) for file in files],
            [
                *(("/k", True), ("/c", False), ("/ca", False), ("/t", True)),
                *(("/e/ca", False), ("/e/c", False), ("/e/k", True), ("/e/p", True)),
            ],
        )
        (both,) = filefacts.named_files(evolve(built_in_settings(), http=("ssl:1:privateKey=/k",)))
        self.assertTrue(both.secret)

    def test_exposed(self) -> None:
        """A secret that all can read, and whatever all can change, is warned of."""
        for mode, secret, words in (
            (0o600, True, []),
            (0o640, True, []),
            (0o644, False, []),
            (0o644, True, ["can read the token: chmod o-r "]),
            (0o602, False, ["can change the token: chmod o-w "]),
            (0o666, True, ["can read the token", "can change the token"]),
        ):
            warnings = filefacts.exposed([self.facts(mode, secret)])
            self.assertEqual(len(warnings), len(words), warnings)
            for warning, these in zip(warnings, words, strict=True):
                self.assertIn(f"everybody on this machine {these}", warning)
                self.assertIn(f"mode {mode:04o}", warning)

    def test_at_start(self) -> None:
        """They are among the warnings of start-up and `check`."""
        token = RequestToken("x-a", bytes(16), self.file("t", 0o644))
        settings = evolve(built_in_settings(), request_token=token, http=("unix:/x",))
        (warning,) = warnings_of(settings)
        self.assertIn("everybody on this machine can read the request token", warning)

    def test_missing(self) -> None:
        """Of a file that is missing nothing is known, and nothing said."""
        self.assertEqual(filefacts.facts_of([NamedFile("key", self.directory / "none")]), [])

    def test_closed_to(self) -> None:
        """Who cannot read a file, or get to it, is named with whose it is and what to do."""
        if os.geteuid() == NOBODY:
            raise self.skipTest("this is the user that is taken for another")
        self.directory = Path(mkdtemp())  # which, unlike that of the tests, others can get to
        self.addCleanup(rmtree, self.directory)
        self.directory.chmod(0o755)
        self.assertEqual(filefacts.closed_to(NOBODY, [self.facts(0o644)]), [])
        facts = self.facts(0o640)
        (warning,) = filefacts.closed_to(NOBODY, [facts])
        self.assertIn(f"cannot read the token {self.directory}/token.txt ({facts})", warning)
        self.assertIn("mode 0640", warning)
        readable = self.facts(0o644)
        self.directory.chmod(0o700)
        self.assertEqual(len(filefacts.closed_to(NOBODY, [readable])), 1)
        self.assertEqual(filefacts.closed_to(os.geteuid(), [facts]), [])
        self.assertEqual(filefacts.closed_to(0, [facts]), [])

    def test_user_of_the_store(self) -> None:
        """For root it is the owner of the store; everybody else is himself."""
        store = self.file("marks", 0o600)
        self.patch(os, "geteuid", lambda: 4711)
        self.assertEqual(filefacts.user_of(store), 4711)
        self.patch(os, "geteuid", lambda: 0)
        self.assertEqual(filefacts.user_of(store), store.stat().st_uid)
        self.assertEqual(filefacts.user_of(self.directory / "none"), 0)
        self.assertEqual(filefacts.user_of(None), 0)
