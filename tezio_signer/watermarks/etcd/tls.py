"""TLS to the members of an etcd cluster: whose certificates are believed, and which is ours."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from attrs import frozen
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from OpenSSL.crypto import Error as PemError
from twisted.internet.ssl import (
    Certificate,
    PrivateCertificate,
    TLSVersion,
    optionsForClientTLS,
    platformTrust,
    trustRootFromCertificates,
)
from twisted.web.iweb import IPolicyForHTTPS
from zope.interface import implementer

from tezio_signer.config.hints import encrypted
from tezio_signer.config.settings import EtcdAddress
from tezio_signer.watermarks.store import StoreError

_END = b"-----END CERTIFICATE-----"
_Value = TypeVar("_Value")


@implementer(IPolicyForHTTPS)
@frozen
class TlsPolicy:
    """Which servers are believed, and who we are.

    :ivar chain: certificates of the authorities between ours and one that etcd knows.
    """

    trust: Any
    identity: PrivateCertificate | None
    chain: list[Any]

    def creatorForNetloc(self, hostname: bytes, port: int) -> Any:
        """Twisted's options for a connection to this member."""
        options: dict[str, Any] = {"raiseMinimumTo": TLSVersion.TLSv1_2}
        if self.chain:
            options["extraCertChain"] = self.chain
        return optionsForClientTLS(
            hostname.decode("ascii"),
            trustRoot=self.trust,
            clientCertificate=self.identity,
            extraCertificateOptions=options,
        )


def tls_policy(address: EtcdAddress) -> TlsPolicy:
    """What an address says of certificates; raises StoreError if a file cannot be used."""
    trust = platformTrust()
    if address.ca is not None:
        trust = trustRootFromCertificates(_certificates(address.ca))
    identity, chain = None, []
    if address.certificate is not None and address.private_key is not None:
        chain = [link.original for link in _certificates(address.certificate)[1:]]
        _check_not_encrypted(address.private_key)
        pem = read_file(address.certificate) + b"\n" + read_file(address.private_key)
        identity = _loaded(address.private_key, PrivateCertificate.loadPEM, pem)
    return TlsPolicy(trust, identity, chain)


def _check_not_encrypted(path: Path) -> None:
    """Raises StoreError for a key for whose password OpenSSL would ask at the terminal."""
    try:
        load_pem_private_key(read_file(path), None)
    except TypeError as error:
        raise StoreError(f"{path}: {encrypted(path)}") from error
    except (ValueError, UnsupportedAlgorithm):
        pass  # is said in other words where it is used


def _certificates(path: Path) -> list[Certificate]:
    blocks = read_file(path).split(_END)[:-1]
    if not blocks:
        raise StoreError(f"{path}: holds no certificate in PEM")
    return [_loaded(path, Certificate.loadPEM, block + _END) for block in blocks]


def _loaded(path: Path, load: Callable[[bytes], _Value], pem: bytes) -> _Value:
    try:
        return load(pem)
    except (PemError, ValueError, TypeError) as error:
        raise StoreError(f"{path}: cannot be used: not PEM, or not what belongs here") from error


def read_file(path: Path) -> bytes:
    """The content of a file that belongs to an address; raises StoreError."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise StoreError(f"{path}: cannot be read: {error.strerror}") from error
