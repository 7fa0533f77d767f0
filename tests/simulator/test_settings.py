"""The settings that need no configuration file."""

from ipaddress import ip_network

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from tests.support.vectors import SHIPPED, TZ1, TZ2, TZ3
from tezio_signer.config import document as config
from tezio_signer.config.settings import Security
from tezio_signer.simulator.settings import built_in_settings
from tezio_signer.tezos.payload import Operation


class BuiltInSettingsTests(SynchronousTestCase):
    """What the simulated HSM is used for."""

    def setUp(self) -> None:
        self.settings = built_in_settings()

    def test_test_keys(self) -> None:
        """It signs with the published test keys only, baking operations with tz3 only."""
        self.assertEqual(
            {key: policy.allowed_ops for key, policy in self.settings.signing_keys.items()},
            {
                TZ1: {Operation.GENERIC},
                TZ2: {Operation.GENERIC},
                TZ3: {
                    Operation.GENERIC,
                    Operation.BLOCK,
                    Operation.PREATTESTATION,
                    Operation.ATTESTATION,
                },
            },
        )

    def test_this_machine_only(self) -> None:
        """It is for this machine, without authentication and with no lasting watermarks."""
        loopback = (ip_network("127.0.0.1"), ip_network("::1"))
        self.assertEqual(self.settings.allowed_ips, loopback)
        self.assertIsNone(self.settings.authorized)
        self.assertIsNone(self.settings.store)
        self.assertEqual(self.settings.security, Security(True, True, True, True))

    def test_as_the_shipped_configuration(self) -> None:
        """The shipped `config.yaml` allows the same, and bakes on mainnet only."""
        shipped = config.load(SHIPPED)
        named = {
            key: evolve(policy, chains=shipped.signing_keys[key].chains)
            for key, policy in self.settings.signing_keys.items()
        }
        self.assertEqual(named, shipped.signing_keys)
        self.assertEqual(shipped.signing_keys[TZ3].chains, {"NetXdQprcVkpaWU"})
        for name in ("security", "allowed_ips", "list_known_keys", "http"):
            self.assertEqual(getattr(self.settings, name), getattr(shipped, name), name)
