"""YAML read field by field, so that every error names its file, line and key.

YAML 1.1 takes `010` for 8, `1:30` for 90 and `1_0` for 10. Nobody who writes a level or a
user means that: numbers are written in one way here, and errors show them as they are written.
"""

import re
from collections.abc import Collection
from difflib import get_close_matches
from pathlib import Path
from typing import TypeVar

import yaml
from attrs import evolve, frozen

_Value = TypeVar("_Value", bool, int, str)
_LONGEST = 400
"""Characters of a path or a sentence in an error: more than any of ours, less than any text."""
_SHOWN = 60
"""Characters of a value in an error."""
_NEAR = 0.6
"""How alike two names are (difflib) when one may be the other with a typing error."""
_NAMES = {bool: "True or False", int: "a number", str: "a text in quotes"}
_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]*|0x[0-9a-fA-F]+)")
_DECIMAL = re.compile(r"[-+]?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?")


class ConfigError(Exception):
    """What is wrong in a configuration: `file:line: key: what, and what is allowed`."""


@frozen
class Field:
    """A value of the file, and where it is written.

    :ivar key: the key in front of it, if it has one; errors give its line.
    """

    node: yaml.Node
    source: str
    path: str = ""
    key: yaml.Node | None = None

    def error(self, sentence: str) -> ConfigError:
        """An error at this place, to be raised."""
        where = f"{self.source}:{(self.key or self.node).start_mark.line + 1}"
        parts = (self.path, sentence) if self.path else (sentence,)
        return ConfigError(": ".join([where, *map(_legible, parts)]))

    def entries(self, known: str = "") -> dict[str, "Field"]:
        """The entries of a mapping under their keys as they are written.

        :param known: which keys it takes, for an error.
        """
        if not isinstance(self.node, yaml.MappingNode):
            raise self.error(f"a mapping (key: value) is expected here{known}")
        entries: dict[str, Field] = {}
        for key, value in self.node.value:
            name = str(key.value) if isinstance(key, yaml.ScalarNode) else "?"
            at = Field(key, self.source, f"{self.path}.{name}" if self.path else name)
            if name in entries:
                raise at.error("this key is here twice; leave one of them out")
            entries[name] = evolve(at, node=value, key=key)
        return entries

    def mapping(self, known: Collection[str], required: Collection[str] = ()) -> dict[str, "Field"]:
        """The entries of a mapping that takes these keys only."""
        entries = self.entries(f", with {', '.join(known)}")
        for name, field in entries.items():
            if name not in known:
                near = nearest(name, known)
                meant = f"did you mean {near}? " if near else ""
                raise field.error(f"unknown key; {meant}Known: {', '.join(known)}")
        for name in required:
            if name not in entries:
                raise self.error(f"{name} is missing")
        return entries

    def items(self) -> list["Field"]:
        """The values of a list."""
        if not isinstance(self.node, yaml.SequenceNode):
            single = isinstance(self.node, yaml.ScalarNode) and self.node.value
            raise self.error(f"a list is expected here{f': [{self.written}]?' if single else ''}")
        return [
            Field(node, self.source, f"{self.path}[{index}]")
            for index, node in enumerate(self.node.value)
        ]

    def boolean(self) -> bool:
        """True or False."""
        return self._scalar(bool)

    def integer(self) -> int:
        """A number, decimal or 0x…"""
        self._check_notation()
        return self._scalar(int)

    def number(self) -> int | float:
        """A number that may have decimals."""
        self._check_notation()
        value = self.value()
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.error(f"{_NAMES[int]} is expected here, not {self.written}")
        return value

    def text(self) -> str:
        """A text; none of ours, many of which are paths, has a zero byte."""
        text = self._scalar(str)
        if "\0" in text:
            raise self.error("a text without a zero byte is expected here")
        return text

    def _scalar(self, kind: type[_Value]) -> _Value:
        value = self.value()
        if type(value) is not kind:
            raise self.error(f"{_NAMES[kind]} is expected here, not {self.written}")
        return value

    def _check_notation(self) -> None:
        """Raises ConfigError for a number that YAML reads otherwise than people do."""
        value = self.value()
        if isinstance(value, bool) or not isinstance(value, int | float):
            return
        text = str(self.node.value)
        if not (_INTEGER if isinstance(value, int) else _DECIMAL).fullmatch(text):
            raise self.error(
                f"{self.written} is {str(value)[:_SHOWN]} for YAML, and may be meant otherwise; "
                "write numbers as 5001000, 0x11 or 1.5, with no zero in front and no colon or _"
            )

    @property
    def written(self) -> str:
        """A value as it is written in the file, in the quotes that it has there; for errors."""
        if not isinstance(self.node, yaml.ScalarNode):
            return "a list" if isinstance(self.node, yaml.SequenceNode) else "a mapping"
        text = str(self.node.value)
        shown = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
        quote = self.node.style if self.node.style in ("'", '"') else ""
        return f"{quote}{shown}{quote}" or "nothing"

    def value(self) -> object:
        """A single value of whatever type YAML takes it for."""
        if not isinstance(self.node, yaml.ScalarNode):
            raise self.error("a single value is expected here")
        try:
            value = scalar(self.node)
            str(value)  # what has no text, a number of thousands of digits, fits no error either
        except (yaml.YAMLError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
            raise self.error(
                f"{self.written} is not a value of its type in YAML; put a text in quotes"
            ) from error
        return value


def nearest(name: str, known: Collection[str]) -> str | None:
    """The known name that was probably meant; None if there is none like it."""
    near = get_close_matches(name, known, n=1, cutoff=_NEAR)
    begun = [other for other in known if len(name) > 2 and other.startswith(name)]
    return next(iter([*near, *begun]), None)


def _legible(text: str) -> str:
    """Fit for one line of a terminal, whatever is quoted in it from the file."""
    shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    if len(shown) <= _LONGEST:
        return shown
    return f"{shown[: _LONGEST // 2]} … {shown[-_LONGEST // 2 :]}"


def scalar(node: yaml.ScalarNode) -> object:
    """What a scalar says in YAML 1.1."""
    return yaml.SafeLoader("").construct_object(node)


def read(path: Path) -> Field:
    """The root of a file; raises ConfigError if it cannot be read or is no YAML."""
    try:
        return parse(path.read_text("utf-8"), str(path))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 text") from error


def parse(text: str, source: str) -> Field:
    """The root of a document; raises ConfigError."""
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(f"{source}:{line}: not YAML: {_legible(str(error.problem))}") from error
    except (yaml.YAMLError, RecursionError, ValueError, OverflowError) as error:
        sentence = str(error).splitlines()[0]
        raise ConfigError(f"{source}: not YAML: {_legible(sentence)}") from error
    if node is None:
        raise ConfigError(f"{source}:1: the file is empty; begin with the sample config.yaml")
    return Field(node, source)
