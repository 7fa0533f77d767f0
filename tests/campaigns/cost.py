"""What the watermarks cost: `python -m tests.campaigns.cost`.

Whatever is compared is measured in turns, so that whatever else this machine does meets both
alike; of all times the median counts.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter

from attrs import evolve
from twisted.internet.defer import gatherResults
from twisted.internet.task import deferLater

from tests.campaigns.rig import percentile, run
from tests.support.daemonprocess import spawn_command
from tests.support.harness import Client, reactor, settings_with
from tests.support.vectors import TZ3, block
from tezio_signer.config.settings import Limits
from tezio_signer.hsm.boards import BoardSelector, find_boards
from tezio_signer.hsm.pool import HsmPool
from tezio_signer.listeners.httpsite import SignerSite
from tezio_signer.listeners.limits import Connections
from tezio_signer.listeners.wrapping import LimitedFactory
from tezio_signer.resource import SignerResource
from tezio_signer.serialhsm import SerialPorts
from tezio_signer.signer import Signer
from tezio_signer.tezos.keys import Curve, PublicKeyHash, Signature, digest
from tezio_signer.tezos.payload import Baking, Operation, decode
from tezio_signer.watermarks.claims import Watermarks
from tezio_signer.watermarks.opening import open_store
from tezio_signer.watermarks.rule import Mark, MarkId
from tezio_signer.watermarks.sqlite import store as sqlite
from tezio_signer.watermarks.sqlite.store import SqliteStore

LATENCY = 0.150
"""Seconds that a board takes for a signature."""
CONCURRENT = 100
_CHAIN = "NetXdQprcVkpaWU"
_WRITTEN = bytes(24 + 4096)
"""As much as SQLite writes to its log for one mark: its page."""
_WRITES = 1000
_SIGNATURE = Signature(Curve.P256, b"\x01" * 64)
_WARM_UP = 3
Step = Callable[[int], Awaitable[float | None]]
"""Something to measure, by its number; gives its seconds, if only a part of it counts."""


def watermarks_at(path: Path, marks: int = 0) -> Watermarks:
    """Running watermarks in a new file, as the daemon has them, with so many other marks."""
    sqlite.create(path)
    if marks:
        store = SqliteStore(path)
        store.replace(
            {
                MarkId(_CHAIN, key_number(n), Operation.BLOCK): Mark(
                    1, 0, digest(b"%d" % n), _SIGNATURE
                )
                for n in range(marks)
            }
        )
        store.close()
    watermarks = Watermarks(lambda: open_store(path, reactor), {}, reactor)
    watermarks.startService()
    return watermarks


def key_number(number: int) -> PublicKeyHash:
    """One of many keys."""
    return PublicKeyHash.of_key(Curve.P256, b"%d" % number)


async def in_turns(steps: Mapping[str, Step], rounds: int) -> dict[str, list[float]]:
    """The seconds that each step took in each round; another one comes first in each."""
    took: dict[str, list[float]] = defaultdict(list)
    order = deque(steps.items())
    for number in range(-_WARM_UP, rounds):
        order.rotate()
        for name, step in order:
            began = perf_counter()
            seconds = await step(number)
            if number >= 0:
                took[name].append(perf_counter() - began if seconds is None else seconds)
    return took


async def requests(latency: float, rounds: int, directory: Path) -> dict[str, list[float]]:
    """Blocks asked for over HTTP, with the watermarks on and off; one HSM signs for both.

    And one sync of the disk at the same pace. The HSM is a process of its own: here, its timer
    would be later by up to a millisecond each time that something else happens meanwhile.
    """
    link = directory / f"hsm-{latency}"
    arguments = ("--link", str(link), "--latency", f"{latency * 1000:g}")
    hsm = spawn_command(directory, "simulate", *arguments)
    await hsm.says("simulated HSM at ")
    boards = partial(find_boards, (BoardSelector(port=str(link)),))
    pool = HsmPool(reactor, SerialPorts(reactor, reactor, boards))
    watermarks = watermarks_at(directory / f"requests-{latency}.sqlite")
    on = settings_with()
    off = evolve(on, security=evolve(on.security, high_water_mark_check=False))
    pool.startService()
    clients, ports = {}, []
    for name, settings in {"on": on, "off": off}.items():
        signer = Signer(settings, pool, watermarks, reactor)
        site = SignerSite(SignerResource(signer).app.resource())
        limited = LimitedFactory(site, Connections(Limits(), reactor))
        ports.append(reactor.listenTCP(0, limited, interface="127.0.0.1"))  # type: ignore[attr-defined]
        clients[name] = Client(ports[-1].getHost().port)
    await pool.public_key(TZ3)
    levels = iter(range(1, 10**9))

    def asking(client: Client) -> Step:
        async def ask(_: int) -> None:
            answer = await client.sign(TZ3, block(next(levels), 0))
            assert answer.status == 200, answer.body

        return ask

    appended = os.open(directory / f"appended-{latency}", os.O_CREAT | os.O_WRONLY)

    async def append(_: int) -> float:
        await deferLater(reactor, latency)
        began = perf_counter()
        os.write(appended, _WRITTEN)
        os.fdatasync(appended)
        return perf_counter() - began

    steps = {name: asking(client) for name, client in clients.items()}
    took = await in_turns({**steps, "append": append}, rounds)
    os.close(appended)
    for port in ports:
        await port.stopListening()
    pool.stopService()
    await hsm.kill()
    await watermarks.stopService()
    return took


def claiming(watermarks: Watermarks, key: PublicKeyHash = TZ3) -> Step:
    """A claim, until it is durable."""
    levels = iter(range(2, 10**9))

    async def claim(_: int) -> None:
        data = block(next(levels), 0)
        payload = decode(data)
        assert isinstance(payload, Baking)
        await watermarks.claim(key, payload, data).durable

    return claim


async def claims(rounds: int, directory: Path) -> dict[str, list[float]]:
    """Claims in an almost empty store and in a large one, and syncs of the same disk."""
    few, many = (watermarks_at(directory / f"{n}.sqlite", n) for n in (10, 10_000))
    appended = os.open(directory / "appended", os.O_CREAT | os.O_WRONLY)
    overwritten = os.open(directory / "overwritten", os.O_CREAT | os.O_WRONLY)
    os.pwrite(overwritten, _WRITTEN * _WRITES, 0)
    os.fsync(overwritten)

    async def append(_: int) -> None:
        os.write(appended, _WRITTEN)
        os.fdatasync(appended)

    async def overwrite(number: int) -> None:
        os.pwrite(overwritten, _WRITTEN, number % _WRITES * len(_WRITTEN))
        os.fdatasync(overwritten)

    took = await in_turns(
        {
            "few": claiming(few, key_number(1)),
            "append": append,
            "many": claiming(many, key_number(1)),
            "overwrite": overwrite,
        },
        rounds,
    )
    os.close(appended)
    os.close(overwritten)
    await few.stopService()
    await many.stopService()
    return took


async def at_once(path: Path) -> None:
    """Many claims of different keys, with a word before and after for who counts syncs."""
    watermarks = watermarks_at(path)
    await claiming(watermarks)(0)
    data = block(7, 0)
    payload = decode(data)
    assert isinstance(payload, Baking)
    os.write(1, b"began\n")
    await gatherResults(
        [watermarks.claim(key_number(n), payload, data).durable for n in range(CONCURRENT)]
    )
    os.write(1, b"ended\n")
    await watermarks.stopService()


def syncs(directory: Path) -> int:
    """How often the disk was synced for many claims at once, by the count of strace."""
    strace, trace = shutil.which("strace"), directory / "trace"
    assert strace is not None, "strace has to be installed"
    tracing = [strace, "-f", "-qq", "-e", "trace=write,fsync,fdatasync", "-o", str(trace)]
    again = [sys.executable, "-m", "tests.campaigns.cost", "--at-once", str(directory / "once")]
    subprocess.run([*tracing, *again], check=True, stdout=subprocess.DEVNULL)  # noqa: S603
    text = trace.read_text("ascii")
    between = text[text.index('write(1, "began') : text.index('write(1, "ended')]
    return len(re.findall(r"(?:fsync|fdatasync)\(", between))


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.2f} ms"


class Report:
    """What was measured against its goal."""

    def __init__(self) -> None:
        self.missed = False

    def line(self, what: str, measured: str, reached: bool, goal: str) -> None:
        """Say one thing."""
        self.missed = self.missed or not reached
        print(f"{what}: {measured}; goal {goal}: {'reached' if reached else 'MISSED'}")


def report(
    slow: Mapping[str, list[float]],
    fast: Mapping[str, list[float]],
    alone: Mapping[str, list[float]],
    synced: int,
) -> bool:
    """Say everything; whether all goals are reached."""
    told = Report()
    on, off = median(slow["on"]), median(slow["off"])
    told.line(
        f"request, HSM of {LATENCY * 1000:.0f} ms, {len(slow['on'])} pairs",
        f"{_milliseconds(on)} with watermarks, {_milliseconds(off)} without, {on / off - 1:+.2%}, "
        f"of it one fdatasync {_milliseconds(median(slow['append']))}",
        on <= 1.01 * off,
        "within 1 %",
    )
    append, overwrite = median(alone["append"]), median(alone["overwrite"])
    for name in ("append", "overwrite"):
        slowest = percentile(alone[name], 0.95)
        print(
            f"one write of {len(_WRITTEN)} bytes and fdatasync, {name}: "
            f"{_milliseconds(median(alone[name]))}, 95 % within {_milliseconds(slowest)}"
        )
    on, off, sync = (median(fast[name]) for name in ("on", "off", "append"))
    told.line(
        f"request, HSM of 0 ms, {len(fast['on'])} pairs",
        f"{_milliseconds(on)} with watermarks, {_milliseconds(off)} without; its claim and the "
        f"commit of its signature add {_milliseconds(on - off)}, {(on - off) / sync:.2f} "
        f"fdatasyncs, {(on - off) / 2 / sync:.2f} for each of both",
        (on - off) / 2 <= 2 * sync,
        "2 fdatasyncs for each",
    )
    few, many = median(alone["few"]), median(alone["many"])
    told.line(
        "claim until durable",
        f"{_milliseconds(few)}, {few / append:.2f} appending fdatasyncs "
        f"({few / overwrite:.2f} overwriting)",
        few <= 2 * append,
        "2 fdatasyncs",
    )
    told.line(
        "claim beside 10,000 marks",
        f"{_milliseconds(many)}, {many / few - 1:+.1%} against 10 marks",
        many <= 1.1 * few,
        "within 10 %",
    )
    told.line(f"{CONCURRENT} claims at once", f"{synced} fdatasyncs", synced <= 4, "at most 4")
    return not told.missed


def main() -> None:
    """Measure, and exit with 1 if a goal is missed."""
    parser = argparse.ArgumentParser(prog="python -m tests.campaigns.cost", description=__doc__)
    parser.add_argument("--pairs", type=int, default=100, help="requests with a slow HSM")
    parser.add_argument("--rounds", type=int, default=1000, help="of everything else")
    parser.add_argument("--directory", type=Path, help="on the disk to measure")
    parser.add_argument("--at-once", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.at_once:
        run(lambda: at_once(options.at_once))
        return
    with TemporaryDirectory(dir=options.directory) as made:
        directory = Path(made)

        async def measure() -> bool:
            return report(
                await requests(LATENCY, options.pairs, directory),
                await requests(0, options.rounds, directory),
                await claims(options.rounds, directory),
                syncs(directory),
            )

        reached = run(measure)
    sys.exit(0 if reached else 1)


if __name__ == "__main__":
    main()
