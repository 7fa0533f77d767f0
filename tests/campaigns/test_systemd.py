"""The shipped unit under systemd, where a machine for it was made before."""

import os
from pathlib import Path

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from tests.campaigns import systemd


class SystemdTests(SynchronousTestCase):
    """Runs where it is asked for, and the campaign has been run.

    Making the machine needs minutes and the network.

    What it installs there is the wheel that was built for these tests.
    """

    def test_shipped_unit(self) -> None:
        """HTTPS, Unix sockets, the journal, a kill and etcd over HTTPS work under the unit."""
        if not os.environ.get("TEZIO_SIGNER_SYSTEMD"):
            raise SkipTest("TEZIO_SIGNER_SYSTEMD=1 would boot a machine with systemd")
        why = systemd.missing(systemd.ROOT)
        if why is None and not (systemd.ROOT / "opt/tezio-signer/bin/pip").exists():
            why = f"there is no machine in {systemd.ROOT}: run python -m tests.campaigns.systemd"
        wheels = [
            wheel
            for directory in Path(__file__).absolute().parents[2:5]
            for wheel in sorted(directory.glob("build/wheel/*.whl"))
        ]
        if why is None and not wheels:
            why = "there is no wheel in build/wheel"
        if why is not None:
            raise SkipTest(why)
        systemd.make_root(systemd.ROOT, wheels[0])
        report = systemd.boot(systemd.ROOT)
        for story in systemd.STORIES:
            self.assertEqual(report.get(story), "well", report)
