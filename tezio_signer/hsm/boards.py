"""Where the Tezio boards are plugged in."""

import os
from collections.abc import Collection, Iterable

from attrs import frozen
from serial.tools.list_ports import comports
from serial.tools.list_ports_common import ListPortInfo

ARDUINO_VENDOR = 0x2341
# MKR WiFi 1010 and Nano 33 IoT while they run a sketch (Arduino SAMD boards.txt);
# in their boot loader they have other product ids, and are left alone.
BOARD_PRODUCTS = frozenset({0x8054, 0x8057})
_BOOT_LOADERS = frozenset({0x0054, 0x0057})


@frozen
class Board:
    """A serial port with an HSM behind it.

    :ivar node: changes when the port is made anew, as for a board that was pulled out and
        plugged in again between two looks; None if there is no such port.
    """

    port: str
    serial_number: str | None = None
    node: tuple[int, int] | None = None

    @property
    def name(self) -> str:
        """What it says it is, whichever port it is at; the port if it says nothing."""
        return self.serial_number or self.port

    def __str__(self) -> str:
        return f"{self.serial_number} at {self.port}" if self.serial_number else self.port


@frozen
class BoardSelector:
    """Which boards to use: that at a port, that of a serial number, or every one (neither)."""

    port: str | None = None
    serial_number: str | None = None

    def __str__(self) -> str:
        if self.port is not None:
            return f"port {self.port}"
        if self.serial_number is not None:
            return f"serial number {self.serial_number}"
        return "every board"


def find_boards(selectors: tuple[BoardSelector, ...]) -> list[Board]:
    """The boards to open, each once: ports of the configuration as they are, others if plugged in.

    Two boards may say one serial number, and are then both found.
    """
    ports = [selector.port for selector in selectors if selector.port is not None]
    # A port may have several names: /dev/serial/by-id/… is a link to /dev/ttyACM….
    chosen = {os.path.realpath(port): Board(port, None, _node(port)) for port in ports}
    searched = [selector for selector in selectors if selector.port is None]
    for found in comports() if searched else ():
        is_board = found.vid == ARDUINO_VENDOR and found.pid in BOARD_PRODUCTS
        for selector in searched:
            if is_board and selector.serial_number in (None, found.serial_number):
                board = Board(found.device, found.serial_number, _node(found.device))
                chosen.setdefault(os.path.realpath(found.device), board)
    return sorted(chosen.values(), key=lambda board: board.port)


def unmatched(
    selectors: Iterable[BoardSelector], boards: Collection[Board]
) -> tuple[BoardSelector, ...]:
    """The serial numbers of the configuration that no board says.

    A port that is not there is tried all the same, and so named when it is.
    """
    said = {board.serial_number for board in boards}
    return tuple(
        selector
        for selector in dict.fromkeys(selectors)
        if selector.serial_number is not None and selector.serial_number not in said
    )


def plugged_in() -> str:
    """The USB serial ports of this machine in words, as `A1 at /dev/ttyACM0`; "" for none."""
    ports = sorted((port for port in comports() if port.vid is not None), key=_device)
    return ", ".join(map(_described, ports))


def none_plugged_in() -> str:
    """A sentence for when there is no board at all."""
    others = plugged_in()
    if not others:
        return "no Tezio board is plugged in, and no other USB serial port"
    return (
        f"no Tezio board is plugged in (other ports: {others}); if one of them is a Tezio board, "
        "name its port in hsms"
    )


def not_plugged_in(selector: BoardSelector) -> str:
    """A sentence about a board of the configuration that is not there."""
    there = plugged_in()
    return f"no Tezio board with the {selector} of the configuration (hsms) is plugged in" + (
        f"; plugged in: {there}" if there else ", and no other USB serial port"
    )


def _device(port: ListPortInfo) -> str:
    return str(port.device)


def _described(port: ListPortInfo) -> str:
    name = f"{port.serial_number or 'a board without serial number'} at {port.device}"
    if port.vid == ARDUINO_VENDOR and port.pid in BOARD_PRODUCTS:
        return name
    if port.vid == ARDUINO_VENDOR and port.pid in _BOOT_LOADERS:
        return f"{name} (in its boot loader: press its reset button once)"
    return f"{port.device} (no Tezio board: {port.vid:04x}:{port.pid or 0:04x})"


def _node(port: str) -> tuple[int, int] | None:
    try:
        status = os.stat(port)
    except OSError:
        return None
    return status.st_ino, status.st_ctime_ns
