"""Which lines of the checkout differ from a revision."""

import re
import subprocess
from pathlib import Path

_HUNK = re.compile(r"^@@ -\S+ \+(\d+)(?:,(\d+))? @@", re.MULTILINE)


def in_diff(diff: str) -> set[int]:
    """The numbers of the lines that a diff of one file, without context, has put there.

    Where it has only taken lines away, the line before counts.
    """
    lines: set[int] = set()
    for start, count in _HUNK.findall(diff):
        lines.update(range(int(start), int(start) + max(1, int(count or 1))))
    return lines


def since(revision: str, path: Path) -> set[int]:
    """The lines of a file that differ from a revision; raises CalledProcessError."""
    command = ["git", "diff", "--unified=0", "--no-ext-diff", revision, "--", path.name]
    done = subprocess.run(command, cwd=path.parent, check=True, capture_output=True, text=True)  # noqa: S603
    return in_diff(done.stdout)
