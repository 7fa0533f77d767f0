"""A setting is written in one place, and all that is said of it follows."""

from pathlib import Path
from typing import Annotated

import attrs
from attrs import frozen
from twisted.trial.unittest import SynchronousTestCase

from tezio_signer.config import settings as settings_module
from tezio_signer.config.document import _readers
from tezio_signer.config.fields import ConfigError, parse
from tezio_signer.config.page import page
from tezio_signer.config.setting import Setting, read_section, settings_of
from tezio_signer.config.settings import Settings

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"


@frozen
class Tea:
    """Settings for this test."""

    cups: Annotated[int, Setting("How many.", key="table.cups", least=1, most=6)]
    minutes: Annotated[float, Setting("How long.", most=10)] = 3
    milk: Annotated[bool | None, Setting("With milk.")] = None
    spilled: int = 0


class SettingTests(SynchronousTestCase):
    """What a setting says by itself."""

    def said(self, text: str) -> dict[str, object]:
        """The attributes that a document says."""
        return read_section(Tea, parse(text, "tea.yaml"))

    def test_read(self) -> None:
        """Sections and types are read as they are written beside the attributes."""
        self.assertEqual(self.said("table: {cups: 2}"), {"cups": 2})
        everything = {"cups": 6, "minutes": 2.5, "milk": True}
        self.assertEqual(self.said("{table: {cups: 6}, minutes: 2.5, milk: True}"), everything)

    def test_refused(self) -> None:
        """What is outside is refused with the place and what is accepted."""
        for text, words in (
            ("{}", "tea.yaml:1: table is missing"),
            ("table: {}", "tea.yaml:1: table: cups is missing"),
            ("table: {cups: 7}", "table.cups: a number from 1 to 6 is expected, not 7"),
            ("table: {cups: 1.5}", "table.cups: a number from 1 to 6 is expected, not 1.5"),
            ("{table: {cups: 1},\nminutes: -1}", "tea.yaml:2: minutes: a number from 0 to 10"),
            ("{table: {cups: 1}, spilled: 1}", "spilled: unknown key; Known: table, minutes, milk"),
            ("{table: {cup: 1}}", "table.cup: unknown key; did you mean cups? Known: cups"),
        ):
            self.assertIn(words, str(self.assertRaises(ConfigError, self.said, text)))

    def test_all_are_read(self) -> None:
        """Every setting is of a type that says how it is read, or has a reader."""
        readers = _readers(Path("/"))
        for known in settings_of(Settings):
            simple = known.kind in (bool, int, float) or attrs.has(known.kind)
            self.assertTrue(known.attribute in readers or simple, known.attribute)
        self.assertLessEqual(readers.keys(), {known.attribute for known in settings_of(Settings)})


class PageTests(SynchronousTestCase):
    """The page for people."""

    def test_up_to_date(self) -> None:
        """It is made anew when a setting changes: `python -m tezio_signer.config.page`."""
        self.assertEqual(PAGE.read_text("utf-8"), page())

    def test_complete(self) -> None:
        """Every setting of every class is on it."""
        for kind in vars(settings_module).values():
            if isinstance(kind, type) and hasattr(kind, "__attrs_attrs__"):
                for known in settings_of(kind):
                    self.assertIn(f"| `{known.key}` |", page())
