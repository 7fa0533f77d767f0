"""The table of what is signed under which rules: a test asks for it, and a page shows it.

`python -m tests.support.policytable > docs/policy-examples.md` makes the page anew.
"""

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from attrs import frozen

from tests.support.genericpayloads import BRANCH
from tests.support.operationpayloads import payload_of
from tests.support.vectors import block, consensus
from tezio_signer.config.document import settings_from
from tezio_signer.config.fields import parse
from tezio_signer.config.settings import Settings
from tezio_signer.tezos.keys import PublicKeyHash

_FILE = Path(__file__).parents[1] / "data" / "policy-table.yaml"
PAGE = Path(__file__).parents[2] / "docs" / "policy-examples.md"
SIGNED = "signed"
_NOON = datetime(2026, 1, 15, 12, tzinfo=UTC)
_HEAD = """\
# Policy by examples

<!-- Made by `python -m tests.support.policytable` from tests/data/policy-table.yaml. -->

What a key signs under which rules, and what a client is told otherwise. Every row is a test: this
is what the signer does. [policy.md](policy.md) explains the rules, and
[configuration.md](configuration.md) lists the settings. The name behind a status is the rule that
refuses; decisions, the audit log and `tezio-signer explain` name it too.

In the place of addresses there are names here. `KEY` is the key that is to sign.
"""


@frozen
class Row:
    """A payload, and what becomes of it.

    :ivar asked: in words.
    :ivar payload: magic byte first.
    :ivar at: when it comes, in seconds since 1970.
    :ivar answer: `signed`, or status and rule of the refusal.
    :ivar sentence: of the refusal.
    """

    asked: str
    payload: bytes
    at: float
    answer: str
    sentence: str


@frozen
class Example:
    """Rules, and what is asked for under them.

    :ivar rules: what the configuration says of the key, with names.
    """

    title: str
    about: str
    rules: str
    settings: Settings
    rows: tuple[Row, ...]


class Table:
    """The whole table."""

    def __init__(self) -> None:
        document = yaml.safe_load(_FILE.read_text("utf-8"))
        self.names: dict[str, str] = document["names"]
        self.key = PublicKeyHash.parse(self.names["KEY"])
        self.examples = tuple(self._example(each) for each in document["examples"])

    def spelled_out(self, text: str) -> str:
        """A text with addresses in the place of names."""
        names = "|".join(self.names)
        return re.sub(rf"\b({names})\b", lambda found: self.names[found[1]], text)

    def named(self, text: str) -> str:
        """A text with names in the place of addresses."""
        for name, address in self.names.items():
            text = text.replace(address, name)
        return text

    def _example(self, said: Mapping[str, Any]) -> Example:
        rules = said["key"]
        indented = "".join(f"            {line}\n" for line in rules.splitlines())
        text = (
            f"security: {said.get('security', '{}')}\n"
            f"policy:\n    signing_keys:\n        KEY:\n            auth_req: False\n{indented}"
        )
        settings = settings_from(parse(self.spelled_out(text), "policy-table.yaml"), Path("/"))
        rows = tuple(self._row(row) for row in said["rows"])
        if "security" in said:
            rules = f"security: {said['security']}\n# of the key\n{rules}"
        return Example(said["title"], said.get("about", ""), rules, settings, rows)

    def _row(self, said: Mapping[str, Any]) -> Row:
        payload = self._payload(said["ask"])
        payload = payload[: len(payload) - said.get("cut", 0)]
        payload += bytes.fromhex(said.get("append", ""))
        at = _NOON
        if "at" in said:
            at = datetime.strptime(said["at"], "%Y-%m-%d %H:%M UTC").replace(tzinfo=UTC)
        return Row(
            _asked(said),
            payload,
            at.timestamp(),
            said["answer"],
            self.spelled_out(said.get("sentence", "")),
        )

    def _payload(self, ask: Any) -> bytes:
        match ask:
            case {"block": int(level)}:
                return block(level, 0)
            case {"attestation": int(level)}:
                return consensus("att", level, 0)
            case {"michelson": str(text)}:
                return bytes.fromhex(text)
            case {"unknown": str(tag)}:
                return b"\x03" + BRANCH + bytes.fromhex(tag) + bytes(20)
        operations = ask if isinstance(ask, list) else [ask]
        whole = (
            {name: self._spelled_out(value) for name, value in each.items()} for each in operations
        )
        return payload_of(*whole, source=self.names["KEY"])

    def _spelled_out(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self._spelled_out(each) for each in value]
        return self.spelled_out(value) if isinstance(value, str) else value

    def page(self) -> str:
        """The page for people."""
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        yield _HEAD
        for example in self.examples:
            yield f"## {example.title}\n"
            if example.about:
                yield f"{example.about}\n"
            yield f"```yaml\n{example.rules.rstrip()}\n```\n"
            yield "| asked for | answer | what the client is told |"
            yield "|---|---|---|"
            for row in example.rows:
                status, _, rule = row.answer.partition(" ")
                answer = f"{status} `{rule}`" if rule else status
                yield f"| {row.asked} | {answer} | {self.named(row.sentence)} |"
            yield ""
        yield from (
            "## Names\n",
            "| name | it stands for |",
            "|---|---|",
            *(f"| `{name}` | `{value}` |" for name, value in self.names.items()),
            "",
        )


def _asked(said: Mapping[str, Any]) -> str:
    """A row's payload in words, with names; as the file says it, and not as it is decoded."""
    match said["ask"]:
        case {"block": int(level)}:
            words = f"block of level {level}"
        case {"attestation": int(level)}:
            words = f"attestation of level {level}"
        case {"michelson": str()}:
            words = "Michelson data (0x05)"
        case {"unknown": str(tag)}:
            words = f"operation of an unknown kind 0x{tag}"
        case list(several):
            words = "; ".join(map(_operation, several))
        case one:
            words = _operation(one)
    if "cut" in said:
        words += f", without its last {_bytes(said['cut'])}"
    if "append" in said:
        words += f", with {_bytes(len(said['append']) // 2)} 0x{said['append']} behind"
    return f"{words}, at {said['at']}" if "at" in said else words


def _operation(it: Mapping[str, Any]) -> str:
    match it["kind"]:
        case "transaction":
            called = it["destination"] + (f"%{it['entrypoint']}" if "entrypoint" in it else "")
            words = f"transaction of {_tez(it.get('amount', 0))} to {called}"
        case "origination":
            words = f"origination with {_tez(it.get('balance', 0))}"
            words += f" and the delegate {it['delegate']}" if "delegate" in it else ""
        case "delegation":
            words = f"delegation to {it['delegate']}" if "delegate" in it else "no delegation"
        case "ballot":
            words = f"ballot {it['ballot']} on {it['proposal']}"
        case "proposals":
            words = f"proposals of {' and '.join(it['proposals'])}"
        case "drain_delegate":
            words = f"drain_delegate to {it['destination']}"
            words += f" by {it['consensus_key']}" if "consensus_key" in it else ""
        case "transfer_ticket":
            words = f"transfer_ticket to {it['destination']}%{it['entrypoint']}"
        case "increase_paid_storage":
            words = f"increase_paid_storage by {it['amount']:,} bytes"
        case "failing_noop":
            words = f"failing_noop “{it['arbitrary']}”"
        case "attestation":
            words = "attestation as a generic operation"
        case kind:
            words = kind
    if "fee" in it:
        words += f" with a fee of {_tez(it['fee'])}"
    if "storage_limit" in it:
        words += f" and storage for {it['storage_limit']} bytes"
    return f"{words}, from {it['source']}" if "source" in it else words


def _bytes(number: int) -> str:
    return "byte" if number == 1 else f"{number} bytes"


def _tez(mutez: int) -> str:
    whole, rest = divmod(mutez, 1_000_000)
    return f"{whole:,}{f'.{rest:06}'.rstrip('0') if rest else ''} tez"


if __name__ == "__main__":
    print(Table().page(), end="")
