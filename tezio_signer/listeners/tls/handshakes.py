"""Puts TLS around connections, with the newest certificates, and logs handshakes that fail.

What a failed handshake means is said in words of the person who reads the log: most often, a
client that speaks plain HTTP, shows no certificate, or does not know who has signed ours.
"""

import re
from typing import Any, cast

from OpenSSL import SSL
from twisted.internet.interfaces import IProtocolFactory, IReactorTime
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.protocols.tls import BufferingTLSTransport, TLSMemoryBIOFactory
from twisted.python.failure import Failure

from tezio_signer.listeners.limits import host_of
from tezio_signer.listeners.tls.certificates import ServedCertificates, reason
from tezio_signer.sparinglog import SparingLog

_HTTP = re.compile(b"[A-Z]{3,7} ")
_PLAIN_HTTP = "it speaks plain HTTP: its URL has to begin with https://"
_MEANINGS = {
    "wrong version number": "what it sends is not TLS",
    "peer did not return a certificate": "it shows no certificate, but client_ca asks for one",
    "certificate verify failed": "its certificate is expired, or not of an authority in client_ca",
    "unsupported protocol": "it speaks nothing newer than TLS 1.1",
    "unknown ca": "it does not know the authority that has signed the certificate here",
    "certificate unknown": "it does not accept the certificate here",
    "bad certificate": "it does not accept the certificate here",
    "certificate expired": "the certificate here has expired, or its clock is wrong",
}
"""By words of OpenSSL's reason, what is wrong with the client."""


class _Transport(BufferingTLSTransport):
    factory: "TlsFactory"
    _first = b""

    def dataReceived(self, data: bytes) -> None:
        self._first = self._first or data[:8]
        super().dataReceived(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        failed, peer = self._reason, host_of(self.getPeer())
        if self._first and not self._handshakeDone and not self._aborted:
            self.factory.failed(peer, self._first, failed and failed.value)
        super().connectionLost(reason)


class TlsFactory(TLSMemoryBIOFactory):
    """Puts TLS around the connections of another factory.

    :param certificates: of which those are presented that are in the files at the time.
    """

    protocol = _Transport
    _log = Logger()

    def __init__(
        self, certificates: ServedCertificates, wrapped: IProtocolFactory, clock: IReactorTime
    ) -> None:
        super().__init__(cast(Any, certificates), False, wrapped, clock)
        self._sparing_log = SparingLog(self._log, clock)

    def failed(self, peer: str, first: bytes, error: object) -> None:
        """Log a handshake that has failed, unless there were too many.

        :param first: the first bytes that the client has sent.
        """
        self._sparing_log.warn(
            "the TLS handshake with {peer} failed: {why}", peer=peer, why=_why(first, error)
        )


def _why(first: bytes, error: object) -> str:
    if _HTTP.match(first):  # for which OpenSSL has other words in each version
        return _PLAIN_HTTP
    if not isinstance(error, SSL.Error):
        return "it has closed the connection in the middle of the handshake"
    said = reason(error)
    for words, meaning in _MEANINGS.items():
        if words in said:
            return f"{meaning} ({said})"
    return said
