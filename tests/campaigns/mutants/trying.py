"""Runs tests on a changed module: `… mutants.trying DIRECTORY SECONDS MODULE TEST...`

The changed source comes on the standard input; nothing is no change. Exits with 0 when all
tests pass, and names the one that failed otherwise.
"""

import os
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from io import StringIO
from resource import RLIMIT_CPU, setrlimit
from types import CodeType, ModuleType
from typing import NoReturn

from hypothesis import settings
from twisted.trial import util
from twisted.trial.reporter import Reporter
from twisted.trial.runner import TestLoader, TrialRunner

_PATIENCE = 10.0
"""Seconds that a test waits for what does not come."""


class _Changed(SourceFileLoader):
    """Compiles another source than that in the file."""

    changed = ""

    def get_code(self, fullname: str) -> CodeType:
        return compile(self.changed, self.path, "exec", dont_inherit=True)


class _Finder(MetaPathFinder):
    def __init__(self, module: str, source: str) -> None:
        self._module = module
        self._source = source

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self._module:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        assert spec is not None
        assert spec.origin is not None
        loader = _Changed(fullname, spec.origin)
        loader.changed = self._source
        spec.loader = loader
        return spec


class _First(Reporter):
    """Ends with the first test that fails, and names it."""

    def addError(self, test: object, error: object) -> None:
        self._end(test)

    def addFailure(self, test: object, fail: object) -> None:
        self._end(test)

    def _end(self, test: object) -> NoReturn:
        os.write(1, str(getattr(test, "id", lambda: test)()).encode())
        os._exit(1)  # at once: a change may have left threads and processes behind


def main(directory: str, seconds: str, module: str, *tests: str) -> NoReturn:
    """Run the tests.

    :param directory: where they write.
    :param seconds: of the processor, after which the process is ended.
    """
    setrlimit(RLIMIT_CPU, (int(seconds), int(seconds)))
    util.DEFAULT_TIMEOUT_DURATION = _PATIENCE
    if source := sys.stdin.read():
        sys.meta_path.insert(0, _Finder(module, source))
    settings.register_profile("the same each time", settings(), derandomize=True, database=None)
    settings.load_profile("the same each time")
    suite = TestLoader().loadByNames(list(tests))
    runner = TrialRunner(_First, stream=StringIO(), workingDirectory=directory, logfile="log")
    runner.run(suite)
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
