"""What tests of all four kinds of listener have in common."""

import os

from twisted.trial.unittest import TestCase

from tests.support.harness import Client, Harness
from tests.support.octezsocketclient import OctezSocketClient
from tests.support.vectors import PAYLOADS

NOOP = PAYLOADS["noop"]


class ListenersTestCase(TestCase):
    """A signer with four listeners: HTTP and the socket protocol, on TCP and on Unix sockets."""

    async def open(self, harness: Harness) -> None:
        """Open all listeners of a signer, for the clients that the attributes are by name."""
        await harness.start(self)
        path = os.path.relpath(self.mktemp())  # that of a Unix socket may not be long
        self.http = {
            "HTTP TCP": Client(harness.port),
            "HTTP Unix": Client(0, await harness.open(self, harness.site, f"{path}.http")),
        }
        self.sockets = {
            "socket TCP": OctezSocketClient(await harness.open(self, harness.sockets)),
            "socket Unix": OctezSocketClient(await harness.open(self, harness.sockets, path)),
        }
