"""Certificates of listeners: what is said of them, and renewals that are served."""

import os
import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509 import load_der_x509_certificate, load_pem_x509_certificate
from OpenSSL import SSL
from twisted.internet.task import Clock
from twisted.internet.threads import deferToThread
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from tests.support.certificates import Authority, Certified
from tests.support.tlscase import REQUEST, TlsTestCase
from tezio_signer.config.settings import ClientCa
from tezio_signer.errors import StartupError
from tezio_signer.listeners.tls import certificates
from tezio_signer.listeners.tls.certificates import (
    LOOK_SECONDS,
    CertificateFiles,
    Dated,
    ServedCertificates,
    SourceDirectory,
    certificate_warnings,
)
from tezio_signer.listeners.tls.watch import CertificateWatch
from tezio_signer.sparinglog import LINES_PER_MINUTE

SECP112R1 = """\
-----BEGIN CERTIFICATE-----
MIIBIjCB7qADAgECAhQVC3zHgtfllxZ5e1hQL6VNHMVD5jAKBggqhkjOPQQDAjAM
MQowCAYDVQQDDAFhMCAXDTI2MTEyODA5Mjg1NloYDzIxMjYxMTA0MDkyODU2WjAM
MQowCAYDVQQDDAFhMDIwEAYHKoZIzj0CAQYFK4EEAAYDHgAExbxHZ9jzzw6jc+oU
8WxPC5rldMQblUslF3/gmqNTMFEwHQYDVR0OBBYEFILZSVsSS+G5DdVv6GFOmeT3
HtvzMB8GA1UdIwQYMBaAFILZSVsSS+G5DdVv6GFOmeT3HtvzMA8GA1UdEwEB/wQF
MAMBAf8wCgYIKoZIzj0EAwIDIwAwIAIOV1qR019RmgTlCGpzQCkCDjuxrB0f4411
lsWu1i9H
-----END CERTIFICATE-----
"""
"""By `openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:secp112r1`, valid until 2126."""


class WarningTests(SynchronousTestCase):
    """What is said of a certificate that has a month left, or less."""

    def setUp(self) -> None:
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir()
        self.authority = Authority(self.directory)

    def source(self, certified: Certified) -> CertificateFiles:
        """That of an endpoint."""
        return CertificateFiles("ssl:1", certified.key, certified.certificate)

    def test_dates(self) -> None:
        """Thirty days before, afterwards, and before it begins; not in between."""
        certified = self.authority.certify("server", days=40, server=True)
        certificate = load_pem_x509_certificate(certified.certificate.read_bytes())
        for days, says in (
            (0, None),
            (9, None),
            (11, "in 28 days"),
            (41, "has expired"),
            (-4, "check the clock"),
        ):
            now = datetime.now(UTC) + timedelta(days=days)
            said = certificate_warnings([self.source(certified), None], now)
            if says is None:
                self.assertEqual(said, ())
            else:
                (sentence,) = said
                self.assertIn(says, sentence)
                self.assertIn(str(certified.certificate), sentence)
                self.assertIn("localhost", sentence)
                self.assertEqual(sentence, Dated(certified.certificate, certificate).warning(now))

    def test_daily(self) -> None:
        """It is said at the start and daily, once for all endpoints, of the files as they are."""
        certified = self.authority.certify("server", days=3, server=True)
        clock = Clock()
        watch = CertificateWatch([self.source(certified)] * 2, clock)
        with capturedLogs() as events:
            watch.startService()
            self.assertEqual(len(events), 1)
            clock.advance(86399)
            self.assertEqual(len(events), 1)
            clock.advance(1)
            self.assertEqual(len(events), 2)
            self.authority.certify("server", days=300, server=True)
            clock.advance(86400)
            self.assertEqual(len(events), 2)
            certified.key.unlink()
            clock.advance(86400)
        self.assertIn("expires on", formatEvent(events[0]))
        self.assertIn("cannot be read", formatEvent(events[2]))
        watch.stopService()
        self.assertEqual(clock.getDelayedCalls(), [])

    def test_unknown_curve(self) -> None:
        """A certificate for a key of a kind that nobody knows here is refused in a sentence."""
        certified = self.authority.certify("server", server=True)
        certified.certificate.write_text(SECP112R1)
        error = self.assertRaises(StartupError, self.source(certified).load)
        self.assertIn("cannot be used: Curve", str(error))

    def test_encrypted(self) -> None:
        """A key with a password is refused, with the way out; nobody is prompted."""
        certified = self.authority.certify("server", server=True)
        key = load_pem_private_key(certified.key.read_bytes(), None)
        certified.key.write_bytes(
            key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
        )
        error = self.assertRaises(StartupError, self.source(certified).load)
        self.assertIn("is encrypted, and the daemon asks nobody", str(error))
        self.assertIn("openssl pkey -in", str(error))


def presented(served: ServedCertificates) -> SSL.Context:
    """What the next client sees, for as long as nobody looks at the files."""
    return served.serverConnectionForTLS(None).get_context()


class RenewalTests(TlsTestCase):
    """Files that are replaced while they are served."""

    def setUp(self) -> None:
        super().setUp()
        self.clock = Clock()

    def source(self) -> CertificateFiles:
        """The files of `ssl:`."""
        return CertificateFiles("ssl:1", self.server.key, self.server.certificate)

    def files(self) -> ServedCertificates:
        """What is served of them."""
        return ServedCertificates(self.source(), self.clock)

    def look(self, served: ServedCertificates) -> list[str]:
        """Begin a handshake a while later; what the log says."""
        self.clock.advance(LOOK_SECONDS)
        with capturedLogs() as events:
            served.serverConnectionForTLS(None)
        return [formatEvent(event) for event in events]

    def test_files(self) -> None:
        """A new pair is served when both its files are there, and half of one never."""
        served = self.files()
        old = presented(served)
        self.assertEqual(self.look(served), [])
        renewed = self.authority.certify("renewed", days=90, server=True)
        os.replace(renewed.certificate, self.server.certificate)
        (said,) = self.look(served)
        self.assertIn("cannot be used, the one before is still served: ", said)
        self.assertIn("does not belong to", said)
        self.assertEqual(self.look(served), [])  # once is enough
        self.assertIs(presented(served), old)
        os.replace(renewed.key, self.server.key)
        (said,) = self.look(served)
        self.assertIn("serves the new certificate of ssl:1", said)
        self.assertIsNot(presented(served), old)

    def test_looks_seldom(self) -> None:
        """A flood of handshakes does not look at the files each time."""
        served = self.files()
        self.server.certificate.unlink()
        with capturedLogs() as events:
            for _ in range(100):
                served.serverConnectionForTLS(None)
        self.assertEqual(events, [])
        (said,) = self.look(served)
        self.assertIn("No such file", said)

    def test_directory(self) -> None:
        """In a directory too; a certificate whose key is not there yet does not end the old one."""
        site = self.directory / "site"
        site.mkdir()
        for name in ("one", "two"):
            pair = self.authority.certify(name, server=True, dns=f"{name}.example")
            (site / f"{name}.pem").write_bytes(
                pair.certificate.read_bytes() + pair.key.read_bytes()
            )
        source = SourceDirectory("tls:x", site)
        served = ServedCertificates(source, self.clock)
        old = presented(served)
        renewed = self.authority.certify("two", days=90, server=True, dns="two.example")
        (site / "two.pem").write_bytes(renewed.certificate.read_bytes())
        (said,) = self.look(served)
        self.assertIn("the key for two.example is missing", said)
        self.assertIs(presented(served), old)
        (site / "two.pem").write_bytes(
            renewed.certificate.read_bytes() + renewed.key.read_bytes()[:-80]
        )
        (said,) = self.look(served)
        self.assertIn("the one before is still served", said)
        (site / "two.pem").write_bytes(renewed.certificate.read_bytes() + renewed.key.read_bytes())
        (said,) = self.look(served)
        self.assertIn("serves the new certificate", said)
        both = presented(served)
        self.assertIsNot(both, old)
        self.assertEqual(len(source.load().dated), 2)
        (site / "two.pem").unlink()
        (said,) = self.look(served)
        self.assertIn("serves the new certificate", said)
        self.assertIsNot(presented(served), both)
        self.assertEqual(len(source.load().dated), 1)

    async def test_over_the_network(self) -> None:
        """The next client sees the new certificate, and is asked for one of the new client_ca."""
        ours, others = Authority(self.directory, "ours"), Authority(self.directory, "others")
        self.patch(certificates, "LOOK_SECONDS", 0.0)
        await self.listen(self.endpoint, ClientCa(ours.path))
        baker, other = ours.certify("baker"), others.certify("other")
        await self.assert_signs(self.context(baker))
        before = await self.served_to(baker)
        renewed = self.authority.certify("server", days=90, server=True)
        self.assertEqual(renewed, self.server)
        ours.path.write_bytes(others.path.read_bytes())
        self.assertEqual(await self.answer_or_none(self.context(baker)), b"")
        await self.assert_signs(self.context(other))
        self.assertNotEqual(await self.served_to(other), before)

    async def served_to(self, certified: Certified) -> datetime:
        """Until when the certificate is valid that a client sees."""

        def look() -> datetime:
            with (
                socket.create_connection(("127.0.0.1", self.port), timeout=10) as plain,
                self.context(certified).wrap_socket(plain, server_hostname="localhost") as tls,
            ):
                data = tls.getpeercert(binary_form=True)
                assert data is not None
                return load_der_x509_certificate(data).not_valid_after_utc

        return await deferToThread(look)

    async def test_chain_in_the_file(self) -> None:
        """What follows the certificate in its file is given to clients with it."""
        whole = self.server.certificate.read_bytes() + self.authority.path.read_bytes()
        self.server.certificate.write_bytes(whole)
        self.assertEqual(len(self.source().load().dated), 2)
        await self.listen(self.endpoint)
        await self.assert_signs(self.context())


class FailedHandshakeTests(TlsTestCase):
    """What the log says of clients that do not get through TLS."""

    async def said(self, ca: bool, asking: bytes | None, times: int = 1) -> list[str]:
        """The lines for a client that speaks plain bytes, or TLS without a certificate."""
        authority = ClientCa(self.authority.path) if ca else None
        await self.listen(self.endpoint, authority)
        self.harness.port, self.harness.endpoint = self.port, f"tcp:127.0.0.1:{self.port}"
        with capturedLogs() as events:
            for _ in range(times):
                if asking is None:
                    await self.answer_or_none(self.context())
                else:
                    await self.harness.raw(asking)
        lines = [formatEvent(event) for event in events]
        return [
            line for line in lines if line.startswith("the TLS handshake with 127.0.0.1 failed: ")
        ]

    async def test_plain_http(self) -> None:
        """Plain HTTP has its line, which says what to change."""
        (line,) = await self.said(False, REQUEST)
        self.assertIn("it speaks plain HTTP: its URL has to begin with https://", line)

    async def test_no_certificate(self) -> None:
        """So has a client without a certificate, where one is asked for."""
        (line,) = await self.said(True, None)
        self.assertIn("it shows no certificate, but client_ca asks for one", line)

    async def test_flood(self) -> None:
        """There are not more lines than a log can bear."""
        lines = await self.said(False, b"\x00" * 20, LINES_PER_MINUTE + 10)
        self.assertEqual(len(lines), LINES_PER_MINUTE)
