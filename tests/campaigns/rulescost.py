"""What rules, the limits of a day and the audit log cost: `python -m tests.campaigns.rulescost`.

One transfer after the other is asked for over HTTP: of a key that has every rule, with limits for
a day in SQLite and an audit log, required or not, and of the same key with nothing of it. They are
measured in turns; of all times the median counts. And how long a batch of ten takes to be decoded.
"""

import argparse
import os
import sys
from collections.abc import Mapping
from functools import partial
from itertools import count
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from timeit import repeat

from twisted.application.service import Service
from twisted.internet.defer import maybeDeferred
from twisted.internet.task import deferLater

from tests.campaigns.cost import LATENCY, Report, Step, in_turns, watermarks_at
from tests.campaigns.rig import run
from tests.support.daemonprocess import spawn_command
from tests.support.genericpayloads import OTHER
from tests.support.harness import Client, reactor
from tests.support.operationpayloads import payload_of
from tests.support.vectors import TZ3
from tezio_signer.audit.service import AuditLog
from tezio_signer.config.document import settings_from
from tezio_signer.config.fields import parse
from tezio_signer.config.settings import Settings
from tezio_signer.hsm.boards import BoardSelector, find_boards
from tezio_signer.hsm.pool import HsmPool
from tezio_signer.listeners.httpsite import SignerSite
from tezio_signer.listeners.limits import Connections
from tezio_signer.listeners.wrapping import LimitedFactory
from tezio_signer.resource import SignerResource
from tezio_signer.serialhsm import SerialPorts
from tezio_signer.signer import Signer
from tezio_signer.tezos.payload import decode

MOST_ADDED = 0.05
"""Of the time without any rules."""
MOST_DECODING = 0.0002
"""Seconds, for a batch of ten."""
_BATCH = 10
_TRANSFER = {"kind": "transaction", "amount": 2_000_000, "destination": OTHER}
_KEY = f"""
policy:
    signing_keys:
        {TZ3}:
            allowed_ops: [generic]
            auth_req: False
"""
_ALL_RULES = f"""\
            operations:
                kinds: [reveal, transaction, delegation, stake, unstake, ballot, proposals]
                destinations: [{OTHER}, KT1S9yRLHEABsTEu1dJEQfhQLfJTASBijuQC%transfer]
                delegates: [{OTHER}]
                ballots: [yay, pass]
                proposals: [PtNairobiyssHuh87hEhfVBGCVrK3WnS8Z2FT4ymB5tAa4r1nQf]
                max_amount: "100 tez"
                max_fee: "1 tez"
                max_amount_per_day: "9000000000 tez"
                max_operations_per_day: 1000000
                hours: {{from: "00:00", to: "23:59", time_zone: Europe/Paris}}
limits: {{signatures_per_minute: 1000000}}
"""


def settings_of(text: str, directory: Path) -> Settings:
    """The settings of a configuration."""
    return settings_from(parse(text, "config.yaml"), directory)


class _Course(Service):
    """A signer of its own, and a client that asks it for one transfer after the other."""

    def __init__(self, name: str, rules: str, hsms: HsmPool, directory: Path) -> None:
        settings = settings_of(_KEY + rules, directory)
        self._watermarks = watermarks_at(directory / f"{name}.sqlite")
        signer = Signer(settings, hsms, self._watermarks, reactor)
        self._audit: AuditLog | None = None
        if settings.audit is not None:
            path, required = settings.audit.path, settings.audit.required
            self._audit = AuditLog(path, required, reactor, reactor.callFromThread)
            self._audit.startService()
            (signer.decisions.require if required else signer.decisions.add)(self._audit)
        site = SignerSite(SignerResource(signer).app.resource())
        limited = LimitedFactory(site, Connections(settings.limits, reactor, signer.admit))
        self._port = reactor.listenTCP(0, limited, interface="127.0.0.1")  # type: ignore[attr-defined]
        self._client = Client(self._port.getHost().port)

    async def ask(self, counter: int) -> None:
        """Have one transfer signed."""
        payload = payload_of({**_TRANSFER, "counter": str(counter)})
        answer = await self._client.sign(TZ3, payload)
        assert answer.status == 200, answer.body

    async def stop(self) -> None:
        """Stop everything."""
        await self._port.stopListening()
        if self._audit is not None:
            await self._audit.stopService()
        await maybeDeferred(self._watermarks.stopService)


NONE, ALL, REQUIRED = "none", "all", "all, audit required"
_COURSES = {
    NONE: "",
    ALL: _ALL_RULES + "audit: {file: audit.jsonl}\n",
    REQUIRED: _ALL_RULES + "audit: {file: required.jsonl, required: true}\n",
}


async def transfers_in_turns(
    latency: float, rounds: int, directory: Path
) -> dict[str, list[float]]:
    """Seconds of each transfer on each course, and of a sync of this disk at the same pace."""
    link = directory / "hsm"
    arguments = ("--link", str(link), "--latency", f"{latency * 1000:g}")
    hsm = spawn_command(directory, "simulate", *arguments)
    await hsm.says("simulated HSM at ")
    boards = partial(find_boards, (BoardSelector(port=str(link)),))
    pool = HsmPool(reactor, SerialPorts(reactor, reactor, boards))
    pool.startService()
    await pool.public_key(TZ3)
    courses = {name: _Course(name, rules, pool, directory) for name, rules in _COURSES.items()}
    counters = count(1)

    def asking(course: _Course) -> Step:
        async def ask(_: int) -> None:
            await course.ask(next(counters))

        return ask

    appended = os.open(directory / "appended", os.O_CREAT | os.O_WRONLY)

    async def append(_: int) -> float:
        await deferLater(reactor, latency)
        began = reactor.seconds()
        os.write(appended, bytes(4096))
        os.fdatasync(appended)
        return reactor.seconds() - began

    steps = {name: asking(course) for name, course in courses.items()}
    took = await in_turns({**steps, "sync": append}, rounds)
    os.close(appended)
    for course in courses.values():
        await course.stop()
    pool.stopService()
    await hsm.kill()
    return took


def decoding(repeats: int) -> float:
    """Seconds that a batch of ten takes to be decoded, the quickest of some rounds."""
    payload = payload_of(*[_TRANSFER] * _BATCH)
    return min(repeat(lambda: decode(payload), number=100, repeat=repeats)) / 100


def report(took: Mapping[str, list[float]], latency: float, seconds: float) -> bool:
    """Say everything; whether all goals are reached."""
    told = Report()
    none = median(took[NONE])
    sync = median(took["sync"])
    print(f"one fdatasync: {sync * 1000:.2f} ms; {len(took[NONE])} transfers of each")
    for name in (ALL, REQUIRED):
        each = median(took[name])
        told.line(
            f"transfer, HSM of {latency * 1000:.0f} ms, rules and the limits of a day: {name}",
            f"{each * 1000:.2f} ms, {none * 1000:.2f} ms without, {each / none - 1:+.2%}",
            each <= (1 + MOST_ADDED) * none,
            f"within {MOST_ADDED:.0%}",
        )
    told.line(
        f"a batch of {_BATCH} decoded",
        f"{seconds * 1000:.3f} ms",
        seconds <= MOST_DECODING,
        f"{MOST_DECODING * 1000:g} ms",
    )
    return not told.missed


def main() -> None:
    """Measure, and exit with 1 if a goal is missed."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.campaigns.rulescost", description=__doc__
    )
    parser.add_argument("--rounds", type=int, default=100, help="transfers of each kind")
    parser.add_argument("--latency", type=float, default=LATENCY, help="of the HSM, in seconds")
    parser.add_argument("--directory", type=Path, help="on the disk to measure")
    options = parser.parse_args()
    with TemporaryDirectory(dir=options.directory) as made:
        took = run(lambda: transfers_in_turns(options.latency, options.rounds, Path(made)))
    sys.exit(0 if report(took, options.latency, decoding(20)) else 1)


if __name__ == "__main__":
    main()
