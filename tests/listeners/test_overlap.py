"""Which addresses the system takes for one, and which paths."""

from errno import EADDRINUSE
from itertools import product
from pathlib import Path
from socket import AF_INET, AF_INET6, SO_REUSEADDR, SOL_SOCKET, socket

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from tests.support.daemonprocess import reserve_port
from tezio_signer.listeners.overlap import same_address, same_path

V4 = ("", "0.0.0.0", "127.0.0.1", "127.0.0.2", "localhost")  # noqa: S104
V6 = ("::", "::1", "::ffff:127.0.0.1", "::ffff:0.0.0.0")


def listening(interface: str, port: int) -> socket:
    """A socket that listens as Twisted has one listen."""
    opened = socket(AF_INET6 if ":" in interface else AF_INET)
    try:
        opened.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)
        opened.bind((interface, port))
        opened.listen()
    except BaseException:
        opened.close()
        raise
    return opened


class SameTests(SynchronousTestCase):
    """What is one place to listen at."""

    def compare(self, one: str, other: str) -> None:
        """Check what is said of two addresses against what the system does."""
        with reserve_port() as reserved:
            port: int = reserved.getsockname()[1]
            with listening(one, port):
                try:
                    listening(other, port).close()
                except OSError as error:
                    self.assertEqual(error.errno, EADDRINUSE)
                    taken = True
                else:
                    taken = False
        self.assertIs(same_address(one, other), taken, (one, other))

    def test_addresses(self) -> None:
        """Two addresses are one if the system does not listen on the second any more."""
        for one, other in product(V4, V4):
            self.compare(one, other)

    def test_both_kinds(self) -> None:
        """Every address of IPv6 has those of IPv4 too, as far as the system is set so."""
        try:
            listening("::1", 0).close()
        except OSError as error:
            raise SkipTest("no IPv6 here") from error
        for one, other in product((*V4, *V6), V6):
            self.compare(one, other)
            self.compare(other, one)

    def test_zones(self) -> None:
        """An address with a zone is another in each, whether named or numbered."""
        self.assertTrue(same_address("fe80::1%lo", "fe80::1%1"))
        self.assertFalse(same_address("fe80::1%lo", "fe80::1%nowhere"))

    def test_unknown(self) -> None:
        """Of names that nobody knows only equal ones are one."""
        self.assertTrue(same_address("a..b", "a..b"))
        self.assertFalse(same_address("a..b", ""))

    def test_paths(self) -> None:
        """A path is one by whichever links its directory is reached."""
        directory = Path(self.mktemp())
        directory.mkdir()
        (directory / "link").symlink_to(".")
        at = str(directory / "a")
        for same in (f"{directory}/./a", f"{directory.absolute()}/a", f"{directory}/link/link/a"):
            self.assertTrue(same_path(at, same), same)
        (directory / "b").symlink_to("a")
        self.assertFalse(same_path(at, str(directory / "b")))
