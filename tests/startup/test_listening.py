"""What would keep the daemon from listening."""

import resource

from twisted.internet import endpoints
from twisted.trial.unittest import SynchronousTestCase

from tezio_signer.config.endpoints import Endpoint
from tezio_signer.config.settings import Limits
from tezio_signer.errors import StartupError
from tezio_signer.startup.listening import check_open_files, try_endpoint


class ListeningTests(SynchronousTestCase):
    """What is found out without listening."""

    def test_open_files(self) -> None:
        """More connections than there can be open files end the start."""
        self.patch(resource, "getrlimit", lambda _: (1024, 4096))
        check_open_files(Limits())
        error = self.assertRaises(StartupError, check_open_files, Limits(connections=1000))
        self.assertIn("limits.connections is 1000, which may need 1565 open files", str(error))
        self.patch(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY, -1))
        check_open_files(Limits(connections=1000))

    def test_plugin(self) -> None:
        """An endpoint of a plugin is read by it, with what it says if it cannot; none is opened."""
        try_endpoint(Endpoint.parse("stdio:"))

        def refuse(*_: object) -> None:
            raise TypeError("it takes no x")

        self.patch(endpoints, "serverFromString", refuse)
        error = self.assertRaises(StartupError, try_endpoint, Endpoint.parse("stdio:x=1"))
        self.assertEqual("'stdio:x=1' is not an endpoint to listen on: it takes no x", str(error))

    def test_handed_over(self) -> None:
        """A socket of systemd is not there yet, and nothing can be said of it."""
        try_endpoint(Endpoint.parse("systemd:domain=INET:index=0"))
