"""What a daemon says of itself when it has started."""

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from tests.vectors import SHIPPED
from tezio_signer import config
from tezio_signer.banner import banner


class ReadyTests(SynchronousTestCase):
    """Its last line."""

    def setUp(self) -> None:
        self.settings = config.load(SHIPPED)

    def last(self, *http: str) -> str:
        """The last line, with these endpoints."""
        return banner(self.settings, None, http, ()).splitlines()[-1]

    def test_to_try(self) -> None:
        """It has a command that works here, as it is."""
        port = "tcp:6732:interface=127.0.0.1"
        told = "ready; try it with: curl -s http://127.0.0.1:6732/"
        self.assertEqual(self.last(port), f"{told}known_keys")
        self.assertEqual(self.last("tcp:6732"), f"{told}known_keys")
        self.settings = evolve(self.settings, list_known_keys=False)
        self.assertEqual(self.last("unix:/run/tezio-signer/signer.sock", port), told)

    def test_nothing_to_try(self) -> None:
        """No command is shown that would be refused or would want more than is shown."""
        for http in ("unix:/s", "ssl:1:privateKey=k:certKey=c", "haproxy:tcp:1", "tcp:0"):
            self.assertEqual(self.last(http), "ready", http)
