"""When daemons are killed, and what is found behind them."""

from collections import Counter
from enum import Enum

from attrs import define, field

from tests.campaigns.findings import Findings, tell
from tests.campaigns.rig import percentile


class Moment(Enum):
    """When a daemon is killed."""

    STARTING = "while it starts"
    ANY = "at any time"
    COMMAND = "when the HSM has a command"
    AFTER_COMMAND = "up to 5 ms later than that"
    WRITE = "when the store is written"
    AFTER_WRITE = "up to 5 ms later than that write"
    ANSWER = "when a client has a signature"
    HELD_UP = "while another program has locked the store"


@define
class Report:
    """What a run has found."""

    kills: Counter[Moment] = field(factory=Counter)
    cut: int = 0
    """Kills between a command to the HSM and the answer to a client."""
    cut_when: Counter[str] = field(factory=Counter)
    """Such commands by what the store had of them."""
    restarts: list[float] = field(factory=list)
    """Seconds from the start of a daemon until it was ready."""
    answers: Counter[str] = field(factory=Counter)
    signatures: int = 0
    repeated: Counter[int] = field(factory=Counter)
    """Answers to what was asked already before the crash, by status."""
    conflicts: set[str] = field(factory=set)
    above: set[str] = field(factory=set)
    changed: set[str] = field(factory=set)
    unverified: set[str] = field(factory=set)
    unexplained: list[str] = field(factory=list)

    @property
    def findings(self) -> Findings:
        """What must not be there."""
        return {
            "conflicts": self.conflicts,
            "above the mark": self.above,
            "changed": self.changed,
            "unverified": self.unverified,
            "unexplained": self.unexplained,
        }

    @property
    def passed(self) -> bool:
        """Whether nothing happened that must not."""
        return not any(self.findings.values())

    def show(self, seed: int) -> None:
        """Print everything."""
        print(f"{self.kills.total()} kills, {len(self.restarts)} restarts, seed {seed}")
        for moment, kills in self.kills.most_common():
            print(f"  {kills} {moment.value}")
        times = [percentile(self.restarts, share) for share in (0.5, 1)]
        print(f"ready again: median {times[0]:.2f} s, slowest {times[1]:.2f} s")
        print(f"{self.signatures} signatures, answers {dict(sorted(self.answers.items()))}")
        print(f"{self.cut} kills between a command to the HSM and its answer to a client")
        for when, commands in self.cut_when.most_common():
            print(f"  {commands} commands {when}")
        print(f"asked again after a kill: {dict(sorted(self.repeated.items()))}")
        tell(self.findings)
