"""What Linux tells of the places where files are."""

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tezio_signer.host import filesystems
from tezio_signer.host.filesystems import (
    file_system,
    is_mount_point,
    keeping_warnings,
    mount_of,
    mounts,
)

LISTING = """\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda1 rw
23 22 0:21 / /run rw,nosuid - tmpfs tmpfs rw,mode=755
24 22 0:30 / /srv rw - nfs4 server:/export rw,vers=4.2
25 24 254:0 /disk /srv/with\\040a\\040blank rw - xfs /dev/vdb rw
26 22 0:40 / /data rw - overlay overlay rw,lowerdir=/a,upperdir=/b
27 26 254:0 /host/s.sqlite /data/s.sqlite rw - ext4 /dev/vda1 rw
28 22 254:9 / /twice rw - ext4 /dev/vdc rw
29 28 0:50 / /twice rw - ramfs none rw
not a line
"""


class MountsTestCase(SynchronousTestCase):
    """Sees these mounts, and no others."""

    def setUp(self) -> None:
        listing = Path(self.mktemp())
        listing.write_text(LISTING)
        self.listing = listing
        self.patch(filesystems, "mounts", lambda: mounts(listing))


class MountsTests(MountsTestCase):
    """Mount points and types."""

    def test_types(self) -> None:
        """The deepest mount counts, and the last of two; what is not there is looked at too."""
        for path, kind in [
            ("/etc/passwd", "ext4"),
            ("/run/not/there", "tmpfs"),
            ("/running", "ext4"),
            ("/srv/a", "nfs4"),
            ("/srv/with a blank/a", "xfs"),
            ("/twice/a", "ramfs"),
        ]:
            self.assertEqual(file_system(Path(path)), kind, path)

    def test_mount_points(self) -> None:
        """A single file that is mounted is one, what is beside it is none."""
        for path, right in [("/data/s.sqlite", True), ("/data/s", False), ("/srv", True)]:
            self.assertEqual(is_mount_point(Path(path)), right, path)

    def test_link(self) -> None:
        """What counts is where a link leads."""
        link = Path(self.mktemp())
        link.symlink_to("/data/s.sqlite")
        self.assertTrue(is_mount_point(link))

    def test_where(self) -> None:
        """Where a file system is mounted is known: links to a file are there, and nowhere else."""
        self.assertEqual(mount_of(Path("/srv/with a blank/a")).point, Path("/srv/with a blank"))
        self.assertEqual(mount_of(Path("/var/lib/a")).point, Path("/"))

    def test_nothing_known(self) -> None:
        """Without /proc nothing is known, and nothing warned of."""
        self.listing.unlink()
        self.assertEqual(file_system(Path("/run")), "")
        self.assertFalse(is_mount_point(Path("/run")))
        self.assertEqual(keeping_warnings(Path("/run/a"), "x"), [])

    def test_real(self) -> None:
        """The mounts of the machine itself are read."""
        self.assertIn(Path("/proc"), [mount.point for mount in mounts()])


class WarningTests(MountsTestCase):
    """What does not keep what is written."""

    def test_warnings(self) -> None:
        """Memory, layers of containers and networks are named with their type, disks are not."""
        for path, words in [
            ("/run/a.sqlite", ("tmpfs", "reboot", "on a disk")),
            ("/twice/a.sqlite", ("ramfs", "reboot")),
            ("/data/a.sqlite", ("overlay", "container", "mount a directory")),
            ("/srv/a.sqlite", ("nfs4", "network", "etcd")),
        ]:
            (warning,) = keeping_warnings(Path(path), "watermarks.store")
            for word in ("watermarks.store: ", path, *words):
                self.assertIn(word, warning)
        for path in ("/var/lib/a", "/srv/with a blank/a"):
            self.assertEqual(keeping_warnings(Path(path), "watermarks.store"), [])
