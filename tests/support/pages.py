"""The documents of this project, read as tests need them: their commands, links and headings."""

import re
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

from attrs import frozen

import tezio_signer

ROOT = Path(__file__).parents[2]
"""The checkout, or the copy of it that `make test` runs in: it has no sources."""
CAMPAIGN = re.compile(r"\S*python -m (tests\.campaigns\.\w+)(.*)")
"""A command that is a campaign, which takes too long for the suite: its module and options."""
_SOURCES = Path(tezio_signer.__file__).parent
_FENCED = re.compile(r"^( *)```(\w*)\n(.*?)^\1```", re.S | re.M)
_HEADING = re.compile(r"^#+ (.*)\n", re.M)
_LINK = re.compile(r"\]\(([^)\s]+)\)")


@frozen
class Step:
    """A command of a `console` block, and what the block shows of its output.

    :ivar as_root: whether its prompt is `#`.
    """

    command: str
    output: str
    as_root: bool = False


@frozen
class Section:
    """What is written below one heading, up to the next one of any level."""

    heading: str
    text: str

    def steps(self) -> list[Step]:
        """The commands of its `console` blocks."""
        return [step for block in self.blocks("console") for step in _steps_of(block)]

    def blocks(self, language: str) -> list[str]:
        """Its fenced blocks in one language, without their indentation."""
        return [dedent(found[3]) for found in _FENCED.finditer(self.text) if found[2] == language]


def documents() -> dict[str, str]:
    """All documents by their paths below the checkout, with their texts."""
    paths = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("tests/data/*.md")])
    return {str(path.relative_to(ROOT)): path.read_text("utf-8") for path in paths}


def sections(text: str) -> list[Section]:
    """The sections of a document in their order."""
    outside = _FENCED.sub(lambda found: re.sub(r"[^\n]", " ", found[0]), text)
    headings = list(_HEADING.finditer(outside))
    ends = [heading.start() for heading in headings[1:]] + [len(text)]
    return [
        Section(text[heading.start(1) : heading.end(1)], text[heading.end() : end])
        for heading, end in zip(headings, ends, strict=True)
    ]


def section(text: str, heading: str) -> Section:
    """One section of a document; raises LookupError."""
    for found in sections(text):
        if found.heading == heading:
            return found
    raise LookupError(f"there is no section {heading!r}")


def _steps_of(block: str) -> Iterator[Step]:
    for part in re.split(r"^(?=[$#] )", block, flags=re.M)[1:]:
        command, _, rest = part[2:].partition("\n")
        document = re.search(r"<<-?\s*'?(\w+)'?", command)
        if document:
            body, end, rest = rest.partition(f"\n{document[1]}\n")
            command += f"\n{body}{end.rstrip()}"
        elif command.endswith("; do"):
            body, rest = re.split(r"(?<=\bdone)\n", rest, maxsplit=1)
            command += f"\n{body}"
        yield Step(command, rest, part.startswith("#"))


def links(text: str) -> list[str]:
    """The targets of the links in a document, those to other sites left out."""
    outside = _FENCED.sub("", text)
    return [to for to in _LINK.findall(outside) if not re.match(r"[a-z]+:", to)]


def anchors(text: str) -> set[str]:
    """What a link may name behind `#`, made of the headings as GitHub does it."""
    names = (re.sub(r"\[(.*?)\]\(.*?\)", r"\1", found.heading) for found in sections(text))
    return {re.sub(r"[^\w\- ]", "", name.lower()).replace(" ", "-") for name in names}


def target(document: str, link: str) -> Path:
    """The file that a link of a document leads to; sources are those that are installed."""
    path = (ROOT / document).parent / link
    below = Path(*_normalised(path.relative_to(ROOT)))
    if below.parts[:1] == ("tezio_signer",):
        return _SOURCES.joinpath(*below.parts[1:])
    return ROOT / below


def _normalised(path: Path) -> list[str]:
    parts: list[str] = []
    for part in path.parts:
        if part != "..":
            parts.append(part)
        elif parts:
            parts.pop()
        else:
            raise LookupError(f"{path} leads out of the checkout")
    return parts
