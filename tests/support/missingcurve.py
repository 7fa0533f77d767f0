"""A curve that OpenSSL does not have, in the place of one that Tezos uses."""

from cryptography.hazmat.primitives.asymmetric import ec
from twisted.trial.unittest import SynchronousTestCase

from tezio_signer.tezos import keys
from tezio_signer.tezos.keys import Curve


class _NoCurve(ec.EllipticCurve):
    """Unknown to every OpenSSL: cryptography raises for it what it does for any that is missing."""

    name = "no-such-curve"
    key_size = 256
    group_order = 7


def without_curve(test: SynchronousTestCase, curve: Curve) -> None:
    """Have this process be without a curve until a test has ended."""
    test.patch(keys, "_ELLIPTIC", {**keys._ELLIPTIC, curve: _NoCurve})
    for remembered in (keys._point, keys._verifies_ecdsa):
        remembered.cache_clear()
        test.addCleanup(remembered.cache_clear)
