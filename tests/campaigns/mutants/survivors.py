"""The changes that no test notices, and why that is right: `survivors.yaml`."""

import re
from collections.abc import Iterable
from pathlib import Path

import yaml
from attrs import frozen

LIST = Path(__file__).with_name("survivors.yaml")


@frozen
class Survivor:
    """A change by what it does, wherever its line is by now.

    :ivar room: one of `rooms.ROOMS`.
    :ivar where: the function or class around it.
    :ivar after: the line above.
    :ivar was: the lines as they are, in one.
    :ivar becomes: the lines with the change.
    """

    room: str
    where: str
    after: str
    was: str
    becomes: str

    def entry(self, why: str = "") -> dict[str, str]:
        """What is written in the list for it."""
        return {
            "where": self.where,
            "after": self.after,
            "was": self.was,
            "becomes": self.becomes,
            "why": why,
        }


def listed(path: Path = LIST) -> dict[Survivor, str]:
    """The survivors of the list, each with its reason; raises ValueError for one without."""
    text = path.read_text(encoding="utf-8")
    rooms = yaml.safe_load(text) or {}
    if len(rooms) != len(re.findall(r"^\w+:", text, re.MULTILINE)):
        raise ValueError(f"{path.name}: a room is there twice, and only the last of it is read")
    found: dict[Survivor, str] = {}
    for room, entries in rooms.items():
        for entry in entries:
            names = ("where", "after", "was", "becomes")
            survivor = Survivor(room, *(entry[name] for name in names))
            if not entry.get("why"):
                raise ValueError(f"{path.name}: there is no reason for {survivor}")
            found[survivor] = entry["why"]
    return found


def written(survivors: Iterable[Survivor]) -> str:
    """Survivors as they would be written in the list, to be given their reasons."""
    rooms: dict[str, list[dict[str, str]]] = {}
    for survivor in survivors:
        rooms.setdefault(survivor.room, []).append(survivor.entry())
    return yaml.safe_dump(rooms, sort_keys=False, allow_unicode=True, width=1000) if rooms else ""
