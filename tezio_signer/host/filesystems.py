"""The file systems that files are on, as Linux tells them in /proc/self/mountinfo."""

import os
import re
from pathlib import Path

from attrs import frozen

MOUNTINFO = Path("/proc/self/mountinfo")
"""Its fields are described in proc_pid_mountinfo(5)."""
_POINT, _SEPARATOR = 4, "-"
_OCTAL = re.compile(r"\\([0-7]{3})")
_MEMORY = ("tmpfs", "ramfs")
_LAYERS = ("overlay", "aufs")
_NETWORK = {
    *("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "lustre", "ocfs2", "gfs2"),
    *("fuse.sshfs", "fuse.glusterfs", "fuse.s3fs", "fuse.rclone"),
}


@frozen
class Mount:
    """Where something is mounted.

    :ivar kind: the type of the file system, such as `ext4` or `tmpfs`.
    """

    point: Path
    kind: str


def mounts(listing: Path = MOUNTINFO) -> list[Mount]:
    """All mounts that this process sees, a later one over the earlier; none without /proc."""
    try:
        lines = os.fsdecode(listing.read_bytes()).splitlines()
    except OSError:
        return []
    found = []
    for fields in (line.split(" ") for line in lines):
        if _SEPARATOR in fields[:-1]:
            point = _OCTAL.sub(lambda octal: chr(int(octal[1], 8)), fields[_POINT])
            found.append(Mount(Path(point), fields[fields.index(_SEPARATOR) + 1]))
    return found


def is_mount_point(path: Path) -> bool:
    """Whether something is mounted at just this path, a single file too.

    `os.path.ismount` does not see a file that is mounted from the same disk.
    """
    real = Path(os.path.realpath(path))
    return any(mount.point == real for mount in mounts())


def mount_of(path: Path) -> Mount:
    """The mount that a path is in, or would be; one of no type at / if that is not known."""
    real = Path(os.path.realpath(path))
    around = [mount for mount in mounts() if real.is_relative_to(mount.point)]
    # The deepest counts, and of several at one point the one that was mounted last.
    around.reverse()
    return max(around, key=lambda mount: len(mount.point.parts), default=Mount(Path("/"), ""))


def file_system(path: Path) -> str:
    """The type of the file system that a path is on, or would be; "" if it is not known."""
    return mount_of(path).kind


def keeping_warnings(path: Path, what: str) -> list[str]:
    """What an operator should know of a place where something is to be kept for long.

    :param path: need not exist.
    :param what: is named in front, such as the key of the configuration.
    """
    kind = file_system(path)
    if kind in _MEMORY:
        return [
            f"{what}: {path} is on a {kind}, which is empty after every reboot; what was signed "
            "is then not known any more: name a path on a disk"
        ]
    if kind in _LAYERS:
        return [
            f"{what}: {path} is on a layer of a container ({kind}), and goes with it; what was "
            "signed is then not known any more: mount a directory, and name a path in it"
        ]
    if kind in _NETWORK:
        return [
            f"{what}: {path} is on a network file system ({kind}), whose locks may keep out "
            "nobody, and on which SQLite's log may not work: name a path on a disk of this "
            "machine, or a store in etcd"
        ]
    return []
