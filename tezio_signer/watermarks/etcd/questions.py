"""What a transaction asks of etcd, and where a store lies in it."""

from typing import Any

from tezio_signer.watermarks.etcd.member import text

PREFIX = "tezio-signer/"
MARKER = f"{PREFIX}store"
"""The key of the marker, which is made once."""


def holds(key: str, value: str | None) -> dict[str, Any]:
    """Compare what is under a key with a text, or with nothing."""
    if value is None:
        return {"target": "MOD", "key": text(key), "mod_revision": "0"}
    return {"target": "VALUE", "key": text(key), "value": text(value)}


def put(key: str, value: str) -> dict[str, Any]:
    """Write a text under a key."""
    return {"request_put": {"key": text(key), "value": text(value)}}


def get(key: str) -> dict[str, Any]:
    """Show what is under a key."""
    return {"request_range": {"key": text(key)}}


def get_some(first: str, end: str, most: int) -> dict[str, Any]:
    """Show what is under keys, in order, from this one on and before another one."""
    asked = {"key": text(first), "range_end": text(end), "limit": str(most)}
    return {"request_range": asked}


def delete(key: str) -> dict[str, Any]:
    """Delete what is under a key."""
    return {"request_delete_range": {"key": text(key)}}
