"""What a run of the cluster campaign has found."""

from collections import Counter, defaultdict

from attrs import define, field

from tests.campaigns.clusterrig import DAEMONS
from tests.campaigns.findings import Findings, tell
from tests.campaigns.rig import percentile

IN_TIME = 2.0
"""Seconds within which a daemon has to say that it cannot commit."""
RECOVERY = 5.0
"""Seconds within which each daemon has to sign again, from the moment when nothing is wrong any
more: links are open, and what was ended is being started."""


@define
class Report:
    """What a run has found."""

    requests: int = 0
    seconds: float = 0.0
    faults: Counter[str] = field(factory=Counter)
    answers: Counter[str] = field(factory=Counter)
    sentences: Counter[str] = field(factory=Counter)
    """What the 502 say."""
    during: defaultdict[str, Counter[str]] = field(factory=lambda: defaultdict(Counter))
    """Answers by the fault in which the request was made."""
    slowest: defaultdict[str, float] = field(factory=lambda: defaultdict(float))
    """Seconds that an answer took, by its status."""
    recoveries: list[list[float]] = field(factory=lambda: [[] for _ in range(DAEMONS)])
    """Seconds from the end of a fault to the next signature, for each daemon."""
    settled: int = 0
    """Positions that were in doubt, and were asked for until they were not."""
    refusals: list[tuple[float, float]] = field(factory=list)
    """Seconds that each 502 took, and by how many this process itself was late at once."""
    stall: float = 0.0
    """Seconds that this process itself was late, at most."""
    conflicts: set[str] = field(factory=set)
    changed: set[str] = field(factory=set)
    above: set[str] = field(factory=set)
    unverified: list[str] = field(factory=list)
    late: list[str] = field(factory=list)
    slow: list[str] = field(factory=list)
    unexplained: list[str] = field(factory=list)

    @property
    def findings(self) -> Findings:
        """What must not be there."""
        return {
            "conflicts": self.conflicts,
            "changed": self.changed,
            "above the mark": self.above,
            "unverified": self.unverified,
            f"502 after more than {IN_TIME:g} s": self.late,
            f"signed again after more than {RECOVERY:g} s": self.slow,
            "unexplained": self.unexplained,
        }

    @property
    def passed(self) -> bool:
        """Whether nothing happened that must not."""
        return not any(self.findings.values())


def show(report: Report) -> None:
    """Print it."""
    print(f"{report.faults.total()} faults, {report.requests} requests in {report.seconds:.0f} s")
    for name, times in sorted(report.faults.items()):
        print(f"  {times:3} {name}: {dict(sorted(report.during[name].items()))}")
    print(f"answers: {dict(sorted(report.answers.items()))}")
    for sentence, times in report.sentences.most_common(8):
        print(f"  {times:5} {sentence}")
    slowest = {status: f"{seconds:.2f} s" for status, seconds in sorted(report.slowest.items())}
    print(f"slowest: {slowest}; this process was late by {report.stall:.2f} s at most")
    if report.refusals:
        seconds = [taken for taken, _ in report.refusals]
        late = sorted((each for each in report.refusals if each[0] > IN_TIME), reverse=True)
        print(
            f"{len(seconds)} answers 502: median {percentile(seconds, 0.5):.2f} s, "
            f"{percentile(seconds, 0.99):.2f} s for 99 %; {len(late)} after more than "
            f"{IN_TIME:g} s as measured here (and this process late meanwhile): "
            + ", ".join(f"{taken:.2f} ({lost:.2f})" for taken, lost in late[:8])
        )
    for number, recoveries in enumerate(report.recoveries):
        median, longest = (percentile(recoveries or [0.0], share) for share in (0.5, 1))
        print(f"daemon {number} signed again: median {median:.2f} s, slowest {longest:.2f} s")
    print(f"{report.settled} positions in doubt were settled")
    tell(report.findings)
