"""Which boards are there: looks for them, keeps a device for each, and says what is missing."""

from collections.abc import Callable, Collection, Iterable

from attrs import frozen
from twisted.application.service import Service
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from tezio_signer.errors import Unavailable
from tezio_signer.hsm.boards import Board, BoardSelector, not_plugged_in, unmatched
from tezio_signer.hsm.device import HsmDevice
from tezio_signer.hsm.exchange import Ports
from tezio_signer.hsm.heldkeys import Held, is_held, misplaced
from tezio_signer.hsm.slots import CURVES
from tezio_signer.noop import do_nothing
from tezio_signer.reactors import cancel
from tezio_signer.tezos.keys import PublicKeyHash

FIRST_LOOK, SLOWEST_LOOK = 0.05, 0.5
"""Seconds between two looks for a board that is missing, first and at most."""
CALM_LOOK = 2.0
"""Seconds between two looks while every known board is in use."""


@frozen
class Expected:
    """What the boards are to be and to hold; what is missing is named in the log.

    :ivar keys: which some board should hold.
    :ivar auth_key: which of these belongs into slot 0.
    :ivar selectors: the boards of the configuration.
    """

    keys: tuple[PublicKeyHash, ...] = ()
    auth_key: PublicKeyHash | None = None
    selectors: tuple[BoardSelector, ...] = ()


NOTHING_EXPECTED = Expected()


class Discovery(Service):
    """The boards that are or were plugged in.

    :param changed: called whenever a device became ready or was lost.
    :ivar devices: by their names, which they keep when they are plugged in elsewhere.
    """

    _log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        ports: Ports,
        expected: Expected,
        changed: Callable[[], object],
    ) -> None:
        self.devices: dict[str, HsmDevice] = {}
        self._clock = clock
        self._ports = ports
        self._expected = expected
        self._changed = changed
        self._end_watch: Callable[[], object] = do_nothing
        self._next_look: IDelayedCall | None = None
        self._delay = FIRST_LOOK
        self._absent: tuple[BoardSelector, ...] = ()
        self._missing: tuple[PublicKeyHash, ...] = ()

    def expect(self, expected: Expected) -> None:
        """Expect other keys from now on; what no board holds of them is said at once."""
        self._expected = expected
        if self.running:
            self._name_missing()

    def startService(self) -> None:
        super().startService()
        self._end_watch = self._ports.watch(self._look_soon)
        self._look()

    def stopService(self) -> None:
        super().stopService()
        self._end_watch()
        cancel(self._next_look)
        for device in self.devices.values():
            device.close()

    def _look(self) -> None:
        self._next_look = None
        try:
            self._use_boards()
        except Exception:  # pyserial fails when a board vanishes while it looks at it
            self._log.failure("looking for boards failed")
            self._look_in(SLOWEST_LOOK)
        else:
            self._look_again()

    def _use_boards(self) -> None:
        found = self._ports.boards()
        boards = self._named(found)
        for name, board in boards.items():
            if name not in self.devices:
                self.devices[name] = HsmDevice(
                    self._clock, board, self._ports, self._device_changed
                )
            self.devices[name].plugged_in(board)
        for name in self.devices.keys() - boards.keys():
            self.devices[name].unplugged()
        self._name_absent(found)

    def _named(self, boards: Iterable[Board]) -> dict[str, Board]:
        """The boards by the names of their devices: a serial number, or else a port.

        A board keeps its device when it is plugged in elsewhere. Clones may say one serial
        number: those that are where they were are told from those that moved or came.
        """
        named: dict[str, Board] = {}
        others: list[Board] = []
        names = {(d.board.serial_number, d.board.port): name for name, d in self.devices.items()}
        for board in boards:
            name = names.get((board.serial_number, board.port))
            if name is None:
                others.append(board)
            else:
                named[name] = board
        for board in others:
            moved = [
                name
                for name, device in self.devices.items()
                if board.serial_number is not None
                and device.board.serial_number == board.serial_number
                and name not in named
            ]
            name = board.serial_number or board.port
            new = name if name not in named else f"{name} at {board.port}"
            named[moved[0] if moved else new] = board
        return named

    def _name_absent(self, boards: Collection[Board]) -> None:
        """Say which boards of the configuration are not there, at first and when one is lost."""
        absent = unmatched(self._expected.selectors, boards)
        known, self._absent = self._absent, absent
        for selector in absent:
            if selector not in known:
                self._log.error("{sentence}", sentence=not_plugged_in(selector))

    def _look_again(self) -> None:
        self._name_missing()
        if all(device.ready for device in self.devices.values()):
            self._look_in(CALM_LOOK)
        else:
            self._look_in(self._delay)
            self._delay = min(2 * self._delay, SLOWEST_LOOK)

    def _look_soon(self) -> None:
        self._delay = FIRST_LOOK
        self._look_in(self._delay)

    def _look_in(self, delay: float) -> None:
        if not self.running:
            return
        if self._next_look is None:
            self._next_look = self._clock.callLater(delay, self._look)
        elif self._next_look.getTime() > self._clock.seconds() + delay:
            self._next_look.reset(delay)

    def _device_changed(self) -> None:
        if not all(device.ready for device in self.devices.values()):
            self._look_soon()
        if self.running:
            self._name_missing()
        self._changed()

    def _held(self) -> Held:
        return {str(d.board): d.keys for d in self.devices.values() if d.ready}

    def _name_missing(self) -> None:
        """Say which keys no board holds, when all boards have said theirs."""
        held = self._held()
        missing = tuple(
            key for key in self._expected.keys if not is_held(key, held, self._expected.auth_key)
        )
        if missing != self._missing and all(device.ready for device in self.devices.values()):
            self._missing = missing
            if missing:
                self._log.error(
                    "no connected board holds these keys of the configuration: {keys}; plug in the "
                    "board, or correct policy (signing_keys, auth_key)",
                    keys=", ".join(map(self._missing_key, missing)),
                )

    def _missing_key(self, key: PublicKeyHash) -> str:
        why = misplaced(key, self._held(), self._expected.auth_key)
        return f"{key} ({why})" if why else str(key)

    def nobody_holds(self, key: PublicKeyHash) -> Unavailable:
        """Why a key cannot be used now, as a sentence."""
        silent = [
            device
            for device in self.devices.values()
            if device.present and not device.ready and device.holds(key)
        ]
        if silent:
            asked = "has been asked for its keys, and has not said them yet"
            return Unavailable(
                "; ".join(
                    f"the HSM {d.board}, which holds {key}, {d.trouble or asked}" for d in silent
                )
            )
        why = misplaced(key, self._held(), self._expected.auth_key)
        troubles = [f"HSM {d.board}: {d.trouble}" for d in self.devices.values() if d.trouble]
        absent = [f"the board with the {selector} is not plugged in" for selector in self._absent]
        nobody = f"no connected HSM holds {key}" + (f": {why}" if why else "")
        left_out = [
            f"HSM {device.board}, slot {slot:d}: {trouble}"
            for device in self.devices.values()
            for slot, trouble in device.left_out.items()
            if CURVES[slot] is key.curve
        ]
        return Unavailable("; ".join([nobody, *troubles, *absent, *left_out]))
