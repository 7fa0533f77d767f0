"""Where the configuration is, when nobody says so, and what is to be run with."""

import os
from collections.abc import Callable
from pathlib import Path

from attrs import evolve

from tezio_signer.config import document as config
from tezio_signer.config.fields import ConfigError
from tezio_signer.config.settings import Settings
from tezio_signer.errors import StartupError

CONFIG_VARIABLE = "TEZIO_SIGNER_CONFIG"
DEFAULT_CONFIG = "config.yaml"
SYSTEM_CONFIG = "/etc/tezio-signer/config.yaml"
SEARCHED = f"${CONFIG_VARIABLE}, ./{DEFAULT_CONFIG}, {SYSTEM_CONFIG}"
"""For the help of the commands."""


def named_config(chosen: str | None) -> str | None:
    """The configuration file that was asked for, by an option or the environment."""
    return chosen or os.environ.get(CONFIG_VARIABLE) or None


def config_path(chosen: str | None) -> Path:
    """The configuration file to read: the one asked for, else one here, else the service's.

    It need not exist.
    """
    named = named_config(chosen)
    if named is not None:
        return Path(named)
    found = (path for path in (DEFAULT_CONFIG, SYSTEM_CONFIG) if _is_there(path))
    return Path(next(found, DEFAULT_CONFIG))


def source_of(chosen: str | None, simulate: bool) -> Path | None:
    """The configuration file that `load_settings` reads; None for built-in settings.

    :param simulate: with a simulated HSM, for which the service's configuration is none.
    """
    built_in = simulate and named_config(chosen) is None and not _is_there(DEFAULT_CONFIG)
    return None if built_in else config_path(chosen)


def load_settings(chosen: str | None, built_in: Callable[[], Settings] | None = None) -> Settings:
    """The settings to run with; raises StartupError with one line that says what is wrong.

    :param built_in: given for a simulated HSM, which has no lasting watermarks: its settings if
        no configuration file is asked for and none is here.
    """
    path = source_of(chosen, simulate=built_in is not None)
    if path is None:
        assert built_in is not None
        return built_in()
    if named_config(chosen) is None and not _is_there(path):
        raise StartupError(
            f"there is no configuration: neither {Path.cwd() / DEFAULT_CONFIG} nor "
            f"{SYSTEM_CONFIG} exists; name one with --config or {CONFIG_VARIABLE}"
        )
    try:
        settings = config.load(path)
    except ConfigError as error:
        raise StartupError(str(error)) from error
    return settings if built_in is None else evolve(settings, store=None)


def _is_there(path: str | Path) -> bool:
    """Whether there is a file, or something that only looking into it can tell."""
    try:
        os.lstat(path)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return True
