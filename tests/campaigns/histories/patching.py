"""Putting one function in the place of another for a while, wherever it was imported to."""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from typing import Any
from unittest.mock import patch

from tezio_signer.hsm import framing
from tezio_signer.tezos import base58check, payload

_OURS = ("tezio_signer.", "tests.campaigns.histories")


@contextmanager
def everywhere(original: Callable[..., Any], replacement: Callable[..., Any]) -> Iterator[None]:
    """Have every module of the signer and of this campaign call the replacement."""
    with ExitStack() as undoing:
        for name, module in list(sys.modules.items()):
            if not name.startswith(_OURS) or name == __name__:
                continue
            for attribute, value in list(vars(module).items()):
                if value is original:
                    undoing.enter_context(patch.object(module, attribute, replacement))
        yield


@contextmanager
def remembered() -> Iterator[None]:
    """Work out each Base58Check text, CRC and payload once: a history meets the same few."""
    with ExitStack() as undoing:
        for pure in (base58check.encode, base58check.decode, framing.crc16, payload.decode):
            undoing.enter_context(everywhere(pure, lru_cache(maxsize=4096)(pure)))
        yield
