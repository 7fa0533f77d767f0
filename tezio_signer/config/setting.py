"""A setting: what the configuration may say for an attribute, written beside the attribute.

`Annotated[int, Setting("at once", least=1, most=10)] = 5` in a frozen class is all there is to
write: the key in the file, what is accepted, the default, what `check` prints and the page
`docs/configuration.md` follow from it.
"""

from collections.abc import Callable, Mapping
from functools import cache
from typing import Annotated, Any, get_args, get_origin

import attrs
from attrs import NOTHING, frozen

from tezio_signer.config.fields import Field

Reader = Callable[[Field], Any]
"""Makes a value of what is written in the file; raises ConfigError."""


@frozen
class Setting:
    """What is said of a setting, and what its value may be.

    :ivar about: what it is for, for the page.
    :ivar key: in the file, if it is not the name of the attribute; `listen.http` is a key in the
        section `listen`.
    :ivar form: how its value is written, for the page, if its type does not say it.
    :ivar without: what holds if it is left out, for the page, if its default does not say it.
    :ivar least: the least number that is accepted, `most` the highest.
    :ivar restart: whether the daemon goes by another value only when it is started again.
    """

    about: str
    key: str | None = None
    form: str = ""
    without: str = ""
    least: int = 0
    most: int = 2**31 - 1
    restart: bool = False


@frozen
class Known:
    """A setting of a class.

    :ivar key: in the file.
    :ivar kind: the type of its value, None left out.
    :ivar default: what holds without it; NOTHING if it is required.
    """

    attribute: str
    key: str
    kind: Any
    default: object
    setting: Setting

    def read(self, field: Field) -> Any:
        """The value of a type that needs no reader of its own; raises ConfigError."""
        if attrs.has(self.kind):
            return self.kind(**read_section(self.kind, field))
        if self.kind is bool:
            return field.boolean()
        assert self.kind in (int, float), f"nobody reads {self.attribute}"
        least, most = self.setting.least, self.setting.most
        value = field.number()
        whole = self.kind is float or isinstance(value, int)
        if not whole or not least <= value <= most:
            raise field.error(f"a number from {least} to {most} is expected, not {field.written}")
        return value


@cache
def settings_of(kind: type) -> tuple[Known, ...]:
    """The settings of a frozen class, in their order; attributes without a `Setting` are none."""
    return tuple(
        _known(attribute)
        for attribute in attrs.fields(kind)
        if get_origin(attribute.type) is Annotated
    )


def _known(attribute: Any) -> Known:
    kind, setting = get_args(attribute.type)
    if type(None) in get_args(kind):
        kind = next(each for each in get_args(kind) if each is not type(None))
    return Known(attribute.name, setting.key or attribute.name, kind, attribute.default, setting)


def read_section(
    kind: type,
    field: Field,
    readers: Mapping[str, Reader] = {},
    checked: Mapping[str, Reader] = {},
) -> dict[str, Any]:
    """The attributes that a mapping of the file says, with their values; raises ConfigError.

    :param readers: for attributes that need one.
    :param checked: for keys that are accepted, and say nothing that is not known.
    """
    known = {each.key: each for each in settings_of(kind)}
    values = {}
    for key, entry in _entries(field, known, checked).items():
        if key in checked:
            checked[key](entry)
        else:
            read = readers.get(known[key].attribute, known[key].read)
            values[known[key].attribute] = read(entry)
    return values


def _entries(
    field: Field, known: Mapping[str, Known], checked: Mapping[str, Reader]
) -> dict[str, Field]:
    """The fields that are there, those in sections under their whole keys."""
    names = [*known, *checked]
    required = [key for key, each in known.items() if each.default is NOTHING]
    sections = dict.fromkeys(key.partition(".")[0] for key in names if "." in key)
    entries = field.mapping(
        list(dict.fromkeys(key.partition(".")[0] for key in names)),
        list(dict.fromkeys(key.partition(".")[0] for key in required)),
    )
    found = {name: entry for name, entry in entries.items() if name not in sections}
    for section in sections:
        if section in entries:
            front = f"{section}."
            inner = entries[section].mapping(
                [key.removeprefix(front) for key in names if key.startswith(front)],
                [key.removeprefix(front) for key in required if key.startswith(front)],
            )
            found |= {f"{front}{name}": entry for name, entry in inner.items()}
    return found
