"""The power fails behind every step of the store: `python -m tests.campaigns.powercut`.

A daemon signs under strace, which records in order what it writes to its store, what it syncs,
and when it sends a signature. From this the disk is rebuilt as a power cut at each of these
moments could have left it: with nothing but what was synced, and with some of the rest, sector
by sector. The store found there has to cover every signature that had been sent by then, and
the next daemon has to refuse whatever is against one of them. It begins with a store of schema
version 2, which is carried over, and has transfers signed as well: what was spent has to count.
"""

import argparse
import os
import re
import shutil
import signal
import sys
from contextlib import closing
from functools import cache
from itertools import count
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

from attrs import define, evolve, field, frozen
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater

from tests.campaigns.findings import Findings, tell
from tests.campaigns.rig import run
from tests.campaigns.signing import (
    CHAINS,
    Asked,
    ForgetfulFirmware,
    Ledger,
    Track,
    configuration,
    signature_in,
)
from tests.campaigns.spending import transfer
from tests.campaigns.tracedisk import SYNCS, Call, Disk, calls
from tests.support.daemonprocess import FREE_PORT, TWISTD, Process, serving, spawn
from tests.support.harness import Client, reactor
from tests.support.oldstores import create_version_2
from tests.support.stores import watermarks_on
from tests.support.vectors import TZ1, TZ3
from tezio_signer.errors import Refused, StartupError
from tezio_signer.simulator.firmware import BAKING_MAGIC
from tezio_signer.simulator.service import Simulator
from tezio_signer.tezos.keys import digest
from tezio_signer.tezos.payload import Baking, Operation, decode
from tezio_signer.watermarks.claims import Watermarks
from tezio_signer.watermarks.sqlite.grouped import REST
from tezio_signer.watermarks.sqlite.store import SqliteStore
from tezio_signer.watermarks.store import StoreError

STORE = "watermarks.sqlite"
TRACED = (
    "openat,write,writev,pwrite64,pwritev,pwritev2,sendto,sendmsg,fsync,fdatasync,sync,"
    "sync_file_range,ftruncate,truncate,fallocate,rename,renameat,renameat2,unlink,unlinkat"
)
_STRACE = [
    "-f",
    "--seccomp-bpf",
    "-qq",
    "-y",
    "-xx",
    "-s",
    "100000",
    "-e",
    f"trace={TRACED}",
]
_LIMITS = '{max_amount_per_day: "1000000 tez"}'
_MAGIC = (0x03, *BAKING_MAGIC)
_SIGNATURE = re.compile(rb'"signature":"(\w+)"')


@frozen
class Transfer:
    """One that was signed.

    :ivar mutez: what may have left with it.
    """

    digest: bytes
    mutez: int


@define
class Report:
    """What a run has found."""

    signatures: int = 0
    syncs: int = 0
    sent: int = 0
    cuts: int = 0
    conflicts: set[str] = field(factory=set)
    above: set[str] = field(factory=set)
    forgotten: set[str] = field(factory=set)
    """Transfers that had been sent, and did not count."""
    transfers: int = 0
    unreadable: set[str] = field(factory=set)
    asked: int = 0
    """Payloads that the next daemons were asked to sign."""
    wrong: set[str] = field(factory=set)
    """Those that it would have signed, or has not given the signature of."""

    @property
    def findings(self) -> Findings:
        """What must not be there."""
        return {
            "conflicts": self.conflicts,
            "above the mark": self.above,
            "spent and forgotten": self.forgotten,
            "unreadable": self.unreadable,
            "wrong of the next daemon": self.wrong,
        }

    @property
    def passed(self) -> bool:
        """Whether nothing happened that must not, and all that was signed was seen."""
        found = any(self.findings.values())
        return not found and self.transfers > 0 and self.sent == self.signatures


async def record(
    wanted: int, directory: Path, random: Random
) -> tuple[list[str], dict[str, Asked | Transfer]]:
    """Have a daemon sign, stop it, and again; the traces, and the payload of each signature."""
    store, hsm = directory / "store" / STORE, str(directory / "hsm")
    config = configuration(hsm, f"sqlite:{store}").replace("[block,", "[generic, block,")
    config = config.replace("auth_req: False", f"auth_req: False, operations: {_LIMITS}")
    (directory / "config.yaml").write_text(config, "utf-8")
    simulator = Simulator(reactor, ForgetfulFirmware(lambda *_: None, _MAGIC), 0, hsm)
    simulator.startService()
    tracks = [Track(TZ1, CHAINS[0]), *(Track(TZ3, chain) for chain in CHAINS)]
    signed: dict[str, Asked | Transfer] = {}
    numbers = count(1)

    async def spend(client: Client, until: int) -> None:
        while len(signed) < until:
            data, mutez = transfer(next(numbers), random.randrange(1, 1000))
            answer = await client.sign(TZ3, data)
            if answer.status == 200:
                signed[signature_in(answer)] = Transfer(digest(data), mutez)
            await deferLater(reactor, random.uniform(0, 0.05))

    async def compete(client: Client, track: Track, until: int) -> None:
        while len(signed) < until:
            asking = track.competing()
            random.shuffle(asking)
            for asked, answer in zip(
                asking,
                await gatherResults(
                    [Deferred.fromCoroutine(client.sign(track.key, a.data)) for a in asking]
                ),
                strict=True,
            ):
                if answer.status == 200:
                    signed[signature_in(answer)] = asked
            track.advance(random)

    traces = []
    for shares in ((0.25, 0.5), (0.75, 1)):
        daemon, trace = _spawn(directory), directory / "trace"
        client = await serving(daemon)
        for share in shares:
            until = int(wanted * share)
            asking = [compete(client, track, until) for track in tracks]
            asking.append(spend(client, until))
            await gatherResults([Deferred.fromCoroutine(each) for each in asking])
            await deferLater(reactor, 1.5 * REST)  # the store tidies up, and begins its log anew
        os.kill(int(trace.read_text("ascii").split(maxsplit=1)[0]), signal.SIGTERM)
        await daemon.exits()
        traces.append(trace.read_text("ascii"))
    simulator.stopService()
    return traces, signed


def _spawn(directory: Path) -> Process:
    arguments = ["-n", "--pidfile=", "tezio-signer", "--http", FREE_PORT]
    strace = shutil.which("strace")
    assert strace is not None, "strace has to be installed"
    command = [strace, *_STRACE, "-o", "trace", sys.executable, "-c", TWISTD, *arguments]
    return spawn(command, directory, {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})


def replay(
    disk: Disk, trace: list[Call], signed: dict[str, Asked | Transfer], scratch: Path
) -> Report:
    """Cut the power behind every call, and hold what is left against what had been sent."""
    report, ledger, random = Report(), Ledger(), Random(1)
    spent: dict[str, Transfer] = {}
    report.signatures = len(signed)
    for call in trace:
        if call.name.startswith(("send", "write")):
            found = [text for data in call.strings for text in _SIGNATURE.findall(data)]
            for text in map(bytes.decode, found):
                sent = signed[text]
                if isinstance(sent, Transfer):
                    spent[text] = sent
                else:
                    ledger.enter(sent, text)
            if not found:
                continue
        elif disk.play(call):
            report.syncs += call.name in SYNCS
        else:
            continue
        for left in (disk.left(), disk.left(random)):
            _compare(left, ledger, list(spent.values()), report, scratch)
            report.cuts += 1
    report.sent = len({text for s in ledger.released.values() for t in s.values() for text in t})
    report.transfers = len(spent)
    report.sent += report.transfers
    report.conflicts = ledger.conflicts()
    return report


def _compare(
    left: dict[str, bytes], ledger: Ledger, spent: list[Transfer], report: Report, scratch: Path
) -> None:
    scratch.mkdir()
    for name, data in left.items():
        if not name.endswith("-shm"):
            (scratch / name).write_bytes(data)
    try:
        with closing(SqliteStore(scratch / STORE)) as store:  # as the next daemon opens it
            report.above |= ledger.above(store.load())
            entries = store.spent(TZ3)
            report.forgotten |= {
                str(each)
                for each in spent
                if entries.get(each.digest) is None or entries[each.digest].mutez < each.mutez
            }
        ask_next(scratch / STORE, ledger, report)
    except (StoreError, StartupError) as error:
        report.unreadable.add(str(error))
    shutil.rmtree(scratch)


def ask_next(path: Path, ledger: Ledger, report: Report) -> None:
    """Ask the watermarks of the next daemon for all that was sent, and for what is against it."""
    watermarks = watermarks_on(lambda: SqliteStore(path))
    watermarks.startService()
    for signed in list(ledger.released.values()):
        for asked, signatures in signed.items():
            report.asked += 2
            # One that has signed this last has its signature; what is below a mark is refused.
            if (answer := _answer(watermarks, asked)) not in ("refused", *signatures):
                report.wrong.add(f"{answer} instead of {signatures} for {asked}")
            if (answer := _answer(watermarks, other := rival(asked))) != "refused":
                report.wrong.add(f"{answer} for {other} against {asked}")
    watermarks.stopService()


def rival(asked: Asked) -> Asked:
    """Another payload of the same mark at the same position."""
    data = bytearray(asked.data)
    data[152 if asked.mark_id.operation is Operation.BLOCK else 48] ^= 0x80
    return evolve(asked, data=bytes(data))


def _answer(watermarks: Watermarks, asked: Asked) -> str:
    """What becomes of a claim: `refused`, `to be signed`, or the signature."""
    payload = _baking(asked.data)
    try:
        claim = watermarks.claim(asked.mark_id.key, payload, asked.data)
    except Refused:
        return "refused"
    granted: list[object] = []
    claim.durable.addBoth(granted.append)
    (signature,) = granted  # nothing is waited for
    return "to be signed" if signature is None else str(signature)


@cache
def _baking(data: bytes) -> Baking:
    payload = decode(data)
    assert isinstance(payload, Baking)
    return payload


async def campaign(signatures: int, seed: int, directory: Path) -> Report:
    """Record so many signatures, and cut the power behind each step of them."""
    random = Random(seed)
    (directory / "store").mkdir(parents=True)
    create_version_2(directory / "store" / STORE, {})
    disk = Disk(directory / "store")
    traces, signed = await record(signatures, directory, random)
    every = [call for trace in traces for call in calls(trace)]
    return replay(disk, every, signed, directory / "scratch")


def main() -> None:
    """Run it, print what it found, and exit with 1 if that must not be."""
    parser = argparse.ArgumentParser(prog="python -m tests.campaigns.powercut", description=__doc__)
    parser.add_argument("--signatures", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with TemporaryDirectory() as directory:
        report = run(lambda: campaign(options.signatures, options.seed, Path(directory)))
    print(f"{report.signatures} signatures, {report.sent} of them seen as they were sent")
    print(f"{report.transfers} of these of transfers")
    print(f"{report.syncs} syncs, {report.cuts} power cuts")
    print(f"{report.asked} payloads asked of the next daemons")
    tell(report.findings)
    sys.exit(0 if report.passed else 1)


if __name__ == "__main__":
    main()
