"""Serial ports as pyserial describes them: those of boards, and others."""

from serial.tools.list_ports_common import ListPortInfo

MKR_WIFI_1010 = 0x8054
NANO_33_IOT = 0x8057
MKR_IN_BOOT_LOADER = 0x0054
NANO_IN_BOOT_LOADER = 0x0057
ARDUINO = 0x2341


def port(
    device: str, vendor: int | None, product: int | None, serial_number: str | None
) -> ListPortInfo:
    """A serial port as pyserial describes it."""
    info = ListPortInfo(device, skip_link_detection=True)
    info.vid, info.pid, info.serial_number = vendor, product, serial_number
    return info


MKR = port("/dev/ttyACM1", ARDUINO, MKR_WIFI_1010, "A1")
NANO = port("/dev/ttyACM0", ARDUINO, NANO_33_IOT, "B2")
OTHERS = (
    port("/dev/ttyS0", None, None, None),  # of the machine's own board
    port("/dev/ttyUSB0", 0x0403, 0x6001, "FT1"),  # an adapter
    port("/dev/ttyUSB1", 0x1A86, 0x7523, None),  # an adapter without a serial number
    port("/dev/ttyACM2", ARDUINO, 0x0043, "U3"),  # an Arduino Uno
    port("/dev/ttyACM3", 0x239A, MKR_WIFI_1010, "X4"),  # the number of another vendor
    port("/dev/ttyACM4", ARDUINO, MKR_IN_BOOT_LOADER, "A5"),
    port("/dev/ttyACM5", ARDUINO, NANO_IN_BOOT_LOADER, "B6"),
)
