"""The decisions of an audit log, for who asks about one; `verifying` says if all are true."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tezio_signer.audit.chain import LONGEST, link_of
from tezio_signer.audit.files import older_files, opened
from tezio_signer.errors import StartupError

Entry = dict[str, Any]
"""What a line says, under the names that docs/audit.md describes."""


def files_of(path: Path) -> list[Path]:
    """The files of a log that are there, the oldest first; the log itself if none is."""
    older = older_files(path)
    # Just behind a rotation there is none with the name, until there is a line for it.
    return [*older, path] if path.exists() or not older else older


def entries(files: Iterable[Path]) -> Iterator[Entry]:
    """All lines that can be read, in their order; raises StartupError if a file cannot be."""
    for path in files:
        try:
            with opened(path) as file:
                while line := file.readline(LONGEST):
                    if link_of(line) is not None:
                        yield from _read(line)
        except (OSError, EOFError) as error:
            raise unreadable(path, error) from error


def decision_at(path: Path, number: int) -> Entry | None:
    """The decision in a line of a log, looked for in the older files too; None without one.

    Raises StartupError if a file cannot be read.
    """
    for entry in entries(files_of(path)):
        if entry.get("number") == number:
            return entry if entry.get("kind") == "decision" else None
    return None


def decisions_on(path: Path, digest: str) -> list[Entry]:
    """The decisions on a payload, which is known by how its digest begins, the oldest first.

    Raises StartupError if a file cannot be read.
    """
    return [
        entry
        for entry in entries(files_of(path))
        if entry.get("kind") == "decision" and str(entry.get("digest", "")).startswith(digest)
    ]


def unreadable(path: Path, error: OSError | EOFError) -> StartupError:
    """Make the error for a file that cannot be read."""
    why = getattr(error, "strerror", None) or str(error)
    return StartupError(f"audit log {path}: it cannot be read: {why}")


def _read(line: bytes) -> Iterator[Entry]:
    try:
        said = json.loads(line)
    except (ValueError, RecursionError):
        return
    if isinstance(said, dict):
        yield said
