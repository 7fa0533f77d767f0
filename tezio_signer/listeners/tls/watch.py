"""Says when certificates are about to expire, at the start and every day after."""

from collections.abc import Iterable

from twisted.application.service import Service
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from tezio_signer.errors import StartupError
from tezio_signer.listeners.tls.certificates import Source, certificate_warnings

_DAY = 86400.0


class CertificateWatch(Service):
    """Looks at the certificates of all endpoints, as they are in their files by then."""

    _log = Logger()

    def __init__(self, sources: Iterable[Source | None], clock: IReactorTime) -> None:
        self._sources = tuple(sources)
        self._looking = LoopingCall(self._look)
        self._looking.clock = clock

    def startService(self) -> None:
        """Look now, and then daily."""
        super().startService()
        self._looking.start(_DAY)

    def stopService(self) -> None:
        """Look no more."""
        super().stopService()
        if self._looking.running:
            self._looking.stop()

    def _look(self) -> None:
        said: dict[str, None] = {}  # several endpoints may have the same files
        for source in self._sources:
            try:
                said |= dict.fromkeys(certificate_warnings([source]))
            except StartupError as error:
                said[str(error)] = None
        for sentence in said:
            self._log.warn("{sentence}", sentence=sentence)
