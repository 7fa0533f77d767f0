"""Operations that other people's software has forged: `python -m tests.campaigns.forgers`.

PyTezos and Taquito's local forger write random groups over all kinds that they can forge, and a
writer of our own, made from Octez' layouts, over all kinds that there are. The package has to
decode each to the fields that it was made of. What the others wrote has to be what ours writes,
byte for byte: so where one of them differs from Octez, it is seen.

They differ from Octez, as its sources say (`src/proto_alpha/lib_protocol/operation_repr.ml`),
in what `Dialect` leaves out for them. Found with PyTezos 3.20.0 and Taquito 25.0.0:

- Taquito writes the `amount` of `increase_paid_storage` and the `dal_attestation` of an
  attestation as natural numbers. In Octez they are signed, with six bits in the first byte. From
  64 on another number is signed than was asked for: 128 bytes become 64, 100 become -36.
- Taquito writes three or more arguments rightly for `Pair` and `pair` only. With any number of
  arguments, `LAMBDA`, `LAMBDA_REC` and `view` are written as if they had no annotations, and three
  or more; other primitives, as if they had at most two. So it can write all code that is well
  typed and has no annotation on a `LAMBDA`. Octez cannot read the rest.
- Taquito leaves out the parameter `Unit` of the entrypoint `default` also if `Unit` has
  annotations; Octez, and PyTezos, only if it has none.
- Taquito knows neither tz5 addresses nor their keys, and its forger says itself which kinds it
  knows. PyTezos has no drain, no vote and most of the smart rollups missing, and knows kinds of
  before Tenderbake (tags 0 and 10), which no protocol has any more.
- Both write a smart rollup as the destination of a transaction, which Octez does not read.
"""

import argparse
import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from random import Random
from typing import Any

from attrs import define, field, frozen
from twisted.trial.unittest import SkipTest

from tests.campaigns.randomoperations import (
    ANYTHING,
    KINDS,
    NUMBERS,
    Dialect,
    RandomOperations,
    forged,
    primitives_in,
)
from tests.support.operationjson import as_json, comparable
from tests.support.programs import command, installed
from tezio_signer.tezos import operations

Json = Any
_INTEROP = Path(__file__).parents[1] / "interop"
_ENVIRONMENT = {
    name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "TEZIO_"))
}
_MOST_TOLD = 20
_OLDEST_TAQUITO = 25
"""It knows the protocol that is live, 025."""
_OLDEST_NODE = 20, 19
"""The first that lets it require what it is made of."""
_TAQUITO_ARGUMENTS = {"Pair": 5, "pair": 5, "LAMBDA": 0, "LAMBDA_REC": 0, "view": 0}
_PYTEZOS_KINDS = [
    "reveal",
    "transaction",
    "origination",
    "delegation",
    "register_global_constant",
    "transfer_ticket",
    "smart_rollup_add_messages",
    "smart_rollup_execute_outbox_message",
    "activate_account",
    "failing_noop",
    "preattestation",
    "attestation",
    "attestation_with_dal",
    "preattestations_aggregate",
    "attestations_aggregate",
    "double_consensus_operation_evidence",
]
_NOT_TAQUITOS = [
    "smart_rollup_cement",
    "smart_rollup_publish",
    "smart_rollup_refute",
    "smart_rollup_timeout",
    "smart_rollup_recover_bond",
    "zk_rollup_origination",
    "zk_rollup_update",
    "vdf_revelation",
    "double_consensus_operation_evidence",
    "double_baking_evidence",
    "dal_entrapment_evidence",
    "preattestation",
    "preattestations_aggregate",
    "attestations_aggregate",
    "bls_mode_preattestation",
    "bls_mode_attestation",
]
_TAQUITO_KINDS = [kind for kind in KINDS if kind not in _NOT_TAQUITOS]


@frozen(slots=False)
class Program:
    """A forger of other people, in a process of its own.

    :ivar command: reads groups as lines of JSON, and writes what came of each.
    :ivar spoken: a group as this forger wants it.
    """

    name: str
    command: Sequence[str]
    kinds: Sequence[str]
    environment: Mapping[str, str] = field(factory=dict)
    limits: Mapping[str, Any] = field(factory=dict)
    spoken: Callable[[Json], Json] = lambda group: group

    @cached_property
    def dialect(self) -> Dialect:
        """What it can write; it is asked for the primitives that it knows."""
        known = [name for name in self._run([])[0] if name in NUMBERS]
        return Dialect(known, self.kinds, **self.limits)

    def forge(self, groups: Sequence[Json]) -> list[Json]:
        """The hexadecimal digits of each group, or a mapping with the error."""
        return self._run(groups)[1:]

    def _run(self, groups: Sequence[Json]) -> list[Json]:
        lines = "".join(json.dumps(self.spoken(group)) + "\n" for group in groups)
        ran = subprocess.run(  # noqa: S603
            self.command,
            input=lines,
            stdout=subprocess.PIPE,
            env={**_ENVIRONMENT, **self.environment},
            text=True,
            check=True,
        )
        return [json.loads(line) for line in ran.stdout.splitlines()]


class Specification:
    """The writer of our own."""

    name = "the layouts"
    dialect = ANYTHING

    def forge(self, groups: Sequence[Json]) -> list[Json]:
        """The hexadecimal digits of each group."""
        return [forged(group).hex() for group in groups]


def pytezos() -> Program:
    """PyTezos; raises SkipTest if it is not installed."""

    def spoken(group: Json) -> Json:
        contents = [
            {**content, "arbitrary": bytes.fromhex(content["arbitrary"]).decode()}
            if content["kind"] == "failing_noop"
            else content
            for content in group["contents"]
        ]
        return {**group, "contents": contents}

    script = str(_INTEROP / "pytezos_forge.py")
    python = installed("pytezos", "bin", "python")
    return Program("PyTezos", [python, script], _PYTEZOS_KINDS, spoken=spoken)


def taquito() -> Program:
    """Taquito's local forger; raises SkipTest if it, or a node that can run it, is missing."""
    node = command("node")
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True)  # noqa: S603
    if tuple(map(int, re.findall(r"\d+", version.stdout)[:2])) < _OLDEST_NODE:
        raise SkipTest(f"Taquito wants node {'.'.join(map(str, _OLDEST_NODE))}: {version.stdout}")
    packages = installed("taquito", "node_modules")
    about = installed("taquito", "node_modules", "@taquito", "local-forging", "package.json")
    forger = json.loads(Path(about).read_text("utf-8"))["version"]
    if int(forger.split(".")[0]) < _OLDEST_TAQUITO:
        raise SkipTest(f"{about} is of version {forger}: run tests/interop/setup again")
    return Program(
        "Taquito",
        [node, str(_INTEROP / "taquito" / "forge.cjs")],
        _TAQUITO_KINDS,
        {"NODE_PATH": packages},
        {"key_types": 4, "most_signed": 63, "arguments": _TAQUITO_ARGUMENTS},
    )


@define
class Report:
    """What came of the groups.

    :ivar operations: how many of each kind, by who forged them.
    :ivar differences: what was wrong, with the digits of the group.
    """

    groups: Counter[str] = field(factory=Counter)
    operations: Counter[tuple[str, str]] = field(factory=Counter)
    differences: list[str] = field(factory=list)

    def examine(self, name: str, group: Json, answer: Json) -> None:
        """Hold what a forger answered against the layouts, and the decoder against the group."""
        self.groups[name] += 1
        self.operations.update((name, content["kind"]) for content in group["contents"])
        if not isinstance(answer, str):
            self.differences.append(f"{name} cannot forge {json.dumps(group)}: {answer}")
            return
        expected = forged(group)
        data = bytes.fromhex(answer)
        if data != expected:
            same = takewhile(lambda both: both[0] == both[1], zip(data, expected, strict=False))
            self.differences.append(
                f"{name} forged otherwise than the layouts, from byte {len(list(same))}: "
                f"{answer}, not {expected.hex()}, of {json.dumps(group)}"
            )
        try:
            decoded = as_json(operations.decode(data, 1))
        except operations.Undecodable as error:
            self.differences.append(f"{name} forged what is refused, {error}: {answer}")
            return
        if comparable(decoded) != comparable(group):
            what = _difference(comparable(group), comparable(decoded))
            self.differences.append(f"{name} forged what is decoded otherwise, {what}: {answer}")


def run(groups: int, seed: int) -> Report:
    """Let each forger make its share of the groups, and Taquito's be forged by PyTezos too.

    :raises SkipTest: if a forger is missing.
    """
    report = Report()
    first, second = pytezos(), taquito()
    for forger, share in ((first, groups - groups // 2), (second, groups // 2)):
        makes = RandomOperations(Random(f"{seed} {forger.name}"), forger.dialect)
        made = [makes.group() for _ in range(share)]
        examine(report, forger, made)
    examine(report, first, [group for group in made if _within(group, first.dialect)])
    makes = RandomOperations(Random(seed), Specification.dialect)
    examine(report, Specification(), [makes.group() for _ in range(groups // 2)])
    return report


def examine(report: Report, forger: Program | Specification, groups: Sequence[Json]) -> None:
    """Have groups forged, and look at each."""
    for group, answer in zip(groups, forger.forge(groups), strict=True):
        report.examine(forger.name, group, answer)


def _within(group: Json, dialect: Dialect) -> bool:
    kinds = {content["kind"] for content in group["contents"]}
    return kinds <= {*dialect.kinds} and primitives_in(group) <= {*dialect.primitives}


def _difference(first: Json, second: Json, place: str = "group") -> str:
    """Where two values differ, in words."""
    match first, second:
        case dict(), dict() if first.keys() == second.keys():
            parts = [(f"{place}.{name}", first[name], second[name]) for name in first]
        case list(), list() if len(first) == len(second):
            parts = [
                (f"{place}[{n}]", *both) for n, both in enumerate(zip(first, second, strict=True))
            ]
        case _:
            return f"{place} is {first!r:.200}, not {second!r:.200}"
    return next(_difference(a, b, inner) for inner, a, b in parts if a != b)


def main() -> None:
    """Run a campaign, print how many of each kind there were, and exit with 1 if any differed."""
    parser = argparse.ArgumentParser(prog="python -m tests.campaigns.forgers", description=__doc__)
    parser.add_argument("--groups", type=int, default=10_000, help="of the two others together")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    try:
        report = run(options.groups, options.seed)
    except SkipTest as missing:
        sys.exit(str(missing))
    names = [*report.groups]
    print(f"seed {options.seed}; groups: {dict(report.groups)}; operations:")
    for kind in KINDS:
        counts = (f"{name} {report.operations[name, kind]}" for name in names)
        print(f"  {kind}: {', '.join(counts)}")
    print(f"{len(report.differences)} differences")
    for difference in report.differences[:_MOST_TOLD]:
        print(f"  {difference:.2000}")
    sys.exit(1 if report.differences else 0)


if __name__ == "__main__":
    main()
