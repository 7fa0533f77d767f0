"""The campaign that changes single places of the code, in its parts."""

from importlib.util import find_spec
from pathlib import Path

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from tests.campaigns.mutants.change import change_of, meaning, path_of
from tests.campaigns.mutants.changedlines import in_diff
from tests.campaigns.mutants.rooms import ROOMS, Room
from tests.campaigns.mutants.survivors import Survivor, listed, written
from tests.campaigns.mutants.trial import KILLED, SURVIVED, Trial

RULE = Room(("tezio_signer.watermarks.rule",), ("watermarks.test_rule",))
DIFF = """\
--- a/rule.py
+++ b/rule.py
@@ -10 +10 @@ def one():
-    was
+    is
@@ -20,0 +21,3 @@ def two():
+    new
+    new
+    new
@@ -30,2 +33,0 @@ def three():
-    old
-    old
"""


class RoomTests(SynchronousTestCase):
    """The table of rooms, and the list of what survives in them."""

    def test_are_there(self) -> None:
        """All modules and all tests of the table exist, whatever they are called by now."""
        for name, room in ROOMS.items():
            for module in (*room.modules, *(f"tests.{test}" for test in room.tests)):
                self.assertIsNotNone(find_spec(module), f"{module}, in {name}")

    def test_survivors(self) -> None:
        """Each entry of the list has its reason, and is about a line that there is."""
        for survivor in listed():
            sources = [path_of(module) for module in ROOMS[survivor.room].modules]
            texts = (" ".join(source.read_text(encoding="utf-8").split()) for source in sources)
            self.assertTrue(any(survivor.was in text for text in texts), survivor)

    def test_written(self) -> None:
        """What is printed for the list is what it takes, once it has a reason."""
        survivor = Survivor("rule", "rule.settle", "above: 'it'", "was = {1: 2}", "# becomes")
        path = Path(self.mktemp())
        path.write_text(written([survivor]), encoding="utf-8")
        self.assertRaises(ValueError, listed, path)
        path.write_text(written([survivor]).replace("why: ''", "why: because"), encoding="utf-8")
        self.assertEqual(listed(path), {survivor: "because"})
        path.write_text(2 * path.read_text(encoding="utf-8"), encoding="utf-8")
        self.assertIn("twice", str(self.assertRaises(ValueError, listed, path)))
        path.write_text("", encoding="utf-8")
        self.assertEqual(listed(path), {})


class ChangeTests(SynchronousTestCase):
    """What is said of a change."""

    def test_place(self) -> None:
        """It is known by its function and its lines, in one line each."""
        source = "class A:\n    def b(self):\n        first()\n        if (x and\n            y):\n"
        source += "            pass\n"
        change = change_of("p.m", source, source.replace("x and", "not x and"))
        self.assertEqual(
            (change.where, change.after, change.was, change.becomes),
            ("m.A.b", "first()", "if (x and", "if (not x and"),
        )
        self.assertEqual([*change.lines], [4])

    def test_meaning(self) -> None:
        """The same written in another way, or of another type only, is no change."""
        for one, other, same in [
            ("if not a == b: c()", "if a != b: c()", True),
            ("if not not a: c()", "if a: c()", True),
            ("def f(a: int | None) -> x: return a", "def f(a: int & None) -> y: return a", True),
            ("a: x | y = 1", "a: x & y = 1", True),
            ("a: x = 1", "a: x = 2", False),
            ("@lru_cache(maxsize=2)\ndef f(): pass", "@lru_cache(maxsize=3)\ndef f(): pass", True),
            ("a = frozen(cache_hash=True)", "a = frozen(cache_hash=False)", True),
            ("a = frozen(eq=True)", "a = frozen(eq=False)", False),
            ("if not a < b: c()", "if a > b: c()", False),
        ]:
            self.assertIs(meaning(one) == meaning(other), same, one)

    def test_lines_of_a_diff(self) -> None:
        """Lines that are new or changed count, and the one before lines that are gone."""
        self.assertEqual(in_diff(DIFF), {10, 21, 22, 23, 33})


class TrialTests(SynchronousTestCase):
    """Tests on changed code."""

    def test_outcomes(self) -> None:
        """A change that a test notices is killed by it, another survives."""
        (module,) = RULE.modules
        source = path_of(module).read_text(encoding="utf-8")
        line = "    if asked.payload_hash != standing.payload_hash:"
        self.assertIn(line, source)
        trial = Trial(RULE, Path(self.mktemp()).absolute())
        killed = change_of(module, source, source.replace(line, line.replace("!=", "==")))
        outcome, test = trial.outcome(killed)
        self.assertEqual(outcome, KILLED)
        self.assertTrue(test.startswith("tests.watermarks.test_rule.JudgeTests."), test)
        harmless = evolve(killed, source=f"{source}\n# a comment\n")
        self.assertEqual(trial.outcome(harmless), (SURVIVED, ""))

    def test_tests_that_fail(self) -> None:
        """Tests that fail without a change show nothing, and are named."""
        room = Room(RULE.modules, ("watermarks.test_nothing",))
        error = self.assertRaises(SystemExit, Trial, room, Path(self.mktemp()).absolute())
        self.assertIn("test_nothing", str(error))
