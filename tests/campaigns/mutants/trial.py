"""The tests of a room, on the code as it is and as it is changed; each time in a new process."""

import math
import subprocess
import sys
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage
from signal import SIGTERM, SIGXCPU

from tests.campaigns.mutants.change import Change
from tests.campaigns.mutants.rooms import Room

KILLED, SURVIVED, TIMED_OUT = "killed", "survived", "timed out"
_ROOT = Path(__file__).parents[3]
_LONGEST = 600
"""Seconds, of the processor and by the clock, for one run of the tests of a room."""


class Trial:
    """Tries changes of one room; raises SystemExit if its tests fail without any.

    :param directory: where the tests write.
    """

    def __init__(self, room: Room, directory: Path) -> None:
        self._tests = [f"tests.{name}" for name in room.tests]
        self._directory = directory
        self._patience = _LONGEST
        before = getrusage(RUSAGE_CHILDREN).ru_utime
        code, failed = self._run(room.modules[0], "")
        if code:
            raise SystemExit(f"a test fails without any change: {failed or 'see what it imports'}")
        # Of the processor: how busy the machine is does not count. One that waits in vain
        # fails by its own time-out.
        self._patience = math.ceil(2 + 3 * (getrusage(RUSAGE_CHILDREN).ru_utime - before))

    def outcome(self, change: Change) -> tuple[str, str]:
        """What becomes of a change, and which test has noticed it."""
        code, failed = -SIGTERM, ""
        try:
            while code == -SIGTERM:  # somebody has ended the tests, and no change has
                code, failed = self._run(change.module, change.source)
        except subprocess.TimeoutExpired:
            return TIMED_OUT, ""
        if code == -SIGXCPU:
            return TIMED_OUT, ""
        return (KILLED, failed) if code else (SURVIVED, "")

    def _run(self, module: str, source: str) -> tuple[int, str]:
        name = "tests.campaigns.mutants.trying"
        done = subprocess.run(  # noqa: S603
            [
                *(sys.executable, "-m", name),
                *(str(self._directory), str(self._patience), module),
                *self._tests,
            ],
            cwd=_ROOT,
            input=source,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_LONGEST,
        )
        return done.returncode, done.stdout.strip()
