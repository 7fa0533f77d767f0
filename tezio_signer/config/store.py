"""Where a configuration says that the watermarks are."""

import re
from pathlib import Path
from urllib.parse import urlsplit

from tezio_signer.config.fields import Field
from tezio_signer.config.setting import settings_of
from tezio_signer.config.settings import EtcdAddress, StoreAddress
from tezio_signer.host.filesystems import keeping_warnings

DEFAULT_STORE = "sqlite:watermarks.sqlite"
_SQLITE, _ETCD = "sqlite:", "etcd:"
_HOST = re.compile(r"[\w.-]+")
"""Names, also of other alphabets, and addresses of IPv4."""
_LOOPBACK = ("127.0.0.1", "localhost")


def default_store(directory: Path) -> Path:
    """Where the watermarks are if the configuration does not say it."""
    return directory / DEFAULT_STORE.removeprefix(_SQLITE)


def store_address(field: Field, directory: Path) -> StoreAddress:
    """What `watermarks` of a configuration says; raises ConfigError."""
    access_keys = [each.key for each in settings_of(EtcdAddress)]
    entries = field.mapping(("store", *access_keys), required=["store"])
    store = entries.pop("store")
    url = store.text()
    if url.startswith(_SQLITE) and url.strip() != _SQLITE:
        for name, entry in entries.items():
            raise entry.error(
                f"{name} is for a store in etcd, and this one is an SQLite file: leave it out"
            )
        return directory / url.removeprefix(_SQLITE)
    if not url.startswith(_ETCD):
        raise store.error(
            f"{url} is not a store; allowed: sqlite:PATH, etcd:https://HOST:2379,https://HOST:2379,…"
        )
    for one, other in (("certificate", "private_key"), ("user", "password_file")):
        if (one in entries) != (other in entries):
            raise field.error(f"{one} and {other} belong together: give both of them, or neither")
    access = {
        name: entry.text() if name == "user" else directory / entry.text()
        for name, entry in entries.items()
    }
    return EtcdAddress(_members(store, url.removeprefix(_ETCD)), **access)  # type: ignore[arg-type]


def _members(field: Field, urls: str) -> tuple[str, ...]:
    members = tuple(url.strip().rstrip("/") for url in urls.split(","))
    for url in members:
        if "@" in url:  # not shown: there may be a password in front of it
            raise field.error("a URL names no user; allowed: user and password_file beside store")
        if "[" in url:  # treq takes what is between for a name, and finds it wrong
            raise field.error(f"{url} has an IPv6 address, which does not work; give it a name")
        try:
            parts = urlsplit(url)
            right = parts.scheme in ("http", "https") and parts.port
        except ValueError:
            right = False
        if (
            not right
            or not _HOST.fullmatch(parts.hostname or "")
            or url != f"{parts.scheme}://{parts.netloc}"
        ):
            raise field.error(
                f"{url or 'nothing'} is not a member of etcd; allowed: https://HOST:PORT or "
                "http://HOST:PORT, several with commas between them"
            )
        if members.count(url) > 1:
            raise field.error(f"{url} is named twice: name each member once")
    return members


def store_warnings(address: StoreAddress | None) -> list[str]:
    """What an operator should know of where his watermarks go; the store need not exist."""
    if address is None:
        return []
    if not isinstance(address, EtcdAddress):
        return keeping_warnings(address, "watermarks.store")
    return [
        f"watermarks.store: {url}: traffic is not encrypted and can be altered in transit"
        for url in address.endpoints
        if url.startswith("http:") and urlsplit(url).hostname not in _LOOPBACK
    ]
