"""Which nonces of a key are remembered."""

from twisted.trial.unittest import SynchronousTestCase

from tests.support.vectors import TZ3
from tezio_signer.errors import Forbidden
from tezio_signer.hsm.nonces import Nonces
from tezio_signer.tezos.keys import Curve, Signature


def made_with(nonce: int) -> Signature:
    """A signature that shows this nonce."""
    return Signature(Curve.P256, nonce.to_bytes(32, "big") + bytes(31) + b"\1")


class RememberedTests(SynchronousTestCase):
    """The last 4,096 are."""

    def setUp(self) -> None:
        self.nonces = Nonces()
        for number in range(4097):
            self.nonces.check(TZ3, b"%d" % number, made_with(number + 1))

    def test_oldest(self) -> None:
        """One before them is forgotten."""
        self.nonces.check(TZ3, b"another", made_with(1))

    def test_remembered(self) -> None:
        """The first of them is known, and so is the last."""
        for nonce in (2, 4097):
            self.setUp()
            self.assertRaises(Forbidden, self.nonces.check, TZ3, b"another", made_with(nonce))
            self.assertRaises(Forbidden, self.nonces.check_key, TZ3)
