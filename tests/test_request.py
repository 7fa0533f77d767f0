"""What becomes a request, and whom it is of."""

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from tests.support.deciding import request_for
from tests.support.vectors import AUTHENTICATION, OCTEZ, PAYLOADS, TZ3, block
from tezio_signer.errors import Conflict, Forbidden, Malformed
from tezio_signer.request import Admitted, Credentials, Listener, Peer, Submission
from tezio_signer.tezos.keys import PublicKeyHash

NOOP = PAYLOADS["noop"]


class PeerTests(SynchronousTestCase):
    """Whom a connection is taken for."""

    def test_addresses(self) -> None:
        """IPv4 mapped into IPv6 is IPv4, a zone is kept, and a Unix socket is here."""
        for host, text in (
            ("127.0.0.1", "127.0.0.1"),
            ("::1", "::1"),
            ("::ffff:10.0.0.7", "10.0.0.7"),
            ("::FFFF:0a00:0007", "10.0.0.7"),
            ("fe80::1%eth0", "fe80::1%eth0"),
        ):
            self.assertEqual(str(Peer.at(host)), text)
        self.assertEqual(Peer(), Peer.at("127.0.0.1"))

    def test_credentials_in_the_log(self) -> None:
        """The log says whose process asked at a Unix socket."""
        peer = Peer(credentials=Credentials(pid=4242, uid=1000, gid=100))
        self.assertEqual(str(peer), "127.0.0.1 (uid 1000, gid 100, pid 4242)")


class ReadTests(SynchronousTestCase):
    """What becomes a request at all."""

    def test_never_signed(self) -> None:
        """What a signer is authenticated with, and what today's Octez does not make."""
        for magic in (0x01, 0x02, 0x04):
            self.assertRaises(Forbidden, request_for, bytes([magic]) + bytes(40))

    def test_malformed(self) -> None:
        """What cannot be decoded, and the form for keys that a Tezio HSM has not."""
        cut = (b"", b"\x03", b"\x05", b"\x05\x03")
        for payload in (*cut, b"\x14" + bytes(40), PAYLOADS["bls_att"]):
            self.assertRaises(Malformed, request_for, payload)

    def test_authenticated_bytes(self) -> None:
        """An authentication is of the bytes that Octez recorded."""
        key = PublicKeyHash.parse(OCTEZ["keys"][0]["pkh"])
        request = evolve(request_for(NOOP, key), data=b"\x03")
        self.assertEqual(request.authenticated_bytes.hex(), AUTHENTICATION["signed_bytes"])


class SubmissionTests(SynchronousTestCase):
    """A request as a listener hands it in."""

    def test_read(self) -> None:
        """What could be read is named by what it is: kind, level and round, and key."""
        to = "tz1gjaF81ZRRvdzjobyfVNsAeSC6PScjfQwN"
        one, sent = f"transaction of 1 tez to {to}", PAYLOADS["transfer"]
        for payload, what in (
            (block(7, 2), f"block 7/2 for {TZ3}"),
            (NOOP, f"failing_noop 'hi', for {TZ3}"),
            (sent, f"{one}, fee 0.000404 tez, for {TZ3}"),
            (sent + sent[33:], f"2 operations: {one}; {one}; fees 0.000808 tez, for {TZ3}"),
            (b"\x05\x00\x07", f"Michelson data 7, for {TZ3}"),
        ):
            request = request_for(payload)
            asked = Submission(Admitted(Peer()), Listener.HTTP, str(TZ3), request)
            self.assertIs(asked.request, request)
            self.assertEqual(asked.what, what)

    def test_unread(self) -> None:
        """Of what could not, the log shows the key: short, and with nothing that breaks a line."""
        for key, shown in (("k" * 61, "k" * 60), ("a\n\x1b[2J'", "a\\n\\x1b[2J'")):
            asked = Submission(Admitted(Peer()), Listener.HTTP, key, Conflict("no"))
            self.assertIsNone(asked.request)
            self.assertEqual(asked.what, f"a request for {shown}")
