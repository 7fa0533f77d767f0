"""Certificates for tests: authorities, and what they certify, as PEM files."""

from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from attrs import frozen
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_DAY = timedelta(days=1)
_CERTIFIES = x509.KeyUsage(
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)


@frozen
class Certified:
    """The files of a certificate and its key."""

    certificate: Path
    key: Path


class Authority:
    """A certificate authority of its own, in a directory."""

    def __init__(self, directory: Path, name: str = "ca") -> None:
        self._directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.path = directory / f"{name}.pem"
        certificate = (
            self._builder(self._name, self._key)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(_CERTIFIES, critical=True)
        )
        self._write(self.path, certificate)

    def certify(
        self,
        name: str,
        days: int = 1,
        server: bool = False,
        rsa_bits: int | None = None,
        dns: str = "localhost",
    ) -> Certified:
        """Certify a client or a server until so many days from now.

        :param rsa_bits: of an RSA key, instead of one of an elliptic curve.
        """
        usage = ExtendedKeyUsageOID.SERVER_AUTH if server else ExtendedKeyUsageOID.CLIENT_AUTH
        return self._certify(name, NameOID.COMMON_NAME, [usage], days, rsa_bits, dns)

    def certify_member(self, name: str) -> Certified:
        """Certify a member of etcd, or one of its clients; without a common name.

        A member's gateway is a client of the member itself, and shows it the member's own
        certificate; and where users have passwords, the gateway refuses clients whose
        certificates have a common name (etcd, `embed/serve.go`).
        """
        both = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        return self._certify(name, NameOID.ORGANIZATION_NAME, both, 1)

    def _certify(
        self,
        name: str,
        named: x509.ObjectIdentifier,
        usages: list[x509.ObjectIdentifier],
        days: int,
        rsa_bits: int | None = None,
        dns: str = "localhost",
    ) -> Certified:
        key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey = (
            rsa.generate_private_key(65537, rsa_bits)
            if rsa_bits
            else ec.generate_private_key(ec.SECP256R1())
        )
        subject = x509.Name([x509.NameAttribute(named, name)])
        certificate = (
            self._builder(subject, key, days)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(
                x509.SubjectAlternativeName(
                    [x509.DNSName(dns), x509.IPAddress(ip_address("127.0.0.1"))]
                ),
                critical=False,
            )
        )
        files = Certified(self._directory / f"{name}.pem", self._directory / f"{name}-key.pem")
        self._write(files.certificate, certificate)
        files.key.touch(0o600)
        files.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return files

    def _builder(
        self,
        subject: x509.Name,
        key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey,
        days: int = 1,
    ) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - 3 * _DAY)
            .not_valid_after(now + days * _DAY)
            # Python 3.13 verifies strictly: each names its key and that of its authority.
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), False
            )
        )

    def _write(self, path: Path, builder: x509.CertificateBuilder) -> None:
        path.write_bytes(builder.sign(self._key, SHA256()).public_bytes(Encoding.PEM))
