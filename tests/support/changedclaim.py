"""A claim that behaves otherwise than the watermarks have meant it to."""

from types import SimpleNamespace
from typing import Any, cast

from tezio_signer.watermarks.claims import Claim


def changed_claim(claim: Claim, **changes: Any) -> Claim:
    """A claim with other attributes or methods: `durable`, `complete`, `found`, `signature`."""
    names = ("signature", "durable", "moved", "complete", "found")
    same = {name: getattr(claim, name) for name in names}
    return cast(Claim, SimpleNamespace(**{**same, **changes}))
