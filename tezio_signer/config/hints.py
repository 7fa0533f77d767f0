"""Commands that sentences tell an operator to run, so that they act on the store that is meant."""

import os
import re
import shlex
from pathlib import Path

from tezio_signer.config.settings import StoreAddress
from tezio_signer.host.accounts import user_name

_COMMAND = re.compile(r"tezio-signer watermarks [a-z]+(?! --config)\b")


def encrypted(key: Path) -> str:
    """What is said behind the name of a private key that needs a password."""
    return (
        "is encrypted, and the daemon asks nobody for its password: "
        f"openssl pkey -in {key} -out plain.pem; chmod 600 plain.pem"
    )


def spelled_out(sentence: str, config: str | None, store: StoreAddress | None) -> str:
    """A sentence whose commands name the configuration, and run as who has the store.

    :param config: as it was given, on the command line or in the environment; None for neither.
    """
    before = _as_owner(store) if isinstance(store, Path) else ""
    behind = "" if config is None else f" --config {shlex.quote(config)}"
    return _COMMAND.sub(lambda found: f"{before}{found[0]}{behind}", sentence)


def _as_owner(store: Path) -> str:
    """What goes in front of a command, if the directory of a store is another user's."""
    try:
        owner = store.parent.stat().st_uid
    except OSError:
        return ""
    # What root makes in the directory of another user is given to that user.
    if owner in (os.geteuid(), 0):
        return ""
    return f"runuser -u {user_name(owner)} -- "
