"""`twistd tezio-signer`: reads the options and settings, and composes the services."""

import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import cast

from attrs import evolve
from twisted.logger import Logger
from twisted.python import usage

from tezio_signer import __version__, config, undertwistd
from tezio_signer.banner import banner
from tezio_signer.connections import Connections
from tezio_signer.daemon import Daemon
from tezio_signer.doorconfig import unprotected_by_token
from tezio_signer.doors import check_open_files, door
from tezio_signer.endpoints import check_endpoints
from tezio_signer.errors import StartupError
from tezio_signer.hsm.boards import find_boards
from tezio_signer.hsm.firmware import Firmware
from tezio_signer.hsm.simulator import Simulator
from tezio_signer.hsmpool import HsmPool
from tezio_signer.httpsite import SignerSite
from tezio_signer.octezsocket import OctezSocketFactory
from tezio_signer.portwatch import watch_ports
from tezio_signer.reactors import Reactor, keep_time_steady, leave_threads_behind
from tezio_signer.resource import SignerResource
from tezio_signer.serialhsm import open_port
from tezio_signer.settings import Settings
from tezio_signer.signer import Signer
from tezio_signer.simulation import built_in_settings
from tezio_signer.standardlog import standard_log
from tezio_signer.watermarks.claims import Watermarks
from tezio_signer.watermarks.opening import open_store
from tezio_signer.yamlfields import ConfigError

CONFIG_VARIABLE = "TEZIO_SIGNER_CONFIG"
DEFAULT_CONFIG = "config.yaml"
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
            f"Configuration file [default: ${CONFIG_VARIABLE} or {DEFAULT_CONFIG}]",
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


def config_path(chosen: str | None) -> Path:
    """The configuration file to read: the chosen one, else of the environment, else here."""
    return Path(chosen or os.environ.get(CONFIG_VARIABLE) or DEFAULT_CONFIG)


def load_settings(chosen: str | None, simulate: bool) -> Settings:
    """The settings to run with; raises StartupError with one line that says what is wrong."""
    path = config_path(chosen)
    named = chosen is not None or CONFIG_VARIABLE in os.environ
    try:
        if simulate and not named and not path.exists():
            return built_in_settings()
        settings = config.load(path)
    except ConfigError as error:
        raise StartupError(str(error)) from error
    return evolve(settings, store=None) if simulate else settings


def makeService(options: Options) -> Daemon:
    """Compose the daemon; raises StartupError."""
    from twisted.internet import reactor as installed

    reactor = cast(Reactor, installed)
    keep_time_steady(reactor)
    leave_threads_behind(reactor)
    path = config_path(options["config"])
    settings = load_settings(options["config"], options["simulate"])
    for warning in settings.warnings:
        _log.warn("{sentence}", sentence=warning)  # `warning` means one of Python's to Twisted
    simulator = Simulator(reactor, Firmware()) if options["simulate"] else None
    find = simulator.boards if simulator else partial(find_boards, settings.hsms)
    if simulator:
        _log.warn("SIMULATED HSM: public test keys, throw-away watermarks. Never for funds.")
    hsms = HsmPool(
        reactor,
        find,
        partial(open_port, reactor),
        partial(watch_ports, reactor, settings.hsms),
        settings.keys,
        settings.hsm_wait_seconds,
        verbose=settings.verbose,
        most_waiting=settings.limits.requests_waiting,
    )

    def give_up(error: StartupError) -> None:
        daemon.give_up(error)
        reactor.stop()

    watermarks = Watermarks(
        partial(open_store, settings.store, reactor), settings.floors, reactor, give_up
    )
    signer = Signer(settings, hsms, watermarks, reactor)
    http_at = options["http"] or settings.http
    sockets_at = options["octez-socket"] or settings.octez_socket
    for warning in (
        *check_endpoints([*http_at, *sockets_at], settings.client_ca),
        *unprotected_by_token(settings.request_token, sockets_at),
    ):
        _log.warn("{sentence}", sentence=warning)
    connections = Connections(settings.limits, reactor, signer.admits)
    check_open_files(connections)
    routes = SignerResource(signer, settings.request_token).app.resource()
    site = SignerSite(routes, settings.limits, reactor)
    sockets = OctezSocketFactory(signer, reactor)
    doors = [
        connections,
        *(door(at, site, reactor, connections, settings.client_ca) for at in http_at),
        *(door(at, sockets, reactor, connections, settings.client_ca) for at in sockets_at),
    ]
    daemon = Daemon(
        reactor,
        signer,
        [*([simulator] if simulator else []), watermarks, hsms],
        doors,
        banner(settings, path if path.exists() else None, http_at, sockets_at),
        standard_log(settings.verbose),
    )
    if options.parent is not None:
        undertwistd.attach(daemon, options.parent, reactor)
    return daemon
