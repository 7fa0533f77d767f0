"""Any history of claims, signatures, failing writes and restarts, beside a model.

More of the same: `python -m tests.campaigns.model`.
"""

from twisted.trial.unittest import TestCase

from tests.support.statemachine import Place, drive
from tests.support.storeplaces import fake_etcd, memory, shared_memory, sqlite_file

STEPS = 400


class ModelTests(TestCase):
    """Watermarks and model never diverge, and nothing is released twice."""

    timeout = 120

    async def agree(self, place: Place) -> None:
        """Drive watermarks on this kind of store."""
        self.assertGreaterEqual(await drive(place, STEPS), STEPS)

    async def test_memory(self) -> None:
        """One daemon on the model itself."""
        await self.agree(memory())

    async def test_shared_memory(self) -> None:
        """Two daemons on the model."""
        await self.agree(shared_memory())

    async def test_sqlite(self) -> None:
        """One daemon on a file."""
        await self.agree(sqlite_file(self.mktemp))

    async def test_etcd(self) -> None:
        """Two daemons on one etcd."""
        await self.agree(fake_etcd())
