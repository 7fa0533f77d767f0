"""Watermarks on every kind of store, driven at random beside the model of the rule.

    python -m tests.campaigns.model --steps 20000

`--store` takes one of them; etcd is a member of Debian's etcd-server that is started here, and
fake-etcd is one in memory. Writes fail beneath the store, as commits or on the way to etcd.
"""

import argparse
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.campaigns.rig import run
from tests.support.etcdcluster import Cluster
from tests.support.harness import reactor
from tests.support.statemachine import Place, drive
from tests.support.storeplaces import etcd_cluster, fake_etcd, memory, shared_memory, sqlite_file
from tezio_signer.config.settings import EtcdAddress

STORES = ("memory", "shared-memory", "sqlite", "fake-etcd", "etcd")


@asynccontextmanager
async def place(name: str, directory: Path) -> AsyncIterator[Place]:
    """Where a kind of store is made."""
    numbers: Iterator[int] = iter(range(10**9))
    match name:
        case "memory":
            yield memory()
        case "shared-memory":
            yield shared_memory()
        case "sqlite":
            yield sqlite_file(lambda: str(directory / f"{next(numbers)}.sqlite"))
        case "fake-etcd":
            yield fake_etcd()
        case _:
            cluster = Cluster(directory / "etcd")
            await cluster.start()
            try:
                yield etcd_cluster(EtcdAddress(tuple(cluster.urls)), cluster.members[0].gateway)
            finally:
                await cluster.stop()


async def campaign(names: tuple[str, ...], steps: int, seed: int, directory: Path) -> None:
    """Drive each store; a divergence ends it with the history that led to it."""
    for name in names:
        began = reactor.seconds()
        async with place(name, directory) as there:
            done = await drive(there, steps, seed)
        seconds = reactor.seconds() - began
        print(f"{name}: {done} steps, no divergence, {seconds:.0f} s", flush=True)


def main() -> None:
    """Run a campaign."""
    parser = argparse.ArgumentParser(prog="python -m tests.campaigns.model", description=__doc__)
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--store", choices=STORES, help="only this one")
    options = parser.parse_args()
    names = STORES if options.store is None else (options.store,)
    with TemporaryDirectory() as directory:
        run(lambda: campaign(names, options.steps, options.seed, Path(directory)))


if __name__ == "__main__":
    main()
