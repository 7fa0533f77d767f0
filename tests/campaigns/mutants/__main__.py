"""Changes single places of the code that carries the safety: `python -m tests.campaigns.mutants`

Each change is tried with the tests of its room (`rooms.py`). One that no test notices is a
hole in them, or has no meaning: then it is in `survivors.yaml`, with the reason. The
changes are made by Cosmic Ray: `pip install .[mutation]`.

Exits with 1 if a change survives that is not in the list.
"""

import argparse
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from attrs import define, field

from tests.campaigns.mutants.change import Change, path_of
from tests.campaigns.mutants.changedlines import since
from tests.campaigns.mutants.changes import changes_of
from tests.campaigns.mutants.rooms import ROOMS
from tests.campaigns.mutants.survivors import Survivor, listed, written
from tests.campaigns.mutants.trial import KILLED, SURVIVED, TIMED_OUT, Trial


@define
class Figures:
    """What became of the changes of one room."""

    name: str
    outcomes: Counter[str] = field(factory=Counter)
    survivors: list[tuple[Survivor, Change]] = field(factory=list)
    seconds: float = 0.0

    def __str__(self) -> str:
        count = self.outcomes.total()
        noticed = count - self.outcomes[SURVIVED]
        share = 100 * noticed / count if count else 100.0
        return (
            f"{self.name:10} {count:5} {self.outcomes[KILLED]:7} {self.outcomes[TIMED_OUT]:9} "
            f"{self.outcomes[SURVIVED]:9} {share:7.1f} % {self.seconds:7.0f} s"
        )


HEAD = "room       count  killed timed out survived   noticed      time"


def run(name: str, revision: str | None, directory: Path, verbose: bool, part: int) -> Figures:
    """Try all changes of a room, or of its lines that differ from a revision."""
    room, figures, began = ROOMS[name], Figures(name), time.monotonic()
    chosen: list[Change] = []
    for module in room.modules:
        lines = None if revision is None else since(revision, path_of(module))
        if lines is None or lines:
            chosen += [c for c in changes_of(module) if lines is None or lines & {*c.lines}]
    chosen = chosen[::part]
    trial = Trial(room, directory) if chosen else None
    for change in chosen:
        assert trial is not None
        outcome, failed = trial.outcome(change)
        figures.outcomes[outcome] += 1
        if outcome == SURVIVED:
            survivor = Survivor(name, change.where, change.after, change.was, change.becomes)
            figures.survivors.append((survivor, change))
        if verbose:
            print(f"{outcome}: {change}\n  {failed}", flush=True)
    figures.seconds = time.monotonic() - began
    return figures


def main(arguments: Sequence[str]) -> int:
    """1 if a change survives that may not."""
    parser = argparse.ArgumentParser(prog="tests.campaigns.mutants", description=__doc__)
    parser.add_argument("--room", action="append", choices=[*ROOMS], help="only this; repeatable")
    parser.add_argument("--changed", metavar="REV", help="only lines that differ from a revision")
    parser.add_argument("--part", type=int, default=1, help="only each so-manieth change")
    parser.add_argument("--verbose", action="store_true", help="say what became of each change")
    options = parser.parse_args(arguments)
    expected, unknown = listed(), list[Survivor]()
    print(HEAD, flush=True)
    whole = options.changed is None and options.part == 1
    with TemporaryDirectory() as directory:
        for name in options.room or ROOMS:
            trial = Path(directory, "trial")
            figures = run(name, options.changed, trial, options.verbose, options.part)
            print(figures, flush=True)
            met = {survivor for survivor, _ in figures.survivors}
            for survivor, change in figures.survivors:
                if survivor not in expected:
                    unknown.append(survivor)
                    print(f"no test notices: {change}", flush=True)
            for survivor in expected if whole else ():
                if survivor.room == name and survivor not in met:
                    print(f"in the list, but a test notices it or it is gone: {survivor}")
    if unknown:
        print(f"\nTo survivors.yaml, if there is a reason, or else a test:\n\n{written(unknown)}")
    return 1 if unknown else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
