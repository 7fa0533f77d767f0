"""Who has locked a file, as the kernel tells everybody."""

import os
from contextlib import suppress
from pathlib import Path

_LOCKS = Path("/proc/locks")


def locker(status: os.stat_result) -> int | None:
    """The process that has locked a file (flock), if it can be known."""
    device = status.st_dev
    file = f"{os.major(device):02x}:{os.minor(device):02x}:{status.st_ino}"
    with suppress(OSError, ValueError, IndexError):
        for line in _LOCKS.read_text("ascii", "replace").splitlines():
            fields = line.split()  # 1: FLOCK ADVISORY WRITE 23121 00:1a:3 0 EOF
            if fields[1] == "FLOCK" and fields[5] == file and int(fields[4]) > 0:
                return int(fields[4])
    return None
