"""Endpoint strings are read just as Twisted reads them."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.endpoints import _parse, quoteStringArgument
from twisted.trial.unittest import SynchronousTestCase

from tezio_signer.config.endpoints import parse, quote

TEXTS = st.text(st.sampled_from("\\:=a1é[ ")) | st.text()


class SameAsTwistedTests(SynchronousTestCase):
    """What we check is what Twisted opens."""

    @given(TEXTS)
    def test_same_arguments(self, text: str) -> None:
        """The same arguments are read from any text, or it is refused by both."""
        try:
            expected = _parse(text)
        except RuntimeError:  # a generator of Twisted's ends in the middle
            self.assertRaises(ValueError, parse, text)
        except UnicodeEncodeError:  # a name that is not ASCII, which no argument has
            try:
                _, named = parse(text)
            except ValueError:  # which Twisted has not come to
                return
            self.assertFalse(all(map(str.isascii, named)))
        else:
            self.assertEqual(parse(text), expected)

    @given(TEXTS)
    def test_same_quoting(self, text: str) -> None:
        """Arguments are escaped in the same way."""
        self.assertEqual(quote(text), quoteStringArgument(text))
