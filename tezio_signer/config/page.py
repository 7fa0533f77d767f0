"""The page docs/configuration.md, from the settings: `python -m tezio_signer.config.page`."""

from collections.abc import Iterator

import attrs
from attrs import NOTHING

from tezio_signer.config.operations import OperationRules
from tezio_signer.config.setting import Known, settings_of
from tezio_signer.config.settings import (
    Audit,
    EtcdAddress,
    Limits,
    RequestToken,
    Security,
    Settings,
    SigningKey,
)

_HEAD = """\
# Configuration

<!-- Made by `python -m tezio_signer.config.page` from tezio_signer/config/settings.py. -->

All settings of `config.yaml`, which is YAML: what is accepted, what holds without them, and what
they are for. [The sample](../config.yaml) shows them in their places; `tezio-signer check` says
what a configuration means, and what is wrong in it. A key that is not known is an error. Paths
are relative to the configuration file. `listen.http` is the key `http` in the section `listen`.
A running daemon [reads the file again](deploying.md#changing-the-configuration) on SIGHUP; what is
marked *restart* is changed only by a restart.

`tezio-signer` reads the file that `--config` names, else `$TEZIO_SIGNER_CONFIG`, else
`./config.yaml`, else `/etc/tezio-signer/config.yaml`.
"""
_SECTIONS = {
    "A section of `policy.signing_keys`": SigningKey,
    "`operations` in it": OperationRules,
    "`security`": Security,
    "`request_token`": RequestToken,
    "`limits`": Limits,
    "`audit`": Audit,
}
_STORE = """\
| `store` | `sqlite:PATH`, or `etcd:` and the URLs of all members, with commas between them \
| required | Where the watermarks are. The other keys are for etcd, [etcd.md](etcd.md). |"""
_ALIASES = """
`curve_alias` (the slot of the key in the HSM) and `auth_prefix` of the original Tezio Signer are
accepted here, and `curve_alias` in `policy.auth_key`; they have to be right.
"""


def page() -> str:
    """The whole page."""
    return "\n".join(_lines())


def _lines() -> Iterator[str]:
    yield _HEAD
    yield from _table(Settings)
    for title, kind in _SECTIONS.items():
        yield f"\n## {title}\n"
        yield from _table(kind)
        if kind is SigningKey:
            yield _ALIASES.rstrip()
    yield "\n## `watermarks`\n"
    yield from _table(EtcdAddress, _STORE)
    yield ""


def _table(kind: type, *first: str) -> Iterator[str]:
    yield "| key | value | without it | what it is for |"
    yield "|---|---|---|---|"
    yield from first
    for known in settings_of(kind):
        about = known.setting.about.replace("|", "\\|")
        if known.setting.restart:
            about += " *Restart.*"
        yield f"| `{known.key}` | {_form(known)} | {_without(known)} | {about} |"


def _form(known: Known) -> str:
    if known.setting.form:
        return known.setting.form
    if known.kind is bool:
        return "True or False"
    kind = "a number" if known.kind is int else "seconds, a number"
    return f"{kind} from {known.setting.least} to {known.setting.most}"


def _without(known: Known) -> str:
    if known.setting.without:
        return known.setting.without
    if known.default is NOTHING:
        return "required"
    if attrs.has(known.kind):
        return "its defaults"
    if isinstance(known.default, tuple):
        return ", ".join(f"`{value}`" for value in known.default) or "none"
    return f"{known.default:g}" if isinstance(known.default, float) else str(known.default)


if __name__ == "__main__":
    print(page(), end="")
