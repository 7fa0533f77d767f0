"""Who is told that no board has signed: the daily ledger gives back then, and only then."""

from typing import cast

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from tests.support.octezclient import HSM_KEYS, verifies
from tests.support.vectors import TZ3, noop
from tezio_signer.errors import Unavailable
from tezio_signer.hsm.exchange import NoAnswer
from tezio_signer.hsm.pool import HsmPool
from tezio_signer.hsm.signing import Signing
from tezio_signer.inflight import InFlight, Signed
from tezio_signer.tezos.keys import PublicKey, PublicKeyHash, Signature
from tezio_signer.tezos.payload import decode

DATA = noop(1)


class ScriptedPool:
    """A pool whose boards do what the test says.

    :ivar signings: all that was asked for.
    """

    def __init__(self) -> None:
        self.signings: list[Signing] = []

    def sign(self, key: PublicKeyHash, data: bytes, *_: object) -> Signing:
        """Like `HsmPool.sign`."""
        self.signings.append(Signing(key, data))
        return self.signings[-1]

    def public_key(self, _: PublicKeyHash) -> Deferred[PublicKey]:
        """Like `HsmPool.public_key`."""
        return succeed(PublicKey.parse(HSM_KEYS[2].public_key))


class UnsignedTests(SynchronousTestCase):
    """Exchanges, and what those are told who have reserved something for them."""

    def setUp(self) -> None:
        self.pool = ScriptedPool()
        self.clock = Clock()
        self.in_flight = InFlight(cast(HsmPool, self.pool), self.clock)
        self.told: list[int] = []

    def ask(self, number: int = 1) -> Deferred[Signed]:
        """Ask for the signature; the number is noted when it is said that there is none."""
        return self.in_flight.sign(TZ3, DATA, decode(DATA), None, lambda: self.told.append(number))

    def test_never_asked(self) -> None:
        """No board is there, or too many requests wait: each of those who wait is told, once."""
        waiting = [self.ask(1), self.ask(2)]
        self.pool.signings[0].end(Failure(Unavailable("no HSM")))
        for refused in waiting:
            self.failureResultOf(refused, Unavailable)
        self.assertEqual(self.told, [1, 2])

    def test_one_of_two_leaves(self) -> None:
        """Who leaves is not told while another waits; when that one leaves too, both are."""
        first, second = self.ask(1), self.ask(2)
        first.cancel()
        self.failureResultOf(first, CancelledError)
        self.assertEqual(self.told, [])
        second.cancel()
        self.failureResultOf(second, CancelledError)
        self.assertEqual(self.told, [1, 2])

    def test_too_late(self) -> None:
        """A client that is told of the deadline has nothing signed if no board was asked."""
        waiting = self.ask()
        self.clock.advance(6)
        self.failureResultOf(waiting, Unavailable)
        self.assertEqual(self.told, [1])

    def test_asked_in_vain(self) -> None:
        """A board that was asked may have signed, whatever it says: nobody is told."""
        waiting = self.ask()
        signing = self.pool.signings[0]
        signing.sent(asked_before=False)
        signing.end(Failure(NoAnswer("silent")))
        self.failureResultOf(waiting)
        self.assertEqual(self.told, [])

    def test_left_while_asked(self) -> None:
        """Nor is a client that leaves, or is told of the deadline, while a board is at it."""
        for leaves in (True, False):
            waiting = self.ask()
            self.pool.signings[-1].sent(asked_before=False)
            if leaves:
                waiting.cancel()
            self.clock.advance(6)
            self.failureResultOf(waiting, CancelledError, Unavailable)
            self.pool.signings[-1].end(Failure(NoAnswer("silent")))
        self.assertEqual(self.told, [])

    def test_late_signature(self) -> None:
        """One that waits, and gets the late answer to an earlier request, is signed."""
        waiting = self.ask()
        key = HSM_KEYS[2]
        self.pool.signings[0].end(Signature.parse(key.sign(DATA)))
        signed = self.successResultOf(waiting)
        self.assertTrue(verifies(key.public_key, DATA, str(signed.signature)))
        self.assertEqual(self.told, [])
