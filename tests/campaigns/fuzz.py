"""Everything that takes bytes from outside, fuzzed: `python -m tests.campaigns.fuzz`.

Where `atheris` is installed, it makes the inputs, guided by the lines that they reach. Without
it, recorded inputs are changed at random, and those with a new outcome are changed further.
"""

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from random import Random
from resource import RUSAGE_SELF, getrusage
from tempfile import TemporaryDirectory
from time import monotonic, thread_time
from traceback import extract_tb

from attrs import asdict, define, field

from tests.campaigns.fuzzframes import FramesTarget
from tests.campaigns.fuzzhttp import HttpTarget
from tests.campaigns.fuzzoperations import MichelineTarget, OperationsTarget
from tests.campaigns.fuzztargets import ConfigTarget, PayloadTarget, Target

TARGETS: dict[str, tuple[Callable[[Path], Target], float]] = {
    "payload": (lambda _: PayloadTarget(), 0.35),
    "operations": (lambda _: OperationsTarget(), 0.25),
    "micheline": (lambda _: MichelineTarget(), 0.15),
    "frames": (lambda _: FramesTarget(), 0.12),
    "http": (lambda _: HttpTarget(), 0.08),
    "config": (lambda directory: ConfigTarget(directory / "config.yaml"), 0.05),
}
"""How a target is made, in a directory of its own, and its share of the inputs of them all."""
MOST_SECONDS = 0.05
"""Of processor time, for one input."""
MOST_MEMORY = 32 << 20
"""Bytes by which one input may raise the most memory that was ever in use."""
MOST_GROWN = 64 << 20
"""Bytes by which the memory may grow after a tenth of the inputs; kept inputs are in them."""
_MOST_KEPT = 2000
_MOST_FINDINGS = 20
_COVERAGE = re.compile(r"\bcov: (\d+)")


@define
class Report:
    """What a run of one target has found.

    :ivar slowest: seconds and hexadecimal digits of the input that took longest.
    :ivar findings: what was wrong, each with the digits of an input that shows it.
    :ivar coverage: edges of the code that were reached, where they are counted.
    :ivar grown: bytes of memory more than after a tenth of the inputs.
    """

    inputs: int = 0
    seconds: float = 0.0
    slowest: tuple[float, str] = (0.0, "")
    outcomes: dict[str, int] = field(factory=dict)
    findings: dict[str, str] = field(factory=dict)
    coverage: int | None = None
    grown: int = 0

    @property
    def passed(self) -> bool:
        """Whether nothing happened that must not."""
        return not self.findings and self.grown <= MOST_GROWN


def _peak_memory() -> int:
    return getrusage(RUSAGE_SELF).ru_maxrss * 1024


class Examination:
    """Runs one target and keeps the report, whoever makes the inputs."""

    def __init__(
        self, target: Target, inputs: int, peak_memory: Callable[[], int] = _peak_memory
    ) -> None:
        self.target = target
        self.report = Report()
        self._inputs = inputs
        self._peak_memory = peak_memory
        self._began = monotonic()
        self._peak = self._early_peak = peak_memory()
        for seed in target.seeds:  # what is imported and made once is no input's fault
            self._time(seed)

    @property
    def done(self) -> bool:
        """Whether there were enough inputs."""
        return self.report.inputs >= self._inputs

    def examine(self, data: bytes) -> bool:
        """Try an input; whether what came of it is new."""
        report = self.report
        report.inputs += 1
        outcome, seconds = self._time(data)
        if seconds > report.slowest[0]:
            # Other processes disturb, and memory is tidied up: it has to be slow every time.
            seconds = min(seconds, *(self._time(data)[1] for _ in range(3)))
            if seconds > MOST_SECONDS:
                self._found(f"took {seconds:.3f} s", data)
        if seconds > report.slowest[0]:
            report.slowest = seconds, data.hex()
        peak = self._peak_memory()
        if peak > self._peak + MOST_MEMORY:
            self._found(f"took {(peak - self._peak) >> 20} MiB", data)
        self._peak = peak
        if report.inputs == self._inputs // 10:
            self._early_peak = peak
        report.seconds = monotonic() - self._began
        report.grown = peak - self._early_peak
        new = outcome not in report.outcomes
        if not new or len(report.outcomes) < _MOST_KEPT:
            report.outcomes[outcome] = report.outcomes.get(outcome, 0) + 1
        return new

    def _time(self, data: bytes) -> tuple[str, float]:
        began = thread_time()
        try:
            outcome = self.target.run(data)
        except Exception as error:
            place = extract_tb(error.__traceback__)[-1]
            kind = f"{type(error).__name__} at {Path(place.filename).name}:{place.lineno}"
            self._found(f"{kind}: {error!s:.200}", data)
            outcome = kind
        return outcome, thread_time() - began

    def _found(self, what: str, data: bytes) -> None:
        """Keep one input for each kind of finding, the shortest."""
        kind = re.sub(r"[0-9a-f]{8,}|'.*'|\d+\.\d+", "*", what)[:80]
        findings = self.report.findings
        for known in findings:
            if re.sub(r"[0-9a-f]{8,}|'.*'|\d+\.\d+", "*", known)[:80] == kind:
                if len(data) < len(findings[known]) // 2:
                    findings[known] = data.hex()
                return
        if len(findings) < _MOST_FINDINGS:
            findings[what] = data.hex()


def at_random(target: Target, inputs: int, seed: int) -> Report:
    """Change the seeds, and what had a new outcome; the same seed makes the same inputs."""
    random = Random(seed)
    examination = Examination(target, inputs)
    kept = list(target.seeds)
    for data in target.seeds[:inputs]:
        examination.examine(data)
    while not examination.done:
        # What was found last is the least explored.
        recent = kept[-50:] if random.randrange(4) == 0 else kept
        data = target.made(random, random.choice(recent))[: target.longest]
        if examination.examine(data) and len(kept) < _MOST_KEPT:
            kept.append(data)
    return examination.report


def guided(name: str, inputs: int, seed: int) -> Report:
    """Have atheris make the inputs, in a process that it owns."""
    with TemporaryDirectory() as directory:
        ran = subprocess.run(  # noqa: S603
            [
                sys.executable,
                "-m",
                "tests.campaigns.guided",
                name,
                str(inputs),
                str(seed),
                directory,
            ],
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            check=False,
        )
        written = Path(directory) / "report.json"
        if not written.exists():
            sys.exit(f"atheris ended without a report:\n{ran.stderr[-3000:]}")
        report = Report(**json.loads(written.read_text()))
    coverage = _COVERAGE.findall(ran.stderr)
    report.coverage = int(coverage[-1]) if coverage else None
    return report


def write_report(report: Report, directory: Path) -> None:
    """Leave it where `guided` reads it."""
    (directory / "report.json").write_text(json.dumps(asdict(report)))


def _run(name: str, inputs: int, seed: int, use_atheris: bool) -> Report:
    if use_atheris:
        return guided(name, inputs, seed)
    with TemporaryDirectory() as directory:
        return at_random(TARGETS[name][0](Path(directory)), inputs, seed)


def _print(name: str, report: Report) -> None:
    seconds, digits = report.slowest
    coverage = "not measured" if report.coverage is None else f"{report.coverage} edges"
    print(
        f"{name}: {report.inputs} inputs in {report.seconds:.0f} s, coverage {coverage}, "
        f"{len(report.outcomes)} outcomes, slowest input {seconds * 1000:.1f} ms, memory grew by "
        f"{report.grown / 1e6:.1f} MB, {len(report.findings)} findings"
    )
    print(f"  slowest: {digits[:160]}{'…' * (len(digits) > 160)}")
    for what, data in report.findings.items():
        print(f"  FOUND {what}\n    {data}")
    sys.stdout.flush()


def main() -> None:
    """Fuzz the targets, print what was found, and exit with 1 if anything was."""
    parser = argparse.ArgumentParser(prog="python -m tests.campaigns.fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=2_000_000, help="of all targets together")
    parser.add_argument("--target", choices=[*TARGETS, "all"], default="all")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--random", action="store_true", help="without atheris, if it is there")
    options = parser.parse_args()
    use_atheris = not options.random and find_spec("atheris") is not None
    print("inputs by atheris" if use_atheris else "inputs by random changes, without atheris")
    names = list(TARGETS) if options.target == "all" else [options.target]
    passed = True
    for name in names:
        share = TARGETS[name][1] if len(names) > 1 else 1
        report = _run(name, round(options.inputs * share), options.seed, use_atheris)
        _print(name, report)
        passed = passed and report.passed
    sys.exit(0 if passed else 1)


if __name__ == "__main__":
    main()
