"""Decisions in the audit log, for `explain --log`: which one is meant, and what it says."""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from attrs import frozen

from tezio_signer.audit.chain import LONGEST, link_of
from tezio_signer.audit.files import older_files, opened
from tezio_signer.cli.common import CommandError
from tezio_signer.cli.explanation import Explanation
from tezio_signer.cli.wrapping import shown, wrapped
from tezio_signer.config.settings import Settings
from tezio_signer.decision import Outcome
from tezio_signer.request import Credentials, Peer
from tezio_signer.tezos.jsontext import Json
from tezio_signer.tezos.keys import PublicKeyHash

CHOICES = "last, refused, the number of a line, or a digest or its first 8 digits"
_WIDTH = 22
_DIGEST = re.compile("[0-9a-f]{8,64}")
_AT_A_SOCKET = re.compile(r"(\S+) \(uid ([0-9]+), gid ([0-9]+), pid ([0-9]+)\)")
Which = Callable[["Record"], bool]


@frozen
class Record:
    """A decision as a line of the log has it.

    :ivar is_whole: whether the line has the hash that it says.
    """

    file: str
    number: int
    is_whole: bool
    fields: Mapping[str, Any]

    def text(self, name: str) -> str:
        """A field in words; empty without it."""
        value = self.fields.get(name)
        return "" if value is None else str(value)

    @property
    def is_request(self) -> bool:
        """Whether something was to be signed."""
        return "milliseconds" in self.fields

    @property
    def refuses(self) -> bool:
        """Whether a request to sign was refused."""
        return self.is_request and self.fields.get("outcome") == Outcome.REFUSED.value

    @property
    def data(self) -> bytes | None:
        """The payload; None if the log does not have it."""
        with suppress(ValueError):
            return bytes.fromhex(self.text("data")) if "data" in self.fields else None
        return None

    @property
    def key(self) -> PublicKeyHash | None:
        """The key that was to sign; None if the log does not have it."""
        with suppress(ValueError):
            return PublicKeyHash.parse(self.text("key"))
        return None

    @property
    def peer(self) -> Peer:
        """Who asked; whoever is at this machine if the log does not have it."""
        with suppress(ValueError):
            if found := _AT_A_SOCKET.fullmatch(self.text("peer")):
                uid, gid, pid = map(int, found.groups()[1:])
                return Peer(Peer.at(found[1]).address, Credentials(pid, uid, gid))
            return Peer.at(self.text("peer"))
        return Peer()


def which(text: str) -> Which:
    """Read what a person says of the decision that is meant; raises ValueError."""
    if text == "last":
        return lambda record: record.is_request
    if text == "refused":
        return lambda record: record.refuses
    if text.isdecimal():
        return lambda record: record.number == int(text)
    if _DIGEST.fullmatch(text.lower()):
        return lambda record: record.text("digest").startswith(text.lower())
    raise ValueError(f"{text!r} is neither of {CHOICES}")


def find(settings: Settings, meant: Which) -> Record:
    """The last decision that is meant; raises CommandError if there is none."""
    if settings.audit is None:
        raise CommandError("the configuration names no audit log (audit.file)")
    path = settings.audit.path
    files = [*older_files(path), *([path] if path.exists() else [])]
    found: Record | None = None
    for record in _records(files):
        if meant(record):
            found = record
    if found is None:
        raise CommandError(f"the audit log {path} has no such decision")
    return found


def _records(files: Sequence[Path]) -> Iterator[Record]:
    """All decisions in the order of the log; what is no line of it is passed over."""
    for path in files:
        try:
            with opened(path) as stream:
                for line in iter(lambda: stream.readline(LONGEST), b""):
                    link = link_of(line)
                    if link is None:
                        continue
                    with suppress(ValueError, RecursionError):
                        fields = json.loads(line)
                        if fields.get("kind") == "decision":
                            yield Record(str(path), link.number, link.is_whole, fields)
        except (OSError, EOFError) as error:
            why = getattr(error, "strerror", None) or str(error)
            raise CommandError(f"audit log {path}: it cannot be read: {why}") from error


def record_lines(record: Record) -> Iterator[str]:
    """What the log says."""
    yield from _line("decision", f"{record.text('time')}, line {record.number}")
    yield f"{'  file':{_WIDTH - 1}} {shown(record.file)}"  # in one piece, to be copied
    if not record.is_whole:
        yield from _line("  warning", "this line was changed; run tezio-signer audit verify")
    yield from _line("  asked by", f"{record.text('peer')}, by {record.text('listener') or '?'}")
    yield from _line("  asked for", record.text("what"))
    outcome = record.text("outcome")
    if record.text("sentence"):
        rule = f" by the rule {record.text('rule')}" if record.text("rule") else ""
        outcome += f"{rule}: {record.text('status')} {record.text('sentence')}"
    yield from _line("  outcome", outcome)
    if record.text("device"):
        yield from _line("  board", record.text("device"))
    mark = record.fields.get("mark")
    if isinstance(mark, dict):
        yield from _line(
            "  mark", f"{_position(mark.get('before'))} to {_position(mark.get('after'))}"
        )
    if record.is_request:
        yield from _line("  took", f"{record.text('milliseconds')} ms")


def _position(position: object) -> str:
    match position:
        case [level, round_]:
            return f"level {level} round {round_}"
        case _:
            return "none"


def then_and_now(record: Record, now: Explanation) -> Iterator[str]:
    """Whether the same would be decided again."""
    refusal = now.refusal
    then = None if record.fields.get("outcome") == Outcome.SIGNED.value else record.text("rule")
    if then == (None if refusal is None else refusal.rule):
        text = "the same as the log says was decided then"
    elif then in ("", *(verdict.rule for verdict in now.assumed)):
        text = f"not known here: then it was {record.text('outcome')}"
    else:
        was = "signed" if then is None else f"refused by the rule {then}"
        text = (
            f"another one than then, when it was {was}; the configuration, the store or the time "
            "is another"
        )
    yield from wrapped(text, "compared: ", "  ")


def record_json(record: Record) -> Json:
    """The same for programs."""
    return {"file": record.file, "is_whole": record.is_whole, **record.fields}


def _line(name: str, text: str) -> list[str]:
    return wrapped(text, f"{name:{_WIDTH - 1}} ", " " * _WIDTH)
