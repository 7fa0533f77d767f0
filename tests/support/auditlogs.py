"""Audit logs for tests: made by the chain itself, with decisions of a few kinds."""

from io import BytesIO

from tests.support.harness import submission
from tests.support.vectors import PAYLOADS, block
from tezio_signer.audit.chain import Head, seal
from tezio_signer.audit.entries import first_entry
from tezio_signer.audit.facts import entry_of
from tezio_signer.audit.verifying import Report, verify
from tezio_signer.decision import Decision, Outcome
from tezio_signer.errors import Forbidden

NOON = 1_795_867_200.0
"""2026-11-28T12:00:00Z, in seconds since 1970."""


def decision(number: int) -> Decision:
    """A decision: of three, two are signatures and one is a refusal."""
    if number % 3 == 2:
        return Decision.on(submission(PAYLOADS["noop"])).refused(Forbidden(f"never {number}"))
    decided = Decision.on(submission(block(number + 1, 0)))
    return decided.__class__(
        decided.what,
        decided.peer,
        decided.listener,
        Outcome.SIGNED,
        key=decided.key,
        payload=decided.payload,
        data=decided.data,
        milliseconds=number,
    )


def log_of(count: int, before: Head | None = None) -> list[bytes]:
    """The lines of a file, the first of which says that it begins."""
    head = before or Head()
    lines = []
    for number in range(count):
        when = NOON + number / 4
        fields = entry_of(decision(number), when) if number else first_entry(when)
        line, head = seal(head, fields)
        lines.append(line)
    return lines


def verified(*files: bytes, heads: tuple[Head, ...] = ()) -> Report:
    """What is found in files of this content, which are called 0, 1, …"""
    return verify([(str(n), BytesIO(data)) for n, data in enumerate(files)], heads)
