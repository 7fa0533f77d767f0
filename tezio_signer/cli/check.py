"""`tezio-signer check`: all that start-up would refuse, and what the configuration means.

It is the gate before the daemon: what would keep it from starting is an error, and ends the
command with 1. What may change while the daemon runs is a warning: a board may be plugged in
later, and etcd may come back. It may be run beside a daemon, and moves and takes nothing.

Twisted is imported only if it is needed, for TLS, etcd or the boards: it takes longer than all
else.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import define, field

from tezio_signer.audit import files as auditfiles
from tezio_signer.cli.common import CommandError, config_option, json_option
from tezio_signer.cli.meaning import Meaning, line, lines_of, meaning_of
from tezio_signer.config.endpoints import Endpoint
from tezio_signer.config.hints import spelled_out
from tezio_signer.config.locate import config_path, load_settings, named_config
from tezio_signer.config.settings import EtcdAddress, Settings
from tezio_signer.errors import InUseError, StartupError
from tezio_signer.listeners.endpointcheck import check_each_once, check_endpoints
from tezio_signer.startup.files import (
    FileFacts,
    NamedFile,
    closed_to,
    exposed,
    facts_of,
    named_files,
    user_of,
)
from tezio_signer.startup.listening import check_open_files, try_endpoint
from tezio_signer.startup.warnings import warnings_of
from tezio_signer.watermarks.sqlite.reading import check_access, check_not_copied, read
from tezio_signer.watermarks.store import StoreAwayError, StoreError

if TYPE_CHECKING:
    from tezio_signer.cli.asking import Answers
    from tezio_signer.cli.boards import BoardCheck


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Let it take a configuration, and leave the boards alone."""
    parser.add_argument(
        "--without-boards",
        action="store_true",
        help="do not ask the boards, of which one that is silent takes seconds",
    )
    config_option(parser)
    json_option(parser)


@define
class Findings:
    """What was found.

    :ivar meaning: what the configuration says, and what is there of it.
    :ivar warnings: sentences; what is in the way of nothing that start-up does.
    :ivar errors: sentences; start-up would end with each.
    :ivar store_away: whether the store is one that does not answer now, which is a warning.
    """

    meaning: Meaning
    warnings: list[str] = field(factory=list)
    errors: list[str] = field(factory=list)
    store_away: bool = False

    def refuse(self, error: Exception) -> None:
        """Note what start-up would end with; once, whichever look finds it."""
        if str(error) not in self.errors:
            self.errors.append(str(error))


def run(options: argparse.Namespace) -> None:
    """Print what was found; raises CommandError if there are errors."""
    path = config_path(options.config)
    settings = load_settings(options.config)
    found = Findings({"configuration": str(path.absolute())})
    found.meaning |= meaning_of(settings)
    look(settings, found, not options.without_boards)
    named = named_config(options.config)
    found.warnings = [spelled_out(said, named, settings.store) for said in found.warnings]
    found.errors = [spelled_out(said, named, settings.store) for said in found.errors]
    if options.json:
        said = {**found.meaning, "warnings": found.warnings, "errors": found.errors}
        print(json.dumps(said, indent=2))
    else:
        print("\n".join(_text(found)))
    if found.errors:
        count = "1 error" if len(found.errors) == 1 else f"{len(found.errors)} errors"
        raise CommandError(f"{count}: with this the signer does not start")


def look(settings: Settings, found: Findings, with_boards: bool = True) -> None:
    """Look at all that the daemon needs; raises nothing that an operator can cause."""
    in_use = _look_at_endpoints(settings, found)
    own = NamedFile("configuration", Path(found.meaning["configuration"]))
    facts = facts_of([own, *named_files(settings)])
    found.meaning["files"] = list(map(_file, facts))
    found.warnings += exposed(facts[:1])
    found.warnings += closed_to(user_of(settings.store), facts)
    answers = None
    if with_boards or isinstance(settings.store, EtcdAddress):
        from tezio_signer.cli.asking import ask

        answers = ask(settings, with_boards)
    _look_at_store(settings, answers, found)
    _look_at_audit_log(settings, found)
    _tell_in_use(in_use, settings, found)
    if answers is not None and answers.boards is not None:
        _tell_boards(answers.boards, found)


def _look_at_endpoints(settings: Settings, found: Findings) -> list[InUseError]:
    """Look at each endpoint and at all together; returns what is in use by somebody."""
    in_use: list[InUseError] = []
    readable = []
    for text in settings.endpoints:  # each by itself, so that all that is wrong is told at once
        try:
            check_endpoints([text], None)
            readable.append(Endpoint.parse(text))
            try_endpoint(readable[-1])
        except InUseError as error:
            in_use.append(error)
        except StartupError as error:
            found.refuse(error)
    for check in (
        lambda: check_each_once(readable),
        lambda: check_open_files(settings.limits),
        lambda: found.warnings.extend(warnings_of(settings)),
        lambda: found.warnings.extend(_warnings_of_certificates(readable, settings)),
    ):
        try:
            check()
        except StartupError as error:
            found.refuse(error)
    return in_use


def _warnings_of_certificates(endpoints: list[Endpoint], settings: Settings) -> tuple[str, ...]:
    encrypted = [endpoint for endpoint in endpoints if endpoint.is_tls]
    if not encrypted:
        return ()
    from tezio_signer.listeners.tls.certificates import certificate_warnings, certificates_of

    return certificate_warnings(certificates_of(each, settings.client_ca) for each in encrypted)


def _tell_in_use(in_use: list[InUseError], settings: Settings, found: Findings) -> None:
    """A daemon that has the store has its endpoints too; else it is another program's."""
    if found.meaning["watermarks"].get("in_use"):
        return
    if isinstance(settings.store, EtcdAddress):  # of which nobody knows who uses it
        found.warnings += [f"{error}, unless that is this signer" for error in in_use]
    else:
        for error in in_use:
            found.refuse(error)


def _look_at_store(settings: Settings, answers: Answers | None, found: Findings) -> None:
    about, address = found.meaning["watermarks"], settings.store
    about["marks"] = None
    assert address is not None  # it is so with --simulate only
    if isinstance(address, EtcdAddress):
        assert answers is not None
        if isinstance(answers.marks, StoreAwayError):
            found.store_away = True
            found.warnings.append(
                f"{answers.marks}; until it answers, no block and no attestation is signed"
            )
        elif isinstance(answers.marks, StoreError):
            found.refuse(answers.marks)
        else:
            about["marks"] = answers.marks
        return
    try:
        check_access(address)
    except StoreError as error:
        found.refuse(error)
        with suppress(StoreError):  # which would follow from that
            _read(address, about)
    else:
        try:
            _read(address, about)
        except StoreError as error:
            found.refuse(error)


def _look_at_audit_log(settings: Settings, found: Findings) -> None:
    if settings.audit is None:
        return
    path = settings.audit.path
    try:
        auditfiles.check_access(path)
    except StartupError as error:
        found.refuse(error)
        return
    used = auditfiles.in_use(path)
    if used is None or found.meaning["watermarks"].get("in_use"):
        return  # a daemon that has the store has its audit log too
    if isinstance(settings.store, EtcdAddress):  # of which nobody knows who uses it
        found.warnings.append(f"{used}, unless that is this signer")
    else:
        found.refuse(used)


def _read(path: Path, about: Meaning) -> None:
    about["marks"] = len(read(path))
    about["in_use"] = check_not_copied(path)


def _tell_boards(boards: BoardCheck, found: Findings) -> None:
    found.meaning["boards"] = [
        {"board": str(each.board), "trouble": each.trouble or None} for each in boards.boards
    ]
    where = {str(key.key): key for key in boards.keys}
    auth_key = found.meaning["auth_key"]
    for key in (*found.meaning["keys"], *([auth_key] if auth_key else [])):
        place = where[key["key"]]
        key["boards"] = list(place.held_by)
        key["board"] = place.sentence
    found.warnings += boards.problems
    if any(not each.trouble for each in boards.boards):  # else there is one reason for all
        found.warnings += [f"{key.key}: {key.sentence}" for key in boards.keys if not key.held_by]


def _told(meaning: Meaning, name: str) -> list[str]:
    return [meaning[name]] if name in meaning else []


def _file(facts: FileFacts) -> dict[str, Any]:
    return {
        "what": facts.file.what,
        "path": str(facts.file.path),
        "owner": facts.owner,
        "group": facts.group,
        "mode": f"{facts.mode:04o}",
    }


def _text(found: Findings) -> Iterator[str]:
    meaning = found.meaning
    own = [file for file in meaning["files"] if file["what"] == "configuration"]
    whose = [f" ({file['owner']}:{file['group']}, mode {file['mode']})" for file in own]
    yield line("configuration", "".join((meaning["configuration"], *whose)))
    yield line("watermarks", _store(meaning["watermarks"], found.store_away))
    yield from lines_of(meaning)
    yield ""
    if auth_key := meaning["auth_key"]:
        yield line("auth key", ", ".join((auth_key["key"], *_told(auth_key, "board"))))
    for board in meaning.get("boards", ()):
        yield line("HSM", ": ".join(filter(None, (board["board"], board["trouble"]))))
    for file in meaning["files"]:
        if file["what"] == "configuration":
            continue  # is in the first line
        facts = "{owner}:{group}, mode {mode}".format_map(file)
        yield line(file["what"], f"{file['path']} ({facts})")
    for warning in found.warnings:
        yield f"warning: {warning}"
    for error in found.errors:
        yield f"error: {error}"
    if not found.errors:
        count = len(found.warnings)
        warnings = "1 warning" if count == 1 else f"{count or 'no'} warnings"
        yield f"the signer would start with this ({warnings})"


def _store(store: Meaning, away: bool) -> str:
    if store["marks"] is None:
        return f"{store['store']}, see the {'warning' if away else 'error'} below"
    use = "; a daemon has it" if store.get("in_use") else ""
    marks = "1 mark" if store["marks"] == 1 else f"{store['marks']} marks"
    return f"{store['store']}, with {marks}{use}"
