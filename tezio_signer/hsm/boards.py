"""Where the Tezio boards are plugged in."""

import os

from attrs import frozen
from serial.tools.list_ports import comports

ARDUINO_VENDOR = 0x2341
# MKR WiFi 1010 and Nano 33 IoT while they run a sketch (Arduino SAMD boards.txt);
# in their boot loader they have other product ids, and are left alone.
BOARD_PRODUCTS = frozenset({0x8054, 0x8057})


@frozen
class Board:
    """A serial port with an HSM behind it.

    :ivar node: changes when the port is made anew, as for a board that was pulled out and
        plugged in again between two looks; None if there is no such port.
    """

    port: str
    serial_number: str | None = None
    node: tuple[int, int] | None = None

    def __str__(self) -> str:
        return f"{self.serial_number} at {self.port}" if self.serial_number else self.port


@frozen
class BoardSelector:
    """Which boards to use: that at a port, that of a serial number, or every one (neither)."""

    port: str | None = None
    serial_number: str | None = None


def find_boards(selectors: tuple[BoardSelector, ...]) -> list[Board]:
    """The boards to open: ports of the configuration as they are, others if plugged in."""
    ports = {selector.port for selector in selectors if selector.port is not None}
    chosen = {port: Board(port, None, _node(port)) for port in ports}
    searched = [selector for selector in selectors if selector.port is None]
    for found in comports() if searched else ():
        is_board = found.vid == ARDUINO_VENDOR and found.pid in BOARD_PRODUCTS
        for selector in searched:
            if is_board and selector.serial_number in (None, found.serial_number):
                chosen[found.device] = Board(found.device, found.serial_number, _node(found.device))
    return sorted(chosen.values(), key=lambda board: board.port)


def _node(port: str) -> tuple[int, int] | None:
    try:
        status = os.stat(port)
    except OSError:
        return None
    return status.st_ino, status.st_ctime_ns
