"""Settings for the simulated HSM, which needs no configuration file."""

from ipaddress import ip_network

from tezio_signer.config.settings import Settings, SigningKey
from tezio_signer.hsm.framing import Slot
from tezio_signer.simulator.keys import TEST_KEYS, SoftKey
from tezio_signer.tezos.keys import PublicKeyHash
from tezio_signer.tezos.payload import Operation

_OPERATIONS = {
    Slot.TZ1: {Operation.GENERIC},
    Slot.TZ2: {Operation.GENERIC},
    Slot.TZ3: {
        Operation.GENERIC,
        Operation.BLOCK,
        Operation.PREATTESTATION,
        Operation.ATTESTATION,
    },
}


def built_in_settings() -> Settings:
    """What the simulated device signs, for this machine, without authentication."""
    keys = {}
    for slot, operations in _OPERATIONS.items():
        soft_key = SoftKey.parse(TEST_KEYS[slot])
        key = PublicKeyHash.of_key(soft_key.curve, soft_key.compressed)
        keys[key] = SigningKey(key, frozenset(operations), auth_req=False)
    loopback = (ip_network("127.0.0.1"), ip_network("::1"))
    return Settings(keys, allowed_ips=loopback, list_known_keys=True)
