"""Reads and checks the certificates of TLS endpoints, and again when their files have changed.

Nothing here opens anything or needs a reactor. Files are looked at when a client begins a
handshake, every few seconds at most. What cannot be used, as in the middle of a renewal, is
said once, and what was read before is served on.
"""

import os
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

from attrs import frozen
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from OpenSSL import SSL, crypto
from twisted.internet import ssl
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator, IReactorTime
from twisted.logger import Logger
from twisted.protocols import _sni
from twisted.python.filepath import FilePath
from zope.interface import implementer

from tezio_signer.config.endpoints import Endpoint
from tezio_signer.config.hints import encrypted
from tezio_signer.config.settings import ClientCa
from tezio_signer.errors import StartupError

WARN_BEFORE = timedelta(days=30)
"""How long before the end of a certificate it is warned of."""
LOOK_SECONDS = 2.0
"""For how long files are taken to be as they were when they were looked at."""

Signature = tuple[tuple[object, ...], ...]
"""What changes when one of the files does."""


@frozen
class Dated:
    """A certificate that may expire.

    :ivar path: the file that it is in.
    """

    path: Path
    certificate: x509.Certificate

    def warning(self, now: datetime) -> str | None:
        """Return what to say of it, if it expires soon, or is not valid at all."""
        begins = self.certificate.not_valid_before_utc
        ends = self.certificate.not_valid_after_utc
        whose = f"the certificate in {self.path} ({_name(self.certificate)})"
        if now >= ends:
            return f"{whose} has expired on {ends:%Y-%m-%d}: clients refuse it; {_RENEW}"
        if now < begins:
            return (
                f"{whose} is not valid before {begins:%Y-%m-%d %H:%M} UTC: check the clock of this "
                "machine"
            )
        if now >= ends - WARN_BEFORE:
            days = (ends - now).days
            return f"{whose} expires on {ends:%Y-%m-%d}, in {days} days; {_RENEW}"
        return None


_RENEW = "renew it, the new file is served without a restart"


def _name(certificate: x509.Certificate) -> str:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        said = [
            *names.get_values_for_type(x509.DNSName),
            *map(str, names.get_values_for_type(x509.IPAddress)),
        ]
    except (x509.ExtensionNotFound, ValueError):
        said = []
    return ", ".join(said[:3]) or certificate.subject.rfc4514_string() or "without a name"


@frozen
class Loaded:
    """What was read of the files of an endpoint.

    :ivar context: for a client that has named nothing yet.
    :ivar dated: the certificates that may expire.
    :ivar names: for which there is a certificate of their own, in a directory.
    :ivar lacking: names of certificates without a key beside them.
    """

    context: SSL.Context
    dated: tuple[Dated, ...]
    names: frozenset[str] = frozenset()
    lacking: frozenset[str] = frozenset()


class Source(Protocol):
    """Knows where the certificates of an endpoint are."""

    @property
    def endpoint(self) -> str:
        """As it was given."""

    def signature(self) -> Signature:
        """Return what changes when the files do."""

    def load(self) -> Loaded:
        """Read them all; raises StartupError."""


@frozen
class CertificateFiles:
    """The files of an `ssl:` endpoint.

    :ivar certificate: may hold the chain behind it, as `fullchain.pem` does.
    :ivar chain: certificates of the authorities between it and those that clients know.
    :ivar client_ca: whose client certificates are asked for.
    """

    endpoint: str
    key: Path
    certificate: Path
    chain: Path | None = None
    parameters: Path | None = None
    method: str | None = None
    client_ca: ClientCa | None = None

    def signature(self) -> Signature:
        """Return what changes when the files do."""
        authorities = self.client_ca and self.client_ca.path
        files = (self.key, self.certificate, self.chain, self.parameters, authorities)
        return tuple(_stamp(path) for path in files if path)

    def load(self) -> Loaded:
        """Read them all; raises StartupError."""
        key = self._key()
        certificates = self._certificates(self.certificate)
        chain = [*certificates[1:], *(self._certificates(self.chain) if self.chain else ())]
        authorities = self._authorities()
        try:
            if key.public_key() != certificates[0].public_key():
                raise self._bad(
                    f"the key in {self.key} does not belong to the certificate in "
                    f"{self.certificate}"
                )
            options = ssl.CertificateOptions(
                privateKey=crypto.PKey.from_cryptography_key(key),
                certificate=crypto.X509.from_cryptography(certificates[0]),
                extraCertChain=list(map(crypto.X509.from_cryptography, chain)),
                dhParameters=self._parameters(),
                **({"method": getattr(SSL, self.method)} if self.method else {}),
            )
            context: SSL.Context = options.getContext()
            harden(context, authorities)
        except (crypto.Error, SSL.Error, ValueError, TypeError, OSError, UnsupportedAlgorithm) as e:
            raise self._bad(f"cannot be used: {reason(e)}") from e
        dated = [Dated(self.certificate, certificates[0])]
        dated += [Dated(self.chain or self.certificate, each) for each in chain]
        if self.client_ca is not None:
            dated += [Dated(self.client_ca.path, each) for each in authorities]
        return Loaded(context, tuple(dated))

    def _key(self) -> Any:
        data = self._read(self.key)
        try:
            return load_pem_private_key(data, None)
        except TypeError as error:
            raise self._bad(f"the key in {self.key} {encrypted(self.key)}") from error
        except (ValueError, UnsupportedAlgorithm) as error:
            raise self._bad(f"{self.key} holds no key in PEM") from error

    def _certificates(self, path: Path) -> list[x509.Certificate]:
        try:
            return x509.load_pem_x509_certificates(self._read(path))
        except ValueError as error:
            raise self._bad(f"{path} holds no certificate in PEM") from error

    def _authorities(self) -> Sequence[x509.Certificate]:
        if self.client_ca is None:
            return ()
        return self._certificates(self.client_ca.path)

    def _parameters(self) -> Any:
        if self.parameters is None:
            return None
        return ssl.DiffieHellmanParameters.fromFile(FilePath(str(self.parameters)))

    def _read(self, path: Path) -> bytes:
        try:
            return path.read_bytes()
        except OSError as error:
            raise self._bad(f"{path} cannot be read: {error.strerror}") from error

    def _bad(self, why: str) -> StartupError:
        return StartupError(f"{self.endpoint!r} is not an endpoint to listen on: {why}")


@frozen
class SourceDirectory:
    """The directory of a `tls:` endpoint, of whose certificates a client names one."""

    endpoint: str
    path: Path

    def signature(self) -> Signature:
        """Return what changes when the files do."""
        return tuple(map(_stamp, self._files()))

    def load(self) -> Loaded:
        """Read them all; raises StartupError."""
        try:
            found = _sni.PEMObjects.fromDirectory(FilePath(str(self.path)))
            mapping = found.inferDomainMapping()
            contexts = [options.getContext() for options in mapping.values()]
            for context in contexts:
                harden(context)
            dated = [
                Dated(Path(path.path), certificate.original.to_cryptography())
                for path, certificate in found._certificates
            ]
        except (crypto.Error, SSL.Error, ValueError, TypeError, OSError, UnsupportedAlgorithm) as e:
            raise StartupError(
                f"{self.endpoint!r} is not an endpoint to listen on: {self.path}: {reason(e)}"
            ) from e
        if not contexts:
            raise StartupError(
                f"{self.path} holds no .pem file with a certificate for a DNS name "
                "(subjectAltName) and its key; for a certificate of an IP address use ssl: instead"
            )
        certified = {
            name for _, each in found._certificates for name in _sni._getSubjectAltNames(each)
        }
        names = frozenset(mapping)
        return Loaded(contexts[0], tuple(dated), names, frozenset(certified) - names)

    def _files(self) -> list[Path]:
        return sorted(self.path.rglob("*.pem"))


def certificate_warnings(
    sources: Iterable[Source | None], now: datetime | None = None
) -> tuple[str, ...]:
    """Return what to say of certificates that have expired or soon will; raises StartupError.

    :param sources: of all endpoints, as `certificates_of` gives them.
    :param now: with a time zone.
    """
    at = datetime.now(UTC) if now is None else now
    said: dict[str, None] = {}  # several endpoints may have the same files
    for source in sources:
        for each in source.load().dated if source is not None else ():
            if warning := each.warning(at):
                said[warning] = None
    return tuple(said)


@implementer(IOpenSSLServerConnectionCreator)
class ServedCertificates:
    """Begins handshakes with what the files of an endpoint hold now.

    Raises StartupError when there is nothing to begin with.
    """

    _log = Logger()

    def __init__(self, source: Source, clock: IReactorTime) -> None:
        self._source = source
        self._clock = clock
        self._signature = source.signature()
        self._loaded = source.load()
        self._looked_at = clock.seconds()

    def serverConnectionForTLS(self, protocol: Any) -> SSL.Connection:
        """Return a connection that presents the certificate."""
        if self._clock.seconds() - self._looked_at >= LOOK_SECONDS:
            self._look()
        return SSL.Connection(self._loaded.context)

    def _look(self) -> None:
        self._looked_at = self._clock.seconds()
        try:
            signature = self._source.signature()
            if signature == self._signature:
                return
            self._signature = signature
            loaded = self._source.load()
            halved = (self._loaded.names - loaded.names) & loaded.lacking
            if halved:
                raise StartupError(f"the key for {', '.join(sorted(halved))} is missing")
        except (StartupError, OSError) as error:
            self._log.warn(
                "the new certificate of {endpoint} cannot be used, "
                "the one before is still served: {why}",
                endpoint=self._source.endpoint,
                why=str(error),
            )
            return
        self._loaded = loaded
        ends = min(each.certificate.not_valid_after_utc for each in loaded.dated)
        self._log.info(
            "serves the new certificate of {endpoint}, valid until {ends}",
            endpoint=self._source.endpoint,
            ends=f"{ends:%Y-%m-%d}",
        )


def harden(context: SSL.Context, authorities: Sequence[x509.Certificate] = ()) -> None:
    """Let TLS 1.2 and 1.3 be spoken only, with clients that show a certificate of an authority."""
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    store = context.get_cert_store()
    assert store is not None
    for certificate in authorities:
        authority = crypto.X509.from_cryptography(certificate)
        store.add_cert(authority)
        context.add_client_ca(authority)  # so that clients know which of theirs to show
    # Without a callback it is OpenSSL that decides. The handshake fails before a byte of HTTP
    # is read, in TLS 1.3 too, where the client may think that it is over.
    if authorities:
        context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT)


def reason(error: Exception) -> str:
    """Return OpenSSL's own words, without the list of tuples around them."""
    reasons = error.args[0] if error.args else None
    if isinstance(reasons, list):
        return "; ".join(str(each[-1]) for each in reasons if each) or "not understood"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error)


def _stamp(path: Path) -> tuple[object, ...]:
    try:
        status = os.stat(path)
    except OSError as error:
        return (str(path), error.errno)
    return (str(path), status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino)


def certificates_of(endpoint: Endpoint, client_ca: ClientCa | None = None) -> Source | None:
    """Where the certificates of an endpoint are; None for an endpoint without TLS."""
    arguments = endpoint.arguments
    if endpoint.kind == "tls":
        return SourceDirectory(endpoint.text, Path(arguments.get("path", "")))
    files = endpoint.certificate_files
    if files is None:
        return None
    chain, parameters = (arguments.get(name) for name in ("extraCertChain", "dhParameters"))
    return CertificateFiles(
        endpoint.text,
        *files,
        Path(chain) if chain else None,
        Path(parameters) if parameters else None,
        arguments.get("sslmethod"),
        client_ca,
    )
