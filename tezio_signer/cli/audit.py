"""`tezio-signer audit`: whether the audit log is whole."""

import argparse
import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

from tezio_signer.audit.chain import Head
from tezio_signer.audit.files import opened
from tezio_signer.audit.reading import files_of, unreadable
from tezio_signer.audit.verifying import Finding, Report, verify
from tezio_signer.cli.common import CommandError, config_option, json_option
from tezio_signer.config.locate import config_path, load_settings

_MOST_TOLD = 20
"""Findings that are printed; the first one is where to look."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Let it take its actions."""
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    about = "check that no line was changed, removed, added or moved; the first that is wrong"
    verifying = actions.add_parser("verify", help=about, description=about)
    verifying.add_argument(
        "files",
        nargs="*",
        metavar="FILE",
        help="the oldest first [default: those of the configuration, the older ones beside them]",
    )
    verifying.add_argument(
        "--head",
        action="append",
        default=[],
        type=_head,
        metavar="NUMBER:HASH",
        help="a line that has to be there, as the log of the daemon has named it; repeatable",
    )
    config_option(verifying)
    json_option(verifying)


def run(options: argparse.Namespace) -> None:
    """Verify; raises CommandError if something is wrong."""
    if options.files and options.config:
        raise CommandError("either files or --config, whose files are known: leave one of them out")
    files = [Path(file) for file in options.files] or _files(options.config)
    report = _verify(files, options.head)
    if options.json:
        print(json.dumps(_values(files, report), indent=2))
    else:
        print("\n".join(_text(files, report)))
    if report.wrong:
        count = "1 fault" if len(report.wrong) == 1 else f"{len(report.wrong)} faults"
        raise CommandError(f"the audit log is not as it was written: {count}")


def _head(text: str) -> Head:
    try:
        return Head.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}") from error


def _files(config: str | None) -> list[Path]:
    audit = load_settings(config).audit
    if audit is None:
        raise CommandError(
            f"{config_path(config)} names no audit log: set audit.file, or name the files to verify"
        )
    return files_of(audit.path)


def _verify(files: list[Path], heads: list[Head]) -> Report:
    at = files[0]

    def each() -> Iterator[tuple[str, BinaryIO]]:
        nonlocal at
        for at, stream in streams:
            yield str(at), stream

    try:
        with ExitStack() as stack:
            streams = []
            for at in files:  # all at once: one of them may be moved meanwhile
                streams.append((at, stack.enter_context(opened(at))))
            return verify(each(), heads)
    except (OSError, EOFError) as error:
        raise unreadable(at, error) from error


def _values(files: list[Path], report: Report) -> dict[str, object]:
    return {
        "files": list(map(str, files)),
        "lines": report.lines,
        "first": report.first,
        "head": None if report.head is None else str(report.head),
        "wrong": list(map(_finding, report.wrong)),
        "notes": list(map(_finding, report.notes)),
    }


def _finding(finding: Finding) -> dict[str, object]:
    return {
        "file": finding.place.file,
        "line": finding.place.line,
        "sentence": finding.sentence,
    }


def _text(files: list[Path], report: Report) -> Iterator[str]:
    for finding in report.notes:
        yield f"note: {finding}"
    for finding in report.wrong[:_MOST_TOLD]:
        yield f"wrong: {finding}"
    if len(report.wrong) > _MOST_TOLD:
        yield f"and {len(report.wrong) - _MOST_TOLD} more, which may follow from these"
    if report.head is None:
        return
    lines = "1 line" if report.lines == 1 else f"{report.lines} lines"
    if not report.wrong:
        yield (
            f"{lines} in {', '.join(map(str, files))}: none was changed, removed, added or moved "
            f"from line {report.first} to line {report.head.number}"
        )
    yield f"head {report.head}"
    if not report.wrong:
        yield (
            "What this cannot show: lines removed behind this one, or the whole log written anew. "
            "Give --head what the log of the daemon names"
        )
