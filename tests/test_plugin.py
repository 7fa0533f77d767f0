"""What twistd finds."""

import subprocess
import sys
from os import pathsep

from twisted.application.service import IServiceMaker
from twisted.plugin import getPlugins
from twisted.trial.unittest import SynchronousTestCase

from tezio_signer import tap


class PluginTests(SynchronousTestCase):
    """The drop-in in `twisted/plugins`."""

    def test_found_once(self) -> None:
        """There is exactly one `tezio-signer` for twistd, which leads to the tap."""
        makers = [maker for maker in getPlugins(IServiceMaker) if maker.tapname == "tezio-signer"]
        self.assertEqual(len(makers), 1)
        (maker,) = makers
        self.assertIs(maker.makeService, tap.makeService)
        self.assertIs(maker.options, tap.Options)
        self.assertIn("Tezio HSM", maker.description)

    def test_installs_no_reactor(self) -> None:
        """Looking for plugins imports nothing of ours, and leaves the reactor to twistd."""
        looked = (
            "import sys; from twisted.plugins import tezio_plugin; "
            "print([n for n in sys.modules if n in ('twisted.internet.reactor', 'klein') "
            "or n.startswith('tezio_signer')])"
        )
        printed = subprocess.run(  # noqa: S603
            [sys.executable, "-c", looked],
            env={"PYTHONPATH": pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        self.assertEqual(printed, "[]\n")
