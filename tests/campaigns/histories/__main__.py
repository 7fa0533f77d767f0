"""The command line: `python -m tests.campaigns.histories`; see `__init__`."""

import argparse
import sys
from pathlib import Path
from time import monotonic

from twisted.logger import globalLogBeginner

from tests.campaigns.histories import bugs
from tests.campaigns.histories.exhaustive import CROSSWISE, ONCE, Found, Search
from tests.campaigns.histories.random_search import replay, search, shortened
from tests.campaigns.histories.referee import Figures
from tests.campaigns.histories.surroundings import Surroundings, surroundings
from tests.campaigns.histories.telling import from_text, narrate, show, show_violation

_PROGRESS_EVERY = 100_000
_PROGRESS_SECONDS = 60


def _random(options: argparse.Namespace, outside: Surroundings) -> bool:
    """Run random histories; whether they kept all rules."""
    began, told = monotonic(), 0

    def progress(figures: Figures) -> None:
        nonlocal told
        if figures.steps // _PROGRESS_EVERY > told:
            told = figures.steps // _PROGRESS_EVERY
            print(f"{figures.steps} steps, {monotonic() - began:.0f} s", flush=True)

    figures, outcome = search(options.seed, options.steps, outside, progress)
    show(figures)
    print(f"{monotonic() - began:.0f} s")
    if outcome is None:
        print("violations: 0")
        return True
    show_violation(shortened(outcome, outside))
    return False


def _exhaustive(options: argparse.Namespace, outside: Surroundings) -> bool:
    """Visit all states; whether no rule was broken in any."""
    began, told = monotonic(), 0

    def progress(found: Found) -> None:
        nonlocal told
        if monotonic() - began > told:
            told += _PROGRESS_SECONDS
            states, seconds = sum(found.states.values()), monotonic() - began
            print(f"{states} states, {found.left} paths left, {seconds:.0f} s", flush=True)

    asks = CROSSWISE if options.crosswise else ONCE
    found = Search(outside, asks, options.faults, most_states=options.states).run(progress)
    by_faults = ", ".join(f"{number} faults {n}" for number, n in sorted(found.states.items()))
    print(
        f"states: {sum(found.states.values())} ({by_faults}), the furthest {found.longest} events"
    )
    print(f"paths: {found.paths}, events: {found.transitions}, ends: {found.ends}")
    print(f"released signatures: {found.figures.released}")
    print(f"{'complete' if found.complete else 'NOT COMPLETE'}, {monotonic() - began:.0f} s")
    if found.outcome is None:
        print("violations: 0")
        return True
    show_violation(shortened(found.outcome, outside))
    return False


def _bugs(options: argparse.Namespace, outside: Surroundings) -> bool:
    """Plant bugs, one after the other; whether each was found."""
    names = list(bugs.BUGS) if options.bug == "all" else [options.bug]
    all_found = True
    for name in names:
        began = monotonic()
        with bugs.BUGS[name].planted():
            figures, outcome = search(options.seed, options.steps, outside)
            if outcome is None:
                all_found = False
                print(f"{name}: NOT FOUND in {figures.steps} steps", flush=True)
                continue
            short = shortened(outcome, outside)
        print(
            f"{name}: found in {figures.steps} steps, {monotonic() - began:.1f} s: "
            f"{short.violations[0]} ({len(short.history.events)} events)",
            flush=True,
        )
        if len(names) == 1:
            show_violation(short)
    return all_found


def _replay(options: argparse.Namespace, outside: Surroundings) -> bool:
    """Make a history again; whether it kept all rules."""
    text = Path(options.replay).read_text() if Path(options.replay).exists() else options.replay
    told = from_text(text)
    narrate(told, outside)
    return not replay(told, outside, collect=True).violations


def main() -> None:
    """Run what was asked for; exit with 1 if a rule was broken, or a bug was not found."""
    parser = argparse.ArgumentParser(prog="python -m tests.campaigns.histories")
    parser.add_argument("--seed", default="1")
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--exhaustive", action="store_true", help="visit all states instead")
    parser.add_argument("--faults", type=int, default=2, help="of an exhaustive search, at most")
    parser.add_argument(
        "--crosswise", action="store_true", help="ask each daemon for both payloads"
    )
    parser.add_argument("--states", type=int, help="visit so many at most")
    parser.add_argument("--bug", choices=["all", *bugs.BUGS], help="plant it, and look for it")
    parser.add_argument("--replay", help="a history as it was printed, or a file that holds it")
    parser.add_argument("--real", action="store_true", help="sign with the curves of Tezos")
    options = parser.parse_args()
    if options.exhaustive and options.bug == "all":
        parser.error("an exhaustive search is for one bug at a time")
    globalLogBeginner.beginLoggingTo([], redirectStandardIO=False, discardBuffer=True)
    with surroundings(options.real) as outside:
        if options.replay is not None:
            kept = _replay(options, outside)
        elif options.bug is not None and options.exhaustive:
            with bugs.BUGS[options.bug].planted():
                kept = not _exhaustive(options, outside)
        elif options.bug is not None:
            kept = _bugs(options, outside)
        elif options.exhaustive:
            kept = _exhaustive(options, outside)
        else:
            kept = _random(options, outside)
    sys.exit(0 if kept else 1)


if __name__ == "__main__":
    main()
