"""How the tests lie: what two of them share is in `tests.support`."""

import ast
from collections.abc import Iterator
from pathlib import Path

from hypothesis import HealthCheck, settings
from twisted.trial.unittest import SynchronousTestCase

from tests import support

TESTS = Path(support.__file__).parents[1]


def imported(path: Path) -> Iterator[str]:
    """The full names of all that a file imports, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


class LayoutTests(SynchronousTestCase):
    """What is imported from where."""

    def test_no_test_module_is_imported(self) -> None:
        """No file of the tests imports a test module, which is one that trial runs."""
        wrong = [
            f"{path.relative_to(TESTS)} imports {name}"
            for path in sorted(TESTS.rglob("*.py"))
            for name in imported(path)
            if name.startswith("tests.") and ".test_" in name
        ]
        self.assertEqual(wrong, [])

    def test_support_is_below(self) -> None:
        """What is shared imports no campaign and no other folder of the tests."""
        wrong = [
            f"{path.name} imports {name}"
            for path in sorted((TESTS / "support").glob("*.py"))
            for name in imported(path)
            if name.startswith("tests.") and not f"{name}.".startswith("tests.support.")
        ]
        self.assertEqual(wrong, [])

    def test_is_listed(self) -> None:
        """The docstring of the package names each module in it."""
        assert support.__doc__ is not None
        modules = {path.stem for path in (TESTS / "support").glob("*.py")}
        missing = {
            name for name in modules if f"`{name}`" not in support.__doc__ and "test_" not in name
        }
        self.assertEqual(missing, {"__init__"})

    def test_no_hurry(self) -> None:
        """A machine that has much else to do fails no test of random examples."""
        for its in (settings(), settings(max_examples=1)):
            self.assertIsNone(its.deadline)
            self.assertIn(HealthCheck.too_slow, its.suppress_health_check)
