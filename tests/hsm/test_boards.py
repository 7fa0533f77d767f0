"""Which serial ports are taken for boards."""

from collections.abc import Iterable
from pathlib import Path

from serial.tools.list_ports_common import ListPortInfo
from twisted.trial.unittest import SynchronousTestCase

from tests.support.usbports import ARDUINO, MKR, MKR_WIFI_1010, NANO, NANO_33_IOT, OTHERS, port
from tezio_signer.hsm import boards
from tezio_signer.hsm.boards import Board, BoardSelector, find_boards, unmatched


class FindBoardsTests(SynchronousTestCase):
    """Boards that are found, and ports that are left alone."""

    def found(
        self, ports: Iterable[ListPortInfo], *selectors: BoardSelector
    ) -> list[tuple[str, str | None]]:
        """The ports and serial numbers of the boards that are found among some ports."""
        self.patch(boards, "comports", lambda: list(ports))
        return [(board.port, board.serial_number) for board in find_boards(selectors)]

    def test_every_board(self) -> None:
        """Without a choice, every board is found, in the order of the ports."""
        self.assertEqual(
            self.found((MKR, NANO), BoardSelector()),
            [("/dev/ttyACM0", "B2"), ("/dev/ttyACM1", "A1")],
        )

    def test_other_ports(self) -> None:
        """Ports of other things, and boards in their boot loader, are left alone."""
        self.assertEqual(self.found(OTHERS, BoardSelector()), [])

    def test_nothing_plugged_in(self) -> None:
        """Nothing is found where nothing is."""
        selectors = (BoardSelector(), BoardSelector(serial_number="A1"))
        self.assertEqual(self.found((), *selectors), [])

    def test_serial_number(self) -> None:
        """A serial number chooses its board, wherever it is plugged in."""
        self.assertEqual(
            self.found((MKR, NANO, *OTHERS), BoardSelector(serial_number="A1")),
            [("/dev/ttyACM1", "A1")],
        )
        self.assertEqual(self.found((MKR, NANO), BoardSelector(serial_number="C3")), [])

    def test_serial_number_in_boot_loader(self) -> None:
        """A board in its boot loader is left alone, although its serial number is chosen."""
        for serial_number in ("A5", "B6"):
            self.assertEqual(self.found(OTHERS, BoardSelector(serial_number=serial_number)), [])

    def test_board_without_serial_number(self) -> None:
        """A board that says no serial number is found, but not by one."""
        nameless = port("/dev/ttyACM0", ARDUINO, NANO_33_IOT, None)
        self.assertEqual(self.found((nameless,), BoardSelector()), [("/dev/ttyACM0", None)])
        self.assertEqual(self.found((nameless,), BoardSelector(serial_number="A1")), [])

    def test_port(self) -> None:
        """A port of the configuration is taken as it is, without a look at what is plugged in."""

        def unwanted() -> list[ListPortInfo]:
            raise AssertionError("ports were searched")

        self.patch(boards, "comports", unwanted)
        selectors = (BoardSelector(port="/dev/tezio"), BoardSelector(port="/dev/ttyACM7"))
        self.assertEqual(find_boards(selectors), [Board("/dev/tezio"), Board("/dev/ttyACM7")])
        self.assertEqual(find_boards(()), [])

    def test_node(self) -> None:
        """A port that was removed and made again is told from what it was before."""
        path = Path(self.mktemp()).absolute()
        selector = BoardSelector(port=str(path))

        def node() -> tuple[int, int] | None:
            return find_boards((selector,))[0].node

        self.assertIsNone(node())
        path.touch()
        first = node()
        self.assertEqual(node(), first)
        path.rename(path.with_suffix(".old"))  # so that its number is not given again
        path.touch()
        self.assertNotIn(node(), (None, first))

    def test_several_choices(self) -> None:
        """Several choices add up, each board once."""
        self.assertEqual(
            self.found(
                (MKR, NANO, *OTHERS),
                BoardSelector(serial_number="B2"),
                BoardSelector(port="/dev/tezio"),
                BoardSelector(serial_number="A1"),
                BoardSelector(),
            ),
            [("/dev/tezio", None), ("/dev/ttyACM0", "B2"), ("/dev/ttyACM1", "A1")],
        )

    def test_two_names(self) -> None:
        """A board that is chosen by a link and by its number is found once, not twice."""
        link = Path(self.mktemp()).absolute()
        link.symlink_to("/dev/ttyACM1")
        selectors = (BoardSelector(serial_number="A1"), BoardSelector(port=str(link)))
        self.assertEqual(self.found((MKR, NANO), *selectors), [(str(link), None)])

    def test_clones(self) -> None:
        """Boards that say one serial number are all found."""
        clone = port("/dev/ttyACM7", ARDUINO, MKR_WIFI_1010, "A1")
        self.assertEqual(
            self.found((MKR, clone, NANO), BoardSelector(serial_number="A1")),
            [("/dev/ttyACM1", "A1"), ("/dev/ttyACM7", "A1")],
        )

    def test_unmatched(self) -> None:
        """Serial numbers that no board says are told, each once; ports and "every" never are."""
        wrong, right = BoardSelector(serial_number="A2"), BoardSelector(serial_number="A1")
        selectors = (wrong, right, BoardSelector(port="/dev/none"), BoardSelector(), wrong)
        self.assertEqual(unmatched(selectors, [Board("/dev/ttyACM1", "A1")]), (wrong,))
        self.assertEqual(
            [str(selector) for selector in selectors[1:4]],
            ["serial number A1", "port /dev/none", "every board"],
        )

    def test_names(self) -> None:
        """A board is named by its port, and its serial number if it has one."""
        self.assertEqual(str(Board("/dev/ttyACM0", "B2")), "B2 at /dev/ttyACM0")
        self.assertEqual(str(Board("/dev/tezio")), "/dev/tezio")
