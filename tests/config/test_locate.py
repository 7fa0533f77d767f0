"""Where the configuration is looked for."""

import os
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.support.owndirectory import own_directory
from tests.support.vectors import TZ3
from tezio_signer.config import locate
from tezio_signer.errors import StartupError
from tezio_signer.simulator.settings import built_in_settings

MINIMAL = f"policy: {{signing_keys: {{{TZ3}: {{allowed_ops: [block], auth_req: False}}}}}}\n"


class LocateTests(SynchronousTestCase):
    """Which settings are run with, in a directory of its own."""

    def setUp(self) -> None:
        self.directory = own_directory(self)
        self.system = Path(locate.SYSTEM_CONFIG)

    def write(self, name: str = "config.yaml", more: str = "") -> Path:
        """A configuration with one baking key."""
        path = self.directory / name
        path.write_text(MINIMAL + more)
        return path

    def refused(self, chosen: str | None, simulate: bool = False) -> str:
        """Why there are no settings to run with."""
        built_in = built_in_settings if simulate else None
        return str(self.assertRaises(StartupError, locate.load_settings, chosen, built_in))

    def test_which_file(self) -> None:
        """The option goes before the environment, that before this directory, that before /etc."""
        self.assertEqual(locate.config_path(None), Path("config.yaml"))
        self.system.parent.mkdir()
        self.write("etc/config.yaml")
        self.assertEqual(locate.config_path(None), self.system)
        self.assertEqual(
            locate.load_settings(None).store,
            self.system.parent / "watermarks.sqlite",
        )
        self.write()
        self.assertEqual(locate.config_path(None), Path("config.yaml"))
        os.environ["TEZIO_SIGNER_CONFIG"] = ""
        self.assertEqual(locate.config_path(None), Path("config.yaml"))
        os.environ["TEZIO_SIGNER_CONFIG"] = "/etc/other.yaml"
        self.assertEqual(locate.config_path(None), Path("/etc/other.yaml"))
        self.assertEqual(locate.config_path("mine.yaml"), Path("mine.yaml"))

    def test_configuration(self) -> None:
        """A configuration is read, and its store is used."""
        path = self.write()
        for chosen in (None, str(path), "config.yaml"):
            settings = locate.load_settings(chosen)
            self.assertEqual(list(settings.signing_keys), [TZ3])
            self.assertEqual(settings.store, self.directory / "watermarks.sqlite")

    def test_no_configuration(self) -> None:
        """Without one there is nothing to run with."""
        refused = self.refused(None)
        self.assertIn(f"neither {self.directory}/config.yaml nor {self.system} exists", refused)
        self.assertIn("name one with --config or TEZIO_SIGNER_CONFIG", refused)
        os.environ["TEZIO_SIGNER_CONFIG"] = "none.yaml"
        self.assertIn("none.yaml: cannot be read: No such file", self.refused(None))

    def test_unreadable_is_not_passed_over(self) -> None:
        """One that is there but leads nowhere is said so, and not replaced by another."""
        self.system.parent.mkdir()
        self.write("etc/config.yaml")
        Path("config.yaml").symlink_to("nowhere")
        self.assertIn("config.yaml: cannot be read: No such file", self.refused(None))
        self.assertIn("config.yaml: cannot be read", self.refused(None, simulate=True))
        Path("config.yaml").unlink()
        self.system.unlink()
        self.system.parent.rmdir()
        self.system.parent.write_text("a file, so that nothing can be known of what is in it")
        self.assertIn("config.yaml: cannot be read: Not a directory", self.refused(None))

    def test_wrong_configuration(self) -> None:
        """A mistake in it is the sentence with file and line, simulated or not."""
        self.write(more="verbos: True")
        for simulate in (False, True):
            self.assertIn("config.yaml:2: verbos: unknown key", self.refused(None, simulate))

    def test_simulated(self) -> None:
        """Simulating needs no configuration, and takes one that is there without its store."""
        self.system.parent.mkdir()
        self.write("etc/config.yaml")  # is the service's, for boards
        self.assertEqual(locate.load_settings(None, built_in_settings), built_in_settings())
        self.write()
        settings = locate.load_settings(None, built_in_settings)
        self.assertEqual(list(settings.signing_keys), [TZ3])
        self.assertIsNone(settings.store)

    def test_simulated_with_a_missing_configuration(self) -> None:
        """A configuration that was asked for by name has to be there, simulated or not."""
        self.assertIn("mine.yaml: cannot be read", self.refused("mine.yaml", simulate=True))
        os.environ["TEZIO_SIGNER_CONFIG"] = "other.yaml"
        self.assertIn("other.yaml: cannot be read", self.refused(None, simulate=True))

    def test_source(self) -> None:
        """Built-in settings have no file, also where there is that of the service."""
        self.system.parent.mkdir()
        self.write("etc/config.yaml")
        self.assertIsNone(locate.source_of(None, simulate=True))
        self.assertEqual(locate.source_of(None, simulate=False), self.system)
        self.write()
        self.assertEqual(locate.source_of(None, simulate=True), Path("config.yaml"))
        self.assertEqual(locate.source_of("a.yaml", simulate=True), Path("a.yaml"))
