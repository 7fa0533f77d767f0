"""A directory for a test alone, in which no other configuration is found."""

import os
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tezio_signer.config import locate


def own_directory(test: SynchronousTestCase) -> Path:
    """Work in a new directory until the test ends; its `etc/` replaces that of the system."""
    directory = Path(test.mktemp()).absolute()
    directory.mkdir()
    test.addCleanup(os.chdir, Path.cwd())
    os.chdir(directory)
    environment = {k: v for k, v in os.environ.items() if k != locate.CONFIG_VARIABLE}
    test.patch(os, "environ", environment)
    test.patch(locate, "SYSTEM_CONFIG", str(directory / "etc" / "config.yaml"))
    return directory
