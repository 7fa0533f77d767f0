"""The kinds of refusal, against the status codes that clients are promised."""

from twisted.trial.unittest import SynchronousTestCase

from tezio_signer import errors
from tezio_signer.errors import Refused, StartupError

STATUSES = {
    "Malformed": 400,
    "Unauthenticated": 401,
    "Forbidden": 403,
    "UnknownKey": 404,
    "Conflict": 409,
    "TooLarge": 413,
    "TooMany": 429,
    "Unavailable": 502,
}


class RefusedTests(SynchronousTestCase):
    """What a refusal says of itself."""

    def test_statuses(self) -> None:
        """Each kind has its status; a refusal of no kind is a fault of ours."""
        kinds = {kind.__name__: kind.status for kind in Refused.__subclasses__()}
        ours = {name: status for name, status in kinds.items() if hasattr(errors, name)}
        self.assertEqual(ours, STATUSES)
        self.assertEqual(Refused.status, 500)

    def test_reasons(self) -> None:
        """Each kind has a reason of its own, by which it can be counted."""
        reasons = {getattr(errors, name).reason for name in STATUSES}
        self.assertEqual(len(reasons), len(STATUSES))
        self.assertTrue(all(reason.isidentifier() for reason in reasons), reasons)

    def test_sentence(self) -> None:
        """The text of a refusal is what the client reads."""
        self.assertEqual(str(errors.Forbidden("no")), "no")

    def test_startup_error_is_for_the_operator(self) -> None:
        """An error at the start is never taken for an answer to a client."""
        self.assertFalse(issubclass(StartupError, Refused))
