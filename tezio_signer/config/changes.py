"""What is different in another configuration, and what of it a running daemon can go by."""

from collections.abc import Iterator, Mapping
from typing import Any

import attrs
from attrs import evolve, frozen

from tezio_signer.config.setting import Known, settings_of
from tezio_signer.config.settings import Settings


@frozen
class Changes:
    """How one configuration differs from another.

    :ivar now: what a running daemon can change, as words with the keys of the file; no values.
    :ivar by_restart: the keys of the file that are changed only by a restart.
    """

    now: tuple[str, ...]
    by_restart: tuple[str, ...]


def changes(running: Settings, written: Settings) -> Changes:
    """What is written otherwise than what a daemon goes by."""
    found = list(_differences(Settings, running, written))
    return Changes(
        tuple(words for words, needs_restart in found if not needs_restart),
        tuple(words for words, needs_restart in found if needs_restart),
    )


def without_restart(running: Settings, written: Settings) -> Settings:
    """What is written, with what a running daemon cannot change as it is there.

    A whole section is changed by a restart only, or nothing in it.
    """
    kept = {
        known.attribute: getattr(running, known.attribute)
        for known in settings_of(Settings)
        if known.setting.restart
    }
    return evolve(written, **kept)


def _is_section(known: Known, *values: object) -> bool:
    """Whether values have settings of their own, of which some may be changed and others not."""
    return attrs.has(known.kind) and None not in values


def _differences(
    kind: type, running: Any, written: Any, section: str = "", restart: bool = False
) -> Iterator[tuple[str, bool]]:
    """What differs, each with whether it takes a restart."""
    for known in settings_of(kind):
        before, after = (getattr(each, known.attribute) for each in (running, written))
        if before == after:
            continue
        key, needs_restart = f"{section}{known.key}", restart or known.setting.restart
        if known.attribute == "signing_keys":
            yield from ((words, needs_restart) for words in _keys(before, after))
        elif _is_section(known, before, after):
            inner = list(_differences(known.kind, before, after, f"{key}.", needs_restart))
            yield from inner or [(key, needs_restart)]  # what is in a file that a setting names
        else:
            yield key, needs_restart


def _keys(running: Mapping[Any, Any], written: Mapping[Any, Any]) -> Iterator[str]:
    yield from (f"{key} is added" for key in written if key not in running)
    yield from (f"{key} is removed" for key in running if key not in written)
    for key in written:
        if key in running and running[key] != written[key]:
            found = _differences(type(written[key]), running[key], written[key])
            yield f"{', '.join(words for words, _ in found)} of {key}"
