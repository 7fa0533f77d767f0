"""What operations do with the account of the key that signs them."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.support.operationpayloads import payload_of
from tests.support.vectors import OCTEZ, TZ1, TZ2, TZ3
from tezio_signer.rules.contents import amounts, fees, spent
from tezio_signer.tezos.operations import Content, Mutez, OperationGroup
from tezio_signer.tezos.payload import Generic, decode

KT1 = "KT1PWx2mnDueood7fEmfbBDKx1D9BAnnXitn"
PROTOCOL = "PsRiotumaAMotcRoDWW1bysEhQy2n1M5fy8JgRp8jjRfHGmfeA7"
TEZ = 1_000_000


def contents_of(*operations: dict[str, Any]) -> tuple[Content, ...]:
    """These operations, as the signer decodes them."""
    payload = decode(payload_of(*operations))
    assert isinstance(payload, Generic)
    assert isinstance(payload.group, OperationGroup), payload.group
    return payload.group.contents


class SpentTests(SynchronousTestCase):
    """All that can leave an account."""

    def test_each_kind(self) -> None:
        """Of each kind, what leaves besides its fee; written down by hand from the protocol."""
        to = {"kind": "transaction", "destination": str(TZ1), "amount": 5 * TEZ}
        own = {**to, "destination": str(TZ3)}
        for operation, leaves in (
            (to, 5 * TEZ),
            ({**to, "destination": KT1, "entrypoint": "transfer"}, 5 * TEZ),
            ({**to, "entrypoint": "stake"}, 5 * TEZ),
            (own, 0),
            ({**own, "entrypoint": "stake"}, 0),
            ({**own, "entrypoint": "unstake"}, 0),
            ({**own, "entrypoint": "finalize_unstake"}, 0),
            ({"kind": "reveal", "public_key": OCTEZ["keys"][1]["pk"]}, 0),
            ({"kind": "origination", "balance": 7 * TEZ}, 7 * TEZ),
            ({"kind": "delegation", "delegate": str(TZ1)}, 0),
            ({"kind": "set_deposits_limit", "limit": 9 * TEZ}, 0),
            ({"kind": "register_global_constant"}, 0),
            ({"kind": "increase_paid_storage", "amount": 4, "destination": KT1}, 1000),
            ({"kind": "increase_paid_storage", "amount": 0, "destination": KT1}, 0),
            ({"kind": "smart_rollup_publish"}, 10_000 * TEZ),
            ({"kind": "smart_rollup_cement"}, 0),
            ({"kind": "smart_rollup_recover_bond"}, 0),
            (
                {
                    "kind": "transfer_ticket",
                    "ticket_ticketer": KT1,
                    "destination": str(TZ1),
                    "entrypoint": "save",
                },
                0,
            ),
        ):
            contents = contents_of({**operation, "fee": 289, "storage_limit": 257})
            self.assertEqual(amounts(contents, TZ3), leaves, operation)
            self.assertEqual(fees(contents), 289, operation)
            self.assertEqual(spent(contents, TZ3), leaves + 289 + 64_250, operation)

    def test_no_fee(self) -> None:
        """What is no manager operation has no fee, and moves nothing of this account."""
        for operation in (
            {"kind": "ballot", "proposal": PROTOCOL, "ballot": "yay"},
            {"kind": "proposals", "proposals": [PROTOCOL]},
            {"kind": "failing_noop", "arbitrary": "5 tez"},
            {"kind": "attestation", "level": 7},
        ):
            self.assertEqual(spent(contents_of(operation), TZ3), 0, operation)

    def test_text(self) -> None:
        """It is an amount of tez, whatever it was added up from."""
        contents = contents_of({"kind": "transaction", "destination": str(TZ1), "amount": TEZ})
        self.assertEqual(str(spent(contents, TZ3)), "1.000289 tez")
        self.assertIsInstance(fees(contents), Mutez)

    @settings(max_examples=50, deadline=None, derandomize=True, database=None)
    @given(
        st.lists(
            st.tuples(
                st.sampled_from([str(TZ1), str(TZ2), str(TZ3)]),
                st.integers(0, 2**63 - 1),
                st.integers(0, 2**63 - 1),
                st.integers(0, 2**63 - 1),
            ),
            min_size=1,
            max_size=8,
        )
    )
    def test_batches(self, transfers: list[tuple[str, int, int, int]]) -> None:
        """A batch spends as much as its operations do one by one, however much that is."""
        operations = [
            {
                "kind": "transaction",
                "destination": destination,
                "amount": amount,
                "fee": fee,
                "storage_limit": storage,
            }
            for destination, amount, fee, storage in transfers
        ]
        alone = sum(spent(contents_of(operation), TZ3) for operation in operations)
        self.assertEqual(spent(contents_of(*operations), TZ3), alone)
        sent = sum(amount for where, amount, _, _ in transfers if where != str(TZ3))
        self.assertEqual(amounts(contents_of(*operations), TZ3), sent)
