"""What a configuration says of the audit log."""

from functools import partial
from pathlib import Path

from tezio_signer.config.fields import Field
from tezio_signer.config.setting import read_section
from tezio_signer.config.settings import Audit


def audit_from(field: Field, directory: Path) -> Audit:
    """The section `audit`; raises ConfigError."""
    return Audit(**read_section(Audit, field, {"path": partial(_file, directory=directory)}))


def _file(field: Field, directory: Path) -> Path:
    name = field.text()
    if not name.strip() or name.endswith("/"):
        raise field.error("the name of a file is expected, such as audit.jsonl")
    return directory / name
