"""JSON as Octez writes it, against documents of its signer."""

from twisted.trial.unittest import SynchronousTestCase

from tests.support.octezclient import message_in
from tezio_signer.errors import Conflict, Forbidden
from tezio_signer.octez.json import Json, encode, error_list

DOCUMENTS: list[tuple[Json, bytes]] = [
    ({}, b"{}\n"),
    ({"authorized_keys": []}, b'{"authorized_keys":[]}\n'),
    ({"known_keys": ["tz1a", "tz2b"]}, b'{"known_keys":["tz1a","tz2b"]}\n'),
    ({"signature": "edsig"}, b'{"signature":"edsig"}\n'),
]


class EncodeTests(SynchronousTestCase):
    """The bytes of answers."""

    def test_documents(self) -> None:
        """A document is minified, and ends in one line feed."""
        for value, document in DOCUMENTS:
            self.assertEqual(encode(value), document)

    def test_error_trace(self) -> None:
        """A refusal is the error trace that octez-signer sends, of which the message is shown."""
        self.assertEqual(
            error_list(Forbidden("magic byte 0x04 not allowed")),
            b'[{"kind":"temporary","id":"failure","msg":"magic byte 0x04 not allowed"}]\n',
        )

    def test_any_sentence(self) -> None:
        """Quotes, backslashes and letters outside of ASCII arrive as they were."""
        sentence = 'the body "03ab…" \\ é \x00 \N{GRINNING FACE}'
        trace = error_list(Conflict(sentence))
        self.assertTrue(trace.isascii())
        self.assertEqual(message_in(trace), sentence)
