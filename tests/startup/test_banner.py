"""What a daemon says of itself when it has started."""

from ipaddress import ip_network
from pathlib import Path

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from tests.support.harness import settings_with
from tests.support.vectors import SHIPPED, TZ1, TZ3
from tezio_signer import __version__
from tezio_signer.config import document as config
from tezio_signer.config.settings import ClientCa, RequestToken, Security
from tezio_signer.startup.banner import banner
from tezio_signer.tezos.payload import Operation

HTTP = "tcp:6732:interface=127.0.0.1"


class BannerTests(SynchronousTestCase):
    """All that decides what is signed, for whom, is in it; and no secret."""

    def test_built_in(self) -> None:
        """Without a file it says so, and that the marks are in memory."""
        lines = banner(settings_with(), None).splitlines()
        self.assertEqual(
            lines[:5],
            [
                f"Tezio Signer {__version__} has started",
                "configuration: built in",
                "watermarks: in memory, and gone when it stops",
                f"HTTP at {HTTP}: this machine only, not encrypted",
                "who may ask: 127.0.0.1/32, ::1/128",
            ],
        )

    def test_listeners(self) -> None:
        """Of each listener it says how it is protected."""
        token = RequestToken("x-token", b"0123456789abcdef")
        settings = settings_with(request_token=token, client_ca=ClientCa(Path("ca.pem")))
        endpoints = {
            "tcp:1": "open to other machines, not encrypted{}",
            "ssl:2:privateKey=k": "open to other machines, TLS, client certificates{}",
            "unix:/run/x": "mode 600, not encrypted{}",
            "unix:/run/y:mode=660": "mode 660, not encrypted{}",
            "haproxy:tcp:3:interface=127.0.0.1": (
                "this machine only, not encrypted{}, the proxy says who asks"
            ),
        }
        listening = evolve(settings, http=tuple(endpoints), octez_socket=tuple(endpoints))
        said = banner(listening, Path("/etc/x.yaml"))
        for endpoint, protection in endpoints.items():
            self.assertIn(f"HTTP at {endpoint}: {protection.format(', token in x-token')}\n", said)
            self.assertIn(f"Octez socket at {endpoint}: {protection.format('')}\n", said)
        self.assertIn("configuration: /etc/x.yaml\n", said)
        self.assertNotIn("0123456789abcdef", said)

    def test_rules(self) -> None:
        """Of each key it says what it signs; what is switched off is said of all of them."""
        settings = settings_with([Operation.BLOCK], auth_req=True, chains=["NetXdQprcVkpaWU"])
        self.assertIn(
            f"{TZ3}: block, chains NetXdQprcVkpaWU, at most 500000 levels at once, authenticated",
            banner(settings, None).splitlines(),
        )
        off = Security(False, False, False, False)
        lines = banner(evolve(settings, security=off), None).splitlines()
        self.assertIn("who may ask: every address", lines)
        self.assertIn(
            f"{TZ1}: everything, chains NetXdQprcVkpaWU, no watermarks, without authentication",
            lines,
        )

    def test_spending(self) -> None:
        """Nothing about levels and chains is said of a key that signs no blocks and votes."""
        spends = settings_with([Operation.GENERIC], auth_req=True)
        self.assertIn(f"{TZ3}: generic, authenticated", banner(spends, None).splitlines())
        both = settings_with([Operation.GENERIC, Operation.BLOCK])
        self.assertIn(f"{TZ3}: block, generic, any chain, ", banner(both, None))

    def test_who_may_ask(self) -> None:
        """Networks, and users of Unix sockets if they are limited."""
        settings = settings_with(
            allowed_ips=(ip_network("10.0.0.0/8"),), allowed_uids=frozenset({1000, 7})
        )
        said = banner(settings, None)
        self.assertIn("who may ask: 10.0.0.0/8, at Unix sockets only users 7 1000\n", said)
        nobody = banner(evolve(settings, allowed_ips=()), None)
        self.assertIn("who may ask: nobody, ", nobody)


class ReadyTests(SynchronousTestCase):
    """Its last line."""

    def setUp(self) -> None:
        self.settings = config.load(SHIPPED)

    def last(self, *http: str) -> str:
        """The last line, with these endpoints."""
        return banner(evolve(self.settings, http=http), None).splitlines()[-1]

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
