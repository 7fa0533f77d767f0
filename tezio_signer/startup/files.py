"""Whose the files are that a configuration names, and who can read and change them."""

import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from pwd import getpwuid

from attrs import frozen

from tezio_signer.config.endpoints import Endpoint
from tezio_signer.config.settings import EtcdAddress, Settings, StoreAddress
from tezio_signer.host.accounts import group_name, user_name


@frozen
class NamedFile:
    """A file that the configuration names.

    :ivar what: what it is, for a sentence.
    :ivar secret: whether who reads it can pretend to be us, or a client of ours.
    """

    what: str
    path: Path
    secret: bool = False


@frozen
class FileFacts:
    """What the system says of a file.

    :ivar mode: the permission bits.
    """

    file: NamedFile
    uid: int
    gid: int
    mode: int

    def __str__(self) -> str:
        return f"{self.owner}:{self.group}, mode {self.mode:04o}"

    @property
    def owner(self) -> str:
        """The name of the user that it belongs to."""
        return user_name(self.uid)

    @property
    def group(self) -> str:
        """The name of its group."""
        return group_name(self.gid)


def named_files(settings: Settings) -> list[NamedFile]:
    """The files beside the configuration and the store, each once; they need not exist."""
    files = []
    for endpoint in map(Endpoint.parse, settings.endpoints):
        if endpoint.certificate_files is not None:
            key, certificate = endpoint.certificate_files
            files.append(NamedFile("private key", key, secret=True))
            files.append(NamedFile("certificate", certificate))
    if settings.client_ca is not None:
        files.append(NamedFile("client_ca", settings.client_ca.path))
    if settings.request_token is not None and settings.request_token.path is not None:
        files.append(NamedFile("request token", settings.request_token.path, secret=True))
    if settings.audit is not None:
        files.append(NamedFile("audit log", settings.audit.path))
    if isinstance(settings.store, EtcdAddress):
        etcd = settings.store
        for what, path, secret in (
            ("authorities of etcd", etcd.ca, False),
            ("certificate for etcd", etcd.certificate, False),
            ("private key for etcd", etcd.private_key, True),
            ("password for etcd", etcd.password_file, True),
        ):
            if path is not None:
                files.append(NamedFile(what, path, secret))
    return list({file.path: file for file in reversed(files)}.values())[::-1]


def facts_of(files: Iterable[NamedFile]) -> list[FileFacts]:
    """Those of the files that can be looked at; the others are somebody else's error."""
    facts = []
    for file in files:
        with suppress(OSError):
            status = file.path.stat()
            mode = stat.S_IMODE(status.st_mode)
            facts.append(FileFacts(file, status.st_uid, status.st_gid, mode))
    return facts


def exposed(facts: Iterable[FileFacts]) -> list[str]:
    """Warnings of secrets that everybody on this machine can read, and of what all can change."""
    warnings = []
    for fact in facts:
        what, path = fact.file.what, fact.file.path
        if fact.file.secret and fact.mode & stat.S_IROTH:
            warnings.append(
                f"everybody on this machine can read the {what}: chmod o-r {path} ({fact})"
            )
        if fact.mode & stat.S_IWOTH:
            warnings.append(
                f"everybody on this machine can change the {what}: chmod o-w {path} ({fact})"
            )
    return warnings


def user_of(store: StoreAddress | None) -> int:
    """The user that the daemon runs as: this one, or, if root asks, the owner of the store."""
    me = os.geteuid()
    if me != 0 or not isinstance(store, Path):
        return me
    try:
        return store.stat().st_uid
    except OSError:
        return me


def closed_to(uid: int, facts: Iterable[FileFacts]) -> list[str]:
    """Warnings of files that a user who is not root cannot read.

    :param uid: another one than this process's, whose own tries tell more.
    """
    if uid in (0, os.geteuid()):
        return []
    name = user_name(uid)
    try:
        groups = {*os.getgrouplist(name, getpwuid(uid).pw_gid)}
    except (KeyError, OSError):
        groups = set()
    return [
        f"{name}, whose the watermark store is, cannot read the {fact.file.what} "
        f"{fact.file.path} ({fact}): chgrp {name} and chmod g+r, or give it to {name}"
        for fact in facts
        if not _may_read(fact.file.path, uid, groups)
    ]


def _may_read(path: Path, uid: int, groups: set[int]) -> bool:
    real = Path(os.path.realpath(path))
    try:
        needed = [(directory.stat(), stat.S_IXOTH) for directory in real.parents]
        needed.append((real.stat(), stat.S_IROTH))
    except OSError:
        return False
    return all(_allows(status, bit, uid, groups) for status, bit in needed)


def _allows(status: os.stat_result, bit: int, uid: int, groups: set[int]) -> bool:
    """Whether the mode has a bit (of the others) for a user, as the kernel looks for it."""
    if status.st_uid == uid:
        return bool(status.st_mode & bit << 6)
    if status.st_gid in groups:
        return bool(status.st_mode & bit << 3)
    return bool(status.st_mode & bit)
