"""`twistd tezio-signer`: reads the options and settings, and composes the services."""

import sys
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import cast

from twisted.application.service import IService
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IProtocolFactory
from twisted.logger import Logger
from twisted.python import usage

from tezio_signer import __version__
from tezio_signer.audit.service import AuditLog
from tezio_signer.config.endpoints import Endpoint, resolved
from tezio_signer.config.hints import spelled_out
from tezio_signer.config.locate import SEARCHED, named_config, source_of
from tezio_signer.config.settings import Settings
from tezio_signer.daemon import Daemon
from tezio_signer.errors import StartupError
from tezio_signer.hsm.boards import find_boards
from tezio_signer.hsm.discovery import Expected
from tezio_signer.hsm.hotplug import watch_ports
from tezio_signer.hsm.pool import HsmOptions, HsmPool
from tezio_signer.launch import undertwistd
from tezio_signer.listeners.httpsite import SignerSite
from tezio_signer.listeners.limits import Connections
from tezio_signer.listeners.service import listener
from tezio_signer.listeners.tls.certificates import certificates_of
from tezio_signer.listeners.tls.watch import CertificateWatch
from tezio_signer.logs.foreground import least_level, standard_log
from tezio_signer.octezsocket import OctezSocketFactory
from tezio_signer.reactors import Reactor, keep_time_steady, leave_threads_behind
from tezio_signer.reloading import HangUps, Reloading, in_thread
from tezio_signer.resource import SignerResource
from tezio_signer.serialhsm import SerialPorts
from tezio_signer.signer import Signer
from tezio_signer.simulator.firmware import Firmware
from tezio_signer.simulator.service import Simulator
from tezio_signer.simulator.settings import built_in_settings
from tezio_signer.startup.banner import banner
from tezio_signer.startup.listening import check_open_files
from tezio_signer.startup.source import Loaded, Source
from tezio_signer.startup.warnings import warnings_of
from tezio_signer.watermarks.claims import Watermarks
from tezio_signer.watermarks.opening import open_store

_log = Logger()


class Options(usage.Options):
    """The options behind `twistd tezio-signer`."""

    synopsis = "[options]"
    longdesc = "Answers Octez signing requests with signatures of a Tezio HSM."
    optParameters = [
        [
            "config",
            "c",
            None,
            f"Configuration file [default: {SEARCHED}]",
        ],
    ]
    optFlags = [
        [
            "simulate",
            None,
            "Sign with a simulated HSM, its public test keys and no lasting watermarks",
        ],
    ]

    def __init__(self) -> None:
        super().__init__()
        self["http"] = []
        self["octez-socket"] = []

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        try:
            super().parseOptions(options)
        except usage.UsageError as error:
            if self.parent is None:
                raise
            undertwistd.refuse_usage(str(error), str(self))

    def postOptions(self) -> None:
        if self.parent is not None:
            undertwistd.prepare(self.parent)

    def opt_version(self) -> None:
        """Show the version and exit."""
        print(f"Tezio Signer {__version__}")
        sys.exit()

    def opt_http(self, endpoint: str) -> None:
        """Where the Octez HTTP API listens, as tcp:6732:interface=127.0.0.1; repeatable."""
        self["http"].append(endpoint)

    def opt_octez_socket(self, endpoint: str) -> None:
        """Where the Octez socket protocol listens, as unix:/run/signer.sock; repeatable."""
        self["octez-socket"].append(endpoint)


def makeService(options: Options) -> Daemon:
    """Compose the daemon; raises StartupError."""
    from twisted.internet import reactor as installed

    reactor = cast(Reactor, installed)
    hang_ups = HangUps(reactor)
    keep_time_steady(reactor)
    leave_threads_behind(reactor)
    source = _source(options)
    settings = source.load()
    simulator = Simulator(reactor, Firmware()) if options["simulate"] else None
    find = simulator.boards if simulator else partial(find_boards, settings.hsms)
    if simulator:
        _log.warn("SIMULATED HSM: public test keys, throw-away watermarks. Never for funds.")
    watch = partial(watch_ports, reactor, settings.hsms)
    ports = SerialPorts(reactor, reactor, find, watch, verbose=lambda: signer.settings.verbose)
    hsms = HsmPool(reactor, ports, _hsm_options(settings, simulator is not None))

    named = named_config(options["config"])

    def give_up(error: StartupError) -> None:
        daemon.give_up(StartupError(spelled_out(str(error), named, settings.store)))
        if daemon.running:  # else it is being stopped already
            reactor.stop()

    watermarks = Watermarks(
        partial(open_store, settings.store, reactor, named),
        {},  # each claim brings its floor, from the configuration of its request
        reactor,
        give_up,
    )
    signer = Signer(settings, hsms, watermarks, reactor)
    audit = _audit_log(settings, signer, reactor)
    for warning in warnings_of(settings):
        _log.warn("{sentence}", sentence=warning)  # `warning` means one of Python's to Twisted
    connections = Connections(settings.limits, reactor, signer.admit, signer.decisions)
    site = SignerSite(
        SignerResource(signer).app.resource(), settings.limits, reactor, signer.decisions
    )
    log = standard_log(settings.verbose)

    def go_by(settings: Settings) -> None:
        """Replace the configuration; what makes something new, and may fail, comes first."""
        signer.go_by(settings)
        connections.go_by(settings.limits)
        site.limits = settings.limits
        hsms.go_by(_hsm_options(settings, simulator is not None))
        if log is not None:
            log.show_from(least_level(settings.verbose))

    def read(running: Settings) -> Deferred[Loaded]:
        return in_thread(reactor, partial(source.load_again, running))

    reloading = Reloading(reactor, source.path, lambda: signer.settings, read, go_by)
    for each in audit:
        reloading.add(each.reopen)
    hang_ups.then = reloading.hang_up
    daemon = Daemon(
        reactor,
        signer,
        [*audit, *([simulator] if simulator else []), watermarks, hsms],
        [reloading, connections, *_listeners(settings, signer, connections, site, reactor)],
        banner(settings, source.path),
        log,
    )
    if options.parent is not None:
        undertwistd.attach(daemon, options.parent, reactor)
    return daemon


def _audit_log(settings: Settings, signer: Signer, reactor: Reactor) -> list[AuditLog]:
    """The audit log, if there is one, which is told of all decisions."""
    if settings.audit is None:
        return []
    audit = AuditLog(settings.audit.path, settings.audit.required, reactor, reactor.callFromThread)
    if audit.required:
        signer.decisions.require(audit)
    else:
        signer.decisions.add(audit)
    return [audit]


def _hsm_options(settings: Settings, simulated: bool) -> HsmOptions:
    selectors = () if simulated else settings.hsms
    expected = Expected(settings.keys, settings.auth_key, selectors)
    return HsmOptions(settings.hsm_wait_seconds, settings.limits.requests_waiting, expected)


def _listeners(
    settings: Settings,
    signer: Signer,
    connections: Connections,
    site: SignerSite,
    reactor: Reactor,
) -> list[IService]:
    """What accepts connections; raises StartupError."""
    check_open_files(settings.limits)
    sources = [certificates_of(Endpoint.parse(at), settings.client_ca) for at in settings.endpoints]
    sockets = OctezSocketFactory(signer, reactor)

    def listen(at: str, factory: IProtocolFactory) -> IService:
        return listener(at, factory, reactor, connections, settings.client_ca)

    return [
        CertificateWatch(sources, reactor),
        *(listen(at, site) for at in settings.http),
        *(listen(at, sockets) for at in settings.octez_socket),
    ]


def _source(options: Options) -> Source:
    """What the settings are made of; endpoints of the command line replace those of the file."""
    chosen, simulated = options["config"], options["simulate"]
    path = source_of(chosen, simulated)
    with suppress(OSError):  # where there is no directory, which reading says
        path = path and path.absolute()
    return Source(
        path,
        chosen,
        _from_here(options["http"]),
        _from_here(options["octez-socket"]),
        built_in_settings if simulated else None,
    )


def _from_here(endpoints: Sequence[str]) -> tuple[str, ...]:
    """Endpoints of the command line, whose paths start where the command was given."""
    if not endpoints:
        return ()
    try:
        here = Path.cwd()
    except OSError as error:
        raise StartupError(
            "the directory in which this was started was removed; start it from another one"
        ) from error
    return tuple(resolved(at, here) for at in endpoints)
