"""Networks as the configuration writes them."""

from twisted.trial.unittest import SynchronousTestCase

from tezio_signer.config.networks import network_of


class NetworkTests(SynchronousTestCase):
    """What an entry of `allowed_ips` means."""

    def test_mapped_networks(self) -> None:
        """A network of IPv4 mapped into IPv6 means that of IPv4; wider ones stay IPv6."""
        for text, meant in (
            ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
            ("::ffff:10.0.0.7", "10.0.0.7/32"),
            ("::ffff:0:0/96", "0.0.0.0/0"),
            ("::/0", "::/0"),
            ("10.0.0.0/24", "10.0.0.0/24"),
        ):
            self.assertEqual(str(network_of(text)), meant)
